/**
 * What the logs and the timestamp authority refuse beyond refusals.test.ts: too much of everything, keys that are unfit
 * or not what they are called, content that cannot be read; and duplicates of every kind of entry.
 */
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { decodeSctList, digitallySigned, parseCertificate, parseSct } from '#x509'
import { sharedStack } from './context.ts'
import { type Answer, ecKey, forgedToken, post, rsaKey, someone, spkiDer, spkiPem } from './hostile-requests.ts'

const { rekorV1, rekorV2, ct, ca, tsa } = sharedStack().endpoints
const v1Entries = `${rekorV1}/api/v1/log/entries`
const v2Entries = `${rekorV2}/api/v2/log/entries`
const base64 = (bytes: Uint8Array | string): string => Buffer.from(bytes).toString('base64')

/** Go's openapi faults have their own numbers in place of the status. */
function expectRefusal({ status, text }: Answer, expected: { status: number; code?: number; message: string }): void {
  const body = JSON.parse(text) as { message: string }
  expect(body.message).toContain(expected.message)
  expect(body).toMatchObject({ code: expected.code ?? expected.status })
  expect(status).toBe(expected.status)
}

interface Change {
  readonly key?: KeyObject
  readonly hash?: string
  readonly publicKey?: string
  readonly signature?: string
  readonly digestHex?: string
}

function hashedrekord({ key = ecKey(), hash = 'sha256', publicKey, signature, digestHex }: Change = {}): unknown {
  const content = randomBytes(32)
  const value = digestHex ?? createHash(hash).update(content).digest('hex')
  return {
    apiVersion: '0.0.1',
    kind: 'hashedrekord',
    spec: {
      data: { hash: { algorithm: hash, value } },
      signature: {
        content: signature ?? base64(sign(hash, content, key)),
        publicKey: { content: base64(publicKey ?? spkiPem(key)) },
      },
    },
  }
}

interface Envelope {
  readonly payload: string
  readonly payloadType: string
  readonly signatures: readonly { sig: string; keyid?: string }[]
  readonly keys: readonly KeyObject[]
}

/** A DSSE envelope with as many valid signatures, each by a key of its own. */
function envelope(signatures: number, size = 32): Envelope {
  const payload = Buffer.from(JSON.stringify({ content: randomBytes(size).toString('hex') }))
  const payloadType = 'application/vnd.example+json'
  const encoding = Buffer.concat([
    Buffer.from(`DSSEv1 ${payloadType.length} ${payloadType} ${payload.length} `),
    payload,
  ])
  const keys = Array.from({ length: signatures }, () => ecKey())
  return {
    payload: base64(payload),
    payloadType,
    signatures: keys.map((key) => ({ sig: base64(sign('sha256', encoding, key)) })),
    keys,
  }
}

function dsseV1({ keys, ...signed }: Envelope): unknown {
  const verifiers = keys.map((key) => base64(spkiPem(key)))
  return {
    apiVersion: '0.0.1',
    kind: 'dsse',
    spec: { proposedContent: { envelope: JSON.stringify(signed), verifiers } },
  }
}

/** intoto 0.0.2 carries everything in base64 once more, and a key with each signature. */
function intotoV1({ keys, payload, payloadType, signatures }: Envelope): unknown {
  return {
    apiVersion: '0.0.2',
    kind: 'intoto',
    spec: {
      content: {
        envelope: {
          payload: base64(payload),
          payloadType,
          signatures: signatures.map(({ sig }, i) => {
            const key = keys[i] ?? ecKey()
            return { sig: base64(sig), publicKey: base64(spkiPem(key)) }
          }),
        },
        // Rekor stores this hash and has no means to check it: the client's own JSON is not there.
        hash: { algorithm: 'sha256', value: sha256Hex(payload) },
        payloadHash: { algorithm: 'sha256', value: sha256Hex(Buffer.from(payload, 'base64')) },
      },
    },
  }
}

interface ChangeV2 {
  readonly key?: KeyObject
  readonly hash?: string
  readonly keyDetails?: string
  readonly rawBytes?: Uint8Array
  readonly digest?: Uint8Array
  readonly signature?: Uint8Array
  readonly holder?: 'publicKey' | 'x509Certificate'
}

function hashedrekordV2(change: ChangeV2 = {}): unknown {
  const { key = ecKey(), hash = 'sha256', keyDetails = 'PKIX_ECDSA_P256_SHA_256', holder = 'publicKey' } = change
  const content = randomBytes(32)
  return {
    hashedRekordRequestV002: {
      digest: base64(change.digest ?? createHash(hash).update(content).digest()),
      signature: {
        content: base64(change.signature ?? sign(hash, content, key)),
        verifier: { keyDetails, [holder]: { rawBytes: base64(change.rawBytes ?? spkiDer(key)) } },
      },
    },
  }
}

function dsseV2({ keys, ...signed }: Envelope): unknown {
  const verifiers = keys.map((key) => ({
    keyDetails: 'PKIX_ECDSA_P256_SHA_256',
    publicKey: { rawBytes: base64(spkiDer(key)) },
  }))
  return { dsseRequestV002: { envelope: signed, verifiers } }
}

const tooManySignatures = 'too many signatures: 9, max allowed: 8'
const tooManyVerifiers = 'too many verifiers: 9, max allowed: 8'

/** Nine signatures and verifiers for eight of them. */
function manySignatures(): Envelope {
  const { keys, ...rest } = envelope(9)
  return { ...rest, keys: keys.slice(0, 8) }
}

/** Nine verifiers and one signature. */
function manyVerifiers(): Envelope {
  const { signatures, ...rest } = envelope(9)
  return { ...rest, signatures: signatures.slice(0, 1) }
}

describe('Rekor v1', () => {
  test.each([
    ['hashedrekord', () => hashedrekord()],
    ['dsse', () => dsseV1(envelope(2))],
    ['intoto', () => intotoV1(envelope(1))],
  ])('a true duplicate of a %s is 409 with the entry that is there', async (_, entry) => {
    const body = entry()
    const first = await post(v1Entries, body)
    expect([first.status, first.text]).toEqual([201, expect.stringContaining('signedEntryTimestamp')])
    const location = first.headers.get('location') ?? ''
    const again = await post(v1Entries, body)
    const message = 'an equivalent entry already exists in the transparency log with UUID '
    expectRefusal(again, { status: 409, message: message + location.split('/').at(-1) })
    expect(again.headers.get('location')).toBe(location)
    const found = await fetch(rekorV1 + location)
    expect(Object.keys((await found.json()) as object)).toEqual(Object.keys(JSON.parse(first.text) as object))
  })

  const processing = 'error processing entry: '
  test.each<[string, () => unknown, { status: number; code?: number; message: string }]>([
    [
      'nine signatures in a dsse',
      () => dsseV1(manySignatures()),
      { status: 400, message: processing + tooManySignatures },
    ],
    ['nine signatures in an intoto', () => intotoV1(envelope(9)), { status: 400, message: tooManySignatures }],
    ['nine verifiers in a dsse', () => dsseV1(manyVerifiers()), { status: 400, message: tooManyVerifiers }],
    ['an RSA key of 1024 bits', () => hashedrekord({ key: rsaKey(1024) }), algorithms()],
    ['P-256 with SHA-512', () => hashedrekord({ hash: 'sha512' }), algorithms()],
    ['P-384 with SHA-256', () => hashedrekord({ key: ecKey('P-384') }), algorithms()],
    ['P-224', () => hashedrekord({ key: ecKey('secp224r1') }), curve('1.3.132.0.33')],
    ['secp256k1', () => hashedrekord({ key: ecKey('secp256k1') }), curve('1.3.132.0.10')],
    [
      'a signature by another key',
      () => hashedrekord({ publicKey: spkiPem(ecKey()) }),
      { status: 400, message: `${processing}verifying signature` },
    ],
    [
      'a PEM block of another kind',
      () => hashedrekord({ publicKey: ecKey().export({ type: 'pkcs8', format: 'pem' }).toString() }),
      { status: 400, message: 'invalid public key: cannot handle type PRIVATE KEY' },
    ],
    [
      'text that is no PEM',
      () => hashedrekord({ publicKey: 'text' }),
      { status: 400, message: 'error during PEM decoding' },
    ],
    [
      'a PEM block without its end',
      () => hashedrekord({ publicKey: spkiPem(ecKey()).slice(0, -20) }),
      { status: 400, message: 'error during PEM decoding' },
    ],
    [
      'a key cut short',
      () => hashedrekord({ publicKey: pem('PUBLIC KEY', spkiDer(ecKey()).subarray(0, -1)) }),
      { status: 400, message: 'parsing public key: element is cut off' },
    ],
    [
      'a certificate that is a key',
      () => hashedrekord({ publicKey: pem('CERTIFICATE', spkiDer(ecKey())) }),
      { status: 400, message: 'parsing certificate: ' },
    ],
    [
      'eleven certificates',
      () => hashedrekord({ publicKey: pem('CERTIFICATE', Buffer.alloc(8)).repeat(11) }),
      { status: 400, message: 'too many certificates specified in PEM block' },
    ],
    [
      'a signature that is not base64',
      () => hashedrekord({ signature: '*' }),
      { status: 400, message: 'failed parsing base64 data for signature content' },
    ],
    [
      'a digest that is too short',
      () => hashedrekord({ digestHex: 'abcd' }),
      { status: 400, message: 'invalid value for hash' },
    ],
    [
      'a kind that is not taken',
      () => ({ apiVersion: '0.0.1', kind: 'rekord', spec: {} }),
      { status: 400, message: "entry kind 'rekord' is not enabled for submission on this server" },
    ],
    [
      'a version that there is not',
      () => ({ apiVersion: '0.0.9', kind: 'hashedrekord', spec: {} }),
      { status: 400, message: "entry kind 'hashedrekord' does not support version '0.0.9'" },
    ],
    ['no body', () => '', { status: 422, code: 602, message: 'proposedEntry in body is required' }],
    [
      'malformed JSON',
      () => '{"kind":',
      { status: 400, message: 'parsing proposedEntry body from "" failed, because body is not valid JSON' },
    ],
    [
      'text that is not UTF-8',
      () => Buffer.from('{"kind":"\u00e9"}', 'latin1'),
      { status: 400, message: 'body is not UTF-8' },
    ],
    [
      'JSON of a thousand levels',
      () => `${'['.repeat(1000)}${']'.repeat(1000)}`,
      { status: 400, message: 'parsing proposedEntry body from "" failed, because' },
    ],
    [
      'a body over the limit',
      () => `{"padding":"${'x'.repeat(8 << 20)}"}`,
      { status: 413, message: 'Request Entity Too Large. Limit set to 8388608' },
    ],
  ])('refuses %s', async (_, body, expected) => {
    expectRefusal(await post(v1Entries, body()), expected)
  })

  test('refuses a body that does not say that it is JSON', async () => {
    const message = 'unsupported media type "text/plain", only [application/json] are allowed'
    expectRefusal(await post(v1Entries, hashedrekord(), { 'content-type': 'text/plain' }), { status: 415, message })
  })

  function algorithms(): { status: number; message: string } {
    return { status: 400, message: `${processing}entry algorithms are not allowed` }
  }

  function curve(oid: string): { status: number; message: string } {
    return { status: 400, message: `${processing}parsing public key: elliptic curve ${oid} is not supported` }
  }
})

describe('Rekor v2', () => {
  test.each([
    ['hashedrekord', () => hashedrekordV2()],
    ['dsse', () => dsseV2(envelope(2))],
  ])('a true duplicate of a %s is 409 with its index', async (_, entry) => {
    const body = entry()
    const first = await post(v2Entries, body)
    expect(first.status).toBe(201)
    const { logIndex } = JSON.parse(first.text) as { logIndex: string }
    const again = await post(v2Entries, body)
    const message = `an equivalent entry already exists in the transparency log with index ${logIndex}`
    expectRefusal(again, { status: 409, code: 6, message })
    expect(again.headers.get('x-log-index')).toBe(logIndex)
  })

  const invalid = 'invalid hashedrekord request: '
  const algorithms = `${invalid}entry algorithms are not allowed`
  const ed25519 = (): KeyObject => generateKeyPairSync('ed25519').privateKey

  test.each<[string, () => unknown, string]>([
    ['nine signatures', () => dsseV2(manySignatures()), `invalid dsse request: ${tooManySignatures}`],
    ['nine verifiers', () => dsseV2(manyVerifiers()), `invalid dsse request: ${tooManyVerifiers}`],
    [
      'the same verifier twice',
      () => {
        const { keys, ...rest } = envelope(1)
        return dsseV2({ ...rest, keys: [...keys, ...keys] })
      },
      'invalid dsse request: duplicate verifier',
    ],
    [
      'an RSA key of 1024 bits',
      () => hashedrekordV2({ key: rsaKey(1024), keyDetails: 'PKIX_RSA_PKCS1V15_2048_SHA256' }),
      algorithms,
    ],
    [
      'P-224',
      () => hashedrekordV2({ key: ecKey('secp224r1') }),
      `${invalid}parsing public key: elliptic curve 1.3.132.0.33 is not supported`,
    ],
    ['P-384 with the hash of P-256', () => hashedrekordV2({ key: ecKey('P-384') }), algorithms],
    [
      'pure Ed25519, which signs no digest',
      () =>
        hashedrekordV2({
          keyDetails: 'PKIX_ED25519',
          rawBytes: spkiDer(ed25519()),
          signature: randomBytes(64),
          digest: randomBytes(64),
        }),
      'unsupported signing algorithm PKIX_ED25519 for hashedrekord',
    ],
    [
      'Ed25519ph that does not verify',
      () =>
        hashedrekordV2({
          keyDetails: 'PKIX_ED25519_PH',
          rawBytes: spkiDer(ed25519()),
          signature: randomBytes(64),
          digest: randomBytes(64),
        }),
      `${invalid}verifying signature`,
    ],
    ['key details that nobody knows', () => hashedrekordV2({ keyDetails: 'PKIX_SOMETHING' }), 'keyDetails'],
    ['key details that are not taken', () => hashedrekordV2({ keyDetails: 'PKCS1_RSA_PSS' }), 'keyDetails'],
    [
      'a signature by another key',
      () => hashedrekordV2({ rawBytes: spkiDer(ecKey()) }),
      `${invalid}verifying signature: invalid signature when validating the digest`,
    ],
    [
      'a signature that is r and s side by side',
      () => {
        const key = ecKey()
        const content = randomBytes(32)
        return hashedrekordV2({
          key,
          digest: createHash('sha256').update(content).digest(),
          signature: sign('sha256', content, { key, dsaEncoding: 'ieee-p1363' }),
        })
      },
      `${invalid}verifying signature: invalid signature when validating the digest`,
    ],
    [
      'a digest that is too long',
      () => hashedrekordV2({ digest: randomBytes(64) }),
      `${invalid}digest length (64) does not match expected size (32) for algorithm sha256`,
    ],
    ['no digest', () => hashedrekordV2({ digest: Buffer.alloc(0) }), `${invalid}missing digest`],
    ['no signature', () => hashedrekordV2({ signature: Buffer.alloc(0) }), `${invalid}missing signature`],
    [
      'a key cut short',
      () => hashedrekordV2({ rawBytes: spkiDer(ecKey()).subarray(0, -1) }),
      `${invalid}parsing public key: element is cut off`,
    ],
    [
      'a certificate that is a key',
      () => hashedrekordV2({ holder: 'x509Certificate' }),
      `${invalid}parsing certificate: `,
    ],
    ['malformed JSON', () => '{"hashedRekordRequestV002":', 'body is not valid JSON'],
    ['a field that is there twice', () => '{"dsseRequestV002":{},"dsseRequestV002":{}}', 'duplicate field in JSON'],
    ['a field that there is not', () => ({ nothing: {} }), 'nothing'],
    ['no entry', () => ({}), 'invalid type, must be dsse or hashedrekord'],
  ])('refuses %s', async (_, body, message) => {
    expectRefusal(await post(v2Entries, body()), { status: 400, code: 3, message })
  })

  test('refuses a body over the limit', async () => {
    const message = 'request body is larger than 4194304 bytes'
    expectRefusal(await post(v2Entries, `{"padding":"${'x'.repeat(4 << 20)}"}`), { status: 413, code: 3, message })
  })
})

describe('the CT log', () => {
  /** What was logged last: the precertificate of somebody's certificate, with the chain that it came with. */
  async function lastPrecertificate(): Promise<{ precertificate: string; size: number }> {
    const size = await treeSize()
    const { entries } = await json<{ entries: { extra_data: string }[] }>(
      `${ct}/ct/v1/get-entries?start=${size - 1}&end=${size - 1}`,
    )
    // PrecertChainEntry (RFC 6962 §3.1): the precertificate behind its length of three bytes.
    const extra = Buffer.from(entries[0]?.extra_data ?? '', 'base64')
    return { precertificate: base64(extra.subarray(3, 3 + extra.readUIntBE(0, 3))), size }
  }

  async function treeSize(): Promise<number> {
    return (await json<{ tree_size: number }>(`${ct}/ct/v1/get-sth`)).tree_size
  }

  async function chain(): Promise<string[]> {
    const { chains } = await json<{ chains: { certificates: string[] }[] }>(`${ca}/api/v2/trustBundle`)
    return (chains[0]?.certificates ?? []).map((text) => text.replaceAll(/-----[^-]+-----|\s/g, ''))
  }

  /** A certificate of ours (DER) and what its embedded SCT says, in the form of the log's replies. */
  async function issued(): Promise<{ certificate: Buffer; sct: unknown }> {
    const key = ecKey()
    const proof = sign('sha256', Buffer.from(someone), key)
    const answer = await post(`${ca}/api/v2/signingCert`, {
      credentials: { oidcIdentityToken: forgedToken() },
      publicKeyRequest: { publicKey: { content: spkiPem(key) }, proofOfPossession: base64(proof) },
    })
    expect([answer.status, answer.text]).toEqual([200, expect.stringContaining('BEGIN CERTIFICATE')])
    const reply = JSON.parse(answer.text) as {
      signedCertificateEmbeddedSct: { chain: { certificates: readonly string[] } }
    }
    const [leaf = ''] = reply.signedCertificateEmbeddedSct.chain.certificates
    const certificate = Buffer.from(leaf.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64')
    const extension = parseCertificate(new Uint8Array(certificate)).extension('1.3.6.1.4.1.11129.2.4.2')
    const [serialised, ...more] = decodeSctList(extension?.value ?? new Uint8Array())
    if (serialised === undefined) throw new Error('the certificate has no SCT')
    expect(more).toHaveLength(0)
    const { logId, timestampMs, extensions, signatureDer } = parseSct(serialised)
    return {
      certificate,
      sct: {
        sct_version: 0,
        id: base64(logId),
        timestamp: timestampMs,
        extensions: base64(extensions),
        signature: base64(digitallySigned(signatureDer)),
      },
    }
  }

  test('a true duplicate of a precertificate gets the SCT that is in its certificate, and no second place', async () => {
    const { sct } = await issued()
    const { precertificate, size } = await lastPrecertificate()
    const answer = await post(`${ct}/ct/v1/add-pre-chain`, { chain: [precertificate, ...(await chain())] })
    expect(answer.status).toBe(200)
    expect(JSON.parse(answer.text)).toEqual(sct)
    expect((await lastPrecertificate()).size).toBe(size)
  })

  test('a true duplicate of a certificate gets the same SCT, and no second place', async () => {
    const { certificate, sct } = await issued()
    const body = { chain: [base64(certificate), ...(await chain())] }
    const before = await treeSize()
    const first = await post(`${ct}/ct/v1/add-chain`, body)
    expect(first.status).toBe(200)
    // Of another kind of entry than the one that is inside.
    expect(JSON.parse(first.text)).not.toEqual(sct)
    expect((await post(`${ct}/ct/v1/add-chain`, body)).text).toBe(first.text)
    expect(await treeSize()).toBe(before + 1)
  })

  test.each<[string, (precertificate: string, issuers: readonly string[]) => unknown, string, string]>([
    ['malformed JSON', () => '{"chain":', 'add-pre-chain', 'the body is not JSON'],
    ['a chain that is a text', () => ({ chain: 'text' }), 'add-pre-chain', 'the body is not {"chain": [...]}'],
    ['what is not base64', () => ({ chain: ['*'] }), 'add-pre-chain', 'the chain is not a list of base64 texts'],
    ['an empty chain', () => ({ chain: [] }), 'add-pre-chain', 'the chain is empty'],
    ['malformed DER', () => ({ chain: [base64('no DER')] }), 'add-pre-chain', 'certificate 1 of the chain: '],
    [
      'a precertificate where certificates belong',
      (precertificate, issuers) => ({ chain: [precertificate, ...issuers] }),
      'add-chain',
      'a precertificate belongs to add-pre-chain',
    ],
    [
      'a certificate of the authority itself',
      (_, issuers) => ({ chain: issuers }),
      'add-chain',
      'the certificate is a CA certificate',
    ],
    [
      'a precertificate whose signature was changed',
      (precertificate, issuers) => ({ chain: [flipped(precertificate), ...issuers] }),
      'add-pre-chain',
      'certificate 1 is not issued by the next one',
    ],
    [
      'a chain in the wrong order',
      (precertificate, issuers) => ({ chain: [precertificate, ...issuers.toReversed()] }),
      'add-pre-chain',
      'is not issued by the next one',
    ],
    [
      'too long a chain',
      (precertificate, issuers) => ({ chain: [precertificate, ...Array.from({ length: 20 }, () => issuers[0])] }),
      'add-pre-chain',
      'a chain of more than',
    ],
  ])('refuses %s', async (_, body, path, message) => {
    await issued()
    const { precertificate } = await lastPrecertificate()
    const answer = await post(`${ct}/ct/v1/${path}`, body(precertificate, await chain()))
    expect(JSON.parse(answer.text)).toEqual({
      error_message: expect.stringContaining(message) as unknown,
      success: false,
    })
    expect(answer.status).toBe(400)
  })

  test('refuses a body over the limit', async () => {
    const answer = await post(`${ct}/ct/v1/add-pre-chain`, `{"chain":["${'A'.repeat(256 * 1024)}"]}`)
    expect(answer.text).toContain('the body is over 262144 bytes')
    expect(answer.status).toBe(413)
  })
})

describe('the timestamp authority', () => {
  const url = `${new URL(tsa).origin}/api/v1/timestamp`
  const query = { artifactHash: base64(randomBytes(32)), hashAlgorithm: 'sha256' }
  const der = { 'content-type': 'application/timestamp-query' }

  test.each<[string, unknown, Record<string, string>, number, string]>([
    ['SHA-1', { ...query, hashAlgorithm: 'sha1' }, {}, 400, 'hash algorithm sha1 is too weak'],
    ['MD5', { ...query, hashAlgorithm: 'md5' }, {}, 400, 'hash algorithm'],
    ['a digest that is too short', { ...query, artifactHash: 'AAAA' }, {}, 400, 'digest'],
    ['a digest that is not base64', { ...query, artifactHash: '*' }, {}, 400, 'artifactHash is not base64'],
    ['another policy', { ...query, tsaPolicyOID: '1.2.3' }, {}, 400, 'requested policy is not accepted'],
    ['malformed JSON', '{', {}, 400, 'request is not JSON'],
    ['malformed DER', Buffer.from('3003020101', 'hex'), der, 400, 'request is not a DER TimeStampReq'],
    ['another media type', 'x', { 'content-type': 'text/plain' }, 415, 'content type is neither'],
    ['a body over the limit', 'x'.repeat(65_537), der, 413, 'request is over 65536 bytes'],
  ])('refuses %s', async (_, body, headers, status, message) => {
    expectRefusal(await post(url, body, headers), { status, message })
  })
})

function sha256Hex(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function json<T>(url: string): Promise<T> {
  const answer = await fetch(url)
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`)
  return (await answer.json()) as T
}

function pem(label: string, der: Uint8Array): string {
  return `-----BEGIN ${label}-----\n${base64(der).replaceAll(/.{64}/g, '$&\n').trimEnd()}\n-----END ${label}-----\n`
}

function flipped(encoded: string): string {
  const bytes = Buffer.from(encoded, 'base64')
  const last = bytes.length - 1
  bytes[last] = (bytes[last] ?? 0) ^ 1
  return base64(bytes)
}
