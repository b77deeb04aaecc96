/** The requests that are measured, made before the clock starts, and the checks of their answers. */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  hash,
  randomBytes,
  randomInt,
  sign,
  verify,
  X509Certificate,
} from 'node:crypto'
import { inspectTimestampResponse } from '#timestamp'
import { leafHash, verifyCheckpoint, verifyInclusion } from '#tlog'
import {
  boolean,
  decodeSctList,
  equalBytes,
  integer,
  nullValue,
  objectIdentifier,
  octetString,
  OID,
  parseCertificate,
  parseSct,
  sctSignatureInput,
  sequence,
  withoutExtension,
} from '#x509'
import { httpRequest, type PreparedRequest } from './http-load.ts'
import type { Endpoints } from './stack.ts'

/** What is measured: one request of a client each. */
export const KINDS = ['certificate', 'rekorV1', 'rekorV2', 'timestamp', 'proof'] as const
export type Kind = (typeof KINDS)[number]

/** What requests and checks need; can be sent to another process. */
export interface Material {
  readonly endpoints: Endpoints
  readonly token: string
  readonly email: string
  /** DER: issuing certificate, root. */
  readonly caChain: readonly Uint8Array[]
  /** DER, of the timestamp authority. */
  readonly timestampCertificate: Uint8Array
  /** SubjectPublicKeyInfo, DER. */
  readonly logKeys: { readonly ct: Uint8Array; readonly rekorV1: Uint8Array; readonly rekorV2: Uint8Array }
  readonly origins: { readonly ct: string; readonly rekorV1: string; readonly rekorV2: string }
  /** Certificates that the measured CA issued, with their keys (PKCS#8, DER), to sign entries with. */
  readonly signers: readonly { readonly certificate: Uint8Array; readonly privateKey: Uint8Array }[]
  /** Entries in the v1 log that can be read. */
  readonly entries: number
}

export const EXPECTED_STATUS: Readonly<Record<Kind, number>> = {
  certificate: 200,
  rekorV1: 201,
  rekorV2: 201,
  timestamp: 200,
  proof: 200,
}

/** So many different requests of one kind, in the order in which they are to be sent. */
export function prepare(kind: Kind, material: Material, count: number): PreparedRequest[] {
  const make = MAKERS[kind](material)
  return Array.from({ length: count }, (_, place) => make(place))
}

export function urlOf(kind: Kind, { ca, rekorV1, rekorV2, tsa }: Endpoints): string {
  return { certificate: ca, rekorV1, rekorV2, timestamp: tsa, proof: rekorV1 }[kind]
}

const MAKERS: Readonly<Record<Kind, (material: Material) => (place: number) => PreparedRequest>> = {
  certificate: (material) => () => certificateRequest(material).request,
  rekorV1: (material) => (place) => {
    const { certificate, artifactDigest, signature } = signedArtifact(material, place)
    const body = {
      apiVersion: '0.0.1',
      kind: 'hashedrekord',
      spec: {
        data: { hash: { algorithm: 'sha256', value: artifactDigest.toString('hex') } },
        signature: {
          content: signature.toString('base64'),
          publicKey: { content: Buffer.from(certificate.toString()).toString('base64') },
        },
      },
    }
    return {
      bytes: httpRequest(`${material.endpoints.rekorV1}/api/v1/log/entries`, { body: JSON.stringify(body) }),
      verify: (answer) => checkV1Entry(answer, material, artifactDigest.toString('hex')),
    }
  },
  rekorV2: (material) => (place) => {
    const { certificate, artifactDigest, signature } = signedArtifact(material, place)
    const body = {
      hashedRekordRequestV002: {
        digest: artifactDigest.toString('base64'),
        signature: {
          content: signature.toString('base64'),
          verifier: {
            x509Certificate: { rawBytes: certificate.raw.toString('base64') },
            keyDetails: 'PKIX_ECDSA_P256_SHA_256',
          },
        },
      },
    }
    return {
      bytes: httpRequest(`${material.endpoints.rekorV2}/api/v2/log/entries`, { body: JSON.stringify(body) }),
      verify: (answer) => checkV2Entry(answer, material, artifactDigest.toString('base64')),
    }
  },
  timestamp: (material) => {
    const authority = new X509Certificate(material.timestampCertificate)
    return () => {
      const digest = randomBytes(32)
      const imprint = sequence(sequence(objectIdentifier('2.16.840.1.101.3.4.2.1'), nullValue()), octetString(digest))
      const body = sequence(integer(1), imprint, integer(randomBytes(8)), boolean(true))
      const type = 'application/timestamp-query'
      return {
        bytes: httpRequest(`${material.endpoints.tsa}/api/v1/timestamp`, { body, type }),
        verify: (answer) => {
          const found = inspectTimestampResponse(answer)
          requireThat(found.status === 0 && equalBytes(found.digest, digest), 'timestamp is of another digest')
          const holds = verify('sha256', found.signedAttributesDer, authority.publicKey, found.signatureDer)
          requireThat(holds, 'timestamp does not verify')
        },
      }
    }
  },
  proof: (material) => () => ({
    bytes: httpRequest(`${material.endpoints.rekorV1}/api/v1/log/entries?logIndex=${randomInt(material.entries)}`),
    verify: (answer) => checkV1Entry(answer, material, ''),
  }),
}

/** A request for a certificate over a fresh key, with the key, for signing entries with what is issued. */
export function certificateRequest(material: Omit<Material, 'signers'>): {
  readonly request: PreparedRequest
  readonly privateKey: Uint8Array
} {
  const { endpoints, token, email } = material
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const body = {
    credentials: { oidcIdentityToken: token },
    publicKeyRequest: {
      publicKey: { algorithm: 'ECDSA', content: publicKey.export({ type: 'spki', format: 'pem' }) },
      proofOfPossession: sign('sha256', Buffer.from(email), privateKey).toString('base64'),
    },
  }
  const spkiDer = publicKey.export({ type: 'spki', format: 'der' })
  return {
    request: {
      bytes: httpRequest(`${endpoints.ca}/api/v2/signingCert`, { body: JSON.stringify(body) }),
      verify: (answer) => checkCertificate(answer, material, spkiDer),
    },
    privateKey: privateKey.export({ type: 'pkcs8', format: 'der' }),
  }
}

/** The certificate in an answer of `signingCert`, PEM. */
export function certificateIn(answer: Uint8Array): string {
  const { signedCertificateEmbeddedSct } = JSON.parse(Buffer.from(answer).toString()) as {
    signedCertificateEmbeddedSct: { chain: { certificates: string[] } }
  }
  return signedCertificateEmbeddedSct.chain.certificates[0] ?? ''
}

function checkCertificate(answer: Uint8Array, material: Omit<Material, 'signers'>, spkiDer: Uint8Array): void {
  const certificate = new X509Certificate(certificateIn(answer))
  const [issuing, root] = material.caChain.map((der) => new X509Certificate(der))
  requireThat(certificate.subjectAltName === `email:${material.email}`, 'certificate names another identity')
  requireThat(
    equalBytes(certificate.publicKey.export({ type: 'spki', format: 'der' }), spkiDer),
    'certificate has another key',
  )
  requireThat(issuing !== undefined && certificate.verify(issuing.publicKey), 'certificate does not verify')
  requireThat(root !== undefined && issuing?.verify(root.publicKey) === true, 'chain does not verify')
  const parsed = parseCertificate(certificate.raw)
  const [only] = decodeSctList(parsed.extension(OID.sctList)?.value ?? new Uint8Array())
  requireThat(only !== undefined, 'certificate has no timestamp of the log')
  const sct = parseSct(only ?? new Uint8Array())
  const issuerSpki = issuing?.publicKey.export({ type: 'spki', format: 'der' }) ?? new Uint8Array()
  const entry = {
    type: 'precert',
    issuerKeyHash: hash('sha256', issuerSpki, 'buffer'),
    tbsDer: withoutExtension(parsed.tbsDer, OID.sctList),
  } as const
  const signed = sctSignatureInput(entry, sct.timestampMs, sct.extensions)
  requireThat(verify('sha256', signed, keyOf(material.logKeys.ct), sct.signatureDer), 'SCT does not verify')
}

interface ReadEntry {
  readonly body: string
  readonly integratedTime: number
  readonly logID: string
  readonly logIndex: number
  readonly verification: {
    readonly inclusionProof: {
      readonly checkpoint: string
      readonly hashes: readonly string[]
      readonly logIndex: number
      readonly rootHash: string
      readonly treeSize: number
    }
    readonly signedEntryTimestamp: string
  }
}

/** Of an upload or a read; `digestHex` is empty where any entry will do. */
function checkV1Entry(answer: Uint8Array, { logKeys, origins }: Material, digestHex: string): void {
  const [entry] = Object.values(JSON.parse(Buffer.from(answer).toString()) as Record<string, ReadEntry>)
  if (entry === undefined) throw new Error('answer holds no entry')
  const { body, integratedTime, logID, logIndex, verification } = entry
  const leaf = Buffer.from(body, 'base64')
  requireThat(leaf.toString().includes(digestHex), 'entry is of another digest')
  const proof = verification.inclusionProof
  checkProof(
    { leaf, index: proof.logIndex, size: proof.treeSize, hashes: proof.hashes.map((hex) => Buffer.from(hex, 'hex')) },
    { envelope: proof.checkpoint, origin: origins.rekorV1, spkiDer: logKeys.rekorV1 },
  )
  const promise = JSON.stringify({ body, integratedTime, logID, logIndex })
  const signature = Buffer.from(verification.signedEntryTimestamp, 'base64')
  requireThat(verify('sha256', Buffer.from(promise), keyOf(logKeys.rekorV1), signature), 'SET does not verify')
}

function checkV2Entry(answer: Uint8Array, { logKeys, origins }: Material, digestBase64: string): void {
  const { canonicalizedBody, inclusionProof } = JSON.parse(Buffer.from(answer).toString()) as {
    canonicalizedBody: string
    inclusionProof: { logIndex: string; treeSize: string; hashes: string[]; checkpoint: { envelope: string } }
  }
  const leaf = Buffer.from(canonicalizedBody, 'base64')
  requireThat(leaf.toString().includes(digestBase64), 'entry is of another digest')
  checkProof(
    {
      leaf,
      index: Number(inclusionProof.logIndex),
      size: Number(inclusionProof.treeSize),
      hashes: inclusionProof.hashes.map((base64) => Buffer.from(base64, 'base64')),
    },
    { envelope: inclusionProof.checkpoint.envelope, origin: origins.rekorV2, spkiDer: logKeys.rekorV2 },
  )
}

function checkProof(
  claim: { leaf: Uint8Array; index: number; size: number; hashes: readonly Uint8Array[] },
  checkpoint: { envelope: string; origin: string; spkiDer: Uint8Array },
): void {
  const { origin, spkiDer } = checkpoint
  const { size, rootHash } = verifyCheckpoint(checkpoint.envelope, { origin, spkiDer })
  requireThat(size === claim.size, 'checkpoint is of another size than the proof')
  verifyInclusion({ index: claim.index, size, leafHash: leafHash(claim.leaf), rootHash, proof: claim.hashes })
}

function signedArtifact({ signers }: Material, place: number) {
  const signer = signers[place % signers.length]
  if (signer === undefined) throw new Error('there is nobody to sign entries')
  const artifact = randomBytes(32)
  const privateKey = createPrivateKey({ key: Buffer.from(signer.privateKey), format: 'der', type: 'pkcs8' })
  return {
    certificate: new X509Certificate(signer.certificate),
    artifactDigest: hash('sha256', artifact, 'buffer'),
    signature: sign('sha256', artifact, privateKey),
  }
}

function keyOf(spkiDer: Uint8Array) {
  return createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
}

function requireThat(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise)
}
