/** Search over several logs, each of which keeps its own keys in its own file. */
import type { Log } from './log.ts'

/** One entry that carries the key. */
export interface SearchHit {
  readonly log: string
  readonly index: number
  readonly timestampMs: number
}

/** The last hit of a page; the next page begins after it. */
export type SearchCursor = SearchHit

export interface SearchPage {
  /** Newest first; at the same time by log name, then higher index first. */
  readonly hits: readonly SearchHit[]
  /** Pass it to get older hits; missing when there are none. */
  readonly next?: SearchCursor
}

/**
 * The sealed entries of all `logs` that carry this search key, newest first, at most `limit`, after `cursor` if given.
 * The pages join without gap or repetition while the logs grow: what is added meanwhile is newer than the first page.
 */
export async function searchLogs(
  logs: readonly Log[],
  searchKey: string,
  options: { readonly limit: number; readonly cursor?: SearchCursor },
): Promise<SearchPage> {
  const { limit, cursor } = options
  // One more than asked of each log tells whether another page follows.
  const perLog = await Promise.all(logs.map((log) => hitsOf(log, searchKey, limit + 1, cursor)))
  const merged = perLog.flat().toSorted(newestFirst)
  const hits = merged.slice(0, limit)
  const last = hits.at(-1)
  return { hits, ...(merged.length > limit && last !== undefined ? { next: last } : {}) }
}

async function hitsOf(log: Log, searchKey: string, limit: number, cursor?: SearchCursor): Promise<SearchHit[]> {
  const beforeIndex = cursor === undefined ? log.head().size : await firstIndexAtOrBefore(log, cursor)
  const indexes = await log.lookup(searchKey, { beforeIndex, limit })
  const hits = await Promise.all(indexes.map((index) => hitAt(log, index)))
  return hits.filter((hit) => hit !== undefined)
}

/** The number of this log's entries that come after the cursor, found by halving: a log's times never step back. */
async function firstIndexAtOrBefore(log: Log, cursor: SearchCursor): Promise<number> {
  if (log.name === cursor.log) return cursor.index
  let low = 0
  let high = log.head().size
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const hit = await hitAt(log, middle)
    if (hit !== undefined && newestFirst(hit, cursor) > 0) low = middle + 1
    else high = middle
  }
  return low
}

async function hitAt(log: Log, index: number): Promise<SearchHit | undefined> {
  const entry = await log.entry(index)
  return entry === undefined ? undefined : { log: log.name, index, timestampMs: entry.timestampMs }
}

function newestFirst(a: SearchHit, b: SearchHit): number {
  if (a.timestampMs !== b.timestampMs) return b.timestampMs - a.timestampMs
  if (a.log !== b.log) return a.log < b.log ? -1 : 1
  return b.index - a.index
}
