import { createHash } from 'node:crypto'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { syncFolder, writeDurably } from './durable-file.ts'
import { TrustRootError } from './errors.ts'
import { formatInventory, type Inventory, parseInventory } from './items.ts'
import { parseMetadata, type RootSigned, type SignedMetadata, type TargetsSigned } from './metadata.ts'
import { sha256Of } from './quorum.ts'
import { type RepositoryState, unstageRoot } from './repository.ts'
import { formatRoles, parseRoles, type Roles } from './roles.ts'

/** What is to be published but for snapshot and timestamp, signed by some, perhaps not enough, of its custodians. */
export interface Candidate {
  readonly inventory: Inventory
  readonly roles: Roles | undefined
  /** Oldest first; empty if the root stays. */
  readonly newRoots: readonly SignedMetadata<RootSigned>[]
  /** Undefined if the targets stay as they are. */
  readonly targets: SignedMetadata<TargetsSigned> | undefined
  /** Content of every target by name; empty if the targets stay. */
  readonly targetFiles: ReadonlyMap<string, Uint8Array>
  /** Copies beside the metadata, by name. */
  readonly copies: ReadonlyMap<string, Uint8Array>
}

/** A candidate that waits; its id names its content. */
export interface Pending extends Candidate {
  readonly id: string
  readonly madeAt: Date
}

/**
 * The one publication that waits for custodians, on disk:
 *
 *     pending/publication.json   everything but signatures; written once, and gone when it is published or withdrawn
 *     pending/signatures.json    those that were merged, each verified before
 *
 * Both are replaced atomically, so a kill leaves the publication waiting with the signatures that it had, or none. A thief
 * of the folder can withdraw it; what is published of it is checked against the published root once more.
 */
const FOLDER = 'pending'
const PUBLICATION = 'publication.json'
const SIGNATURES = 'signatures.json'

const bytes = z.record(z.string(), z.base64())
const publicationSchema = z.strictObject({
  schemaVersion: z.literal(1),
  id: z.string(),
  madeAt: z.iso.datetime(),
  items: z.string(),
  roles: z.string().optional(),
  newRoots: z.array(z.unknown()),
  targets: z.unknown().optional(),
  targetFiles: bytes,
  copies: bytes,
})
const signature = z.strictObject({
  role: z.enum(['root', 'targets']),
  version: z.int(),
  keyid: z.string(),
  sig: z.string(),
})
const signaturesSchema = z.strictObject({ publication: z.string(), signatures: z.array(signature) })

/** 16 hex digits over what custodians sign. */
export function idOf({ newRoots, targets }: Pick<Candidate, 'newRoots' | 'targets'>): string {
  const parts = [...newRoots, ...(targets === undefined ? [] : [targets])].map(({ signed }) => sha256Of(signed))
  return createHash('sha256').update(parts.join()).digest('hex').slice(0, 16)
}

/** Freezes a candidate: durable when this resolves. Signatures that it has are kept with it. */
export async function freeze(folder: string, candidate: Candidate, now: Date): Promise<Pending> {
  const { inventory, roles, newRoots, targets, targetFiles, copies } = candidate
  const pending: Pending = { ...candidate, id: idOf(candidate), madeAt: now }
  await mkdir(join(folder, FOLDER), { recursive: true, mode: 0o700 })
  await syncFolder(folder)
  // Before what they belong to: without it they are of no publication.
  await keepSignatures(folder, pending)
  const json: z.input<typeof publicationSchema> = {
    schemaVersion: 1,
    id: pending.id,
    madeAt: now.toISOString(),
    items: formatInventory(inventory),
    ...(roles === undefined ? {} : { roles: formatRoles(roles) }),
    newRoots: newRoots.map(({ signed }) => signed),
    targets: targets?.signed,
    targetFiles: base64Of(targetFiles),
    copies: base64Of(copies),
  }
  await writeDurably(join(folder, FOLDER, PUBLICATION), Buffer.from(JSON.stringify(json)))
  return pending
}

/** Replaces the kept signatures by those of `pending`. */
export async function keepSignatures(folder: string, { id, newRoots, targets }: Pending): Promise<void> {
  const signatures = [...newRoots, ...(targets === undefined ? [] : [targets])].flatMap((metadata) =>
    metadata.signatures.map(({ keyid, sig }) => ({
      role: metadata.signed._type,
      version: metadata.signed.version,
      keyid,
      sig,
    })),
  )
  const json: z.input<typeof signaturesSchema> = { publication: id, signatures }
  await writeDurably(join(folder, FOLDER, SIGNATURES), Buffer.from(`${JSON.stringify(json, null, 1)}\n`))
}

/**
 * What waits; undefined if nothing does. One that clients see already (a kill came between) is cleared away. Throws
 * `damaged_repository` for files that this program did not write so.
 */
export async function readPending(
  folder: string,
  published: RepositoryState | undefined,
): Promise<Pending | undefined> {
  const text = await textOf(folder, PUBLICATION)
  if (text === undefined) return undefined
  const pending = await read(folder, text)
  if (published === undefined || !isPublished(pending, published)) return pending
  for (const { signed } of pending.newRoots) await unstageRoot(folder, signed.version)
  await clearPending(folder)
  return undefined
}

/** Forgets what waited. The publication goes first: signatures alone are none. */
export async function clearPending(folder: string): Promise<void> {
  await rm(join(folder, FOLDER, PUBLICATION), { force: true })
  await syncFolder(join(folder, FOLDER)).catch(() => undefined)
  await rm(join(folder, FOLDER), { recursive: true, force: true })
  await syncFolder(folder)
}

/** No version has two contents, so the versions tell. */
function isPublished({ newRoots, targets }: Pending, { root, targets: published }: RepositoryState): boolean {
  return (
    (newRoots.at(-1)?.signed.version ?? 0) <= root.signed.version &&
    (targets?.signed.version ?? 0) <= published.signed.version
  )
}

async function read(folder: string, text: string): Promise<Pending> {
  const damaged = (why: string, cause?: unknown) =>
    new TrustRootError('damaged_repository', `${FOLDER}/${PUBLICATION}: ${why}`, { cause })
  const parsed = publicationSchema.safeParse(jsonOf(text))
  if (!parsed.success) throw damaged(z.prettifyError(parsed.error))
  const { id, madeAt, items, roles, newRoots, targets, targetFiles, copies } = parsed.data
  const kept = signaturesSchema.safeParse(jsonOf((await textOf(folder, SIGNATURES)) ?? ''))
  const signatures = kept.success && kept.data.publication === id ? kept.data.signatures : []
  const metadata = <S extends RootSigned | TargetsSigned>(role: S['_type'], signed: unknown): SignedMetadata<S> => {
    const body = parseMetadata<S>(role, JSON.stringify({ signatures: [], signed }), `${FOLDER}/${PUBLICATION}`).signed
    const own = signatures.filter((found) => found.role === role && found.version === body.version)
    return { signed: body, signatures: own.map(({ keyid, sig }) => ({ keyid, sig })) }
  }
  const pending: Pending = {
    id,
    madeAt: new Date(madeAt),
    inventory: parseInventory(items),
    roles: roles === undefined ? undefined : parseRoles(roles),
    newRoots: newRoots.map((signed) => metadata<RootSigned>('root', signed)),
    targets: targets === undefined ? undefined : metadata<TargetsSigned>('targets', targets),
    targetFiles: bytesOf(targetFiles),
    copies: bytesOf(copies),
  }
  if (idOf(pending) !== id) throw damaged('its content is not that of its id')
  return pending
}

async function textOf(folder: string, name: string): Promise<string | undefined> {
  return readFile(join(folder, FOLDER, name), 'utf8').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  })
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function base64Of(files: ReadonlyMap<string, Uint8Array>): Record<string, string> {
  return Object.fromEntries([...files].map(([name, content]) => [name, Buffer.from(content).toString('base64')]))
}

function bytesOf(files: Readonly<Record<string, string>>): Map<string, Uint8Array> {
  return new Map(Object.entries(files).map(([name, content]) => [name, Buffer.from(content, 'base64')]))
}
