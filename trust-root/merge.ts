import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { writeDurably } from './durable-file.ts'
import { TrustRootError } from './errors.ts'
import { formatInventory, ITEMS_FILE, readInventory, writeInventory } from './items.ts'
import { isSignature, signedBytes, type TufKey } from './metadata.ts'
import type { PublishOptions } from './options.ts'
import { type PayloadFile, payloadOf, type SignaturesFile, signaturesSchema } from './payload.ts'
import { clearPending, keepSignatures, type Pending, readPending } from './pending.ts'
import type { Publication } from './publication.ts'
import { namesOf, publishPending } from './publish.ts'
import { publishedInventory, publishedRoles } from './published.ts'
import { offlineParts, type OfflinePart, sha256Of } from './quorum.ts'
import { readRepository, readTargets, stagedRoot, stageRoot, unstageRoot } from './repository.ts'
import { formatRoles, readRoles, ROLES_FILE, writeRoles } from './roles.ts'

/**
 * What custodians are given to sign. A root is kept for ever before it leaves: from now on somebody may have signed it.
 * Throws `no_pending_publication`.
 */
export async function handOut(options: PublishOptions): Promise<PayloadFile> {
  const { folder } = options
  const pending = await requirePending(folder)
  const published = await readRepository(folder)
  for (const root of pending.newRoots) await stageRoot(folder, root)
  const files = published === undefined ? undefined : await readTargets(folder, published.targets.signed)
  return payloadOf(pending, published && { ...published, files: files ?? new Map() }, await namesOf(options, pending))
}

/**
 * Takes signatures that custodians gave and completes what waits if they suffice. Each is verified before any is kept: a
 * single fault refuses all. Durable when this resolves. Throws `no_pending_publication`, `signature_refused` (of another
 * publication or payload, of a key that is not asked for, or one that does not verify), `signature_known` (a file that
 * brings nothing new, or something twice),
 * `candidate_expired`; and what completing throws: then the signatures are kept, and the next call tries again.
 */
export async function mergeSignatures(options: PublishOptions, given: readonly unknown[]): Promise<Publication> {
  const { folder, now, onStep = () => {} } = options
  const pending = await requirePending(folder)
  const published = await readRepository(folder)
  const parts = offlineParts(published?.root, pending.newRoots, pending.targets)
  const added = new Map(parts.map(({ metadata }) => [metadata, [...metadata.signatures]]))
  for (const json of given) {
    const file = signaturesSchema.safeParse(json)
    if (!file.success) throw refused(`no file of signatures: ${z.prettifyError(file.error)}`)
    if (file.data.publication !== pending.id)
      throw refused(`they are of publication ${file.data.publication}; ${pending.id} waits`)
    let repeated = ''
    let isNew = false
    for (const signature of file.data.signatures) {
      const part = parts.find(
        ({ metadata: { signed } }) => signed._type === signature.role && signed.version === signature.version,
      )
      if (part === undefined) throw refused(`${signature.role} ${signature.version} is not asked for`)
      const signatures = added.get(part.metadata) ?? []
      // A root that was withdrawn keeps what was signed of it; its signers sign what is published with it.
      const isKept = part.metadata.signatures.some(({ keyid }) => keyid === signature.keyid)
      requireGood(part, isKept ? [] : signatures, signature, now)
      if (isKept) {
        repeated = `${signature.role} ${signature.version}: key ${signature.keyid}`
        continue
      }
      signatures.push({ keyid: signature.keyid, sig: signature.sig })
      isNew = true
    }
    if (!isNew) throw new TrustRootError('signature_known', `${repeated} has signed already; leave this one out`)
  }
  onStep('merge')
  const { newRoots, targets } = pending
  await keepSignatures(folder, {
    ...pending,
    newRoots: newRoots.map((root) => ({ ...root, signatures: added.get(root) ?? [] })),
    targets: targets && { ...targets, signatures: added.get(targets) ?? [] },
  })
  const publication = await publishPending(options)
  if (publication === undefined) throw new TypeError('what waited has gone') // only one process writes
  return publication
}

function requireGood(
  { metadata, quorums }: OfflinePart,
  signatures: readonly { readonly keyid: string }[],
  { role, version, sha256, keyid, sig }: SignaturesFile['signatures'][number],
  now: Date,
): void {
  const { signed } = metadata
  const which = `${role} ${version}`
  if (new Date(signed.expires) <= now)
    throw new TrustRootError('candidate_expired', `${which} ended on ${signed.expires}; withdraw it and publish again`)
  if (sha256Of(signed) !== sha256) throw refused(`${which}: other bytes were signed, with SHA-256 ${sha256}`)
  const keys: Readonly<Record<string, TufKey>> = Object.assign({}, ...quorums.map((quorum) => quorum.keys))
  const key = Object.hasOwn(keys, keyid) ? keys[keyid] : undefined
  if (key === undefined) throw refused(`${which}: key ${keyid} has no word in it`)
  if (signatures.some((known) => known.keyid === keyid))
    throw new TrustRootError('signature_known', `${which}: key ${keyid} has signed already; leave this one out`)
  if (!isSignature(key, signedBytes(signed), Buffer.from(sig, 'hex')))
    throw refused(`${which}: the signature of key ${keyid} does not verify`)
}

/** What became of a withdrawal. */
export interface Withdrawn {
  readonly id: string
  /** Versions of roots that somebody may have signed: the next publication begins with them, exactly as they are. */
  readonly keptRoots: readonly number[]
}

/**
 * Gives up what waits: items.json and roles.json go back to what clients see, and what they were is kept beside them. A
 * root that was handed out or signed is kept and published first of all next time: a version of root has one content, and
 * there is no gap. `discardRoots` forgets one that nobody signed: each custodian was asked, and is trusted in it. Throws
 * `root_signed` where somebody did, `no_pending_publication`. May be called again after a kill.
 */
export async function withdrawPending(
  { folder, onStep = () => {} }: PublishOptions,
  { discardRoots = false }: { readonly discardRoots?: boolean } = {},
): Promise<Withdrawn> {
  const pending = await requirePending(folder)
  const { id, newRoots } = pending
  const signed = newRoots.find(({ signatures }) => signatures.length > 0)
  if (discardRoots && signed !== undefined) {
    throw new TrustRootError(
      'root_signed',
      `root ${signed.signed.version} is signed by ${signed.signatures.length}: it stays, and the next publication begins with it`,
    )
  }
  const keptRoots: number[] = []
  for (const root of newRoots) {
    const { version } = root.signed
    const staged = await stagedRoot(folder, version)
    if (discardRoots) await unstageRoot(folder, version)
    else if (staged !== undefined || root.signatures.length > 0) {
      await stageRoot(folder, root)
      keptRoots.push(version)
    }
  }
  await takeBack(folder, pending)
  onStep('clear')
  await clearPending(folder)
  return { id, keptRoots }
}

/** Only what is still what waited; a later change of the operator's stays. */
async function takeBack(folder: string, { inventory, roles }: Pending): Promise<void> {
  const before = await publishedInventory(folder)
  if (before !== undefined && formatInventory(await readInventory(folder)) === formatInventory(inventory)) {
    await setAside(folder, ITEMS_FILE, formatInventory(inventory))
    await writeInventory(folder, before)
  }
  const present = await readRoles(folder)
  if (present === undefined || roles === undefined || formatRoles(present) !== formatRoles(roles)) return
  const rolesBefore = await publishedRoles(folder)
  await setAside(folder, ROLES_FILE, formatRoles(roles))
  if (rolesBefore !== undefined) await writeRoles(folder, rolesBefore)
  else if (before !== undefined) await rm(join(folder, ROLES_FILE))
}

async function setAside(folder: string, name: string, text: string): Promise<void> {
  await writeDurably(join(folder, name.replace('.json', '.withdrawn.json')), Buffer.from(text))
}

async function requirePending(folder: string): Promise<Pending> {
  const pending = await readPending(folder, await readRepository(folder))
  if (pending !== undefined) return pending
  throw new TrustRootError('no_pending_publication', 'no publication waits for signatures')
}

function refused(why: string): TrustRootError {
  return new TrustRootError('signature_refused', `nothing was merged: ${why}`)
}
