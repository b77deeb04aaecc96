/** Tells of a rotation that nobody goes on with. */
import { readRotations, type RotationRecord } from '#lifecycle'
import type { AgeFinding } from './age-alarms.ts'

/** Custodians need a day or two; a rotation that was interrupted is gone on with the same day. */
const STILL_MS = 48 * 60 * 60 * 1000
/** After its waiting time is over: whoever began it comes back in the morning. */
const OVERDUE_MS = 16 * 60 * 60 * 1000

/** One that is under way and has not moved for two days, or whose waiting time has long been over. */
export function rotationFindings(dataDir: string, nowMs: number): AgeFinding[] {
  let current: RotationRecord | undefined
  try {
    ;({ current } = readRotations(dataDir))
  } catch (error) {
    return [{ code: 'rotation_stalled', subject: 'journal', message: error instanceof Error ? error.message : '' }]
  }
  const message = current === undefined ? undefined : stalled(current, nowMs)
  return current === undefined || message === undefined
    ? []
    : [{ code: 'rotation_stalled', subject: current.kind, message }]
}

function stalled({ kind, startedAt, steps, facts, aborting }: RotationRecord, nowMs: number): string | undefined {
  const waitUntil = facts['waitUntil']
  const step = steps.find(({ finishedAt }) => finishedAt === undefined)?.name ?? ''
  if (step === 'wait' && aborting === undefined && typeof waitUntil === 'string') {
    if (nowMs < Date.parse(waitUntil) + OVERDUE_MS) return undefined
    return `the rotation of ${kind} has waited for clients' caches until ${waitUntil}; go on with: chancery rotate resume`
  }
  const moved = steps
    .flatMap((each) => [each.startedAt, each.finishedAt ?? ''])
    .reduce(later, aborting?.at ?? startedAt)
  if (nowMs < Date.parse(moved) + STILL_MS) return undefined
  return `the rotation of ${kind} stands at ${step === '' ? 'its beginning' : step} since ${moved}; see: chancery rotate status`
}

function later(one: string, other: string): string {
  return one > other ? one : other
}
