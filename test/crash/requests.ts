/** Requests as clients make them, by node:crypto alone. */
import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'

export interface EntryRequest {
  /** The body. */
  readonly sent: string
  /** What the entry is found by: SHA-256 of the message or of the SubjectPublicKeyInfo, hex. */
  readonly digest: string
}

export interface KeyPair {
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
}

export function keyPair(): KeyPair {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' })
}

/** A hashedrekord for Rekor v1 (0.0.1) or v2 (0.0.2). */
export function requestOf(use: 'v1' | 'v2', message: string, { privateKey, publicKey } = keyPair()): EntryRequest {
  const digest = sha256(message)
  const signature = sign('sha256', Buffer.from(message), privateKey).toString('base64')
  const request =
    use === 'v1'
      ? {
          apiVersion: '0.0.1',
          kind: 'hashedrekord',
          spec: {
            data: { hash: { algorithm: 'sha256', value: digest.toString('hex') } },
            signature: {
              content: signature,
              publicKey: {
                content: Buffer.from(publicKey.export({ type: 'spki', format: 'pem' })).toString('base64'),
              },
            },
          },
        }
      : {
          hashedRekordRequestV002: {
            digest: digest.toString('base64'),
            signature: {
              content: signature,
              verifier: { keyDetails: 'PKIX_ECDSA_P256_SHA_256', publicKey: { rawBytes: spkiOf(publicKey) } },
            },
          },
        }
  return { sent: JSON.stringify(request), digest: digest.toString('hex') }
}

/** A key of its own for each certificate, as keyless clients have. */
export function certificateRequest({ token, email }: { token: string; email: string }): EntryRequest {
  const { privateKey, publicKey } = keyPair()
  const sent = JSON.stringify({
    credentials: { oidcIdentityToken: token },
    publicKeyRequest: {
      publicKey: { algorithm: 'ECDSA', content: publicKey.export({ type: 'spki', format: 'pem' }) },
      proofOfPossession: sign('sha256', Buffer.from(email), privateKey).toString('base64'),
    },
  })
  return { sent, digest: sha256(Buffer.from(spkiOf(publicKey), 'base64')).toString('hex') }
}

/** A timestamp over the message's digest, in the JSON form that timestamp-cli has too. */
export function timestampRequest(message: string): EntryRequest {
  const digest = sha256(message)
  const sent = JSON.stringify({ artifactHash: digest.toString('base64'), hashAlgorithm: 'sha256', certificates: true })
  return { sent, digest: digest.toString('hex') }
}

function spkiOf(publicKey: KeyObject): string {
  return publicKey.export({ type: 'spki', format: 'der' }).toString('base64')
}

function sha256(bytes: string | Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest()
}
