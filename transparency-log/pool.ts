import { LogError, type Added, type PendingEntry } from './log.ts'

interface Waiter {
  readonly resolve: (added: Added) => void
  readonly reject: (error: LogError) => void
  readonly timer: NodeJS.Timeout
  /** The first waiter of a ticket brought the entry; later ones found it here. */
  readonly first: boolean
}

/** One entry under way with everybody who waits for it. */
export class Ticket {
  readonly entry: PendingEntry
  readonly key: string
  readonly waiters = new Set<Waiter>()
  constructor(entry: PendingEntry, key: string) {
    this.entry = entry
    this.key = key
  }
}

/**
 * Entries that are not yet answered: those that wait for a batch, and those whose batch is on its way. A ticket stays
 * until it is settled, so that the same entry is never taken twice. Callers, not entries, are counted against the bound.
 */
export class Pool {
  readonly #bound: number
  readonly #deadlineMs: number
  readonly #tickets = new Map<string, Ticket>()
  /** In order of arrival; a subset of `#tickets`. */
  readonly #queue = new Set<Ticket>()
  #waiting = 0

  constructor(bound: number, deadlineMs: number) {
    this.#bound = bound
    this.#deadlineMs = deadlineMs
  }

  get queued(): number {
    return this.#queue.size
  }

  get waiting(): number {
    return this.#waiting
  }

  /** Rejects `pool_full` at once, or `unavailable` when the deadline passes first. */
  join(entry: PendingEntry): Promise<Added> {
    if (this.#waiting >= this.#bound) {
      return Promise.reject(new LogError('pool_full', `${this.#waiting} requests are waiting for this log`))
    }
    const key = Buffer.from(entry.dedupeKey).toString('hex')
    let ticket = this.#tickets.get(key)
    const first = ticket === undefined
    if (ticket === undefined) {
      ticket = new Ticket(entry, key)
      this.#tickets.set(key, ticket)
      this.#queue.add(ticket)
    }
    const joined = ticket
    const { promise, resolve, reject } = Promise.withResolvers<Added>()
    const waiter: Waiter = {
      resolve,
      reject,
      first,
      timer: setTimeout(() => this.#expire(joined, waiter), this.#deadlineMs),
    }
    ticket.waiters.add(waiter)
    this.#waiting++
    return promise
  }

  /** Takes the oldest queued entries, at most `limit`; they stay known until `settle` or `refuse`. */
  take(limit: number): Ticket[] {
    const taken = [...this.#queue.values().take(limit)]
    for (const ticket of taken) this.#queue.delete(ticket)
    return taken
  }

  /** Answers everybody who waits for this entry; whoever joined after the first sees a duplicate. */
  settle(ticket: Ticket, added: Added): void {
    for (const waiter of this.#leave(ticket)) {
      waiter.resolve(waiter.first ? added : { ...added, duplicate: true })
    }
  }

  refuse(ticket: Ticket, error: LogError): void {
    for (const waiter of this.#leave(ticket)) waiter.reject(error)
  }

  /** Refuses everything that is not yet in a batch. */
  refuseQueued(error: LogError): void {
    for (const ticket of this.#queue) this.refuse(ticket, error)
  }

  #leave(ticket: Ticket): Waiter[] {
    this.#tickets.delete(ticket.key)
    this.#queue.delete(ticket)
    const waiters = [...ticket.waiters]
    ticket.waiters.clear()
    this.#waiting -= waiters.length
    for (const waiter of waiters) clearTimeout(waiter.timer)
    return waiters
  }

  #expire(ticket: Ticket, waiter: Waiter): void {
    ticket.waiters.delete(waiter)
    this.#waiting--
    // Nobody wants it any more and nothing was written: forget it rather than log what was answered with an error.
    if (ticket.waiters.size === 0 && this.#queue.has(ticket)) this.#leave(ticket)
    waiter.reject(new LogError('unavailable', `the entry was not sealed within ${this.#deadlineMs} ms; send it again`))
  }
}
