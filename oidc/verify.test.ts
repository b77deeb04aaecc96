import { createHmac, generateKeyPairSync } from 'node:crypto'
import { type CryptoKey, generateKeyPair, SignJWT } from 'jose'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { startIssuer, type TestIssuer } from '../test/support/oidc-issuer.ts'
import { createTokenVerifier, OidcError, type TokenVerifier } from './index.ts'

const START_MS = 1_760_000_000_000
let nowMs = START_MS
let issuer: TestIssuer
let verifier: TokenVerifier

beforeEach(async () => {
  nowMs = START_MS
  issuer = await startIssuer({ nowSeconds: () => nowMs / 1000 })
  verifier = createTokenVerifier({
    issuers: [{ issuerUrl: issuer.url, audience: 'sigstore', allowHttp: true }],
    clock: () => nowMs,
  })
})

afterEach(async () => {
  await issuer.close()
})

async function refusal(token: string, by = verifier): Promise<OidcError> {
  const outcome = await by.verify(token).then(
    () => 'accepted',
    (error: unknown) => error,
  )
  if (!(outcome instanceof OidcError)) throw new TypeError(`expected a refusal, got ${String(outcome)}`)
  return outcome
}

const part = (value: unknown) =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')

describe('accepts', () => {
  test('a token of a configured issuer, with its claims', async () => {
    const verified = await verifier.verify(await issuer.token({ groups: ['a'] }))
    expect(verified).toMatchObject({ issuer: issuer.url, subject: 'subject-1', audience: ['sigstore'] })
    expect(verified.claims.groups).toEqual(['a'])
    expect(verified.expiresAt.getTime()).toBe(nowMs + 300_000)
    expect(verified.endpoint.issuerUrl).toBe(issuer.url)
  })

  test.each([
    ['an audience among several', { aud: ['other', 'sigstore'] }],
    ['the very second of expiry', { exp: START_MS / 1000 }],
    ['a notBefore four minutes ahead', { nbf: START_MS / 1000 + 240 }],
    ['a token without iat', { iat: undefined }],
  ])('%s', async (_, claims) => {
    await expect(verifier.verify(await issuer.token(claims))).resolves.toBeDefined()
  })

  test.each(['ES256', 'ES384', 'PS256', 'EdDSA'])('%s when the issuer announces it', async (algorithm) => {
    const other = await startIssuer({ algorithm, nowSeconds: () => nowMs / 1000 })
    const by = createTokenVerifier({
      issuers: [{ issuerUrl: other.url, audience: 'sigstore', allowHttp: true }],
      clock: () => nowMs,
    })
    await expect(by.verify(await other.token())).resolves.toMatchObject({ issuer: other.url })
    await other.close()
  })

  test('RS256 when the issuer announces no algorithm', async () => {
    issuer.documents.set('/.well-known/openid-configuration', {
      body: { issuer: issuer.url, jwks_uri: `${issuer.url}/keys` },
    })
    await expect(verifier.verify(await issuer.token())).resolves.toBeDefined()
  })

  test('a key that appeared after the first fetch, once that is a while ago', async () => {
    await verifier.verify(await issuer.token())
    await issuer.rotate()
    expect((await refusal(await issuer.token())).code).toBe('unknown_key')
    nowMs += 11_000
    await expect(verifier.verify(await issuer.token())).resolves.toBeDefined()
  })

  test('a new key under the old id', async () => {
    await verifier.verify(await issuer.token())
    await issuer.rotate('first')
    nowMs += 11_000
    await expect(verifier.verify(await issuer.token())).resolves.toBeDefined()
  })

  test('a redirect on the same host', async () => {
    issuer.documents.set('/elsewhere', issuer.documents.get('/keys') ?? {})
    issuer.documents.set('/keys', { status: 302, headers: { location: '/elsewhere' } })
    await expect(verifier.verify(await issuer.token())).resolves.toBeDefined()
  })

  test('an issuer with a trailing slash', async () => {
    const other = await startIssuer({ nowSeconds: () => nowMs / 1000, path: '' })
    const url = `${other.url}/`
    other.documents.set('/.well-known/openid-configuration', { body: { issuer: url, jwks_uri: `${other.url}/keys` } })
    const by = createTokenVerifier({
      issuers: [{ issuerUrl: url, audience: 'sigstore', allowHttp: true }],
      clock: () => nowMs,
    })
    await expect(by.verify(await other.token({ iss: url }))).resolves.toMatchObject({ issuer: url })
    await other.close()
  })
})

describe('refuses', () => {
  test.each<[string, Record<string, unknown>, string]>([
    ['an expired token, without leeway', { exp: START_MS / 1000 - 1 }, 'expired'],
    ['a notBefore six minutes ahead', { nbf: START_MS / 1000 + 360 }, 'not_yet_valid'],
    ['another audience', { aud: 'kubernetes' }, 'wrong_audience'],
    ['an audience that only begins alike', { aud: 'sigstore2' }, 'wrong_audience'],
    ['no audience', { aud: undefined }, 'malformed'],
    ['an empty list of audiences', { aud: [] }, 'wrong_audience'],
    ['an audience that is no text', { aud: [{ sigstore: true }] }, 'malformed'],
    ['an unknown issuer', { iss: 'https://evil.example' }, 'unknown_issuer'],
    ['the issuer with a slash more', { iss: 'SLASH' }, 'unknown_issuer'],
    ['no issuer', { iss: undefined }, 'malformed'],
    ['no expiry', { exp: undefined }, 'malformed'],
    ['an expiry as text', { exp: '9999999999' }, 'malformed'],
    ['an expiry beyond all dates', { exp: 1e300 }, 'malformed'],
    ['a notBefore that is null', { nbf: null }, 'malformed'],
    ['a subject that is a number', { sub: 7 }, 'malformed'],
  ])('%s', async (_, claims, code) => {
    const given = claims.iss === 'SLASH' ? { iss: `${issuer.url}/` } : claims
    expect((await refusal(await issuer.token(given))).code).toBe(code)
  })

  test.each<[string, (token: string) => string, string]>([
    ['nothing', () => '', 'missing'],
    ['a word', () => 'token', 'malformed'],
    ['two parts', (token) => token.split('.').slice(0, 2).join('.'), 'malformed'],
    ['four parts', (token) => `${token}.x`, 'malformed'],
    ['thousands of dots', () => '.'.repeat(30_000), 'malformed'],
    ['more than 32 KiB', (token) => token + 'A'.repeat(32_768), 'too_large'],
    ['padding', (token) => token.replace('.', '=.'), 'malformed'],
    ['a character outside base64url', (token) => token.replace('.', '+.'), 'malformed'],
    ['a header that is not JSON', (token) => token.replace(/^[^.]+/, part('{')), 'malformed'],
    ['a header that is a list', (token) => token.replace(/^[^.]+/, part([])), 'malformed'],
    ['a header without algorithm', (token) => token.replace(/^[^.]+/, part({})), 'malformed'],
    [
      'a critical extension',
      (token) => token.replace(/^[^.]+/, part({ alg: 'RS256', kid: 'first', crit: ['b64'], b64: false })),
      'malformed',
    ],
    [
      'a flipped signature',
      (token) => token.replace(/.{4}$/, (end) => (end === 'AAAA' ? 'BBBB' : 'AAAA')),
      'bad_signature',
    ],
    ['no signature', (token) => token.replace(/[^.]+$/, ''), 'bad_signature'],
    [
      'a claim changed after signing',
      (token) => token.replace(/\.[^.]+\./, `.${part({ iss: issuer.url, aud: 'sigstore', sub: 'root', exp: 9e9 })}.`),
      'bad_signature',
    ],
  ])('%s', async (_, change, code) => {
    expect((await refusal(change(await issuer.token()))).code).toBe(code)
  })

  test('alg none', async () => {
    const claims = { iss: issuer.url, aud: 'sigstore', sub: 's', exp: nowMs / 1000 + 60 }
    for (const alg of ['none', 'None', 'NONE']) {
      expect((await refusal(`${part({ alg })}.${part(claims)}.`)).code).toBe('unsupported_algorithm')
    }
  })

  test('HS256 with the public key as secret, also when the issuer announces it', async () => {
    issuer.documents.set('/.well-known/openid-configuration', {
      body: {
        issuer: issuer.url,
        jwks_uri: `${issuer.url}/keys`,
        id_token_signing_alg_values_supported: ['HS256', 'none', 'RS256'],
      },
    })
    const signed = `${part({ alg: 'HS256', kid: 'first' })}.${part({ iss: issuer.url, aud: 'sigstore', sub: 's', exp: nowMs / 1000 + 60 })}`
    const mac = createHmac('sha256', JSON.stringify(issuer.publicJwk())).update(signed).digest('base64url')
    expect((await refusal(`${signed}.${mac}`)).code).toBe('unsupported_algorithm')
  })

  test('another key under the right id', async () => {
    const { privateKey } = await generateKeyPair('RS256')
    expect((await refusal(await issuer.token({}, { key: privateKey }))).code).toBe('bad_signature')
  })

  test('an algorithm that the issuer does not announce', async () => {
    const { privateKey } = await generateKeyPair('RS512')
    expect((await refusal(await issuer.token({}, { key: privateKey, alg: 'RS512' }))).code).toBe(
      'unsupported_algorithm',
    )
  })

  test('a key id that the issuer does not have', async () => {
    expect((await refusal(await issuer.token({}, { kid: 'other' }))).code).toBe('unknown_key')
  })

  test('an RSA key of 1024 bits', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 1024 })
    issuer.documents.set('/keys', { body: { keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'first' }] } })
    const { createSign } = await import('node:crypto')
    const signed = (await issuer.token()).replace(/\.[^.]+$/, '')
    const signature = createSign('sha256').update(signed).sign(privateKey, 'base64url')
    expect((await refusal(`${signed}.${signature}`)).code).toBe('bad_signature')
  })

  test('a key published for encryption', async () => {
    issuer.documents.set('/keys', { body: { keys: [{ ...issuer.publicJwk(), use: 'enc' }] } })
    expect((await refusal(await issuer.token())).code).toBe('unknown_key')
  })

  test.each<[string, () => void, string]>([
    ['discovery that names another issuer', () => setDiscovery({ issuer: 'https://evil.example' }), 'issuer_invalid'],
    ['discovery without key set', () => setDiscovery({ jwks_uri: undefined }), 'issuer_invalid'],
    ['a key set behind file:', () => setDiscovery({ jwks_uri: 'file:///etc/passwd' }), 'issuer_invalid'],
    [
      'a key set address with a password',
      () => setDiscovery({ jwks_uri: issuer.url.replace('//', '//a:b@') }),
      'issuer_invalid',
    ],
    ['a key set that is a list', () => void issuer.documents.set('/keys', { body: [] }), 'issuer_invalid'],
    [
      'a key set of a thousand keys',
      () =>
        void issuer.documents.set('/keys', { body: { keys: Array.from({ length: 1000 }, () => issuer.publicJwk()) } }),
      'issuer_invalid',
    ],
    ['a key set that is not JSON', () => void issuer.documents.set('/keys', { body: '<html>' }), 'issuer_invalid'],
    [
      'a key set of a megabyte',
      () => void issuer.documents.set('/keys', { body: ' '.repeat(1_000_000) }),
      'issuer_invalid',
    ],
    [
      'a redirect to another host',
      () => void issuer.documents.set('/keys', { status: 302, headers: { location: 'http://localhost:1/keys' } }),
      'issuer_invalid',
    ],
    [
      'a redirect to itself',
      () => void issuer.documents.set('/keys', { status: 302, headers: { location: '/keys' } }),
      'issuer_invalid',
    ],
    ['an error page', () => void issuer.documents.set('/keys', { status: 500 }), 'issuer_unreachable'],
  ])('tokens of an issuer with %s', async (_, spoil, code) => {
    spoil()
    expect((await refusal(await issuer.token())).code).toBe(code)
  })

  test('plain HTTP where it is not allowed', async () => {
    const by = createTokenVerifier({ issuers: [{ issuerUrl: issuer.url, audience: 'sigstore' }], clock: () => nowMs })
    expect((await refusal(await issuer.token(), by)).code).toBe('issuer_invalid')
    expect(issuer.requests).toEqual([])
  })

  test('an issuer that is not there, and says so again without asking', async () => {
    const token = await issuer.token()
    await issuer.close()
    expect((await refusal(token)).code).toBe('issuer_unreachable')
    expect((await refusal(token)).code).toBe('issuer_unreachable')
  })

  test('without the token in its message', async () => {
    const token = `${(await issuer.token()).slice(0, -8)}AAAAAAAA`
    const error = await refusal(token)
    for (const piece of token.split('.')) expect(`${error.message}${String(error.cause)}`).not.toContain(piece)
  })

  function setDiscovery(change: Record<string, unknown>): void {
    const path = '/.well-known/openid-configuration'
    const body = issuer.documents.get(path)?.body
    issuer.documents.set(path, { body: { ...(body as object), ...change } })
  }
})

describe('asks an issuer', () => {
  test('once for many tokens at the same time', async () => {
    const token = await issuer.token()
    await Promise.all(Array.from({ length: 20 }, () => verifier.verify(token)))
    expect(issuer.requests).toEqual(['/.well-known/openid-configuration', '/keys'])
  })

  test('no more often for forged tokens than every ten seconds', async () => {
    const forged = `${(await issuer.token()).slice(0, -8)}AAAAAAAA`
    const unknown = await issuer.token({}, { kid: 'other' })
    for (let second = 0; second < 30; second++) {
      await refusal(forged)
      await refusal(unknown)
      nowMs += 1000
    }
    expect(issuer.requests.length).toBeLessThanOrEqual(2 * 4)
  })

  test('seldom while it fails, but soon at first', async () => {
    issuer.documents.set('/keys', { status: 503 })
    const keys = () => issuer.requests.filter((path) => path === '/keys').length
    const token = await issuer.token()
    await refusal(token)
    await refusal(token)
    expect(keys()).toBe(1)
    nowMs += 600
    await refusal(token)
    expect(keys()).toBe(2)
    for (let second = 0; second < 60; second++) {
      await refusal(token)
      nowMs += 1000
    }
    expect(keys()).toBeLessThan(16)
  })

  test('again after a quarter of an hour, so that withdrawn keys end', async () => {
    const old = await issuer.token({ exp: START_MS / 1000 + 7200 })
    await verifier.verify(old)
    await issuer.rotate()
    nowMs += 16 * 60_000
    expect((await refusal(old)).code).toBe('unknown_key')
  })

  test('and keeps its last keys for an hour while it is away', async () => {
    const token = await issuer.token({ exp: START_MS / 1000 + 7200 })
    await verifier.verify(token)
    issuer.documents.set('/keys', { status: 500 })
    nowMs += 30 * 60_000
    await expect(verifier.verify(token)).resolves.toBeDefined()
    nowMs += 31 * 60_000
    expect((await refusal(token)).code).toBe('issuer_unreachable')
  })

  test('ahead of time with prefetch, which names those that failed', async () => {
    const by = createTokenVerifier({
      issuers: [
        { issuerUrl: issuer.url, audience: 'sigstore', allowHttp: true },
        { issuerUrl: `${issuer.url}/missing`, audience: 'sigstore', allowHttp: true },
      ],
      clock: () => nowMs,
    })
    const failed = await by.prefetch()
    expect(failed.map(({ issuerUrl }) => issuerUrl)).toEqual([`${issuer.url}/missing`])
    const before = issuer.requests.length
    await by.verify(await issuer.token())
    expect(issuer.requests.length).toBe(before)
  })
})

describe('wildcard issuers', () => {
  const keyPair = generateKeyPair('RS256', { extractable: true })

  /** Answers for every issuer under the host, so that patterns with real host names can be tried without a network. */
  async function world(): Promise<{ by: TokenVerifier; token: (iss: string) => Promise<string>; asked: string[] }> {
    const { privateKey, publicKey }: { privateKey: CryptoKey; publicKey: CryptoKey } = await keyPair
    const { exportJWK } = await import('jose')
    const jwk = { ...(await exportJWK(publicKey)), kid: 'k' }
    const asked: string[] = []
    const by = createTokenVerifier({
      issuers: [
        { pattern: 'https://oidc.eks.*.amazonaws.com/id/*', audience: 'sigstore' },
        { pattern: 'https://oidc.example/*', audience: 'other' },
        { issuerUrl: 'https://oidc.example/exact', audience: 'sigstore' },
      ],
      clock: () => nowMs,
      fetch: async (url) => {
        asked.push(url.href)
        const at = url.href.indexOf('/.well-known/')
        if (url.href.includes('absent')) throw new OidcError('issuer_unreachable', 'absent')
        return at < 0 ? { keys: [jwk] } : { issuer: url.href.slice(0, at), jwks_uri: `${url.origin}/jwks` }
      },
    })
    const token = (iss: string) =>
      new SignJWT({ iss, aud: 'sigstore', sub: 's', exp: nowMs / 1000 + 60 })
        .setProtectedHeader({ alg: 'RS256', kid: 'k' })
        .sign(privateKey)
    return { by, token, asked }
  }

  test('match a name of letters, digits, hyphens and underscores in each place', async () => {
    const { by, token } = await world()
    const iss = 'https://oidc.eks.us-west-2.amazonaws.com/id/B02C93B6_A2'
    await expect(by.verify(await token(iss))).resolves.toMatchObject({ issuer: iss })
  })

  test('come after an exact issuer', async () => {
    const { by, token } = await world()
    await expect(by.verify(await token('https://oidc.example/exact'))).resolves.toBeDefined()
    expect((await refusal(await token('https://oidc.example/else'), by)).code).toBe('wrong_audience')
  })

  test.each([
    'https://oidc.eks.a.b.amazonaws.com/id/x',
    'https://oidc.eks.a.amazonaws.com/id/x/y',
    'https://oidc.eks.a.amazonaws.com/id/',
    'https://oidc.eks.a.amazonaws.com/id/x?y',
    'https://oidcXeks.a.amazonaws.com/id/x',
    'http://oidc.eks.a.amazonaws.com/id/x',
    'http://localhost:3000?https://oidc.eks.a.amazonaws.com/id/x',
    'https://oidc.eks.a.amazonaws.com/id/x\n',
    'https://oidc.eks.evil.example/.amazonaws.com/id/x',
  ])('do not match %j', async (iss) => {
    const { by, token, asked } = await world()
    expect((await refusal(await token(iss), by)).code).toBe('unknown_issuer')
    expect(asked).toEqual([])
  })

  test('that fail are not asked again at once, and do not push out those in use', async () => {
    const { by, token, asked } = await world()
    const good = await token('https://oidc.eks.a.amazonaws.com/id/good')
    await by.verify(good)
    for (let n = 0; n < 150; n++) await refusal(await token(`https://oidc.eks.a.amazonaws.com/id/absent${n}`), by)
    await refusal(await token('https://oidc.eks.a.amazonaws.com/id/absent149'), by)
    const before = asked.length
    await refusal(await token('https://oidc.eks.a.amazonaws.com/id/absent149'), by)
    await by.verify(good)
    expect(asked.length).toBe(before)
  })
})
