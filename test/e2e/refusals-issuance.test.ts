/**
 * Who gets no certificate, and what they are told: forged tokens by real clients and on both routes, unfit keys, proofs
 * of possession and certification requests that prove nothing. Whatever is refused has left no trace in the CT log.
 */
import { createHash, createHmac, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ed25519ph } from '@noble/curves/ed25519.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type SignerName, signers, system } from './clients.ts'
import { freshFolder, makeArtifact, makeStatement, sharedStack } from './context.ts'
import {
  type Answer,
  ecKey,
  forgedToken,
  issuerKey,
  post,
  rsaKey,
  someone,
  spkiDer,
  spkiPem,
  type TokenChange,
} from './hostile-requests.ts'
import { refusal, succeeded } from './run.ts'

const stack = sharedStack()
const { ca, ct } = stack.endpoints
const folder = freshFolder('issuance')

/** The two routes, each with its own shape of the same request. */
const routes = {
  v2: async (request: KeyRequest) =>
    post(`${ca}/api/v2/signingCert`, {
      credentials: { oidcIdentityToken: request.token },
      publicKeyRequest: {
        publicKey: { algorithm: 'ECDSA', content: request.publicKey },
        proofOfPossession: request.proof.toString('base64'),
      },
    }),
  v1: async (request: KeyRequest) =>
    post(
      `${ca}/api/v1/signingCert`,
      {
        publicKey: { algorithm: 'ecdsa', content: Buffer.from(request.publicKey).toString('base64') },
        signedEmailAddress: request.proof.toString('base64'),
      },
      request.token === '' ? {} : { authorization: `Bearer ${request.token}` },
    ),
} as const
type Route = keyof typeof routes
const routeNames = Object.keys(routes) as Route[]

interface KeyRequest {
  readonly token: string
  readonly publicKey: string
  readonly proof: Buffer
}

function proofOver(text: string, key: KeyObject, hash: string | undefined = 'sha256'): Buffer {
  return sign(key.asymmetricKeyType?.startsWith('ed') === true ? null : hash, Buffer.from(text), key)
}

function expectRefusal({ status, text }: Answer, message: RegExp | string): void {
  const body = JSON.parse(text) as { message: string }
  expect(body.message).toMatch(message)
  expect(body).toMatchObject({ code: 3, details: [] })
  expect(status).toBe(400)
}

const now = Math.floor(Date.now() / 1000)
const stranger = rsaKey(2048)
const withEmptySignature = (): Buffer => Buffer.alloc(0)
const processing = 'There was an error processing the identity token: '

const tokens: readonly { name: string; change: TokenChange | string; message: string }[] = [
  { name: 'none', change: '', message: 'no identity token was given' },
  { name: 'that is none', change: 'a.b', message: 'the identity token is malformed: it must have three parts' },
  {
    name: 'that has expired',
    change: { claims: { iat: now - 900, exp: now - 1 } },
    message: 'the identity token is expired',
  },
  {
    name: 'that never expires',
    change: { claims: { exp: undefined } },
    message: 'the identity token is malformed: its exp is not a time',
  },
  {
    name: 'that is not yet valid',
    change: { claims: { nbf: now + 3600 } },
    message: 'the identity token is not yet valid',
  },
  {
    name: 'for another audience',
    change: { claims: { aud: 'another' } },
    message: 'the identity token is meant for another audience',
  },
  {
    name: 'for no audience',
    change: { claims: { aud: [] } },
    message: 'the identity token is meant for another audience',
  },
  {
    name: 'of another issuer',
    change: { claims: { iss: 'https://issuer.example' } },
    message: 'the issuer of the identity token is not configured',
  },
  {
    name: 'signed by another key',
    change: { signature: (input) => sign('sha256', input, stranger) },
    message: 'the signature of the identity token does not verify',
  },
  {
    name: 'signed by another key that it brings along',
    change: {
      header: { jwk: createPublicKey(stranger).export({ format: 'jwk' }) },
      signature: (input) => sign('sha256', input, stranger),
    },
    message: 'the signature of the identity token does not verify',
  },
  {
    name: 'with a key id that the issuer does not have',
    change: { header: { kid: 'other' } },
    message: 'the issuer has no key that the token could be signed with',
  },
  {
    name: 'with no signature',
    change: { signature: withEmptySignature },
    message: 'the signature of the identity token does not verify',
  },
  {
    name: 'with alg none',
    change: { header: { alg: 'none' }, signature: withEmptySignature },
    message: 'the token is signed with an algorithm that its issuer does not announce',
  },
  {
    name: 'with alg NONE and a signature',
    change: { header: { alg: 'NONE' } },
    message: 'the token is signed with an algorithm that its issuer does not announce',
  },
  {
    name: 'with alg HS256 under the public key',
    change: {
      header: { alg: 'HS256' },
      signature: (input) => createHmac('sha256', spkiPem(issuerKey())).update(input).digest(),
    },
    message: 'the token is signed with an algorithm that its issuer does not announce',
  },
  {
    name: 'with an extension that must be understood',
    change: { header: { crit: ['b64'], b64: false } },
    message: 'the identity token is malformed: it demands an extension',
  },
  {
    name: 'with an unverified address',
    change: { claims: { email_verified: false } },
    message: 'the email of the token is not verified',
  },
  {
    name: 'with an address that is unverified in words',
    change: { claims: { email_verified: 'false' } },
    message: 'the email of the token is not verified',
  },
  {
    name: 'with an address that is none',
    change: { claims: { email: 'someone' } },
    message: 'the email of the token is not a valid address',
  },
]

const tokenOf = (change: TokenChange | string): string => (typeof change === 'string' ? change : forgedToken(change))

const honestKey = ecKey()
const honest = { publicKey: spkiPem(honestKey), proof: proofOver(someone, honestKey) }

test.each(routeNames)('%s: an honest request gets its certificate', async (route) => {
  const { status, text } = await routes[route]({ ...honest, token: forgedToken() })
  expect(text).toContain('BEGIN CERTIFICATE')
  expect(status).toBe(route === 'v2' ? 200 : 201)
})

describe('no certificate', () => {
  let before: number
  beforeAll(async () => {
    before = await certificatesLogged()
  })
  afterAll(async () => {
    expect(await certificatesLogged(), 'a precertificate was logged for a request that was refused').toBe(before)
  })

  describe.each(routeNames)('%s: for a token', (route) => {
    test.each(tokens)('$name', async ({ change, message }) => {
      expectRefusal(await routes[route]({ ...honest, token: tokenOf(change) }), processing + message)
    })
  })

  describe('for the token that a client was given', () => {
    const artifact = makeArtifact(folder)
    const request = {
      material: stack.material,
      log: 'v2',
      kind: 'blob',
      artifact,
      ...makeStatement(folder, artifact, readFileSync(artifact)),
    } as const
    const serverSays = ['that has expired', 'for another audience', 'signed by another key', 'with alg none']
    const given = [...serverSays, 'of another issuer', 'with an unverified address']
    const cells = given.flatMap((name) => (Object.keys(signers) as SignerName[]).map((signer) => ({ signer, name })))

    test.concurrent.each(cells)('$signer, $name', async ({ signer, name }) => {
      const found = tokens.find((token) => token.name === name)
      if (found === undefined) throw new Error(`no token ${name}`)
      const tokenFile = join(folder, `token-${signer}-${name}`.replaceAll(' ', '-'))
      writeFileSync(tokenFile, tokenOf(found.change))
      const bundle = `${tokenFile}.json`
      const said = refusal(await signers[signer]({ ...request, tokenFile, bundle })).replaceAll(/\s+/g, ' ')
      expect(said).toMatch(saidBy(signer, name, found.message))
    })

    /** Some clients look at the token themselves, or do not show what the server said. */
    function saidBy(signer: SignerName, name: string, message: string): RegExp | string {
      const unverified = name === 'with an unverified address'
      if (signer === 'sigstore-python') {
        // Its JWT library lets an end pass for five seconds; then its own check says it.
        if (name === 'that has expired')
          return /Identity token is (malformed or missing claims|not within its validity)/
        return name === 'for another audience'
          ? 'Identity token is malformed or missing claims'
          : /400 Client Error: Bad Request for url: \S+\/api\/v2\/signingCert .*FulcioClientError/
      }
      if (signer === 'sigstore-js') return unverified ? 'invalid identity token' : `(400) ${processing}${message}`
      return unverified
        ? 'not verified by identity provider'
        : `Fulcio returned 400: {"code":3,"message":"${processing}${message}"`
    }
  })

  const unverifiable = 'The signature supplied in the request could not be verified: the key did not sign it'
  const proofs: readonly { name: string; proof: (key: KeyObject) => Buffer }[] = [
    { name: 'over another subject', proof: (key) => proofOver('other@example.test', key) },
    { name: 'over the subject claim, where the address counts', proof: (key) => proofOver('subject-1', key) },
    { name: 'over nothing', proof: (key) => proofOver('', key) },
    { name: 'by another key', proof: () => proofOver(someone, ecKey()) },
    { name: 'with another hash', proof: (key) => proofOver(someone, key, 'sha512') },
    { name: 'of zeros', proof: () => Buffer.alloc(64) },
    { name: 'of nothing', proof: () => Buffer.alloc(0) },
    { name: 'that is the key itself', proof: (key) => spkiDer(key) },
  ]

  describe.each(routeNames)('%s: for a proof of possession', (route) => {
    test.each(proofs)('$name', async ({ proof }) => {
      const request = { token: forgedToken(), publicKey: honest.publicKey, proof: proof(honestKey) }
      expectRefusal(await routes[route](request), unverifiable)
    })
  })

  test('for Ed25519ph where pure Ed25519 counts', async () => {
    const { privateKey } = generateKeyPairSync('ed25519')
    const seed = Buffer.from(privateKey.export({ format: 'jwk' }).d ?? '', 'base64url')
    const proof = Buffer.from(ed25519ph.sign(Buffer.from(someone), seed))
    const request = { token: forgedToken(), publicKey: spkiPem(privateKey) }
    expectRefusal(await routes.v2({ ...request, proof }), unverifiable)
  })

  const insecure = 'The public key supplied in the request is insecure: '
  const unparsed = 'The public key supplied in the request could not be parsed: '
  const offCurve = (): Buffer => {
    const der = spkiDer(honestKey)
    der[der.length - 1] = (der.at(-1) ?? 0) ^ 1
    return der
  }
  const pemOf = (der: Uint8Array): string =>
    `-----BEGIN PUBLIC KEY-----\n${Buffer.from(der).toString('base64').replaceAll(/.{64}/g, '$&\n').trimEnd()}\n-----END PUBLIC KEY-----\n`
  const explicit = (): KeyObject =>
    generateKeyPairSync('ec', { namedCurve: 'P-256', paramEncoding: 'explicit' }).privateKey

  const keys: readonly { name: string; publicKey: () => string; message: string }[] = [
    {
      name: 'RSA-1024',
      publicKey: () => spkiPem(rsaKey(1024)),
      message: insecure + 'rsa key of 1024 bits; 2048, 3072 and 4096 are accepted',
    },
    {
      name: 'RSA-2056',
      publicKey: () => spkiPem(rsaKey(2056)),
      message: insecure + 'rsa key of 2056 bits; 2048, 3072 and 4096 are accepted',
    },
    {
      name: 'RSA with exponent 3',
      publicKey: () => spkiPem(rsaKey(2048, 3)),
      message: insecure + 'rsa exponent is not 65537',
    },
    {
      name: 'RSA with exponent 65539',
      publicKey: () => spkiPem(rsaKey(2048, 65_539)),
      message: insecure + 'rsa exponent is not 65537',
    },
    { name: 'RSA of 16384 bits', publicKey: () => pemOf(oversizedRsa()), message: insecure + 'rsa key is too long' },
    {
      name: 'P-224',
      publicKey: () => spkiPem(ecKey('secp224r1')),
      message: insecure + 'elliptic curve 1.3.132.0.33 is not supported',
    },
    {
      name: 'P-192',
      publicKey: () => spkiPem(ecKey('prime192v1')),
      message: insecure + 'elliptic curve 1.2.840.10045.3.1.1 is not supported',
    },
    {
      name: 'secp256k1',
      publicKey: () => spkiPem(ecKey('secp256k1')),
      message: insecure + 'elliptic curve 1.3.132.0.10 is not supported',
    },
    {
      name: 'brainpoolP256r1',
      publicKey: () => spkiPem(ecKey('brainpoolP256r1')),
      message: insecure + 'elliptic curve 1.3.36.3.3.2.8.1.1.7 is not supported',
    },
    {
      name: 'P-256 by explicit parameters',
      publicKey: () => spkiPem(explicit()),
      message: insecure + 'elliptic curve is not a named one',
    },
    {
      name: 'a point off the curve',
      publicKey: () => pemOf(offCurve()),
      message: insecure + 'point is not on its curve',
    },
    {
      name: 'X25519',
      publicKey: () => spkiPem(generateKeyPairSync('x25519').privateKey),
      message: insecure + 'key algorithm 1.3.101.110 is not supported',
    },
    {
      name: 'Ed448',
      publicKey: () => spkiPem(generateKeyPairSync('ed448').privateKey),
      message: insecure + 'key algorithm 1.3.101.113 is not supported',
    },
    {
      name: 'DER cut short',
      publicKey: () => pemOf(spkiDer(honestKey).subarray(0, -1)),
      message: unparsed + 'element is cut off',
    },
    {
      name: 'DER with a byte behind it',
      publicKey: () => pemOf(Buffer.concat([spkiDer(honestKey), Buffer.of(0)])),
      message: unparsed + '1 bytes too many',
    },
    {
      name: 'PEM without its end',
      publicKey: () => honest.publicKey.slice(0, -20),
      message: unparsed + 'PEM block does not end with its own label',
    },
    {
      name: 'two keys',
      publicKey: () => honest.publicKey + spkiPem(ecKey()),
      message: unparsed + 'too many PEM blocks',
    },
    {
      name: 'a private key',
      publicKey: () => honestKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
      message: unparsed + 'unexpected PEM block PRIVATE KEY',
    },
    { name: 'nothing', publicKey: () => '', message: unparsed + 'no public key was given' },
  ]

  describe.each(routeNames)('%s: for a key', (route) => {
    test.each(keys)('$name', async ({ publicKey, message }) => {
      expectRefusal(await routes[route]({ ...honest, token: forgedToken(), publicKey: publicKey() }), message)
    })
  })

  describe('for a certification request', () => {
    const request = async (csr: string | Uint8Array): Promise<Answer> =>
      post(`${ca}/api/v2/signingCert`, {
        credentials: { oidcIdentityToken: forgedToken() },
        certificateSigningRequest: Buffer.from(csr).toString('base64'),
      })
    const unparsedCsr = 'The certificate signing request could not be parsed: '
    const notPermitted = 'The signing algorithm is not permitted: '

    test.each<{ name: string; key: () => KeyObject; flags?: readonly string[]; message: string }>([
      {
        name: 'with RSA-1024',
        key: () => rsaKey(1024),
        message: insecure + 'rsa key of 1024 bits; 2048, 3072 and 4096 are accepted',
      },
      {
        name: 'with P-224',
        key: () => ecKey('secp224r1'),
        message: insecure + 'elliptic curve 1.3.132.0.33 is not supported',
      },
      {
        name: 'with secp256k1',
        key: () => ecKey('secp256k1'),
        message: insecure + 'elliptic curve 1.3.132.0.10 is not supported',
      },
      { name: 'with RSA and exponent 3', key: () => rsaKey(2048, 3), message: insecure + 'rsa exponent is not 65537' },
      {
        name: 'signed with SHA-1',
        key: () => ecKey(),
        flags: ['-sha1'],
        message: notPermitted + 'signature algorithm 1.2.840.10045.4.1 is not supported',
      },
      {
        name: 'with P-256 signed with SHA-512',
        key: () => ecKey(),
        flags: ['-sha512'],
        message: notPermitted + 'signing algorithm not permitted: ecdsa with sha512',
      },
      {
        name: 'signed by RSA-PSS',
        key: () => rsaKey(2048),
        flags: ['-sigopt', 'rsa_padding_mode:pss'],
        message: notPermitted + 'signature algorithm 1.2.840.113549.1.1.10 is not supported',
      },
    ])('$name', async ({ key, flags = [], message }) => {
      expectRefusal(await request(await makeCsr(key(), flags)), message)
    })

    test('whose key did not sign it', async () => {
      const der = pemBody(await makeCsr(ecKey()))
      const at = der.length - 1
      der[at] = (der[at] ?? 0) ^ 1
      expectRefusal(await request(csrPem(der)), 'The signature supplied in the request could not be verified')
    })

    test('that names another key than the one that signed it', async () => {
      const [own, other] = [ecKey(), ecKey()]
      const der = pemBody(await makeCsr(own))
      const at = der.indexOf(spkiDer(own))
      expect(at).toBeGreaterThan(0)
      der.set(spkiDer(other), at)
      expectRefusal(await request(csrPem(der)), 'The signature supplied in the request could not be verified')
    })

    test.each<[string, string, () => Promise<string | Uint8Array>]>([
      ['that is a public key', 'unexpected PEM block PUBLIC KEY', async () => honest.publicKey],
      ['cut short', 'csr: element is cut off', async () => csrPem(pemBody(await makeCsr(ecKey())).subarray(0, -1))],
      ['without PEM', 'text outside of a PEM block', async () => pemBody(await makeCsr(ecKey()))],
      ['that is two', 'too many PEM blocks', async () => (await makeCsr(ecKey())) + (await makeCsr(ecKey()))],
    ])('%s', async (_, reason, csr) => {
      expectRefusal(await request(await csr()), unparsedCsr + reason)
    })

    test('beside a key', async () => {
      const body = {
        credentials: { oidcIdentityToken: forgedToken() },
        publicKeyRequest: {
          publicKey: { content: honest.publicKey },
          proofOfPossession: honest.proof.toString('base64'),
        },
        certificateSigningRequest: Buffer.from(await makeCsr(honestKey)).toString('base64'),
      }
      expectRefusal(await post(`${ca}/api/v2/signingCert`, body), 'exclude each other')
    })
  })

  describe.each(routeNames)('%s: for a body', (route) => {
    const url = `${ca}/api/${route}/signingCert`
    const unread = 'The request could not be read: '
    const authorization = { authorization: `Bearer ${forgedToken()}` }

    test.each<[string, string | Uint8Array, string]>([
      ['that is no JSON', '{"publicKey":', `${unread}the body is not JSON`],
      ['that is not UTF-8', Buffer.from('{"a":"\u00e9"}', 'latin1'), `${unread}the body is not JSON`],
      ['that is a list', '[]', `${unread}the body is not an object`],
      ['that names a field twice', '{"publicKey":{},"publicKey":{}}', `${unread}a name stands twice in one object`],
      [
        'that names a field twice, in two spellings',
        '{"publicKeyRequest":{},"public_key_request":{}}',
        `${unread}a name stands twice in one object`,
      ],
      [
        'with bytes that are not base64',
        '{"certificateSigningRequest":"*"}',
        'certificateSigningRequest is not base64',
      ],
      ['over the limit', `{"padding":"${'x'.repeat(256 * 1024)}"}`, 'http: request body too large'],
    ])('%s', async (_, body, message) => {
      expectRefusal(await post(url, body, authorization), message)
    })
  })
})

/** Size of the CT log. */
async function certificatesLogged(): Promise<number> {
  const answer = await fetch(`${ct}/ct/v1/get-sth`)
  return ((await answer.json()) as { tree_size: number }).tree_size
}

/** A certification request, PEM, by openssl. */
async function makeCsr(key: KeyObject, flags: readonly string[] = []): Promise<string> {
  const file = join(folder, `${createHash('sha256').update(spkiDer(key)).digest('hex')}.key`)
  writeFileSync(file, key.export({ type: 'pkcs8', format: 'pem' }))
  return succeeded(await system('openssl', ['req', '-new', '-key', file, '-subj', '/CN=ignored', flags])).stdout
}

function pemBody(pem: string): Buffer {
  return Buffer.from(pem.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64')
}

function csrPem(der: Uint8Array): string {
  const lines = Buffer.from(der).toString('base64').replaceAll(/.{64}/g, '$&\n').trimEnd()
  return `-----BEGIN CERTIFICATE REQUEST-----\n${lines}\n-----END CERTIFICATE REQUEST-----\n`
}

/** An SPKI whose modulus has 16384 bits; nobody needs its private half to keep a verifier busy. */
function oversizedRsa(): Buffer {
  const modulus = Buffer.alloc(2048, 0xff).toString('base64url')
  const key = createPublicKey({ key: { kty: 'RSA', n: modulus, e: 'AQAB' }, format: 'jwk' })
  return key.export({ type: 'spki', format: 'der' })
}
