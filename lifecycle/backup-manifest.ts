/**
 * What a backup is: a folder with ordinary files and one `manifest.json` that names each by size and SHA-256. The
 * manifest is written last, so a folder without one is no backup, however much lies in it.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { lstat, open, readdir, readFile, rename, stat } from 'node:fs/promises'
import { dirname, join, relative, sep } from 'node:path'
import { z } from 'zod'
import { OperatorError } from '#alarms'

/** Raised with every change that an older program would misread. */
export const BACKUP_FORMAT = 1

export const MANIFEST = 'manifest.json'

const hex32 = z.string().regex(/^[0-9a-f]{64}$/)
const count = z.int().min(0)
const base64 = z.base64()
/** Relative, with `/`, and never up: a manifest must not make a restore write elsewhere. */
const path = z
  .string()
  .regex(/^[A-Za-z0-9._+-]+(\/[A-Za-z0-9._+-]+)*$/)
  .refine((value) => value.split('/').every((part) => part !== '.' && part !== '..'), 'a path leads out of the backup')

const file = z.strictObject({ path, size: count, sha256: hex32 })

const log = z.strictObject({
  name: z.string(),
  kind: z.enum(['ct', 'rekor-v1', 'rekor-v2']),
  origin: z.string(),
  spki: base64,
  /** Path of the database in the data folder, as the configuration has it. */
  database: z.string(),
  size: count,
  rootHash: hex32,
  timestampMs: count,
  /** Signed checkpoint; empty for CT. */
  note: z.string(),
  /** DER, base64; for CT over the RFC 6962 tree head. */
  signature: base64,
  frozenAtMs: count.optional(),
  /** Files of consecutive entries, oldest first. */
  segments: z.array(z.strictObject({ path, start: count, count: z.int().min(1) })),
})

const manifest = z.strictObject({
  format: z.literal(BACKUP_FORMAT),
  program: z.string(),
  createdAt: z.iso.datetime(),
  finishedAt: z.iso.datetime(),
  profile: z.string(),
  domain: z.string(),
  files: z.array(file),
  logs: z.array(log),
  /** What the agent's guard held when the backup was made: for reading, never for restoring. */
  guards: z.array(z.strictObject({ origin: z.string(), size: count, rootHash: hex32 })),
  account: z
    .strictObject({ lines: count, headHash: hex32 })
    .optional()
    .describe('the agent account as exported: its last line and the hash that chains it'),
  trustRoot: z
    .strictObject({
      folder: z.string(),
      generation: z.string(),
      versions: z.strictObject({ root: count, targets: count, snapshot: count, timestamp: count }),
    })
    .optional(),
  /** Keys with what brings them back: a wrapped copy in this backup, or nothing. */
  keys: z.array(z.strictObject({ name: z.string(), spkiSha256: hex32, backup: z.string() })),
  /** What a person must know is not in here. */
  notBackedUp: z.array(z.string()),
})

export type BackupManifest = z.infer<typeof manifest>
export type BackedUpLog = z.infer<typeof log>
export type BackedUpFile = z.infer<typeof file>

/**
 * Reads the manifest of a backup; its bytes' SHA-256 is what was printed when it was made. Throws `backup_incomplete`
 * without one and `backup_damaged` for one that cannot be read or whose hash is not `expectedSha256`.
 */
export async function readManifest(
  folder: string,
  expectedSha256?: string,
): Promise<{ manifest: BackupManifest; sha256: string }> {
  const bytes = await readFile(join(folder, MANIFEST)).catch(async (cause: NodeJS.ErrnoException) => {
    const there = await stat(folder).then(
      () => true,
      () => false,
    )
    throw new OperatorError(
      'backup_incomplete',
      there && cause.code === 'ENOENT'
        ? `${folder} has no ${MANIFEST}: the backup was never finished, or this is no backup; take another one`
        : `${folder} cannot be read (${cause.code ?? 'unknown'})`,
      { cause },
    )
  })
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  if (expectedSha256 !== undefined && expectedSha256.toLowerCase() !== sha256) {
    throw damaged(`${folder}/${MANIFEST} has the SHA-256 ${sha256}, which is not the one that was given`)
  }
  let document: unknown
  try {
    document = JSON.parse(bytes.toString('utf8'))
  } catch (cause) {
    throw damaged(`${folder}/${MANIFEST} is not JSON`, cause)
  }
  const format = typeof document === 'object' && document !== null && 'format' in document ? document.format : undefined
  if (typeof format === 'number' && format > BACKUP_FORMAT) {
    throw damaged(`${folder} has format ${format}, this program knows ${BACKUP_FORMAT}: restore it with the newer one`)
  }
  const parsed = manifest.safeParse(document)
  if (!parsed.success) {
    throw damaged(
      `${folder}/${MANIFEST}: ${parsed.error.issues[0]?.path.join('.')}: ${parsed.error.issues[0]?.message}`,
    )
  }
  return { manifest: parsed.data, sha256 }
}

/** Writes the manifest durably as the last file of a backup and returns its SHA-256, hex. */
export async function writeManifest(folder: string, value: BackupManifest): Promise<string> {
  const bytes = Buffer.from(`${JSON.stringify(manifest.parse(value), undefined, 2)}\n`)
  await writeSynced(join(folder, `${MANIFEST}.part`), bytes)
  await rename(join(folder, `${MANIFEST}.part`), join(folder, MANIFEST))
  await syncPath(folder)
  await syncPath(dirname(folder))
  return createHash('sha256').update(bytes).digest('hex')
}

/**
 * Compares every file with the manifest, and the files that are there with those that it names. Throws
 * `backup_damaged`, naming each file that is wrong.
 */
export async function verifyFiles(
  folder: string,
  { files }: Pick<BackupManifest, 'files'>,
  onFile: (done: number, of: number) => void = () => undefined,
): Promise<void> {
  const wrong: string[] = []
  let done = 0
  for (const { path: name, size, sha256 } of files) {
    const found = await describeFile(join(folder, name)).catch(() => undefined)
    if (found === undefined) wrong.push(`${name} is missing`)
    else if (found.size !== size || found.sha256 !== sha256) wrong.push(`${name} is not what was backed up`)
    onFile(++done, files.length)
  }
  const named = new Set([MANIFEST, ...files.map(({ path: name }) => name)])
  for (const name of await filesBelow(folder)) if (!named.has(name)) wrong.push(`${name} is not in the manifest`)
  if (wrong.length > 0) {
    const rest = wrong.length > 5 ? `, and ${wrong.length - 5} more` : ''
    throw damaged(`${folder}: ${wrong.slice(0, 5).join('; ')}${rest}. Use another backup`)
  }
}

/** Size and SHA-256 (hex) of a file, read in pieces. */
export async function describeFile(name: string): Promise<{ size: number; sha256: string }> {
  const hash = createHash('sha256')
  let size = 0
  for await (const chunk of createReadStream(name) as AsyncIterable<Buffer>) {
    hash.update(chunk)
    size += chunk.length
  }
  return { size, sha256: hash.digest('hex') }
}

/** Paths of all files below a folder, with `/`. A link is refused: a backup holds none, and one could lead out of it. */
export async function filesBelow(folder: string): Promise<string[]> {
  const names: string[] = []
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const name = relative(folder, join(entry.parentPath, entry.name)).split(sep).join('/')
    if (entry.isDirectory()) continue
    if (!entry.isFile()) throw damaged(`${folder}/${name} is no ordinary file`)
    names.push(name)
  }
  return names
}

/** Writes a new file whose bytes are on the disk when this resolves; never over one that is there. */
export async function writeSynced(name: string, bytes: Uint8Array | string): Promise<void> {
  const handle = await open(name, 'wx', 0o600)
  try {
    await handle.writeFile(bytes)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Brings the bytes of a file, or the names in a folder, to the disk. */
export async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

export async function isThere(name: string): Promise<boolean> {
  return await lstat(name).then(
    () => true,
    () => false,
  )
}

export function damaged(message: string, cause?: unknown): OperatorError {
  return new OperatorError('backup_damaged', message, { cause })
}
