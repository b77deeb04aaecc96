/** Requests by hand, for what no client would send: forged tokens, unfit keys, proofs of possession over something else. */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { inject } from 'vitest'

export interface Answer {
  readonly status: number
  readonly text: string
  readonly headers: Headers
}

/** Posts JSON (a text or bytes as they are) and returns whatever is answered. */
export async function post(
  url: string,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answer> {
  const content = typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body)
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    // The library's types want a buffer of its own.
    body: typeof content === 'string' ? content : new Uint8Array(content),
  })
  return { status: response.status, text: await response.text(), headers: response.headers }
}

/** The identity of `forgedToken` unless its claims say otherwise. */
export const someone = 'someone@example.test'

export interface TokenChange {
  /** Laid over the usual header (RS256, the issuer's key id). */
  readonly header?: Readonly<Record<string, unknown>>
  /** Laid over the usual claims; undefined takes one away. */
  readonly claims?: Readonly<Record<string, unknown>>
  /** Signs the token; by default the key of the tests' issuer, as it is right. */
  readonly signature?: (input: Buffer) => Buffer
}

/** A token that is right in everything but the change; made without a library, which would refuse to make most of them. */
export function forgedToken({ header = {}, claims = {}, signature = signedByIssuer }: TokenChange = {}): string {
  const now = Math.floor(Date.now() / 1000)
  const usual = {
    iss: inject('stack').issuer.url,
    aud: 'sigstore',
    sub: 'subject-1',
    iat: now,
    exp: now + 300,
    email: someone,
    email_verified: true,
  }
  const input = [
    { alg: 'RS256', kid: 'test', ...header },
    { ...usual, ...claims },
  ]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .join('.')
  return `${input}.${signature(Buffer.from(input)).toString('base64url')}`
}

export function issuerKey(): KeyObject {
  return createPrivateKey({ key: { ...inject('stack').issuer.privateJwk }, format: 'jwk' })
}

function signedByIssuer(input: Buffer): Buffer {
  return sign('sha256', input, issuerKey())
}

export function ecKey(namedCurve = 'P-256'): KeyObject {
  return generateKeyPairSync('ec', { namedCurve }).privateKey
}

export function rsaKey(modulusLength: number, publicExponent = 0x10001): KeyObject {
  return generateKeyPairSync('rsa', { modulusLength, publicExponent }).privateKey
}

export function spkiPem(key: KeyObject): string {
  return publicKeyOf(key).export({ type: 'spki', format: 'pem' }).toString()
}

export function spkiDer(key: KeyObject): Buffer {
  return publicKeyOf(key).export({ type: 'spki', format: 'der' })
}

function publicKeyOf(key: KeyObject): KeyObject {
  return key.type === 'public' ? key : createPublicKey(key)
}
