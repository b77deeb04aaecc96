/**
 * The air-gap kit: a whole TUF repository in one file. It has no signature of its own, since all that is in it is signed
 * already: every file is metadata, or a target that metadata names, and is accepted as a TUF client accepts it, from a
 * root that the receiver knows. What a TUF client would let pass (white space, a signature that nobody needs, a file that
 * nothing names) is refused here, so no byte of a kit can be changed.
 */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { OperatorError } from '#alarms'
import type { TrustRootError } from '../errors.ts'
import {
  type AnySigned,
  isSignature,
  isSignedFor,
  metadataBytes,
  parseMetadata,
  type RootSigned,
  signedBytes,
  type SignedMetadata,
  type SnapshotSigned,
  type TargetFileEntry,
  type TargetsSigned,
  type TimestampSigned,
} from '../metadata.ts'
import { readRepository, servedFolder, targetPath } from '../repository.ts'

/** What a verified kit holds. */
export interface OpenedKit {
  readonly versions: KitVersions
  /** By their paths in the repository; what a mirror serves, but for `root.json`. */
  readonly files: ReadonlyMap<string, Uint8Array>
  /** Every target by name. */
  readonly targets: ReadonlyMap<string, Uint8Array>
  /** What targets.json says of each. */
  readonly targetEntries: Readonly<Record<string, TargetFileEntry>>
  /** SHA-256, hex, of `1.root.json`. */
  readonly firstRootSha256: string
  /** When each role ends. */
  readonly expires: Readonly<Record<keyof KitVersions, Date>>
}

export interface KitVersions {
  readonly root: number
  readonly timestamp: number
  readonly snapshot: number
  readonly targets: number
}

const FORMAT = 'chancery-air-gap/1'
/** A repository is some dozen small files; go-tuf bounds the largest of them at 5 MB. */
export const MAX_KIT_BYTES = 64 * 1024 * 1024

/** Packs what is published: all roots, the newest of the other roles, and every target. */
export async function packKit(folder: string): Promise<string> {
  const state = await readRepository(folder)
  if (state === undefined) throw damaged(`nothing is published in ${folder}`)
  const { root, targets, snapshot, timestamp } = state
  const served = servedFolder(folder)
  const files = new Map<string, Uint8Array>()
  const names = [
    ...Array.from({ length: root.signed.version }, (_, before) => `${before + 1}.root.json`),
    `${snapshot.signed.version}.snapshot.json`,
    `${targets.signed.version}.targets.json`,
    ...Object.entries(targets.signed.targets).map(([name, { hashes }]) => targetPath(name, hashes.sha256)),
  ]
  for (const name of names) files.set(name, await readFile(join(served, name)))
  // As it was read above: a re-signing meanwhile must not come in between.
  files.set('timestamp.json', metadataBytes(timestamp))
  return format(files)
}

/**
 * Verifies a kit, from a first root with this SHA-256 (hex) on. It says nothing of time: `expiredRoles` does. Throws
 * `OperatorError` `kit_damaged` for whatever is not as it was signed, and `kit_other_root`.
 */
export function openKit(text: string, rootSha256: string): OpenedKit {
  const files = parse(text)
  const used = new Set<string>()
  const take = (name: string): Uint8Array => {
    used.add(name)
    const bytes = files.get(name)
    if (bytes === undefined) throw damaged(`it has no ${name}`)
    return bytes
  }
  const firstRootSha256 = sha256(take('1.root.json'))
  if (firstRootSha256 !== rootSha256.toLowerCase()) {
    throw new OperatorError(
      'kit_other_root',
      `the kit starts from a root with SHA-256 ${firstRootSha256}, not from the one that was given, ${rootSha256}`,
    )
  }
  const roots = rootsOf(files, take)
  const root = roots.at(-1)
  if (root === undefined) throw damaged('it has no root')
  const read = <S extends AnySigned>(role: S['_type'], name: string, version?: number) => {
    const metadata = metadataOf<S>(role, take(name), name, [root])
    if (!isSignedFor(root, metadata)) throw damaged(`${name} is not signed by the keys of its root`)
    if (version !== undefined && metadata.signed.version !== version) throw damaged(`${name} is of another version`)
    return metadata
  }
  const timestamp = read<TimestampSigned>('timestamp', 'timestamp.json')
  const { version: snapshotVersion } = timestamp.signed.meta['snapshot.json']
  const snapshot = read<SnapshotSigned>('snapshot', `${snapshotVersion}.snapshot.json`, snapshotVersion)
  const targetsVersion = snapshot.signed.meta['targets.json']?.version ?? 0
  const signed = read<TargetsSigned>('targets', `${targetsVersion}.targets.json`, targetsVersion)
  const targets = new Map<string, Uint8Array>()
  for (const [name, { length, hashes }] of Object.entries(signed.signed.targets)) {
    const bytes = take(targetPath(name, hashes.sha256))
    if (bytes.length !== length || sha256(bytes) !== hashes.sha256)
      throw damaged(`target ${name} is not what was signed`)
    targets.set(name, bytes)
  }
  const strangers = [...files.keys()].filter((name) => !used.has(name))
  if (strangers.length > 0) throw damaged(`nothing in it names ${strangers.join(', ')}`)
  const ends = (metadata: SignedMetadata) => new Date(metadata.signed.expires)
  return {
    versions: {
      root: root.signed.version,
      timestamp: timestamp.signed.version,
      snapshot: snapshotVersion,
      targets: targetsVersion,
    },
    files,
    targets,
    targetEntries: signed.signed.targets,
    firstRootSha256,
    expires: { root: ends(root), timestamp: ends(timestamp), snapshot: ends(snapshot), targets: ends(signed) },
  }
}

/** Roles that have ended at `now`. */
export function expiredRoles({ expires }: Pick<OpenedKit, 'expires'>, now: Date): (keyof KitVersions)[] {
  return (['root', 'targets', 'snapshot', 'timestamp'] as const).filter((role) => expires[role] <= now)
}

/** Each next root, signed for by the one before and by itself, without a gap. */
function rootsOf(
  files: ReadonlyMap<string, Uint8Array>,
  take: (name: string) => Uint8Array,
): SignedMetadata<RootSigned>[] {
  const roots: SignedMetadata<RootSigned>[] = []
  for (let version = 1; version === 1 || files.has(`${version}.root.json`); version += 1) {
    const name = `${version}.root.json`
    const before = roots.at(-1)
    const next = parsed<RootSigned>('root', take(name), name)
    onlyValidSignatures(next, name, before === undefined ? [next] : [before, next])
    const follows = next.signed.version === version && (before === undefined || isSignedFor(before, next))
    if (!follows || !isSignedFor(next, next)) throw damaged(`${name} does not follow from the root before it`)
    roots.push(next)
  }
  return roots
}

function metadataOf<S extends AnySigned>(
  role: S['_type'],
  bytes: Uint8Array,
  name: string,
  roots: readonly SignedMetadata<RootSigned>[],
): SignedMetadata<S> {
  const metadata = parsed<S>(role, bytes, name)
  onlyValidSignatures(metadata, name, roots)
  return metadata
}

/** Parses, and wants the very bytes that this program writes. */
function parsed<S extends AnySigned>(role: S['_type'], bytes: Uint8Array, name: string): SignedMetadata<S> {
  let metadata: SignedMetadata<S>
  try {
    metadata = parseMetadata<S>(role, Buffer.from(bytes).toString('utf8'), name)
  } catch (cause) {
    throw damaged((cause as TrustRootError).message, cause)
  }
  if (!Buffer.from(metadataBytes(metadata)).equals(bytes)) throw damaged(`${name} is not as it was written`)
  return metadata
}

/** A threshold leaves room for signatures that nobody looks at; here each one must be good. */
function onlyValidSignatures(
  metadata: SignedMetadata,
  name: string,
  roots: readonly SignedMetadata<RootSigned>[],
): void {
  const keys = new Map(roots.flatMap(({ signed }) => Object.entries(signed.keys)))
  const payload = signedBytes(metadata.signed)
  for (const { keyid, sig } of metadata.signatures) {
    const key = keys.get(keyid)
    const signature = Buffer.from(sig, 'hex')
    const good = key !== undefined && signature.toString('hex') === sig && isSignature(key, payload, signature)
    if (!good) throw damaged(`${name} has a signature that does not verify`)
  }
}

function format(files: ReadonlyMap<string, Uint8Array>): string {
  const sorted = [...files].toSorted(([one], [other]) => (one < other ? -1 : 1))
  const encoded = sorted.map(([name, bytes]) => [name, Buffer.from(bytes).toString('base64')])
  return `${JSON.stringify({ format: FORMAT, files: Object.fromEntries(encoded) }, undefined, 1)}\n`
}

function parse(text: string): Map<string, Uint8Array> {
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch (cause) {
    throw damaged('it is not JSON', cause)
  }
  const { format: found, files } = { ...(document as { format?: unknown; files?: unknown } | null) }
  if (found !== FORMAT || typeof files !== 'object' || files === null) throw damaged(`it is no ${FORMAT}`)
  const bytes = new Map(
    Object.entries(files).map(([name, content]) => [name, new Uint8Array(Buffer.from(String(content), 'base64'))]),
  )
  // Names become paths.
  const strange = [...bytes.keys()].find((name) => !/^(targets\/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,200}$/.test(name))
  if (strange !== undefined) throw damaged(`it has a file with the name ${JSON.stringify(strange)}`)
  if (format(bytes) !== text) throw damaged('it is not as it was written')
  return bytes
}

function damaged(message: string, cause?: unknown): OperatorError {
  return new OperatorError('kit_damaged', `the kit is not what was exported: ${message}`, { cause })
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
