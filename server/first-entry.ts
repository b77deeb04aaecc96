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

export type FirstEntry = (open: Parts['logs'][number]) => Promise<void>

/** Resolves when the log has an entry, or when none could be made; never rejects. */
export function firstEntryOf(
  { authority, timestamp }: Pick<Parts, 'authority' | 'timestamp'>,
  checks: EntryChecks,
  logger: Pick<Logger, 'warn'>,
): FirstEntry {
  return async ({ config, log }) => {
    const { size, frozenAtMs } = log.head()
    if (config.kind === 'ct' || size > 0 || frozenAtMs !== undefined) return
    if (authority === undefined || (config.kind === 'rekor-v2' && timestamp === undefined)) return
    const rekorV1 = config.kind === 'rekor-v1' ? new RekorV1Shards([shardOf({ config, log })]) : undefined
    const rekorV2 = config.kind === 'rekor-v2' ? log : undefined
    const late = new AbortController()
    try {
      await Promise.race([
        makeCanary({ authority, timestamp, rekorV1, rekorV2, checks }),
        delay(LIMIT_MS, undefined, { signal: late.signal }).then(() => {
          throw new Error(`not within ${LIMIT_MS / 1000} seconds`)
        }),
      ])
    } catch (error) {
      logger.warn({ err: error, log: config.name }, 'the first entry of the log is left to whoever comes first')
    } finally {
      late.abort()
    }
  }
}
