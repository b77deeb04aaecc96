export { OidcError, type OidcErrorCode } from './error.ts'
export { type FetchDocument, fetchDocument } from './fetch.ts'
export type { IssuerEndpoint } from './issuer.ts'
export { createTokenVerifier, type TokenVerifier, type TokenVerifierOptions, type VerifiedToken } from './verify.ts'
