/**
 * One writer a log. A server tells with each request for its log's guard or head who it is, and asks several times a
 * second; another one is refused as long as the first was heard of just now. It is no defence (the guard is) but a word:
 * two servers on copies of one folder are told apart before either has committed what the guard would refuse.
 */
import { refuse } from './purposes/purpose.ts'

/** More than three of a writer's intervals: a slow moment of its event loop must not hand its log to another. */
const LEASE_MS = 900

export class WriterLeases {
  readonly #now: () => number
  readonly #writers = new Map<string, { writer: string; heardMs: number }>()

  /** `now` in milliseconds, monotonic. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  /** Throws `refused` `origin_in_use` while another writer holds the origin. An empty writer asks for nothing and gets no lease. */
  claim(origin: string, writer: string): void {
    if (writer === '') return
    const held = this.#writers.get(origin)
    const nowMs = this.#now()
    if (held !== undefined && held.writer !== writer && nowMs - held.heardMs < LEASE_MS) {
      refuse('origin_in_use', `another server writes ${origin} with this agent`)
    }
    this.#writers.set(origin, { writer, heardMs: nowMs })
  }

  /** A writer that ends hands its log over at once. */
  release(origin: string, writer: string): void {
    if (this.#writers.get(origin)?.writer === writer) this.#writers.delete(origin)
  }
}
