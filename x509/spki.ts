/** Public keys: SubjectPublicKeyInfo (RFC 5280 §4.1.2.7, RFC 5480, RFC 8410) and ECDSA signature forms. */
import { bitString, integer, readSequence, sequence } from './der.ts'
import { X509Error, readingAs } from './errors.ts'
import { decodePem } from './pem.ts'

export type NamedCurve = 'P-256' | 'P-384' | 'P-521'

export interface EcdsaPublicKey {
  readonly kind: 'ecdsa'
  readonly curve: NamedCurve
  /** Uncompressed: 0x04, x, y; 65, 97 or 133 bytes. Not yet known to lie on the curve (`checkKeyStrength`). */
  readonly point: Uint8Array
  readonly spkiDer: Uint8Array
}

export interface RsaPublicKey {
  readonly kind: 'rsa'
  /** Bit length of the modulus. */
  readonly bits: number
  readonly modulus: bigint
  readonly exponent: bigint
  readonly spkiDer: Uint8Array
}

export interface Ed25519PublicKey {
  readonly kind: 'ed25519'
  /** 32 bytes. */
  readonly raw: Uint8Array
  readonly spkiDer: Uint8Array
}

export type PublicKey = EcdsaPublicKey | RsaPublicKey | Ed25519PublicKey

/** Octets of a field element and of a scalar. */
export const CURVE_BYTES: Readonly<Record<NamedCurve, number>> = { 'P-256': 32, 'P-384': 48, 'P-521': 66 }

const OID_EC = '1.2.840.10045.2.1'
const OID_RSA = '1.2.840.113549.1.1.1'
const OID_ED25519 = '1.3.101.112'
const CURVES: Readonly<Record<string, NamedCurve>> = {
  '1.2.840.10045.3.1.7': 'P-256',
  '1.3.132.0.34': 'P-384',
  '1.3.132.0.35': 'P-521',
}

/** RSA moduli above this are not even parsed: arithmetic on them is the attacker's to choose. */
const MAX_RSA_BITS = 8192

/** AlgorithmIdentifier rsaEncryption with NULL, as every SPKI of an RSA key begins (RFC 3279 §2.3.1). */
const RSA_ALGORITHM = Uint8Array.from([0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0])

/** Parses a SubjectPublicKeyInfo; throws `malformed_der`, or `unsupported_key` for another algorithm or curve. */
export function parseSpki(der: Uint8Array): PublicKey {
  const info = readSequence(der)
  const algorithm = info.sequence()
  const oid = algorithm.oid()
  const spkiDer = der
  if (oid === OID_EC) {
    if (algorithm.peekTag() !== 0x06) throw new X509Error('unsupported_key', 'elliptic curve is not a named one')
    const curveOid = algorithm.oid()
    algorithm.end()
    const bits = info.bitOctets()
    info.end()
    const curve = CURVES[curveOid]
    if (curve === undefined) throw new X509Error('unsupported_key', `elliptic curve ${curveOid} is not supported`)
    if (bits.length !== 1 + 2 * CURVE_BYTES[curve] || bits[0] !== 4) {
      throw new X509Error('unsupported_key', 'elliptic curve point is not an uncompressed one of its curve')
    }
    return { kind: 'ecdsa', curve, point: bits, spkiDer }
  }
  if (oid === OID_RSA) {
    algorithm.null()
    algorithm.end()
    const bits = info.bitOctets()
    info.end()
    return { kind: 'rsa', ...parseRsaKey(bits), spkiDer }
  }
  if (oid === OID_ED25519) {
    algorithm.end()
    const raw = info.bitOctets()
    info.end()
    if (raw.length !== 32) throw new X509Error('malformed_der', 'ed25519 key is not 32 bytes')
    return { kind: 'ed25519', raw, spkiDer }
  }
  throw new X509Error('unsupported_key', `key algorithm ${oid} is not supported`)
}

/** The key bits of a SubjectPublicKeyInfo: what key identifiers hash (RFC 5280 §4.2.1.2, method 1). */
export function keyBits(spkiDer: Uint8Array): Uint8Array {
  const info = readSequence(spkiDer)
  info.sequence()
  const bits = info.bitOctets()
  info.end()
  return bits
}

/** One PEM block PUBLIC KEY (SPKI) or RSA PUBLIC KEY (PKCS#1); throws `malformed_pem` and what `parseSpki` throws. */
export function parsePublicKeyPem(text: string): PublicKey {
  const [block] = decodePem(text, { labels: ['PUBLIC KEY', 'RSA PUBLIC KEY'], max: 1 })
  if (block === undefined) throw new X509Error('malformed_pem', 'no PEM block')
  return block.label === 'PUBLIC KEY' ? parseSpki(block.der) : parsePkcs1PublicKey(block.der)
}

/** RSAPublicKey of PKCS#1 (RFC 8017 §A.1.1), wrapped into the SPKI that everything else speaks. */
export function parsePkcs1PublicKey(der: Uint8Array): RsaPublicKey {
  const key = parseRsaKey(der)
  return { kind: 'rsa', ...key, spkiDer: sequence(RSA_ALGORITHM, bitString(der)) }
}

/** ECDSA signature r‖s of fixed lengths (IEEE P1363) as ASN.1 DER. */
export function ecdsaP1363ToDer(rs: Uint8Array): Uint8Array {
  const size = rs.length / 2
  if (rs.length === 0 || !Number.isInteger(size))
    throw new X509Error('bad_signature', 'signature does not have two halves')
  return sequence(integer(rs.subarray(0, size)), integer(rs.subarray(size)))
}

/** ECDSA signature in ASN.1 DER as r‖s, `size` bytes each; throws `bad_signature`. */
export function ecdsaDerToP1363(der: Uint8Array, size: number): Uint8Array {
  return readingAs('bad_signature', 'ecdsa signature', () => {
    const reader = readSequence(der)
    const rs = new Uint8Array(2 * size)
    for (const end of [size, 2 * size]) {
      const octets = reader.integerBytes()
      if ((octets[0] ?? 0) >= 0x80) throw new X509Error('bad_signature', 'signature has a negative half')
      const magnitude = octets[0] === 0 ? octets.subarray(1) : octets
      if (magnitude.length > size) throw new X509Error('bad_signature', 'signature is too long for its curve')
      rs.set(magnitude, end - magnitude.length)
    }
    reader.end()
    return rs
  })
}

/**
 * r and s, each of the curve's scalar length, from a signature in ASN.1 DER or as r‖s: clients send both. DER is tried
 * first; r‖s that is also strict DER of exactly its own length does not occur by chance. Throws `bad_signature`.
 */
export function parseEcdsaSignature(bytes: Uint8Array, curve: NamedCurve): { r: Uint8Array; s: Uint8Array } {
  const size = CURVE_BYTES[curve]
  const rs = readAsDer(bytes, size) ?? bytes
  if (rs.length !== 2 * size)
    throw new X509Error('bad_signature', 'signature is neither ASN.1 DER nor r‖s of its curve')
  return { r: rs.subarray(0, size), s: rs.subarray(size) }
}

function readAsDer(bytes: Uint8Array, size: number): Uint8Array | undefined {
  if (bytes[0] !== 0x30) return undefined
  try {
    return ecdsaDerToP1363(bytes, size)
  } catch (error) {
    if (error instanceof X509Error) return undefined
    throw error
  }
}

function parseRsaKey(der: Uint8Array): { bits: number; modulus: bigint; exponent: bigint } {
  if (der.length > MAX_RSA_BITS / 8 + 32) throw new X509Error('unsupported_key', 'rsa key is too long')
  const reader = readSequence(der)
  const modulus = reader.integer()
  const exponent = reader.integer()
  reader.end()
  if (modulus <= 0n || exponent <= 0n) throw new X509Error('malformed_der', 'rsa key has a number that is not positive')
  return { bits: modulus.toString(2).length, modulus, exponent }
}
