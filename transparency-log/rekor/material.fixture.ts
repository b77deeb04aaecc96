/** Keys, signatures and requests for the tests of this folder, made by node:crypto alone. */
import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { ed25519ph } from '@noble/curves/ed25519.js'
import { preAuthenticationEncoding } from './dsse.ts'
import { CheckBudget } from './limits.ts'
import { type CheckCost, type HashAlgorithm, rateCap } from './signature.ts'

export interface KeyPair {
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
}

export function ecKeyPair(namedCurve: 'P-256' | 'P-384' | 'P-521' | 'secp256k1' = 'P-256'): KeyPair {
  return generateKeyPairSync('ec', { namedCurve })
}

export function pemOf({ publicKey }: KeyPair): string {
  return publicKey.export({ type: 'spki', format: 'pem' }).toString()
}

export function spkiOf({ publicKey }: KeyPair): Uint8Array {
  return Uint8Array.from(publicKey.export({ type: 'spki', format: 'der' }))
}

export function base64(value: Uint8Array | string): string {
  return Buffer.from(value).toString('base64')
}

export function digestOf(hash: HashAlgorithm, message: Uint8Array | string): Buffer {
  return createHash(hash).update(message).digest()
}

/** A cost that never runs out within one test. */
export function freshCost(): CheckCost {
  return { budget: new CheckBudget(), ed25519ph: rateCap(1000) }
}

/** Ed25519ph over a message; noble signs, since node:crypto cannot. */
export function signEd25519ph(pair: KeyPair, message: Uint8Array): Uint8Array {
  const seed = Buffer.from(String(pair.privateKey.export({ format: 'jwk' }).d), 'base64url')
  return ed25519ph.sign(message, seed)
}

/** A proposed hashedrekord 0.0.1 whose parts a test may replace. */
export function hashedRekordV1(
  pair: KeyPair,
  message: string,
  changes: { hash?: HashAlgorithm; pem?: string; value?: string; signature?: Uint8Array } = {},
) {
  const hash = changes.hash ?? 'sha256'
  return {
    apiVersion: '0.0.1',
    kind: 'hashedrekord',
    spec: {
      data: { hash: { algorithm: hash as string, value: changes.value ?? digestOf(hash, message).toString('hex') } },
      signature: {
        content: base64(changes.signature ?? sign(hash, Buffer.from(message), pair.privateKey)),
        publicKey: { content: base64(changes.pem ?? pemOf(pair)) },
      },
    },
  }
}

/** A DSSE envelope with one signature for each pair. */
export function envelopeOf(pairs: readonly KeyPair[], payload: string, payloadType = 'application/vnd.in-toto+json') {
  const message = preAuthenticationEncoding(payloadType, Buffer.from(payload))
  return {
    payloadType,
    payload: base64(payload),
    signatures: pairs.map(({ privateKey }) => ({
      sig: base64(sign(privateKey.asymmetricKeyType === 'ed25519' ? null : 'sha256', message, privateKey)),
    })),
  }
}

/** A proposed dsse 0.0.1. */
export function dsseV1(envelope: object, pems: readonly string[]) {
  return {
    apiVersion: '0.0.1',
    kind: 'dsse',
    spec: { proposedContent: { envelope: JSON.stringify(envelope), verifiers: pems.map(base64) } },
  }
}

/** A proposed intoto 0.0.2: payload and signatures are base64 of base64, each signature with its own key. */
export function intotoV1(
  envelope: ReturnType<typeof envelopeOf>,
  pems: readonly string[],
  envelopeHash = 'ab'.repeat(32),
) {
  return {
    apiVersion: '0.0.2',
    kind: 'intoto',
    spec: {
      content: {
        envelope: {
          payloadType: envelope.payloadType,
          payload: base64(envelope.payload),
          signatures: envelope.signatures.map(({ sig }, i) => ({ sig: base64(sig), publicKey: base64(pems[i] ?? '') })),
        },
        hash: { algorithm: 'sha256', value: envelopeHash },
      },
    },
  }
}

/** A hashedRekordRequestV002 whose parts a test may replace. */
export function hashedRekordV2(
  pair: KeyPair,
  message: string,
  changes: { keyDetails?: string | number; hash?: HashAlgorithm; verifier?: object; signature?: Uint8Array } = {},
) {
  const hash = changes.hash ?? 'sha256'
  return {
    hashedRekordRequestV002: {
      digest: base64(digestOf(hash, message)),
      signature: {
        content: base64(changes.signature ?? sign(hash, Buffer.from(message), pair.privateKey)),
        verifier: changes.verifier ?? {
          keyDetails: changes.keyDetails ?? 'PKIX_ECDSA_P256_SHA_256',
          publicKey: { rawBytes: base64(spkiOf(pair)) },
        },
      },
    },
  }
}

export function bytesOf(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value))
}

export function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('utf8')
}
