/** Known answers of ECDSA over a digest: RFC 6979 appendix A.2.5 to A.2.7, message "sample", and ways to spoil them. */
import type { EcdsaDigestSignature } from './index.ts'

type Verify = (signature: EcdsaDigestSignature) => boolean

/** SHA-256, SHA-384 and SHA-512 of "sample". */
const DIGEST_256 = 'af2bdbe1aa9b6ec1e2ade1d694f41fc71a831d0268e9891562113d8a62add1bf'
const DIGEST_384 = '9a9083505bc92276aec4be312696ef7bf3bf603f4bbd381196a029f340585312313bca4a9b5b890efee42c77b1ee25fe'
const DIGEST_512 =
  '39a5e04aaff7455d9850c605364f514c11324ce64016960d23d5dc57d3ffd8f49a739468ab8049bf18eef820cdb1ad6c9015f838556bc7fad4138b23fdf986c7'

const POINT_256 =
  '0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299'
const POINT_384 =
  '04ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc138015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720'
const POINT_521 =
  '0401894550d0785932e00eaa23b694f213f8c3121f86dc97a04e5a7167db4e5bcd371123d46e45db6b5d5370a7f20fb633155d38ffa16d2bd761dcac474b9a2f5023a400493101c962cd4d2fddf782285e64584139c2f91b47f87ff82354d6630f746a28a0db25741b5b34a828008b22acc23f924faafbd4d33f81ea66956dfeaa2bfdfcf5'

/** n, the order of P-256; FIPS 186-4 §D.1.2.3. */
const ORDER_256 = 'ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551'

const P256: EcdsaDigestSignature = {
  curve: 'P-256',
  point: bytes(POINT_256),
  // This s is above n/2: that high s is accepted is part of the answer.
  r: bytes('efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716'),
  s: bytes('f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8'),
  digest: bytes(DIGEST_256),
}

const HOLDS: Readonly<Record<string, EcdsaDigestSignature>> = {
  'P-256 over SHA-256, high s': P256,
  'P-256 over SHA-256, low s': { ...P256, s: subtractFrom(bytes(ORDER_256), P256.s) },
  'P-256 over SHA-512, cut to the order': {
    ...P256,
    r: bytes('8496a60b5e9b47c825488827e0495b0e3fa109ec4568fd3f8d1097678eb97f00'),
    s: bytes('2362ab1adbe2b8adf9cb9edab740ea6049c028114f2460f96554f61fae3302fe'),
    digest: bytes(DIGEST_512),
  },
  'P-384 over SHA-384': {
    curve: 'P-384',
    point: bytes(POINT_384),
    r: bytes('94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46'),
    s: bytes('99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8'),
    digest: bytes(DIGEST_384),
  },
  'P-384 over SHA-256': {
    curve: 'P-384',
    point: bytes(POINT_384),
    r: bytes('21b13d1e013c7fa1392d03c5f99af8b30c570c6f98d4ea8e354b63a21d3daa33bde1e888e63355d92fa2b3c36d8fb2cd'),
    s: bytes('f3aa443fb107745bf4bd77cb3891674632068a10ca67e3d45db2266fa7d1feebefdc63eccd1ac42ec0cb8668a4fa0ab0'),
    digest: bytes(DIGEST_256),
  },
  'P-521 over SHA-512': {
    curve: 'P-521',
    point: bytes(POINT_521),
    r: bytes(
      '00c328fafcbd79dd77850370c46325d987cb525569fb63c5d3bc53950e6d4c5f174e25a1ee9017b5d450606add152b534931d7d4e8455cc91f9b15bf05ec36e377fa',
    ),
    s: bytes(
      '00617cce7cf5064806c467f678d3b4080d6f1cc50af26ca209417308281b68af282623eaa63e5b5c0723d8b8c37ff0777b1a20f8ccb1dccc43997f1ee0e44da4a67a',
    ),
    digest: bytes(DIGEST_512),
  },
}

const DOES_NOT_HOLD: Readonly<Record<string, EcdsaDigestSignature>> = {
  'r = 0': { ...P256, r: new Uint8Array(32) },
  's = 0': { ...P256, s: new Uint8Array(32) },
  'r = 0 and s = 0': { ...P256, r: new Uint8Array(32), s: new Uint8Array(32) },
  'r = n': { ...P256, r: bytes(ORDER_256) },
  's = n': { ...P256, s: bytes(ORDER_256) },
  'r and s all ones': { ...P256, r: new Uint8Array(32).fill(0xff), s: new Uint8Array(32).fill(0xff) },
  'r and s swapped': { ...P256, r: P256.s, s: P256.r },
  'point off the curve': { ...P256, point: flipped(P256.point, 64) },
  'coordinate over the field prime': { ...P256, point: Uint8Array.from([4, ...new Uint8Array(64).fill(0xff)]) },
  'digest with its first bit flipped': { ...P256, digest: flipped(P256.digest, 0) },
  'digest with its last bit flipped': { ...P256, digest: flipped(P256.digest, 31) },
  'digest of zeros': { ...P256, digest: new Uint8Array(32) },
  'longer digest that begins like another': { ...P256, digest: bytes(DIGEST_512) },
}

const CANNOT_BE: Readonly<Record<string, EcdsaDigestSignature>> = {
  'r one byte short': { ...P256, r: P256.r.subarray(1) },
  's one byte long': { ...P256, s: Uint8Array.from([0, ...P256.s]) },
  'compressed point': { ...P256, point: Uint8Array.from([3, ...P256.point.subarray(1, 33)]) },
  'hybrid point': { ...P256, point: Uint8Array.from([7, ...P256.point.subarray(1)]) },
  'point at infinity': { ...P256, point: Uint8Array.of(0) },
  'point of another curve': { ...P256, curve: 'P-384' },
  'empty digest': { ...P256, digest: new Uint8Array(0) },
}

/** The name of the first known answer that `verify` gets wrong, or undefined. */
export function checkKnownAnswers(verify: Verify): string | undefined {
  for (const [name, signature] of Object.entries(HOLDS)) if (answer(verify, signature) !== true) return name
  for (const [name, signature] of Object.entries(DOES_NOT_HOLD)) if (answer(verify, signature) !== false) return name
  for (const [name, signature] of Object.entries(CANNOT_BE)) if (answer(verify, signature) !== 'thrown') return name
  return undefined
}

function answer(verify: Verify, signature: EcdsaDigestSignature): boolean | 'thrown' {
  try {
    return verify(signature)
  } catch {
    // Any refusal counts: these inputs must not get as far as an answer.
    return 'thrown'
  }
}

function bytes(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))
}

function flipped(original: Uint8Array, at: number): Uint8Array {
  return original.map((octet, index) => (index === at ? octet ^ 1 : octet))
}

/** minuend - subtrahend of equal lengths, big-endian. */
function subtractFrom(minuend: Uint8Array, subtrahend: Uint8Array): Uint8Array {
  const difference = new Uint8Array(minuend.length)
  let borrow = 0
  for (let i = minuend.length - 1; i >= 0; i--) {
    const value = (minuend[i] ?? 0) - (subtrahend[i] ?? 0) - borrow
    difference[i] = value
    borrow = value < 0 ? 1 : 0
  }
  return difference
}
