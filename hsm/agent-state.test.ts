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
