/**
 * The first entry of every Rekor log is our own. Go clients leave zeros out of the JSON of a bundle and sigstore-python does
 * not read a bundle without an index: whoever came first would have a signature that some verify and others do not.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import { type EntryChecks, RekorV1Shards } from '#transparency-log'
import { makeCanary } from './canary-bundle.ts'
import { shardOf } from './log-services.ts'
import type { Parts } from './main.ts'

/** Clients wait while a log begins; an HSM that is away does not keep it from beginning. */
const LIMIT_MS = 3_000

/** Of each of these logs that is empty: one signature in all of them. */
export type FirstEntries = (logs: Parts['logs']) => Promise<void>

/** Resolves when the logs have an entry, or when none could be made; never rejects. */
export function firstEntriesOf(
  { authority, timestamp }: Pick<Parts, 'authority' | 'timestamp'>,
  checks: EntryChecks,
  logger: Pick<Logger, 'warn'>,
): FirstEntries {
  return async (logs) => {
    if (authority === undefined) return
    const empty = logs.filter(({ log }) => log.head().size === 0 && log.head().frozenAtMs === undefined)
    const v1 = empty.find(({ config }) => config.kind === 'rekor-v1')
    const v2 = timestamp && empty.find(({ config }) => config.kind === 'rekor-v2')
    if (v1 === undefined && v2 === undefined) return
    const rekorV1 = v1 && new RekorV1Shards([shardOf(v1)])
    const late = new AbortController()
    try {
      await Promise.race([
        makeCanary({ authority, timestamp, rekorV1, rekorV2: v2?.log, checks }),
        delay(LIMIT_MS, undefined, { signal: late.signal }).then(() => {
          throw new Error(`not within ${LIMIT_MS / 1000} seconds`)
        }),
      ])
    } catch (error) {
      const names = [v1, v2].flatMap((open) => open?.config.name ?? [])
      logger.warn({ err: error, logs: names }, 'the first entry is left to whoever comes first')
    } finally {
      late.abort()
    }
  }
}
