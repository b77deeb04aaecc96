import 'reflect-metadata'
import { generateKeyPairSync, type KeyObject, sign, X509Certificate } from 'node:crypto'
import * as oracle from '@peculiar/x509'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { HsmError } from '#hsm'
import { type IssuerPolicy, parseFulcioConfig } from '#policy'
import { decodeFulcioExtensions, decodeSctList, OID, parseCertificate, parseSct, parseSpki } from '#x509'
import { startIssuer, type TestIssuer } from '../test/support/oidc-issuer.ts'
import { type SoftwareCa, type SoftwareLog, softwareCa, softwareLog } from '../test/support/software-ca.ts'
import { type Authority, type AuthorityOptions, CaError, createAuthority, type IssuanceRequest } from './index.ts'

const START_MS = 1_760_000_000_123
let nowMs = START_MS
let issuer: TestIssuer
let ca: SoftwareCa
let log: SoftwareLog
let authority: Authority

beforeAll(async () => {
  issuer = await startIssuer({ nowSeconds: () => Math.floor(nowMs / 1000) })
  ca = await softwareCa(START_MS)
})

afterAll(async () => {
  await issuer.close()
})

beforeEach(async () => {
  nowMs = START_MS
  ca.failure = undefined
  ca.signed.length = 0
  log = softwareLog(() => nowMs)
  authority = await open()
})

function policies(fields: Record<string, unknown> = {}): IssuerPolicy[] {
  return parseFulcioConfig(
    JSON.stringify({
      OIDCIssuers: { [issuer.url]: { IssuerURL: issuer.url, ClientID: 'sigstore', Type: 'email', ...fields } },
    }),
  )
}

async function open(change: Partial<AuthorityOptions> = {}): Promise<Authority> {
  return await createAuthority({
    agent: ca.agent,
    key: 'issuing-ca',
    chain: ca.chain,
    ctLog: log,
    ctLogSpkiDer: log.spkiDer,
    issuers: policies(),
    clock: () => nowMs,
    ...change,
  })
}

const client = generateKeyPairSync('ec', { namedCurve: 'P-256' })

async function request(
  claims: Record<string, unknown> = {},
  challenge = 'jo@example.com',
  key: { publicKey: KeyObject; privateKey: KeyObject } = client,
): Promise<IssuanceRequest> {
  return {
    token: await issuer.token(claims),
    key: {
      kind: 'publicKey',
      encoded: Buffer.from(key.publicKey.export({ format: 'pem', type: 'spki' })),
      proof: sign('sha256', Buffer.from(challenge), key.privateKey),
    },
  }
}

async function refusal(asked: IssuanceRequest, by = authority): Promise<string> {
  const error = await by.issue(asked).then(
    () => 'accepted',
    (reason: unknown) => reason,
  )
  if (!(error instanceof CaError)) throw new TypeError(`expected a refusal, got ${String(error)}`)
  return error.code
}

describe('issues a certificate', () => {
  test('that Node and @peculiar/x509 read as it was meant', async () => {
    const { chain, serialHex, principal } = await authority.issue(await request())
    const [leafDer = new Uint8Array(), intermediate, root] = chain
    expect([intermediate, root]).toEqual([...ca.chain])

    const leaf = new oracle.X509Certificate(leafDer)
    expect(
      await leaf.verify({
        publicKey: new oracle.X509Certificate(intermediate ?? new Uint8Array()),
        date: new Date(nowMs),
      }),
    ).toBe(true)
    expect(leaf.subject).toBe('')
    expect(leaf.issuer).toBe('CN=Test intermediate, O=Example')
    expect(leaf.serialNumber).toBe(serialHex)
    expect(leaf.notBefore.getTime()).toBe(1_760_000_000_000)
    expect(leaf.notAfter.getTime()).toBe(1_760_000_600_000)
    const critical = leaf.extensions.filter((extension) => extension.critical).map(({ type }) => type)
    expect(critical).toEqual([OID.keyUsage, OID.subjectAltName])
    const names = leaf.getExtension(oracle.SubjectAlternativeNameExtension)
    expect(names?.names.toJSON()).toEqual([{ type: 'email', value: 'jo@example.com' }])
    expect(leaf.getExtension(oracle.BasicConstraintsExtension)).toBeNull()
    expect(leaf.getExtension(oracle.ExtendedKeyUsageExtension)?.usages).toEqual([oracle.ExtendedKeyUsage.codeSigning])

    const node = new X509Certificate(leafDer)
    expect(node.checkIssued(new X509Certificate(intermediate ?? new Uint8Array()))).toBe(true)
    expect(node.publicKey.equals(client.publicKey)).toBe(true)
    expect(decodeFulcioExtensions(parseCertificate(leafDer))).toEqual({ issuer: issuer.url, tokenSubject: 'subject-1' })
    expect(principal.challenge).toBe('jo@example.com')
  })

  test('with exactly one SCT, of the log, over the precertificate that the log was given', async () => {
    const { chain } = await authority.issue(await request())
    const leaf = parseCertificate(chain[0] ?? new Uint8Array())
    const scts = decodeSctList(leaf.extension(OID.sctList)?.value ?? new Uint8Array())
    expect(scts).toHaveLength(1)
    expect(parseSct(scts[0] ?? new Uint8Array()).timestampMs).toBe(nowMs)
    const [entry] = log.entries
    const precertificate = parseCertificate(entry?.chain[0] ?? new Uint8Array())
    expect(precertificate.extension(OID.ctPoison)?.critical).toBe(true)
    expect(precertificate.serial).toEqual(leaf.serial)
    expect(entry?.chain).toHaveLength(3)
    expect(ca.signed).toHaveLength(2)
  })

  test('of a CI job, with its claims in the extensions', async () => {
    const templates = {
      BuildSignerURI: '{{.url}}/{{.job}}',
      SourceRepositoryRef: 'ref',
      RunnerEnvironment: 'none',
      DeploymentEnvironment: 'environment',
    }
    const config = {
      OIDCIssuers: {
        [issuer.url]: { IssuerURL: issuer.url, ClientID: 'sigstore', Type: 'ci-provider', CIProvider: 'forge' },
      },
      CIIssuerMetadata: {
        forge: {
          DefaultTemplateValues: { url: 'https://forge.example', none: '' },
          ExtensionTemplates: templates,
          SubjectAlternativeNameTemplate: '{{.url}}/{{.job}}',
        },
      },
    }
    const by = await open({ issuers: parseFulcioConfig(JSON.stringify(config)) })
    const { certificate } = await by.issue(
      await request({ job: 'org/job', ref: 'refs/heads/ä', environment: 7 }, 'subject-1'),
    )
    expect(decodeFulcioExtensions(parseCertificate(certificate))).toEqual({
      issuer: issuer.url,
      buildSignerUri: 'https://forge.example/org/job',
      sourceRepositoryRef: 'refs/heads/ä',
      deploymentEnvironment: '7',
      tokenSubject: 'subject-1',
    })
    expect(new X509Certificate(certificate).subjectAltName).toBe('URI:https://forge.example/org/job')
  })

  test('of a user name, as otherName', async () => {
    const by = await open({ issuers: policies({ Type: 'username', SubjectDomain: '127.0.0.1' }) })
    const { certificate } = await by.issue(await request({}, 'subject-1'))
    expect(parseCertificate(certificate).subjectAltNames).toEqual([
      { type: 'otherName', oid: OID.fulcioUsername, value: 'subject-1!127.0.0.1' },
    ])
    expect(new X509Certificate(certificate).subjectAltName).toMatch(/^othername:/)
  })

  test('under a fresh serial each time', async () => {
    const serials = new Set<string>()
    for (let n = 0; n < 20; n++) serials.add((await authority.issue(await request())).serialHex)
    expect(serials.size).toBe(20)
    for (const serial of serials) expect(serial).toMatch(/^[0-7][0-9a-f]{39}$/)
  })

  test('to its canary, under a name that is fixed', async () => {
    const by = await open({ canaryIdentity: 'https://sig.example/chancery/canary' })
    const { certificate, chain } = await by.issueCanary(
      parseSpki(client.publicKey.export({ type: 'spki', format: 'der' })),
    )
    expect(parseCertificate(certificate).subjectAltNames).toEqual([
      { type: 'uri', value: 'https://sig.example/chancery/canary' },
    ])
    expect(decodeFulcioExtensions(parseCertificate(certificate))).toEqual({
      issuer: 'https://sig.example/chancery/canary',
    })
    expect(chain).toEqual([certificate, ...ca.chain])
    expect(log.entries).toHaveLength(1)
    expect(ca.signed).toHaveLength(2)
  })

  test('to an identity that a rule admits', async () => {
    const by = await open({ issuers: policies({ allow: [{ group: 'release' }] }) })
    await expect(by.issue(await request({ group: 'release' }))).resolves.toBeDefined()
  })
})

describe('refuses, before the HSM or the log is asked,', () => {
  test.each<[string, () => Promise<IssuanceRequest>, string]>([
    ['no token', async () => ({ ...(await request()), token: '' }), 'invalid_identity_token'],
    ['an expired token', () => request({ exp: Math.floor(START_MS / 1000) - 1 }), 'invalid_identity_token'],
    ['a token for another audience', () => request({ aud: 'other' }), 'invalid_identity_token'],
    ['a token of another issuer', () => request({ iss: 'https://evil.example' }), 'invalid_identity_token'],
    ['an unverified email', () => request({ email_verified: false }), 'invalid_identity_token'],
    ['a token without email', () => request({ email: undefined }), 'invalid_identity_token'],
    ['a proof over another subject', () => request({}, 'root@example.com'), 'invalid_signature'],
    ['a proof over the sub', () => request({}, 'subject-1'), 'invalid_signature'],
    [
      'no key',
      async () => ({
        ...(await request()),
        key: { kind: 'publicKey', encoded: new Uint8Array(), proof: new Uint8Array() },
      }),
      'invalid_public_key',
    ],
    [
      'a weak key',
      async () => await request({}, 'jo@example.com', generateKeyPairSync('rsa', { modulusLength: 1024 })),
      'insecure_public_key',
    ],
    [
      'a name that is not ASCII',
      () => request({ email: 'jö@example.com' }, 'jö@example.com'),
      'invalid_identity_token',
    ],
    ['a client that has gone', async () => ({ ...(await request()), signal: AbortSignal.abort() }), 'cancelled'],
  ])('%s', async (_, make, code) => {
    expect(await refusal(await make())).toBe(code)
    expect(ca.signed).toEqual([])
    expect(log.entries).toEqual([])
  })

  test('an identity that no rule admits, but not before its proof', async () => {
    const by = await open({ issuers: policies({ allow: [{ group: 'release' }] }) })
    expect(await refusal(await request({ group: 'dev' }), by)).toBe('not_admitted')
    expect(await refusal(await request({ group: 'dev' }, 'other'), by)).toBe('invalid_signature')
    expect(ca.signed).toEqual([])
  })

  test('a token whose issuer is that of the canary, and a canary where there is none', async () => {
    const by = await open({ canaryIdentity: issuer.url })
    expect(await refusal(await request(), by)).toBe('invalid_identity_token')
    const key = parseSpki(client.publicKey.export({ type: 'spki', format: 'der' }))
    await expect(authority.issueCanary(key)).rejects.toMatchObject({ code: 'internal' })
    await expect(
      (await open({ canaryIdentity: 'x', refusal: () => 'the disk is full' })).issueCanary(key),
    ).rejects.toMatchObject({
      code: 'log_unavailable',
    })
    expect(ca.signed).toEqual([])
    expect(log.entries).toEqual([])
  })

  test('whoever comes when the issuing certificate ends within the validity', async () => {
    const short = await softwareCa(START_MS, { intermediateEnds: START_MS + 15 * 60_000 })
    const by = await open({ agent: short.agent, chain: short.chain })
    expect(by.fault()).toBeUndefined()
    await expect(by.issue(await request())).resolves.toBeDefined()
    nowMs += 6 * 60_000
    expect(by.fault()).toMatch(/ends too soon/)
    expect(await refusal(await request(), by)).toBe('authority_expired')
  })

  test('more requests at once than it was told to take', async () => {
    const by = await open({ maxInFlight: 2 })
    const asked = await request()
    const outcomes = await Promise.allSettled([by.issue(asked), by.issue(asked), by.issue(asked)])
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected'])
    expect((outcomes[2] as PromiseRejectedResult).reason).toMatchObject({ code: 'busy' })
    await expect(by.issue(asked)).resolves.toBeDefined()
  })
})

describe('lets nothing out when', () => {
  test.each<[string, ConstructorParameters<typeof HsmError>[0], string]>([
    ['the HSM is busy', 'busy', 'hsm_unavailable'],
    ['the HSM is away', 'unavailable', 'hsm_unavailable'],
    ['the key is latched', 'latched', 'hsm_unavailable'],
    ['the agent refuses', 'refused', 'internal'],
    ['the agent has no such key', 'unknown_key', 'internal'],
  ])('%s', async (_, code, expected) => {
    ca.failure = new HsmError(code, 'reason', 'message')
    expect(await refusal(await request())).toBe(expected)
    expect(log.entries).toEqual([])
  })

  const other = generateKeyPairSync('ec', { namedCurve: 'P-256' })

  test.each<[string, SoftwareLog['answer'], string]>([
    ['the log fails', () => Promise.reject(new Error('disk full')), 'log_unavailable'],
    [
      'the SCT is signed by another key',
      (entry) => Promise.resolve(log.sct(entry, { key: other.privateKey })),
      'internal',
    ],
    [
      'the SCT is of another log',
      (entry) => Promise.resolve(log.sct(entry, { logId: new Uint8Array(32) })),
      'internal',
    ],
    [
      'the SCT is over another entry',
      (entry) => Promise.resolve(log.sct({ ...entry, tbsDer: entry.tbsDer.subarray(1) })),
      'internal',
    ],
    [
      'the SCT is over another issuer',
      (entry) => Promise.resolve(log.sct({ ...entry, issuerKeyHash: new Uint8Array(32) })),
      'internal',
    ],
    ['the SCT is cut off', (entry) => Promise.resolve(log.sct(entry).subarray(0, -1)), 'internal'],
    [
      'the SCT has a byte more',
      (entry) => Promise.resolve(Buffer.concat([log.sct(entry), Buffer.from([0])])),
      'internal',
    ],
    ['the SCT is empty', () => Promise.resolve(new Uint8Array()), 'internal'],
  ])('%s', async (_, answer, expected) => {
    log.answer = answer
    expect(await refusal(await request())).toBe(expected)
    // The precertificate alone was signed.
    expect(ca.signed).toHaveLength(1)
  })

  test.each([1, 2])('signature %i of the HSM is not over what was asked', async (which) => {
    let count = 0
    const agent = {
      ...ca.agent,
      certificate: async (asked: { key: string; tbsDer: Uint8Array }) =>
        await ca.agent.certificate(++count === which ? { ...asked, tbsDer: asked.tbsDer.subarray(1) } : asked),
    }
    const by = await open({ agent })
    // A bad precertificate signature is the log's to find; ours takes any.
    const outcome = await by.issue(await request()).then(
      () => 'issued',
      (error: CaError) => error.code,
    )
    expect(outcome).toBe(which === 2 ? 'internal' : 'issued')
  })
})

describe('does not open', () => {
  test.each<[string, () => Promise<Partial<AuthorityOptions>> | Partial<AuthorityOptions>]>([
    ['with an empty chain', () => ({ chain: [] })],
    ['with a chain without root', () => ({ chain: ca.chain.slice(0, 1) })],
    ['with a chain upside down', () => ({ chain: ca.chain.toReversed() })],
    [
      'with the root of another',
      async () => ({
        chain: [ca.chain[0] ?? new Uint8Array(), (await softwareCa(START_MS)).chain[1] ?? new Uint8Array()],
      }),
    ],
    ['with the chain of another key', async () => ({ chain: (await softwareCa(START_MS)).chain })],
    ['with a chain that is over', () => ({ clock: () => START_MS + 366 * 86_400_000 })],
    ['with a chain that has not begun', () => ({ clock: () => START_MS - 2 * 86_400_000 })],
    ['with a key that the agent does not have', () => ({ key: 'other' })],
    [
      'with a log key that is no P-256 key',
      () => ({
        ctLogSpkiDer: Uint8Array.from(
          generateKeyPairSync('ec', { namedCurve: 'P-384' }).publicKey.export({ format: 'der', type: 'spki' }),
        ),
      }),
    ],
    ['with a log key that is no key', () => ({ ctLogSpkiDer: Uint8Array.of(1) })],
  ])('%s', async (_, change) => {
    await expect(open(await change())).rejects.toThrow()
  })
})
