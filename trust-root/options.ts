import type { TufAgent } from './metadata.ts'
import type { TufPolicy } from './policy.ts'
import type { Release } from './release.ts'

/**
 * Opens what holds custodians' keys for the moment of `use` and closes it again; in production there is none beside a
 * ceremony. Keys that it does not have are asked for elsewhere: the publication waits.
 */
export type WithRootAgent = <T>(use: (agent: TufAgent) => Promise<T>) => Promise<T>

/** Names of the TUF keys in their agents. */
export interface TufKeyNames {
  /** Roles root and targets where no roles.json names custodians; on the root token. */
  readonly root: string
  /** Keys that an older root names and that must sign its successor once more. */
  readonly formerRoot?: readonly string[]
  /** Roles snapshot and timestamp unless roles.json names another; on the online token. */
  readonly online: string
}

/** The key names of a standard installation. */
export const DEFAULT_TUF_KEYS: TufKeyNames = { root: 'tuf-root', online: 'tuf-online' }

/** What is being done; called before each step, for progress, and for tests that stop there. */
export type PublishStep =
  | 'render'
  | 'lint'
  | 'root'
  | 'targets'
  /** A publication that waits for custodians is made durable. */
  | 'freeze'
  /** Signatures that were brought are made durable. */
  | 'merge'
  | 'snapshot'
  | 'timestamp'
  | 'check'
  | 'canary'
  | 'write'
  | 'switch'
  | 'tidy'
  /** What waited is forgotten, published or withdrawn. */
  | 'clear'

/** The last question before clients see it: rejects with what speaks against it. */
export type Canary = (candidate: Release) => Promise<void>

/** Everything that a publication needs. */
export interface PublishOptions {
  /** The trust-root folder, which holds items.json. Only one process publishes into it. */
  readonly folder: string
  readonly agent: TufAgent
  readonly withRootAgent?: WithRootAgent | undefined
  readonly keys?: TufKeyNames | undefined
  readonly policy?: TufPolicy | undefined
  readonly now: Date
  readonly onStep?: ((step: PublishStep) => void) | undefined
  /** Tries a candidate on signatures of before and of now. Not asked for a mere re-signing. */
  readonly canary?: Canary | undefined
}
