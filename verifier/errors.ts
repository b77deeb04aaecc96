/** Why something was not verified. The first group speaks against the log, the second says that it could not be asked. */
export type VerifierErrorCode =
  /** The signature is not of the key that the trusted root names, or does not verify. */
  | 'bad_signature'
  /** The proof does not lead from the leaf, or from the older tree, to the signed root. */
  | 'bad_proof'
  /** The promise (signed entry timestamp) does not cover this entry. */
  | 'bad_promise'
  /** The log's key was not trusted at the entry's time. */
  | 'outside_window'
  /** What the log answered is not the entry that was asked for. */
  | 'wrong_entry'
  /** Two signed heads that no single append-only log can have. */
  | 'fork'
  /** The log shows fewer entries than it has signed for before. */
  | 'rollback'
  /** The trusted root knows no such log. */
  | 'unknown_log'
  /** Bytes that are not what their format demands. */
  | 'malformed'
  | 'not_found'
  /** No answer, no answer in time, or one that is too large. */
  | 'unreachable'

/** The one error of this folder; messages are safe to show. */
export class VerifierError extends Error {
  readonly code: VerifierErrorCode
  constructor(code: VerifierErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'VerifierError'
    this.code = code
  }
}
