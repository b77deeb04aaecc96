import { createHash } from 'node:crypto'
import { link, lstat, mkdir, open, readdir, readFile, readlink, rename, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { TufRole } from '#hsm'
import { syncFolder, writeDurably } from './durable-file.ts'
import { TrustRootError } from './errors.ts'
import {
  isSignedFor,
  metadataBytes,
  parseMetadata,
  type RootSigned,
  type SignedMetadata,
  type SnapshotSigned,
  type TargetsSigned,
  type TimestampSigned,
} from './metadata.ts'

/**
 * The TUF repository on disk.
 *
 *     repository -> generations/000007     what is served; replaced by one rename
 *     generations/000007/                  every file that was ever published, and the four newest roles
 *     versions.json                        the highest version that was ever *asked to be signed*, per role
 *     N.root.staged.json                   a root whose signature was asked for and which is not published yet
 *     pending/                             a publication that waits for custodians (`pending.ts`)
 *
 * A publication fills a new generation (old files are hard links) and then moves the symbolic link: a client sees the
 * old state or the new one, also when root and online key change at once. Nothing that was published ever disappears:
 * go-tuf walks all N.root.json from the one that it was given. A thief of the folder can withhold and replay, until
 * timestamp.json expires, but sign nothing. One process writes; readers need no lock.
 */
export interface RepositoryState {
  readonly root: SignedMetadata<RootSigned>
  readonly targets: SignedMetadata<TargetsSigned>
  readonly snapshot: SignedMetadata<SnapshotSigned>
  readonly timestamp: SignedMetadata<TimestampSigned>
}

/** What the next generation shall hold beyond the present one. */
export interface Generation extends RepositoryState {
  /** Roots that are new, oldest first; the last one is `root`. Empty if the root stays. */
  readonly newRoots: readonly SignedMetadata<RootSigned>[]
  /** Content of every target by name; empty if the targets stay. */
  readonly targetFiles: ReadonlyMap<string, Uint8Array>
  /** Copies beside the metadata for people and simple clients, by name. */
  readonly copies: ReadonlyMap<string, Uint8Array>
}

/** Folder (through the symbolic link) that is served. */
export function servedFolder(folder: string): string {
  return join(folder, 'repository')
}

/** Path of a target below the served folder: content-addressed, so a name never changes its bytes. */
export function targetPath(name: string, sha256Hex: string): string {
  return `targets/${sha256Hex}.${name}`
}

/**
 * Reads the four newest roles and checks that each is signed for by the root; undefined if nothing was published yet.
 * Throws `damaged_repository` if a file is missing or does not verify.
 */
export async function readRepository(folder: string): Promise<RepositoryState | undefined> {
  const served = servedFolder(folder)
  if (!(await exists(served))) return undefined
  const root = await readRole<RootSigned>(served, 'root', 'root.json')
  const timestamp = await readRole<TimestampSigned>(served, 'timestamp', 'timestamp.json')
  const snapshotVersion = timestamp.signed.meta['snapshot.json'].version
  const snapshot = await readRole<SnapshotSigned>(served, 'snapshot', `${snapshotVersion}.snapshot.json`)
  const targetsVersion = snapshot.signed.meta['targets.json']?.version ?? 0
  const targets = await readRole<TargetsSigned>(served, 'targets', `${targetsVersion}.targets.json`)
  for (const metadata of [root, timestamp, snapshot, targets]) {
    if (!isSignedFor(root, metadata)) {
      throw new TrustRootError(
        'damaged_repository',
        `${metadata.signed._type} version ${metadata.signed.version} is not signed by the keys in root.json`,
      )
    }
  }
  return { root, targets, snapshot, timestamp }
}

/** Content of the published targets by name. Throws `damaged_repository` for one that is not there. */
export async function readTargets(folder: string, { targets }: TargetsSigned): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>()
  for (const [name, { hashes }] of Object.entries(targets)) {
    const bytes = await readFile(join(servedFolder(folder), targetPath(name, hashes.sha256))).catch(
      (error: unknown) => {
        throw new TrustRootError('damaged_repository', `target ${name} cannot be read`, { cause: error })
      },
    )
    files.set(name, bytes)
  }
  return files
}

/**
 * Takes the next version of a role and makes that durable *before* anything is signed under it. The agent refuses a
 * version that it has signed already, so a crash between signature and publication must cost a number, not the role.
 * Gaps are legal for every role but root (`stageRoot`). `signedBefore` is the agent's own count: in a folder that was
 * restored from a backup it is the only one that knows what clients have seen since.
 */
export async function reserveVersion(
  folder: string,
  role: 'targets' | 'snapshot' | 'timestamp',
  signedBefore: number,
): Promise<number> {
  const versions = await readVersions(folder)
  const state = await readRepository(folder)
  const known = Math.max(versions[role], state?.[role].signed.version ?? 0)
  const version = Math.max(known, signedBefore) + 1
  // Of snapshots that this folder does not know, each may have named new targets; the agents that signed those are not here.
  const missed = role === 'snapshot' ? Math.max(0, signedBefore - known) : 0
  const targets = Math.max(versions.targets, state?.targets.signed.version ?? 0) + missed
  const reserved = { ...versions, ...(missed > 0 ? { targets } : {}), [role]: version }
  await writeDurably(join(folder, VERSIONS_FILE), Buffer.from(`${JSON.stringify(reserved)}\n`))
  return version
}

/**
 * Keeps the exact root that is about to be signed, with what was signed of it: root versions must have no gap, so after a
 * crash the same bytes are signed again and published before any other root.
 */
export async function stageRoot(folder: string, root: SignedMetadata<RootSigned>): Promise<void> {
  await writeDurably(join(folder, stagedRootFile(root.signed.version)), Buffer.from(JSON.stringify(root)))
}

/** The root of this version that a crash or a withdrawal left unpublished, if any; of old its text had no signatures. */
export async function stagedRoot(folder: string, version: number): Promise<SignedMetadata<RootSigned> | undefined> {
  const name = stagedRootFile(version)
  const text = await readFile(join(folder, name), 'utf8').catch(() => undefined)
  if (text === undefined) return undefined
  const whole = text.startsWith('{"_type"') ? `{"signatures":[],"signed":${text}}` : text
  return parseMetadata<RootSigned>('root', whole, name)
}

/** Forgets a staged root: only for one that nobody has signed. */
export async function unstageRoot(folder: string, version: number): Promise<void> {
  await rm(join(folder, stagedRootFile(version)), { force: true })
  await syncFolder(folder)
}

async function clearStagedRoots(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (name.endsWith(STAGED_ROOT_SUFFIX)) await rm(join(folder, name))
  }
}

/**
 * Publishes: fills a new generation, makes it durable, then moves the link to it. When this resolves clients see it and
 * it survives a loss of power; if it rejects or the process dies before the link moves, they still see the old one.
 */
export async function publishGeneration(
  folder: string,
  publication: Generation,
  onStep: (step: 'write' | 'switch' | 'tidy') => void,
): Promise<void> {
  onStep('write')
  await removeDebris(folder)
  const served = servedFolder(folder)
  const number = (await currentGeneration(folder)) + 1
  const name = join('generations', String(number).padStart(6, '0'))
  const next = join(folder, name)
  await mkdir(join(next, 'targets'), { recursive: true })
  if (number > 1) await linkPublished(served, next)
  await writeNewFiles(next, publication)
  await syncFolder(join(next, 'targets'))
  await syncFolder(next)
  await syncFolder(join(folder, 'generations'))
  await symlink(name, `${served}.next`)
  onStep('switch')
  await rename(`${served}.next`, served)
  await syncFolder(folder)
  onStep('tidy')
  await clearStagedRoots(folder)
  await removeDebris(folder)
}

const VERSIONS_FILE = 'versions.json'
const STAGED_ROOT_SUFFIX = '.root.staged.json'

function stagedRootFile(version: number): string {
  return `${version}${STAGED_ROOT_SUFFIX}`
}

async function writeNewFiles(next: string, publication: Generation): Promise<void> {
  const { root, targets, snapshot, timestamp, newRoots, targetFiles, copies } = publication
  for (const signedRoot of newRoots) {
    await writeFresh(join(next, `${signedRoot.signed.version}.root.json`), metadataBytes(signedRoot))
  }
  for (const [name, bytes] of targetFiles) {
    const digest = createHash('sha256').update(bytes).digest('hex')
    await writeFresh(join(next, targetPath(name, digest)), bytes)
  }
  for (const [name, bytes] of copies) await writeFresh(join(next, name), bytes)
  await writeFresh(join(next, 'root.json'), metadataBytes(root))
  await writeFresh(join(next, `${targets.signed.version}.targets.json`), metadataBytes(targets))
  await writeFresh(join(next, `${snapshot.signed.version}.snapshot.json`), metadataBytes(snapshot))
  // Last, for whoever mirrors this folder file by file in the order of time.
  await writeFresh(join(next, 'timestamp.json'), metadataBytes(timestamp))
}

/** A link must never be written through: it would change the generation that is being served. */
async function writeFresh(path: string, bytes: Uint8Array): Promise<void> {
  await rm(path, { force: true })
  const file = await open(path, 'wx', 0o644)
  try {
    await file.writeFile(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
}

async function linkPublished(served: string, next: string): Promise<void> {
  for (const name of await readdir(served)) {
    // Every publication has its own timestamp; copies and root.json are replaced if they are given anew.
    if (name !== 'targets' && name !== 'timestamp.json') await link(join(served, name), join(next, name))
  }
  for (const name of await readdir(join(served, 'targets'))) {
    await link(join(served, 'targets', name), join(next, 'targets', name))
  }
}

async function currentGeneration(folder: string): Promise<number> {
  const target = await readlink(servedFolder(folder)).catch(() => undefined)
  return target === undefined ? 0 : Number(target.split('/').at(-1))
}

/**
 * Removes generations that are neither served nor the one before (a reader may be in it), and a half-made link. Runs
 * before each publication, so a crash at any point needs no repair of its own.
 */
async function removeDebris(folder: string): Promise<void> {
  const current = await currentGeneration(folder)
  await rm(`${servedFolder(folder)}.next`, { force: true })
  const generations = join(folder, 'generations')
  for (const name of await readdir(generations).catch(() => [])) {
    const number = Number(name)
    if (number !== current && number !== current - 1) await rm(join(generations, name), { recursive: true })
  }
}

async function readVersions(folder: string): Promise<Record<'targets' | 'snapshot' | 'timestamp', number>> {
  const text = await readFile(join(folder, VERSIONS_FILE), 'utf8').catch(() => '{}')
  const found: unknown = JSON.parse(text)
  const number = (role: TufRole) => {
    const value: unknown = typeof found === 'object' && found !== null ? Reflect.get(found, role) : undefined
    return typeof value === 'number' && Number.isSafeInteger(value) ? value : 0
  }
  return { targets: number('targets'), snapshot: number('snapshot'), timestamp: number('timestamp') }
}

async function readRole<S extends RootSigned | TargetsSigned | SnapshotSigned | TimestampSigned>(
  served: string,
  role: S['_type'],
  name: string,
): Promise<SignedMetadata<S>> {
  const text = await readFile(join(served, name), 'utf8').catch((error: unknown) => {
    throw new TrustRootError('damaged_repository', `${name} cannot be read`, { cause: error })
  })
  return parseMetadata<S>(role, text, name)
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  )
}
