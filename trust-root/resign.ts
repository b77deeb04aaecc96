import { Gauge, Counter } from 'prom-client'
import type { TufRole } from '#hsm'
import { TrustRootError } from './errors.ts'
import type { PublishOptions } from './options.ts'
import { DEFAULT_TUF_POLICY, isDue, type NearEnd, nearEndOf, type TufPolicy } from './policy.ts'
import { onlineSignerOf, publishAgain, publishPending, refreshOnlineRoles } from './publish.ts'
import type { PendingSummary, Publication, PublishedVersions } from './publication.ts'
import { readRepository, type RepositoryState } from './repository.ts'

/** One role as an operator sees it. */
export interface RoleStatus {
  readonly role: TufRole
  readonly version: number
  readonly expires: Date
  /** So many of so many keys sign it. */
  readonly threshold: number
  readonly keys: number
  /** Negative once expired. */
  readonly secondsLeft: number
  /**
   * `fresh`; `due`: to be signed again, by the server itself or where its custodians are by `publish`; `alarm`: somebody
   * must see to it (`nearEnd` says how urgently); `expired`: clients refuse the mirror now.
   */
  readonly state: 'fresh' | 'due' | 'alarm' | 'expired'
  readonly nearEnd?: NearEnd
}

/** The roles, worst news first seen in `state`. */
export interface TrustRootStatus {
  readonly published: boolean
  readonly state: RoleStatus['state']
  readonly roles: readonly RoleStatus[]
  /** A publication that waits for custodians. */
  readonly pending?: PendingSummary
}

/** Unix time at which a role ends: the number to alert on. */
const expiryGauge = new Gauge({
  name: 'chancery_tuf_expiry_timestamp_seconds',
  help: 'When the published metadata of a TUF role expires, in Unix seconds',
  labelNames: ['role'],
})
const alarmGauge = new Gauge({
  name: 'chancery_tuf_alarm',
  help: '1 if a TUF role nears its end or has ended, and somebody must see to it',
  labelNames: ['role'],
})
const resignedCounter = new Counter({
  name: 'chancery_tuf_resigned_total',
  help: 'How often metadata was signed again to keep it fresh',
  labelNames: ['outcome'],
})

/** Versions and ends of what is published, with what follows from them. Sets the metrics. */
export async function trustRootStatus(
  folder: string,
  options: { readonly now: Date; readonly policy?: TufPolicy | undefined },
): Promise<TrustRootStatus> {
  const state = await readRepository(folder)
  if (!state) return { published: false, state: 'expired', roles: [] }
  const { now, policy = DEFAULT_TUF_POLICY } = options
  const roles = (['root', 'targets', 'snapshot', 'timestamp'] as const).map((role): RoleStatus => {
    const { version, expires } = state[role].signed
    const secondsLeft = Math.floor((Date.parse(expires) - now.getTime()) / 1000)
    const nearEnd = nearEndOf(role, secondsLeft, policy)
    const freshness = isDue(expires, policy[role].renewSeconds, now) ? 'due' : 'fresh'
    const { threshold, keyids } = state.root.signed.roles[role]
    const by = { threshold, keys: keyids.length }
    return {
      role,
      version,
      ...by,
      expires: new Date(expires),
      secondsLeft,
      state: nearEnd === 'expired' ? 'expired' : nearEnd === undefined ? freshness : 'alarm',
      ...(nearEnd === undefined ? {} : { nearEnd }),
    }
  })
  for (const { role, expires, state } of roles) {
    expiryGauge.set({ role }, expires.getTime() / 1000)
    alarmGauge.set({ role }, state === 'alarm' || state === 'expired' ? 1 : 0)
  }
  const worst = (['expired', 'alarm', 'due'] as const).find((state) => roles.some((role) => role.state === state))
  return { published: true, state: worst ?? 'fresh', roles }
}

/**
 * Signs again what is due: timestamp and snapshot with the online key; root and targets only if `withRootAgent` is
 * given (development). Returns the new versions, or undefined if everything is fresh. The status keeps the alarm for
 * what it could not sign. Rejects as `publish` does, but not before timestamp and snapshot are fresh, which clients
 * refuse within days; the next call tries again.
 */
export async function resignDue(options: PublishOptions): Promise<PublishedVersions | undefined> {
  const { folder, now, policy = DEFAULT_TUF_POLICY, withRootAgent } = options
  const state = await readRepository(folder)
  if (!state) throw new TrustRootError('missing', 'nothing is published yet; run: chancery init')
  const due = (role: TufRole) => isDue(state[role].signed.expires, policy[role].renewSeconds, now)
  try {
    const behind = await isBehind(options, state)
    const published = await settled(async () => {
      const completed = versionsIn(await publishPending(options))
      if (completed !== undefined || !withRootAgent || !(behind || due('root') || due('targets'))) return completed
      return versionsIn(await publishAgain(options))
    })
    let versions = published.value
    if (versions === undefined && (behind || due('snapshot'))) versions = await refreshOnlineRoles(options, true)
    else if (versions === undefined && due('timestamp')) versions = await refreshOnlineRoles(options, false)
    if (versions) resignedCounter.inc({ outcome: 'signed' })
    if (published.failure) throw published.failure.error
    return versions
  } catch (error) {
    resignedCounter.inc({ outcome: 'failed' })
    throw error
  }
}

/** What came of it, for later. */
async function settled<T>(task: () => Promise<T>): Promise<{ value?: T; failure?: { error: unknown } }> {
  try {
    return { value: await task() }
  } catch (error) {
    return { failure: { error } }
  }
}

function versionsIn(publication: Publication | undefined): PublishedVersions | undefined {
  return publication?.state === 'published' ? publication.versions : undefined
}

/**
 * Whether the agent has signed newer metadata than is published: the folder was restored from a backup, or a publication
 * was interrupted. Clients that saw the newer one refuse what is here as a rollback until it is signed again above it.
 */
async function isBehind(options: PublishOptions, { root, snapshot, timestamp }: RepositoryState): Promise<boolean> {
  const { agent, keyName } = await onlineSignerOf(options, root.signed)
  const signed = await agent.tufVersions({ key: keyName })
  return (signed.snapshot ?? 0) > snapshot.signed.version || (signed.timestamp ?? 0) > timestamp.signed.version
}
