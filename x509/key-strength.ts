/**
 * Which keys may be certified. The rules are those of Fulcio v1.8 (sigstore v1.10.8, after Boulder's goodkey):
 * a certificate for a key that anybody can factor is a certificate for anybody.
 */
import { X509Error } from './errors.ts'
import type { EcdsaPublicKey, NamedCurve, PublicKey, RsaPublicKey } from './spki.ts'

/** Field prime and coefficient b of y² = x³ - 3x + b; FIPS 186-4 §D.1.2. All three curves have cofactor 1. */
const CURVE_PARAMETERS: Readonly<Record<NamedCurve, { readonly p: bigint; readonly b: bigint }>> = {
  'P-256': {
    p: 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n,
    b: 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn,
  },
  'P-384': {
    p: 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n,
    b: 0xb3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aefn,
  },
  'P-521': {
    p: 2n ** 521n - 1n,
    b: 0x0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00n,
  },
}

/**
 * Throws `weak_key` unless the key is RSA of 2048, 3072 or 4096 bits with e = 65537 and no factor that is found
 * cheaply (small, ROCA, Fermat), ECDSA with a point on its curve, or Ed25519.
 */
export function checkKeyStrength(key: PublicKey): void {
  if (key.kind === 'ecdsa') checkPoint(key)
  else if (key.kind === 'rsa') checkRsa(key)
}

/** On the curve and in range is also of full order, and not infinity, as the cofactor is 1 and the form is uncompressed. */
function checkPoint(key: EcdsaPublicKey): void {
  const { p, b } = CURVE_PARAMETERS[key.curve]
  const size = (key.point.length - 1) / 2
  const x = unsigned(key.point.subarray(1, 1 + size))
  const y = unsigned(key.point.subarray(1 + size))
  if (x >= p || y >= p) throw weak('elliptic curve coordinate is out of range')
  if ((y * y - (x * x * x - 3n * x + b)) % p !== 0n) throw weak('point is not on its curve')
}

function checkRsa({ bits, modulus, exponent }: RsaPublicKey): void {
  if (bits !== 2048 && bits !== 3072 && bits !== 4096)
    throw weak(`rsa key of ${bits} bits; 2048, 3072 and 4096 are accepted`)
  if (exponent !== 65537n) throw weak('rsa exponent is not 65537')
  const residue = modulus % SMALL_PRIME_PRODUCT
  if (SMALL_PRIMES.some((prime) => residue % prime === 0n)) throw weak('rsa modulus has a small factor')
  if (isRoca(modulus)) throw weak('rsa modulus has the ROCA fingerprint (CVE-2017-15361)')
  if (isFermatFactorable(modulus)) throw weak('rsa modulus is the product of two close primes')
}

const SMALL_PRIMES = primesUpTo(751)
const SMALL_PRIME_PRODUCT = SMALL_PRIMES.reduce((product, prime) => product * prime, 1n)

/**
 * The Infineon generator makes primes k·M + (65537^a mod M), so a modulus from it is a power of 65537 modulo every
 * prime below (the discriminating ones of Nemec et al., "The Return of Coppersmith's Attack", 2017); another modulus
 * passes all of them with a chance of about 2^-28.
 */
const ROCA_RESIDUES: readonly { readonly prime: bigint; readonly residues: ReadonlySet<bigint> }[] = [
  11n,
  13n,
  17n,
  19n,
  37n,
  53n,
  61n,
  71n,
  73n,
  79n,
  97n,
  103n,
  107n,
  109n,
  127n,
  151n,
  157n,
].map((prime) => {
  const residues = new Set<bigint>()
  for (let power = 1n; !residues.has(power); power = (power * 65537n) % prime) residues.add(power)
  return { prime, residues }
})

function isRoca(modulus: bigint): boolean {
  return ROCA_RESIDUES.every(({ prime, residues }) => residues.has(modulus % prime))
}

/** Rounds of Fermat's method that Boulder runs; primes that differ in their lower half only are found in a few. */
const FERMAT_ROUNDS = 100

function isFermatFactorable(modulus: bigint): boolean {
  let a = squareRoot(modulus)
  if (a * a === modulus) return true
  for (let round = 0; round < FERMAT_ROUNDS; round++) {
    a += 1n
    const difference = a * a - modulus
    if (!mayBeSquare(difference)) continue
    const b = squareRoot(difference)
    if (b * b === difference) return true
  }
  return false
}

/** Squares modulo a few numbers: sends away all but about one in a hundred before a square root is taken. */
const SQUARE_FILTERS = [64n, 63n, 65n, 11n].map((base) => {
  const squares = new Set<bigint>()
  for (let i = 0n; i < base; i++) squares.add((i * i) % base)
  return { base, squares }
})

function mayBeSquare(value: bigint): boolean {
  return SQUARE_FILTERS.every(({ base, squares }) => squares.has(value % base))
}

/** Floor of the square root, by Newton's method from above. */
function squareRoot(value: bigint): bigint {
  if (value < 2n) return value
  let estimate = 1n << BigInt(Math.ceil(value.toString(2).length / 2))
  for (;;) {
    const next = (estimate + value / estimate) >> 1n
    if (next >= estimate) return estimate
    estimate = next
  }
}

function primesUpTo(limit: number): bigint[] {
  const primes: bigint[] = []
  for (let candidate = 2n; candidate <= BigInt(limit); candidate++) {
    if (primes.every((prime) => candidate % prime !== 0n)) primes.push(candidate)
  }
  return primes
}

function unsigned(bytes: Uint8Array): bigint {
  let hex = '0x0'
  for (const octet of bytes) hex += octet.toString(16).padStart(2, '0')
  return BigInt(hex)
}

function weak(message: string): X509Error {
  return new X509Error('weak_key', message)
}
