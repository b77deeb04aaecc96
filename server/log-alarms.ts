/** Tells what ends the writing of a log until somebody acts, within a second of when the log found it. */
import type { Alarms } from '#alarms'
import type { Log } from '#transparency-log'

const LOOK_EVERY_MS = 500

/** Codes of `Log.fault` that are alarms of the same name. */
const CODES = ['fork_refused', 'guard_behind', 'store_replaced', 'origin_in_use', 'disk_io_error'] as const

/** `ended`: it has a successor, and whatever keeps it from being written has no consequence any more. */
export interface WatchedLog {
  readonly log: Pick<Log, 'name' | 'fault'>
  readonly ended: boolean
}

/** Looks until the returned function is called. */
export function watchLogs(logs: () => readonly WatchedLog[], alarms: Pick<Alarms, 'set'>): () => void {
  const look = (): void => {
    for (const { log, ended } of logs()) {
      const fault = ended ? undefined : log.fault()
      for (const code of CODES) alarms.set(code, log.name, fault?.code === code ? fault.message : undefined)
    }
  }
  look()
  const timer = setInterval(look, LOOK_EVERY_MS).unref()
  return () => clearInterval(timer)
}
