import type { SigningAgent } from '#hsm'
import type { Logger } from 'pino'
import type { FaultHook } from './fault-points.ts'
import type { Log, SignEntry } from './log.ts'

/** Which face the log has; it is stored, and a database of another kind is refused. */
export type LogKind = 'ct' | 'rekor-v1' | 'rekor-v2'

/** Bounds of one log; the defaults are in `sequencer.ts` with their reasons. */
export interface LogLimits {
  /** Callers that may wait in `add` at once; more are refused `pool_full`. */
  readonly poolSize?: number
  /** Entries of one commit and seal. */
  readonly batchSize?: number
  /** How long `add` waits for its seal before it rejects `unavailable`. */
  readonly addDeadlineMs?: number
  /** Entry signatures in flight at the agent at once. */
  readonly signConcurrency?: number
  /** Age at which an unchanged head is signed again with a new time; 0 for never. */
  readonly refreshMs?: number
}

export interface OpenLogOptions {
  /** In messages and metrics, e.g. `rekor-v1`. */
  readonly name: string
  readonly kind: LogKind
  /** What is signed; cannot change once the database exists. */
  readonly origin: string
  /** The SQLite file; made if it is not there. */
  readonly databasePath: string
  readonly agent: SigningAgent
  /** The agent's name of the log's key. */
  readonly key: string
  readonly signEntry?: SignEntry
  readonly limits?: LogLimits
  /** Milliseconds since the epoch. */
  readonly now?: () => number
  readonly logger?: Pick<Logger, 'info' | 'warn' | 'error'>
  readonly faultPoint?: FaultHook
}

/** Opens a log; being written. */
export function openLog(options: OpenLogOptions): Promise<Log> {
  return Promise.reject(new Error(`not yet: ${options.name}`))
}
