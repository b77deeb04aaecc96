/**
 * The clock of the services. Steps are found when a time is about to be stated (`#hsm` SteadyClock); after one nothing that
 * states a time is made until most of the configured time sources agree with the clock again. Without sources, which
 * production does not allow, running evenly for a while is enough, and the alarm tells an operator to look.
 */
import type { Alarms } from '#alarms'
import { type Confirmation, STEP_TOLERANCE_MS, SteadyClock } from '#hsm'
import type { Config } from './config.ts'
import { timeSourceOf } from './time-source.ts'

export interface WatchedClock {
  /** The time to state, milliseconds since the epoch: a step does not touch it, and `fault` says when not to state it. */
  readonly now: () => number
  /** The last step seen, in milliseconds (wall minus monotonic), or 0. */
  readonly lastStepMs: () => number
  /** Why no time is stated just now; undefined while the clock runs evenly and agrees with its sources. */
  readonly fault: () => string | undefined
  readonly close: () => void
}

/** One measurement of this machine's clock against true time; rejects if it cannot be made. */
export type TimeSource = () => Promise<{ readonly offsetMs: number }>

/** Between steps the sources are asked as often as a time service would; a crystal drifts some 6 ms in it. */
const ASK_EVERY_MS = 60_000

export interface ClockOptions {
  readonly sources: readonly TimeSource[]
  readonly steadySeconds: number
  /** Not trusted before its sources agreed for the first time. */
  readonly strict: boolean
  readonly alarms: Pick<Alarms, 'raise' | 'clear' | 'set'>
  /** For tests: see `SteadyClockOptions`. */
  readonly wall?: () => number
  readonly monotonic?: () => number
}

/** All sources that the configuration names. */
export function timeSourcesOf({ time, timestamp }: Pick<Config, 'time' | 'timestamp'>): TimeSource[] {
  const named = [...time.sources, ...(timestamp?.timeSource === undefined ? [] : [timestamp.timeSource])]
  return named.map(({ command }) => timeSourceOf(command))
}

/** Watches from now on; resolves when the sources have been asked once. */
export async function watchClock(options: ClockOptions): Promise<WatchedClock> {
  const { sources, steadySeconds, strict, alarms } = options
  const confirm = sources.length === 0 ? undefined : agreementOf(sources)
  const clock = new SteadyClock({
    ...options,
    confirm,
    steadySeconds,
    distrust: strict && confirm !== undefined ? 'the time sources have not been asked since the start' : undefined,
    onChange: (fault) => alarms.set('clock_stepped', 'server', fault),
  })
  const ask = async () => {
    const verdict = await confirm?.()
    alarms.set('time_sources_disagree', 'server', verdict)
  }
  await clock.look()
  const asking = confirm === undefined ? undefined : setInterval(() => void ask(), ASK_EVERY_MS).unref()
  if (confirm !== undefined) void ask()
  clock.start()
  return {
    now: () => clock.steady(),
    lastStepMs: () => clock.lastStepMs(),
    fault: () => clock.fault(),
    close: () => {
      clearInterval(asking)
      clock.close()
    },
  }
}

/** More than half of all sources must be within the tolerance: one that lies or is silent decides nothing alone if there are three. */
export function agreementOf(sources: readonly TimeSource[]): Confirmation {
  return async () => {
    const answers = await Promise.allSettled(sources.map(async (source) => await source()))
    const agreeing = answers.filter(
      (answer) => answer.status === 'fulfilled' && Math.abs(answer.value.offsetMs) <= STEP_TOLERANCE_MS,
    )
    if (agreeing.length * 2 > sources.length) return undefined
    const said = answers.map((answer) =>
      answer.status === 'fulfilled' ? `${Math.round(answer.value.offsetMs)} ms` : 'no answer',
    )
    return `${agreeing.length} of ${sources.length} time sources agree with this machine's clock (${said.join(', ')})`
  }
}
