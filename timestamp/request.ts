/** What clients ask: TimeStampReq of RFC 3161 §2.4.1 in DER, or the JSON form that sigstore-js sends. */
import { z } from 'zod'
import { X509Error, objectIdentifier, readSequence } from '#x509'
import { TimestampError } from './error.ts'

/** Hash of a message imprint. */
export type ImprintHash = 'sha256' | 'sha384' | 'sha512'

/** A request that may be answered, but for its policy. */
export interface TimestampRequest {
  readonly hash: ImprintHash
  /** 32, 48 or 64 bytes by `hash`. */
  readonly digest: Uint8Array
  /** Dotted decimals; absent if any policy will do. */
  readonly policyOid?: string
  /** Content octets of the INTEGER as sent, or the number of a JSON request; any size. */
  readonly nonce?: Uint8Array | bigint
  /** Whether the signer's certificate shall be in the token. */
  readonly certReq: boolean
}

const HASHES: Readonly<Record<string, { readonly hash: ImprintHash; readonly length: number }>> = {
  '2.16.840.1.101.3.4.2.1': { hash: 'sha256', length: 32 },
  '2.16.840.1.101.3.4.2.2': { hash: 'sha384', length: 48 },
  '2.16.840.1.101.3.4.2.3': { hash: 'sha512', length: 64 },
}
/** Refused by name, so that whoever still uses one is told. */
const WEAK_HASHES: Readonly<Record<string, string>> = {
  '1.3.14.3.2.26': 'sha1',
  '1.2.840.113549.2.5': 'md5',
  '2.16.840.1.101.3.4.2.4': 'sha224',
}

/** Parses a TimeStampReq, DER, with nothing behind it; throws `TimestampError`. */
export function parseRequest(der: Uint8Array): TimestampRequest {
  try {
    return readRequest(der)
  } catch (error) {
    if (!(error instanceof X509Error)) throw error
    throw new TimestampError('malformed_request', 'request is not a DER TimeStampReq', { cause: error })
  }
}

function readRequest(der: Uint8Array): TimestampRequest {
  const reader = readSequence(der)
  if (reader.integer() !== 1n) throw new TimestampError('malformed_request', 'request version is not 1')
  const imprint = reader.sequence()
  const algorithm = imprint.sequence()
  const hashOid = algorithm.oid()
  if (algorithm.remaining > 0) algorithm.null()
  algorithm.end()
  const digest = imprint.octetString()
  imprint.end()
  const policyOid = reader.peekTag() === 0x06 ? reader.oid() : undefined
  const nonce = reader.peekTag() === 0x02 ? reader.integerBytes() : undefined
  // DER leaves FALSE out, yet some clients write it, and it means nothing else.
  const certReq = reader.peekTag() === 0x01 && reader.boolean()
  const extensions = reader.optional(0xa0)
  reader.end()
  if (extensions !== undefined) throw new TimestampError('unaccepted_extension', 'request extensions are not accepted')
  return {
    ...checkImprint(hashOid, digest),
    ...checkPolicy(policyOid),
    ...(nonce === undefined ? {} : { nonce }),
    certReq,
  }
}

/** Longest JSON request; the largest digest with every other field filled is a third of it. */
const JSON_LIMIT_BYTES = 1024

/** null is how some encoders write "absent"; unknown fields are ignored, as upstream does. */
const JsonRequest = z.looseObject({
  artifactHash: z.string(),
  hashAlgorithm: z.string(),
  certificates: z.boolean().nullish(),
  nonce: z.bigint().nullish(),
  tsaPolicyOID: z.string().nullish(),
})

const OID_OF: Readonly<Record<string, string>> = {
  ...Object.fromEntries(Object.entries(HASHES).map(([oid, { hash }]) => [hash, oid])),
  ...Object.fromEntries(Object.entries(WEAK_HASHES).map(([oid, name]) => [name, oid])),
}

/** Parses the JSON form: `artifactHash` is the digest in base64. Throws `TimestampError`. */
export function parseJsonRequest(body: Uint8Array): TimestampRequest {
  if (body.length > JSON_LIMIT_BYTES)
    throw new TimestampError('request_too_large', `request is over ${JSON_LIMIT_BYTES} bytes`)
  const parsed = JsonRequest.safeParse(readJson(body))
  if (!parsed.success)
    throw new TimestampError('malformed_request', 'request is not a JSON timestamp request', { cause: parsed.error })
  const { artifactHash, hashAlgorithm, certificates, nonce, tsaPolicyOID } = parsed.data
  const hashOid = OID_OF[hashAlgorithm.toLowerCase()]
  if (hashOid === undefined) throw new TimestampError('unsupported_hash', 'hash algorithm is not supported')
  return {
    ...checkImprint(hashOid, decodeBase64(artifactHash)),
    ...checkPolicy(tsaPolicyOID ?? undefined),
    ...(nonce === null || nonce === undefined ? {} : { nonce }),
    certReq: certificates ?? false,
  }
}

function checkImprint(hashOid: string, digest: Uint8Array): { hash: ImprintHash; digest: Uint8Array } {
  const weak = WEAK_HASHES[hashOid]
  if (weak !== undefined) throw new TimestampError('weak_hash', `hash algorithm ${weak} is too weak`)
  const known = HASHES[hashOid]
  if (known === undefined) throw new TimestampError('unsupported_hash', 'hash algorithm is not supported')
  if (digest.length !== known.length) {
    throw new TimestampError(
      'wrong_digest_length',
      `digest of ${known.hash} is ${known.length} bytes, not ${digest.length}`,
    )
  }
  return { hash: known.hash, digest }
}

function checkPolicy(policyOid: string | undefined): { policyOid?: string } {
  if (policyOid === undefined) return {}
  if (policyOid.split('.').length > 129) throw new TimestampError('policy_too_long', 'policy has over 128 dots')
  try {
    objectIdentifier(policyOid)
  } catch (error) {
    throw new TimestampError('malformed_request', 'policy is not an object identifier', { cause: error })
  }
  return { policyOid }
}

/** A reviver's third argument: the number as it was written (ECMAScript proposal json-parse-with-source, in V8). */
type Revive = (key: string, value: unknown, context: { readonly source?: string }) => unknown

/** JSON whose `nonce` is a bigint: a nonce of 64 bits does not survive as a double. */
function readJson(body: Uint8Array): unknown {
  const revive: Revive = (key, value, { source }) =>
    key === 'nonce' && typeof value === 'number' && source !== undefined && /^-?\d+$/.test(source)
      ? BigInt(source)
      : value
  try {
    // The library's type knows two of the reviver's three arguments.
    return JSON.parse(
      new TextDecoder('utf-8', { fatal: true }).decode(body),
      revive as (key: string, value: unknown) => unknown,
    )
  } catch (error) {
    throw new TimestampError('malformed_request', 'request is not JSON', { cause: error })
  }
}

function decodeBase64(text: string): Uint8Array {
  const bytes = Buffer.from(text, 'base64')
  if (bytes.toString('base64') !== text) throw new TimestampError('malformed_request', 'artifactHash is not base64')
  return Uint8Array.from(bytes)
}
