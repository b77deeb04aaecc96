/** Rekor v2 (rekor-tiles): one write, and the log as C2SP tiles. */
import type { Endpoint, EndpointAnswer, EndpointRequest, Section } from '#http'
import { type Log, LogError, type LogErrorCode, type ProvenEntry } from '../../log.ts'
import { isFirstReply, json, LOG_STATUS, markedDelivered, RETRY_AFTER } from '../answer.ts'
import { encodeBase64 } from '../base64.ts'
import { type EntryChecks, sharedEntryChecks } from '../checks.ts'
import { type CheckedEntry, pendingEntry } from '../entry.ts'
import { EntryError, type EntryErrorCode } from '../errors.ts'
import { MAX_V2_REQUEST_BYTES } from '../limits.ts'
import { newDsseEntries, newHashedRekordEntries, observeV2 } from '../metrics.ts'
import { type Cosignatures, tileEndpoints } from '../tiles.ts'

export interface RekorV2Options {
  /** A log of kind `rekor-v2`. */
  readonly log: Log
  /** Take hashedrekord only, as rekor-tiles 2.3 does; without it also dsse, which cosign 2.6 and sigstore-js send. */
  readonly strict?: boolean
  readonly checks?: EntryChecks
  /** What witnesses have signed, for the checkpoint under `/checkpoint`; replies to uploads never wait for them. */
  readonly cosignatures?: Cosignatures
  /**
   * Which log takes what is uploaded here, asked for each upload: this one unless told. The reply is that log's, with its
   * id and checkpoint. `frozen` is answered as upstream's frozen shards answer.
   */
  readonly uploadsTo?: () => Log | 'frozen'
}

/** The v2 service; tiles and checkpoint stand under `/` and under `/api/v2`. */
export function rekorV2Section(options: RekorV2Options): Section {
  const { log, strict = false, checks = sharedEntryChecks(), cosignatures, uploadsTo = () => log } = options
  const create: Endpoint = {
    method: 'POST',
    path: '/api/v2/log/entries',
    limitBytes: MAX_V2_REQUEST_BYTES,
    answer: (request) => translated(() => createEntry(request, uploadsTo, strict, checks)),
  }
  const health: Endpoint = {
    method: 'GET',
    path: '/healthz',
    limitBytes: 0,
    answer: () => ({ status: 200, headers: { 'content-type': 'application/json' }, body: '{"status":"SERVING"}\n' }),
  }
  return {
    name: 'rekor-v2',
    endpoints: [
      create,
      health,
      ...tileEndpoints(log, '', cosignatures),
      ...tileEndpoints(log, '/api/v2', cosignatures),
    ],
    faults,
    corsRequestHeaders: ['content-type'],
    observe: observeV2,
  }
}

/** gRPC status codes of the error bodies (google.rpc.Code). */
const GRPC = {
  unknown: 2,
  invalidArgument: 3,
  notFound: 5,
  alreadyExists: 6,
  unimplemented: 12,
  unavailable: 14,
} as const

async function createEntry(
  request: EndpointRequest,
  uploadsTo: () => Log | 'frozen',
  strict: boolean,
  checks: EntryChecks,
): Promise<EndpointAnswer> {
  writable(uploadsTo())
  const entry = await checks.creation(request.body, { strict })
  // Looked up again: the log may have got a successor meanwhile, and takes nothing then.
  const log = writable(uploadsTo())
  const added = await log.add(pendingEntry(entry))
  if (!isFirstReply(added)) {
    return grpcError(
      409,
      GRPC.alreadyExists,
      `an equivalent entry already exists in the transparency log with index ${added.index}`,
      { 'x-log-index': String(added.index) },
    )
  }
  const proven = await log.prove(added.index)
  if (proven === undefined) throw new LogError('unavailable', 'the entry is not readable yet')
  if (!added.duplicate) (entry.kind === 'dsse' ? newDsseEntries : newHashedRekordEntries).inc()
  const answer = json(201, renderTransparencyLogEntry(log, entry, proven))
  return { ...markedDelivered(log, added.index, answer), log: { logIndex: added.index, kind: entry.kind } }
}

/** Throws `LogError` for a log that takes no entry. */
function writable(log: Log | 'frozen'): Log {
  if (log === 'frozen') throw new LogError('frozen', 'the log is frozen; use the current one')
  const fault = log.fault()
  if (fault !== undefined) throw new LogError(fault.code, fault.message)
  return log
}

/** `TransparencyLogEntry` of sigstore_rekor.proto, as protojson writes it with unset fields. */
function renderTransparencyLogEntry(
  log: Pick<Log, 'logId'>,
  { kind, version }: CheckedEntry,
  { entry, head, inclusionProof }: ProvenEntry,
): unknown {
  return {
    logIndex: String(entry.index),
    logId: { keyId: encodeBase64(log.logId) },
    kindVersion: { kind, version },
    integratedTime: '0',
    inclusionPromise: null,
    inclusionProof: {
      logIndex: String(entry.index),
      rootHash: encodeBase64(head.rootHash),
      treeSize: String(head.size),
      hashes: inclusionProof.map(encodeBase64),
      checkpoint: { envelope: head.note },
    },
    canonicalizedBody: encodeBase64(entry.leaf),
  }
}

const ENTRY_STATUS = {
  malformed_json: 400,
  schema: 400,
  invalid: 400,
  unsupported_kind: 400,
  unsupported_algorithm: 400,
  bad_signature: 400,
  too_many: 400,
  busy: 503,
} as const satisfies Record<EntryErrorCode, number>

const LOG_GRPC = {
  pool_full: GRPC.unavailable,
  unavailable: GRPC.unavailable,
  fork_refused: GRPC.unavailable,
  disk_io_error: GRPC.unavailable,
  anchor_ahead: GRPC.unavailable,
  anchor_disagrees: GRPC.unavailable,
  guard_behind: GRPC.unavailable,
  origin_in_use: GRPC.unavailable,
  store_replaced: GRPC.unavailable,
  frozen: GRPC.unimplemented,
  not_found: GRPC.notFound,
  out_of_range: GRPC.invalidArgument,
  invalid_entry: GRPC.invalidArgument,
} as const satisfies Record<LogErrorCode, number>

async function translated(answer: () => Promise<EndpointAnswer>): Promise<EndpointAnswer> {
  try {
    return await answer()
  } catch (error) {
    if (error instanceof EntryError) {
      if (error.code === 'busy') return pushback()
      return {
        ...grpcError(ENTRY_STATUS[error.code], GRPC.invalidArgument, error.message),
        log: { refused: error.code },
      }
    }
    if (error instanceof LogError) return { ...logFault(error), log: { refused: error.code } }
    throw error
  }
}

function logFault(error: LogError): EndpointAnswer {
  // Upstream's own text, which is not JSON.
  if (error.code === 'frozen') {
    return {
      status: 405,
      headers: { 'content-type': 'text/plain; charset=utf-8' },
      body: 'This log has been frozen, please switch to the latest log.\n',
    }
  }
  if (error.code === 'pool_full') return pushback()
  const status = LOG_STATUS[error.code]
  const text = error.code === 'fork_refused' ? 'this log is read-only until its operator acts' : error.message
  return grpcError(status, LOG_GRPC[error.code], text, status === 503 ? { 'retry-after': RETRY_AFTER } : {})
}

function pushback(): EndpointAnswer {
  return grpcError(503, GRPC.unavailable, 'reached max pushback; retry', { 'retry-after': RETRY_AFTER })
}

function grpcError(
  status: number,
  code: number,
  message: string,
  headers: Readonly<Record<string, string>> = {},
): EndpointAnswer {
  return json(status, { code, message, details: [] }, headers)
}

const faults: Section['faults'] = {
  notFound: () => grpcError(404, GRPC.notFound, 'Not Found'),
  // grpc-gateway answers a wrong method so.
  methodNotAllowed: () => grpcError(501, GRPC.unimplemented, 'Method Not Allowed'),
  tooLarge: (limitBytes) => grpcError(413, GRPC.invalidArgument, `request body is larger than ${limitBytes} bytes`),
  timedOut: () => grpcError(408, GRPC.unavailable, 'the request body did not arrive in time'),
  internal: (requestId) => grpcError(500, GRPC.unknown, `internal error; request ${requestId}`),
  overloaded: pushback,
}
