export {
  type Authority,
  type AuthorityChange,
  type AuthorityChangeover,
  type AuthorityOptions,
  createAuthority,
  type IssuanceRequest,
  type Issued,
} from './authority.ts'
export type { CtLog, PreCertificateEntry } from './ct-log.ts'
export { CaError, type CaErrorCode } from './error.ts'
export { caSection } from './http.ts'
export type { RequestedKey } from './possession.ts'
