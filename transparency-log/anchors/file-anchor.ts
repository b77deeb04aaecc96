/**
 * An anchor in a folder, which belongs on another volume, and better on another machine's: one file for each origin, which
 * holds its newest note as it was signed. Written beside and renamed, with file and folder flushed.
 *
 * The folder must hold the mark below before it is used: the empty mount point of a volume that is away would otherwise
 * remember nothing, and look like an anchor that has never seen the log.
 */
import { access, open, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { type Anchor, AnchorError, checkContinues, type Kept, type Stated, type Statement } from './anchor.ts'

/** Made by the operator: `touch <folder>/.chancery-anchor`. */
export const ANCHOR_MARK = '.chancery-anchor'

/** A note is some 400 bytes. */
const MAX_NOTE_BYTES = 64 * 1024

export interface FileAnchorOptions {
  readonly name: string
  readonly folder: string
  /** A volume that hangs is away after this long; 5000 unless told. */
  readonly timeoutMs?: number
}

export function fileAnchor({ name, folder, timeoutMs = 5000 }: FileAnchorOptions): Anchor {
  const busy = new Set<string>()
  // One after the other: a volume that hangs holds one thread of the few that serve the whole process, not one for each log.
  let last: Promise<unknown> = Promise.resolve()
  const submit = async (statement: Statement): Promise<Kept> => {
    const { origin } = statement
    // A call that hangs in the kernel cannot be ended; a second one would hang beside it.
    if (busy.has(origin)) throw new AnchorError('away', `${folder} has not answered yet`)
    busy.add(origin)
    const written = last.then(async () => await keep(folder, statement)).finally(() => busy.delete(origin))
    last = written.catch(() => undefined)
    await within(written, timeoutMs, () => new AnchorError('away', `${folder} does not answer`))
    return { cosignatures: [] }
  }
  return { name, kind: 'file', submit }
}

/** Where the note of an origin lies. */
export function anchorFile(folder: string, origin: string): string {
  return join(folder, `${encodeURIComponent(origin)}.note`)
}

async function keep(folder: string, statement: Statement): Promise<void> {
  const path = anchorFile(folder, statement.origin)
  try {
    await access(join(folder, ANCHOR_MARK))
  } catch (cause) {
    throw new AnchorError('away', `there is no ${ANCHOR_MARK} in ${folder}: is its volume mounted?`, { cause })
  }
  const note = await readNote(path)
  if (note === statement.note) return
  if (note !== undefined) await checkContinues(readHeld(path, note, statement), statement, note)
  try {
    await replace(folder, path, statement.note)
  } catch (cause) {
    throw new AnchorError('away', `${path} cannot be written`, { cause })
  }
}

async function readNote(path: string): Promise<string | undefined> {
  try {
    const bytes = await readFile(path)
    if (bytes.length > MAX_NOTE_BYTES) throw new AnchorError('distrusted', `${path} is no note: ${bytes.length} bytes`)
    return bytes.toString('utf8')
  } catch (error) {
    if (error instanceof AnchorError) throw error
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw new AnchorError('away', `${path} cannot be read`, { cause: error })
  }
}

/** What was not signed by us was not written by us; it is left for whoever looks into it. */
function readHeld(path: string, note: string, statement: Statement): Stated {
  try {
    return statement.verify(note)
  } catch (cause) {
    throw new AnchorError('distrusted', `${path} holds no note that this log's key signed`, { cause })
  }
}

async function replace(folder: string, path: string, text: string): Promise<void> {
  const part = `${path}.part`
  const file = await open(part, 'w', 0o644)
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(part, path)
  const directory = await open(folder, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

async function within<T>(work: Promise<T>, timeoutMs: number, late: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), timeoutMs)
  })
  try {
    return await Promise.race([work, timeout])
  } finally {
    clearTimeout(timer)
  }
}
