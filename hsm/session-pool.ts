/** The sessions of one token: each does one thing at a time, and they are given out by urgency (`capacity.ts`). */
import { Capacity, RankedQueue } from './capacity.ts'
import type { Handle } from './pkcs11.ts'
import type { SignedPurpose } from './signing.ts'

interface Waiting {
  readonly purpose: SignedPurpose
  readonly resolve: (session: Handle | undefined) => void
}

export class SessionPool {
  readonly #capacity: Capacity
  #free: Handle[] = []
  /** For what each is in use; undefined for the agent's own calls, which are outside of the reckoning. */
  readonly #leased = new Map<Handle, SignedPurpose | undefined>()
  readonly #waiting = new RankedQueue<Waiting>()
  #drained: (() => void)[] = []

  /** `size`: sessions that it will be filled with. */
  constructor(size: number) {
    this.#capacity = new Capacity(size)
  }

  /** Replaces the free sessions; none may be leased. */
  restock(sessions: readonly Handle[]): void {
    this.#free = [...sessions]
  }

  /** Free and leased ones. */
  get size(): number {
    return this.#free.length + this.#leased.size
  }

  /** A fresh session more. */
  add(session: Handle): void {
    this.#free.push(session)
    this.#serveWaiting()
  }

  /** A free session for a call that ends at once, or undefined. Without a purpose it is a call of the agent's own. */
  take(purpose?: SignedPurpose): Handle | undefined {
    if (this.#free.length === 0) return undefined
    if (purpose !== undefined && !this.#capacity.take(purpose)) return undefined
    const session = this.#free.pop()
    if (session !== undefined) this.#leased.set(session, purpose)
    return session
  }

  /** A session as soon as it is this purpose's turn; undefined if the token went away meanwhile. */
  async lease(purpose: SignedPurpose): Promise<Handle | undefined> {
    return this.take(purpose) ?? (await new Promise((resolve) => this.#waiting.push(purpose, { purpose, resolve })))
  }

  /** Ends a use. `next` takes the session's place: itself if it is sound, a fresh one, or none. */
  giveBack(session: Handle, next: Handle | undefined): void {
    const purpose = this.#leased.get(session)
    this.#leased.delete(session)
    if (purpose !== undefined) this.#capacity.giveBack(purpose)
    if (next !== undefined) this.#free.push(next)
    this.#serveWaiting()
    if (this.#leased.size === 0) for (const resolve of this.#drained.splice(0)) resolve()
  }

  /** Resolves when no session is at work; nothing may be leased meanwhile. */
  async drained(): Promise<void> {
    if (this.#leased.size === 0) return
    await new Promise<void>((resolve) => this.#drained.push(resolve))
  }

  /** Wakes everybody who waits for a session of before a loss. */
  wake(): void {
    this.#serveWaiting()
    for (const { resolve } of this.#waiting.take(Number.POSITIVE_INFINITY)) resolve(undefined)
  }

  #serveWaiting(): void {
    const sessions: Handle[] = []
    const admits = ({ purpose }: Waiting) => {
      const session = this.take(purpose)
      if (session !== undefined) sessions.push(session)
      return session !== undefined
    }
    for (const { resolve } of this.#waiting.take(this.#free.length, admits)) resolve(sessions.shift())
  }
}
