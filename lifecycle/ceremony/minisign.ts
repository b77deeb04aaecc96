/**
 * Signatures of minisign (https://jedisct1.github.io/minisign/): Ed25519 over the BLAKE2b-512 digest of a file, and a second
 * one over the first and the trusted comment. Only the prehashed form (`ED`), which every minisign since 0.10 writes.
 */
import { createPublicKey, hash, verify } from 'node:crypto'

/** `RW…`, base64: algorithm (2 bytes), key id (8), Ed25519 key (32). */
interface MinisignKey {
  readonly keyId: Buffer
  readonly key: Buffer
}

/** RFC 8410: an Ed25519 key as SubjectPublicKeyInfo is these octets and the key. */
const SPKI_HEAD = Buffer.from('302a300506032b6570032100', 'hex')

/** Why a signature file is not this key's over these bytes, in words; undefined if it is. */
export function minisignFault(publicKey: string, message: Uint8Array, signatureFile: string): string | undefined {
  const key = readKey(publicKey)
  if (key === undefined) return 'the public key is none of minisign'
  const [untrusted = '', first = '', trusted = '', second = '', ...rest] = signatureFile.split('\n')
  const shaped =
    untrusted.startsWith('untrusted comment: ') &&
    trusted.startsWith('trusted comment: ') &&
    rest.length === 1 &&
    rest[0] === ''
  if (!shaped) return 'it is no signature file of minisign'
  const signature = bytesOf(first, 74)
  const global = bytesOf(second, 64)
  if (signature === undefined || global === undefined) return 'it is no signature file of minisign'
  const algorithm = signature.subarray(0, 2).toString('latin1')
  if (algorithm !== 'ED') return 'it is not over a digest (ED): sign with minisign 0.10 or newer'
  if (!signature.subarray(2, 10).equals(key.keyId)) return 'it is by another key'
  const own = signature.subarray(10)
  const verifier = createPublicKey({ key: Buffer.concat([SPKI_HEAD, key.key]), format: 'der', type: 'spki' })
  if (!verify(null, hash('blake2b512', message, 'buffer'), verifier, own)) return 'it does not verify'
  const comment = Buffer.from(trusted.slice('trusted comment: '.length), 'utf8')
  if (!verify(null, Buffer.concat([own, comment]), verifier, global)) return 'its trusted comment does not verify'
  return undefined
}

function readKey(text: string): MinisignKey | undefined {
  const bytes = bytesOf(text, 42)
  if (bytes?.subarray(0, 2).toString('latin1') !== 'Ed') return undefined
  return { keyId: bytes.subarray(2, 10), key: bytes.subarray(10) }
}

/** Base64 of exactly this many bytes, in its one encoding. */
function bytesOf(base64: string, length: number): Buffer | undefined {
  const bytes = Buffer.from(base64, 'base64')
  return bytes.length === length && bytes.toString('base64') === base64 ? bytes : undefined
}
