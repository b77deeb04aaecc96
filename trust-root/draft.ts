import { createHash } from 'node:crypto'
import { TrustRootError } from './errors.ts'
import { formatInventory, type Inventory } from './items.ts'
import {
  expiryAt,
  isSignedFor,
  keyIdOf,
  type MetadataSigner,
  metadataSigner,
  type RootSigned,
  signMetadata,
  type SignedMetadata,
  type TargetFileEntry,
  type TargetsSigned,
  type TufAgent,
  type TufKey,
} from './metadata.ts'
import { DEFAULT_TUF_KEYS, type PublishOptions } from './options.ts'
import type { Candidate } from './pending.ts'
import { DEFAULT_TUF_POLICY, isDue } from './policy.ts'
import { PUBLISHED_ITEMS, PUBLISHED_ROLES } from './published.ts'
import { type OfflinePart, offlineParts, quorumOf, tally, tallyOf } from './quorum.ts'
import { type Release, releaseCopies, releaseTargets } from './release.ts'
import { type RepositoryState, reserveVersion, stagedRoot, stageRoot } from './repository.ts'
import { formatRoles, type Roles } from './roles.ts'

/** What is to be drafted, and beside what. */
export interface Wish {
  readonly inventory: Inventory
  readonly release: Release
  readonly roles: Roles | undefined
  /** Those of the newest publication, whose names of keys a succession still needs. */
  readonly publishedRoles: Roles | undefined
  readonly previous: RepositoryState | undefined
  /** The keys that sign snapshot and timestamp. */
  readonly online: readonly MetadataSigner[]
  /** Signs targets anew though nothing in them changes. */
  readonly renew: boolean
  /** Targets get a version above it: after a restore nobody here knows what custodians have signed since. */
  readonly above: number
  /** Drafts nothing unless the keys at hand meet every threshold. */
  readonly mustSuffice: boolean
}

/**
 * Drafts the roots and targets that the wish needs and has them signed by the custodians' keys that are at hand, which
 * may be none. Versions are reserved and roots kept before anybody signs them. Where those keys do not suffice, only what
 * must change is drafted: each signature costs somebody a walk to a safe. Undefined only where they must suffice.
 */
export async function draft(options: PublishOptions, wish: Wish): Promise<Candidate | undefined> {
  const { onStep = () => {} } = options
  const { inventory, release, roles, previous } = wish
  return await withSignersAtHand(options, wish, async (hand) => {
    onStep('root')
    const drafted = await draftRoots(options, wish, hand)
    const newest = drafted.at(-1) ?? previous?.root
    if (newest === undefined) throw new TrustRootError('damaged_repository', 'no root was made')
    if (wish.mustSuffice && !suffice(previous?.root, drafted, hand)) return undefined
    onStep('targets')
    const unsigned = await draftTargets(options, wish, newest, hand)
    const parts = offlineParts(previous?.root, drafted, unsigned)
    const newRoots: SignedMetadata<RootSigned>[] = []
    for (const [at, root] of drafted.entries()) newRoots.push(await signRoot(options, root, parts[at], hand))
    const keyids = Object.keys(quorumOf(newest.signed, 'targets').keys)
    const targets = unsigned && (await signMetadata(unsigned.signed, signersOf(keyids, hand)))
    const copies = releaseCopies(release)
      .set(PUBLISHED_ITEMS, Buffer.from(formatInventory(inventory)))
      .set(PUBLISHED_ROLES, Buffer.from(roles === undefined ? '' : formatRoles(roles)))
    const files = [...releaseTargets(release)].map(([name, { bytes }]) => [name, bytes] as const)
    return { inventory, roles, newRoots, targets, targetFiles: new Map(targets === undefined ? [] : files), copies }
  })
}

/** What would be drafted without a key at hand: nothing is reserved, kept or signed. */
export async function previewed(options: PublishOptions, wish: Wish): Promise<Pick<Candidate, 'newRoots' | 'targets'>> {
  const { now, policy = DEFAULT_TUF_POLICY } = options
  const newRoots = await draftRoots(options, wish, [])
  const newest = newRoots.at(-1) ?? wish.previous?.root
  if (newest === undefined) throw new TrustRootError('damaged_repository', 'no root was made')
  const { targets, holdOn } = wantedTargets(options, wish, newest)
  if (holdOn) return { newRoots, targets: undefined }
  const version = (wish.previous?.targets.signed.version ?? 0) + 1
  const expires = expiryAt(now, policy.targets.validSeconds)
  return {
    newRoots,
    targets: { signed: { _type: 'targets', spec_version: '1.0', version, expires, targets }, signatures: [] },
  }
}

/** Whether the keys at hand meet every threshold. */
function suffice(
  published: SignedMetadata<RootSigned> | undefined,
  newRoots: readonly SignedMetadata<RootSigned>[],
  hand: readonly MetadataSigner[],
): boolean {
  const atHand = hand.map(({ keyid }) => keyid)
  const roots = offlineParts(published, newRoots, undefined)
  const newest = newRoots.at(-1) ?? published
  const targets = newest === undefined ? [] : [quorumOf(newest.signed, 'targets')]
  return (
    roots.every((part) => tally([...tallyOf(part).have, ...atHand], part.quorums).lacking === 0) &&
    tally(atHand, targets).lacking === 0
  )
}

async function withSignersAtHand<T>(
  { withRootAgent, keys = DEFAULT_TUF_KEYS }: PublishOptions,
  { roles, publishedRoles }: Wish,
  use: (signers: readonly MetadataSigner[]) => Promise<T>,
): Promise<T> {
  if (withRootAgent === undefined) return await use([])
  const custodians = [roles, publishedRoles].flatMap((known) => known?.custodians.map(({ name }) => name) ?? [])
  const demanded = roles === undefined ? [keys.root, ...(keys.formerRoot ?? [])] : []
  const names = new Set([...demanded, ...custodians, keys.root, ...(keys.formerRoot ?? [])])
  return await withRootAgent(async (agent) => {
    const signers: MetadataSigner[] = []
    for (const name of names) {
      const signer = demanded.includes(name) ? await metadataSigner(agent, name) : await signerIfKnown(agent, name)
      if (signer !== undefined && !signers.some(({ keyid }) => keyid === signer.keyid)) signers.push(signer)
    }
    return await use(signers)
  })
}

/** The key of an agent, or undefined if it has none of this name. */
export async function signerIfKnown(agent: TufAgent, name: string): Promise<MetadataSigner | undefined> {
  return await metadataSigner(agent, name).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'unknown_key') return undefined
    throw error
  })
}

function signersOf(keyids: readonly string[], hand: readonly MetadataSigner[]): MetadataSigner[] {
  return hand.filter(({ keyid }) => keyids.includes(keyid))
}

/**
 * The new roots, oldest first: those that a crash or a withdrawal left behind, then one more if keys or thresholds have
 * changed or the end is near.
 */
async function draftRoots(
  { folder, now, policy = DEFAULT_TUF_POLICY }: PublishOptions,
  wish: Wish,
  hand: readonly MetadataSigner[],
): Promise<SignedMetadata<RootSigned>[]> {
  const { previous } = wish
  const newRoots: SignedMetadata<RootSigned>[] = []
  const wanted = wantedRoot(wish, hand)
  let current = previous?.root
  for (;;) {
    const leftover = await stagedRoot(folder, (current?.signed.version ?? 0) + 1)
    if (leftover === undefined || !isStillMeant(leftover.signed, wanted, { now, isFirst: current === undefined })) break
    newRoots.push(leftover)
    current = leftover
  }
  const isCurrent =
    current !== undefined &&
    hasSameKeys(current.signed, wanted) &&
    !isDue(current.signed.expires, policy.root.renewSeconds, now)
  if (!isCurrent) {
    const version = (current?.signed.version ?? 0) + 1
    newRoots.push({ signed: { ...wanted, version, expires: expiryAt(now, policy.root.validSeconds) }, signatures: [] })
  }
  return newRoots
}

/**
 * Whether a root that was left behind is to be published as it is. A first one that names none of our keys was staged by
 * an installation that was never published, and replaced since; nobody signs one that has expired any more.
 */
function isStillMeant(
  leftover: RootSigned,
  wanted: RootBody,
  { now, isFirst }: { readonly now: Date; readonly isFirst: boolean },
): boolean {
  if (new Date(leftover.expires) <= now) return false
  return !isFirst || leftover.roles.root.keyids.some((keyid) => wanted.roles.root.keyids.includes(keyid))
}

type RootBody = Omit<RootSigned, 'version' | 'expires'>

/**
 * Root and targets by the custodians of roles.json. Without it by the first key at hand (the others only sign a
 * succession), and where there is none by whom they were: then only online keys can change.
 */
function wantedRoot({ roles, previous, online }: Wish, hand: readonly MetadataSigner[]): RootBody {
  const offline = offlineRoles(roles, previous?.root.signed, hand)
  const onlineRole = { keyids: online.map(({ keyid }) => keyid), threshold: 1 }
  const keys = [...offline.keys, ...online.map(({ keyid, key }) => [keyid, key] as const)]
  return {
    _type: 'root',
    spec_version: '1.0',
    consistent_snapshot: true,
    keys: Object.fromEntries(keys),
    roles: { root: offline.root, targets: offline.targets, snapshot: onlineRole, timestamp: onlineRole },
  }
}

function offlineRoles(roles: Roles | undefined, published: RootSigned | undefined, hand: readonly MetadataSigner[]) {
  if (roles !== undefined) {
    const keyids = new Map(roles.custodians.map(({ name, key }) => [name, { keyid: keyIdOf(key), key }] as const))
    const roleOf = ({ threshold, custodians }: Roles['root']) => {
      const named = custodians.flatMap((name) => keyids.get(name)?.keyid ?? [])
      return { keyids: named, threshold }
    }
    const keys = [...keyids.values()].map(({ keyid, key }): [string, TufKey] => [keyid, key])
    return { root: roleOf(roles.root), targets: roleOf(roles.targets), keys }
  }
  const [first] = hand
  if (first !== undefined) {
    const role = { keyids: [first.keyid], threshold: 1 }
    return { root: role, targets: role, keys: [[first.keyid, first.key] as const] }
  }
  if (published === undefined) {
    throw new TrustRootError('unsigned', 'no key is at hand for the first root, and no roles.json names custodians')
  }
  const { root, targets } = published.roles
  const named = new Set([...root.keyids, ...targets.keyids])
  return { root, targets, keys: Object.entries(published.keys).filter(([keyid]) => named.has(keyid)) }
}

function hasSameKeys(current: RootSigned, wanted: RootBody): boolean {
  const roles = ['root', 'targets', 'snapshot', 'timestamp'] as const
  return roles.every((role) => {
    const [a, b] = [current.roles[role], wanted.roles[role]]
    return a.threshold === b.threshold && a.keyids.toSorted().join() === b.keyids.toSorted().join()
  })
}

/** A root that may have been signed exists for ever: it is kept before the first signature is asked for. */
async function signRoot(
  { folder }: PublishOptions,
  root: SignedMetadata<RootSigned>,
  part: OfflinePart | undefined,
  hand: readonly MetadataSigner[],
): Promise<SignedMetadata<RootSigned>> {
  const named = part?.quorums.flatMap(({ keys }) => Object.keys(keys)) ?? []
  const signers = signersOf(named, hand)
  if (signers.length === 0) return root
  await stageRoot(folder, root)
  return await signMetadata(root.signed, signers, root.signatures)
}

/** The next targets, unsigned; undefined where the published ones hold on and nobody here could sign others. */
async function draftTargets(
  options: PublishOptions,
  wish: Wish,
  root: SignedMetadata<RootSigned>,
  hand: readonly MetadataSigner[],
): Promise<SignedMetadata<TargetsSigned> | undefined> {
  const { folder, now, policy = DEFAULT_TUF_POLICY } = options
  const { targets, holdOn } = wantedTargets(options, wish, root)
  const quorum = quorumOf(root.signed, 'targets')
  const atHand = tally(
    hand.map(({ keyid }) => keyid),
    [quorum],
  )
  if (holdOn && !wish.renew && atHand.lacking > 0) return undefined
  const before = await signedBefore(signersOf(Object.keys(quorum.keys), hand))
  const version = await reserveVersion(folder, 'targets', Math.max(before, wish.above))
  const expires = expiryAt(now, policy.targets.validSeconds)
  return { signed: { _type: 'targets', spec_version: '1.0', version, expires, targets }, signatures: [] }
}

/** What targets shall list, and whether the published ones do so, signed by whom they must be and for long enough. */
function wantedTargets(
  { now, policy = DEFAULT_TUF_POLICY }: PublishOptions,
  { release, previous }: Wish,
  root: SignedMetadata<RootSigned>,
): { readonly targets: TargetsSigned['targets']; readonly holdOn: boolean } {
  const targets: Record<string, TargetFileEntry> = {}
  for (const [name, { bytes, custom }] of releaseTargets(release)) {
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    targets[name] = { length: bytes.length, hashes: { sha256 }, ...(custom ? { custom } : {}) }
  }
  const holdOn =
    previous !== undefined &&
    JSON.stringify(previous.targets.signed.targets) === JSON.stringify(targets) &&
    isSignedFor(root, previous.targets) &&
    !isDue(previous.targets.signed.expires, policy.targets.renewSeconds, now)
  return { targets, holdOn }
}

/** The last version that any of the agents signed for targets, which no mirror can be above. */
async function signedBefore(signers: readonly MetadataSigner[]): Promise<number> {
  const versions = signers.map(async ({ agent, keyName }) => (await agent.tufVersions({ key: keyName })).targets ?? 0)
  return Math.max(0, ...(await Promise.all(versions)))
}
