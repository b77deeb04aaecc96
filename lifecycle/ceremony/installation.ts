/**
 * An installation of what a ceremony made: production begins like this. The keys are on their tokens and in their agents'
 * files already; what is added is the layout that `chancery serve` wants, and a first trust root. Nobody here has the keys
 * of TUF root and targets: their payload is written, signed where they are (`chancery trust sign`), and brought back.
 */
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { recordUses, spawnAgent, UseJournal } from '#hsm'
import {
  type Inventory,
  initialInventory,
  initTrustRoot,
  openTrustRoot,
  parseRoles,
  type PendingSummary,
  readInventory,
  TIMESTAMP_PATH,
  type TrustRoot,
  TrustRootError,
  writeInventory,
} from '#trust-root'
import { syncTree } from '../durable-tree.ts'
import { replaceDurably, syncFolder } from '../durable-file.ts'
import { InstallationError, isInstallation } from '../installation.ts'
import {
  chanceryYaml,
  type InstallationChoices,
  issuersYaml,
  origins,
  standbyChoices,
  standbyNames,
  urls,
} from '../layout.ts'
import { USES } from '../reconcile.ts'
import { editAgentFile } from '../rotation/agent-file.ts'
import { standbyItems, type StandbyKey, type StandbyMember, writeStandbyPlan } from '../standby-plan.ts'
import { encodeChain } from './certificate-request.ts'
import type { PlannedPiece } from './plan.ts'
import type { Replay } from './replay.ts'
import { TRANSCRIPT_FILE } from './transcript.ts'
import { verifyTranscript } from './verify.ts'

export interface CeremonyInstallation {
  /** Data folder of the machine that will serve; `agent/online.yaml` is in it. */
  readonly dataDir: string
  /** The ceremony's folder. */
  readonly folder: string
  readonly choices: Omit<InstallationChoices, 'treeId' | 'domain' | 'keyKinds' | 'tufQuorum'>
  /** Files of `chancery trust sign`, parsed. */
  readonly signatures: readonly unknown[]
  readonly onStep: (step: string) => void
}

/** `payloadFile`: what the holders of the TUF keys sign. */
export type CeremonyInstalled =
  | { readonly state: 'made' }
  | { readonly state: 'awaiting-signatures'; readonly pending: PendingSummary; readonly payloadFile: string }

/** Names of what a server needs, as the layout has them. */
const NEEDED = ['issuing-ca', 'tsa', 'ct', 'rekor-v1', 'rekor-v2', 'tuf-online', 'account'] as const

/** What becomes chancery.yaml once clients' trust is signed: no server starts on a folder without. */
const DRAFT_FILE = 'chancery.yaml.unsigned'

/** The file for the holders of the TUF keys, in the ceremony's folder. */
const PAYLOAD_FILE = 'tuf-payload.json'

/**
 * Makes the installation, or as much of it as can be without the signatures that are missing; called again it goes on.
 * Throws what `verifyTranscript` throws, and `InstallationError` where the ceremony made something else than is needed.
 */
export async function installFromCeremony(options: CeremonyInstallation): Promise<CeremonyInstalled> {
  const { dataDir, folder, onStep, signatures } = options
  if (isInstallation(dataDir)) throw new InstallationError('exists', `${dataDir} holds an installation already`)
  onStep('transcript: verified before anything of it is used')
  const { state } = verifyTranscript(readFileSync(join(folder, TRANSCRIPT_FILE), 'utf8'), { witnesses: [] })
  const choices = choicesOf(state, options)
  const onlineAgent = onlineAgentOf(state, dataDir)

  onStep('certificates and folders')
  for (const name of ['ca', 'logs', 'timestamp', 'trust-root', 'run']) {
    mkdirSync(join(dataDir, name), { recursive: true, mode: 0o700 })
  }
  writeCertificates(dataDir, state)
  const members = standbyMembers(state, choices)
  const draft = join(dataDir, DRAFT_FILE)
  // Called again for the signatures it keeps the addresses of the first time: they are signed for by then.
  if (!existsSync(draft)) {
    if (members.length > 0) {
      writeStandbyPlan(dataDir, { schemaVersion: 1, agent: 'agent/standby.yaml', members, inService: [] })
    }
    replaceDurably(join(dataDir, 'ca/issuers.yaml'), issuersYaml(choices))
    await writeInventory(join(dataDir, 'trust-root'), inventoryOf(dataDir, { state, choices, members }))
    replaceDurably(draft, chanceryYaml(choices))
  }

  onStep('trust root')
  const pending = await publish(options, { state, onlineAgent })
  if (pending !== undefined) return { state: 'awaiting-signatures', pending, payloadFile: join(folder, PAYLOAD_FILE) }

  onStep(`configuration${signatures.length === 0 ? '' : ': everything is signed'}`)
  serveByServer(dataDir)
  await syncTree(dataDir)
  renameSync(draft, join(dataDir, 'chancery.yaml'))
  syncFolder(dataDir)
  return { state: 'made' }
}

function pieceNamed<W extends PlannedPiece['what']>(
  { read }: Replay,
  what: W,
  key: string,
): Extract<PlannedPiece, { what: W }> | undefined {
  const found = read.plan.make.find((each) => each.what === what && 'key' in each && each.key === key)
  return found as Extract<PlannedPiece, { what: W }> | undefined // just compared
}

/** What the origins say is not asked for a second time. */
function choicesOf(state: Replay, { choices }: CeremonyInstallation): InstallationChoices {
  const missing = NEEDED.filter((name) => !state.keys.has(name))
  if (missing.length > 0) throw unfit(`it made no ${missing.join(', ')} (template installation makes them)`)
  if (state.roles === undefined) throw unfit('it made no TUF roles (what: tuf-root)')
  const domain = /^ct\.(.+)$/.exec(pieceNamed(state, 'ct-log', 'ct')?.origin ?? '')?.[1]
  const treeId = / - (\d+)$/.exec(pieceNamed(state, 'rekor-v1', 'rekor-v1')?.origin ?? '')?.[1]
  if (domain === undefined || treeId === undefined) throw unfit('the origins of its logs are not those of the layout')
  const { root } = parseRoles(state.roles)
  const tufQuorum = { threshold: root.threshold, count: root.custodians.length }
  const all: InstallationChoices = { ...choices, domain, treeId, tufQuorum }
  const wanted = origins(all)
  const found = {
    ct: pieceNamed(state, 'ct-log', 'ct')?.origin,
    rekorV1: pieceNamed(state, 'rekor-v1', 'rekor-v1')?.origin,
    rekorV2: pieceNamed(state, 'rekor-v2', 'rekor-v2')?.origin,
  }
  if (found.ct !== wanted.ct || found.rekorV1 !== wanted.rekorV1 || found.rekorV2 !== wanted.rekorV2) {
    throw unfit('the origins of its logs are not of one domain')
  }
  return all
}

/** The serving agent's file, if it is here and has the keys. */
function onlineAgentOf(state: Replay, dataDir: string): string {
  const file = join(dataDir, 'agent/online.yaml')
  const { plan } = state.read
  const token = pieceNamed(state, 'issuing-ca', 'issuing-ca')?.token ?? ''
  if (plan.tokens[token]?.agent !== 'online') throw unfit('the agent of its issuing CA is not called online')
  if (!existsSync(file)) throw unfit(`${file} is not there: give with --data the folder of the machine that will serve`)
  return file
}

function writeCertificates(dataDir: string, { chains }: Replay): void {
  const put = (file: string, chain: readonly Uint8Array[] | undefined) => {
    if (chain !== undefined) replaceDurably(join(dataDir, file), encodeChain(chain))
  }
  const issuing = chains.get('issuing-ca')
  put('ca/root.pem', issuing?.slice(-1))
  put('ca/issuing-ca.pem', issuing?.slice(0, 1))
  put('ca/chain.pem', issuing)
  put('timestamp/chain.pem', chains.get('tsa'))
  for (const [folder, name] of [
    ['ca', standbyNames['issuing-ca']],
    ['timestamp', standbyNames.tsa],
  ] as const) {
    put(`${folder}/${name}.pem`, chains.get(name)?.slice(0, 1))
    put(`${folder}/${name}-chain.pem`, chains.get(name))
  }
}

/** What stands by, as far as the ceremony made it. */
function standbyMembers(state: Replay, choices: InstallationChoices): StandbyMember[] {
  const origin = pieceNamed(state, 'rekor-v1', standbyNames['rekor-v1'])?.origin ?? ''
  const treeId = / - (\d+)$/.exec(origin)?.[1] ?? '1'
  const standing = standbyChoices(choices, treeId)
  const { ports, listenHost } = standing
  const url = urls(standing)
  const keyOf = (name: string): StandbyKey | undefined => {
    const key = state.keys.get(name)
    return (
      key && { uri: key.uri, token: key.token.name, spki: Buffer.from(key.spkiDer).toString('base64'), kind: key.kind }
    )
  }
  const authority = (kind: 'issuing-ca' | 'tsa', folder: 'ca' | 'timestamp', dialled: string): StandbyMember[] => {
    const name = standbyNames[kind]
    const key = keyOf(name)
    if (key === undefined) return []
    const [certificate, chain] = [`${folder}/${name}.pem`, `${folder}/${name}-chain.pem`]
    return [{ kind, name, key, certificate, chain, url: dialled }]
  }
  const log = (kind: 'ct-log' | 'rekor-v1' | 'rekor-v2', port: number, dialled: string): StandbyMember[] => {
    const name = standbyNames[kind]
    const [key, witnessKey] = [keyOf(name), keyOf(`${name}-witness`)]
    const piece = pieceNamed(state, kind, name)
    if (key === undefined || piece === undefined) return []
    const common = {
      name,
      key,
      ...(witnessKey === undefined ? {} : { witnessKey }),
      listen: `${listenHost}:${port}`,
      database: `logs/${name}.db`,
      origin: piece.origin,
      url: dialled,
    }
    return [kind === 'rekor-v1' ? { kind, ...common, treeId } : { kind, ...common }]
  }
  return [
    ...authority('issuing-ca', 'ca', url.ca),
    ...log('ct-log', ports.ct, url.ct),
    ...log('rekor-v1', ports.rekorV1, url.rekorV1),
    ...log('rekor-v2', ports.rekorV2, url.rekorV2),
    ...authority('tsa', 'timestamp', `${url.timestamp}${TIMESTAMP_PATH}`),
  ]
}

interface Publishing {
  readonly state: Replay
  readonly onlineAgent: string
}

/** Undefined once it is published. */
async function publish(
  { dataDir, folder, signatures }: CeremonyInstallation,
  parts: Publishing,
): Promise<PendingSummary | undefined> {
  const online = await spawnAgent({ configPath: parts.onlineAgent })
  const journal = new UseJournal(join(dataDir, USES))
  try {
    const options = { folder: join(dataDir, 'trust-root'), agent: recordUses(online.agent, journal) }
    const trustRoot = await opened(options, parts)
    try {
      const waits = await trustRoot.pending()
      if (waits === undefined) return undefined
      if (signatures.length > 0) {
        const merged = await trustRoot.merge(signatures)
        if (merged.state === 'published') return undefined
      }
      replaceDurably(join(folder, PAYLOAD_FILE), `${JSON.stringify(await trustRoot.payload(), undefined, 1)}\n`)
      return await trustRoot.pending()
    } finally {
      await trustRoot.close()
    }
  } finally {
    journal.close()
    await online.close()
  }
}

/** Begun, gone on with, or published already by a run that did not live to say so. */
async function opened(options: Parameters<typeof openTrustRoot>[0], { state }: Publishing): Promise<TrustRoot> {
  try {
    // The very same windows again: another inventory would be another publication.
    return await initTrustRoot(options, await readInventory(options.folder), parseRoles(state.roles ?? ''))
  } catch (error) {
    if (!(error instanceof TrustRootError) || error.code !== 'exists') throw error
    return await openTrustRoot(options)
  }
}

interface InventoryParts {
  readonly state: Replay
  readonly choices: InstallationChoices
  readonly members: readonly StandbyMember[]
}

function inventoryOf(dataDir: string, { state, choices, members }: InventoryParts): Inventory {
  const url = urls(choices)
  const origin = origins(choices)
  const spkiDer = (name: string) => state.keys.get(name)?.spkiDer ?? new Uint8Array(0)
  const first = initialInventory({
    operator: choices.domain,
    defaultRekor: 1,
    now: new Date(),
    certificateAuthority: { url: url.ca, chain: state.chains.get('issuing-ca') ?? [] },
    ctLog: { url: url.ct, origin: origin.ct, spkiDer: spkiDer('ct') },
    rekorV1: { url: url.rekorV1, origin: origin.rekorV1, spkiDer: spkiDer('rekor-v1') },
    rekorV2: { url: url.rekorV2, origin: origin.rekorV2, spkiDer: spkiDer('rekor-v2') },
    timestampAuthority: { url: url.timestamp, chain: state.chains.get('tsa') ?? [] },
    oidcIssuer: { url: url.oidc },
  })
  const start = first.items[0]?.window.start ?? new Date()
  return { ...first, items: [...first.items, ...standbyItems(dataDir, members, start)] }
}

/** From now on the server starts this agent, and operators reach it through its admin socket. */
function serveByServer(dataDir: string): void {
  editAgentFile({ dataDir, agent: 'online' }, (document) => {
    if (document.getIn(['sockets', 'admin']) === undefined) document.setIn(['sockets', 'admin'], '../run/agent.sock')
    document.deleteIn(['adminWhenSpawned'])
  })
}

function unfit(how: string): InstallationError {
  return new InstallationError('bad_choice', `no installation can be made of this ceremony: ${how}`)
}
