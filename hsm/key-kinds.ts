/**
 * The kinds of keys: how each is made, what the token is given to sign, what it gives back, and which purposes take it.
 * Hashing and padding are done here, since the plain mechanisms (CKM_ECDSA, CKM_RSA_PKCS) are what every module has.
 */
import { hash, verify, type KeyObject } from 'node:crypto'
import { promisify } from 'node:util'
import { ecdsaP1363ToDer, OID, objectIdentifier, parseSpki } from '#x509'
import { CKA, CKK, CKM, type Attribute, type Mechanism } from './pkcs11.ts'
import { HsmError, type KeyKind, type KeyPurpose } from './signing.ts'

/** One kind of keys, as data. */
export interface KindRules {
  readonly keyType: number
  readonly generation: Mechanism
  /** What the public template names beside the usual: the curve or the size. Some modules know a curve by name only. */
  readonly parameters: readonly (readonly Attribute[])[]
  readonly signing: Mechanism
  /** Undefined for Ed25519, which signs the message itself. */
  readonly hash: 'sha256' | 'sha384' | undefined
  /** Of what the token gives: r‖s, the modulus' length, or 64. */
  readonly signatureBytes: number
  /** DigestInfo before the digest (RFC 8017 §9.2), empty but for RSA. */
  readonly prefix: Uint8Array
  /** signatureAlgorithm of a certificate that this key signs. */
  readonly certificateAlgorithm: string
}

/** DigestInfo of SHA-256 up to its digest: SEQUENCE { AlgorithmIdentifier, OCTET STRING of 32 }. */
const SHA256_DIGEST_INFO = Uint8Array.from(Buffer.from('3031300d060960864801650304020105000420', 'hex'))
const NOTHING = new Uint8Array(0)

/** 65537, the one exponent that everybody takes. */
const PUBLIC_EXPONENT = Buffer.from([1, 0, 1])

const EC_OID: Readonly<Record<'P-256' | 'P-384', string>> = { 'P-256': '1.2.840.10045.3.1.7', 'P-384': '1.3.132.0.34' }

function ecdsa(curve: 'P-256' | 'P-384'): KindRules {
  const small = curve === 'P-256'
  return {
    keyType: CKK.EC,
    generation: { mechanism: CKM.EC_KEY_PAIR_GEN },
    parameters: [[{ type: CKA.EC_PARAMS, value: Buffer.from(objectIdentifier(EC_OID[curve])) }]],
    signing: { mechanism: CKM.ECDSA },
    hash: small ? 'sha256' : 'sha384',
    signatureBytes: small ? 64 : 96,
    prefix: NOTHING,
    certificateAlgorithm: small ? OID.ecdsaWithSha256 : OID.ecdsaWithSha384,
  }
}

function rsa(bits: number): KindRules {
  return {
    keyType: CKK.RSA,
    generation: { mechanism: CKM.RSA_PKCS_KEY_PAIR_GEN },
    parameters: [
      [
        { type: CKA.MODULUS_BITS, value: bits },
        { type: CKA.PUBLIC_EXPONENT, value: PUBLIC_EXPONENT },
      ],
    ],
    signing: { mechanism: CKM.RSA_PKCS },
    hash: 'sha256',
    signatureBytes: bits / 8,
    prefix: SHA256_DIGEST_INFO,
    certificateAlgorithm: OID.sha256WithRsaEncryption,
  }
}

export const KIND_RULES: Readonly<Record<KeyKind, KindRules>> = {
  'P-256': ecdsa('P-256'),
  'P-384': ecdsa('P-384'),
  'rsa-2048': rsa(2048),
  'rsa-3072': rsa(3072),
  'rsa-4096': rsa(4096),
  ed25519: {
    keyType: CKK.EC_EDWARDS,
    generation: { mechanism: CKM.EC_EDWARDS_KEY_PAIR_GEN },
    // PKCS#11 3.1 §6.3.3 allows the object identifier and the PrintableString of the curve's name.
    parameters: [
      [{ type: CKA.EC_PARAMS, value: Buffer.from(objectIdentifier('1.3.101.112')) }],
      [{ type: CKA.EC_PARAMS, value: Buffer.concat([Buffer.from([0x13, 12]), Buffer.from('edwards25519')]) }],
    ],
    signing: { mechanism: CKM.EDDSA },
    hash: undefined,
    signatureBytes: 64,
    prefix: NOTHING,
    certificateAlgorithm: OID.ed25519,
  },
}

export const KEY_KINDS = Object.keys(KIND_RULES) as readonly KeyKind[] // the record's own type

export function isKeyKind(text: string): text is KeyKind {
  return Object.hasOwn(KIND_RULES, text)
}

const AUTHORITY: readonly KeyKind[] = ['P-256', 'P-384', 'rsa-2048', 'rsa-3072', 'rsa-4096']

/**
 * What clients take (docs/hsm/README.md tells why for each refusal). Logs: sigstore-js knows no RSA or P-384 log,
 * policy-controller ECDSA alone. Authorities: sigstore-python refuses Ed25519. Timestamps: sigstore-js maps ECDSA alone.
 * TUF: python-tuf and tuf-js disagree on P-384, and RSA means PSS there. Witnesses: mostly Ed25519 alone. What a ceremony's
 * operators sign is read by us alone.
 */
export const KINDS_OF: Readonly<Record<KeyPurpose, readonly KeyKind[]>> = {
  certificate: AUTHORITY,
  caCertificate: AUTHORITY,
  certificateRequest: AUTHORITY,
  ceremonyStatement: KEY_KINDS,
  treeHead: ['P-256'],
  witnessHead: ['ed25519'],
  sct: ['P-256'],
  set: ['P-256'],
  timestamp: ['P-256'],
  tuf: ['P-256', 'ed25519'],
  accountHead: ['P-256'],
}

/** The kind of a public key; throws `X509Error`, or `refused` for a key that is none of ours. */
export function kindOfSpki(spkiDer: Uint8Array): KeyKind {
  const key = parseSpki(spkiDer)
  const name = key.kind === 'ecdsa' ? key.curve : key.kind === 'rsa' ? `rsa-${key.bits}` : key.kind
  if (!isKeyKind(name)) throw new HsmError('refused', 'bad_kind', `keys of kind ${name} are not used here`)
  return name
}

/** What C_Sign is given for `message`. */
export function tokenInput(kind: KeyKind, message: Uint8Array): Buffer {
  const { hash: algorithm, prefix } = KIND_RULES[kind]
  if (algorithm === undefined) return Buffer.from(message)
  const digest = hash(algorithm, message, 'buffer')
  return prefix.length === 0 ? digest : Buffer.concat([prefix, digest])
}

/** What C_Sign gave, copied out of the module's buffer, in the form that `signing.ts` tells. Throws `unavailable` for another length. */
export function releasedSignature(kind: KeyKind, raw: Uint8Array): Uint8Array {
  const { signatureBytes, keyType } = KIND_RULES[kind]
  if (raw.length !== signatureBytes) {
    throw new HsmError('unavailable', 'bad_signature_length', `the HSM gave a signature of ${raw.length} bytes`)
  }
  const copy = Uint8Array.from(raw)
  return keyType === CKK.EC ? ecdsaP1363ToDer(copy) : copy
}

/** True if `signature`, as released, is the key's over `message`. */
export function signatureHolds(
  kind: KeyKind,
  message: Uint8Array,
  verifier: KeyObject,
  signature: Uint8Array,
): boolean {
  return verify(KIND_RULES[kind].hash, message, verifier, signature)
}

const verifyOffLoop = promisify(
  (
    algorithm: string | undefined,
    message: Uint8Array,
    key: KeyObject,
    signature: Uint8Array,
    done: (error: Error | null, valid: boolean) => void,
  ) => verify(algorithm, message, key, signature, done),
)

/** The same on a pool thread. */
export async function signatureHoldsLater(
  kind: KeyKind,
  message: Uint8Array,
  verifier: KeyObject,
  signature: Uint8Array,
): Promise<boolean> {
  return await verifyOffLoop(KIND_RULES[kind].hash, message, verifier, signature)
}
