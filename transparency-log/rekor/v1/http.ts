/** Rekor v1's REST interface (openapi.yaml of sigstore/rekor v1.5), every status and text as its clients know them. */
import { encodePem } from '#x509'
import type { Endpoint, EndpointAnswer, EndpointRequest, Section } from '#http'
import { type Added, LogError } from '../../log.ts'
import { isFirstReply, json, LOG_STATUS, markedDelivered, RETRY_AFTER } from '../answer.ts'
import { decodeHex, encodeHex } from '../base64.ts'
import { type EntryChecks, sharedEntryChecks } from '../checks.ts'
import { type CheckedEntry, pendingEntry } from '../entry.ts'
import { EntryError, type EntryErrorCode } from '../errors.ts'
import { MAX_RETRIEVE_BYTES, MAX_SEARCH_BYTES, MAX_V1_REQUEST_BYTES } from '../limits.ts'
import { newEntries, observeV1 } from '../metrics.ts'
import { tileEndpointsOf } from '../tiles.ts'
import { ENTRY_ID } from './entries.ts'
import { entryIdOf, splitEntryId } from './ids.ts'
import { type LogEntry, renderLogEntry } from './log-entry.ts'
import { patternMismatch, required, tooSmall, wrongType } from './schema.ts'
import { MAX_RESULTS, searchIndex } from './search.ts'
import type { RekorV1Shards, V1Shard } from './shards.ts'

export interface RekorV1Options {
  /** Its trees; a successor that joins them is served from then on. */
  readonly shards: RekorV1Shards
  readonly checks?: EntryChecks
}

interface Context {
  readonly shards: RekorV1Shards
  readonly checks: EntryChecks
}

/** The v1 service of one tree or of several shards; each is also served as C2SP tiles under `/api/v1/tiles/<treeId>`. */
export function rekorV1Section({ shards, checks = sharedEntryChecks() }: RekorV1Options): Section {
  const context: Context = { shards, checks }
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
    ...tileEndpointsOf(({ params }) => shardOf(shards, params['treeId'] ?? '')?.log, '/api/v1/tiles/:treeId'),
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

async function createEntry(request: EndpointRequest, { shards, checks }: Context): Promise<EndpointAnswer> {
  const fault = (await shards.active()).log.fault()
  if (fault !== undefined) throw new LogError(fault.code, fault.message)
  const entry = await checks.insertion(request.body)
  const { shard, added } = await addTo(shards, entry)
  const { log, tree } = shard
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
  const answer = json(201, renderLogEntry(shard, proven, { attestation: false }), { etag: entryId, location })
  return { ...markedDelivered(log, added.index, answer), log: { logIndex: added.index, kind: entry.kind } }
}

/** To the active shard; once more if that ended meanwhile and has a successor. */
async function addTo(shards: RekorV1Shards, entry: CheckedEntry): Promise<{ shard: V1Shard; added: Added }> {
  const shard = await shards.active()
  try {
    return { shard, added: await shard.log.add(pendingEntry(entry)) }
  } catch (error) {
    const next = await shards.active()
    if (!(error instanceof LogError) || error.code !== 'frozen' || next.log === shard.log) throw error
    return { shard: next, added: await next.log.add(pendingEntry(entry)) }
  }
}

async function entryByIndex({ query }: EndpointRequest, { shards }: Context): Promise<EndpointAnswer> {
  const given = query.get('logIndex')
  if (given === null || given === '') throw required('logIndex', 'query')
  const index = int64(given, 'logIndex')
  if (index < 0) throw tooSmall('logIndex', 'query', 0)
  const entry = await readEntry(shards, index)
  return entry === undefined ? noSuchEntry : json(200, entry)
}

async function entryById({ params }: EndpointRequest, { shards }: Context): Promise<EndpointAnswer> {
  const id = params['entryUUID'] ?? ''
  if (!ENTRY_ID.test(id)) throw patternMismatch('entryUUID', 'path', ENTRY_ID)
  const parts = entryIdParts(id, (message) => `validation error: ${message}`)
  const [entry] = await findEntries(shards, parts)
  return entry === undefined ? noSuchEntry : json(200, entry)
}

/** Entry ids first, then leaf hashes and whole entries, then indexes; what is not there is left out. */
async function retrieve(request: EndpointRequest, { shards, checks }: Context): Promise<EndpointAnswer> {
  const { entryIds, logIndexes, leafHashes } = await checks.retrieval(request.body)
  const parts = entryIds.map((id) => entryIdParts(id, () => `invalid entryID ${id}`))
  const withTree = parts.filter(({ treeHex }) => treeHex !== undefined)
  const bare = parts.filter(({ treeHex }) => treeHex === undefined)
  const wholes = leafHashes.map((leafHash) => ({ treeHex: undefined, leafHashHex: encodeHex(leafHash) }))
  const [byId, byIndex] = await Promise.all([
    Promise.all([...withTree, ...bare, ...wholes].map((wanted) => findEntries(shards, wanted))),
    Promise.all(logIndexes.map((index) => readEntry(shards, index))),
  ])
  return json(200, [...byId.flat(), ...byIndex.filter((entry) => entry !== undefined)])
}

function logInfo(_request: EndpointRequest, { shards }: Context): EndpointAnswer {
  const { log, tree } = shards.newest()
  const earlier = shards.all().slice(0, -1)
  return json(200, { inactiveShards: earlier.map(headOf), ...headOf({ log, tree }) })
}

function headOf({ log, tree }: Pick<V1Shard, 'log' | 'tree'>) {
  const head = log.head()
  return {
    rootHash: encodeHex(head.rootHash),
    signedTreeHead: head.note,
    treeID: tree.decimal,
    treeSize: head.size,
  }
}

async function consistencyProof({ query }: EndpointRequest, { shards }: Context): Promise<EndpointAnswer> {
  const firstSize = int64(query.get('firstSize') ?? '1', 'firstSize')
  if (firstSize < 1) throw tooSmall('firstSize', 'query', 1)
  const last = query.get('lastSize')
  if (last === null || last === '') throw required('lastSize', 'query')
  const lastSize = int64(last, 'lastSize')
  if (lastSize < 1) throw tooSmall('lastSize', 'query', 1)
  const treeId = treeIdOf(query)
  if (firstSize > lastSize) throw refusal(`firstSize(${firstSize}) must be less than lastSize(${lastSize})`)
  if (treeId !== '' && BigInt(treeId) > MAX_INT64) throw refusal(`invalid tree ID specified: ${treeId}`)
  const shard = treeId === '' ? shards.newest() : shardOf(shards, treeId)
  if (shard === undefined) throw refusal(`no log range found for tree ID ${BigInt(treeId)}`)
  const { log } = shard
  // The root of the answer is the present one, whatever lastSize is: rekor's own semantics, which its clients check.
  const head = log.head()
  if (lastSize > head.size) {
    throw refusal(`the tree size requested(${lastSize}) was greater than what is currently observable(${head.size})`)
  }
  const hashes = await log.consistencyProof(firstSize, lastSize)
  return json(200, { hashes: hashes.map(encodeHex), rootHash: encodeHex(head.rootHash) })
}

function publicKey({ query }: EndpointRequest, { shards }: Context): EndpointAnswer {
  const treeId = treeIdOf(query)
  const shard = treeId === '' ? shards.newest() : shardOf(shards, treeId)
  if (shard === undefined) return json(400, { code: 400, message: 'Bad Request' })
  // rekor-cli's generated client takes this type only.
  return {
    status: 200,
    headers: { 'content-type': 'application/x-pem-file' },
    body: encodePem('PUBLIC KEY', shard.log.spkiDer),
  }
}

/** Newest shard first, as within a shard newest entries first. */
async function search(request: EndpointRequest, { shards }: Context): Promise<EndpointAnswer> {
  const ids: string[] = []
  for (const { log, tree } of shards.all().toReversed()) {
    const indexes = await searchIndex(log, request.body)
    const entries = await Promise.all(indexes.map((index) => log.entry(index)))
    ids.push(...entries.flatMap((entry) => (entry === undefined ? [] : [entryIdOf(tree, entry.leafHash)])))
  }
  return json(200, ids.slice(0, MAX_RESULTS))
}

/** The shard with this tree id in decimal, however it is padded. */
function shardOf(shards: RekorV1Shards, treeId: string): V1Shard | undefined {
  if (!TREE_ID.test(treeId) || treeId.length > 32) return undefined
  return shards.all().find(({ tree }) => BigInt(tree.decimal) === BigInt(treeId))
}

/** At most one for an id with its tree; for a leaf hash alone one of each shard that has it, newest first. */
async function findEntries(
  shards: RekorV1Shards,
  { treeHex, leafHashHex }: { treeHex: string | undefined; leafHashHex: string },
): Promise<LogEntry[]> {
  const leafHash = decodeHex(leafHashHex)
  const among = shards.all().filter(({ tree }) => treeHex === undefined || treeHex === tree.hex)
  const found = await Promise.all(
    among.toReversed().map(async (shard) => {
      const index = await shard.log.indexOfLeafHash(leafHash)
      return index === undefined ? undefined : await readIn(shard, index)
    }),
  )
  return found.filter((entry) => entry !== undefined)
}

/** By the index that counts through all shards. */
async function readEntry(shards: RekorV1Shards, index: number): Promise<LogEntry | undefined> {
  if (!Number.isSafeInteger(index)) return undefined
  const shard = shards.all().findLast(({ offset }) => index >= offset)
  return shard === undefined ? undefined : await readIn(shard, index - shard.offset)
}

async function readIn(shard: V1Shard, index: number): Promise<LogEntry | undefined> {
  const proven = await shard.log.prove(index)
  return proven === undefined ? undefined : renderLogEntry(shard, proven, { attestation: true })
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
