/** The roots that each CT log accepts: one set a log, for its HTTP interface and the CA of this process alike. */
import { AcceptedRoots } from '#transparency-log'
import { type LoadedConfig, type LogConfig, readCertificates } from './config.ts'

export class RootsOfLogs {
  readonly #loaded: LoadedConfig
  readonly #byLog = new Map<string, AcceptedRoots>()

  constructor(loaded: LoadedConfig) {
    this.#loaded = loaded
  }

  /** Read from the log's file when it is asked for first. */
  of({ name, roots }: Extract<LogConfig, { kind: 'ct' }>): AcceptedRoots {
    const known = this.#byLog.get(name)
    if (known !== undefined) return known
    const accepted = new AcceptedRoots(readCertificates(this.#loaded, roots))
    this.#byLog.set(name, accepted)
    return accepted
  }
}
