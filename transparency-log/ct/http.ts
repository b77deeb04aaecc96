/** The HTTP interface of RFC 6962 §4, under `/ct/v1/`. */
import type { Endpoint, EndpointAnswer, EndpointRequest, Section } from '#http'
import { digitallySigned, parseSct, type SctEntry } from '#x509'
import { type Log, LogError, type LogErrorCode } from '../log.ts'
import { AcceptedRoots, checkChain } from './chain.ts'
import { CtError, type CtErrorCode } from './errors.ts'
import { observe, submissions } from './metrics.ts'
import { submit } from './submission.ts'

export interface CtSectionOptions {
  /** A log of kind `ct`, its entry signatures made by `ctSignEntry`. */
  readonly log: Log
  readonly roots: AcceptedRoots
}

/** A chain of three certificates is some 5 KB as JSON. */
const MAX_SUBMISSION_BYTES = 256 * 1024

/** Entries of one get-entries reply; RFC 6962 §4.6 lets a log return fewer than asked for. */
const MAX_ENTRIES = 256

/** Seconds after which a client may try again. */
const RETRY_AFTER = '1'

const CT_STATUS = {
  bad_request: 400,
  bad_certificate: 400,
  bad_chain: 400,
  wrong_endpoint: 400,
  not_found: 404,
} as const satisfies Record<CtErrorCode, number>

/** Fulcio's client retries 429 and 503 after Retry-After and gives up at once on others. */
const LOG_STATUS = {
  pool_full: 429,
  unavailable: 503,
  fork_refused: 503,
  disk_io_error: 503,
  anchor_ahead: 503,
  anchor_disagrees: 503,
  guard_behind: 503,
  origin_in_use: 503,
  store_replaced: 503,
  frozen: 403,
  not_found: 404,
  out_of_range: 400,
  invalid_entry: 400,
} as const satisfies Record<LogErrorCode, number>

/** The CT log's endpoints. */
export function ctSection({ log, roots: accepted }: CtSectionOptions): Section {
  const get = (name: string, answer: (query: Query) => unknown): Endpoint => ({
    method: 'GET',
    path: `/ct/v1/${name}`,
    limitBytes: 0,
    answer: (request) => answering(async () => answer(new Query(request.query))),
  })
  const post = (name: string, type: SctEntry['type']): Endpoint => ({
    method: 'POST',
    path: `/ct/v1/${name}`,
    limitBytes: MAX_SUBMISSION_BYTES,
    answer: (request) => answering(() => addChain(log, accepted, type, request)),
  })
  return {
    name: 'ct',
    endpoints: [
      post('add-chain', 'x509'),
      post('add-pre-chain', 'precert'),
      get('get-sth', () => signedTreeHead(log)),
      get('get-sth-consistency', (query) => consistency(log, query)),
      get('get-proof-by-hash', (query) => proofByHash(log, query)),
      get('get-entries', (query) => entries(log, query)),
      get('get-entry-and-proof', (query) => entryAndProof(log, query)),
      get('get-roots', () => ({ certificates: accepted.certificates.map(({ der }) => base64(der)) })),
    ],
    faults: {
      notFound: () => failure(404, 'there is no such endpoint'),
      methodNotAllowed: (method) => failure(405, `${method} is not allowed here`),
      tooLarge: (limitBytes) => failure(413, `the body is over ${limitBytes} bytes`),
      timedOut: () => failure(408, 'the body did not arrive in time'),
      internal: (requestId) => failure(500, `internal error, request ${requestId}`),
      overloaded: () => failure(503, 'too many requests, try again', RETRY_AFTER),
    },
    observe,
  }
}

async function addChain(
  log: Log,
  roots: AcceptedRoots,
  type: SctEntry['type'],
  request: EndpointRequest,
): Promise<unknown> {
  const checked = checkChain(readChain(request.body), type, roots)
  const sct = parseSct(await submit(log, checked))
  submissions.inc({ type })
  return {
    sct_version: 0,
    id: base64(sct.logId),
    timestamp: sct.timestampMs,
    extensions: base64(sct.extensions),
    signature: base64(digitallySigned(sct.signatureDer)),
  }
}

function signedTreeHead(log: Log): unknown {
  const { size, timestampMs, rootHash, signature } = log.head()
  return {
    tree_size: size,
    timestamp: timestampMs,
    sha256_root_hash: base64(rootHash),
    tree_head_signature: base64(digitallySigned(signature)),
  }
}

async function consistency(log: Log, query: Query): Promise<unknown> {
  const proof = await log.consistencyProof(query.number('first'), query.number('second'))
  return { consistency: proof.map(base64) }
}

async function proofByHash(log: Log, query: Query): Promise<unknown> {
  const size = query.number('tree_size')
  const index = await log.indexOfLeafHash(query.hash('hash'))
  if (index === undefined || (index >= size && size <= log.head().size)) {
    throw new CtError('not_found', 'no entry with this leaf hash in a tree of this size')
  }
  const proof = await log.inclusionProof(index, size)
  return { leaf_index: index, audit_path: proof.map(base64) }
}

async function entries(log: Log, query: Query): Promise<unknown> {
  const start = query.number('start')
  const end = query.number('end')
  const { size } = log.head()
  if (start > end) throw new CtError('bad_request', 'start is after end')
  if (start >= size) throw new CtError('bad_request', `start is past the last entry: the log has ${size}`)
  const found = await log.entries(start, Math.min(end - start + 1, MAX_ENTRIES))
  return {
    entries: found.map(({ leaf, attachment }) => ({
      leaf_input: base64(leaf),
      extra_data: base64(attachment ?? new Uint8Array(0)),
    })),
  }
}

async function entryAndProof(log: Log, query: Query): Promise<unknown> {
  const index = query.number('leaf_index')
  const proof = await log.inclusionProof(index, query.number('tree_size'))
  const entry = await log.entry(index)
  if (entry === undefined) throw new CtError('not_found', 'no such entry')
  return {
    leaf_input: base64(entry.leaf),
    extra_data: base64(entry.attachment ?? new Uint8Array(0)),
    audit_path: proof.map(base64),
  }
}

/** The query of a GET, each parameter once and in its one form. */
class Query {
  readonly #parameters: URLSearchParams

  constructor(parameters: URLSearchParams) {
    this.#parameters = parameters
  }

  number(name: string): number {
    const text = this.#only(name)
    const value = /^[0-9]{1,16}$/.test(text) ? Number(text) : NaN
    if (!Number.isSafeInteger(value)) throw new CtError('bad_request', `${name} is not a number`)
    return value
  }

  hash(name: string): Uint8Array {
    // A + that was not percent-encoded arrives as a space; Go's clients encode it, people with curl do not.
    const bytes = decodeBase64(this.#only(name).replaceAll(' ', '+'))
    if (bytes?.length !== 32) throw new CtError('bad_request', `${name} is not the base64 of 32 bytes`)
    return bytes
  }

  #only(name: string): string {
    const [value, ...more] = this.#parameters.getAll(name)
    if (value === undefined || more.length > 0) throw new CtError('bad_request', `${name} is needed once`)
    return value
  }
}

function readChain(body: Uint8Array): Uint8Array[] {
  const request = parseJson(body)
  const chain = typeof request === 'object' && request !== null && 'chain' in request ? request.chain : undefined
  if (!Array.isArray(chain)) throw new CtError('bad_request', 'the body is not {"chain": [...]}')
  return chain.map((encoded: unknown) => {
    const der = typeof encoded === 'string' ? decodeBase64(encoded) : undefined
    if (der === undefined) throw new CtError('bad_request', 'the chain is not a list of base64 texts')
    return der
  })
}

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (cause) {
    throw new CtError('bad_request', 'the body is not JSON', { cause })
  }
}

/** Padded standard base64 in its one spelling. */
function decodeBase64(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, 'base64')
  return bytes.toString('base64') === text ? new Uint8Array(bytes) : undefined
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
}

async function answering(work: () => Promise<unknown>): Promise<EndpointAnswer> {
  try {
    return { status: 200, headers: { 'content-type': 'application/json' }, body: JSON.stringify(await work()) }
  } catch (error) {
    if (error instanceof CtError) return failure(CT_STATUS[error.code], error.message, undefined, error.code)
    if (error instanceof LogError) {
      const status = LOG_STATUS[error.code]
      return failure(status, error.message, status === 429 || status === 503 ? RETRY_AFTER : undefined, error.code)
    }
    throw error
  }
}

function failure(status: number, message: string, retryAfter?: string, code?: string): EndpointAnswer {
  return {
    status,
    headers: {
      'content-type': 'application/json',
      ...(retryAfter === undefined ? {} : { 'retry-after': retryAfter }),
    },
    body: JSON.stringify({ error_message: message, success: false }),
    ...(code === undefined ? {} : { log: { refused: code } }),
  }
}
