import { createHash } from 'node:crypto'
import { TrustRootError } from './errors.ts'
import type { PublishedVersions } from './publication.ts'
import { publishedInventory, versionsOf } from './published.ts'
import {
  isSignedFor,
  parseMetadata,
  type RootSigned,
  type SignedMetadata,
  type SnapshotSigned,
  type TargetsSigned,
  type TimestampSigned,
} from './metadata.ts'
import { releaseTargets, renderRelease } from './release.ts'
import { publishGeneration, readRepository, targetPath } from './repository.ts'

/** What a mirror had beyond a restored folder. */
export interface CaughtUp {
  /** What is published now. */
  readonly versions: PublishedVersions
  /** False if the mirror had nothing newer. */
  readonly changed: boolean
  /** Targets that the restored inventory would not publish: items.json is older than what clients have. */
  readonly newerTargets: readonly string[]
}

/** A mirror is asked for some dozen small files. */
const FETCH_TIMEOUT_MS = 10_000
/** As go-tuf and tuf-js bound it. */
const MAX_METADATA_BYTES = 5_000_000
/** Roots that a mirror may be ahead; python-tuf stops there too. */
const MAX_NEW_ROOTS = 256

/**
 * Brings a restored trust-root folder up to what a mirror (the URL that clients dial, or any copy of it) shows: each
 * newer root, then timestamp, snapshot and targets with their files, every one checked as a client would. So nothing
 * that clients have seen is taken back. Throws `damaged_repository` for a mirror whose metadata does not verify.
 */
export async function catchUpWithMirror(folder: string, mirrorUrl: string): Promise<CaughtUp> {
  const base = mirrorUrl.replace(/\/+$/, '')
  const state = await readRepository(folder)
  if (state === undefined) throw new TrustRootError('missing', `no repository in ${folder}`)
  const newRoots = await rootsAfter(state.root, base)
  const root = newRoots.at(-1) ?? state.root
  const read = async <S extends TimestampSigned | SnapshotSigned | TargetsSigned>(role: S['_type'], name: string) => {
    const metadata = parseMetadata<S>(role, text(await fetchBytes(base, name), base, name), name)
    if (!isSignedFor(root, metadata)) throw refused(base, `${name} is not signed by the keys of its root`)
    return metadata
  }
  const timestamp = await read<TimestampSigned>('timestamp', 'timestamp.json')
  if (newRoots.length === 0 && timestamp.signed.version <= state.timestamp.signed.version) {
    return { versions: versionsOf(state), changed: false, newerTargets: [] }
  }
  const snapshotVersion = timestamp.signed.meta['snapshot.json'].version
  const snapshot = await read<SnapshotSigned>('snapshot', `${snapshotVersion}.snapshot.json`)
  const targetsVersion = snapshot.signed.meta['targets.json']?.version ?? 0
  const targets = await read<TargetsSigned>('targets', `${targetsVersion}.targets.json`)
  const inOrder =
    snapshot.signed.version === snapshotVersion &&
    targets.signed.version === targetsVersion &&
    snapshotVersion >= state.snapshot.signed.version &&
    targetsVersion >= state.targets.signed.version
  if (!inOrder) throw refused(base, 'its versions do not fit together, or go back')

  const targetFiles = new Map<string, Uint8Array>()
  for (const [name, { length, hashes }] of Object.entries(targets.signed.targets)) {
    const bytes = await fetchBytes(base, targetPath(name, hashes.sha256))
    const digest = createHash('sha256')
      .update(bytes ?? '')
      .digest('hex')
    if (bytes?.length !== length || digest !== hashes.sha256)
      throw refused(base, `target ${name} is not what was signed`)
    targetFiles.set(name, bytes)
  }
  const newerTargets = await unlikeInventory(folder, targets)
  const publication = { root, newRoots, targets, snapshot, timestamp, targetFiles, copies: copiesOf(targetFiles) }
  await publishGeneration(folder, publication, () => undefined)
  return { versions: versionsOf(publication), changed: true, newerTargets }
}

/** Each next root, signed for by the one before and by itself, without a gap. */
async function rootsAfter(published: SignedMetadata<RootSigned>, base: string): Promise<SignedMetadata<RootSigned>[]> {
  const roots: SignedMetadata<RootSigned>[] = []
  let current = published
  while (roots.length < MAX_NEW_ROOTS) {
    const version = current.signed.version + 1
    const name = `${version}.root.json`
    const bytes = await fetchBytes(base, name)
    if (bytes === undefined) return roots
    const next = parseMetadata<RootSigned>('root', text(bytes, base, name), name)
    if (next.signed.version !== version || !isSignedFor(current, next) || !isSignedFor(next, next)) {
      throw refused(base, `${name} does not follow from the root before it`)
    }
    roots.push(next)
    current = next
  }
  throw refused(base, `it has more than ${MAX_NEW_ROOTS} newer roots`)
}

/** Names of targets whose bytes the inventory of this folder does not lead to. */
async function unlikeInventory(folder: string, { signed }: SignedMetadata<TargetsSigned>): Promise<string[]> {
  const inventory = await publishedInventory(folder)
  const own = inventory === undefined ? new Map() : releaseTargets(renderRelease(inventory))
  return Object.entries(signed.targets)
    .filter(([name, { hashes }]) => {
      const bytes: Uint8Array | undefined = own.get(name)?.bytes
      return bytes === undefined || createHash('sha256').update(bytes).digest('hex') !== hashes.sha256
    })
    .map(([name]) => name)
}

/** The targets that also lie beside the metadata under their plain names, for simple clients: the JSON ones. */
function copiesOf(files: ReadonlyMap<string, Uint8Array>): ReadonlyMap<string, Uint8Array> {
  return new Map([...files].filter(([name]) => /^[a-z0-9._-]+\.json$/.test(name)))
}

async function fetchBytes(base: string, path: string): Promise<Uint8Array | undefined> {
  const url = `${base}/${path}`
  let response: Response
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) })
    if (response.ok) {
      const bytes = new Uint8Array(await response.arrayBuffer())
      if (bytes.length > MAX_METADATA_BYTES) throw refused(base, `${path} is too large`)
      return bytes
    }
  } catch (cause) {
    if (cause instanceof TrustRootError) throw cause
    throw new TrustRootError('missing', `the mirror ${url} does not answer`, { cause })
  }
  if (response.status === 404) return undefined
  throw new TrustRootError('missing', `the mirror answered ${response.status} for ${url}`)
}

function text(bytes: Uint8Array | undefined, base: string, name: string): string {
  if (bytes === undefined) throw refused(base, `it has no ${name}`)
  return Buffer.from(bytes).toString('utf8')
}

function refused(base: string, why: string): TrustRootError {
  return new TrustRootError('damaged_repository', `the mirror ${base} cannot be followed: ${why}`)
}
