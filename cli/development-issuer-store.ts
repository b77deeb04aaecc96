/** Where the development issuer keeps sign-ins that are under way: memory, bounded; a restart forgets them. */

/** More than a laptop ever has under way; the oldest goes first. */
const CAPACITY = 1_000

interface Stored {
  readonly payload: Record<string, unknown>
  readonly expiresAtMs: number
}

/** oidc-provider's adapter contract; each kind of thing (Session, Interaction, AuthorizationCode, …) has its own. */
export class MemoryStore {
  readonly #stored = new Map<string, Stored>()

  upsert(id: string, payload: Record<string, unknown>, expiresInSeconds: number): Promise<void> {
    this.#stored.delete(id)
    this.#stored.set(id, { payload: { ...payload }, expiresAtMs: Date.now() + expiresInSeconds * 1000 })
    const [oldest] = this.#stored.keys()
    if (this.#stored.size > CAPACITY && oldest !== undefined) this.#stored.delete(oldest)
    return Promise.resolve()
  }

  find(id: string): Promise<Record<string, unknown> | undefined> {
    const found = this.#stored.get(id)
    return Promise.resolve(found && found.expiresAtMs > Date.now() ? found.payload : undefined)
  }

  findByUid(uid: string): Promise<Record<string, unknown> | undefined> {
    for (const { payload, expiresAtMs } of this.#stored.values()) {
      if (payload['uid'] === uid && expiresAtMs > Date.now()) return Promise.resolve(payload)
    }
    return Promise.resolve(undefined)
  }

  /** Device codes are not offered. */
  findByUserCode(): Promise<undefined> {
    return Promise.resolve(undefined)
  }

  consume(id: string): Promise<void> {
    const found = this.#stored.get(id)
    if (found) found.payload['consumed'] = Math.floor(Date.now() / 1000)
    return Promise.resolve()
  }

  destroy(id: string): Promise<void> {
    this.#stored.delete(id)
    return Promise.resolve()
  }

  revokeByGrantId(grantId: string): Promise<void> {
    for (const [id, { payload }] of this.#stored) if (payload['grantId'] === grantId) this.#stored.delete(id)
    return Promise.resolve()
  }
}
