/**
 * The making of an installation: two tokens with two PINs, every key in them, certificates, configuration and the first
 * published trust root. It tells each step to `onStep`. Started again after an interruption it starts over: until the
 * last step nothing of it has served anybody.
 */

import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { stringify } from 'yaml'
import {
  type AdminAgent,
  type GeneratedKey,
  KINDS_OF,
  type KeyKind,
  type KeyPurpose,
  recordUses,
  type SigningAgent,
  spawnAgent,
  UseJournal,
} from '#hsm'
import { issueIntermediateCertificate, issueRootCertificate, issueTimestampCertificate } from '#hsm/ceremony'
import { createSoftTokens, type SoftTokens } from '#hsm/softhsm'
import { witnessOrigin } from '#tlog'
import { initialInventory, initTrustRoot } from '#trust-root'
import { encodePem } from '#x509'
import { syncPath } from './backup-manifest.ts'
import { syncTree } from './durable-tree.ts'
import { USES } from './reconcile.ts'
import { chanceryYaml, type InstallationChoices, issuersYaml, origins, urls } from './layout.ts'

export class InstallationError extends Error {
  readonly code: 'exists' | 'not_empty' | 'bad_choice' | 'port_taken'
  constructor(code: InstallationError['code'], message: string) {
    super(message)
    this.name = 'InstallationError'
    this.code = code
  }
}

interface KeyPlan {
  readonly name: string
  readonly token: 'root' | 'online'
  readonly kind: KeyKind
}

/** P-256 for every log and the TSA (no client takes all other kinds), P-384 for the root that must last. */
const keyPlans: readonly KeyPlan[] = [
  { name: 'root-ca', token: 'root', kind: 'P-384' },
  { name: 'tuf-root', token: 'root', kind: 'P-256' },
  { name: 'issuing-ca', token: 'online', kind: 'P-256' },
  { name: 'ct', token: 'online', kind: 'P-256' },
  { name: 'rekor-v1', token: 'online', kind: 'P-256' },
  { name: 'rekor-v2', token: 'online', kind: 'P-256' },
  // For the second line of checkpoints: witnesses take little else.
  { name: 'ct-witness', token: 'online', kind: 'ed25519' },
  { name: 'rekor-v1-witness', token: 'online', kind: 'ed25519' },
  { name: 'rekor-v2-witness', token: 'online', kind: 'ed25519' },
  { name: 'tsa', token: 'online', kind: 'P-256' },
  { name: 'tuf-online', token: 'online', kind: 'P-256' },
  { name: 'account', token: 'online', kind: 'P-256' },
]

/** Keys whose kind can be chosen when an installation is made; clients take one kind for the others. */
export const CHOSEN_KINDS: Readonly<Record<string, readonly KeyKind[]>> = {
  'root-ca': KINDS_OF.caCertificate,
  'issuing-ca': KINDS_OF.certificate,
  'tuf-root': KINDS_OF.tuf,
  'tuf-online': KINDS_OF.tuf,
}

const tokenLabels = { root: 'chancery-root', online: 'chancery-online' } as const

/** Written first and removed last: a folder that has it was never finished. */
const unfinishedMark = '.init-unfinished'

/** Makes an installation in `dataDir`, a folder that is absent, empty, or left unfinished by an earlier call. */
export async function createInstallation(
  dataDir: string,
  choices: InstallationChoices,
  onStep: (step: string) => void,
): Promise<void> {
  prepareFolder(dataDir)
  // Before anything else is there: a folder with half of an installation and without the mark could be taken for a whole.
  await syncPath(join(dataDir, unfinishedMark))
  await syncPath(dataDir)
  await syncPath(dirname(resolve(dataDir)))
  onStep('two SoftHSM tokens: root and online')
  const tokens = await createSoftTokens({
    folder: join(dataDir, 'hsm'),
    labels: [tokenLabels.root, tokenLabels.online],
  })

  onStep(`${keyPlans.length} keys, generated in the tokens`)
  const keys = await generateKeys(dataDir, tokens, choices.keyKinds)
  writeAgentConfig(dataDir, 'root', agentConfig(tokens, 'root', rootKeys(keys)))

  onStep('certificates: root CA, issuing CA, timestamp authority')
  const chains = await certify(dataDir, choices, keys)
  writePem(join(dataDir, 'ca/root.pem'), [chains.root])
  writePem(join(dataDir, 'ca/issuing-ca.pem'), [chains.issuing])
  writePem(join(dataDir, 'ca/chain.pem'), [chains.issuing, chains.root])
  writePem(join(dataDir, 'timestamp/chain.pem'), [chains.timestamp, chains.root])
  writeAgentConfig(dataDir, 'online', agentConfig(tokens, 'online', onlineKeys(keys, choices)))

  onStep('trust root: TUF repository, trusted root, signing configurations')
  await publishTrustRoot(dataDir, choices, keys, chains)

  onStep('configuration')
  writeFileSync(join(dataDir, 'ca/issuers.yaml'), issuersYaml(choices), { mode: 0o600 })
  writeFileSync(join(dataDir, 'chancery.yaml'), chanceryYaml(choices), { mode: 0o600 })
  // Keys that clients are about to trust must not be lost with the power.
  await syncTree(dataDir)
  rmSync(join(dataDir, unfinishedMark))
  await syncPath(dataDir)
}

/** Whether `dataDir` holds a finished installation. */
export function isInstallation(dataDir: string): boolean {
  return existsSync(join(dataDir, 'chancery.yaml')) && !existsSync(join(dataDir, unfinishedMark))
}

/** A random positive int64 for a Rekor v1 tree, decimal; its top byte is kept clear so that no client's parser overflows. */
export function newTreeId(): string {
  return (BigInt(`0x${randomBytes(7).toString('hex')}`) + 2n ** 56n).toString()
}

/** sun_path of Linux holds 108 bytes with its NUL; the server's own socket is as long as the agent's. */
const longestSocketPath = 107

function prepareFolder(dataDir: string): void {
  const socket = join(resolve(dataDir), 'run/agent.sock')
  if (Buffer.byteLength(socket) > longestSocketPath) {
    throw new InstallationError(
      'bad_choice',
      `${socket} is over ${longestSocketPath} bytes, too long for a unix socket; choose a shorter folder with --data`,
    )
  }
  if (existsSync(dataDir) && !statSync(dataDir).isDirectory()) {
    throw new InstallationError('not_empty', `${dataDir} is a file; choose a folder with --data`)
  }
  if (existsSync(join(dataDir, unfinishedMark))) {
    const names = readdirSync(dataDir).filter((name) => name !== unfinishedMark)
    for (const name of names) rmSync(join(dataDir, name), { recursive: true })
  } else if (isInstallation(dataDir)) {
    throw new InstallationError(
      'exists',
      `${dataDir} holds an installation already; serve it with: chancery serve --data ${dataDir}`,
    )
  } else if (existsSync(dataDir) && readdirSync(dataDir).length > 0) {
    throw new InstallationError(
      'not_empty',
      `${dataDir} is not empty and not an installation; choose another folder with --data`,
    )
  }
  mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  chmodSync(dataDir, 0o700)
  writeFileSync(join(dataDir, unfinishedMark), '')
  for (const folder of ['agent', 'ca', 'logs', 'timestamp', 'trust-root', 'run'])
    mkdirSync(join(dataDir, folder), { mode: 0o700 })
}

type Keys = ReadonlyMap<string, GeneratedKey>

async function generateKeys(
  dataDir: string,
  tokens: SoftTokens,
  kinds: InstallationChoices['keyKinds'] = {},
): Promise<Keys> {
  const both = {
    ...agentConfig(tokens, 'root', {}),
    state: 'ceremony',
    tokens: { ...tokenConfig(tokens, 'root'), ...tokenConfig(tokens, 'online') },
  }
  writeAgentConfig(dataDir, 'ceremony', { ...both, adminWhenSpawned: true })
  const keys = await withAdmin(dataDir, 'ceremony', async (admin) => {
    const made = new Map<string, GeneratedKey>()
    for (const { name, token, kind } of keyPlans) {
      made.set(name, await admin.generateKey({ token, label: name, kind: kinds[name] ?? kind }))
    }
    return made
  })
  // The ceremony's agent opened both tokens; no later one does.
  rmSync(join(dataDir, 'agent/ceremony.yaml'))
  rmSync(join(dataDir, 'agent/ceremony'), { recursive: true, force: true })
  return keys
}

interface Certificates {
  readonly root: Uint8Array
  readonly issuing: Uint8Array
  readonly timestamp: Uint8Array
}

async function certify(dataDir: string, { domain }: InstallationChoices, keys: Keys): Promise<Certificates> {
  return await withAdmin(dataDir, 'root', async (agent) => {
    const common = { agent, key: 'root-ca', now: new Date() }
    const name = (commonName: string) => ({ commonName, organization: domain })
    const root = await issueRootCertificate({ ...common, name: name(`${domain} root`) })
    const below = { ...common, issuerDer: root }
    const issuing = await issueIntermediateCertificate({
      ...below,
      name: name(`${domain} issuing CA`),
      subject: keyOf(keys, 'issuing-ca'),
    })
    const timestamp = await issueTimestampCertificate({
      ...below,
      name: name(`${domain} timestamp authority`),
      subject: keyOf(keys, 'tsa'),
    })
    return { root, issuing, timestamp }
  })
}

async function publishTrustRoot(
  dataDir: string,
  choices: InstallationChoices,
  keys: Keys,
  chains: Certificates,
): Promise<void> {
  const url = urls(choices)
  const origin = origins(choices)
  const inventory = initialInventory({
    operator: choices.domain,
    defaultRekor: 1,
    now: new Date(),
    certificateAuthority: { url: url.ca, chain: [chains.issuing, chains.root] },
    ctLog: { url: url.ct, origin: origin.ct, spkiDer: keyOf(keys, 'ct').spkiDer },
    rekorV1: { url: url.rekorV1, origin: origin.rekorV1, spkiDer: keyOf(keys, 'rekor-v1').spkiDer },
    rekorV2: { url: url.rekorV2, origin: origin.rekorV2, spkiDer: keyOf(keys, 'rekor-v2').spkiDer },
    timestampAuthority: { url: url.timestamp, chain: [chains.timestamp, chains.root] },
    oidcIssuer: { url: url.oidc },
  })
  const online = await spawnAgent({ configPath: join(dataDir, 'agent/online.yaml') })
  const journal = new UseJournal(join(dataDir, USES))
  try {
    const withRootAgent = async <T>(use: (agent: SigningAgent) => Promise<T>) =>
      await withAdmin(dataDir, 'root', async (root) => await use(recordUses(root, journal)))
    const trustRoot = await initTrustRoot(
      { folder: join(dataDir, 'trust-root'), agent: recordUses(online.agent, journal), withRootAgent },
      inventory,
    )
    await trustRoot.close()
  } finally {
    journal.close()
    await online.close()
  }
}

async function withAdmin<T>(dataDir: string, name: string, use: (admin: AdminAgent) => Promise<T>): Promise<T> {
  const spawned = await spawnAgent({ configPath: join(dataDir, `agent/${name}.yaml`), admin: true })
  try {
    if (spawned.admin === undefined) throw new TypeError('the agent gave no admin channel')
    return await use(spawned.admin)
  } finally {
    await spawned.close()
  }
}

interface AgentKey {
  readonly uri: string
  readonly token: string
  readonly spki: string
  readonly kind: KeyKind
  readonly purposes: readonly KeyPurpose[]
  readonly [option: string]: unknown
}

/** Paths in an agent's configuration are relative to its folder, `agent/`. */
function agentConfig(tokens: SoftTokens, name: 'root' | 'online', keys: Readonly<Record<string, AgentKey>>) {
  return {
    state: name,
    modulePath: tokens.modulePath,
    tokens: tokenConfig(tokens, name),
    keys,
    adminWhenSpawned: name === 'root',
    // The server's agent is administered beside it; the root's lives for the moment of a ceremony.
    ...(name === 'online' ? { sockets: { admin: '../run/agent.sock' } } : {}),
  }
}

function tokenConfig(tokens: SoftTokens, name: 'root' | 'online') {
  const token = tokens.tokens.find(({ label }) => label === tokenLabels[name])
  if (token === undefined) throw new TypeError(`no token ${name} was made`)
  return { [name]: { uri: token.uri, pinFile: token.pinFile, softhsmConf: tokens.confPath } }
}

function rootKeys(keys: Keys) {
  return {
    'root-ca': agentKey(keys, 'root-ca', ['caCertificate']),
    'tuf-root': agentKey(keys, 'tuf-root', ['tuf'], { tufRoles: ['root', 'targets'] }),
  }
}

function onlineKeys(keys: Keys, choices: InstallationChoices) {
  const origin = origins(choices)
  return {
    'issuing-ca': agentKey(keys, 'issuing-ca', ['certificate'], {
      issuerCertificate: '../ca/issuing-ca.pem',
      ctKey: 'ct',
      maxValiditySeconds: 600,
    }),
    ct: agentKey(keys, 'ct', ['sct', 'treeHead'], { origin: origin.ct, style: 'ct', witnessKey: 'ct-witness' }),
    'rekor-v1': agentKey(keys, 'rekor-v1', ['set', 'treeHead'], {
      origin: origin.rekorV1,
      style: 'rekor-v1',
      witnessKey: 'rekor-v1-witness',
    }),
    'rekor-v2': agentKey(keys, 'rekor-v2', ['treeHead'], {
      origin: origin.rekorV2,
      style: 'tlog',
      witnessKey: 'rekor-v2-witness',
    }),
    'ct-witness': witnessKey(keys, 'ct-witness', origin.ct),
    'rekor-v1-witness': witnessKey(keys, 'rekor-v1-witness', origin.rekorV1),
    'rekor-v2-witness': witnessKey(keys, 'rekor-v2-witness', origin.rekorV2),
    tsa: agentKey(keys, 'tsa', ['timestamp']),
    'tuf-online': agentKey(keys, 'tuf-online', ['tuf'], { tufRoles: ['snapshot', 'timestamp'] }),
    account: agentKey(keys, 'account', ['accountHead'], { origin: `account.${choices.domain}` }),
  }
}

function agentKey(
  keys: Keys,
  name: string,
  purposes: readonly KeyPurpose[],
  options: Readonly<Record<string, unknown>> = {},
): AgentKey {
  const { uri, token, spkiDer, kind } = keyOf(keys, name)
  return { uri, token, spki: Buffer.from(spkiDer).toString('base64'), kind, purposes, ...options }
}

function witnessKey(keys: Keys, name: string, origin: string): AgentKey {
  return agentKey(keys, name, ['witnessHead'], { origin: witnessOrigin(origin) })
}

function keyOf(keys: Keys, name: string): GeneratedKey {
  const key = keys.get(name)
  if (key === undefined) throw new TypeError(`key ${name} was not generated`)
  return key
}

function writeAgentConfig(dataDir: string, name: string, config: unknown): void {
  writeFileSync(join(dataDir, `agent/${name}.yaml`), stringify(config, { lineWidth: 120 }), { mode: 0o600 })
}

function writePem(file: string, certificates: readonly Uint8Array[]): void {
  writeFileSync(file, certificates.map((der) => encodePem('CERTIFICATE', der)).join(''), { mode: 0o644 })
}
