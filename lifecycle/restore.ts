/**
 * Brings an installation back from a backup. Everything is made and checked in a folder beside the data first: files
 * against the manifest, each log counted from its leaves to its signed head, the head compared with the agent's guard and
 * rolled forward to exactly it. Only then are old files moved aside (never deleted) and the new ones put in their place.
 */
import { copyFile, mkdir, rename, rm, rmdir, symlink } from 'node:fs/promises'
import { dirname, isAbsolute, join } from 'node:path'
import { OperatorError } from '#alarms'
import { recordUses, type SigningAgent, UseJournal } from '#hsm'
import { type CaughtUp, catchUpWithMirror } from '#trust-root'
import { type BackupManifest, damaged, isThere, readManifest, syncPath, verifyFiles } from './backup-manifest.ts'
import { USES } from './reconcile.ts'
import { recountAccount, recountBackup } from './recount.ts'
import { type RestoredLog, restoreLog } from './restore-log.ts'

export interface RestoreStep {
  readonly what: string
  readonly done: number
  readonly of: number
}

export interface RestoreOptions {
  readonly backup: string
  /** Printed when the backup was made. */
  readonly manifestSha256?: string
  /** Absolute. */
  readonly dataDir: string
  /** Names of the logs' keys at the agent, by log name. */
  readonly keys: ReadonlyMap<string, string>
  /** Connects to the agent whose guard decides; called once the configuration files that were missing are there. */
  readonly openAgent: () => Promise<SigningAgent>
  /** Where entries above the backup may be had, by log name. */
  readonly tiles: ReadonlyMap<string, string>
  /** Logs that may be put in place below their guard, to be read only. */
  readonly behind: ReadonlySet<string>
  /** Logs that may be put in place although the agent remembers no head of them. */
  readonly withoutGuard: ReadonlySet<string>
  /** URL of a TUF mirror that shows what clients have seen. */
  readonly mirror?: string
  /** Check everything, change nothing. */
  readonly dryRun: boolean
  readonly now: Date
  readonly onStep?: (step: RestoreStep) => void
}

export interface Restored {
  readonly manifest: BackupManifest
  readonly logs: readonly RestoredLog[]
  readonly trustRoot?: CaughtUp
  /** Where the old files are now, if there were any. */
  readonly movedAside?: string
}

/** Checks a backup as a restore would, without an agent: every file, every log. Throws `OperatorError`. */
export async function verifyBackup(
  folder: string,
  options: { readonly manifestSha256?: string; readonly onStep?: (step: RestoreStep) => void } = {},
): Promise<{ manifest: BackupManifest; sha256: string }> {
  const { onStep = () => undefined } = options
  const read = await readManifest(folder, options.manifestSha256)
  await verifyFiles(folder, read.manifest, (done, of) => onStep({ what: 'files', done, of }))
  for (const log of read.manifest.logs) {
    await recountBackup(folder, log, async (_, { size }) =>
      onStep({ what: `counting log ${log.name}`, done: size, of: log.size }),
    )
  }
  await recountAccount(folder, read.manifest)
  return read
}

/** Restores into `dataDir`. Throws `OperatorError`, `HsmError` or `TrustRootError`; nothing that was there is changed then. */
export async function restore(options: RestoreOptions): Promise<Restored> {
  const { backup, dataDir, onStep = () => undefined, now } = options
  const { manifest } = await readManifest(backup, options.manifestSha256)
  await verifyFiles(backup, manifest, (done, of) => onStep({ what: 'files', done, of }))
  const stamp = now.toISOString().replaceAll(/[-:]|\.[0-9]+/g, '')
  const staged = join(dataDir, `restoring-${stamp}`)
  await mkdir(staged, { recursive: true, mode: 0o700 })
  const addedFirst: string[] = []
  try {
    // The agent reads certificates beside the data; without them it does not start.
    addedFirst.push(...(await addMissing(options, manifest)))
    const logs = await restoreLogs(options, manifest, staged)
    const trustRoot = await stageTrustRoot(options, manifest, staged)
    if (options.dryRun) {
      await takeBack(dataDir, addedFirst)
      return { manifest, logs, ...(trustRoot && { trustRoot }) }
    }
    await stageConfiguration(options, manifest, staged)
    const movedAside = await place(staged, { dataDir, aside: join(dataDir, `replaced-${stamp}`), manifest })
    return { manifest, logs, ...(trustRoot && { trustRoot }), ...(movedAside && { movedAside }) }
  } catch (error) {
    await takeBack(dataDir, addedFirst)
    throw error
  } finally {
    await rm(staged, { recursive: true, force: true })
  }
}

async function restoreLogs(options: RestoreOptions, manifest: BackupManifest, staged: string): Promise<RestoredLog[]> {
  const { backup, keys, tiles, behind, withoutGuard, onStep = () => undefined } = options
  const journal = new UseJournal(join(options.dataDir, USES))
  const agent = recordUses(await options.openAgent(), journal)
  try {
    const logs: RestoredLog[] = []
    for (const log of manifest.logs) {
      const key = keys.get(log.name)
      if (key === undefined) throw damaged(`the configuration in ${backup} has no log ${log.name}`)
      const source = tiles.get(log.name)
      logs.push(
        await restoreLog({
          folder: backup,
          log,
          database: join(staged, inside(log.database)),
          key,
          agent,
          ...(source === undefined ? {} : { source }),
          allowBehind: behind.has(log.name),
          allowWithoutGuard: withoutGuard.has(log.name),
          onStep,
        }),
      )
    }
    return logs
  } finally {
    await agent.close()
    journal.close()
  }
}

async function stageTrustRoot(
  { backup, mirror }: RestoreOptions,
  { trustRoot, files }: BackupManifest,
  staged: string,
): Promise<CaughtUp | undefined> {
  if (trustRoot === undefined) return undefined
  const folder = join(staged, inside(trustRoot.folder))
  for (const { path } of files) {
    if (path.startsWith('trust-root/'))
      await copySynced(join(backup, path), join(folder, path.slice('trust-root/'.length)))
  }
  await symlink(trustRoot.generation, join(folder, 'repository'))
  await syncPath(folder)
  if (mirror !== undefined) return await catchUpWithMirror(folder, mirror)
  return { versions: trustRoot.versions, changed: false, newerTargets: [] }
}

const DATA = 'data/'

/** The configuration files that are there and differ, or are missing still. */
async function stageConfiguration(
  { backup }: RestoreOptions,
  { files }: BackupManifest,
  staged: string,
): Promise<void> {
  for (const name of replaceable(files)) await copySynced(join(backup, DATA + name), join(staged, name))
}

/** Notes of key uses only ever grow: those that are there know all that the backup's do. */
function replaceable(files: BackupManifest['files']): string[] {
  const names = files.flatMap(({ path }) => (path.startsWith(DATA) ? [path.slice(DATA.length)] : []))
  return names.filter((name) => dirname(name) !== USES)
}

/** Puts files that are not there at all; returns their names. */
async function addMissing({ backup, dataDir }: RestoreOptions, { files }: BackupManifest): Promise<string[]> {
  const added: string[] = []
  for (const { path } of files) {
    const name = path.slice(DATA.length)
    if (!path.startsWith(DATA) || (await isThere(join(dataDir, name)))) continue
    await copySynced(join(backup, path), join(dataDir, name))
    added.push(name)
  }
  return added
}

async function takeBack(dataDir: string, added: readonly string[]): Promise<void> {
  for (const name of added) await rm(join(dataDir, name), { force: true })
  // Folders that were made for them; one that holds something stays.
  const folders = new Set(added.map((name) => dirname(join(dataDir, name))).filter((folder) => folder !== dataDir))
  for (const folder of folders) await rmdir(folder).catch(() => undefined)
}

/** Moves what is there aside and what is staged into its place, part by part; returns where the old files went. */
async function place(
  staged: string,
  { dataDir, aside, manifest }: { dataDir: string; aside: string; manifest: BackupManifest },
): Promise<string | undefined> {
  const databases = manifest.logs.map(({ database }) => inside(database))
  const folders = manifest.trustRoot === undefined ? [] : [inside(manifest.trustRoot.folder)]
  const names = replaceable(manifest.files)
  let moved = false
  for (const name of [...databases, ...folders, ...names]) {
    const isDatabase = databases.includes(name)
    for (const suffix of isDatabase ? ['-wal', '-shm', ''] : ['']) {
      if (!(await isThere(join(dataDir, name + suffix)))) continue
      await mkdir(dirname(join(aside, name)), { recursive: true, mode: 0o700 })
      await rename(join(dataDir, name + suffix), join(aside, name + suffix))
      moved = true
    }
    await mkdir(dirname(join(dataDir, name)), { recursive: true, mode: 0o700 })
    await rename(join(staged, name), join(dataDir, name))
    await syncPath(dirname(join(dataDir, name)))
  }
  await syncPath(dataDir)
  return moved ? aside : undefined
}

/** A backup holds the places of one data folder; what lay elsewhere comes under it and its configuration must say so. */
function inside(place: string): string {
  if (isAbsolute(place) || place.split('/').includes('..')) {
    throw new OperatorError(
      'backup_damaged',
      `${place} lies outside the data folder: a restore writes only below --data. Name it there in chancery.yaml of the backup's copy`,
    )
  }
  return place
}

async function copySynced(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true, mode: 0o700 })
  await copyFile(from, to)
  await syncPath(to)
  await syncPath(dirname(to))
}
