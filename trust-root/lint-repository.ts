import { createHash, createPublicKey } from 'node:crypto'
import { isSignedFor, keyIdOf, metadataBytes, type RootSigned, type SignedMetadata } from './metadata.ts'
import type { Generation, RepositoryState } from './repository.ts'

/** A publication beside what clients have now. */
export interface RepositorySubject {
  readonly publication: Generation
  readonly previous: RepositoryState | undefined
  readonly now: Date
}

/** Rules on the TUF metadata; each comment names the client that would fail. */
export const repositoryRules = {
  /** python-tuf parses with strptime and dies of milliseconds; go-tuf re-marshals and breaks the signature. */
  *'tuf-expires'({ publication, now }) {
    for (const [role, { signed }] of roles(publication)) {
      if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(signed.expires)) yield `${role}: "${signed.expires}"`
      else if (new Date(signed.expires) <= now) yield `${role} has expired at ${signed.expires}`
    }
  },

  /** go-tuf aborts a role over one key of another form (Ed25519 in PEM too), python-tuf cannot parse it. */
  *'tuf-key'({ publication }) {
    for (const [keyid, key] of Object.entries(publication.root.signed.keys)) {
      const known = ['ecdsa/ecdsa-sha2-nistp256', 'ed25519/ed25519'].includes(`${key.keytype}/${key.scheme}`)
      if (!known) yield `${keyid}: ${key.keytype}/${key.scheme}`
      else if (key.keytype === 'ed25519') {
        if (!/^[0-9a-f]{64}$/.test(key.keyval.public)) yield `${keyid}: Ed25519, and not 32 bytes in hex`
      } else if (createPublicKey(key.keyval.public).asymmetricKeyDetails?.namedCurve !== 'prime256v1')
        yield `${keyid}: not P-256`
      if (keyIdOf(key) !== keyid) yield `${keyid} is not the id of its key`
    }
  },

  /** Each new root by the keys of the one before and by its own; every other role by the keys of the newest root. */
  *'tuf-signed'({ publication, previous }) {
    let trusted: SignedMetadata<RootSigned> | undefined = previous?.root
    for (const root of publication.newRoots) {
      const { version } = root.signed
      if (version !== (trusted?.signed.version ?? 0) + 1) yield `root version ${version} leaves a gap`
      if (trusted && !isSignedFor(trusted, root)) yield `root version ${version} is not signed by the keys before it`
      if (!isSignedFor(root, root)) yield `root version ${version} is not signed by its own keys`
      trusted = root
    }
    if (trusted?.signed.version !== publication.root.signed.version) yield 'the newest root is not the published one'
    for (const [role, metadata] of roles(publication)) {
      if (!isSignedFor(publication.root, metadata)) yield `${role} is not signed by the keys in root`
    }
  },

  /** Clients keep the versions that they saw and refuse a lower one for ever. */
  *'tuf-version'({ publication, previous }) {
    if (!previous) return
    const before = new Map(roles(previous))
    for (const [role, { signed }] of roles(publication)) {
      const old = before.get(role)?.signed.version ?? 0
      if (signed.version < old) yield `${role} would go back from ${old} to ${signed.version}`
    }
    if (publication.timestamp.signed.version <= previous.timestamp.signed.version) yield 'timestamp does not advance'
  },

  /** timestamp → snapshot → targets must name exactly what is published beside them. */
  *'tuf-chain'({ publication: { timestamp, snapshot, targets } }) {
    if (timestamp.signed.meta['snapshot.json'].version !== snapshot.signed.version)
      yield 'timestamp names another snapshot'
    if (snapshot.signed.meta['targets.json']?.version !== targets.signed.version) yield 'snapshot names other targets'
  },

  /** "missing file" in every client if an entry of snapshot ever goes. */
  *'tuf-snapshot-keeps'({ publication, previous }) {
    for (const name of Object.keys(previous?.snapshot.signed.meta ?? {})) {
      if (!publication.snapshot.signed.meta[name]) yield `${name} would vanish`
    }
  },

  /** go-tuf picks a random one of several hashes for the URL; length and hash are what clients check. */
  *'tuf-targets'({ publication: { targets, targetFiles } }) {
    for (const [name, { hashes, length }] of Object.entries(targets.signed.targets)) {
      if (Object.keys(hashes).join() !== 'sha256') yield `${name}: hashes ${Object.keys(hashes).join()}`
      const bytes = targetFiles.get(name)
      if (targetFiles.size > 0 && !bytes) yield `${name} has no content`
      if (bytes && (length !== bytes.length || hashes.sha256 !== createHash('sha256').update(bytes).digest('hex'))) {
        yield `${name} is not what targets describes`
      }
    }
    if ('delegations' in targets.signed) yield 'delegations must be left out'
  },

  /** Limits of go-tuf; those of tuf-js and python-tuf are the same or wider. */
  *'tuf-size'({ publication }) {
    for (const [role, metadata] of roles(publication)) {
      const { length } = metadataBytes(metadata)
      if (length > LIMIT_BYTES[role]) yield `${role} has ${length} bytes`
    }
    // A client that was given version 1 walks all of them in one run.
    if (publication.root.signed.version > 256) yield 'more than 256 root versions'
  },

  /** Old snapshots and targets are fetched by version; python-tuf and go-tuf need consistent snapshots for that. */
  *'tuf-consistent-snapshot'({ publication: { root } }) {
    if (!root.signed.consistent_snapshot) yield 'consistent_snapshot is off'
    for (const [role, { keyids, threshold }] of Object.entries(root.signed.roles)) {
      if (threshold < 1 || new Set(keyids).size < threshold)
        yield `${role}: threshold ${threshold} of ${keyids.length} keys`
      for (const keyid of keyids) if (!root.signed.keys[keyid]) yield `${role}: unknown key ${keyid}`
    }
  },
} satisfies Record<string, (subject: RepositorySubject) => Iterable<string>>

const LIMIT_BYTES = { root: 512_000, timestamp: 16_384, snapshot: 2_000_000, targets: 5_000_000 } as const

function roles({ root, targets, snapshot, timestamp }: RepositoryState) {
  return Object.entries({ root, targets, snapshot, timestamp }) as [
    'root' | 'targets' | 'snapshot' | 'timestamp',
    RepositoryState['root' | 'targets' | 'snapshot' | 'timestamp'],
  ][]
}
