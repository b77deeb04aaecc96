/** How long each role is valid, and how long before its end it is signed again; seconds. */
export interface TufPolicy {
  readonly root: RolePolicy
  readonly targets: RolePolicy
  readonly snapshot: RolePolicy
  readonly timestamp: RolePolicy
}

/** `renewSeconds` < `validSeconds`. */
export interface RolePolicy {
  readonly validSeconds: number
  readonly renewSeconds: number
}

const DAY = 86_400

/**
 * Root and targets a year, with a quarter to get the custodians together. The timestamp three days and never less than
 * two left: a mirror survives a weekend of its signer, and a withheld update is noticed within three days (legacy
 * clients look for news only when it has expired).
 */
export const DEFAULT_TUF_POLICY: TufPolicy = {
  root: { validSeconds: 365 * DAY, renewSeconds: 90 * DAY },
  targets: { validSeconds: 365 * DAY, renewSeconds: 90 * DAY },
  snapshot: { validSeconds: 30 * DAY, renewSeconds: 15 * DAY },
  timestamp: { validSeconds: 3 * DAY, renewSeconds: 2 * DAY },
}

/** True if a role that ends at `expires` is to be signed again. */
export function isDue(expires: string, renewSeconds: number, now: Date): boolean {
  return new Date(expires).getTime() - now.getTime() < renewSeconds * 1000
}

/**
 * How near the end of a role is, once somebody must know. Of root and targets, whose signers are people: `ending`, `soon`
 * and `now` at 60, 30 and 14 of the 90 days in which they can be signed again. Of snapshot and timestamp, which the server
 * signs by itself: `late` and `failing`, after hours in which that did not succeed.
 */
export type NearEnd = 'ending' | 'soon' | 'now' | 'late' | 'failing' | 'expired'

/** Six attempts, one an hour, have failed; or the server was down. */
const LATE_SECONDS = 6 * 3600
/** The last day of a timestamp. */
const FAILING_SECONDS = DAY

/** Undefined while nobody needs to care. `secondsLeft` is negative after the end. */
export function nearEndOf(role: keyof TufPolicy, secondsLeft: number, policy: TufPolicy): NearEnd | undefined {
  if (secondsLeft <= 0) return 'expired'
  const { renewSeconds } = policy[role]
  if (role === 'snapshot' || role === 'timestamp') {
    if (secondsLeft > renewSeconds - LATE_SECONDS) return undefined
    return secondsLeft <= FAILING_SECONDS ? 'failing' : 'late'
  }
  // In proportion to the time to renew, so that a shorter policy is no alarm for ever.
  const days = secondsLeft / (renewSeconds / 90)
  if (days > 60) return undefined
  if (days > 30) return 'ending'
  return days > 14 ? 'soon' : 'now'
}
