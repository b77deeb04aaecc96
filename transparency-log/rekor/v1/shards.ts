/**
 * The trees behind one Rekor v1 service: at most one takes entries, the ones before it are frozen. An index that clients
 * see counts through all of them ("virtual"): the sizes of the earlier shards, which never change, and then the index in
 * the shard's own tree. Ids carry the tree's number, so each entry stays where it was.
 */
import type { Log } from '../../log.ts'
import { parseTreeId, type TreeId } from './ids.ts'

/** A tree with its number, as it is configured. */
export interface V1ShardConfig {
  /** A log of kind `rekor-v1`, its entry signatures made by `rekorV1SignEntry` with the same offset. */
  readonly log: Log
  /** The tree's id, a positive int64 in decimal, with which the log's origin ends (`<host> - <treeId>`). */
  readonly treeId: string
  /** Entries of the shards before it, as its signed entry timestamps count them; computed unless told. */
  readonly offset?: number
}

export interface V1Shard {
  readonly log: Log
  readonly tree: TreeId
  /** Entries of the shards before it. */
  readonly offset: number
}

export class RekorV1Shards {
  readonly #shards: { readonly log: Log; readonly tree: TreeId; readonly offset: number | undefined }[]
  #change: Promise<void> = Promise.resolve()

  /** Oldest first, the active one last. Throws RangeError for a tree id that is not the origin's: sigstore-go tells v1 from v2 by it. */
  constructor(shards: readonly V1ShardConfig[]) {
    this.#shards = shards.map(checked)
    if (this.#shards.length === 0) throw new RangeError('a Rekor v1 service has a tree')
  }

  /** Oldest first. */
  all(): readonly V1Shard[] {
    let offset = 0
    return this.#shards.map(({ log, tree, offset: told }) => {
      const shard = { log, tree, offset: told ?? offset }
      offset = shard.offset + log.head().size
      return shard
    })
  }

  /** The last one, as it is now. */
  newest(): V1Shard {
    const shard = this.all().at(-1)
    if (shard === undefined) throw new RangeError('a Rekor v1 service has a tree')
    return shard
  }

  /** The one that takes entries; waits while a successor is being put in its place. */
  async active(): Promise<V1Shard> {
    await this.#change
    return this.newest()
  }

  /** Puts a successor in place: who wants to write waits for `begin`, which ends the old one and opens the new. */
  async succeed(begin: () => Promise<V1ShardConfig>): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const before = this.#change
    this.#change = promise
    try {
      await before
      this.#shards.push(checked(await begin()))
    } finally {
      resolve()
    }
  }
}

function checked({ log, treeId, offset }: V1ShardConfig): {
  readonly log: Log
  readonly tree: TreeId
  readonly offset: number | undefined
} {
  const tree = parseTreeId(treeId)
  if (!log.origin.endsWith(` - ${tree.decimal}`)) {
    throw new RangeError(`origin ${JSON.stringify(log.origin)} does not end with the tree id ${tree.decimal}`)
  }
  return { log, tree, offset }
}
