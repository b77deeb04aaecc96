/**
 * The one hard cap, certificates a minute for each key, raised by an operator for an hour at most: for a day of releases
 * that the cap did not foresee. It ends by itself; it is a line of the account, and the status tells of it.
 */
import type { KeyConfig } from './agent-config.ts'
import type { AgentState } from './agent-state.ts'
import { sha256, type Fields, refuse } from './purposes/purpose.ts'

/** Longer than an hour is a change of the configuration, which somebody reviews. */
export const MAX_RAISE_MINUTES = 60

/** A cap in force; `untilMs` of a raised one. */
export interface Cap {
  readonly perMinute: number
  readonly untilMs?: number
}

/** What holds for this key now: a raised cap while it lasts, else the configured one. */
export function capOf(key: KeyConfig, state: AgentState, nowMs: number): Cap {
  const raised = state.raisedCap(key.name)
  // A clock that was set back must not lengthen it.
  if (raised === undefined || nowMs >= raised.untilMs || raised.untilMs - nowMs > MAX_RAISE_MINUTES * 60_000) {
    return { perMinute: key.certificatesPerMinute }
  }
  return raised
}

/**
 * Raises the cap as `{key, perMinute, minutes}` asks, durably; a later one takes the place of an earlier one, and the
 * configured number ends it. Throws `HsmError` `refused`.
 */
export function raiseCap(request: Fields, key: KeyConfig, state: AgentState, nowMs: number): Required<Cap> {
  const perMinute = request.count('perMinute')
  const minutes = request.count('minutes')
  request.end()
  if (!key.purposes.has('certificate')) refuse('no_cap', `key ${key.name} signs no certificates`)
  if (perMinute < key.certificatesPerMinute) {
    refuse('cap_not_raised', `the configured cap of ${key.name} is ${key.certificatesPerMinute} a minute, not more`)
  }
  if (minutes < 1 || minutes > MAX_RAISE_MINUTES) {
    refuse('raise_too_long', `a cap is raised for 1 to ${MAX_RAISE_MINUTES} minutes`)
  }
  const untilMs = nowMs + minutes * 60_000
  const digest = sha256(Buffer.from(JSON.stringify({ key: key.name, perMinute, untilMs })))
  state.transaction(() => {
    state.account({ atMs: nowMs, key: key.name, act: 'raiseCap', count: perMinute, digest }, 0)
    state.setRaisedCap(key.name, { perMinute, untilMs })
  })
  return { perMinute, untilMs }
}
