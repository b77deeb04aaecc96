import type { EndpointAnswer, Section } from './endpoint.ts'

/** Seconds after which a client may come back to an overloaded listener; short, since queues here are short. */
const RETRY_AFTER_SECONDS = '1'

/** Faults as plain text, for sections whose protocol prescribes no form of its own (metrics, TUF, timestamps). */
export const plainFaults: Section['faults'] = {
  notFound: () => plain(404, 'not found'),
  methodNotAllowed: () => plain(405, 'method not allowed'),
  tooLarge: (limitBytes) => plain(413, `the body is larger than ${limitBytes} bytes`),
  timedOut: () => plain(408, 'the body did not arrive in time'),
  internal: (requestId) => plain(500, `internal error, request ${requestId}`),
  overloaded: () => plain(503, 'overloaded, try again', { 'retry-after': RETRY_AFTER_SECONDS }),
}

/** An answer of one line of text. */
export function plain(status: number, line: string, headers: Readonly<Record<string, string>> = {}): EndpointAnswer {
  return { status, headers: { 'content-type': 'text/plain; charset=utf-8', ...headers }, body: `${line}\n` }
}
