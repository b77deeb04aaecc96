import { mkdir, open, readdir, readFile, readlink, rename, rm, symlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { OperatorError } from '#alarms'
import { syncFolder } from '../durable-file.ts'
import { type ExportFiles, renderExports } from './clients.ts'
import { expiredRoles, type KitVersions, type OpenedKit, openKit } from './kit.ts'
import { materialOf } from './material.ts'

export interface ImportOptions {
  /**
   * The folder of all imports. `repository/` in it is the mirror, `clients/` the files for clients that are given files;
   * both belong to the newest kit and change at once.
   */
  readonly folder: string
  /** Of the first root, hex; the first import must be told, later ones remember it. */
  readonly rootSha256?: string | undefined
  readonly now: Date
  /** Take a kit with a role that has ended. */
  readonly acceptExpired?: boolean
}

export interface ImportedKit {
  readonly versions: KitVersions
  /** Of the import before; undefined if this is the first. */
  readonly before: KitVersions | undefined
  /** False if this very kit was imported before. */
  readonly changed: boolean
  /** Roles that have ended: TUF clients refuse the mirror; clients with files do not know. */
  readonly expired: readonly (keyof KitVersions)[]
  /** When the first role ends: until then TUF clients take the mirror. */
  readonly expires: Date
}

/**
 * Verifies a kit and puts its content in the place of the one before. Nothing is changed unless all of it holds. Throws
 * `OperatorError` `kit_damaged`, `kit_other_root`, `kit_rollback` or `kit_expired`.
 */
export async function importKit(text: string, options: ImportOptions): Promise<ImportedKit> {
  const { folder, now } = options
  const before = await newestImport(folder)
  const pinned = pinnedRoot(options.rootSha256, before)
  const kit = openKit(text, pinned)
  if (before !== undefined) refuseRollback(kit, before)
  const expired = expiredRoles(kit, now)
  if (expired.length > 0 && options.acceptExpired !== true) {
    throw new OperatorError(
      'kit_expired',
      `${expired.map((role) => `${role} ended ${kit.expires[role].toISOString()}`).join(', ')}; get a newer kit, or take it as the newest that you have with --accept-expired`,
    )
  }
  const changed = text !== before?.text
  if (changed) await layOut(folder, text, kit)
  const expires = new Date(Math.min(...Object.values(kit.expires).map((end) => end.getTime())))
  return { versions: kit.versions, before: before?.versions, changed, expired, expires }
}

type KnownKit = OpenedKit & { readonly text: string }

/** What was imported last, verified once more: it is what new kits are compared with. */
async function newestImport(folder: string): Promise<KnownKit | undefined> {
  const text = await readFile(join(folder, 'current', KIT_FILE), 'utf8').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  })
  if (text === undefined) {
    if (await isLink(join(folder, 'current'))) {
      throw new OperatorError(
        'kit_damaged',
        `${folder} has lost its kit: what was imported there is not known any more`,
      )
    }
    return undefined
  }
  const pin = (await readFile(join(folder, 'current', PIN_FILE), 'utf8')).trim()
  return { ...openKit(text, pin), text }
}

function pinnedRoot(told: string | undefined, before: KnownKit | undefined): string {
  if (before === undefined) {
    if (told !== undefined) return told
    throw new OperatorError('kit_other_root', 'the first import needs --root-checksum, from a source that you trust')
  }
  if (told !== undefined && told.toLowerCase() !== before.firstRootSha256) {
    throw new OperatorError('kit_other_root', `what was imported before starts from the root ${before.firstRootSha256}`)
  }
  return before.firstRootSha256
}

/** No role may go back, and no version may have two contents. */
function refuseRollback(kit: OpenedKit, before: KnownKit): void {
  for (const role of ['root', 'timestamp', 'snapshot', 'targets'] as const) {
    const [now, then] = [kit.versions[role], before.versions[role]]
    if (now < then) {
      throw new OperatorError('kit_rollback', `${role} ${now} is older than ${then}, which was imported before`)
    }
    const name = role === 'timestamp' ? 'timestamp.json' : `${then}.${role}.json`
    if ((now === then || role === 'root') && !sameFile(name, kit, before)) {
      throw new OperatorError('kit_rollback', `${role} ${then} is another one than was imported before`)
    }
  }
}

function sameFile(name: string, one: OpenedKit, other: OpenedKit): boolean {
  return Buffer.compare(one.files.get(name) ?? new Uint8Array(), other.files.get(name) ?? new Uint8Array()) === 0
}

const KIT_FILE = 'kit.json'
const PIN_FILE = 'root.sha256'

/** Fills a folder beside the present one and moves the link to it: readers see the old kit or the new one. */
async function layOut(folder: string, text: string, kit: OpenedKit): Promise<void> {
  const { root, timestamp, snapshot, targets } = kit.versions
  const name = join('kits', `${timestamp}-${snapshot}-${targets}-${root}`)
  const place = join(folder, name)
  await rm(place, { recursive: true, force: true })
  const root_ = kit.files.get(`${root}.root.json`) ?? new Uint8Array()
  const files: ExportFiles = new Map([
    [KIT_FILE, Buffer.from(text)],
    [PIN_FILE, Buffer.from(`${kit.firstRootSha256}\n`)],
    [join('repository', 'root.json'), root_],
    ...[...kit.files].map(([path, bytes]) => [join('repository', path), bytes] as const),
    ...clientFiles(folder, kit),
  ])
  for (const [path, bytes] of files) await writeSynced(join(place, path), bytes)
  await syncFolder(place)
  await replaceLink(folder, 'current', name)
  await replaceLink(folder, 'repository', join('current', 'repository'))
  await replaceLink(folder, 'clients', join('current', 'clients'))
  for (const old of await readdir(join(folder, 'kits'))) {
    if (join('kits', old) !== name) await rm(join(folder, 'kits', old), { recursive: true, force: true })
  }
}

function clientFiles(folder: string, kit: OpenedKit): [string, Uint8Array][] {
  const rendered = renderExports(materialOf(kit), { at: join(folder, 'clients') })
  return [...rendered].flatMap(([client, { files, lines }]) =>
    [...files, ['use.sh', Buffer.from(`${lines.join('\n')}\n`)] as const].map(([path, bytes]): [string, Uint8Array] => [
      join('clients', client, path),
      bytes,
    ]),
  )
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  const file = await open(path, 'w', 0o644)
  try {
    await file.writeFile(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
}

async function replaceLink(folder: string, name: string, target: string): Promise<void> {
  await rm(join(folder, `${name}.next`), { force: true })
  await symlink(target, join(folder, `${name}.next`))
  await rename(join(folder, `${name}.next`), join(folder, name))
  await syncFolder(folder)
}

async function isLink(path: string): Promise<boolean> {
  return await readlink(path).then(
    () => true,
    () => false,
  )
}
