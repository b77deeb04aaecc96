/** The time that tokens state: whole seconds that never step back, refused when they may be off by more than they say. */
import type { Logger } from 'pino'
import { TimestampError } from './error.ts'
import { clockErrors } from './metrics.ts'
import { ACCURACY_SECONDS } from './token.ts'

/** Measures how far this machine's clock is off, e.g. by NTP; rejects if it cannot say. */
export type TimeSource = () => Promise<{ readonly offsetMs: number }>

export interface TimestampClockOptions {
  readonly now: () => number
  /** Why the clock is not to be trusted just now, whatever the sources say. */
  readonly fault?: (() => string | undefined) | undefined
  readonly timeSource?: TimeSource | undefined
  /** True: without a trustworthy measurement there is no time. False: only a warning. */
  readonly strict: boolean
  readonly logger?: Pick<Logger, 'warn'> | undefined
}

/** A measurement holds this long: a free-running clock drifts some 100 µs in it, far below the accuracy. */
const MEASUREMENT_TTL_MS = 10_000
const MEASUREMENT_TIMEOUT_MS = 5_000
const ACCURACY_MS = ACCURACY_SECONDS * 1000

export class TimestampClock {
  readonly #options: TimestampClockOptions
  #lastSeconds = 0
  #measuredAtMs = Number.NEGATIVE_INFINITY
  #offsetMs: number | undefined
  #measuring: Promise<void> | undefined

  constructor(options: TimestampClockOptions) {
    this.#options = options
  }

  /** The next token's time; throws `time_not_available`. */
  async read(): Promise<Date> {
    const fault = this.#options.fault?.()
    if (fault !== undefined) throw unavailable(fault)
    if (this.#options.timeSource !== undefined) await this.#check(this.#options.timeSource)
    else if (this.#options.strict) throw unavailable('no time source is configured')
    const seconds = Math.floor(this.#options.now() / 1000)
    // The clock was set back: the last time is repeated while that is within the accuracy, and not a second longer.
    if (this.#lastSeconds - seconds > ACCURACY_SECONDS) {
      if (this.#options.fault === undefined) throw unavailable('clock went back')
      // It is trusted all the same: it was ahead, and has been confirmed as it is now.
      this.#lastSeconds = seconds
    }
    this.#lastSeconds = Math.max(this.#lastSeconds, seconds)
    return new Date(this.#lastSeconds * 1000)
  }

  async #check(timeSource: TimeSource): Promise<void> {
    const age = this.#options.now() - this.#measuredAtMs
    if (age < 0 || age > MEASUREMENT_TTL_MS) {
      this.#measuring ??= this.#measure(timeSource).finally(() => (this.#measuring = undefined))
      await this.#measuring
    }
    const offsetMs = this.#offsetMs
    if (offsetMs !== undefined && Math.abs(offsetMs) <= ACCURACY_MS) return
    if (this.#options.strict)
      throw unavailable(offsetMs === undefined ? 'clock cannot be checked' : 'clock is off by more than the accuracy')
  }

  async #measure(timeSource: TimeSource): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    try {
      const timeout = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error('time source did not answer')), MEASUREMENT_TIMEOUT_MS)
      })
      const { offsetMs } = await Promise.race([timeSource(), timeout])
      this.#offsetMs = Number.isFinite(offsetMs) ? offsetMs : undefined
    } catch (error) {
      this.#offsetMs = undefined
      this.#options.logger?.warn({ err: error }, 'time source failed')
    } finally {
      clearTimeout(timer)
    }
    this.#measuredAtMs = this.#options.now()
    if (this.#offsetMs === undefined) clockErrors.inc({ reason: 'err_too_few' })
    else if (Math.abs(this.#offsetMs) > ACCURACY_MS) {
      clockErrors.inc({ reason: 'err_inv_time' })
      this.#options.logger?.warn({ offsetMs: this.#offsetMs }, 'clock is off by more than the accuracy of timestamps')
    }
  }
}

function unavailable(message: string): TimestampError {
  return new TimestampError('time_not_available', message)
}
