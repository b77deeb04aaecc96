import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createHash, randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from 'jose'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startDevelopmentIssuer } from './development-issuer.ts'
import { developmentKey, developmentToken, isEmail, knownIssuer, parseDuration } from './development-token.ts'

let dataDir: string
let issuer: Awaited<ReturnType<typeof startDevelopmentIssuer>>

beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'chancery-issuer-'))
  issuer = await startDevelopmentIssuer({ dataDir, listen: '127.0.0.1:0' })
})

afterAll(async () => {
  await issuer.close()
  rmSync(dataDir, { recursive: true })
})

/** A browser as far as this flow needs one: cookies, and redirects followed by hand. */
class Browser {
  readonly #cookies = new Map<string, string>()

  async open(url: string, form?: Record<string, string>): Promise<Response> {
    const answer = await fetch(url, {
      redirect: 'manual',
      headers: { cookie: [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
      ...(form && { method: 'POST', body: new URLSearchParams(form) }),
    })
    for (const set of answer.headers.getSetCookie()) {
      const [name = '', value = ''] = (set.split(';')[0] ?? '').split(/=(.*)/s)
      this.#cookies.set(name, value)
    }
    return answer
  }

  /** Follows redirects of the issuer until a page or a redirect elsewhere. */
  async follow(answer: Response): Promise<{ url: string; answer: Response }> {
    for (let hops = 0; hops < 10; hops++) {
      const location = answer.headers.get('location')
      if (location === null) return { url: answer.url, answer }
      const url = new URL(location, answer.url).href
      if (!url.startsWith(issuer.url)) return { url, answer }
      answer = await this.open(url)
    }
    throw new Error('too many redirects')
  }
}

interface Discovery {
  readonly issuer: string
  readonly authorization_endpoint: string
  readonly token_endpoint: string
  readonly jwks_uri: string
  readonly code_challenge_methods_supported: readonly string[]
}

async function discovered(): Promise<Discovery> {
  return (await (await fetch(`${issuer.url}/.well-known/openid-configuration`)).json()) as Discovery
}

interface Flow {
  readonly verifier: string
  readonly nonce: string
  readonly state: string
  readonly redirect: string
  readonly url: URL
}

/** What cosign's oauthflow puts into the URL that it opens. */
async function cosignFlow(redirect = 'http://localhost:39421/auth/callback'): Promise<Flow> {
  const verifier = randomBytes(32).toString('base64url')
  const nonce = randomBytes(16).toString('base64url')
  const state = randomBytes(16).toString('base64url')
  const url = new URL((await discovered()).authorization_endpoint)
  url.search = new URLSearchParams({
    access_type: 'online',
    client_id: 'sigstore',
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
    nonce,
    redirect_uri: redirect,
    response_type: 'code',
    scope: 'openid email',
    state,
  }).toString()
  return { verifier, nonce, state, redirect, url }
}

async function redeem(flow: Flow, code: string, changes: Record<string, string> = {}, headers = {}): Promise<Response> {
  return fetch((await discovered()).token_endpoint, {
    method: 'POST',
    headers,
    body: new URLSearchParams({
      grant_type: 'authorization_code',
      client_id: 'sigstore',
      code,
      redirect_uri: flow.redirect,
      code_verifier: flow.verifier,
      ...changes,
    }),
  })
}

async function signIn(flow: Flow, email: string, browser = new Browser()): Promise<URL> {
  const page = await browser.follow(await browser.open(flow.url.href))
  expect(page.answer.status).toBe(200)
  expect(await page.answer.text()).toContain('Development only')
  const done = await browser.follow(await browser.open(page.url, { email }))
  return new URL(done.url)
}

describe("cosign's browser flow", () => {
  // With a client secret that is empty: Go's oauth2 tries HTTP Basic first and sigstore-python sends nothing else.
  test.each([
    ['as a public client', {}],
    ['with an empty secret', { authorization: `Basic ${Buffer.from('sigstore:').toString('base64')}` }],
  ])('ends in an ID token that Fulcio and every client take (%s)', async (_, headers) => {
    const flow = await cosignFlow()
    const callback = await signIn(flow, 'ada@example.test')
    expect(callback.origin + callback.pathname).toBe(flow.redirect)
    expect(callback.searchParams.get('state')).toBe(flow.state)
    const answer = await redeem(flow, callback.searchParams.get('code') ?? '', {}, headers)
    const { id_token } = (await answer.json()) as { id_token: string }
    const { payload, protectedHeader } = await jwtVerify(
      id_token,
      createRemoteJWKSet(new URL((await discovered()).jwks_uri)),
      { issuer: issuer.url, audience: 'sigstore' },
    )
    expect(protectedHeader.alg).toBe('RS256')
    expect(payload).toMatchObject({
      iss: issuer.url,
      aud: 'sigstore',
      email: 'ada@example.test',
      email_verified: true,
      sub: 'ada@example.test',
      nonce: flow.nonce,
    })
  })

  test('discovery names itself and PKCE with S256', async () => {
    expect(await discovered()).toMatchObject({ issuer: issuer.url, code_challenge_methods_supported: ['S256'] })
  })

  test('asks each time who to be, also a browser that has been here', async () => {
    const browser = new Browser()
    await signIn(await cosignFlow(), 'ada@example.test', browser)
    const flow = await cosignFlow('http://127.0.0.1:1234/auth/callback')
    const callback = await signIn(flow, 'grace@example.test', browser)
    const tokens = (await (await redeem(flow, callback.searchParams.get('code') ?? '')).json()) as { id_token: string }
    expect(atob(tokens.id_token.split('.')[1] ?? '')).toContain('grace@example.test')
  })

  test.each([
    '',
    'ada',
    'a b@example.test',
    '<script>@example.test',
    `${'a'.repeat(300)}@example.test`,
    '@example.test',
  ])('asks again for %j', async (email) => {
    const browser = new Browser()
    const page = await browser.follow(await browser.open((await cosignFlow()).url.href))
    const answer = await browser.open(page.url, { email })
    expect(answer.status).toBe(400)
    const html = await answer.text()
    expect(html).toContain('That is not an e-mail address.')
    expect(html).not.toContain('<script>')
  })

  test.each([
    ['another verifier', { code_verifier: randomBytes(32).toString('base64url') }],
    ['another redirect', { redirect_uri: 'http://localhost:1/auth/callback' }],
    ['another client', { client_id: 'other' }],
  ])('a code is not redeemed with %s', async (_, changes) => {
    const flow = await cosignFlow()
    const callback = await signIn(flow, 'ada@example.test')
    const answer = await redeem(flow, callback.searchParams.get('code') ?? '', changes)
    expect([400, 401]).toContain(answer.status)
    expect(await answer.json()).not.toHaveProperty('id_token')
  })

  test('a code is redeemed once', async () => {
    const flow = await cosignFlow()
    const code = (await signIn(flow, 'ada@example.test')).searchParams.get('code') ?? ''
    expect((await redeem(flow, code)).status).toBe(200)
    expect((await redeem(flow, code)).status).toBe(400)
  })

  test.each([
    ['a redirect off the machine', 'redirect_uri', 'http://example.test/auth/callback'],
    ['a redirect to another path', 'redirect_uri', 'http://localhost:1234/other'],
    ['no PKCE', 'code_challenge', ''],
    ['plain PKCE', 'code_challenge_method', 'plain'],
    ['an unknown client', 'client_id', 'other'],
    ['the implicit flow', 'response_type', 'id_token'],
  ])('refuses %s', async (_, name, value) => {
    const { url, redirect } = await cosignFlow()
    url.searchParams.set(name, value)
    const browser = new Browser()
    const { url: at, answer } = await browser.follow(await browser.open(url.href))
    const refused = answer.status >= 400 || (at.startsWith(redirect) && /[?#&]error=/.test(at))
    expect(refused).toBe(true)
  })

  test('a sign-in that is not under way is a page that says so', async () => {
    const answer = await fetch(`${issuer.url}/interaction/unknown`)
    expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining('This sign-in is over')])
  })
})

describe('tokens without a browser', () => {
  const verified = (token: string, audience = 'sigstore') =>
    jwtVerify(token, createRemoteJWKSet(new URL(`${issuer.url}/jwks`)), { issuer: issuer.url, audience })

  const ordinary = async (): Promise<Parameters<typeof developmentToken>[0]> => ({
    key: await developmentKey(dataDir),
    issuerUrl: await knownIssuer(dataDir),
    email: 'dev@example.test',
    emailVerified: true,
    audience: 'sigstore',
    expiresInSeconds: 600,
    nowSeconds: Math.floor(Date.now() / 1000),
  })

  test("verify under the issuer's published key", async () => {
    const token = await developmentToken(await ordinary())
    expect(decodeProtectedHeader(token)).toMatchObject({ alg: 'RS256', typ: 'JWT' })
    expect((await verified(token)).payload).toMatchObject({ aud: 'sigstore', email_verified: true })
  })

  test.each([
    ['expired', { expiresInSeconds: -600 }],
    ['for another audience', { audience: 'other' }],
    ['of another issuer', { issuerUrl: 'http://127.0.0.1:1' }],
  ])('can be %s, for tests', async (_, changes) => {
    await expect(verified(await developmentToken({ ...(await ordinary()), ...changes }))).rejects.toThrow()
  })

  test('claims are laid over the usual ones and null takes one away', async () => {
    const claims = { email: null, sub: 'repo:a/b:ref:refs/heads/main', run_id: '7' }
    const { payload } = await verified(await developmentToken({ ...(await ordinary()), claims }))
    expect(payload).toMatchObject({ sub: 'repo:a/b:ref:refs/heads/main', run_id: '7' })
    expect(payload).not.toHaveProperty('email')
  })

  test('the key is made once, readable by its owner alone, and damage is named', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'chancery-key-'))
    try {
      const [one, two] = await Promise.all([developmentKey(folder), developmentKey(folder)])
      expect(one).toEqual(two)
      const file = join(folder, 'dev-issuer', 'key.json')
      expect(statSync(file).mode & 0o777).toBe(0o600)
      expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(one.privateJwk)
      writeFileSync(file, 'no')
      await expect(developmentKey(folder)).rejects.toMatchObject({ code: 'key_unreadable' })
      await expect(knownIssuer(folder)).rejects.toMatchObject({ code: 'no_issuer' })
      writeFileSync(join(folder, 'chancery.yaml'), 'developmentIssuer: { url: "http://127.0.0.1:7/" }\n')
      expect(await knownIssuer(folder)).toBe('http://127.0.0.1:7')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

test('a taken port is named', async () => {
  const taken = new URL(issuer.url).host
  await expect(startDevelopmentIssuer({ dataDir, listen: taken })).rejects.toMatchObject({
    code: 'cannot_listen',
    message: `the development issuer cannot listen on ${taken}: another program already listens there`,
  })
})

test.each([
  ['90s', 90],
  ['10m', 600],
  ['-10m', -600],
  ['2h', 7_200],
  ['30d', 2_592_000],
  ['45', 45],
])('the duration %s is %d seconds', (text, seconds) => expect(parseDuration(text)).toBe(seconds))

test.each(['', 'm', '1.5h', '10 m', '1w', '--1s', '1e3'])('%j is no duration', (text) =>
  expect(() => parseDuration(text)).toThrow('not a duration'),
)

test.each(['a@b.test', "o'hara+x@mail.example.org", 'x@localhost'])('%s is an address', (text) =>
  expect(isEmail(text)).toBe(true),
)
