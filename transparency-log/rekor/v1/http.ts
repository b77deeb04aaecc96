/** Rekor v1's REST interface (openapi.yaml of sigstore/rekor v1.5), every status and text as its clients know them. */
import { encodePem } from '#x509'
import type { Endpoint, EndpointAnswer, EndpointRequest, Section } from '#http'
import { type Log, LogError } from '../../log.ts'
import { isFirstReply, json, LOG_STATUS, markedDelivered, RETRY_AFTER } from '../answer.ts'
import { decodeHex, encodeHex } from '../base64.ts'
import { type EntryChecks, sharedEntryChecks } from '../checks.ts'
import { pendingEntry } from '../entry.ts'
import { EntryError, type EntryErrorCode } from '../errors.ts'
import { MAX_RETRIEVE_BYTES, MAX_SEARCH_BYTES, MAX_V1_REQUEST_BYTES } from '../limits.ts'
import { newEntries, observeV1 } from '../metrics.ts'
import { tileEndpoints } from '../tiles.ts'
import { ENTRY_ID } from './entries.ts'
import { entryIdOf, parseTreeId, splitEntryId, type TreeId } from './ids.ts'
import { type LogEntry, renderLogEntry } from './log-entry.ts'
import { patternMismatch, required, tooSmall, wrongType } from './schema.ts'
import { searchIndex } from './search.ts'

export interface RekorV1Options {
  /** A log of kind `rekor-v1`, its entry signatures made by `rekorV1SignEntry`. */
  readonly log: Log
  /** The tree's id, a positive int64 in decimal, with which the log's origin ends (`<host> - <treeId>`). */
  readonly treeId: string
  readonly checks?: EntryChecks
}

interface Context {
  readonly log: Log
  readonly tree: TreeId
  readonly checks: EntryChecks
}

/**
 * The v1 service of one tree, which is also served as C2SP tiles under `/api/v1/tiles/<treeId>`. Throws RangeError for
 * a tree id that is not the origin's: sigstore-go tells v1 from v2 by it.
 */
export function rekorV1Section({ log, treeId, checks = sharedEntryChecks() }: RekorV1Options): Section {
  const tree = parseTreeId(treeId)
  if (!log.origin.endsWith(` - ${tree.decimal}`)) {
    throw new RangeError(`origin ${JSON.stringify(log.origin)} does not end with the tree id ${tree.decimal}`)
  }
  const context: Context = { log, tree, checks }
  const route = (
    method: Endpoint['method'],
    path: string,
    limitBytes: number,
    answer: (request: EndpointRequest, context: Context) => EndpointAnswer | Promise<EndpointAnswer>,
    produces = 'application/json',
  ): Endpoint => ({
    method,
    path,
    limitBytes,
    answer: (request) =>
      translated(path, () => refusedMedia(request, produces) ?? answer(request, context), method === 'GET'),
  })
  const endpoints = [
    route('POST', ENTRIES, MAX_V1_REQUEST_BYTES, createEntry),
    route('GET', ENTRIES, 0, entryByIndex),
    route('GET', `${ENTRIES}/:entryUUID`, 0, entryById),
    route('POST', `${ENTRIES}/retrieve`, MAX_RETRIEVE_BYTES, retrieve),
    route('GET', '/api/v1/log', 0, logInfo),
    route('GET', '/api/v1/log/proof', 0, consistencyProof),
    route('GET', '/api/v1/log/publicKey', 0, publicKey, 'application/x-pem-file'),
    route('POST', '/api/v1/index/retrieve', MAX_SEARCH_BYTES, search),
    ...tileEndpoints(log, `/api/v1/tiles/${tree.decimal}`),
    { method: 'GET', path: '/ping', limitBytes: 0, answer: () => ({ status: 200, headers: plainText, body: '.' }) },
  ] satisfies Endpoint[]
  return {
    name: 'rekor-v1',
    endpoints,
    faults: faultsOf(endpoints),
    corsRequestHeaders: ['content-type', 'accept'],
    observe: observeV1,
  }
}

const ENTRIES = '/api/v1/log/entries'
const plainText = { 'content-type': 'text/plain; charset=utf-8' }

async function createEntry(request: EndpointRequest, { log, tree, checks }: Context): Promise<EndpointAnswer> {
  const fault = log.fault()
  if (fault !== undefined) throw new LogError(fault.code, fault.message)
  const entry = await checks.insertion(request.body)
  const added = await log.add(pendingEntry(entry))
  const entryId = entryIdOf(tree, added.leafHash)
  const location = `${ENTRIES}/${entryId}`
  if (!isFirstReply(added)) {
    const message = `an equivalent entry already exists in the transparency log with UUID ${entryId}`
    return json(409, { code: 409, message }, { location })
  }
  const proven = await log.prove(added.index)
  if (proven === undefined) throw new LogError('unavailable', 'the entry is not readable yet')
  if (!added.duplicate) newEntries.inc()
  // Not quoted, against RFC 9110: sigstore-go finds the entry in the reply by these very characters.
  const answer = json(201, renderLogEntry(log, tree, proven, { attestation: false }), { etag: entryId, location })
  return { ...markedDelivered(log, added.index, answer), log: { logIndex: added.index, kind: entry.kind } }
}

async function entryByIndex({ query }: EndpointRequest, { log, tree }: Context): Promise<EndpointAnswer> {
  const given = query.get('logIndex')
  if (given === null || given === '') throw required('logIndex', 'query')
  const index = int64(given, 'logIndex')
  if (index < 0) throw tooSmall('logIndex', 'query', 0)
  const entry = await readEntry(log, tree, index)
  return entry === undefined ? noSuchEntry : json(200, entry)
}

async function entryById({ params }: EndpointRequest, { log, tree }: Context): Promise<EndpointAnswer> {
  const id = params['entryUUID'] ?? ''
  if (!ENTRY_ID.test(id)) throw patternMismatch('entryUUID', 'path', ENTRY_ID)
  const parts = entryIdParts(id, (message) => `validation error: ${message}`)
  const entry = await findEntry(log, tree, parts)
  return entry === undefined ? noSuchEntry : json(200, entry)
}

/** Entry ids first, then leaf hashes and whole entries, then indexes; what is not there is left out. */
async function retrieve(request: EndpointRequest, { log, tree, checks }: Context): Promise<EndpointAnswer> {
  const { entryIds, logIndexes, leafHashes } = await checks.retrieval(request.body)
  const parts = entryIds.map((id) => entryIdParts(id, () => `invalid entryID ${id}`))
  const withTree = parts.filter(({ treeHex }) => treeHex !== undefined)
  const bare = parts.filter(({ treeHex }) => treeHex === undefined)
  const wholes = leafHashes.map((leafHash) => ({ treeHex: undefined, leafHashHex: encodeHex(leafHash) }))
  const found = await Promise.all([
    ...[...withTree, ...bare, ...wholes].map((wanted) => findEntry(log, tree, wanted)),
    ...logIndexes.map((index) => readEntry(log, tree, index)),
  ])
  return json(
    200,
    found.filter((entry) => entry !== undefined),
  )
}

function logInfo(_request: EndpointRequest, { log, tree }: Context): EndpointAnswer {
  const head = log.head()
  return json(200, {
    inactiveShards: [],
    rootHash: encodeHex(head.rootHash),
    signedTreeHead: head.note,
    treeID: tree.decimal,
    treeSize: head.size,
  })
}

async function consistencyProof({ query }: EndpointRequest, { log, tree }: Context): Promise<EndpointAnswer> {
  const firstSize = int64(query.get('firstSize') ?? '1', 'firstSize')
  if (firstSize < 1) throw tooSmall('firstSize', 'query', 1)
  const last = query.get('lastSize')
  if (last === null || last === '') throw required('lastSize', 'query')
  const lastSize = int64(last, 'lastSize')
  if (lastSize < 1) throw tooSmall('lastSize', 'query', 1)
  const treeId = treeIdOf(query)
  if (firstSize > lastSize) throw refusal(`firstSize(${firstSize}) must be less than lastSize(${lastSize})`)
  if (treeId !== '' && BigInt(treeId) > MAX_INT64) throw refusal(`invalid tree ID specified: ${treeId}`)
  if (treeId !== '' && BigInt(treeId) !== BigInt(tree.decimal)) {
    throw refusal(`no log range found for tree ID ${BigInt(treeId)}`)
  }
  // The root of the answer is the present one, whatever lastSize is: rekor's own semantics, which its clients check.
  const head = log.head()
  if (lastSize > head.size) {
    throw refusal(`the tree size requested(${lastSize}) was greater than what is currently observable(${head.size})`)
  }
  const hashes = await log.consistencyProof(firstSize, lastSize)
  return json(200, { hashes: hashes.map(encodeHex), rootHash: encodeHex(head.rootHash) })
}

function publicKey({ query }: EndpointRequest, { log, tree }: Context): EndpointAnswer {
  const treeId = treeIdOf(query)
  if (treeId !== '' && BigInt(treeId) !== BigInt(tree.decimal)) return json(400, { code: 400, message: 'Bad Request' })
  // rekor-cli's generated client takes this type only.
  return {
    status: 200,
    headers: { 'content-type': 'application/x-pem-file' },
    body: encodePem('PUBLIC KEY', log.spkiDer),
  }
}

async function search(request: EndpointRequest, { log, tree }: Context): Promise<EndpointAnswer> {
  const indexes = await searchIndex(log, request.body)
  const entries = await Promise.all(indexes.map((index) => log.entry(index)))
  return json(
    200,
    entries.flatMap((entry) => (entry === undefined ? [] : [entryIdOf(tree, entry.leafHash)])),
  )
}

async function findEntry(
  log: Log,
  tree: TreeId,
  { treeHex, leafHashHex }: { treeHex: string | undefined; leafHashHex: string },
): Promise<LogEntry | undefined> {
  if (treeHex !== undefined && treeHex !== tree.hex) return undefined
  const index = await log.indexOfLeafHash(decodeHex(leafHashHex))
  return index === undefined ? undefined : readEntry(log, tree, index)
}

async function readEntry(log: Log, tree: TreeId, index: number): Promise<LogEntry | undefined> {
  if (!Number.isSafeInteger(index)) return undefined
  const proven = await log.prove(index)
  return proven === undefined ? undefined : renderLogEntry(log, tree, proven, { attestation: true })
}

function entryIdParts(id: string, message: (reason: string) => string): ReturnType<typeof splitEntryId> {
  try {
    return splitEntryId(id)
  } catch (error) {
    if (error instanceof EntryError) throw refusal(message(error.message))
    throw error
  }
}

const MAX_INT64 = 2n ** 63n - 1n
const TREE_ID = /^[0-9]+$/

/** The `treeID` of a query, empty if there is none; at most 32 digits are read. */
function treeIdOf(query: URLSearchParams): string {
  const treeId = query.get('treeID') ?? ''
  if (treeId !== '' && (treeId.length > 32 || !TREE_ID.test(treeId))) throw patternMismatch('treeID', 'query', TREE_ID)
  return treeId
}

/** A 64-bit integer; one beyond 2^53 is as far outside of any tree as its nearest number here. */
function int64(text: string, name: string): number {
  if (!/^[+-]?[0-9]{1,20}$/.test(text)) throw wrongType(name, 'query', 'int64', text.slice(0, 64))
  const value = BigInt(text.replace(/^\+/, ''))
  if (value > MAX_INT64 || value < -MAX_INT64 - 1n) throw wrongType(name, 'query', 'int64', text)
  return Number(value)
}

/** A refusal whose text goes out as it is, without `error processing entry`. */
class Refusal extends Error {
  override readonly name = 'Refusal'
}

function refusal(message: string): Refusal {
  return new Refusal(message)
}

/** 415 for a body that is not declared as JSON, 406 if nothing that can be sent is accepted; parameters do not matter. */
function refusedMedia({ method, headers }: EndpointRequest, produces: string): EndpointAnswer | undefined {
  if (method === 'POST') {
    const type = mediaType(headers['content-type'] ?? 'application/octet-stream')
    if (type !== 'application/json') {
      const message = `unsupported media type ${JSON.stringify(type.slice(0, 64))}, only [application/json] are allowed`
      return json(415, { code: 415, message })
    }
  }
  const accepted = (headers['accept'] ?? '*/*').split(',').map(mediaType)
  if (accepted.some((type) => type === '*/*' || type === 'application/*' || type === produces || type === '')) {
    return undefined
  }
  return json(406, { code: 406, message: `unsupported media type requested, only [${produces}] are available` })
}

function mediaType(header: string): string {
  return (header.split(';', 1)[0] ?? '').trim().toLowerCase()
}

/** chi's NoCache headers, which upstream puts on every GET. */
const NO_CACHE = {
  expires: 'Thu, 01 Jan 1970 00:00:00 UTC',
  'cache-control': 'no-cache, no-store, no-transform, must-revalidate, private, max-age=0',
  pragma: 'no-cache',
  'x-accel-expires': '0',
}

/** Upstream's 404 of an entry: no body and no content type. */
const noSuchEntry: EndpointAnswer = { status: 404 }

const ENTRY_STATUS = {
  malformed_json: 400,
  schema: 422,
  invalid: 400,
  unsupported_kind: 400,
  unsupported_algorithm: 400,
  bad_signature: 400,
  too_many: 400,
  busy: 503,
} as const satisfies Record<EntryErrorCode, number>

async function translated(
  path: string,
  answer: () => EndpointAnswer | Promise<EndpointAnswer>,
  noCache: boolean,
): Promise<EndpointAnswer> {
  const given = await answered(path, answer)
  return noCache ? { ...given, headers: { ...NO_CACHE, ...given.headers } } : given
}

async function answered(path: string, answer: () => EndpointAnswer | Promise<EndpointAnswer>): Promise<EndpointAnswer> {
  try {
    return await answer()
  } catch (error) {
    if (error instanceof Refusal) return json(400, { code: 400, message: error.message })
    if (error instanceof EntryError) return entryFault(path, error)
    if (error instanceof LogError) return logFault(error)
    throw error
  }
}

function entryFault(path: string, error: EntryError): EndpointAnswer {
  const status = ENTRY_STATUS[error.code]
  const answer =
    error.code === 'schema'
      ? json(422, { code: error.schemaCode ?? 422, message: error.message })
      : json(
          status,
          { code: status, message: path === ENTRIES && error.code !== 'busy' ? insertionText(error) : error.message },
          status === 503 ? { 'retry-after': RETRY_AFTER } : {},
        )
  return { ...answer, log: { refused: error.code } }
}

function insertionText({ code, message }: EntryError): string {
  return code === 'malformed_json'
    ? `parsing proposedEntry body from "" failed, because ${message}`
    : `error processing entry: ${message}`
}

const LOG_TEXT: Partial<Record<LogError['code'], string>> = {
  pool_full: 'too many entries are waiting for their place in the log; retry',
  unavailable: 'the log cannot be written just now; retry',
  fork_refused: 'this log is read-only until its operator acts',
  disk_io_error: 'this log is read-only until its operator acts',
  anchor_ahead: 'this log is read-only until its operator acts',
  anchor_disagrees: 'this log is read-only until its operator acts',
  guard_behind: 'this log is read-only until its operator acts',
  store_replaced: 'this log is read-only until its operator acts',
  origin_in_use: 'the log cannot be written just now; retry',
  frozen: 'this log has been frozen, please switch to the latest log',
}

function logFault({ code, message }: LogError): EndpointAnswer {
  const status = LOG_STATUS[code]
  const answer = json(
    status,
    { code: status, message: LOG_TEXT[code] ?? message },
    status === 503 ? { 'retry-after': RETRY_AFTER } : {},
  )
  return { ...answer, log: { refused: code } }
}

function faultsOf(endpoints: readonly Endpoint[]): Section['faults'] {
  const methodsOf = (path: string): string[] => {
    const segments = path.split('/')
    const fitting = endpoints.filter((endpoint) => {
      const pattern = endpoint.path.split('/')
      return (
        pattern.length === segments.length &&
        pattern.every((part, i) => part === segments[i] || part.startsWith(':') || part.startsWith('*'))
      )
    })
    return [...new Set<string>(fitting.map(({ method }) => method))]
  }
  return {
    notFound: (path) => json(404, { code: 404, message: `path ${path} was not found` }),
    methodNotAllowed: (method, path) => {
      const allowed = methodsOf(path).join(',')
      const message = `method ${method} is not allowed, but [${allowed}] are`
      return json(405, { code: 405, message }, { allow: allowed })
    },
    tooLarge: (limitBytes) => json(413, { code: 413, message: `Request Entity Too Large. Limit set to ${limitBytes}` }),
    timedOut: () => json(408, { code: 408, message: 'the request body did not arrive in time' }),
    internal: (requestId) => json(500, { code: 500, message: `internal error; request ${requestId}` }),
    overloaded: () => json(503, { code: 503, message: 'too many requests; retry' }, { 'retry-after': RETRY_AFTER }),
  }
}
