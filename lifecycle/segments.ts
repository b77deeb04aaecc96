/**
 * Long append-only records (a log's entries, the agent's account) as files of many lines each, compressed with
 * Zstandard: `zstd -dc FILE | jq` reads one. A full file never changes, so the next backup takes it over as it is.
 */
import { createHash } from 'node:crypto'
import { constants, createReadStream } from 'node:fs'
import { copyFile, link, mkdir, open, rename } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createZstdCompress, createZstdDecompress } from 'node:zlib'
import { type BackedUpFile, damaged, describeFile, syncPath } from './backup-manifest.ts'

/** Lines of a full file: some 6 MB compressed, so that what each night writes again is small, and the files stay few. */
export const SEGMENT_LINES = 8192

/** Lines that are asked for at once: their store is busy for some milliseconds, between which it serves others. */
const CHUNK_LINES = 256

export interface Segment {
  readonly path: string
  readonly start: number
  readonly count: number
}

/** Where lines come from: JSON lines of [start, start + limit), fewer at the end; empty after it. */
export type LinesFrom = (start: number, limit: number) => Promise<Uint8Array>

export interface SegmentOptions {
  /** The backup. */
  readonly folder: string
  /** Below it, where the files go. */
  readonly prefix: string
  readonly lines: LinesFrom
  /** Full files of an earlier backup that are known to be of this very record, and its folder. */
  readonly earlier?: {
    readonly folder: string
    readonly segments: readonly Segment[]
    readonly files: readonly BackedUpFile[]
  }
  readonly onLines?: (done: number) => void
  readonly signal?: AbortSignal
}

/** Writes the whole record; what earlier files hold is linked, if they still are what they were. */
export async function writeSegments(
  options: SegmentOptions,
): Promise<{ segments: Segment[]; files: BackedUpFile[]; reused: number }> {
  const { folder, prefix, earlier, onLines, signal } = options
  await mkdir(join(folder, prefix), { recursive: true, mode: 0o700 })
  const segments: Segment[] = []
  const files: BackedUpFile[] = []
  let [next, reused] = [0, 0]
  for (;;) {
    signal?.throwIfAborted()
    const kept = earlier && (await keptSegment(options, next))
    if (kept !== undefined) {
      reused += 1
      segments.push(kept.segment)
      files.push(kept.file)
    } else {
      const written = await writeSegment(options, next)
      if (written === undefined) break
      segments.push(written.segment)
      files.push(written.file)
    }
    const last = segments.at(-1)
    next += last?.count ?? 0
    onLines?.(next)
    if (last?.count !== SEGMENT_LINES) break
  }
  await syncPath(join(folder, prefix))
  return { segments, files, reused }
}

/** The lines of a file, in order. Throws `backup_damaged` for what is not Zstandard. */
export async function* readSegment(folder: string, { path }: Pick<Segment, 'path'>): AsyncGenerator<string> {
  const plain = createZstdDecompress()
  const reading = pipeline(createReadStream(join(folder, path)), plain)
  // Looked at below, after the lines: until then it must not count as unhandled.
  reading.catch(() => undefined)
  try {
    yield* createInterface({ input: plain, crlfDelay: Number.POSITIVE_INFINITY })
    await reading
  } catch (cause) {
    throw damaged(`${path} cannot be unpacked`, cause)
  }
}

function segmentPath(prefix: string, start: number, count: number): string {
  return `${prefix}/${String(start).padStart(12, '0')}-${count}.jsonl.zst`
}

/** A full file of the earlier backup that begins here, linked into this one; undefined if there is none or it is damaged. */
async function keptSegment(
  { folder, prefix, earlier }: SegmentOptions,
  start: number,
): Promise<{ segment: Segment; file: BackedUpFile } | undefined> {
  const segment = earlier?.segments.find((one) => one.start === start && one.count === SEGMENT_LINES)
  const file = earlier?.files.find((one) => one.path === segment?.path)
  if (earlier === undefined || segment === undefined || file === undefined) return undefined
  const from = join(earlier.folder, file.path)
  const found = await describeFile(from).catch(() => undefined)
  if (found?.sha256 !== file.sha256) return undefined
  const path = segmentPath(prefix, start, segment.count)
  const to = join(folder, path)
  // Another file system has no links between it and this one.
  await link(from, to).catch(async () => {
    await copyFile(from, to, constants.COPYFILE_EXCL)
    await syncPath(to)
  })
  return { segment: { ...segment, path }, file: { ...file, path } }
}

/** The next file, with at most `SEGMENT_LINES` lines; undefined if the record ends before it. */
async function writeSegment(
  { folder, prefix, lines, signal }: SegmentOptions,
  start: number,
): Promise<{ segment: Segment; file: BackedUpFile } | undefined> {
  let count = 0
  async function* chunks(): AsyncGenerator<Uint8Array> {
    while (count < SEGMENT_LINES) {
      signal?.throwIfAborted()
      const chunk = await lines(start + count, Math.min(CHUNK_LINES, SEGMENT_LINES - count))
      const found = countLines(chunk)
      if (found === 0) return
      count += found
      yield chunk
    }
  }
  const first = await lines(start, 1)
  if (first.length === 0) return undefined
  // Named when its lines have been counted.
  const draft = join(folder, prefix, 'segment.part')
  const hash = createHash('sha256')
  let size = 0
  const handle = await open(draft, 'w', 0o600)
  try {
    await pipeline(Readable.from(chunks(), { objectMode: false }), createZstdCompress(), async (packed) => {
      for await (const chunk of packed as AsyncIterable<Uint8Array>) {
        hash.update(chunk)
        size += chunk.length
        await handle.write(chunk)
      }
    })
    await handle.sync()
  } finally {
    await handle.close()
  }
  const path = segmentPath(prefix, start, count)
  await rename(draft, join(folder, path))
  await syncPath(dirname(join(folder, path)))
  return { segment: { path, start, count }, file: { path, size, sha256: hash.digest('hex') } }
}

function countLines(chunk: Uint8Array): number {
  let lines = 0
  for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) lines += 1
  return lines
}
