/** Tells what grows old: certificates, TUF metadata and the newest heads of logs. */
import type { Alarms, Code } from '#alarms'
import type { TrustRootStatus } from '#trust-root'
import type { Parts } from './main.ts'
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
  return status.roles.flatMap(({ role, state, expires }): AgeFinding[] => {
    const day = new Date(expires).toISOString()
    if (state === 'expired') {
      const message = `TUF ${role} expired on ${day}: clients refuse the mirror until it is signed again`
      return [{ code: 'trust_root_expired', subject: role, message }]
    }
    if (state !== 'alarm') return []
    const message = `TUF ${role} ends on ${day} and its key is not open here: a ceremony is due`
    return [{ code: 'trust_root_ending', subject: role, message }]
  })
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
