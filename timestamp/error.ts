export type TimestampErrorCode =
  /** Not a TimeStampReq, or not the JSON form of one. */
  | 'malformed_request'
  | 'weak_hash'
  | 'unsupported_hash'
  | 'wrong_digest_length'
  | 'unaccepted_policy'
  | 'unaccepted_extension'
  | 'policy_too_long'
  | 'request_too_large'
  | 'unsupported_media_type'
  /** As many signatures as are allowed are under way; retriable. */
  | 'busy'
  /** The HSM does not sign just now; retriable. */
  | 'unavailable'
  /** The clock cannot be trusted within the accuracy that tokens state; retriable. */
  | 'time_not_available'
  /** Key, chain or options cannot make an authority; only when it is created. */
  | 'configuration'
  /** What we made ourselves does not hold. */
  | 'internal'

/** Why there is no timestamp. The message may be shown to the client unless the code is `configuration` or `internal`. */
export class TimestampError extends Error {
  readonly code: TimestampErrorCode
  constructor(code: TimestampErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'TimestampError'
    this.code = code
  }
}
