import { PolicyError } from './error.ts'

/**
 * The token's email if it has one and the issuer vouches for it; undefined without the claim. Throws
 * `unverified_email`, or `invalid_claim` for a verification that is neither yes nor no.
 */
export function chooseVerifiedEmail(
  claims: Readonly<Record<string, unknown>>,
  skipVerification: boolean,
): string | undefined {
  const { email } = claims
  if (email === undefined || email === null || email === '') return undefined
  if (typeof email !== 'string') throw new PolicyError('invalid_claim', 'the email of the token is not text')
  const verified = isTrue(claims.email_verified)
  if (!verified && !skipVerification)
    throw new PolicyError('unverified_email', 'the email of the token is not verified')
  return email
}

/** Some issuers send booleans as text; Fulcio takes exactly these. */
function isTrue(value: unknown): boolean {
  if (value === true || value === 'true' || value === 'True') return true
  if (value === undefined || value === false || value === 'false' || value === 'False') return false
  throw new PolicyError('invalid_claim', 'the claim email_verified is neither true nor false')
}

/** RFC 5321 §4.1.2 without quoted local parts and address literals, in ASCII as rfc822Name demands; 254 characters at most. */
export function isEmail(text: string): boolean {
  if (text.length > 254) return false
  const at = text.lastIndexOf('@')
  const local = text.slice(0, at)
  const labels = text.slice(at + 1).split('.')
  return (
    at > 0 &&
    at <= 64 &&
    local.split('.').every((atom) => /^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+$/.test(atom)) &&
    labels.length >= 2 &&
    labels.every((label) => /^[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/.test(label))
  )
}

/** Broader than any checker of addresses: for names that must not be mistaken for one. */
export function looksLikeEmail(text: string): boolean {
  const at = text.lastIndexOf('@')
  return at > 0 && text.indexOf('.', at) > at + 1
}
