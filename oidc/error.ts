export type OidcErrorCode =
  /** No token was given. */
  | 'missing'
  /** Not a compact JWS of a JSON object with the claims that OpenID Connect demands. */
  | 'malformed'
  | 'too_large'
  /** The token's `iss` is not among the configured issuers. */
  | 'unknown_issuer'
  /** Discovery or the key set could not be fetched, now or a moment ago. */
  | 'issuer_unreachable'
  /** Discovery or the key set was fetched and is not usable, e.g. names another issuer. */
  | 'issuer_invalid'
  /** `none`, a symmetric algorithm, or one that the issuer does not announce. */
  | 'unsupported_algorithm'
  /** No key of the issuer fits the token's header. */
  | 'unknown_key'
  | 'bad_signature'
  | 'wrong_audience'
  | 'expired'
  | 'not_yet_valid'

/** Why a token was refused. The message never holds the token or a part of it, except its (configured) issuer. */
export class OidcError extends Error {
  readonly code: OidcErrorCode
  constructor(code: OidcErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'OidcError'
    this.code = code
  }
}
