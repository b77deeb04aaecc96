/**
 * Verification of one file against its bundle, with the @sigstore packages and named refusals: what `chancery verify` and
 * `sign` say, and what the canary before a publication demands.
 */
import { createHash } from 'node:crypto'
import { bundleFromJSON, isBundleWithDsseEnvelope, isBundleWithPublicKey, type Bundle } from '@sigstore/bundle'
import { TrustedRoot } from '@sigstore/protobuf-specs'
import { toSignedEntity, toTrustMaterial, VerificationError, Verifier } from '@sigstore/verify'
import { parseCheckpoint, parseNote, TlogError } from '#tlog'

export type RefusalCode =
  | 'malformed_bundle'
  | 'no_certificate'
  | 'artifact_mismatch'
  | 'bad_signature'
  | 'untrusted_certificate'
  | 'bad_timestamp'
  | 'not_in_log'
  | 'wrong_identity'
  | 'wrong_issuer'

/** The file is not what the bundle and the policy say. */
export class Refusal extends Error {
  readonly code: RefusalCode
  constructor(code: RefusalCode, message: string, options?: ErrorOptions) {
    super(`refused (${code}): ${message}`, options)
    this.name = 'Refusal'
    this.code = code
  }
}

/** Who signed, from the certificate; compare exactly. */
export interface VerifiedSigner {
  readonly identity: string
  readonly issuer: string
}

const CODES: Readonly<Record<VerificationError['code'], RefusalCode>> = {
  NOT_IMPLEMENTED_ERROR: 'malformed_bundle',
  TLOG_ERROR: 'not_in_log',
  TLOG_INCLUSION_PROOF_ERROR: 'not_in_log',
  TLOG_INCLUSION_PROMISE_ERROR: 'not_in_log',
  TLOG_MISSING_INCLUSION_ERROR: 'not_in_log',
  TLOG_BODY_ERROR: 'not_in_log',
  CERTIFICATE_ERROR: 'untrusted_certificate',
  PUBLIC_KEY_ERROR: 'untrusted_certificate',
  SIGNATURE_ERROR: 'bad_signature',
  TIMESTAMP_ERROR: 'bad_timestamp',
}

/** Reads a bundle. Throws `Refusal` `malformed_bundle`. */
export function parseBundle(text: string): Bundle {
  try {
    return bundleFromJSON(JSON.parse(text))
  } catch (cause) {
    throw new Refusal('malformed_bundle', cause instanceof Error ? cause.message : 'not a bundle', { cause })
  }
}

/** Reads trusted_root.json, parsed. Throws what the library throws. */
export function parseTrustedRoot(json: unknown): TrustedRoot {
  return TrustedRoot.fromJSON(json)
}

/** Verifies a bundle over an artifact, as `verifyBundle` does, under the trusted root that it was made for. */
export type BundleVerifier = (bundle: Bundle, artifact: Buffer) => VerifiedSigner

/** For many bundles under one trusted root, whose keys and certificates are read once. Throws what the library throws. */
export function bundleVerifier(trustedRoot: TrustedRoot): BundleVerifier {
  const verifier = new Verifier(toTrustMaterial(trustedRoot), {
    ctlogThreshold: 1,
    tlogThreshold: 1,
    timestampThreshold: 1,
  })
  return (bundle, artifact) => verifyWith(verifier, bundle, artifact)
}

/**
 * Verifies signature, certificate with its SCT, timestamps and log entry of `bundle` over `artifact` under the trusted
 * root, and returns who signed: it is for the caller to compare that (`requireSigner`). Throws `Refusal`.
 */
export function verifyBundle(bundle: Bundle, artifact: Buffer, trustedRoot: TrustedRoot): VerifiedSigner {
  return bundleVerifier(trustedRoot)(bundle, artifact)
}

function verifyWith(verifier: Verifier, bundle: Bundle, artifact: Buffer): VerifiedSigner {
  if (isBundleWithPublicKey(bundle)) {
    throw new Refusal('no_certificate', 'the bundle names a public key, not an identity')
  }
  refuseOtherArtifact(bundle, artifact)
  let signer: ReturnType<Verifier['verify']>
  try {
    signer = verifier.verify(toSignedEntity(bundle, artifact))
  } catch (cause) {
    if (cause instanceof VerificationError) throw new Refusal(CODES[cause.code], cause.message, { cause })
    // The library throws its parsers' errors for what is malformed inside.
    throw new Refusal('malformed_bundle', cause instanceof Error ? cause.message : String(cause), { cause })
  }
  refuseContradictions(bundle.verificationMaterial.tlogEntries)
  const { subjectAlternativeName: identity, extensions } = signer.identity ?? {}
  if (identity === undefined || extensions?.issuer === undefined) {
    throw new Refusal('no_certificate', 'the certificate carries no identity with an issuer')
  }
  return { identity, issuer: extensions.issuer }
}

/** Throws `Refusal` unless the signer is exactly who was expected; no patterns. */
export function requireSigner(found: VerifiedSigner, expected: VerifiedSigner): void {
  if (found.identity !== expected.identity) {
    throw new Refusal('wrong_identity', `signed by ${quoted(found.identity)}, not by ${quoted(expected.identity)}`)
  }
  if (found.issuer !== expected.issuer) {
    throw new Refusal(
      'wrong_issuer',
      `the identity is from ${quoted(found.issuer)}, not from ${quoted(expected.issuer)}`,
    )
  }
}

/**
 * Says early and clearly that the file is another one. For an attestation this is the only check of the file: the
 * signature covers the statement, and the statement names its subjects by digest.
 */
function refuseOtherArtifact(bundle: Bundle, artifact: Buffer): void {
  const digest = createHash('sha256').update(artifact).digest()
  if (isBundleWithDsseEnvelope(bundle)) {
    const { payload, payloadType } = bundle.content.dsseEnvelope
    if (payloadType !== 'application/vnd.in-toto+json' || !subjects(payload).includes(digest.toString('hex'))) {
      throw new Refusal('artifact_mismatch', 'the attestation is not about this file')
    }
    return
  }
  if (bundle.content.$case !== 'messageSignature') throw new Refusal('malformed_bundle', 'the bundle has no signature')
  const named = bundle.content.messageSignature.messageDigest?.digest
  if (named !== undefined && named.length === digest.length && !named.equals(digest)) {
    throw new Refusal('artifact_mismatch', 'the file is not the one that was signed')
  }
}

/** What is compared of a bundle's log entry. */
export interface EntryWithProof {
  readonly logIndex: string
  readonly inclusionPromise?: unknown
  readonly inclusionProof?:
    | {
        readonly logIndex: string
        readonly rootHash: Uint8Array
        readonly treeSize: string
        readonly checkpoint?: { readonly envelope: string } | undefined
      }
    | undefined
}

/**
 * The library takes root and size from the signed checkpoint and a v2 entry's place from its proof, and does not look
 * at the copies beside them. Whoever shows or stores a copy shall not get a forger's: each must say what was verified.
 * Throws `Refusal` `not_in_log`.
 */
export function refuseContradictions(entries: readonly EntryWithProof[]): void {
  for (const { logIndex, inclusionPromise, inclusionProof } of entries) {
    // Under a SET the entry's index counts over all shards of the log, and the SET covers it.
    if (inclusionPromise === undefined && inclusionProof !== undefined && logIndex !== inclusionProof.logIndex) {
      throw new Refusal('not_in_log', 'the entry and its inclusion proof name different indexes')
    }
    if (inclusionProof?.checkpoint === undefined) continue
    const { size, rootHash } = readCheckpoint(inclusionProof.checkpoint.envelope)
    if (inclusionProof.treeSize !== String(size) || Buffer.compare(inclusionProof.rootHash, rootHash) !== 0) {
      throw new Refusal('not_in_log', 'the inclusion proof is for another tree than the checkpoint')
    }
  }
}

function readCheckpoint(envelope: string): ReturnType<typeof parseCheckpoint> {
  try {
    return parseCheckpoint(parseNote(envelope).text)
  } catch (cause) {
    if (!(cause instanceof TlogError)) throw cause
    throw new Refusal('not_in_log', cause.message, { cause })
  }
}

/** SHA-256 digests, hex, of an in-toto statement's subjects. */
function subjects(payload: Buffer): readonly string[] {
  let statement: unknown
  try {
    statement = JSON.parse(payload.toString('utf8'))
  } catch (cause) {
    throw new Refusal('malformed_bundle', 'the attestation is not JSON', { cause })
  }
  if (typeof statement !== 'object' || statement === null || !('subject' in statement)) return []
  if (!Array.isArray(statement.subject)) return []
  return statement.subject.flatMap((subject: unknown) => {
    const found = subject as { readonly digest?: { readonly sha256?: unknown } } | null
    return typeof found?.digest?.sha256 === 'string' ? [found.digest.sha256.toLowerCase()] : []
  })
}

/** A certificate holds what its requester wrote: no control characters on a terminal. */
function quoted(text: string): string {
  return JSON.stringify(text)
}
