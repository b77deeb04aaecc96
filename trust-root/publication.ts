import type { TufRole } from '#hsm'

/** The versions that clients see. */
export interface PublishedVersions {
  readonly root: number
  readonly targets: number
  readonly snapshot: number
  readonly timestamp: number
}

/** What became of a wish to publish. */
export type Publication =
  /** Clients see it. */
  | { readonly state: 'published'; readonly versions: PublishedVersions }
  /** Frozen until custodians have signed; clients see what they saw before. It completes by itself then. */
  | { readonly state: 'awaiting-signatures'; readonly pending: PendingSummary }

/** A publication that waits for custodians. */
export interface PendingSummary {
  /** Names this very content: 16 hex digits. */
  readonly id: string
  /** Root before targets; only those that must be signed. */
  readonly roles: readonly PendingRole[]
}

/** One frozen role of a pending publication. */
export interface PendingRole {
  readonly role: Extract<TufRole, 'root' | 'targets'>
  readonly version: number
  /** Of the exact bytes that are signed; hex. */
  readonly sha256: string
  /** Signatures that count towards a threshold so far. */
  readonly have: number
  /** Signatures that are needed in all, of `have` and `missing` together; a root needs the old threshold and the new one. */
  readonly need: number
  /** Who may still sign. */
  readonly missing: readonly Custodian[]
}

/** Whose key it is. */
export interface Custodian {
  readonly keyid: string
  /** As in roles.json, and as the key is usually named in the custodian's agent. */
  readonly name: string
  /** Who holds the token and where, in words; may be empty. */
  readonly holder: string
}
