import { generateKeyPairSync, type KeyObject, sign, X509Certificate } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { EndpointAnswer, Section } from '#http'
import { HsmError } from '#hsm'
import { parseFulcioConfig } from '#policy'
import { startIssuer, type TestIssuer } from '../test/support/oidc-issuer.ts'
import { type SoftwareCa, type SoftwareLog, softwareCa, softwareLog } from '../test/support/software-ca.ts'
import { caSection, createAuthority } from './index.ts'

const nowMs = 1_760_000_000_000
let issuer: TestIssuer
let ca: SoftwareCa
let log: SoftwareLog
let section: Section

beforeAll(async () => {
  issuer = await startIssuer({ nowSeconds: () => nowMs / 1000 })
  ca = await softwareCa(nowMs)
  log = softwareLog(() => nowMs)
  const issuers = parseFulcioConfig(
    JSON.stringify({
      OIDCIssuers: { [issuer.url]: { IssuerURL: issuer.url, ClientID: 'sigstore', Type: 'email' } },
      MetaIssuers: { 'https://*.k8s.example/*': { ClientID: 'sigstore', Type: 'kubernetes' } },
    }),
  )
  section = caSection(
    await createAuthority({
      agent: ca.agent,
      key: 'issuing-ca',
      chain: ca.chain,
      ctLog: log,
      ctLogSpkiDer: log.spkiDer,
      issuers,
      clock: () => nowMs,
    }),
  )
})

beforeEach(() => {
  ca.failure = undefined
  log.answer = undefined
})

afterAll(async () => {
  await issuer.close()
})

async function call(
  method: 'GET' | 'POST',
  path: string,
  body: unknown = '',
  headers: Record<string, string> = {},
): Promise<EndpointAnswer> {
  const endpoint = section.endpoints.find((one) => one.method === method && one.path === path)
  if (endpoint === undefined) throw new TypeError(`no endpoint ${method} ${path}`)
  const bytes = typeof body === 'string' ? Buffer.from(body) : Buffer.from(JSON.stringify(body))
  return await endpoint.answer({
    method,
    path,
    params: {},
    query: new URLSearchParams(),
    headers,
    body: bytes,
    requestId: 'r',
    signal: new AbortController().signal,
  })
}

const parsed = (answer: EndpointAnswer): unknown => JSON.parse(String(answer.body))

const client = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const PEM = String(client.publicKey.export({ format: 'pem', type: 'spki' }))
const DER = Buffer.from(client.publicKey.export({ format: 'der', type: 'spki' }))
const proof = (challenge = 'jo@example.com', key: KeyObject = client.privateKey) =>
  sign('sha256', Buffer.from(challenge), key).toString('base64')
const bearer = async (claims?: Record<string, unknown>) => ({ authorization: `Bearer ${await issuer.token(claims)}` })

const v2 = (change: Record<string, unknown> = {}) => ({
  publicKeyRequest: { publicKey: { algorithm: 'ECDSA', content: PEM }, proofOfPossession: proof() },
  ...change,
})
const v1 = (change: Record<string, unknown> = {}) => ({
  publicKey: { algorithm: 'ecdsa', content: Buffer.from(PEM).toString('base64') },
  signedEmailAddress: proof(),
  ...change,
})

function pems(text: string): X509Certificate[] {
  return (text.match(/-----BEGIN CERTIFICATE-----\n[^-]+-----END CERTIFICATE-----/g) ?? []).map(
    (pem) => new X509Certificate(pem),
  )
}

describe('POST /api/v2/signingCert', () => {
  test.each<[string, () => Promise<[unknown, Record<string, string>]>]>([
    ['with the token in the header', async () => [v2(), await bearer()]],
    ['with a bare token in the header', async () => [v2(), { authorization: await issuer.token() }]],
    [
      'with the token in the body, as sigstore-js',
      async () => [v2({ credentials: { oidcIdentityToken: await issuer.token() } }), {}],
    ],
    [
      'with the body token before the header',
      async () => [v2({ credentials: { oidcIdentityToken: await issuer.token() } }), { authorization: 'Bearer junk' }],
    ],
    [
      'in snake_case',
      async () => [
        {
          public_key_request: { public_key: { content: PEM }, proof_of_possession: proof() },
          credentials: { oidc_identity_token: await issuer.token() },
        },
        {},
      ],
    ],
    [
      'with an algorithm that the protocol does not have, as sigstore-go',
      async () => [
        v2({ publicKeyRequest: { publicKey: { algorithm: 'RSA', content: PEM }, proofOfPossession: proof() } }),
        await bearer(),
      ],
    ],
    [
      'with null arms and unknown fields',
      async () => [v2({ certificateSigningRequest: null, credentials: null, more: 1 }), await bearer()],
    ],
    [
      'with a URL-safe proof without padding',
      async () => [
        v2({
          publicKeyRequest: {
            publicKey: { content: PEM },
            proofOfPossession: Buffer.from(proof(), 'base64').toString('base64url'),
          },
        }),
        await bearer(),
      ],
    ],
  ])('answers 200 %s', async (_, make) => {
    const answer = await call('POST', '/api/v2/signingCert', ...(await make()))
    expect(answer.status).toBe(200)
    expect(answer.headers?.['content-type']).toBe('application/json')
    const body = parsed(answer) as { signedCertificateEmbeddedSct: { chain: { certificates: string[] } } }
    expect(Object.keys(body)).toEqual(['signedCertificateEmbeddedSct'])
    const { certificates } = body.signedCertificateEmbeddedSct.chain
    expect(certificates).toHaveLength(3)
    for (const pem of certificates) expect(pem).toMatch(/-----END CERTIFICATE-----$/)
    const [leaf, intermediate, root] = certificates.map((pem) => new X509Certificate(pem))
    expect(leaf?.publicKey.equals(client.publicKey)).toBe(true)
    expect(intermediate && leaf?.verify(intermediate.publicKey)).toBe(true)
    expect(root && intermediate?.verify(root.publicKey)).toBe(true)
  })

  test.each<[string, () => Promise<[unknown, Record<string, string>?]>, RegExp]>([
    ['an empty body', () => Promise.resolve(['']), /identity token/],
    ['no token', () => Promise.resolve([v2()]), /no identity token/],
    ['a token that is junk', () => Promise.resolve([v2(), { authorization: 'Bearer junk' }]), /malformed/],
    ['an expired token', async () => [v2(), await bearer({ exp: 1 })], /expired/],
    ['another audience', async () => [v2(), await bearer({ aud: 'x' })], /audience/],
    ['an unverified email', async () => [v2(), await bearer({ email_verified: false })], /not verified/],
    ['neither key nor CSR', async () => [{}, await bearer()], /public key.*no public key was given/],
    [
      'a key that is no PEM',
      async () => [
        v2({ publicKeyRequest: { publicKey: { content: 'x' }, proofOfPossession: proof() } }),
        await bearer(),
      ],
      /could not be parsed/,
    ],
    [
      'a weak key',
      async () => [
        v2({ publicKeyRequest: { publicKey: { content: weakPem() }, proofOfPossession: proof() } }),
        await bearer(),
      ],
      /insecure/,
    ],
    [
      'a CSR that is no CSR',
      async () => [{ certificateSigningRequest: Buffer.from(PEM).toString('base64') }, await bearer()],
      /signing request could not be parsed/,
    ],
    [
      'a proof over another subject',
      async () => [
        v2({ publicKeyRequest: { publicKey: { content: PEM }, proofOfPossession: proof('root@example.com') } }),
        await bearer(),
      ],
      /could not be verified/,
    ],
    [
      'a proof that is not base64',
      async () => [v2({ publicKeyRequest: { publicKey: { content: PEM }, proofOfPossession: '***' } }), await bearer()],
      /not base64/,
    ],
    ['both arms', async () => [v2({ certificateSigningRequest: 'AAAA' }), await bearer()], /exclude/],
    [
      'a field twice',
      async () => [
        `{"publicKeyRequest":{},"public_key_request":${JSON.stringify(v2().publicKeyRequest)}}`,
        await bearer(),
      ],
      /twice/,
    ],
    ['a cut body', async () => [JSON.stringify(v2()).slice(0, -1), await bearer()], /not JSON/],
    ['a list', async () => ['[]', await bearer()], /not an object/],
    [
      'a number where text belongs',
      async () => [v2({ publicKeyRequest: { publicKey: { content: 5 } } }), await bearer()],
      /not a string/,
    ],
    ['text where a message belongs', async () => [v2({ publicKeyRequest: 'x' }), await bearer()], /not an object/],
  ])('answers 400 with code 3 to %s', async (_, make, message) => {
    const [body, headers] = await make()
    const answer = await call('POST', '/api/v2/signingCert', body, headers)
    expect(answer.status).toBe(400)
    expect(parsed(answer)).toEqual({ code: 3, message: expect.stringMatching(message) as string, details: [] })
    expect(answer.headers?.['retry-after']).toBeUndefined()
  })

  test.each<[string, () => void, number, number]>([
    ['the HSM is away', () => void (ca.failure = new HsmError('unavailable', 'token_gone', 'secret detail')), 503, 14],
    ['the log is away', () => void (log.answer = () => Promise.reject(new Error('secret detail'))), 503, 14],
    [
      'the agent refuses',
      () => void (ca.failure = new HsmError('refused', 'not_before_far', 'secret detail')),
      500,
      13,
    ],
  ])('answers as a server at fault when %s, without telling why', async (_, fail, status, code) => {
    fail()
    const answer = await call('POST', '/api/v2/signingCert', v2(), await bearer())
    expect(answer.status).toBe(status)
    expect(parsed(answer)).toMatchObject({ code, details: [] })
    expect(String(answer.body)).not.toMatch(/secret|token_gone|not_before/)
    expect(answer.headers?.['retry-after']).toBe(status === 503 ? '2' : undefined)
  })

  test('never shows the token', async () => {
    const token = await issuer.token({ email_verified: false })
    const answer = await call('POST', '/api/v2/signingCert', v2(), { authorization: `Bearer ${token}` })
    for (const part of token.split('.')) expect(JSON.stringify(answer)).not.toContain(part)
  })
})

describe('POST /api/v1/signingCert', () => {
  test.each<[string, unknown]>([
    ['a key in PEM, as cosign', v1()],
    ['a key in DER, as gitsign', v1({ publicKey: { content: DER.toString('base64') } })],
    ['a null CSR, as the Go client', v1({ certificateSigningRequest: null })],
  ])('answers 201 and a PEM chain to %s', async (_, body) => {
    const answer = await call('POST', '/api/v1/signingCert', body, await bearer())
    expect(answer.status).toBe(201)
    expect(answer.headers?.['content-type']).toBe('application/pem-certificate-chain')
    expect(answer.headers?.SCT).toBeUndefined()
    const text = String(answer.body)
    expect(text).not.toMatch(/\n$|\n\n/)
    expect(pems(text)).toHaveLength(3)
    expect(pems(text)[0]?.publicKey.equals(client.publicKey)).toBe(true)
  })

  test('refuses a request without key before it looks at the token', async () => {
    const answer = await call('POST', '/api/v1/signingCert', {})
    expect(answer.status).toBe(400)
    expect(parsed(answer)).toMatchObject({ code: 3, message: expect.stringMatching(/^The public key/) as string })
  })

  test('takes no token from the body', async () => {
    const answer = await call(
      'POST',
      '/api/v1/signingCert',
      v1({ credentials: { oidcIdentityToken: await issuer.token() } }),
    )
    expect(parsed(answer)).toMatchObject({ code: 3, message: expect.stringMatching(/no identity token/) as string })
  })
})

describe('reads', () => {
  test('the trust bundle, each certificate with its last line end', async () => {
    const answer = await call('GET', '/api/v2/trustBundle')
    expect(answer.status).toBe(200)
    const { chains } = parsed(answer) as { chains: { certificates: string[] }[] }
    expect(chains).toHaveLength(1)
    expect(chains[0]?.certificates).toHaveLength(2)
    for (const pem of chains[0]?.certificates ?? []) expect(pem).toMatch(/-----END CERTIFICATE-----\n$/)
  })

  test('the root certificate route, with a blank line between', async () => {
    const answer = await call('GET', '/api/v1/rootCert')
    expect(answer).toMatchObject({ status: 200, headers: { 'content-type': 'application/pem-certificate-chain' } })
    expect(pems(String(answer.body))).toHaveLength(2)
    expect(String(answer.body)).toMatch(/-----END CERTIFICATE-----\n\n-----BEGIN/)
  })

  test('the configuration, unset fields shown', async () => {
    expect(parsed(await call('GET', '/api/v2/configuration'))).toEqual({
      issuers: [
        {
          issuerUrl: issuer.url,
          audience: 'sigstore',
          challengeClaim: 'email',
          spiffeTrustDomain: '',
          issuerType: 'email',
          subjectDomain: '',
          skipEmailVerification: false,
        },
        {
          wildcardIssuerUrl: 'https://*.k8s.example/*',
          audience: 'sigstore',
          challengeClaim: 'sub',
          spiffeTrustDomain: '',
          issuerType: 'kubernetes',
          subjectDomain: '',
          skipEmailVerification: false,
        },
      ],
    })
  })

  test('health', async () => {
    expect(parsed(await call('GET', '/healthz'))).toEqual({ status: 'SERVING' })
  })
})

describe('faults of the listener', () => {
  test.each<[string, () => EndpointAnswer, number, number]>([
    ['an unknown path', () => section.faults.notFound('/x'), 404, 5],
    ['a wrong method', () => section.faults.methodNotAllowed('GET', '/api/v2/signingCert'), 501, 12],
    ['a body that is too large', () => section.faults.tooLarge(1), 400, 3],
    ['a body that does not arrive', () => section.faults.timedOut(), 408, 4],
    ['an unknown error', () => section.faults.internal('id-1'), 500, 13],
    ['too much at once', () => section.faults.overloaded(), 503, 14],
  ])('%s', (_, make, status, code) => {
    const answer = make()
    expect(answer.status).toBe(status)
    expect(parsed(answer)).toMatchObject({ code, message: expect.any(String) as string, details: [] })
  })
})

function weakPem(): string {
  return String(generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey.export({ format: 'pem', type: 'spki' }))
}
