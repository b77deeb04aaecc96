/** Why an entry is refused. The faces give these their protocol's status (`v1/http.ts`, `v2/http.ts`). */
export type EntryErrorCode =
  /** Not JSON, or JSON that is too deep. */
  | 'malformed_json'
  /** JSON whose shape the interface's schema refuses; `schemaCode` says which rule. */
  | 'schema'
  /** Fields that contradict each other, or content that cannot be read: base64, PEM, DER, hash lengths. */
  | 'invalid'
  /** A kind or version of entry that this log does not take. */
  | 'unsupported_kind'
  | 'unsupported_algorithm'
  | 'bad_signature'
  /** More signatures, verifiers or checks than one request may cost. */
  | 'too_many'
  /** The checks' queue is full, or the rate of an expensive check is used up; retriable. */
  | 'busy'

/** An entry that was refused; messages are safe to send. */
export class EntryError extends Error {
  readonly code: EntryErrorCode
  /** go-openapi's number of the broken rule (602 required, 605 pattern, …) for `schema`. */
  readonly schemaCode: number | undefined
  constructor(code: EntryErrorCode, message: string, options: ErrorOptions & { schemaCode?: number } = {}) {
    super(message, options)
    this.name = 'EntryError'
    this.code = code
    this.schemaCode = options.schemaCode
  }
}

/** Content that cannot be read or fields that contradict each other. */
export function invalid(message: string, cause?: unknown): EntryError {
  return new EntryError('invalid', message, { cause })
}
