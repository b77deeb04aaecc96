import { createHash, createPublicKey, type KeyObject, verify } from 'node:crypto'
import { Metadata, MetadataKind } from '@tufjs/models'
import type { SigningAgent, TufRole } from '#hsm'
import { encodePem, keyBits } from '#x509'
import { canonicalJson, type CanonicalValue } from './canonical-json.ts'
import { TrustRootError } from './errors.ts'
import { formatTime } from './items.ts'

/** A key as TUF names it, in the two forms that go-tuf, tuf-js and python-tuf all count. */
export type TufKey = (
  | { readonly keytype: 'ecdsa'; readonly scheme: 'ecdsa-sha2-nistp256' }
  | { readonly keytype: 'ed25519'; readonly scheme: 'ed25519' }
) & {
  /** ECDSA: PEM. Ed25519: 32 bytes, hex; in PEM, go-tuf and tuf-js give up the whole role. */
  readonly keyval: { readonly public: string }
}

interface Signed<Role extends TufRole> {
  readonly _type: Role
  readonly spec_version: '1.0'
  readonly version: number
  readonly expires: string
}

/** `signed` of root.json. */
export interface RootSigned extends Signed<'root'> {
  readonly consistent_snapshot: true
  readonly keys: Readonly<Record<string, TufKey>>
  readonly roles: Readonly<Record<TufRole, { readonly keyids: readonly string[]; readonly threshold: number }>>
}

/** One target; one hash algorithm only, since go-tuf picks any of several for the file's URL. */
export interface TargetFileEntry {
  readonly length: number
  readonly hashes: { readonly sha256: string }
  readonly custom?: { readonly sigstore: { readonly usage: string; readonly status: string; readonly uri: string } }
}

/** `signed` of targets.json; without `delegations`, which python-tuf would not take empty. */
export interface TargetsSigned extends Signed<'targets'> {
  readonly targets: Readonly<Record<string, TargetFileEntry>>
}

/** `signed` of snapshot.json; an entry that was once in `meta` never leaves it. */
export interface SnapshotSigned extends Signed<'snapshot'> {
  readonly meta: Readonly<Record<string, { readonly version: number }>>
}

/** `signed` of timestamp.json. */
export interface TimestampSigned extends Signed<'timestamp'> {
  readonly meta: { readonly 'snapshot.json': { readonly version: number } }
}

/** The `signed` part of any role. */
export type AnySigned = RootSigned | TargetsSigned | SnapshotSigned | TimestampSigned

/** A metadata file: `keyid` is hex SHA-256, `sig` hex of the DER signature over `canonicalJson(signed)`. */
export interface SignedMetadata<S extends AnySigned = AnySigned> {
  readonly signed: S
  readonly signatures: readonly { readonly keyid: string; readonly sig: string }[]
}

/** What of an agent signs TUF metadata. */
export type TufAgent = Pick<SigningAgent, 'key' | 'tuf' | 'tufVersions'>

/** One key that may be asked for signatures: who holds it and under which name. */
export interface MetadataSigner {
  readonly agent: TufAgent
  readonly keyName: string
  readonly keyid: string
  readonly key: TufKey
}

/** Looks a key up in its agent. Throws `unsigned` unless it is ECDSA P-256 or Ed25519, which every TUF client verifies. */
export async function metadataSigner(agent: TufAgent, keyName: string): Promise<MetadataSigner> {
  const { kind, spkiDer } = await agent.key(keyName)
  if (kind !== 'P-256' && kind !== 'ed25519') {
    throw new TrustRootError('unsigned', `key ${keyName} is ${kind}; TUF keys must be P-256 or Ed25519`)
  }
  const key = tufKeyOf({ kind, spkiDer })
  return { agent, keyName, keyid: keyIdOf(key), key }
}

/** A public key in the form in which TUF metadata has it. */
export function tufKeyOf({
  kind,
  spkiDer,
}: {
  readonly kind: 'P-256' | 'ed25519'
  readonly spkiDer: Uint8Array
}): TufKey {
  return kind === 'P-256'
    ? { keytype: 'ecdsa', scheme: 'ecdsa-sha2-nistp256', keyval: { public: encodePem('PUBLIC KEY', spkiDer) } }
    : { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: Buffer.from(keyBits(spkiDer)).toString('hex') } }
}

/** Hex SHA-256 of the key's canonical form; clients do not check it, but go-tuf makes the same. */
export function keyIdOf(key: TufKey): string {
  return createHash('sha256')
    .update(canonicalJson(asCanonical(key)))
    .digest('hex')
}

/** The bytes that are signed. */
export function signedBytes(signed: AnySigned): Uint8Array {
  return canonicalJson(asCanonical(signed))
}

/** The bytes of the file. Deterministic; clients re-canonicalise `signed` before they verify. */
export function metadataBytes(metadata: SignedMetadata): Uint8Array {
  return Buffer.from(`${JSON.stringify(metadata, null, 1)}\n`)
}

/** When a role signed at `now` ends, as TUF writes it. */
export function expiryAt(now: Date, validitySeconds: number): string {
  return formatTime(new Date(now.getTime() + validitySeconds * 1000))
}

/**
 * Has `signed` signed by each signer that is not among `signatures` yet. Every signature is verified with the signer's
 * public key before it counts, so that a fault of the token becomes `unsigned` here and not a dead mirror. A signer that
 * is given twice signs once: TUF clients treat a repeated keyid as an error.
 */
export async function signMetadata<S extends AnySigned>(
  signed: S,
  signers: readonly MetadataSigner[],
  signatures: SignedMetadata['signatures'] = [],
): Promise<SignedMetadata<S>> {
  const payload = signedBytes(signed)
  const all = [...signatures]
  for (const signer of signers) {
    if (all.some(({ keyid }) => keyid === signer.keyid)) continue
    const signature = await signer.agent.tuf({ key: signer.keyName, role: signed._type, payload })
    if (!isSignature(signer.key, payload, signature)) {
      throw new TrustRootError('unsigned', `key ${signer.keyName} gave a signature that does not verify`)
    }
    all.push({ keyid: signer.keyid, sig: Buffer.from(signature).toString('hex') })
  }
  return { signed, signatures: all }
}

/** Whether `signature` (ECDSA: DER) is this key's over `payload`. */
export function isSignature(key: TufKey, payload: Uint8Array, signature: Uint8Array): boolean {
  return verify(key.keytype === 'ecdsa' ? 'sha256' : null, payload, publicKeyOf(key), signature)
}

function publicKeyOf({ keytype, keyval }: TufKey): KeyObject {
  if (keytype === 'ecdsa') return createPublicKey(keyval.public)
  const x = Buffer.from(keyval.public, 'hex').toString('base64url')
  return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
}

const kinds = {
  root: MetadataKind.Root,
  targets: MetadataKind.Targets,
  snapshot: MetadataKind.Snapshot,
  timestamp: MetadataKind.Timestamp,
} as const

/**
 * True if `metadata` carries valid signatures of the threshold that `root` demands for its role: decided by the models
 * of tuf-js, which share no code with what signed it.
 */
export function isSignedFor(root: SignedMetadata<RootSigned>, metadata: SignedMetadata): boolean {
  try {
    const delegator = Metadata.fromJSON(MetadataKind.Root, jsonOf(root))
    const role = metadata.signed._type
    delegator.verifyDelegate(role, foreign(role, metadata))
    return true
  } catch {
    return false
  }
}

/** Parses a metadata file that this program wrote; throws `damaged_repository` with the reason. */
export function parseMetadata<S extends AnySigned>(role: S['_type'], text: string, name: string): SignedMetadata<S> {
  try {
    const json = JSON.parse(text)
    foreign(role, json)
    // The models have checked the shape of what we rely on; the role is in the type.
    return json as SignedMetadata<S>
  } catch (error) {
    throw new TrustRootError('damaged_repository', `${name} is not ${role} metadata`, { cause: error })
  }
}

function foreign(role: TufRole, metadata: unknown): Metadata<never> {
  // One overload a role: the union of kinds is legal at run time but fits no single overload.
  const models = Metadata as unknown as { fromJSON(kind: MetadataKind, json: TufJson): Metadata<never> }
  return models.fromJSON(kinds[role], jsonOf(metadata))
}

type TufJson = Parameters<typeof Metadata.fromJSON>[1]

/** The models mutate what they are given, so they get a copy. */
function jsonOf(metadata: unknown): TufJson {
  return JSON.parse(JSON.stringify(metadata)) as TufJson
}

/** Interfaces have no index signature, so TypeScript cannot see that ours hold canonical values only. */
function asCanonical(value: TufKey | AnySigned): CanonicalValue {
  return value as unknown as CanonicalValue
}
