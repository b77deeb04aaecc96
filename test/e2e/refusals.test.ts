/** What the services refuse, each by its named error; and, so that this means something, that the honest request passes. */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { SignJWT } from 'jose'
import { describe, expect, test } from 'vitest'
import { system } from './clients.ts'
import { freshFolder, sharedStack, signedToken } from './context.ts'
import { succeeded } from './run.ts'
import { runChancery } from './stack.ts'

const stack = sharedStack()
const { ca, rekorV1, rekorV2, tsa, ct } = stack.endpoints
const email = 'someone@example.test'

function ecKey(namedCurve = 'P-256'): KeyObject {
  return generateKeyPairSync('ec', { namedCurve }).privateKey
}

function pem(key: KeyObject): string {
  return createPublicKey(key).export({ type: 'spki', format: 'pem' }).toString()
}

interface CertificateRequest {
  readonly token: string
  readonly key?: KeyObject
  /** The public key that is sent, if it is not `key`'s. */
  readonly content?: string
  readonly proofOver?: string
  readonly proofBy?: KeyObject
  readonly hash?: string
}

async function requestCertificate(request: CertificateRequest): Promise<{ status: number; text: string }> {
  const key = request.key ?? ecKey()
  const hash = key.asymmetricKeyType === 'ed25519' ? null : (request.hash ?? 'sha256')
  const proof = sign(hash, Buffer.from(request.proofOver ?? email), request.proofBy ?? key)
  return post(`${ca}/api/v2/signingCert`, {
    credentials: { oidcIdentityToken: request.token },
    publicKeyRequest: {
      publicKey: { algorithm: 'ECDSA', content: request.content ?? pem(key) },
      proofOfPossession: proof.toString('base64'),
    },
  })
}

async function post(
  url: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<{ status: number; text: string; headers: Headers }> {
  const content = typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body)
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    // A view is a body too; the library's types want its own kind of buffer.
    body: typeof content === 'string' ? content : new Blob([new Uint8Array(content)]),
  })
  return { status: response.status, text: await response.text(), headers: response.headers }
}

const nowSeconds = (): number => Math.floor(Date.now() / 1000)

describe('the certificate authority', () => {
  test('gives a certificate to an honest request', async () => {
    const { status, text } = await requestCertificate({ token: await signedToken() })
    expect(text).toContain('signedCertificateEmbeddedSct')
    expect(status).toBe(200)
  })

  test.each<[string, () => Promise<string>, RegExp]>([
    ['no token', async () => '', /identity token/],
    ['something that is no token', async () => 'not.a.token', /identity token/],
    [
      'an expired one',
      async () => signedToken({ exp: nowSeconds() - 60, iat: nowSeconds() - 600 }),
      /identity token.*expired/i,
    ],
    ['one for another audience', async () => signedToken({ aud: 'another' }), /identity token.*audience/i],
    ['one without an audience', async () => signedToken({ aud: undefined }), /identity token/],
    [
      'one of an issuer that is not configured',
      async () => signedToken({ iss: 'http://127.0.0.1:1' }),
      /identity token/,
    ],
    ['one with an unverified address', async () => signedToken({ email_verified: false }), /identity token.*verified/i],
    [
      'one that does not say whether the address is verified',
      async () => signedToken({ email_verified: undefined }),
      /identity token/,
    ],
    ['one without an address', async () => signedToken({ email: undefined }), /identity token/],
    ['one that is valid only later', async () => signedToken({ nbf: nowSeconds() + 3600 }), /identity token/],
    ['one signed by another key', async () => signedByAnotherKey(), /identity token.*signature/i],
    ['one with a changed claim', async () => changed(await signedToken()), /identity token.*signature/i],
    ['alg: none', async () => unsigned(await signedToken()), /identity token/],
    ['HS256 with the public key as secret', async () => signedWithHmac(), /identity token/],
  ])('refuses a token: %s', async (_, token, words) => {
    const { status, text } = await requestCertificate({ token: await token() })
    expect(text).toMatch(words)
    expect(status).toBe(400)
    expect(JSON.parse(text)).toMatchObject({ code: 3, details: [] })
  })

  test.each<[string, Omit<CertificateRequest, 'token'>, RegExp]>([
    [
      'proof of possession over another subject',
      { proofOver: 'other@example.test' },
      /signature supplied in the request could not be verified/,
    ],
    [
      'proof of possession by another key',
      { proofBy: ecKey() },
      /signature supplied in the request could not be verified/,
    ],
    ['a key that is no PEM', { content: 'no key' }, /public key supplied in the request could not be parsed/],
    [
      'a PEM that holds no DER',
      { content: '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n' },
      /public key supplied in the request could not be parsed/,
    ],
    ['an RSA key of 1024 bits', { key: generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey }, /insecure/],
    [
      'an RSA key with exponent 3',
      { key: generateKeyPairSync('rsa', { modulusLength: 2048, publicExponent: 3 }).privateKey },
      /insecure/,
    ],
    ['a key on secp256k1', { key: ecKey('secp256k1') }, /public key supplied in the request/],
    ['an X25519 key', { content: pem(generateKeyPairSync('x25519').privateKey) }, /public key supplied in the request/],
  ])('refuses %s', async (_, request, words) => {
    const { status, text } = await requestCertificate({ ...request, token: await signedToken() })
    expect(text).toMatch(words)
    expect(status).toBe(400)
  })

  test.each<[string, string | Uint8Array, number, RegExp]>([
    ['malformed JSON', '{"credentials":', 400, /could not be read/],
    ['JSON that is no object', '[]', 400, /could not be read/],
    ['a body over the limit', `{"padding":"${'x'.repeat(5 << 20)}"}`, 400, /request body too large/],
    [
      'a CSR that is none',
      JSON.stringify({ certificateSigningRequest: Buffer.from('no CSR').toString('base64') }),
      400,
      /identity token|certificate signing request could not be parsed/,
    ],
  ])('refuses %s', async (_, body, expected, words) => {
    const { status, text } = await post(`${ca}/api/v2/signingCert`, body)
    expect(text).toMatch(words)
    expect(status).toBe(expected)
  })

  test('refuses a CSR that is none even with a good token', async () => {
    const body = {
      credentials: { oidcIdentityToken: await signedToken() },
      certificateSigningRequest: Buffer.from('no CSR').toString('base64'),
    }
    const { status, text } = await post(`${ca}/api/v2/signingCert`, body)
    expect(text).toMatch(/certificate signing request could not be parsed/)
    expect(status).toBe(400)
  })

  test('takes its own development issuer by the same rules', async () => {
    const token = async (...flags: string[]): Promise<string> =>
      succeeded(await runChancery(['dev', 'token', '--data', stack.dataDir, '--email', email, ...flags])).stdout.trim()
    expect((await requestCertificate({ token: await token() })).status).toBe(200)
    expect((await requestCertificate({ token: await token('--unverified') })).text).toMatch(/verified/)
    expect((await requestCertificate({ token: await token('--expires', '-10m') })).text).toMatch(/expired/)
    expect((await requestCertificate({ token: await token('--audience', 'another') })).text).toMatch(/audience/)
  })
})

async function signedByAnotherKey(): Promise<string> {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const [, payload = ''] = (await signedToken()).split('.')
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>
  return new SignJWT(claims).setProtectedHeader({ alg: 'RS256', kid: 'test' }).sign(privateKey)
}

function changed(token: string): string {
  const [header = '', payload = '', signature = ''] = token.split('.')
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>
  const forged = Buffer.from(JSON.stringify({ ...claims, email: 'chief@example.test' })).toString('base64url')
  return [header, forged, signature].join('.')
}

function unsigned(token: string): string {
  const [, payload = ''] = token.split('.')
  return `${Buffer.from(JSON.stringify({ alg: 'none' })).toString('base64url')}.${payload}.`
}

async function signedWithHmac(): Promise<string> {
  const [, payload = ''] = (await signedToken()).split('.')
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>
  const publicKey = createPublicKey(createPrivateKey({ key: { ...stack.issuer.privateJwk }, format: 'jwk' }))
  const secret = Buffer.from(publicKey.export({ type: 'spki', format: 'pem' }))
  return new SignJWT(claims).setProtectedHeader({ alg: 'HS256', kid: 'test' }).sign(secret)
}

/** A hashedrekord proposal over random content, with parts of it replaced. */
function hashedrekord(
  change: { key?: KeyObject; publicKey?: string; signature?: string; digest?: string } = {},
): unknown {
  const key = change.key ?? ecKey()
  const content = Buffer.from(`content ${Math.random()}`)
  const digest = createHash('sha256').update(content).digest('hex')
  return {
    apiVersion: '0.0.1',
    kind: 'hashedrekord',
    spec: {
      data: { hash: { algorithm: 'sha256', value: change.digest ?? digest } },
      signature: {
        content: change.signature ?? sign('sha256', content, key).toString('base64'),
        publicKey: { content: Buffer.from(change.publicKey ?? pem(key)).toString('base64') },
      },
    },
  }
}

function envelope(signatures: number, signers: number): { envelope: string; verifiers: string[] } {
  const payload = Buffer.from(JSON.stringify({ count: signatures, random: Math.random() }))
  const payloadType = 'application/x'
  const encoded = Buffer.concat([
    Buffer.from(`DSSEv1 ${payloadType.length} ${payloadType} ${payload.length} `),
    payload,
  ])
  const keys = Array.from({ length: signers }, () => ecKey())
  return {
    envelope: JSON.stringify({
      payload: payload.toString('base64'),
      payloadType,
      // ECDSA signatures of one key over one text differ each time.
      signatures: Array.from({ length: signatures }, (_, i) => ({
        sig: sign('sha256', encoded, keys[i % signers] ?? ecKey()).toString('base64'),
      })),
    }),
    verifiers: keys.map((key) => Buffer.from(pem(key)).toString('base64')),
  }
}

const dsse = (signatures: number, signers: number): unknown => ({
  apiVersion: '0.0.1',
  kind: 'dsse',
  spec: { proposedContent: envelope(signatures, signers) },
})

describe('Rekor v1', () => {
  const entries = `${rekorV1}/api/v1/log/entries`

  test('takes honest entries', async () => {
    expect((await post(entries, hashedrekord())).status).toBe(201)
    expect((await post(entries, dsse(2, 2))).status).toBe(201)
  })

  test('a true duplicate is 409 with the entry that is there', async () => {
    const entry = hashedrekord()
    const first = await post(entries, entry)
    const second = await post(entries, entry)
    expect(first.status).toBe(201)
    expect(second.status).toBe(409)
    expect(second.text).toMatch(/an equivalent entry already exists in the transparency log with UUID [0-9a-f]{80}/)
    expect(second.headers.get('location')).toBe(first.headers.get('location'))
  })

  test.each<[string, () => unknown, number, RegExp]>([
    ['malformed JSON', () => '{"kind":', 400, /JSON/],
    ['an unknown kind', () => ({ apiVersion: '0.0.1', kind: 'nothing', spec: {} }), 422, /kind/],
    ['a signature of another content', () => hashedrekord({ digest: 'ab'.repeat(32) }), 400, /signature/],
    ['a signature that is no DER', () => hashedrekord({ signature: 'AAAA' }), 400, /signature/],
    ['a malformed PEM', () => hashedrekord({ publicKey: 'no key' }), 400, /PEM|public key/],
    [
      'a PEM with malformed DER',
      () => hashedrekord({ publicKey: '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n' }),
      400,
      /public key|parsing/,
    ],
    [
      'a certificate that is none',
      () => hashedrekord({ publicKey: '-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n' }),
      400,
      /parsing|certificate|public key/,
    ],
    [
      'an RSA key of 1024 bits',
      () => hashedrekord({ key: generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey }),
      400,
      /algorithms are not allowed|bits/,
    ],
    ['a digest of the wrong length', () => hashedrekord({ digest: 'abcd' }), 400, /hash/],
    ['too many signatures', () => dsse(9, 8), 400, /too many signatures: 9, max allowed: 8/],
    ['too many verifiers', () => dsse(8, 9), 400, /too many verifiers: 9, max allowed: 8/],
  ])('refuses %s', async (_, body, expected, words) => {
    const { status, text } = await post(entries, body())
    expect(text).toMatch(words)
    expect(status).toBe(expected)
  })

  test('refuses an oversized body by 413', async () => {
    const { status, text } = await post(entries, `{"padding":"${'x'.repeat(33 << 20)}"}`)
    expect(text).toMatch(/Request Entity Too Large/)
    expect(status).toBe(413)
  })
})

describe('Rekor v2', () => {
  const entries = `${rekorV2}/api/v2/log/entries`

  function hashedrekordV2(change: { signature?: Buffer; rawBytes?: Buffer } = {}): unknown {
    const key = ecKey()
    const content = Buffer.from(`content ${Math.random()}`)
    const spki = createPublicKey(key).export({ type: 'spki', format: 'der' })
    return {
      hashedRekordRequestV002: {
        digest: createHash('sha256').update(content).digest('base64'),
        signature: {
          content: (change.signature ?? sign('sha256', content, key)).toString('base64'),
          verifier: {
            keyDetails: 'PKIX_ECDSA_P256_SHA_256',
            publicKey: { rawBytes: (change.rawBytes ?? spki).toString('base64') },
          },
        },
      },
    }
  }

  test('takes an honest entry, and a duplicate is 409 with its index', async () => {
    const entry = hashedrekordV2()
    const first = await post(entries, entry)
    expect(first.status).toBe(201)
    const second = await post(entries, entry)
    expect(second.status).toBe(409)
    expect(second.text).toMatch(/an equivalent entry already exists in the transparency log with index \d+/)
    expect(second.headers.get('x-log-index')).toBe((JSON.parse(first.text) as { logIndex: string }).logIndex)
  })

  test.each<[string, () => unknown, RegExp]>([
    ['malformed JSON', () => '{"hashedRekordRequestV002":', /JSON|syntax/i],
    ['an unknown field', () => ({ nothing: {} }), /unknown|field|request/i],
    [
      'a signature of another key',
      () => hashedrekordV2({ signature: sign('sha256', Buffer.from('x'), ecKey()) }),
      /signature/,
    ],
    ['malformed DER', () => hashedrekordV2({ rawBytes: Buffer.from('no key') }), /key/],
  ])('refuses %s', async (_, body, words) => {
    const { status, text } = await post(entries, body())
    expect(text).toMatch(words)
    expect(status).toBe(400)
    expect(JSON.parse(text)).toMatchObject({ code: 3 })
  })

  test('refuses an oversized body', async () => {
    const { status } = await post(entries, `{"padding":"${'x'.repeat(5 << 20)}"}`)
    expect(status).toBe(413)
  })
})

describe('the timestamp authority', () => {
  const timestamp = `${new URL(tsa).origin}/api/v1/timestamp`
  const query = { artifactHash: createHash('sha256').update('x').digest('base64'), hashAlgorithm: 'sha256' }

  test('answers an honest request', async () => {
    expect((await post(timestamp, query)).status).toBe(200)
  })

  test.each<[string, unknown, Record<string, string>, number]>([
    ['SHA-1', { ...query, hashAlgorithm: 'sha1' }, {}, 400],
    ['a digest of the wrong length', { ...query, artifactHash: 'AAAA' }, {}, 400],
    ['malformed JSON', '{', {}, 400],
    ['malformed DER', 'no DER', { 'content-type': 'application/timestamp-query' }, 400],
    ['another media type', 'x', { 'content-type': 'text/plain' }, 415],
    ['a policy that is not ours', { ...query, tsaPolicyOID: '1.2.3' }, {}, 400],
  ])('refuses %s and never by a 2xx', async (_, body, headers, expected) => {
    const { status, text } = await post(timestamp, body, headers)
    expect(JSON.parse(text)).toHaveProperty('message')
    expect(status).toBe(expected)
  })
})

describe('the CT log', () => {
  test.each<[string, unknown]>([
    ['malformed JSON', '{'],
    ['no chain', { chain: [] }],
    ['a chain of no certificates', { chain: [Buffer.from('no DER').toString('base64')] }],
  ])('refuses %s', async (_, body) => {
    for (const path of ['add-chain', 'add-pre-chain']) {
      expect((await post(`${ct}/ct/v1/${path}`, body)).status).toBe(400)
    }
  })

  test('refuses a certificate of a root that it does not know', async () => {
    const der = join(freshFolder('stranger'), 'stranger.der')
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', '/dev/null']
    succeeded(
      await system('openssl', [
        'req',
        '-x509',
        key,
        '-subj',
        '/CN=stranger',
        '-addext',
        'basicConstraints=critical,CA:FALSE',
        '-addext',
        'extendedKeyUsage=codeSigning',
        '-outform',
        'DER',
        '-out',
        der,
      ]),
    )
    const { status, text } = await post(`${ct}/ct/v1/add-chain`, { chain: [readFileSync(der).toString('base64')] })
    expect(status).toBe(400)
    expect(text).toMatch(/root|chain/i)
  })
})
