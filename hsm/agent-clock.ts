/** The agent's clock: what it trusts when it starts, and what it remembers when that ends. */
import type { AgentState } from './agent-state.ts'
import { bootId, type Confirmation, SteadyClock } from './clock.ts'
import type { AgentLog } from './log-line.ts'

export interface ClockConfig {
  /** `steady`: by running evenly for `steadySeconds`. */
  readonly confirmedBy: 'kernel' | 'steady' | readonly string[]
  readonly steadySeconds: number
}

/** The purposes let a time be two seconds ahead of the clock, which wavers by another. */
const BEHIND_TOLERANCE_MS = 3000

export interface AgentClockOptions {
  readonly state: AgentState
  readonly log: AgentLog
  /** Undefined: steadiness alone. */
  readonly confirm: Confirmation | undefined
  readonly steadySeconds: number
}

/**
 * A step while no agent ran, or one that a restart would hide, is found by the offset that the last agent of this boot
 * left; a clock that is behind what was signed was set back. With a confirmation the clock is trusted after that alone.
 */
export function openAgentClock({ state, log, confirm, steadySeconds }: AgentClockOptions): SteadyClock {
  const name = `wall-monotonic/${bootId()}`
  const known = state.clock(name)
  const lastMs = state.lastSignedMs()
  const behind = lastMs - Date.now() > BEHIND_TOLERANCE_MS
  const distrust = behind
    ? `the clock is ${lastMs - Date.now()} ms behind what was signed last`
    : confirm === undefined
      ? undefined
      : 'the clock has not been confirmed since the agent started'
  const clock: SteadyClock = new SteadyClock({
    confirm,
    steadySeconds,
    distrust,
    trustedOffsetMs: known === 0 ? undefined : known,
    onChange: (fault) => {
      if (fault !== undefined) {
        log.error('ALARM: clock_stepped', { fault })
        return
      }
      remember()
      log.warn('the clock is trusted again', {})
    },
  })
  // What was signed under a clock that turned out to be ahead must not keep back what is right now.
  const remember = () =>
    state.transaction(() => {
      state.setClock(name, Math.round(clock.trustedOffsetMs()))
      state.lowerSignedTimes(Date.now())
    })
  if (clock.fault() === undefined && known === 0) remember()
  clock.start()
  void clock.look()
  return clock
}
