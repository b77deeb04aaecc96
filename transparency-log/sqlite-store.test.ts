import { copyFileSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openSqliteStore } from './sqlite-store.ts'
import { testStore } from './store.contract-suite.fixture.ts'

const IDENTITY = { kind: 'rekor-v2', origin: 'log.example', spkiDer: new TextEncoder().encode('key') }

testStore('SQLite', () => {
  const folder = mkdtempSync(join(tmpdir(), 'chancery-store-'))
  return {
    open: (name, identity) => openSqliteStore(join(folder, `${name}.db`), { ...IDENTITY, ...identity }),
    dispose: async () => rmSync(folder, { recursive: true }),
  }
})

describe('the file', () => {
  let folder: string
  let path: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'chancery-store-'))
    path = join(folder, 'log.db')
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  /** Changes a closed store's file behind its back. */
  async function changed(change: (db: Database.Database) => void): Promise<void> {
    await (await openSqliteStore(path, IDENTITY)).close()
    const db = new Database(path)
    change(db)
    db.close()
  }

  test('a newer schema is refused with what to do', async () => {
    await changed((db) => db.pragma('user_version = 99'))
    await expect(openSqliteStore(path, IDENTITY)).rejects.toMatchObject({
      code: 'newer_schema',
      message: expect.stringContaining('run the version that wrote it'),
    })
  })

  test("another program's database is refused and left as it is", async () => {
    const db = new Database(path)
    db.exec('CREATE TABLE theirs (x)')
    db.close()
    await expect(openSqliteStore(path, IDENTITY)).rejects.toMatchObject({ code: 'other_log' })
    const after = new Database(path, { readonly: true })
    expect(after.prepare('SELECT name FROM sqlite_schema').pluck().all()).toEqual(['theirs'])
    after.close()
  })

  test('a file that is no database, and a folder that is not there, are refused', async () => {
    writeFileSync(path, 'this is not a database, whatever its name says'.repeat(100))
    await expect(openSqliteStore(path, IDENTITY)).rejects.toMatchObject({ code: 'other_log' })
    await expect(openSqliteStore(join(folder, 'no', 'log.db'), IDENTITY)).rejects.toMatchObject({ code: 'failed' })
  })

  test('every commit is forced to the disk, also after opening again', async () => {
    // better-sqlite3 opens an existing WAL database with synchronous=NORMAL; the store must not.
    await (await openSqliteStore(path, IDENTITY)).close()
    const plain = new Database(path)
    expect(plain.pragma('synchronous', { simple: true }), 'the trap is still there').toBe(1)
    plain.close()
    // The store reads its own setting back and would refuse to open.
    await (await openSqliteStore(path, IDENTITY)).close()
  })

  describe.each<[string, () => void]>([
    ['deleted', () => rmSync(path)],
    ['moved away', () => renameSync(path, `${path}.away`)],
    [
      'replaced by a copy of itself',
      () => {
        copyFileSync(path, `${path}.copy`)
        renameSync(`${path}.copy`, path)
      },
    ],
    ['written by somebody else', () => writeFileSync(path, readFileSync(path))],
    ['without its write-ahead log', () => rmSync(`${path}-wal`)],
  ])('that is %s while it is open', (_, act) => {
    test('is written no more, and says so whether or not anybody writes', async () => {
      const store = await openSqliteStore(path, IDENTITY)
      await store.check()
      await store.markDelivered([1])
      await store.check()
      act()
      const replaced = { code: 'replaced' }
      await expect(store.check()).rejects.toMatchObject(replaced)
      await expect(store.markDelivered([2])).rejects.toMatchObject(replaced)
      const { committed } = await store.head()
      await expect(store.commit({ head: committed, entries: [] }, committed)).rejects.toMatchObject(replaced)
      await expect(store.seal({ ...committed, note: '', signature: new Uint8Array(1) }, [])).rejects.toMatchObject(
        replaced,
      )
      await store.close()
    })
  })
})
