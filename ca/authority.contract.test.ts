import { execFileSync } from 'node:child_process'
import { generateKeyPairSync, sign, X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FulcioSigner } from '@sigstore/sign'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listen, type Listener } from '#http'
import { type IssuerPolicy, parseFulcioConfig } from '#policy'
import { startIssuer, type TestIssuer } from '../test/support/oidc-issuer.ts'
import { type SofthsmCa, softhsmCa } from '../test/support/softhsm-ca.ts'
import { type SoftwareLog, softwareLog } from '../test/support/software-ca.ts'
import { caSection, createAuthority } from './index.ts'

/** The whole authority as it runs: real listener, real agent on SoftHSM, a real issuer; the log alone is in software. */
let issuer: TestIssuer
let hsm: SofthsmCa
let log: SoftwareLog
let listener: Listener
let folder: string
let issuers: readonly IssuerPolicy[]

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-ca-test-'))
  issuer = await startIssuer({ nowSeconds: () => Math.floor(Date.now() / 1000) })
  log = softwareLog(Date.now)
  hsm = await softhsmCa(log.spkiDer)

  issuers = parseFulcioConfig(
    JSON.stringify({
      OIDCIssuers: { [issuer.url]: { IssuerURL: issuer.url, ClientID: 'sigstore', Type: 'email' } },
    }),
  )
  const authority = await createAuthority({
    agent: hsm.agent,
    key: 'issuing-ca',
    chain: hsm.chain,
    ctLog: log,
    ctLogSpkiDer: log.spkiDer,
    issuers,
  })
  listener = await listen({ host: '127.0.0.1', port: 0, sections: [{ section: caSection(authority) }] })
})

afterAll(async () => {
  await listener.close()
  await hsm.close()
  await issuer.close()
  rmSync(folder, { recursive: true })
})

const client = generateKeyPairSync('ec', { namedCurve: 'P-256' })

async function post(
  path: string,
  change: Record<string, unknown> = {},
  claims: Record<string, unknown> = {},
): Promise<Response> {
  const content = String(client.publicKey.export({ format: 'pem', type: 'spki' }))
  const proof = sign('sha256', Buffer.from('jo@example.com'), client.privateKey).toString('base64')
  const body =
    path === '/api/v1/signingCert'
      ? { publicKey: { content: Buffer.from(content).toString('base64') }, signedEmailAddress: proof }
      : { publicKeyRequest: { publicKey: { algorithm: 'ECDSA', content }, proofOfPossession: proof } }
  return await fetch(listener.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${await issuer.token(claims)}` },
    body: JSON.stringify({ ...body, ...change }),
  })
}

describe('on SoftHSM, over HTTP', () => {
  test.each([
    ['/api/v1/signingCert', 201],
    ['/api/v2/signingCert', 200],
  ])('%s gives a chain that openssl -x509_strict verifies', async (path, status) => {
    const response = await post(path)
    expect(response.status).toBe(status)
    const text = (await response.text()).replaceAll(String.raw`\n`, '\n')
    const pems = text.match(/-----BEGIN CERTIFICATE-----\n[^-]+-----END CERTIFICATE-----/g) ?? []
    expect(pems).toHaveLength(3)
    const names = pems.map((pem, at) => {
      const name = join(folder, `${at}.pem`)
      writeFileSync(name, `${pem}\n`)
      return name
    })
    const verify = (leaf: string) =>
      execFileSync(
        'openssl',
        ['verify', '-x509_strict', '-CAfile', names[2] ?? '', '-untrusted', names[1] ?? '', leaf],
        { stdio: 'pipe' },
      ).toString()
    expect(verify(names[0] ?? '')).toMatch(/: OK\n$/)
    const forged = join(folder, 'forged.pem')
    writeFileSync(forged, forge(pems[0] ?? ''))
    expect(() => verify(forged)).toThrow(/certificate signature failure/)
  })

  test('sigstore-js gets its certificate', async () => {
    const signer = new FulcioSigner({
      fulcioBaseURL: listener.url,
      identityProvider: { getToken: async () => await issuer.token() },
    })
    const { key } = await signer.sign(Buffer.from('artifact'))
    if (key.$case !== 'x509Certificate') throw new TypeError('no certificate')
    expect(new X509Certificate(key.certificate).subjectAltName).toBe('email:jo@example.com')
  })

  test('many at once all get their own', async () => {
    const responses = await Promise.all(Array.from({ length: 24 }, () => post('/api/v2/signingCert')))
    expect(responses.map(({ status }) => status)).toEqual(Array.from({ length: 24 }, () => 200))
    expect(new Set(await Promise.all(responses.map((response) => response.text()))).size).toBe(24)
  })

  test.each<[string, Record<string, unknown>, Record<string, unknown>, RegExp]>([
    ['an expired token', {}, { exp: 1 }, /expired/],
    ['an unverified email', {}, { email_verified: false }, /not verified/],
    ['another person', {}, { email: 'root@example.com' }, /could not be verified/],
    ['both arms', { certificateSigningRequest: 'AAAA' }, {}, /exclude/],
    ['a body over the limit', { padding: 'x'.repeat(300_000) }, {}, /too large/],
  ])('refuses %s with 400', async (_, change, claims, message) => {
    const response = await post('/api/v2/signingCert', change, claims)
    expect(response.status).toBe(400)
    expect(await response.json()).toEqual({ code: 3, message: expect.stringMatching(message) as string, details: [] })
  })

  test.each(['/healthz', '/api/v2/trustBundle', '/api/v2/configuration', '/api/v1/rootCert'])(
    '%s is read',
    async (path) => {
      expect((await fetch(listener.url + path)).status).toBe(200)
    },
  )

  test('answers unknown paths and wrong methods as the gateway does', async () => {
    expect((await fetch(`${listener.url}/api/v2/nothing`)).status).toBe(404)
    expect((await fetch(`${listener.url}/api/v2/signingCert`)).status).toBe(501)
  })

  test('the agent signs over no timestamp of another log, even if the authority would', async () => {
    const other = softwareLog(Date.now)
    const misled = await createAuthority({
      agent: hsm.agent,
      key: 'issuing-ca',
      chain: hsm.chain,
      ctLog: other,
      ctLogSpkiDer: other.spkiDer,
      issuers,
    })
    const proof = sign('sha256', Buffer.from('jo@example.com'), client.privateKey)
    const encoded = Buffer.from(client.publicKey.export({ format: 'der', type: 'spki' }))
    const issued = misled.issue({ token: await issuer.token(), key: { kind: 'publicKey', encoded, proof } })
    await expect(issued).rejects.toMatchObject({
      code: 'internal',
      cause: { code: 'refused', reason: 'sct_of_other_log' },
    })
  })
})

/** One bit of the signature flipped. */
function forge(pem: string): string {
  const der = Buffer.from(pem.replaceAll(/-----[A-Z ]+-----|\n/g, ''), 'base64')
  der[der.length - 1] = (der.at(-1) ?? 0) ^ 1
  return `-----BEGIN CERTIFICATE-----\n${der
    .toString('base64')
    .replaceAll(/(.{64})/g, '$1\n')
    .trimEnd()}\n-----END CERTIFICATE-----\n`
}
