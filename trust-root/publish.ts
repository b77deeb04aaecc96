import { draft, signerIfKnown } from './draft.ts'
import { TrustRootError } from './errors.ts'
import { formatInventory, type Inventory, readInventory } from './items.ts'
import { lintRelease, lintRepository, refuseFindings } from './linter.ts'
import {
  expiryAt,
  type MetadataSigner,
  type RootSigned,
  signMetadata,
  type SignedMetadata,
  type SnapshotSigned,
  type TimestampSigned,
} from './metadata.ts'
import { DEFAULT_TUF_KEYS, type PublishOptions } from './options.ts'
import { type Candidate, clearPending, freeze, type Pending, readPending } from './pending.ts'
import { DEFAULT_TUF_POLICY } from './policy.ts'
import type { Custodian, PendingSummary, Publication, PublishedVersions } from './publication.ts'
import { publishedInventory, publishedRoles, versionsOf, wishedRoles } from './published.ts'
import { custodianNames, isSigned, offlineParts, summaryOf } from './quorum.ts'
import { renderRelease } from './release.ts'
import { publishGeneration, readRepository, type RepositoryState, reserveVersion } from './repository.ts'
import { formatRoles, type Roles } from './roles.ts'

/**
 * Publishes items.json and roles.json: render → lint → root (if it must change) → targets → [freeze, until the custodians
 * have signed] → snapshot → timestamp → check → canary → switch.
 *
 * Nothing is signed unless every rule of the linter holds. Clients see the old repository until the last step and the
 * whole new one after it. If it fails or dies anywhere, running it again continues: versions that were asked for are
 * never used twice, a root that may have been signed is published as it was. While another publication waits for
 * signatures it is `publication_pending`; asked for the very same, that one goes on.
 *
 * Throws `LintError`, `TrustRootError`, and `HsmError` of the agents.
 */
export async function publish(
  options: PublishOptions,
  { renew = false, above = 0 }: PublishWish = {},
): Promise<Publication> {
  const { folder } = options
  const [inventory, roles] = [await readInventory(folder), await wishedRoles(folder)]
  const previous = await readRepository(folder)
  const pending = await readPending(folder, previous)
  if (pending !== undefined) {
    requireSame(pending, { inventory, roles })
    return await goOn(options, pending, previous)
  }
  const candidate = await drafted(options, { inventory, roles, renew: renew || above > 0, above, mustSuffice: false })
  return candidate === undefined ? unchanged(previous) : await complete(options, candidate, previous)
}

/**
 * Signs what is published once more, root and targets included, without taking over later changes of items.json; only
 * with the keys at hand. Undefined if these do not suffice, or while a publication waits: then nothing was done.
 */
export async function publishAgain(options: PublishOptions): Promise<Publication | undefined> {
  const { folder } = options
  const inventory = await publishedInventory(folder)
  if (!inventory) throw new TrustRootError('missing', 'nothing is published yet')
  const previous = await readRepository(folder)
  if ((await readPending(folder, previous)) !== undefined) return undefined
  const roles = await publishedRoles(folder)
  const candidate = await drafted(options, { inventory, roles, renew: true, above: 0, mustSuffice: true })
  return candidate && (await complete(options, candidate, previous))
}

/** How to publish beside what. */
export interface PublishWish {
  /** Targets are signed anew though nothing in them changes. */
  readonly renew?: boolean
  /**
   * They get a version above this one: after a restore, where custodians' agents know of versions that nobody here
   * remembers.
   */
  readonly above?: number
}

/** Completes what waits, if its custodians have signed by now; undefined if nothing waits. */
export async function publishPending(options: PublishOptions): Promise<Publication | undefined> {
  const previous = await readRepository(options.folder)
  const pending = await readPending(options.folder, previous)
  return pending && (await goOn(options, pending, previous))
}

/** Renders and lints, and drafts what custodians sign. */
async function drafted(
  options: PublishOptions,
  { inventory, roles, renew, above, mustSuffice }: Intention,
): Promise<Candidate | undefined> {
  const { folder, now, onStep = () => {} } = options
  const previous = await readRepository(folder)
  onStep('render')
  const release = renderRelease(inventory)
  onStep('lint')
  const before = await publishedInventory(folder)
  refuseFindings(lintRelease(release, { now, ...(before ? { previous: renderRelease(before) } : {}) }))
  const online = await onlineSigners(options, roles)
  const known = await publishedRoles(folder)
  const wish = { inventory, release, roles, publishedRoles: known, previous, online, renew, above, mustSuffice }
  const candidate = await draft(options, wish)
  // What verifiers see stays, and so may all signatures; what only our copies tell can still have changed.
  const isSame =
    candidate?.newRoots.length === 0 &&
    candidate.targets === undefined &&
    before !== undefined &&
    formatInventory(before) === formatInventory(inventory) &&
    textOf(known) === textOf(roles)
  return isSame ? undefined : candidate
}

interface Intention {
  readonly inventory: Inventory
  readonly roles: Roles | undefined
  readonly renew: boolean
  readonly above: number
  readonly mustSuffice: boolean
}

function unchanged(previous: RepositoryState | undefined): Publication {
  if (previous === undefined) throw new TrustRootError('missing', 'nothing is published yet')
  return { state: 'published', versions: versionsOf(previous) }
}

/** Publishes what is signed for, and freezes what is not. */
async function complete(
  options: PublishOptions,
  candidate: Candidate,
  previous: RepositoryState | undefined,
): Promise<Publication> {
  const { folder, now, onStep = () => {}, canary } = options
  if (isSigned(offlineParts(previous?.root, candidate.newRoots, candidate.targets))) {
    return { state: 'published', versions: await finish(options, candidate, previous) }
  }
  // Before custodians walk to their safes.
  onStep('canary')
  await canary?.(renderRelease(candidate.inventory))
  onStep('freeze')
  return await awaiting(options, await freeze(folder, candidate, now))
}

async function goOn(
  options: PublishOptions,
  pending: Pending,
  previous: RepositoryState | undefined,
): Promise<Publication> {
  if (!isSigned(offlineParts(previous?.root, pending.newRoots, pending.targets)))
    return await awaiting(options, pending)
  const versions = await finish(options, pending, previous)
  options.onStep?.('clear')
  await clearPending(options.folder)
  return { state: 'published', versions }
}

/** The online roles over what custodians have signed, then everything at once. */
async function finish(
  options: PublishOptions,
  candidate: Candidate,
  previous: RepositoryState | undefined,
): Promise<PublishedVersions> {
  const { folder, now, onStep = () => {}, canary } = options
  const { newRoots, targetFiles, copies } = candidate
  const root = newRoots.at(-1) ?? previous?.root
  const targets = candidate.targets ?? previous?.targets
  if (root === undefined || targets === undefined) {
    throw new TrustRootError('damaged_repository', 'a first publication has neither root nor targets')
  }
  const online = await onlineSignerOf(options, root.signed)
  onStep('snapshot')
  const snapshot = await signSnapshot(options, targets.signed.version, online, previous)
  onStep('timestamp')
  const timestamp = await signTimestamp(options, snapshot.signed.version, online)
  onStep('check')
  const publication = { root, newRoots, targets, snapshot, timestamp, targetFiles, copies }
  refuseFindings(lintRepository({ publication, previous, now }))
  onStep('canary')
  await canary?.(renderRelease(candidate.inventory))
  await publishGeneration(folder, publication, onStep)
  return versionsOf(publication)
}

/**
 * Signs timestamp, and snapshot if `withSnapshot`, once more over what is published; needs the online key only.
 * Same promises as `publish`.
 */
export async function refreshOnlineRoles(options: PublishOptions, withSnapshot: boolean): Promise<PublishedVersions> {
  const { folder, now, onStep = () => {} } = options
  const previous = await readRepository(folder)
  if (!previous) throw new TrustRootError('missing', 'nothing is published yet')
  const online = await onlineSignerOf(options, previous.root.signed)
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

/** The keys that shall sign snapshot and timestamp; each must be in the agent. */
export async function onlineSigners(
  { agent, keys = DEFAULT_TUF_KEYS }: PublishOptions,
  roles: Roles | undefined,
): Promise<MetadataSigner[]> {
  const signers: MetadataSigner[] = []
  for (const name of roles?.online ?? [keys.online]) {
    const signer = await signerIfKnown(agent, name)
    if (signer === undefined) throw new TrustRootError('unsigned', `the online agent has no key ${name}`)
    signers.push(signer)
  }
  return signers
}

/** The agent's key that a root names for snapshot and timestamp: during a rotation the agent has the next one too. */
export async function onlineSignerOf(options: PublishOptions, root: RootSigned): Promise<MetadataSigner> {
  const { folder, agent, keys = DEFAULT_TUF_KEYS } = options
  const known = [await wishedRoles(folder), await publishedRoles(folder)]
  const names = new Set([...known.flatMap((roles) => roles?.online ?? []), keys.online])
  for (const name of names) {
    const signer = await signerIfKnown(agent, name)
    if (signer !== undefined && root.roles.timestamp.keyids.includes(signer.keyid)) return signer
  }
  throw new TrustRootError('unsigned', `none of the keys ${[...names].join(', ')} may sign timestamps by the root`)
}

/** Names of keys by what is known of custodians. */
export async function namesOf(
  { folder, keys = DEFAULT_TUF_KEYS }: PublishOptions,
  pending?: Pick<Pending, 'roles'>,
): Promise<(keyid: string) => Custodian> {
  const known = [pending?.roles, await wishedRoles(folder), await publishedRoles(folder)]
  return custodianNames(known, keys.root)
}

/** Who must sign what waits. */
export async function pendingSummary(options: PublishOptions, pending: Pending): Promise<PendingSummary> {
  const nameOf = await namesOf(options, pending)
  const previous = await readRepository(options.folder)
  const parts = offlineParts(previous?.root, pending.newRoots, pending.targets)
  return { id: pending.id, roles: parts.map((part) => summaryOf(part, nameOf)) }
}

async function awaiting(options: PublishOptions, pending: Pending): Promise<Publication> {
  return { state: 'awaiting-signatures', pending: await pendingSummary(options, pending) }
}

/** Throws `publication_pending` if something else than what waits is meant. */
export function requireSame(pending: Pending, { inventory, roles }: Pick<Pending, 'inventory' | 'roles'>): void {
  const isSame =
    formatInventory(pending.inventory) === formatInventory(inventory) && textOf(pending.roles) === textOf(roles)
  if (isSame) return
  throw new TrustRootError(
    'publication_pending',
    `publication ${pending.id} waits for signatures, and this is another one; have it signed, or withdraw it with: chancery trust withdraw`,
  )
}

function textOf(roles: Roles | undefined): string {
  return roles === undefined ? '' : formatRoles(roles)
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
async function signedBefore({ agent, keyName }: MetadataSigner, role: 'snapshot' | 'timestamp'): Promise<number> {
  return (await agent.tufVersions({ key: keyName }))[role] ?? 0
}
