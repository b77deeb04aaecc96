import { createHash } from 'node:crypto'
import { lstat } from 'node:fs/promises'
import { join } from 'node:path'
import type { SigningAgent } from '#hsm'
import { TrustRootError } from './errors.ts'
import { formatInventory, type Inventory, readInventory } from './items.ts'
import { lintRelease, lintRepository, refuseFindings } from './linter.ts'
import {
  expiryAt,
  type MetadataSigner,
  metadataSigner,
  type RootSigned,
  signMetadata,
  type SignedMetadata,
  type SnapshotSigned,
  type TargetFileEntry,
  type TargetsSigned,
  type TimestampSigned,
} from './metadata.ts'
import type { Publication, PublishedVersions } from './publication.ts'
import { type Release, releaseCopies, releaseTargets, renderRelease } from './release.ts'
import {
  publishGeneration,
  readRepository,
  type RepositoryState,
  reserveVersion,
  servedFolder,
  stagedRoot,
  stageRoot,
} from './repository.ts'

/** How long each role is valid, and how long before its end it is signed again; seconds. */
export interface TufPolicy {
  readonly root: RolePolicy
  readonly targets: RolePolicy
  readonly snapshot: RolePolicy
  readonly timestamp: RolePolicy
}

/** `renewSeconds` < `validSeconds`. */
export interface RolePolicy {
  readonly validSeconds: number
  readonly renewSeconds: number
}

const DAY = 86_400

/**
 * Root and targets a year, with a quarter to get the custodians together. The timestamp three days and never less than
 * two left: a mirror survives a weekend of its signer, and a withheld update is noticed within three days (legacy
 * clients look for news only when it has expired).
 */
export const DEFAULT_TUF_POLICY: TufPolicy = {
  root: { validSeconds: 365 * DAY, renewSeconds: 90 * DAY },
  targets: { validSeconds: 365 * DAY, renewSeconds: 90 * DAY },
  snapshot: { validSeconds: 30 * DAY, renewSeconds: 15 * DAY },
  timestamp: { validSeconds: 3 * DAY, renewSeconds: 2 * DAY },
}

/** Opens the root token for the moment of `use` and closes it again; in production there is none beside a ceremony. */
export type WithRootAgent = <T>(use: (agent: SigningAgent) => Promise<T>) => Promise<T>

/** Names of the TUF keys in their agents. */
export interface TufKeyNames {
  /** Roles root and targets; on the root token. */
  readonly root: string
  /** Keys that an older root names and that must sign its successor once more. */
  readonly formerRoot?: readonly string[]
  /** Roles snapshot and timestamp; on the online token. */
  readonly online: string
}

/** The key names of a standard installation. */
export const DEFAULT_TUF_KEYS: TufKeyNames = { root: 'tuf-root', online: 'tuf-online' }

/** What is being done; called before each step, for progress, and for tests that stop there. */
export type PublishStep =
  | 'render'
  | 'lint'
  | 'root'
  | 'targets'
  | 'snapshot'
  | 'timestamp'
  | 'check'
  | 'canary'
  | 'write'
  | 'switch'
  | 'tidy'

/** Everything that a publication needs. */
export interface PublishOptions {
  /** The trust-root folder, which holds items.json. Only one process publishes into it. */
  readonly folder: string
  readonly agent: SigningAgent
  readonly withRootAgent?: WithRootAgent | undefined
  readonly keys?: TufKeyNames | undefined
  readonly policy?: TufPolicy | undefined
  readonly now: Date
  readonly onStep?: ((step: PublishStep) => void) | undefined
  /** The last question before clients see it: rejects with what speaks against it. Not asked for a mere re-signing. */
  readonly canary?: Canary | undefined
}

/** Tries a candidate on signatures of before and of now; rejects if one does not verify. */
export type Canary = (candidate: Release) => Promise<void>

/**
 * Publishes items.json: render → lint → root (if it must change) → targets → snapshot → timestamp → check → canary →
 * switch.
 *
 * Nothing is signed unless every rule of the linter holds. Clients see the old repository until the last step and the
 * whole new one after it. If it fails or dies anywhere, running it again continues: versions that were asked for are
 * never used twice, a root that may have been signed is published as it was.
 *
 * Throws `LintError`, `TrustRootError`, and `HsmError` of the agents.
 */
export async function publish(options: PublishOptions): Promise<Publication> {
  return publishInventory(options, await readInventory(options.folder))
}

/** Signs what is published once more, root and targets included, without taking over later changes of items.json. */
export async function publishAgain(options: PublishOptions): Promise<Publication> {
  const inventory = await publishedInventory(options.folder)
  if (!inventory) throw new TrustRootError('missing', 'nothing is published yet')
  return publishInventory(options, inventory)
}

async function publishInventory(options: PublishOptions, inventory: Inventory): Promise<Publication> {
  const { folder, agent, now, keys = DEFAULT_TUF_KEYS, onStep = () => {} } = options
  const previous = await readRepository(folder)

  onStep('render')
  const release = renderRelease(inventory)
  onStep('lint')
  const before = await publishedInventory(folder)
  refuseFindings(lintRelease(release, { now, ...(before ? { previous: renderRelease(before) } : {}) }))

  const online = await metadataSigner(agent, keys.online)
  const { newRoots, root, targets } = await withRootSigner(options, async (signers) => {
    onStep('root')
    const newRoots = await advanceRoot(options, previous?.root, signers, online)
    const root = newRoots.at(-1) ?? previous?.root
    if (!root) throw new TrustRootError('damaged_repository', 'no root was made')
    onStep('targets')
    return { newRoots, root, targets: await signTargets(options, release, signers) }
  })
  onStep('snapshot')
  const snapshot = await signSnapshot(options, targets.signed.version, online, previous)
  onStep('timestamp')
  const timestamp = await signTimestamp(options, snapshot.signed.version, online)

  onStep('check')
  const targetFiles = new Map([...releaseTargets(release)].map(([name, { bytes }]) => [name, bytes]))
  const copies = releaseCopies(release).set(PUBLISHED_ITEMS, Buffer.from(formatInventory(inventory)))
  const publication = { root, newRoots, targets, snapshot, timestamp, targetFiles, copies }
  refuseFindings(lintRepository({ publication, previous, now }))
  onStep('canary')
  await options.canary?.(release)
  await publishGeneration(folder, publication, onStep)
  return { state: 'published', versions: versionsOf(publication) }
}

/**
 * Signs timestamp, and snapshot if `withSnapshot`, once more over what is published; needs the online key only.
 * Same promises as `publish`.
 */
export async function refreshOnlineRoles(options: PublishOptions, withSnapshot: boolean): Promise<PublishedVersions> {
  const { folder, agent, now, keys = DEFAULT_TUF_KEYS, onStep = () => {} } = options
  const previous = await readRepository(folder)
  if (!previous) throw new TrustRootError('missing', 'nothing is published yet')
  const online = await metadataSigner(agent, keys.online)
  onStep('snapshot')
  const snapshot = withSnapshot
    ? await signSnapshot(options, previous.targets.signed.version, online, previous)
    : previous.snapshot
  onStep('timestamp')
  const timestamp = await signTimestamp(options, snapshot.signed.version, online)
  onStep('check')
  const publication = { ...previous, snapshot, timestamp, newRoots: [], targetFiles: new Map(), copies: new Map() }
  // An expired root or targets is an alarm of its own (status); it must not keep the timestamp from being fresh.
  const findings = lintRepository({ publication, previous, now }).filter(
    ({ rule, message }) => !(rule === 'tuf-expires' && /^(?:root|targets) has expired/.test(message)),
  )
  refuseFindings(findings)
  await publishGeneration(folder, publication, onStep)
  return versionsOf(publication)
}

/** True if a role that ends at `expires` is to be signed again. */
export function isDue(expires: string, renewSeconds: number, now: Date): boolean {
  return new Date(expires).getTime() - now.getTime() < renewSeconds * 1000
}

/** Copy of items.json as it was published, inside the generation; its name keeps it out of HTTP. */
const PUBLISHED_ITEMS = '.items.json'

/** The inventory that clients see now; undefined before the first publication. */
export async function publishedInventory(folder: string): Promise<Inventory | undefined> {
  const served = servedFolder(folder)
  const isThere = await lstat(join(served, PUBLISHED_ITEMS)).then(
    () => true,
    () => false,
  )
  return isThere ? readInventory(served, PUBLISHED_ITEMS) : undefined
}

async function withRootSigner<T>(
  { withRootAgent, keys = DEFAULT_TUF_KEYS }: PublishOptions,
  use: (signers: readonly MetadataSigner[]) => Promise<T>,
): Promise<T> {
  if (!withRootAgent) {
    throw new TrustRootError(
      'root_signer_needed',
      `root and targets are signed by key ${keys.root}, which is not open here; run this where the root token is`,
    )
  }
  return withRootAgent(async (agent) => {
    const signers: MetadataSigner[] = []
    for (const name of [keys.root, ...(keys.formerRoot ?? [])]) signers.push(await metadataSigner(agent, name))
    return use(signers)
  })
}

/**
 * The new roots, oldest first: one that a crash left behind, then one more if keys have changed or the end is near.
 * Each is signed by the keys before it and by its own, as far as they are at hand; the check says if that is enough.
 */
async function advanceRoot(
  options: PublishOptions,
  published: SignedMetadata<RootSigned> | undefined,
  signers: readonly MetadataSigner[],
  online: MetadataSigner,
): Promise<SignedMetadata<RootSigned>[]> {
  const { folder, now, policy = DEFAULT_TUF_POLICY } = options
  const newRoots: SignedMetadata<RootSigned>[] = []
  let current = published
  const sign = async (signed: RootSigned) => {
    const named = new Set([...signed.roles.root.keyids, ...(current?.signed.roles.root.keyids ?? [])])
    current = await signMetadata(
      signed,
      signers.filter(({ keyid }) => named.has(keyid)),
    )
    newRoots.push(current)
  }

  const version = (current?.signed.version ?? 0) + 1
  const leftover = await stagedRoot(folder, version)
  // One that names none of our keys was staged by an installation that was never published, and replaced since.
  if (leftover && signers.some(({ keyid }) => leftover.roles.root.keyids.includes(keyid))) await sign(leftover)

  const wanted = rootBody(signers, online)
  const isCurrent =
    current !== undefined &&
    hasSameKeys(current.signed, wanted) &&
    !isDue(current.signed.expires, policy.root.renewSeconds, now)
  if (!isCurrent) {
    const next: RootSigned = {
      ...wanted,
      version: (current?.signed.version ?? 0) + 1,
      expires: expiryAt(now, policy.root.validSeconds),
    }
    await stageRoot(folder, next)
    await sign(next)
  }
  return newRoots
}

/** Root and targets by the first signer (the others only sign a succession), snapshot and timestamp by the online key. */
function rootBody(signers: readonly MetadataSigner[], online: MetadataSigner): Omit<RootSigned, 'version' | 'expires'> {
  const [root] = signers
  if (!root) throw new TrustRootError('unsigned', 'no key for the root role')
  const offlineRole = { keyids: [root.keyid], threshold: 1 }
  const onlineRole = { keyids: [online.keyid], threshold: 1 }
  return {
    _type: 'root',
    spec_version: '1.0',
    consistent_snapshot: true,
    keys: { [root.keyid]: root.key, [online.keyid]: online.key },
    roles: { root: offlineRole, targets: offlineRole, snapshot: onlineRole, timestamp: onlineRole },
  }
}

function hasSameKeys(current: RootSigned, wanted: Omit<RootSigned, 'version' | 'expires'>): boolean {
  const roles = ['root', 'targets', 'snapshot', 'timestamp'] as const
  return roles.every((role) => {
    const [a, b] = [current.roles[role], wanted.roles[role]]
    return a.threshold === b.threshold && a.keyids.toSorted().join() === b.keyids.toSorted().join()
  })
}

async function signTargets(
  { folder, now, policy = DEFAULT_TUF_POLICY }: PublishOptions,
  release: Release,
  [signer]: readonly MetadataSigner[],
): Promise<SignedMetadata<TargetsSigned>> {
  const targets: Record<string, TargetFileEntry> = {}
  for (const [name, { bytes, custom }] of releaseTargets(release)) {
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    targets[name] = { length: bytes.length, hashes: { sha256 }, ...(custom ? { custom } : {}) }
  }
  const signed: TargetsSigned = {
    _type: 'targets',
    spec_version: '1.0',
    version: await reserveVersion(folder, 'targets', await signedBefore(signer, 'targets')),
    expires: expiryAt(now, policy.targets.validSeconds),
    targets,
  }
  return signMetadata(signed, signer ? [signer] : [])
}

async function signSnapshot(
  { folder, now, policy = DEFAULT_TUF_POLICY }: PublishOptions,
  targetsVersion: number,
  signer: MetadataSigner,
  previous: RepositoryState | undefined,
): Promise<SignedMetadata<SnapshotSigned>> {
  const signed: SnapshotSigned = {
    _type: 'snapshot',
    spec_version: '1.0',
    version: await reserveVersion(folder, 'snapshot', await signedBefore(signer, 'snapshot')),
    expires: expiryAt(now, policy.snapshot.validSeconds),
    meta: { ...previous?.snapshot.signed.meta, 'targets.json': { version: targetsVersion } },
  }
  return signMetadata(signed, [signer])
}

async function signTimestamp(
  { folder, now, policy = DEFAULT_TUF_POLICY }: PublishOptions,
  snapshotVersion: number,
  signer: MetadataSigner,
): Promise<SignedMetadata<TimestampSigned>> {
  const signed: TimestampSigned = {
    _type: 'timestamp',
    spec_version: '1.0',
    version: await reserveVersion(folder, 'timestamp', await signedBefore(signer, 'timestamp')),
    expires: expiryAt(now, policy.timestamp.validSeconds),
    meta: { 'snapshot.json': { version: snapshotVersion } },
  }
  return signMetadata(signed, [signer])
}

/** The last version that the agent signed for a role, which no mirror can be above. */
async function signedBefore(
  signer: MetadataSigner | undefined,
  role: 'targets' | 'snapshot' | 'timestamp',
): Promise<number> {
  return (await signer?.agent.tufVersions({ key: signer.keyName }))?.[role] ?? 0
}

/** The versions of a repository. */
export function versionsOf({ root, targets, snapshot, timestamp }: RepositoryState): PublishedVersions {
  return {
    root: root.signed.version,
    targets: targets.signed.version,
    snapshot: snapshot.signed.version,
    timestamp: timestamp.signed.version,
  }
}
