/**
 * Where a log's newest entries may be had again when its database is lost: what it published, as others keep it. None of
 * them is trusted: whatever comes is counted to the root that the guard remembers.
 */
import { createPublicKey, verify } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { decodeEntryBundle, entryBundlePath, TILE_WIDTH } from '#tlog'
import type { LogKind } from '#transparency-log'

/** An entry as others keep it. */
export interface SourcedEntry {
  readonly leaf: Uint8Array
  readonly tileData: Uint8Array
  readonly attachment?: Uint8Array
  readonly timestampMs?: number
  readonly entrySignature?: Uint8Array
}

/** Consecutive entries from `start`, all below `size`; at least one, or it throws `SourceError`. */
export type LogSource = (start: number, size: number) => Promise<readonly SourcedEntry[]>

/** A source has not got an entry, or cannot be read. */
export class SourceError extends Error {
  override readonly name = 'SourceError'
}

/** What a source needs to know of the log. */
export interface SourcedLog {
  readonly kind: LogKind
  readonly spkiDer: Uint8Array
}

/** A slow mirror is not a lost one. */
const FETCH_TIMEOUT_MS = 30_000
/** Entries fetched side by side, where each needs a request of its own. */
const LANES = 8
const PAGE = 256

/**
 * `at` is, for a Rekor v2 log, the prefix of its tiles: a URL or a folder. For CT the URL before `/ct/v1/get-entries`.
 * For Rekor v1 the URL before `/api/v1/log/entries`: its tiles hold neither the times nor the signed entry timestamps.
 */
export function logSource(at: string, log: SourcedLog): LogSource {
  const isUrl = /^https?:\/\//.test(at)
  const base = at.replace(/\/+$/, '')
  if (log.kind === 'rekor-v2')
    return tiles(isUrl ? (path) => fetchBytes(`${base}/${path}`) : (path) => readTile(base, path))
  if (!isUrl) throw new SourceError(`${at} is no URL: a ${log.kind} log is read over its interface`)
  return log.kind === 'ct' ? ctEntries(base) : rekorV1Entries(base, log)
}

/** C2SP tlog-tiles: entry bundles. Undefined is a tile that is not there. */
function tiles(read: (path: string) => Promise<Uint8Array | undefined>): LogSource {
  return async (start, size) => {
    const n = Math.floor(start / TILE_WIDTH)
    const width = Math.min(TILE_WIDTH, size - n * TILE_WIDTH)
    // A partial bundle may have been dropped for the full one.
    const bundle =
      (await read(entryBundlePath(n, width))) ?? (width < TILE_WIDTH ? await read(entryBundlePath(n)) : undefined)
    if (bundle === undefined) throw new SourceError(`there is no ${entryBundlePath(n, width)}`)
    const entries = decoded(bundle, entryBundlePath(n, width)).slice(start - n * TILE_WIDTH, size - n * TILE_WIDTH)
    if (entries.length === 0) throw new SourceError(`${entryBundlePath(n, width)} ends before entry ${start}`)
    return entries.map((leaf) => ({ leaf, tileData: leaf }))
  }
}

function decoded(bundle: Uint8Array, path: string): Uint8Array[] {
  try {
    return decodeEntryBundle(bundle)
  } catch (cause) {
    throw new SourceError(`${path} is no entry bundle`, { cause })
  }
}

const getEntries = z.object({
  entries: z.array(z.object({ leaf_input: z.base64(), extra_data: z.base64() })).min(1),
})

/** RFC 6962 §4.6. */
function ctEntries(base: string): LogSource {
  return async (start, size) => {
    const end = Math.min(start + PAGE, size) - 1
    const url = `${base}/ct/v1/get-entries?start=${start}&end=${end}`
    const reply = shaped(getEntries, await fetchJson(url), url)
    return reply.entries.slice(0, end - start + 1).map(({ leaf_input, extra_data }) => {
      const leaf = bytes(leaf_input)
      return { leaf, tileData: leaf, attachment: bytes(extra_data) }
    })
  }
}

const logEntry = z.record(
  z.string(),
  z.object({
    body: z.base64(),
    integratedTime: z.int().min(0),
    logID: z.string(),
    logIndex: z.int().min(0),
    attestation: z.object({ data: z.base64() }).optional(),
    verification: z.object({ signedEntryTimestamp: z.base64() }),
  }),
)

/** One request an entry: only these replies carry the time and the signature that clients were given. */
function rekorV1Entries(base: string, { spkiDer }: SourcedLog): LogSource {
  const key = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  const one = async (index: number): Promise<SourcedEntry> => {
    const url = `${base}/api/v1/log/entries?logIndex=${index}`
    const reply = shaped(logEntry, await fetchJson(url), url)
    const [entry] = Object.values(reply)
    if (entry?.logIndex !== index) throw new SourceError(`${base} answers another entry than ${index}`)
    const { body, integratedTime, logID, logIndex, verification, attestation } = entry
    const entrySignature = bytes(verification.signedEntryTimestamp)
    // RFC 8785, as the agent wrote it. The root covers the body alone, so the time rests on this signature.
    const signed = Buffer.from(JSON.stringify({ body, integratedTime, logID, logIndex }))
    if (!verify('sha256', signed, key, entrySignature)) {
      throw new SourceError(`${base}: the signed entry timestamp of entry ${index} is not the log's`)
    }
    const leaf = bytes(body)
    return {
      leaf,
      tileData: leaf,
      timestampMs: integratedTime * 1000,
      entrySignature,
      ...(attestation === undefined ? {} : { attachment: bytes(attestation.data) }),
    }
  }
  return async (start, size) => {
    const count = Math.min(LANES, size - start)
    return await Promise.all(Array.from({ length: count }, (_, at) => one(start + at)))
  }
}

async function readTile(folder: string, path: string): Promise<Uint8Array | undefined> {
  return await readFile(join(folder, path)).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT' || cause.code === 'ENOTDIR') return undefined
    throw new SourceError(`${join(folder, path)} cannot be read`, { cause })
  })
}

/** Undefined for 404 and 410. */
async function fetchBytes(url: string): Promise<Uint8Array | undefined> {
  let response: Response
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) })
    if (response.ok) return new Uint8Array(await response.arrayBuffer())
  } catch (cause) {
    throw new SourceError(`${url} does not answer`, { cause })
  }
  if (response.status === 404 || response.status === 410) return undefined
  throw new SourceError(`${url} answered ${response.status}`)
}

async function fetchJson(url: string): Promise<unknown> {
  const found = await fetchBytes(url)
  if (found === undefined) throw new SourceError(`${url} has no such entry`)
  try {
    return JSON.parse(Buffer.from(found).toString('utf8'))
  } catch (cause) {
    throw new SourceError(`${url} answered no JSON`, { cause })
  }
}

function shaped<T>(schema: z.ZodType<T>, value: unknown, url: string): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  throw new SourceError(`${url} answered something else than entries`, { cause: parsed.error })
}

function bytes(base64: string): Uint8Array {
  return new Uint8Array(Buffer.from(base64, 'base64'))
}
