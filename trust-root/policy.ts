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
