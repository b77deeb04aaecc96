/**
 * The making of an installation: three tokens with three PINs, every key in them, certificates, configuration and the
 * first published trust root. It tells each step to `onStep`. Started again after an interruption it starts over: until
 * the last step nothing of it has served anybody.
 */

import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { recordUses, spawnAgent, UseJournal } from '#hsm'
import { issueIntermediateCertificate, issueRootCertificate, issueTimestampCertificate } from '#hsm/ceremony'
import { createSoftTokens } from '#hsm/softhsm'
import { initialInventory, initTrustRoot, TIMESTAMP_PATH, type TufAgent } from '#trust-root'
import { encodePem } from '#x509'
import { syncPath } from './backup-manifest.ts'
import { makeCustodians, signAsCustodians } from './custodians.ts'
import { syncTree } from './durable-tree.ts'
import {
  generateKeys,
  KEY_COUNT,
  keyOf,
  type Keys,
  tokenLabels,
  withAdmin,
  writeOnlineAgent,
  writeRootAgent,
  writeStandbyAgent,
} from './installation-agents.ts'
import {
  chanceryYaml,
  type InstallationChoices,
  issuersYaml,
  origins,
  standbyChoices,
  standbyNames,
  urls,
} from './layout.ts'
import { newTreeId } from './log-names.ts'
import { USES } from './reconcile.ts'
import { chainOf, standbyItems, type StandbyKey, type StandbyMember, writeStandbyPlan } from './standby-plan.ts'

export class InstallationError extends Error {
  readonly code: 'exists' | 'not_empty' | 'bad_choice' | 'port_taken'
  constructor(code: InstallationError['code'], message: string) {
    super(message)
    this.name = 'InstallationError'
    this.code = code
  }
}

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
  const labels = Object.entries(tokenLabels)
  onStep(`${labels.length} SoftHSM tokens: ${labels.map(([name]) => name).join(', ')}`)
  const tokens = await createSoftTokens({ folder: join(dataDir, 'hsm'), labels: labels.map(([, label]) => label) })

  onStep(`${KEY_COUNT} keys, generated in the tokens`)
  const keys = await generateKeys(dataDir, tokens, choices.keyKinds)
  writeRootAgent(dataDir, tokens, keys)

  onStep('certificates: root CA, and issuing CA and timestamp authority with their standbys')
  await certify(dataDir, choices, keys)
  const standby = standbyChoices(choices, newTreeId())
  writeOnlineAgent(dataDir, tokens, keys, choices)
  writeStandbyAgent(dataDir, tokens, keys, origins(standby))
  const members = standbyMembers(standby, keys)
  writeStandbyPlan(dataDir, { schemaVersion: 1, agent: 'agent/standby.yaml', members, inService: [] })

  onStep('trust root: TUF repository, trusted root, signing configurations')
  await publishTrustRoot(dataDir, { choices, keys, members })

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

/** A certificate for each authority, active and standby, all of the one root: `ca/` and `timestamp/`. */
async function certify(dataDir: string, { domain }: InstallationChoices, keys: Keys): Promise<void> {
  await withAdmin(dataDir, 'root', async (agent) => {
    const common = { agent, key: 'root-ca', now: new Date() }
    const name = (commonName: string) => ({ commonName, organization: domain })
    const root = await issueRootCertificate({ ...common, name: name(`${domain} root`) })
    writePem(join(dataDir, 'ca/root.pem'), [root])
    const below = { ...common, issuerDer: root }
    for (const [key, number] of [
      ['issuing-ca', ''],
      [standbyNames['issuing-ca'], ' 2'],
    ] as const) {
      const subject = keyOf(keys, key)
      const der = await issueIntermediateCertificate({ ...below, name: name(`${domain} issuing CA${number}`), subject })
      writePem(join(dataDir, `ca/${key}.pem`), [der])
      writePem(join(dataDir, chainFile('ca', key)), [der, root])
    }
    for (const [key, number] of [
      ['tsa', ''],
      [standbyNames.tsa, ' 2'],
    ] as const) {
      const subject = keyOf(keys, key)
      const authority = name(`${domain} timestamp authority${number}`)
      const der = await issueTimestampCertificate({ ...below, name: authority, subject })
      if (number !== '') writePem(join(dataDir, `timestamp/${key}.pem`), [der])
      writePem(join(dataDir, chainFile('timestamp', key)), [der, root])
    }
  })
}

/** Of the first authority of each kind `chain.pem`, as it always was. */
function chainFile(folder: 'ca' | 'timestamp', key: string): string {
  const isFirst = key === 'issuing-ca' || key === 'tsa'
  return `${folder}/${isFirst ? 'chain' : `${key}-chain`}.pem`
}

/** What stands by, as `choices` of its own say it. */
function standbyMembers(choices: InstallationChoices, keys: Keys): StandbyMember[] {
  const origin = origins(choices)
  const url = urls(choices)
  const key = (name: string): StandbyKey => {
    const { uri, token, spkiDer, kind } = keyOf(keys, name)
    return { uri, token, spki: Buffer.from(spkiDer).toString('base64'), kind }
  }
  const authority = (name: string, folder: 'ca' | 'timestamp') => ({
    name,
    key: key(name),
    certificate: `${folder}/${name}.pem`,
    chain: chainFile(folder, name),
  })
  const log = (name: string, port: number) => ({
    name,
    listen: `${choices.listenHost}:${port}`,
    database: `logs/${name}.db`,
    key: key(name),
    witnessKey: key(`${name}-witness`),
  })
  const { ports, treeId } = choices
  const names = standbyNames
  return [
    { kind: 'issuing-ca', ...authority(names['issuing-ca'], 'ca'), url: url.ca },
    { kind: 'ct-log', ...log(names['ct-log'], ports.ct), origin: origin.ct, url: url.ct },
    { kind: 'rekor-v1', ...log(names['rekor-v1'], ports.rekorV1), origin: origin.rekorV1, url: url.rekorV1, treeId },
    { kind: 'rekor-v2', ...log(names['rekor-v2'], ports.rekorV2), origin: origin.rekorV2, url: url.rekorV2 },
    { kind: 'tsa', ...authority(names.tsa, 'timestamp'), url: `${url.timestamp}${TIMESTAMP_PATH}` },
  ]
}

async function publishTrustRoot(
  dataDir: string,
  {
    choices,
    keys,
    members,
  }: { readonly choices: InstallationChoices; readonly keys: Keys; readonly members: readonly StandbyMember[] },
): Promise<void> {
  const url = urls(choices)
  const origin = origins(choices)
  const spkiDer = (name: string) => keyOf(keys, name).spkiDer
  const first = initialInventory({
    operator: choices.domain,
    defaultRekor: 1,
    now: new Date(),
    certificateAuthority: { url: url.ca, chain: chainOf(dataDir, { chain: chainFile('ca', 'issuing-ca') }) },
    ctLog: { url: url.ct, origin: origin.ct, spkiDer: spkiDer('ct') },
    rekorV1: { url: url.rekorV1, origin: origin.rekorV1, spkiDer: spkiDer('rekor-v1') },
    rekorV2: { url: url.rekorV2, origin: origin.rekorV2, spkiDer: spkiDer('rekor-v2') },
    timestampAuthority: { url: url.timestamp, chain: chainOf(dataDir, { chain: chainFile('timestamp', 'tsa') }) },
    oidcIssuer: { url: url.oidc },
  })
  const start = first.items[0]?.window.start ?? new Date()
  const inventory = { ...first, items: [...first.items, ...standbyItems(dataDir, members, start)] }
  const online = await spawnAgent({ configPath: join(dataDir, 'agent/online.yaml') })
  const journal = new UseJournal(join(dataDir, USES))
  try {
    if (choices.tufQuorum !== undefined) {
      const roles = await makeCustodians(dataDir, { quorum: choices.tufQuorum, kind: choices.keyKinds?.['tuf-root'] })
      const options = { folder: join(dataDir, 'trust-root'), agent: recordUses(online.agent, journal) }
      const trustRoot = await initTrustRoot(options, inventory, roles)
      await signAsCustodians(dataDir, trustRoot, roles)
      return await trustRoot.close()
    }
    const withRootAgent = async <T>(use: (agent: TufAgent) => Promise<T>) =>
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

function writePem(file: string, certificates: readonly Uint8Array[]): void {
  writeFileSync(file, certificates.map((der) => encodePem('CERTIFICATE', der)).join(''), { mode: 0o644 })
}
