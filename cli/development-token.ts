/** The development issuer's key, and ID tokens signed with it without a browser. */
import { chmodSync, linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK, SignJWT, type JWK, type JWTPayload } from 'jose'

/** The client id, and so the audience, that every Sigstore client uses. */
export const DEVELOPMENT_CLIENT = 'sigstore'

export type DevelopmentErrorCode =
  | 'cannot_listen'
  | 'form_too_large'
  | 'no_issuer'
  | 'key_unreadable'
  | 'bad_duration'
  | 'bad_email'
  | 'bad_claims'

/** The development issuer or its tokens cannot do what was asked. */
export class DevelopmentError extends Error {
  readonly code: DevelopmentErrorCode
  constructor(code: DevelopmentErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'DevelopmentError'
    this.code = code
  }
}

export interface DevelopmentKey {
  /** With `kid` (its RFC 7638 thumbprint) and `alg` RS256. */
  readonly privateJwk: JWK
}

/** The key in `<dataDir>/dev-issuer/key.json` (mode 0600), made at the first call. Two first calls at once agree on one. */
export async function developmentKey(dataDir: string): Promise<DevelopmentKey> {
  const folder = issuerFolder(dataDir)
  const file = join(folder, 'key.json')
  const present = readKey(file)
  if (present) return present
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const { privateKey } = await generateKeyPair('RS256', { modulusLength: 2048, extractable: true })
  const jwk = await exportJWK(privateKey)
  const made = `${JSON.stringify({ ...jwk, alg: 'RS256', kid: await calculateJwkThumbprint(jwk) })}\n`
  const draft = join(folder, `key.${randomBytes(6).toString('hex')}`)
  try {
    writeFileSync(draft, made, { mode: 0o600, flag: 'wx', flush: true })
    linkSync(draft, file)
  } catch (cause) {
    if (!(cause instanceof Error && 'code' in cause && cause.code === 'EEXIST')) throw cause
  } finally {
    rmSync(draft, { force: true })
  }
  const kept = readKey(file)
  if (!kept) throw new DevelopmentError('key_unreadable', `${file} disappeared while it was made`)
  return kept
}

function readKey(file: string): DevelopmentKey | undefined {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return undefined
    throw new DevelopmentError('key_unreadable', `cannot read ${file}`, { cause })
  }
  chmodSync(file, 0o600)
  try {
    const privateJwk: unknown = JSON.parse(text)
    if (isPrivateJwk(privateJwk)) return { privateJwk }
  } catch (cause) {
    throw new DevelopmentError('key_unreadable', `${file} is not a key; remove it and start again`, { cause })
  }
  throw new DevelopmentError('key_unreadable', `${file} is not a private RSA key; remove it and start again`)
}

function isPrivateJwk(value: unknown): value is JWK {
  return (
    typeof value === 'object' &&
    value !== null &&
    'kty' in value &&
    value.kty === 'RSA' &&
    'd' in value &&
    'kid' in value
  )
}

/** Writes down which URL the issuer of this data folder has, for `chancery dev token`. */
export function rememberIssuer(dataDir: string, url: string): void {
  writeFileSync(join(issuerFolder(dataDir), 'issuer'), `${url}\n`, { mode: 0o600 })
}

/** The URL that the issuer had when it last started, or that the configuration gives it. */
export async function knownIssuer(dataDir: string): Promise<string> {
  try {
    return readFileSync(join(issuerFolder(dataDir), 'issuer'), 'utf8').trim()
  } catch {
    const configured = await configuredIssuer(dataDir)
    if (configured !== undefined) return configured
  }
  throw new DevelopmentError(
    'no_issuer',
    `no development issuer is known in ${dataDir}; start one with: chancery dev issuer --data ${dataDir} (or give --issuer)`,
  )
}

async function configuredIssuer(dataDir: string): Promise<string | undefined> {
  try {
    const { parse } = await import('yaml')
    const config: unknown = parse(readFileSync(join(dataDir, 'chancery.yaml'), 'utf8'))
    if (typeof config !== 'object' || config === null || !('developmentIssuer' in config)) return undefined
    const issuer = config.developmentIssuer
    if (typeof issuer !== 'object' || issuer === null || !('url' in issuer)) return undefined
    return typeof issuer.url === 'string' ? issuer.url.replace(/\/$/, '') : undefined
  } catch {
    return undefined
  }
}

export interface DevelopmentTokenRequest {
  readonly key: DevelopmentKey
  readonly issuerUrl: string
  readonly email: string
  readonly emailVerified: boolean
  readonly audience: string
  /** Below zero for a token that has expired. */
  readonly expiresInSeconds: number
  /** Laid over the usual claims; null takes one away. */
  readonly claims?: Readonly<Record<string, unknown>>
  /** Seconds since 1970. */
  readonly nowSeconds: number
}

/** An RS256 ID token: `aud` a string, `email_verified` a boolean. */
export async function developmentToken(request: DevelopmentTokenRequest): Promise<string> {
  const { privateJwk } = request.key
  const expiresAt = request.nowSeconds + request.expiresInSeconds
  const usual: JWTPayload = {
    iss: request.issuerUrl,
    sub: request.email,
    aud: request.audience,
    email: request.email,
    email_verified: request.emailVerified,
    // A token that has expired was issued before that.
    iat: Math.min(request.nowSeconds, expiresAt - 1),
    exp: expiresAt,
  }
  const payload = Object.fromEntries(
    Object.entries({ ...usual, ...request.claims }).filter(([, value]) => value !== null),
  )
  const header = { alg: 'RS256', typ: 'JWT', ...(privateJwk.kid === undefined ? {} : { kid: privateJwk.kid }) }
  return new SignJWT(payload).setProtectedHeader(header).sign(await importJWK(privateJwk, 'RS256'))
}

/** `90s`, `10m`, `12h`, `30d`, with `-` for the past; bare numbers are seconds. Throws `bad_duration`. */
export function parseDuration(text: string): number {
  const match = /^(?<sign>-?)(?<count>\d{1,9})(?<unit>[smhd]?)$/.exec(text)
  if (!match?.groups) throw new DevelopmentError('bad_duration', `not a duration: ${text}; write 90s, 10m, 12h or 30d`)
  const { sign, count, unit } = match.groups
  const seconds = Number(count) * ({ s: 1, m: 60, h: 3_600, d: 86_400 }[unit || 's'] ?? 1)
  return sign === '-' ? -seconds : seconds
}

/** Good enough to tell an address from a slip of the finger, within what a certificate can carry (RFC 5321 §4.5.3.1). */
export function isEmail(text: string): boolean {
  return text.length <= 254 && /^[^\s@<>"(),:;[\]\\]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*$/.test(text)
}

function issuerFolder(dataDir: string): string {
  return join(dataDir, 'dev-issuer')
}
