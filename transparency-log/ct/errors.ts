/** Why the CT log does not take a submission or answer a question; `http.ts` gives each its status. */
export type CtErrorCode =
  /** The request is not the JSON or the query that RFC 6962 §4 asks for. */
  | 'bad_request'
  /** A certificate of the chain cannot be read, or is no certificate for this log. */
  | 'bad_certificate'
  /** The chain does not lead, in the order given, to an accepted root. */
  | 'bad_chain'
  /** A certificate for add-pre-chain, or a precertificate for add-chain. */
  | 'wrong_endpoint'
  /** The log has no such entry or leaf hash. */
  | 'not_found'

/** A refusal; its message may be shown to the client. */
export class CtError extends Error {
  readonly code: CtErrorCode
  constructor(code: CtErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'CtError'
    this.code = code
  }
}
