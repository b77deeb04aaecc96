import { CATALOGUE, type Code, type Condition } from './catalogue.ts'

/** Something that holds just now and that somebody should know. */
export interface Alarm {
  readonly code: Code
  /** What it is about: a log's, key's or token's name, a role, a path. */
  readonly subject: string
  /** What was found and what to do. */
  readonly message: string
  readonly since: Date
}

/** The alarms of one process. Parts raise and clear them; status, metrics and the log line read them. */
export class Alarms {
  readonly #active = new Map<string, Alarm>()
  readonly #onChange: (alarm: Alarm, change: 'raised' | 'cleared') => void

  /** `onChange` is called once when an alarm is raised and once when it is cleared. */
  constructor(onChange: (alarm: Alarm, change: 'raised' | 'cleared') => void = () => undefined) {
    this.#onChange = onChange
  }

  /** Raised again it keeps its time; the newest message is shown. */
  raise(code: Code, subject: string, message: string): void {
    const name = `${code} ${subject}`
    const before = this.#active.get(name)
    const alarm = { code, subject, message, since: before?.since ?? new Date() }
    this.#active.set(name, alarm)
    if (before === undefined) this.#onChange(alarm, 'raised')
  }

  clear(code: Code, subject: string): void {
    const name = `${code} ${subject}`
    const alarm = this.#active.get(name)
    if (alarm === undefined) return
    this.#active.delete(name)
    this.#onChange(alarm, 'cleared')
  }

  /** Raises or clears by whether there is a message. */
  set(code: Code, subject: string, message: string | undefined): void {
    if (message === undefined) this.clear(code, subject)
    else this.raise(code, subject, message)
  }

  /** Loudest first, then oldest. */
  active(): readonly Alarm[] {
    const rank: Readonly<Record<Condition['severity'], number>> = { page: 0, ticket: 1, refusal: 2 }
    return [...this.#active.values()].toSorted(
      (one, other) =>
        rank[CATALOGUE[one.code].severity] - rank[CATALOGUE[other.code].severity] ||
        one.since.getTime() - other.since.getTime(),
    )
  }
}
