import type { RootSigned, SignedMetadata, TargetsSigned, TufKey } from './metadata.ts'
import type { Custodian, PendingRole } from './publication.ts'
import { isSignature, keyIdOf, signedBytes } from './metadata.ts'
import type { Roles } from './roles.ts'
import { createHash } from 'node:crypto'

/** Keys of which at least `threshold` must have signed. */
export interface Quorum {
  readonly keys: Readonly<Record<string, TufKey>>
  readonly threshold: number
}

/** A role that custodians sign, signed by some of them, and what it needs. */
export interface OfflinePart {
  /** Of the bytes that are signed; hex. */
  readonly sha256: string
  readonly metadata: SignedMetadata<RootSigned> | SignedMetadata<TargetsSigned>
  /** All of them must be met: for a root that of the root before it, and its own. */
  readonly quorums: readonly Quorum[]
}

/** The roots and targets of a candidate, in the order in which clients take them. */
export function offlineParts(
  published: SignedMetadata<RootSigned> | undefined,
  newRoots: readonly SignedMetadata<RootSigned>[],
  targets: SignedMetadata<TargetsSigned> | undefined,
): OfflinePart[] {
  const roots = newRoots.map((root, at): OfflinePart => {
    const before = at === 0 ? published : newRoots[at - 1]
    const own = quorumOf(root.signed, 'root')
    const sha256 = sha256Of(root.signed)
    return { sha256, metadata: root, quorums: before === undefined ? [own] : [quorumOf(before.signed, 'root'), own] }
  })
  const newest = newRoots.at(-1) ?? published
  if (targets === undefined || newest === undefined) return roots
  return [
    ...roots,
    { sha256: sha256Of(targets.signed), metadata: targets, quorums: [quorumOf(newest.signed, 'targets')] },
  ]
}

/** Who must sign a role by a root. */
export function quorumOf(root: RootSigned, role: 'root' | 'targets'): Quorum {
  const { keyids, threshold } = root.roles[role]
  const keys = keyids.flatMap((keyid) => {
    const key = root.keys[keyid]
    return key === undefined ? [] : [[keyid, key] as const]
  })
  return { keys: Object.fromEntries(keys), threshold }
}

/** How far a set of signatures goes; keys by their ids. */
export interface Tally {
  /** Those that count. */
  readonly have: readonly string[]
  /** How many more are needed at least; 0: it is signed. */
  readonly lacking: number
  /** Whose signature would help; empty once it is signed. */
  readonly missing: readonly string[]
}

/** Counts distinct keys, never signatures. */
export function tally(signed: Iterable<string>, quorums: readonly Quorum[]): Tally {
  const known = new Set(quorums.flatMap(({ keys }) => Object.keys(keys)))
  const have = [...new Set(signed)].filter((keyid) => known.has(keyid))
  const open = quorums
    .map(({ keys, threshold }) => ({
      left: threshold - have.filter((keyid) => Object.hasOwn(keys, keyid)).length,
      may: Object.keys(keys).filter((keyid) => !have.includes(keyid)),
    }))
    .filter(({ left }) => left > 0)
  const missing = [...new Set(open.flatMap(({ may }) => may))]
  const [first, second] = open
  if (first === undefined) return { have, lacking: 0, missing: [] }
  if (second === undefined) return { have, lacking: first.left, missing }
  // One signature of somebody who is in both counts for both.
  const shared = first.may.filter((keyid) => second.may.includes(keyid)).length
  const both = Math.min(first.left, second.left, shared)
  return { have, lacking: first.left + second.left - both, missing }
}

/** Of a part: only signatures that verify count. */
export function tallyOf({ metadata, quorums }: OfflinePart): Tally {
  const keys: Readonly<Record<string, TufKey>> = Object.assign({}, ...quorums.map((quorum) => quorum.keys))
  const payload = signedBytes(metadata.signed)
  const valid = metadata.signatures.filter(({ keyid, sig }) => {
    const key = Object.hasOwn(keys, keyid) ? keys[keyid] : undefined
    return key !== undefined && isSignature(key, payload, Buffer.from(sig, 'hex'))
  })
  return tally(
    valid.map(({ keyid }) => keyid),
    quorums,
  )
}

/** Whether every threshold of every part holds. */
export function isSigned(parts: readonly OfflinePart[]): boolean {
  return parts.every((part) => tallyOf(part).lacking === 0)
}

/** One part for people. */
export function summaryOf(part: OfflinePart, nameOf: (keyid: string) => Custodian): PendingRole {
  const { signed } = part.metadata
  const { have, lacking, missing } = tallyOf(part)
  return {
    role: signed._type,
    version: signed.version,
    sha256: part.sha256,
    have: have.length,
    need: have.length + lacking,
    missing: missing.map(nameOf),
  }
}

/** SHA-256 of the bytes that are signed; hex. */
export function sha256Of(signed: RootSigned | TargetsSigned): string {
  return createHash('sha256').update(signedBytes(signed)).digest('hex')
}

/** Names of keys by what is known of custodians, newest knowledge first; a key of no custodian has the name it is given. */
export function custodianNames(
  known: readonly (Roles | undefined)[],
  soleKeyName: string,
): (keyid: string) => Custodian {
  const names = new Map<string, Custodian>()
  for (const roles of known.toReversed()) {
    for (const { name, holder, key } of roles?.custodians ?? []) {
      const keyid = keyIdOf(key)
      names.set(keyid, { keyid, name, holder })
    }
  }
  return (keyid) => names.get(keyid) ?? { keyid, name: soleKeyName, holder: '' }
}
