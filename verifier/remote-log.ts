import { decodeEntryBundle, entryBundlePath, leafHash, TILE_WIDTH, TlogError } from '#tlog'
import { fromHex, list, member, text, toHex } from './encoding.ts'
import { VerifierError } from './errors.ts'
import { type LogEntry, parseJson, parseRekorV1Entry } from './log-entry.ts'
import { TileTree } from './tile-tree.ts'
import type { TrustedLog } from './trusted-logs.ts'
import { leafNamesDigest, verifySignedCheckpoint } from './verify.ts'

/** A log as an auditor reads it, over HTTP. Its answers are untrusted until `verify.ts` has seen them. */
export interface RemoteLog {
  readonly version: 1 | 2
  /** The newest signed checkpoint, as a note. */
  checkpoint(): Promise<string>
  /** The entry at an index (Rekor v1: the virtual one) with proof; throws `not_found`. */
  entryAt(index: number): Promise<LogEntry>
  /** Entries by leaf hash (32 bytes) or Rekor v1 entry id; throws `not_found`. */
  entryByLeaf(leafHashHex: string): Promise<LogEntry>
  /** Indexes or ids that the log's search gives for a digest; not a proof that there are no others. */
  entriesByDigest(algorithm: 'sha256' | 'sha384' | 'sha512', digest: Uint8Array): Promise<LogEntry[]>
  /** RFC 6962 §2.1.2 between two sizes, 0 < first ≤ second; 32-byte hashes. */
  consistencyProof(first: number, second: number): Promise<Uint8Array[]>
  /** The leaves of one entry bundle of a tree of `size`. */
  bundle(n: number, size: number): Promise<Uint8Array[]>
}

/** How a log is reached. */
export interface RemoteLogOptions {
  /** Base URL as in a signing configuration. */
  readonly url: string
  readonly logs: readonly TrustedLog[]
  readonly fetch?: typeof fetch
  /** For one answer, from request to last byte. */
  readonly timeoutMs?: number
  /** A search by digest in Rekor v2, which has none, reads at most so many of the newest entries. */
  readonly scanLimit?: number
}

/** Opens a Rekor v1 log: its REST interface, and its tiles under `/api/v1/tiles/<tree id>/`. */
export function rekorV1(options: RemoteLogOptions): RemoteLog {
  const http = httpReader(options)
  const api = `${options.url.replace(/\/+$/, '')}/api/v1`
  const json = async (path: string, body?: unknown) =>
    parseJson(await http.text(`${api}${path}`, body), `the reply of ${path}`)
  const treeId = async () => text(member(await json('/log'), 'treeID'), 'treeID')
  const byId = async (id: string) => {
    const { entryId, entry } = parseRekorV1Entry(await json(`/log/entries/${id}`))
    if (!entryId.toLowerCase().endsWith(id.slice(-64).toLowerCase())) {
      throw new VerifierError('wrong_entry', `asked for entry ${id}, got ${entryId}`)
    }
    return entry
  }
  return {
    version: 1,
    async checkpoint() {
      return text(member(await json('/log'), 'signedTreeHead'), 'signedTreeHead')
    },
    async entryAt(index) {
      const { entry } = parseRekorV1Entry(await json(`/log/entries?logIndex=${index}`))
      if (entry.logIndex !== index) throw new VerifierError('wrong_entry', `asked for ${index}, got ${entry.logIndex}`)
      return entry
    },
    entryByLeaf: byId,
    async entriesByDigest(algorithm, digest) {
      const ids = list(await json('/index/retrieve', { hash: `${algorithm}:${toHex(digest)}` }), 'the search result')
      const entries: LogEntry[] = []
      for (const id of ids.slice(0, MAX_SEARCH_RESULTS)) entries.push(await byId(text(id, 'an entry id')))
      return entries
    },
    async consistencyProof(first, second) {
      if (first === second) return []
      const reply = await json(`/log/proof?firstSize=${first}&lastSize=${second}&treeID=${await treeId()}`)
      return list(member(reply, 'hashes'), 'hashes').map((hash) => fromHex(text(hash, 'a proof hash'), 'a proof hash'))
    },
    async bundle(n, size) {
      return readBundle(http, `${api}/tiles/${await treeId()}`, n, size)
    },
  }
}

/** Opens a Rekor v2 log: checkpoint and tiles only (C2SP tlog-tiles), every proof computed here. */
export function rekorV2(options: RemoteLogOptions): RemoteLog {
  const http = httpReader(options)
  const base = options.url.replace(/\/+$/, '')
  const checkpoint = () => http.text(`${base}/checkpoint`)
  const bundle = (n: number, size: number) => readBundle(http, base, n, size)
  const treeOf = (size: number) => new TileTree(size, (path) => http.bytes(`${base}/${path}`, MAX_HASH_TILE_BYTES))
  const prove = async (index: number, body: Uint8Array, head: Head): Promise<LogEntry> => {
    const { note, size, rootHash, logId } = head
    const hashes = await treeOf(size).inclusionProof(index)
    const inclusionProof = { index, size, rootHash, hashes, checkpoint: note }
    return { body, logId, logIndex: index, integratedTimeSeconds: 0, inclusionProof }
  }
  const headNow = async (): Promise<Head> => {
    const note = await checkpoint()
    const { log, checkpoint: signed } = verifySignedCheckpoint(note, options.logs)
    return { note, size: signed.size, rootHash: signed.rootHash, logId: log.logId }
  }
  /** Newest first, since what an auditor looks for is mostly recent. */
  const scan = async (matches: (leaf: Uint8Array) => boolean): Promise<LogEntry[]> => {
    const head = await headNow()
    const found: LogEntry[] = []
    const oldest = Math.max(0, head.size - (options.scanLimit ?? DEFAULT_SCAN_LIMIT))
    for (let n = Math.ceil(head.size / TILE_WIDTH) - 1; n >= 0 && (n + 1) * TILE_WIDTH > oldest; n--) {
      for (const [at, leaf] of (await bundle(n, head.size)).entries()) {
        if (matches(leaf)) found.push(await prove(n * TILE_WIDTH + at, leaf, head))
      }
    }
    return found
  }
  return {
    version: 2,
    checkpoint,
    bundle,
    async entryAt(index) {
      const head = await headNow()
      if (index >= head.size)
        throw new VerifierError('not_found', `the log has ${head.size} entries, so no index ${index}`)
      const leaf = (await bundle(Math.floor(index / TILE_WIDTH), head.size))[index % TILE_WIDTH]
      if (!leaf) throw new VerifierError('malformed', `the bundle does not hold index ${index}`)
      return prove(index, leaf, head)
    },
    async entryByLeaf(leafHashHex) {
      const [entry] = await scan((leaf) => toHex(leafHash(leaf)) === leafHashHex.toLowerCase())
      if (!entry) throw new VerifierError('not_found', `no leaf ${leafHashHex} among the newest entries`)
      return entry
    },
    async entriesByDigest(_algorithm, digest) {
      return scan((leaf) => leafNamesDigest(leaf, digest))
    },
    consistencyProof: (first, second) => treeOf(second).consistencyProof(first),
  }
}

interface Head {
  readonly note: string
  readonly size: number
  readonly rootHash: Uint8Array
  readonly logId: Uint8Array
}

const DEFAULT_TIMEOUT_MS = 20_000
const DEFAULT_SCAN_LIMIT = 100_000
/** A search result names ids; each costs a request, and an auditor reads a handful. */
const MAX_SEARCH_RESULTS = 100
/** 256 hashes. */
const MAX_HASH_TILE_BYTES = 8192
/** 256 entries of 65 535 bytes with their lengths. */
const MAX_BUNDLE_BYTES = 256 * 65_537
/** Rekor v1 entries reach 32 MiB in base64 at worst; one proof and its checkpoint add little. */
const MAX_REPLY_BYTES = 64 * 1024 * 1024

async function readBundle(http: HttpReader, base: string, n: number, size: number): Promise<Uint8Array[]> {
  const width = Math.min(TILE_WIDTH, size - n * TILE_WIDTH)
  const path = entryBundlePath(n, width)
  const bytes = await http.bytes(`${base}/${path}`, MAX_BUNDLE_BYTES)
  try {
    const leaves = decodeEntryBundle(bytes)
    if (leaves.length >= width) return leaves.slice(0, width)
  } catch (error) {
    if (!(error instanceof TlogError)) throw error
    throw new VerifierError('malformed', `${path}: ${error.message}`, { cause: error })
  }
  throw new VerifierError('malformed', `${path} holds fewer than ${width} entries`)
}

interface HttpReader {
  text(url: string, body?: unknown): Promise<string>
  bytes(url: string, limitBytes: number): Promise<Uint8Array>
}

function httpReader(options: RemoteLogOptions): HttpReader {
  const { fetch: ask = fetch, timeoutMs = DEFAULT_TIMEOUT_MS } = options
  const read = async (url: string, limitBytes: number, body?: unknown): Promise<Uint8Array> => {
    const request: RequestInit =
      body === undefined
        ? {}
        : { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }
    try {
      // A log has no business sending an auditor elsewhere.
      const reply = await ask(url, { ...request, redirect: 'error', signal: AbortSignal.timeout(timeoutMs) })
      if (reply.status === 404) throw new VerifierError('not_found', `${url} is not there (404)`)
      if (!reply.ok) throw new VerifierError('unreachable', `${url} answers ${reply.status}`)
      return await readBounded(reply, url, limitBytes)
    } catch (error) {
      if (error instanceof VerifierError) throw error
      throw new VerifierError('unreachable', `${url} gives no answer: ${reasonOf(error)}`, { cause: error })
    }
  }
  return {
    bytes: read,
    text: async (url, body) => new TextDecoder().decode(await read(url, MAX_REPLY_BYTES, body)),
  }
}

/** Node's fetch says "fetch failed" and keeps the reason in its cause. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause instanceof Error && error.cause.message ? error.cause.message : error.message
}

async function readBounded(reply: Response, url: string, limitBytes: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let length = 0
  const reader = reply.body?.getReader()
  for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
    const bytes: Uint8Array = part.value
    length += bytes.length
    if (length > limitBytes) {
      await reader?.cancel()
      throw new VerifierError('unreachable', `${url} sends more than ${limitBytes} bytes`)
    }
    parts.push(bytes)
  }
  const whole = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
