import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { decodeJwt } from 'jose'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { login } from './browser-login.ts'
import { startDevelopmentIssuer } from './development-issuer.ts'

let dataDir: string
let issuer: Awaited<ReturnType<typeof startDevelopmentIssuer>>
const servers: Server[] = []

beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'chancery-login-'))
  issuer = await startDevelopmentIssuer({ dataDir, listen: '127.0.0.1:0' })
})

afterEach(() => {
  for (const server of servers.splice(0)) server.close()
})

afterAll(async () => {
  await issuer.close()
  rmSync(dataDir, { recursive: true })
})

/** What a person does: opens the URL, types an address, is sent back. Resolves with the last page's status and URL. */
async function person(url: string, email: string): Promise<string> {
  const cookies = new Map<string, string>()
  let form: URLSearchParams | undefined
  for (let hops = 0; hops < 12; hops++) {
    const answer = await fetch(url, {
      redirect: 'manual',
      headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
      ...(form && { method: 'POST', body: form }),
    })
    for (const set of answer.headers.getSetCookie()) {
      const [name = '', value = ''] = (set.split(';')[0] ?? '').split(/=(.*)/s)
      cookies.set(name, value)
    }
    const location = answer.headers.get('location')
    const onForm = location === null && url.includes('/interaction/')
    form = onForm ? new URLSearchParams({ email }) : undefined
    if (location !== null) url = new URL(location, url).href
    else if (!onForm) return `${answer.status} ${url}`
  }
  throw new Error('the sign-in did not end')
}

test('a sign-in in the browser becomes an ID token', async () => {
  let last: Promise<string> | undefined
  const token = await login({
    issuerUrl: issuer.url,
    clientId: 'sigstore',
    show: (url) => {
      last = person(url, 'ada@example.test')
    },
  })
  expect(decodeJwt(token)).toMatchObject({ iss: issuer.url, aud: 'sigstore', email: 'ada@example.test' })
  expect(await last).toMatch(/^200 http:\/\/localhost:\d+\/auth\/callback\?/)
})

test('a redirect that was not asked for changes nothing', async () => {
  let injected: number | undefined
  const token = await login({
    issuerUrl: issuer.url,
    clientId: 'sigstore',
    show: (url) => {
      const redirect = new URL(url).searchParams.get('redirect_uri') ?? ''
      void fetch(`${redirect}?code=stolen&state=other`).then(async ({ status }) => {
        injected = status
        await person(url, 'ada@example.test')
      })
    },
  })
  expect(injected).toBe(400)
  expect(decodeJwt(token)).toMatchObject({ email: 'ada@example.test' })
})

test.each([
  ['a refusal', 'error=access_denied&error_description=no', 'denied'],
  ['a code that is none', `code=nothing&iss=ISSUER`, 'token_refused'],
  ['an answer of another issuer', 'code=nothing&iss=http://127.0.0.1:1', 'token_refused'],
])('%s is a named failure', async (_, query, code) => {
  const show = (url: string): void => {
    const { searchParams } = new URL(url)
    const answer = query.replace('ISSUER', encodeURIComponent(issuer.url))
    void fetch(`${searchParams.get('redirect_uri')}?${answer}&state=${searchParams.get('state')}`)
  }
  await expect(login({ issuerUrl: issuer.url, clientId: 'sigstore', show })).rejects.toMatchObject({ code })
})

test('nobody coming is a named failure', async () => {
  const never = login({ issuerUrl: issuer.url, clientId: 'sigstore', show: () => {}, timeoutMs: 30 })
  await expect(never).rejects.toMatchObject({ code: 'not_completed' })
})

test.each([
  ['nothing listens', 'http://127.0.0.1:9'],
  ['no URL', 'not a url'],
])('an issuer that cannot be used is named: %s', async (_, issuerUrl) => {
  const none = login({ issuerUrl, clientId: 'sigstore', show: () => {} })
  await expect(none).rejects.toMatchObject({ code: 'issuer_unreachable' })
})

test('discovery that names another issuer is refused', async () => {
  const server = createServer((_, response) => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ issuer: 'http://127.0.0.1:1', authorization_endpoint: 'http://127.0.0.1:1/auth' }))
  })
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const other = login({ issuerUrl: `http://127.0.0.1:${port}`, clientId: 'sigstore', show: () => {} })
  await expect(other).rejects.toMatchObject({ code: 'issuer_unreachable' })
})
