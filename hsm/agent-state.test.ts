import Database from 'better-sqlite3'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { openAgentState } from './agent-state.ts'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-agent-state-'))
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

/** The state's file as another program sees it. */
function inFile<T>(work: (db: Database.Database) => T): T {
  const db = new Database(join(folder, 'state.db'))
  try {
    return work(db)
  } finally {
    db.close()
  }
}

const versionOf = (db: Database.Database) => db.pragma('user_version', { simple: true })

test('refuses a file of a newer agent and leaves it alone', async () => {
  ;(await openAgentState(folder, { waitMs: 0 })).close()
  inFile((db) => db.pragma('user_version = 9999'))
  await expect(openAgentState(folder, { waitMs: 0 })).rejects.toMatchObject({ code: 'newer_schema' })
  expect(inFile(versionOf)).toBe(9999)
})

test('a file of the first version gets what came later, and keeps what it has', async () => {
  ;(await openAgentState(folder, { waitMs: 0 })).close()
  const { newest, later } = inFile((db) => ({ newest: versionOf(db), later: tablesOf(db) }))
  expect(newest).toBeGreaterThan(1)
  inFile((db) => {
    for (const table of later) if (!FIRST_VERSION.has(table)) db.exec(`DROP TABLE ${table}`)
    db.exec("INSERT INTO latch VALUES ('key:old', 'of the first version', 1)")
    db.pragma('user_version = 1')
  })
  const state = await openAgentState(folder, { waitMs: 0 })
  expect(state.latch('key:old')).toBe('of the first version')
  state.close()
  expect(inFile((db) => ({ newest: versionOf(db), later: tablesOf(db) }))).toEqual({ newest, later })
})

test('a raised cap is kept and undone with its transaction', async () => {
  const state = await openAgentState(folder, { waitMs: 0 })
  const raise = (perMinute: number) => state.setRaisedCap('ca', { perMinute, untilMs: 5 })
  state.transaction(() => raise(10))
  expect(() =>
    state.transaction(() => {
      raise(99)
      throw new Error('not written')
    }),
  ).toThrow('not written')
  expect(state.raisedCap('ca')).toEqual({ perMinute: 10, untilMs: 5 })
  state.close()
  const again = await openAgentState(folder, { waitMs: 0 })
  expect(again.raisedCap('ca')).toEqual({ perMinute: 10, untilMs: 5 })
  expect(again.raisedCap('other')).toBeUndefined()
  again.close()
})

const FIRST_VERSION = new Set(['meta', 'guard', 'latch', 'clock', 'tuf', 'quota', 'authority', 'counter', 'account'])

function tablesOf(db: Database.Database): string[] {
  const rows = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").all() as {
    name: string
  }[]
  return rows.map(({ name }) => name)
}
