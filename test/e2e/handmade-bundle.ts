/** A signature over a file with a certificate that is at hand, in our logs and under our timestamp authority. */
import { createHash, sign } from 'node:crypto'
import type { LogVersion, Material } from './clients.ts'
import type { IssuedCertificate } from './hostile-authority.ts'
import { timestampOver } from './hostile-bundles.ts'

export interface HandmadeOptions {
  readonly material: Pick<Material, 'rekorV1' | 'timestamp'>
  readonly rekorV2: string
  readonly log: LogVersion
  readonly certificate: IssuedCertificate
  readonly artifact: Uint8Array
}

/** Signs, logs and timestamps as a client does; returns the bundle (v0.3) as JSON. */
export async function handmadeBundle(options: HandmadeOptions): Promise<string> {
  const { material, rekorV2, log, certificate, artifact } = options
  const signature = sign('sha256', artifact, certificate.privateKey)
  const entry = { certificate: certificate.der, digest: createHash('sha256').update(artifact).digest(), signature }
  return JSON.stringify({
    mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json',
    verificationMaterial: {
      certificate: { rawBytes: base64(certificate.der) },
      tlogEntries: [log === 'v1' ? await logInV1(material.rekorV1, entry) : await logInV2(rekorV2, entry)],
      timestampVerificationData: {
        rfc3161Timestamps: [{ signedTimestamp: await timestampOver(material.timestamp, signature) }],
      },
    },
    messageSignature: {
      messageDigest: { algorithm: 'SHA2_256', digest: base64(entry.digest) },
      signature: base64(signature),
    },
  })
}

interface Entry {
  readonly certificate: Uint8Array
  readonly digest: Uint8Array
  readonly signature: Uint8Array
}

/** Rekor v1's LogEntry. */
interface LogEntryV1 {
  readonly body: string
  readonly integratedTime: number
  readonly logID: string
  readonly logIndex: number
  readonly verification: {
    readonly signedEntryTimestamp: string
    readonly inclusionProof: {
      readonly checkpoint: string
      readonly hashes: readonly string[]
      readonly logIndex: number
      readonly rootHash: string
      readonly treeSize: number
    }
  }
}

async function logInV1(rekor: string, { certificate, digest, signature }: Entry): Promise<unknown> {
  const pem = `-----BEGIN CERTIFICATE-----\n${base64(certificate).replaceAll(/.{64}/g, '$&\n').trimEnd()}\n-----END CERTIFICATE-----\n`
  const reply = await created(`${rekor}/api/v1/log/entries`, {
    apiVersion: '0.0.1',
    kind: 'hashedrekord',
    spec: {
      data: { hash: { algorithm: 'sha256', value: hex(digest) } },
      signature: { content: base64(signature), publicKey: { content: base64(Buffer.from(pem)) } },
    },
  })
  const [entry] = Object.values(reply as Record<string, LogEntryV1>)
  if (entry === undefined) throw new Error('the log answered without an entry')
  const { signedEntryTimestamp, inclusionProof } = entry.verification
  return {
    logIndex: String(entry.logIndex),
    logId: { keyId: fromHex(entry.logID) },
    kindVersion: { kind: 'hashedrekord', version: '0.0.1' },
    integratedTime: String(entry.integratedTime),
    inclusionPromise: { signedEntryTimestamp },
    inclusionProof: {
      logIndex: String(inclusionProof.logIndex),
      rootHash: fromHex(inclusionProof.rootHash),
      treeSize: String(inclusionProof.treeSize),
      hashes: inclusionProof.hashes.map(fromHex),
      checkpoint: { envelope: inclusionProof.checkpoint },
    },
    canonicalizedBody: entry.body,
  }
}

async function logInV2(rekor: string, { certificate, digest, signature }: Entry): Promise<unknown> {
  return created(`${rekor}/api/v2/log/entries`, {
    hashedRekordRequestV002: {
      digest: base64(digest),
      signature: {
        content: base64(signature),
        verifier: {
          keyDetails: 'PKIX_ECDSA_P256_SHA_256',
          x509Certificate: { rawBytes: base64(certificate) },
        },
      },
    },
  })
}

async function created(url: string, body: unknown): Promise<unknown> {
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) })
  if (answer.status !== 201) throw new Error(`${url} answered ${answer.status}: ${await answer.text()}`)
  return answer.json()
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const fromHex = (text: string): string => Buffer.from(text, 'hex').toString('base64')
