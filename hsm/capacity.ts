/**
 * Who goes first when signing is scarce: what a log's readers wait for before what is asked for by anybody. The same
 * rule bounds the requests under way (`signing-desk.ts`) and hands out a token's sessions (`session-pool.ts`).
 */
import type { SignedPurpose } from './signing.ts'

interface Claim {
  /** Lower ones are served first. */
  readonly rank: number
  /** This share of the whole stays free for those of lower rank. */
  readonly leavesFree: number
  /** At most this share of the whole at a time. */
  readonly share: number
}

/**
 * A tree head releases every certificate and entry that waits for it; a certificate was authorised by an identity; SCTs
 * and SETs are of uploads that were checked; TUF metadata has days of slack; a timestamp is anybody's, so these get half
 * at most.
 */
const CLAIMS: Readonly<Record<SignedPurpose, Claim>> = {
  treeHead: { rank: 0, leavesFree: 0, share: 1 },
  certificate: { rank: 1, leavesFree: 1 / 16, share: 1 },
  caCertificate: { rank: 1, leavesFree: 1 / 16, share: 1 },
  certificateRequest: { rank: 1, leavesFree: 1 / 16, share: 1 / 16 },
  ceremonyStatement: { rank: 1, leavesFree: 1 / 16, share: 1 / 16 },
  accountHead: { rank: 1, leavesFree: 1 / 16, share: 1 / 16 },
  sct: { rank: 2, leavesFree: 1 / 8, share: 1 },
  set: { rank: 2, leavesFree: 1 / 8, share: 1 },
  tuf: { rank: 3, leavesFree: 1 / 4, share: 1 / 4 },
  timestamp: { rank: 4, leavesFree: 1 / 4, share: 1 / 2 },
}

/** Lower is more urgent. */
export function rankOf(purpose: SignedPurpose): number {
  return CLAIMS[purpose].rank
}

/** So many places, given out by purpose. Whoever takes one gives it back. */
export class Capacity {
  readonly #total: number
  readonly #usedBy = new Map<SignedPurpose, number>()
  #used = 0

  constructor(total: number) {
    this.#total = total
  }

  /** Places that are taken just now, and all. */
  state(): { readonly underWay: number; readonly most: number } {
    return { underWay: this.#used, most: this.#total }
  }

  /** True, and one place is taken; false if none is left for this purpose. One place alone is everybody's. */
  take(purpose: SignedPurpose): boolean {
    const { leavesFree, share } = CLAIMS[purpose]
    const reserved = Math.min(Math.ceil(leavesFree * this.#total), this.#total - 1)
    const usedByOwn = this.#usedBy.get(purpose) ?? 0
    if (this.#used + reserved >= this.#total) return false
    if (usedByOwn >= Math.max(1, Math.floor(share * this.#total))) return false
    this.#used++
    this.#usedBy.set(purpose, usedByOwn + 1)
    return true
  }

  giveBack(purpose: SignedPurpose): void {
    this.#used--
    this.#usedBy.set(purpose, (this.#usedBy.get(purpose) ?? 0) - 1)
  }
}

/** Queues that are emptied in the order of rank, and within a rank in the order of arrival. */
export class RankedQueue<T> {
  readonly #byRank: T[][] = []
  #length = 0

  get length(): number {
    return this.#length
  }

  push(purpose: SignedPurpose, item: T): void {
    const rank = rankOf(purpose)
    this.#byRank[rank] ??= []
    this.#byRank[rank].push(item)
    this.#length++
  }

  /** Takes the most urgent items that `wanted` lets through, `limit` at most; a refused one holds back its rank alone. */
  take(limit: number, wanted: (item: T) => boolean = () => true): T[] {
    const taken: T[] = []
    for (const queue of this.#byRank) {
      let count = 0
      for (const item of queue ?? []) {
        if (taken.length >= limit || !wanted(item)) break
        taken.push(item)
        count++
      }
      if (count > 0) queue?.splice(0, count)
    }
    this.#length -= taken.length
    return taken
  }
}
