/**
 * One token's connection with its breaker. Closed: requests go there. Open: nothing does, and attempts to connect follow
 * each other with growing pauses, outside of every request. Half open: such an attempt is under way; it signs with each
 * key, under the pinned key's judgement, before the first request gets there again.
 */
import type { HsmError } from './signing.ts'
import type { Token } from './token.ts'

export type BreakerState = 'closed' | 'open' | 'half_open'

/** Failures in a row that are no loss, after which a token of several is left alone for a while. */
const OPEN_AFTER = 5

export class Link {
  readonly token: Token
  /** The run of attempts that is under way; ended by success, or by what needs somebody's hand. */
  reconnecting: Promise<void> | undefined
  /** Why the last attempt failed. */
  fault: HsmError | undefined
  /** Resolves with the end of the first attempt of the run, whatever came of it. */
  attempted: Promise<void> = Promise.resolve()
  /** Monotonic. */
  outageSinceMs = 0
  /** Sessions are open, or may be. */
  connected = false
  trying = false
  /** Its token is not configured any more: nobody connects again. */
  dropped = false
  #failures = 0

  constructor(token: Token) {
    this.token = token
  }

  get usable(): boolean {
    return this.reconnecting === undefined && this.fault === undefined && !this.dropped
  }

  get breaker(): BreakerState {
    if (this.usable) return 'closed'
    return this.trying ? 'half_open' : 'open'
  }

  succeeded(): void {
    this.#failures = 0
  }

  /** Counts a failure that was no loss; true if there were too many in a row. */
  failedTooOften(): boolean {
    this.#failures++
    if (this.#failures < OPEN_AFTER) return false
    this.#failures = 0
    return true
  }
}
