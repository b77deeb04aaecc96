/** Answers that both faces build the same way. */
import type { EndpointAnswer } from '#http'
import type { Log, LogErrorCode } from '../log.ts'

/** Seconds after which a client may try again: a seal or an agent's reconnect is over by then. */
export const RETRY_AFTER = '1'

export function json(status: number, body: unknown, headers: Readonly<Record<string, string>> = {}): EndpointAnswer {
  return { status, headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) }
}

/**
 * HTTP status of a log that does not take or give what was asked. A frozen log is 405 as in rekor-tiles; a refused
 * fork may be over once the operator acted, so it is 503 like an outage.
 */
export const LOG_STATUS = {
  pool_full: 503,
  unavailable: 503,
  fork_refused: 503,
  disk_io_error: 503,
  anchor_ahead: 503,
  anchor_disagrees: 503,
  guard_behind: 503,
  origin_in_use: 503,
  store_replaced: 503,
  frozen: 405,
  not_found: 404,
  out_of_range: 400,
  invalid_entry: 400,
} as const satisfies Record<LogErrorCode, number>

/**
 * True if this reply is to be given as the first one: the entry is new, or it is there but no reply for it ever
 * reached a client. A client whose reply was lost sends the same entry again and must not be told of a conflict.
 */
export function isFirstReply(added: { readonly duplicate: boolean; readonly delivered: boolean }): boolean {
  return !added.duplicate || !added.delivered
}

/** The answer with the note, once its last byte is out, that the entry's reply was delivered. */
export function markedDelivered(
  log: Pick<Log, 'markDelivered'>,
  index: number,
  answer: EndpointAnswer,
): EndpointAnswer {
  return { ...answer, delivered: () => log.markDelivered(index) }
}
