/**
 * A wall clock that is watched against the monotonic one, which nobody can set. The difference of the two is constant but
 * for steps: a time service that slews moves both. Looked at whenever a time is about to be signed, so that no time of
 * after a step gets out; what a step of up to the tolerance can do to a time is that tolerance. After a larger one the
 * clock is not trusted until it has been confirmed (docs/decisions/0021-clock.md).
 */
import { readFileSync } from 'node:fs'

/** The largest step that is let pass, in all since the last confirmation. */
export const STEP_TOLERANCE_MS = 1000

/** Resolves with undefined if true time agrees with this machine's clock, else with what it says. */
export type Confirmation = () => Promise<string | undefined>

export interface SteadyClockOptions {
  /** Asked again and again while the clock is not trusted. Undefined: it is trusted again when it has run evenly for `steadySeconds`. */
  readonly confirm?: Confirmation | undefined
  readonly steadySeconds: number
  /** What wall minus monotonic was when it was last trusted, milliseconds, if an earlier process of this boot knows. */
  readonly trustedOffsetMs?: number | undefined
  /** Why the clock is not trusted from the start, if there is a reason. */
  readonly distrust?: string | undefined
  /** Called with the reason when trust ends, and with undefined when it is back. */
  readonly onChange?: (fault: string | undefined) => void
  /** Milliseconds since the epoch. */
  readonly wall?: () => number
  /** Milliseconds since the machine was started. */
  readonly monotonic?: () => number
}

const LOOK_EVERY_MS = 1000

/** Wall time, and whether it may be signed. */
export class SteadyClock {
  readonly #options: SteadyClockOptions
  readonly #wall: () => number
  readonly #monotonic: () => number
  #trustedOffsetMs: number
  #fault: string | undefined
  #lastStepMs = 0
  /** While it is not trusted: since when, on the monotonic clock, it has run evenly, and with which offset. */
  #even = { sinceMs: 0, offsetMs: 0 }
  #confirming: Promise<void> | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(options: SteadyClockOptions) {
    this.#options = options
    this.#wall = options.wall ?? Date.now
    this.#monotonic = options.monotonic ?? monotonicMs
    const offsetMs = this.#offset()
    this.#trustedOffsetMs = options.trustedOffsetMs ?? offsetMs
    if (options.distrust !== undefined) this.#stop(options.distrust, offsetMs)
    this.fault()
  }

  /** Looks every second, and asks for confirmation while there is no trust, until `close`. */
  start(): void {
    this.#timer ??= setInterval(() => void this.look(), LOOK_EVERY_MS).unref()
  }

  /** The wall clock, trusted or not. */
  now(): number {
    return this.#wall()
  }

  /** The time that a step does not touch, in whole milliseconds: the wall clock while it is trusted, and what it would be without the step after that. */
  steady(): number {
    return this.fault() === undefined ? this.#wall() : Math.floor(this.#trustedOffsetMs + this.#monotonic())
  }

  /** Why no time may be signed just now, or undefined. Looks at both clocks. */
  fault(): string | undefined {
    const offsetMs = this.#offset()
    if (this.#fault === undefined) {
      const stepMs = offsetMs - this.#trustedOffsetMs
      if (Math.abs(stepMs) > STEP_TOLERANCE_MS) this.#stop(stepText(stepMs), offsetMs, stepMs)
    } else if (Math.abs(offsetMs - this.#even.offsetMs) > STEP_TOLERANCE_MS) {
      this.#even = { sinceMs: this.#monotonic(), offsetMs }
    }
    return this.#fault
  }

  /** The step that ended trust last, milliseconds; 0 before any. */
  lastStepMs(): number {
    return this.#lastStepMs
  }

  /** Looks at the clocks and, without trust, asks for confirmation once. */
  async look(): Promise<void> {
    if (this.fault() === undefined) return
    this.#confirming ??= this.#confirm().finally(() => {
      this.#confirming = undefined
    })
    await this.#confirming
  }

  /** Wall minus monotonic as it is trusted, milliseconds: constant over processes of one boot. */
  trustedOffsetMs(): number {
    return this.#trustedOffsetMs
  }

  close(): void {
    clearInterval(this.#timer)
  }

  async #confirm(): Promise<void> {
    const { confirm, steadySeconds, onChange } = this.#options
    const asked = this.#offset()
    if (confirm === undefined) {
      if (this.#monotonic() - this.#even.sinceMs < steadySeconds * 1000) return
    } else if ((await confirm()) !== undefined) return
    // What was confirmed is the clock as it was then.
    if (Math.abs(this.#offset() - asked) > STEP_TOLERANCE_MS || this.#fault === undefined) return
    this.#trustedOffsetMs = this.#offset()
    this.#fault = undefined
    onChange?.(undefined)
  }

  #stop(fault: string, offsetMs: number, stepMs = 0): void {
    this.#fault = fault
    this.#lastStepMs = Math.round(stepMs)
    this.#even = { sinceMs: this.#monotonic(), offsetMs }
    this.#options.onChange?.(fault)
  }

  #offset(): number {
    return this.#wall() - this.#monotonic()
  }
}

/** CLOCK_MONOTONIC itself, which all processes of one boot share; `performance.now()` counts from the process's start. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

/** Another one after each start of the machine, by which monotonic times of different processes may be compared. */
export function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  } catch {
    return 'unknown'
  }
}

function stepText(stepMs: number): string {
  return `the clock was stepped by ${Math.round(stepMs)} ms; nothing that states a time is signed until it is confirmed`
}
