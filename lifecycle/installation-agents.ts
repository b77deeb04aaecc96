/** The keys of a new installation, and the agents that hold them: one a token, each with a configuration of its own. */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { type AdminAgent, type GeneratedKey, KINDS_OF, type KeyKind, type KeyPurpose, spawnAgent } from '#hsm'
import type { SoftTokens } from '#hsm/softhsm'
import { witnessOrigin } from '#tlog'
import { type InstallationChoices, origins, type StandbyNames, standbyNames } from './layout.ts'

/** Each has a PIN and an agent of its own. The serving agent opens `online`, and no other. */
export const tokenLabels = {
  root: 'chancery-root',
  online: 'chancery-online',
  standby: 'chancery-standby',
} as const

export type TokenName = keyof typeof tokenLabels

interface KeyPlan {
  readonly name: string
  readonly token: TokenName
  readonly kind: KeyKind
  /** The key whose chosen kind it takes over. */
  readonly like?: string
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
  { name: standbyNames['issuing-ca'], token: 'standby', kind: 'P-256', like: 'issuing-ca' },
  { name: standbyNames['ct-log'], token: 'standby', kind: 'P-256' },
  { name: standbyNames['rekor-v1'], token: 'standby', kind: 'P-256' },
  { name: standbyNames['rekor-v2'], token: 'standby', kind: 'P-256' },
  { name: `${standbyNames['ct-log']}-witness`, token: 'standby', kind: 'ed25519' },
  { name: `${standbyNames['rekor-v1']}-witness`, token: 'standby', kind: 'ed25519' },
  { name: `${standbyNames['rekor-v2']}-witness`, token: 'standby', kind: 'ed25519' },
  { name: standbyNames.tsa, token: 'standby', kind: 'P-256' },
]

/** How many keys a new installation gets. */
export const KEY_COUNT = keyPlans.length

/** Keys whose kind can be chosen when an installation is made; clients take one kind for the others. */
export const CHOSEN_KINDS: Readonly<Record<string, readonly KeyKind[]>> = {
  'root-ca': KINDS_OF.caCertificate,
  'issuing-ca': KINDS_OF.certificate,
  'tuf-root': KINDS_OF.tuf,
  'tuf-online': KINDS_OF.tuf,
}

/** By the keys' names. */
export type Keys = ReadonlyMap<string, GeneratedKey>

/** Makes every key on its token, through an agent that opens them all; no later one does. */
export async function generateKeys(
  dataDir: string,
  tokens: SoftTokens,
  kinds: InstallationChoices['keyKinds'] = {},
): Promise<Keys> {
  const names = Object.keys(tokenLabels) as TokenName[]
  const all = {
    ...agentConfig(tokens, 'root', {}),
    state: 'ceremony',
    tokens: Object.assign({}, ...names.map((name) => tokenConfig(tokens, name))) as object,
  }
  writeAgentConfig(dataDir, 'ceremony', { ...all, adminWhenSpawned: true })
  const keys = await withAdmin(dataDir, 'ceremony', async (admin) => {
    const made = new Map<string, GeneratedKey>()
    for (const { name, token, kind, like } of keyPlans) {
      made.set(name, await admin.generateKey({ token, label: name, kind: kinds[like ?? name] ?? kind }))
    }
    return made
  })
  rmSync(join(dataDir, 'agent/ceremony.yaml'))
  rmSync(join(dataDir, 'agent/ceremony'), { recursive: true, force: true })
  return keys
}

/** Runs `use` with an agent of `dataDir` that lives until it has settled. */
export async function withAdmin<T>(dataDir: string, name: string, use: (admin: AdminAgent) => Promise<T>): Promise<T> {
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

/** `agent/root.yaml`, which needs no certificate; certificates are made with it. */
export function writeRootAgent(dataDir: string, tokens: SoftTokens, keys: Keys): void {
  const rootKeys = {
    'root-ca': agentKey(keys, 'root-ca', ['caCertificate']),
    'tuf-root': agentKey(keys, 'tuf-root', ['tuf'], { tufRoles: ['root', 'targets'] }),
  }
  writeAgentConfig(dataDir, 'root', agentConfig(tokens, 'root', rootKeys))
}

/** `agent/online.yaml`, with the certificate of the issuing CA beside it. */
export function writeOnlineAgent(dataDir: string, tokens: SoftTokens, keys: Keys, choices: InstallationChoices): void {
  const names = {
    'issuing-ca': 'issuing-ca',
    'ct-log': 'ct',
    'rekor-v1': 'rekor-v1',
    'rekor-v2': 'rekor-v2',
    tsa: 'tsa',
  }
  const onlineKeys = {
    ...serviceKeys(keys, names, origins(choices), 'ct'),
    'tuf-online': agentKey(keys, 'tuf-online', ['tuf'], { tufRoles: ['snapshot', 'timestamp'] }),
    account: agentKey(keys, 'account', ['accountHead'], { origin: `account.${choices.domain}` }),
  }
  writeAgentConfig(dataDir, 'online', agentConfig(tokens, 'online', onlineKeys))
}

/** `agent/standby.yaml`: the same services' keys, on a token of their own. */
export function writeStandbyAgent(
  dataDir: string,
  tokens: SoftTokens,
  keys: Keys,
  origin: ReturnType<typeof origins>,
): void {
  // Of its own file only the log of today can be named by its key.
  const ctKey = Buffer.from(keyOf(keys, 'ct').spkiDer).toString('base64')
  const standbyKeys = serviceKeys(keys, standbyNames, origin, ctKey)
  writeAgentConfig(dataDir, 'standby', agentConfig(tokens, 'standby', standbyKeys))
}

function serviceKeys(keys: Keys, names: StandbyNames, origin: ReturnType<typeof origins>, ctKey: string) {
  const logKey = (name: string, purposes: readonly KeyPurpose[], options: { origin: string; style: string }) => ({
    [name]: agentKey(keys, name, purposes, { ...options, witnessKey: `${name}-witness` }),
    [`${name}-witness`]: agentKey(keys, `${name}-witness`, ['witnessHead'], { origin: witnessOrigin(options.origin) }),
  })
  return {
    [names['issuing-ca']]: agentKey(keys, names['issuing-ca'], ['certificate'], {
      issuerCertificate: `../ca/${names['issuing-ca']}.pem`,
      ctKey,
      maxValiditySeconds: 600,
    }),
    ...logKey(names['ct-log'], ['sct', 'treeHead'], { origin: origin.ct, style: 'ct' }),
    ...logKey(names['rekor-v1'], ['set', 'treeHead'], { origin: origin.rekorV1, style: 'rekor-v1' }),
    ...logKey(names['rekor-v2'], ['treeHead'], { origin: origin.rekorV2, style: 'tlog' }),
    [names.tsa]: agentKey(keys, names.tsa, ['timestamp']),
  }
}

/** Paths in an agent's configuration are relative to its folder, `agent/`. */
function agentConfig(tokens: SoftTokens, name: TokenName, keys: Readonly<Record<string, AgentKey>>) {
  return {
    state: name,
    modulePath: tokens.modulePath,
    tokens: tokenConfig(tokens, name),
    keys,
    adminWhenSpawned: name !== 'online',
    // The server's agent is administered beside it; the others live for the moment of a ceremony.
    ...(name === 'online' ? { sockets: { admin: '../run/agent.sock' } } : {}),
  }
}

function tokenConfig(tokens: SoftTokens, name: TokenName) {
  const token = tokens.tokens.find(({ label }) => label === tokenLabels[name])
  if (token === undefined) throw new TypeError(`no token ${name} was made`)
  return { [name]: { uri: token.uri, pinFile: token.pinFile, softhsmConf: tokens.confPath } }
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

/** Throws for a name that no key was made for. */
export function keyOf(keys: Keys, name: string): GeneratedKey {
  const key = keys.get(name)
  if (key === undefined) throw new TypeError(`key ${name} was not generated`)
  return key
}

function writeAgentConfig(dataDir: string, name: string, config: unknown): void {
  writeFileSync(join(dataDir, `agent/${name}.yaml`), stringify(config, { lineWidth: 120 }), { mode: 0o600 })
}
