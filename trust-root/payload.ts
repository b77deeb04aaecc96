/**
 * What a custodian is given, and gives back. A payload file goes to another machine by any road: everything in it that
 * matters is in the bytes that are signed, or is held against them there. Signatures come back in a file of their own.
 */
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { describeChange, type DiffSection } from './describe.ts'
import { TrustRootError } from './errors.ts'
import {
  isSignedFor,
  metadataSigner,
  parseMetadata,
  type RootSigned,
  signedBytes,
  type SignedMetadata,
  signMetadata,
  type TargetsSigned,
  type TufAgent,
} from './metadata.ts'
import { idOf, type Pending } from './pending.ts'
import type { Custodian } from './publication.ts'
import { offlineParts, type OfflinePart, sha256Of, tallyOf } from './quorum.ts'
import type { RepositoryState } from './repository.ts'

const files = z.record(z.string(), z.base64())
const custodian = z.strictObject({ keyid: z.string(), name: z.string(), holder: z.string() })

/** `chancery trust payload`: one file for all roles of one publication. */
export const payloadSchema = z.strictObject({
  type: z.literal('chancery-tuf-payload'),
  schemaVersion: z.literal(1),
  /** Id of the pending publication. */
  publication: z.string(),
  /** Who runs the services. */
  operator: z.string(),
  parts: z
    .array(
      z.strictObject({
        role: z.enum(['root', 'targets']),
        version: z.int().positive(),
        expires: z.string(),
        /** Of `bytes`; hex. */
        sha256: z.string(),
        /** Exactly what is signed. */
        bytes: z.base64(),
        /** The same, as JSON that can be read. */
        signed: z.unknown(),
        /** Who may sign, those who have left out. */
        keys: z.array(custodian),
      }),
    )
    .min(1)
    .max(256),
  /** Names of all keys in the roots. */
  custodians: z.array(custodian),
  /** Content of the targets, if these are signed. */
  files,
  /** What clients have now; nothing of a first publication. */
  published: z.strictObject({ root: z.unknown().optional(), targets: z.unknown().optional(), files }),
  /** In words; whoever signs makes them again from the bytes. */
  diff: z.array(z.strictObject({ title: z.string(), lines: z.array(z.string()) })),
})

export type PayloadFile = z.infer<typeof payloadSchema>

/** `chancery trust sign`: signatures of one key over the parts of one payload. */
export const signaturesSchema = z.strictObject({
  type: z.literal('chancery-tuf-signatures'),
  schemaVersion: z.literal(1),
  publication: z.string(),
  signatures: z
    .array(
      z.strictObject({
        role: z.enum(['root', 'targets']),
        version: z.int().positive(),
        sha256: z.string().regex(/^[0-9a-f]{64}$/),
        keyid: z.string().regex(/^[0-9a-f]{64}$/),
        /** Hex; ECDSA in DER. */
        sig: z.string().regex(/^(?:[0-9a-f]{2}){1,512}$/),
      }),
    )
    .min(1)
    .max(256),
})

export type SignaturesFile = z.infer<typeof signaturesSchema>

/** Makes the payload of what waits. */
export function payloadOf(
  pending: Pending,
  published: (RepositoryState & { readonly files: ReadonlyMap<string, Uint8Array> }) | undefined,
  nameOf: (keyid: string) => Custodian,
): PayloadFile {
  const { id, inventory, newRoots, targets, targetFiles } = pending
  const parts = offlineParts(published?.root, newRoots, targets)
  const keyids = new Set(
    [published?.root, ...newRoots].flatMap((root) => (root === undefined ? [] : Object.keys(root.signed.keys))),
  )
  return {
    type: 'chancery-tuf-payload',
    schemaVersion: 1,
    publication: id,
    operator: inventory.operator,
    parts: parts.map((part) => {
      const { signed } = part.metadata
      return {
        role: signed._type,
        version: signed.version,
        expires: signed.expires,
        sha256: sha256Of(signed),
        bytes: base64(signedBytes(signed)),
        signed,
        keys: tallyOf(part).missing.map(nameOf),
      }
    }),
    custodians: [...keyids].map(nameOf),
    files: base64Of(targetFiles),
    published: {
      root: published?.root,
      targets: published?.targets,
      files: base64Of(published?.files ?? new Map<string, Uint8Array>()),
    },
    diff: describeChange(
      { root: published?.root.signed, targets: published?.targets.signed, files: published?.files ?? new Map() },
      { newRoots: newRoots.map(({ signed }) => signed), targets: targets?.signed, files: targetFiles },
      nameOf,
    ).map(({ title, lines }) => ({ title, lines: [...lines] })),
  }
}

/** A payload whose every claim was held against its bytes. */
export interface CheckedPayload {
  readonly publication: string
  readonly operator: string
  readonly parts: readonly OfflinePart[]
  /** Made here, of the bytes. */
  readonly diff: readonly DiffSection[]
  /** The root that clients have now by what the file says: who knows better must compare it. */
  readonly publishedRoot: { readonly version: number; readonly sha256: string } | undefined
}

/**
 * Reads a payload file and checks that it is what it says: canonical bytes, digests, versions that follow, an end ahead, content
 * behind every target, a published root that signs for what is published, and the very diff that follows from these.
 * Throws `payload_refused` with the first fault.
 */
export function checkPayload(json: unknown, now: Date): CheckedPayload {
  const parsed = payloadSchema.safeParse(json)
  if (!parsed.success) throw refused(`no payload file: ${z.prettifyError(parsed.error)}`)
  const file = parsed.data
  const metadata = file.parts.map((part) => checkedPart(part, now))
  const newRoots = metadata.filter(isRoot)
  const [targets, ...more] = metadata.filter((part) => !isRoot(part)).filter(isTargets)
  if (more.length > 0) throw refused('it has two versions of targets')
  if (idOf({ newRoots, targets }) !== file.publication) throw refused('its parts are not those of its publication')
  const published = checkedPublished(file.published)
  let root = published.root
  for (const next of newRoots) {
    const expected = (root?.signed.version ?? 0) + 1
    if (next.signed.version !== expected) throw refused(`root ${next.signed.version} comes where ${expected} must`)
    root = next
  }
  if (targets !== undefined && targets.signed.version <= (published.targets?.signed.version ?? 0))
    throw refused(`targets ${targets.signed.version} are not above those that are published`)
  const content = targets === undefined ? new Map<string, Uint8Array>() : contentOf(targets.signed, file.files)
  const names = new Map(file.custodians.map((known) => [known.keyid, known]))
  const diff = describeChange(
    { root: published.root?.signed, targets: published.targets?.signed, files: published.files },
    { newRoots: newRoots.map(({ signed }) => signed), targets: targets?.signed, files: content },
    (keyid) => names.get(keyid) ?? { keyid, name: 'unknown', holder: '' },
  )
  if (JSON.stringify(diff) !== JSON.stringify(file.diff)) throw refused('its diff is not what follows from its bytes')
  return {
    publication: file.publication,
    operator: file.operator,
    parts: offlineParts(published.root, newRoots, targets),
    diff,
    publishedRoot: published.root && {
      version: published.root.signed.version,
      sha256: sha256Of(published.root.signed),
    },
  }
}

/** Signs every part that this key has a word in. Throws `payload_refused` if it has none, and `HsmError` of the agent. */
export async function signPayload(
  { publication, parts }: CheckedPayload,
  agent: TufAgent,
  keyName: string,
): Promise<SignaturesFile> {
  const signer = await metadataSigner(agent, keyName)
  const asked = parts.filter(({ quorums }) => quorums.some(({ keys }) => Object.hasOwn(keys, signer.keyid)))
  if (asked.length === 0) throw refused(`key ${keyName} (${signer.keyid}) is not asked for`)
  const signatures: SignaturesFile['signatures'] = []
  for (const { metadata } of asked) {
    const { signed } = metadata
    for (const { keyid, sig } of (await signMetadata(signed, [signer])).signatures) {
      signatures.push({ role: signed._type, version: signed.version, sha256: sha256Of(signed), keyid, sig })
    }
  }
  return { type: 'chancery-tuf-signatures', schemaVersion: 1, publication, signatures }
}

type AnyOffline = SignedMetadata<RootSigned> | SignedMetadata<TargetsSigned>

function checkedPart(
  { role, version, expires, sha256, bytes, signed }: PayloadFile['parts'][number],
  now: Date,
): AnyOffline {
  const where = `${role} ${version}`
  const metadata = metadataOf(role, { signatures: [], signed }, where)
  const body = metadata.signed
  const exact = Buffer.from(bytes, 'base64')
  if (Buffer.compare(signedBytes(body), exact) !== 0) throw refused(`${where}: its bytes are not what it shows`)
  if (createHash('sha256').update(exact).digest('hex') !== sha256) throw refused(`${where}: its digest is another`)
  if (body._type !== role || body.version !== version || body.expires !== expires)
    throw refused(`${where}: its bytes are of ${body._type} ${body.version} until ${body.expires}`)
  if (new Date(expires) <= now) throw refused(`${where}: it ended on ${expires}`)
  return metadata
}

function checkedPublished({ root, targets, files: content }: PayloadFile['published']) {
  if (root === undefined || root === null)
    return { root: undefined, targets: undefined, files: new Map<string, Uint8Array>() }
  const knownRoot = metadataOf('root', root, 'the published root')
  const knownTargets = metadataOf('targets', targets, 'the published targets')
  if (!isRoot(knownRoot) || !isTargets(knownTargets)) throw refused('what is published is of other roles')
  for (const metadata of [knownRoot, knownTargets]) {
    if (!isSignedFor(knownRoot, metadata)) throw refused(`the published ${metadata.signed._type} is not signed`)
  }
  return { root: knownRoot, targets: knownTargets, files: contentOf(knownTargets.signed, content) }
}

/** Every target with its content, and nothing beside. */
function contentOf({ targets }: TargetsSigned, content: Readonly<Record<string, string>>): Map<string, Uint8Array> {
  const found = new Map<string, Uint8Array>()
  for (const [name, { length, hashes }] of Object.entries(targets)) {
    const bytes = Buffer.from(Object.hasOwn(content, name) ? (content[name] ?? '') : '', 'base64')
    if (bytes.length !== length || createHash('sha256').update(bytes).digest('hex') !== hashes.sha256)
      throw refused(`${name} is not what targets describes`)
    found.set(name, bytes)
  }
  if (Object.keys(content).length !== found.size) throw refused('it has files that are no targets')
  return found
}

function metadataOf(role: 'root' | 'targets', json: unknown, where: string): AnyOffline {
  try {
    const text = JSON.stringify(json)
    return role === 'root'
      ? parseMetadata<RootSigned>('root', text, where)
      : parseMetadata<TargetsSigned>('targets', text, where)
  } catch (cause) {
    throw refused(`${where} is no ${role} metadata`, cause)
  }
}

function isRoot(metadata: AnyOffline): metadata is SignedMetadata<RootSigned> {
  return metadata.signed._type === 'root'
}

function isTargets(metadata: AnyOffline): metadata is SignedMetadata<TargetsSigned> {
  return metadata.signed._type === 'targets'
}

function refused(why: string, cause?: unknown): TrustRootError {
  return new TrustRootError('payload_refused', `not to be signed: ${why}`, { cause })
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}

function base64Of(content: ReadonlyMap<string, Uint8Array>): Record<string, string> {
  return Object.fromEntries([...content].map(([name, bytes]) => [name, base64(bytes)]))
}
