export type CaErrorCode =
  /** Token, issuer or a claim: whatever is wrong with who the caller says they are. */
  | 'invalid_identity_token'
  | 'invalid_public_key'
  | 'insecure_public_key'
  | 'invalid_csr'
  /** Proof of possession, or the CSR's own signature. */
  | 'invalid_signature'
  | 'algorithm_not_permitted'
  /** The issuer's allow rules do not admit the identity. */
  | 'not_admitted'
  /** The identity cannot be put into a certificate, e.g. a name that is not ASCII. */
  | 'invalid_identity'
  /** The body is not the message that the route takes. */
  | 'invalid_request'
  /** Too many requests are under way; retriable. */
  | 'busy'
  /** The HSM does not sign just now; retriable. */
  | 'hsm_unavailable'
  /** The CT log did not take the precertificate; retriable. */
  | 'log_unavailable'
  /** The CA's own certificate ends before the one asked for would. */
  | 'authority_expired'
  /** The agent refused what we made, or what came back is not what was asked for: a fault of ours. */
  | 'internal'
  /** The client went away. */
  | 'cancelled'

/** Why no certificate was issued. `message` may be shown to the client: it never holds a token or key material. */
export class CaError extends Error {
  readonly code: CaErrorCode
  constructor(code: CaErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'CaError'
    this.code = code
  }
}
