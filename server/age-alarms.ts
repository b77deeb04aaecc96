/** Tells what grows old: certificates, TUF metadata and the newest heads of logs. */
import type { Alarms, Code } from '#alarms'
import type { NearEnd, TrustRootStatus } from '#trust-root'
import type { Parts } from './main.ts'
import { rotationFindings } from './rotation-alarm.ts'
import { standbyFindings, standbyStates } from './standby.ts'
import { certificatesOf, trustRootStatus } from './status.ts'

/** Time to hold a ceremony in working hours. */
const SOON_MS = 14 * 86_400_000
/** A CT log signs its head again every ten minutes. */
const CT_HEAD_MS = 60 * 60_000
/** Clients that wait for an entry give up after seconds. */
const WAITED_FOR_MS = 5 * 60_000
const LOOK_EVERY_MS = 30_000

export interface AgeFinding {
  readonly code: Code
  readonly subject: string
  readonly message: string
}

/** Certificates that have ended, or do within two weeks. */
export function certificateFindings(
  certificates: readonly { readonly name: string; readonly notAfter: string }[],
  nowMs: number,
): AgeFinding[] {
  return certificates.flatMap(({ name, notAfter }): AgeFinding[] => {
    const left = Date.parse(notAfter) - nowMs
    if (left > SOON_MS) return []
    return left <= 0
      ? [
          {
            code: 'certificate_expired',
            subject: name,
            message: `the certificate ended on ${notAfter}; renew it`,
          },
        ]
      : [
          {
            code: 'certificate_ending',
            subject: name,
            message: `the certificate ends on ${notAfter}; renew it`,
          },
        ]
  })
}

/** TUF roles that clients refuse, or that somebody must sign soon. */
export function trustRootFindings(status: TrustRootStatus | undefined): AgeFinding[] {
  if (status === undefined) return []
  if (!status.published) {
    const message = 'no TUF repository can be read: clients cannot begin to verify; put trust-root/ back'
    return [{ code: 'trust_root_expired', subject: 'repository', message }]
  }
  return status.roles.flatMap(({ role, nearEnd, expires }): AgeFinding[] => {
    if (nearEnd === undefined) return []
    const { code, message } = NEAR_END[nearEnd]
    return [{ code, subject: role, message: message(`TUF ${role}`, new Date(expires).toISOString()) }]
  })
}

type Told = (role: string, end: string) => string

const byCustodians: Told = (role, end) =>
  `${role} ends on ${end}: renew it with chancery trust publish, and have it signed by its custodians`
const byServer: Told = (role, end) =>
  `${role} ends on ${end} and could not be signed again: is the key of snapshot and timestamp there?`

/** Of the rising urgency of one role only the newest is on. */
const NEAR_END: Readonly<Record<NearEnd, { readonly code: Code; readonly message: Told }>> = {
  ending: { code: 'trust_root_ending', message: byCustodians },
  soon: { code: 'trust_root_ending_soon', message: byCustodians },
  now: { code: 'trust_root_ending_now', message: byCustodians },
  late: { code: 'trust_root_late', message: byServer },
  failing: { code: 'trust_root_failing', message: byServer },
  expired: {
    code: 'trust_root_expired',
    message: (role, end) => `${role} expired on ${end}: clients refuse the mirror until it is signed again`,
  },
}

/** Logs whose newest head is older than it may be. */
export function checkpointFindings(
  logs: readonly {
    readonly name: string
    readonly kind: string
    readonly sealedAtMs: number
    readonly pending: number
  }[],
  nowMs: number,
): AgeFinding[] {
  return logs.flatMap(({ name, kind, sealedAtMs, pending }): AgeFinding[] => {
    const old = nowMs - sealedAtMs
    if (!(kind === 'ct' && old > CT_HEAD_MS) && !(pending > 0 && old > WAITED_FOR_MS)) return []
    const message = `the newest head was signed ${Math.floor(old / 60_000)} minutes ago, and ${pending} callers wait; see the service's reason`
    return [{ code: 'checkpoint_old', subject: name, message }]
  })
}

/** Looks now and every half minute; returns a function that stops. */
export function watchAges(parts: Parts): () => void {
  const { alarms } = parts
  let raised: readonly AgeFinding[] = []
  const look = async (): Promise<void> => {
    const nowMs = Date.now()
    const logs = parts.logs.map(({ config: { kind }, log }) => {
      return { name: log.name, kind, sealedAtMs: log.head().timestampMs, pending: log.pending() }
    })
    const found = [
      ...certificateFindings(certificatesOf(parts.loaded), nowMs),
      ...trustRootFindings(await trustRootStatus(parts)),
      ...checkpointFindings(logs, nowMs),
      ...rotationFindings(parts.loaded.dataDir, nowMs),
      ...standbyFindings(await standbyStates(parts.loaded)),
    ]
    tell(alarms, raised, found)
    raised = found
  }
  void look()
  const timer = setInterval(() => void look(), LOOK_EVERY_MS).unref()
  return () => clearInterval(timer)
}

function tell(alarms: Pick<Alarms, 'raise' | 'clear'>, before: readonly AgeFinding[], found: readonly AgeFinding[]) {
  for (const { code, subject, message } of found) alarms.raise(code, subject, message)
  for (const old of before) {
    if (!found.some(({ code, subject }) => code === old.code && subject === old.subject))
      alarms.clear(old.code, old.subject)
  }
}
