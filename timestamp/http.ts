/** The timestamp authority's REST interface, as sigstore's timestamp-authority has it; refusals are never 2xx. */
import type { Logger } from 'pino'
import type { EndpointAnswer, EndpointRequest, Section } from '#http'
import { encodePem } from '#x509'
import type { TimestampAuthority } from './authority.ts'
import { TimestampError, type TimestampErrorCode } from './error.ts'
import { apiLatency, requestCount } from './metrics.ts'
import { parseJsonRequest, parseRequest } from './request.ts'

/** A DER request is some 100 bytes; what is left is room for a nonce of any size that makes sense. */
const REQUEST_LIMIT_BYTES = 64 * 1024
const RETRY_AFTER_SECONDS = '2'
/** A token is for one request; no cache may answer with an older one. */
const NO_CACHE = { 'cache-control': 'no-cache, no-store, max-age=0, must-revalidate', pragma: 'no-cache' }
/** Minutes, not upstream's day: a rotated chain must reach clients that ask. */
const CHAIN_CACHE = 'public, max-age=300'

const STATUS = {
  malformed_request: 400,
  weak_hash: 400,
  unsupported_hash: 400,
  wrong_digest_length: 400,
  unaccepted_policy: 400,
  unaccepted_extension: 400,
  policy_too_long: 400,
  request_too_large: 400,
  unsupported_media_type: 415,
  busy: 503,
  unavailable: 503,
  time_not_available: 503,
  configuration: 500,
  internal: 500,
} satisfies Record<TimestampErrorCode, number>

export function timestampSection(
  authority: Pick<TimestampAuthority, 'chain' | 'timestamp'>,
  options: { readonly logger?: Pick<Logger, 'error'> } = {},
): Section {
  const ping = (): EndpointAnswer => ({
    status: 200,
    headers: { 'content-type': 'text/plain; charset=utf-8' },
    body: '.',
  })
  return {
    name: 'timestamp',
    endpoints: [
      {
        method: 'POST',
        path: '/api/v1/timestamp',
        limitBytes: REQUEST_LIMIT_BYTES,
        answer: (request) => answerTimestamp(authority, request, options.logger),
      },
      {
        method: 'GET',
        path: '/api/v1/timestamp/certchain',
        limitBytes: 0,
        answer: () => ({
          status: 200,
          headers: { 'content-type': 'application/pem-certificate-chain', 'cache-control': CHAIN_CACHE },
          body: authority.chain.map((der) => encodePem('CERTIFICATE', der)).join(''),
        }),
      },
      { method: 'GET', path: '/ping', limitBytes: 0, answer: ping },
      { method: 'HEAD', path: '/ping', limitBytes: 0, answer: ping },
    ],
    faults: {
      notFound: (path) => fault(404, `path ${path} was not found`),
      methodNotAllowed: (method, path) => fault(405, `method ${method} is not allowed on ${path}`),
      tooLarge: (limitBytes) => fault(413, `request is over ${limitBytes} bytes`),
      timedOut: () => fault(408, 'request did not arrive in time'),
      internal: (requestId) => fault(500, `internal error, request ${requestId}`),
      overloaded: () => retriable(fault(503, 'too many requests are under way')),
    },
    corsRequestHeaders: ['content-type', 'accept'],
    observe: ({ endpoint, method, status, seconds }) => {
      const code = String(status)
      requestCount.inc({ code, path: endpoint, method })
      apiLatency.observe({ path: endpoint, code }, seconds)
    },
  }
}

async function answerTimestamp(
  authority: Pick<TimestampAuthority, 'timestamp'>,
  request: EndpointRequest,
  logger: Pick<Logger, 'error'> | undefined,
): Promise<EndpointAnswer> {
  try {
    const body = await authority.timestamp(readRequest(request))
    return { status: 200, headers: { 'content-type': 'application/timestamp-reply', ...NO_CACHE }, body }
  } catch (error) {
    if (!(error instanceof TimestampError)) throw error
    return refusal(error, request, logger)
  }
}

function readRequest({ headers, body }: EndpointRequest): ReturnType<typeof parseRequest> {
  const mediaType = (headers['content-type'] ?? '').split(';', 1)[0]?.trim().toLowerCase()
  if (mediaType === 'application/timestamp-query') return parseRequest(body)
  if (mediaType === 'application/json') return parseJsonRequest(body)
  throw new TimestampError(
    'unsupported_media_type',
    'content type is neither application/timestamp-query nor application/json',
  )
}

function refusal(
  error: TimestampError,
  request: EndpointRequest,
  logger: Pick<Logger, 'error'> | undefined,
): EndpointAnswer {
  const status = STATUS[error.code]
  if (status === 500) logger?.error({ err: error, requestId: request.requestId }, 'timestamp failed')
  const shown = status === 500 ? `internal error, request ${request.requestId}` : error.message
  const answer = { ...fault(status, shown), log: { refusal: error.code } }
  return status === 503 ? retriable(answer) : answer
}

function fault(status: number, message: string): EndpointAnswer {
  return {
    status,
    headers: { 'content-type': 'application/json', ...NO_CACHE },
    body: JSON.stringify({ code: status, message }),
  }
}

function retriable(answer: EndpointAnswer): EndpointAnswer {
  return { ...answer, headers: { ...answer.headers, 'retry-after': RETRY_AFTER_SECONDS } }
}
