/** What the loader's clients know, read from their files: what was promised to them, and what they do not know. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Outcome } from './loader.ts'

export interface Ledger {
  /** Writes with their positive reply. */
  readonly acknowledged: readonly Outcome[]
  /** Writes without a reply, or answered by 503: they may be in the log or not. */
  readonly unanswered: readonly Outcome[]
  /** Timestamps that were given; no log has them. */
  readonly timestamps: readonly Outcome[]
  /** Replies with checkpoints and tree heads. */
  readonly heads: readonly Outcome[]
}

/** Reads all lanes' files of one load. Throws for a reply that no client of a working service may see. */
export function readLedger(folder: string): Ledger {
  const outcomes = readdirSync(folder).flatMap((name) =>
    readFileSync(join(folder, name), 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Outcome),
  )
  const wrong = outcomes.find(({ status }) => ![0, 200, 201, 503].includes(status))
  if (wrong !== undefined) throw new Error(`${wrong.use} answered ${wrong.status}: ${wrong.reply}`)
  const writes = outcomes.filter(({ use }) => use !== 'watch' && use !== 'tsa')
  return {
    acknowledged: writes.filter(({ status }) => status === 200 || status === 201),
    unanswered: writes.filter(({ status }) => status === 0 || status === 503),
    timestamps: outcomes.filter(({ use, status }) => use === 'tsa' && status === 200),
    heads: outcomes.filter(({ use, status }) => use === 'watch' && status === 200),
  }
}

/** Everything of several loads. */
export function joined(ledgers: readonly Ledger[]): Ledger {
  return {
    acknowledged: ledgers.flatMap(({ acknowledged }) => acknowledged),
    unanswered: ledgers.flatMap(({ unanswered }) => unanswered),
    timestamps: ledgers.flatMap(({ timestamps }) => timestamps),
    heads: ledgers.flatMap(({ heads }) => heads),
  }
}
