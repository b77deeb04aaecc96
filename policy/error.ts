export type PolicyErrorCode =
  /** The configuration cannot be used; found at start. */
  | 'invalid_configuration'
  /** The token lacks a claim that its issuer's identity type needs. */
  | 'missing_claim'
  /** A claim has a value that the identity type does not allow. */
  | 'invalid_claim'
  | 'unverified_email'
  /** No allow rule of the issuer admits the token. */
  | 'not_admitted'

/** Why a configuration or a token's identity was refused; names claims, never holds a token. */
export class PolicyError extends Error {
  readonly code: PolicyErrorCode
  constructor(code: PolicyErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'PolicyError'
    this.code = code
  }
}
