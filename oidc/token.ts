import { OidcError } from './error.ts'

/** Real tokens are 1 to 3 KiB; Azure's with many groups reach 16. */
const TOKEN_LIMIT_BYTES = 32 * 1024

/** What a token says of itself before anything about it is verified. */
export interface UnverifiedToken {
  readonly compact: string
  readonly algorithm: string
  readonly keyId: string | undefined
  /** Good for choosing whose keys to verify with, and for nothing else. */
  readonly unverifiedIssuer: string
}

/** Takes a compact JWS apart; throws `missing`, `too_large` or `malformed`. */
export function parseToken(compact: string): UnverifiedToken {
  if (compact === '') throw new OidcError('missing', 'no identity token was given')
  if (compact.length > TOKEN_LIMIT_BYTES) throw new OidcError('too_large', 'the identity token is too large')
  // Counted before anything is split or decoded: thousands of dots must not become thousands of strings.
  const first = compact.indexOf('.')
  const second = compact.indexOf('.', first + 1)
  if (first < 0 || second < 0 || compact.includes('.', second + 1)) throw malformed('it must have three parts')
  const header = object(compact.slice(0, first), 'header')
  const payload = object(compact.slice(first + 1, second), 'payload')
  // No extension is understood here, `b64` included (RFC 7515 §4.1.11).
  if (header.crit !== undefined) throw malformed('it demands an extension')
  if (typeof header.alg !== 'string') throw malformed('it names no algorithm')
  if (header.kid !== undefined && typeof header.kid !== 'string') throw malformed('its key id is not a string')
  if (typeof payload.iss !== 'string' || payload.iss === '') throw malformed('it names no issuer')
  return { compact, algorithm: header.alg, keyId: header.kid, unverifiedIssuer: payload.iss }
}

/** The claims of a token, checked in form; the payload is given after its signature was verified. */
export interface TokenBody {
  readonly issuer: string
  /** Empty where the issuer sends none; identity types that need it refuse that. */
  readonly subject: string
  readonly audience: readonly string[]
  readonly expiresAt: Date
  readonly notBefore: Date | undefined
  readonly claims: Readonly<Record<string, unknown>>
}

/** Throws `malformed`. */
export function parseBody(payload: Uint8Array): TokenBody {
  const claims = parseObject(payload, 'payload')
  const { iss, sub = '', aud, exp, nbf } = claims
  if (typeof iss !== 'string') throw malformed('it names no issuer')
  if (typeof sub !== 'string') throw malformed('its subject is not a string')
  const audience = typeof aud === 'string' ? [aud] : aud
  if (!Array.isArray(audience) || !audience.every((one) => typeof one === 'string')) {
    throw malformed('its audience is neither a string nor a list of strings')
  }
  return {
    issuer: iss,
    subject: sub,
    audience,
    expiresAt: numericDate(exp, 'exp'),
    notBefore: nbf === undefined ? undefined : numericDate(nbf, 'nbf'),
    claims,
  }
}

function numericDate(value: unknown, name: string): Date {
  // Beyond 8.64e12 seconds there are no dates; a fraction is allowed (RFC 7519 §2).
  const date = new Date(typeof value === 'number' ? value * 1000 : Number.NaN)
  if (Number.isNaN(date.getTime())) throw malformed(`its ${name} is not a time`)
  return date
}

function object(part: string, what: string): Record<string, unknown> {
  // RFC 7515 §2: base64url without padding; Buffer alone would skip over foreign characters.
  if (!/^[\w-]+$/.test(part) || part.length % 4 === 1) throw malformed(`its ${what} is not base64url`)
  return parseObject(Buffer.from(part, 'base64url'), what)
}

function parseObject(bytes: Uint8Array, what: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes))
  } catch {
    // Without a cause: the parser's message quotes the token.
    throw malformed(`its ${what} is not JSON`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw malformed(`its ${what} is not an object`)
  return value as Record<string, unknown>
}

function malformed(how: string): OidcError {
  return new OidcError('malformed', `the identity token is malformed: ${how}`)
}
