/** Every kind of damage is planted into a sound log's file and found; a check that was cut off goes on where it was. */
import { createPrivateKey, hash, sign } from 'node:crypto'
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { makeAgentDouble } from './agent-double.fixture.ts'
import { fsck, type FsckOptions, type FsckReport, type FsckState, type FsckStep } from './fsck.ts'
import { checkLog } from './fsck-run.ts'
import type { Inspection, PendingEntry } from './log.ts'
import { openLog } from './open.ts'
import { openSqliteStore } from './sqlite-store.ts'
import { openFile, type Request } from './sqlite-worker.ts'
import { StoreError } from './store.ts'

const SIZE = 600
const ORIGIN = 'rekor-v1.example - 7'
const folder = mkdtempSync(join(tmpdir(), 'chancery-fsck-'))
const sound = join(folder, 'sound.db')
const path = join(folder, 'damaged.db')
let spkiDer: Uint8Array
let options: FsckOptions

beforeAll(async () => {
  const stateFile = join(folder, 'agent.json')
  const agent = makeAgentDouble({ stateFile })
  const key = createPrivateKey((JSON.parse(readFileSync(stateFile, 'utf8')) as { privatePem: string }).privatePem)
  spkiDer = (await agent.key('log')).spkiDer
  const log = await openLog({
    name: 'fsck',
    kind: 'rekor-v1',
    origin: ORIGIN,
    databasePath: sound,
    agent,
    key: 'log',
    // The SET as Rekor v1 has it, with an earlier shard of 1000 entries.
    signEntry: (content, index, timestampMs) => {
      const logID = hash('sha256', spkiDer, 'hex')
      const body = Buffer.from(content.leaf).toString('base64')
      const set = JSON.stringify({
        body,
        integratedTime: Math.floor(timestampMs / 1000),
        logID,
        logIndex: 1000 + index,
      })
      return Promise.resolve(new Uint8Array(sign('sha256', Buffer.from(set), key)))
    },
  })
  await Promise.all(Array.from({ length: SIZE }, (_, at) => log.add(entry(at))))
  await log.close()
  options = { kind: 'rekor-v1', origin: ORIGIN, spkiDer, indexOffset: 1000, signatures: 'all', expected: [] }
}, 60_000)
afterAll(() => rmSync(folder, { recursive: true }))

/** Every tenth has an attestation, named in its leaf. */
function entry(at: number): PendingEntry {
  const attachment = at % 10 === 0 ? new TextEncoder().encode(`statement ${at}`) : undefined
  const payloadHash = attachment === undefined ? '' : hash('sha256', attachment, 'hex')
  const leaf = new TextEncoder().encode(JSON.stringify({ at, payloadHash }))
  const content = { leaf, tileData: leaf, searchKeys: [`at:${at}`, 'all'], ...(attachment && { attachment }) }
  return { dedupeKey: new Uint8Array(hash('sha256', leaf, 'buffer')), at: () => content }
}

async function check(file: string, changes: Partial<FsckOptions> = {}): Promise<FsckReport> {
  // On this thread: each of many would take longer to start than its check.
  const opened = openFile({ path: file, identity: { kind: 'rekor-v1', origin: ORIGIN, spkiDer } })
  const call = (method: keyof Inspection, ...args: unknown[]): Promise<never> => {
    const reply = opened.answer({ id: 1, method, args } as Request) // the pairs are those of `Inspection`
    if ('error' in reply) return Promise.reject(new StoreError(reply.error.code, reply.error.message))
    return Promise.resolve(reply.value as never)
  }
  const source: Inspection = {
    inspectHeads: () => call('inspectHeads'),
    inspectEntries: (start, limit) => call('inspectEntries', start, limit),
    inspectKeys: (table, after, limit) => call('inspectKeys', table, after, limit),
  }
  try {
    return await fsck(source, { ...options, ...changes }, { onState: () => {} })
  } finally {
    opened.close()
  }
}

function plant(change: (db: Database.Database) => void): void {
  for (const suffix of ['-wal', '-shm']) rmSync(`${path}${suffix}`, { force: true })
  copyFileSync(sound, path)
  const db = new Database(path)
  change(db)
  db.close()
}

const flip = (bytes: Buffer, at: number): Buffer => {
  const flipped = Buffer.from(bytes)
  flipped[at] = (flipped[at] ?? 0) ^ 1
  return flipped
}

/** Changes one blob by one bit. */
function flipIn(db: Database.Database, table: string, column: string, where: string, at = 3): void {
  const row = db.prepare<[], Buffer>(`SELECT ${column} FROM ${table} WHERE ${where}`).pluck().get()
  db.prepare(`UPDATE ${table} SET ${column} = ? WHERE ${where}`).run(flip(row ?? Buffer.alloc(8), at))
}

test('a sound log has nothing to tell, and its root is that of its head', async () => {
  const report = await check(sound)
  expect(report).toMatchObject({ size: SIZE, damaged: 0, findings: [], signaturesChecked: SIZE })
  expect(report.keyRowsChecked).toBe(4 * SIZE)
  const sampled = await check(sound, { signatures: 'sample' })
  expect(sampled).toMatchObject({ damaged: 0, rootHashHex: report.rootHashHex })
  expect(sampled.signaturesChecked).toBeLessThan(SIZE / 4)
})

describe('is found', () => {
  test.each<[string, (db: Database.Database) => void, readonly string[]]>([
    ['a bit of a leaf', (db) => flipIn(db, 'entry', 'tile_data', 'idx = 300'), ['entry_signature', 'leaf', 'root']],
    ['a bit of a tile', (db) => flipIn(db, 'leaf_hashes', 'hashes', 'n = 1', 9), ['leaf']],
    [
      'the end of a tile',
      (db) => db.exec('UPDATE leaf_hashes SET hashes = substr(hashes, 1, 64) WHERE n = 2'),
      ['index_missing', 'leaf_hash'],
    ],
    ['a missing entry', (db) => db.exec('DELETE FROM entry WHERE idx = 100'), ['entry_missing', 'index_stray', 'root']],
    [
      'a missing last entry',
      (db) => db.exec('DELETE FROM entry WHERE idx = 599'),
      ['entry_missing', 'index_stray', 'root'],
    ],
    [
      'two entries exchanged',
      (db) =>
        db.exec(
          'UPDATE entry SET idx = -1 WHERE idx = 5; UPDATE entry SET idx = 5 WHERE idx = 6; UPDATE entry SET idx = 6 WHERE idx = -1',
        ),
      ['entry_signature', 'index_missing', 'index_stray', 'leaf', 'root'],
    ],
    [
      'another leaf beside the published one',
      (db) => db.exec("UPDATE entry SET leaf = x'0102' WHERE idx = 7"),
      ['entry_signature', 'leaf', 'root'],
    ],
    [
      'a row of the leaf index that is missing',
      (db) => db.exec('DELETE FROM by_leaf_hash WHERE idx = 17'),
      ['index_missing'],
    ],
    [
      'a row of the search index that is missing',
      (db) => db.exec('DELETE FROM by_search_key WHERE idx = 18'),
      ['index_missing'],
    ],
    [
      'a row of the dedupe index that is missing',
      (db) => db.exec('DELETE FROM by_dedupe_key WHERE idx = 19'),
      ['index_missing'],
    ],
    [
      'a row of the search index too many',
      (db) => db.exec('INSERT INTO by_search_key VALUES (77, 20)'),
      ['index_stray'],
    ],
    [
      'a row of the leaf index of no entry',
      (db) => db.exec('INSERT INTO by_leaf_hash VALUES (77, 9999)'),
      ['index_stray'],
    ],
    [
      'a row of the dedupe index too many',
      (db) => db.exec('INSERT INTO by_dedupe_key VALUES (-77, 21)'),
      ['index_stray'],
    ],
    [
      'search keys that were cut',
      (db) => db.exec("UPDATE entry SET search_hashes = x'' WHERE idx = 22"),
      ['index_stray'],
    ],
    [
      'a bit of an entry signature',
      (db) => flipIn(db, 'entry_signature', 'signature', 'idx = 23', 20),
      ['entry_signature'],
    ],
    ['a missing entry signature', (db) => db.exec('DELETE FROM entry_signature WHERE idx = 24'), ['entry_signature']],
    [
      'a changed time',
      (db) => db.exec('UPDATE entry SET timestamp_ms = timestamp_ms + 5000 WHERE idx = 25'),
      ['entry_signature'],
    ],
    ['a bit of an attestation', (db) => flipIn(db, 'attachment', 'bytes', 'idx = 30'), ['attachment']],
    ['an attestation of no entry', (db) => db.exec("INSERT INTO attachment VALUES (9999, x'00')"), ['surplus']],
    ['a signature of no entry', (db) => db.exec("INSERT INTO entry_signature VALUES (9999, x'00')"), ['surplus']],
    [
      'an entry beyond the end',
      (db) => db.exec("INSERT INTO entry VALUES (700, 1, NULL, x'00', x'0000000000000000', x'')"),
      ['surplus'],
    ],
    ['leaf hashes beyond the end', (db) => db.exec('INSERT INTO leaf_hashes VALUES (3, zeroblob(32))'), ['surplus']],
    ['another root in the signed head', (db) => flipIn(db, 'sealed_head', 'root', 'id = 1'), ['checkpoint', 'root']],
    ['a checkpoint of another size', (db) => db.exec('UPDATE sealed_head SET size = 599'), ['checkpoint', 'root']],
    [
      'a checkpoint whose signature was changed',
      (db) => db.exec("UPDATE sealed_head SET note = replace(note, 'rekor-v1.example ', 'rekor-v2.example ')"),
      ['checkpoint'],
    ],
    ['no signed head', (db) => db.exec('DELETE FROM sealed_head'), ['checkpoint']],
  ])('%s', async (_, change, kinds) => {
    plant(change)
    const report = await check(path)
    expect([...new Set(report.findings.map(({ kind }) => kind))].toSorted()).toEqual(kinds)
    expect(report.damaged).toBeGreaterThanOrEqual(report.findings.length)
  })

  test('a page that is no page', async () => {
    plant(() => undefined)
    const bytes = readFileSync(path)
    writeFileSync(path, bytes.fill(0xaa, bytes.length / 2, bytes.length / 2 + 4 * 4096))
    const report = await check(path).catch((error: unknown) => error)
    expect(report).toMatchObject({ findings: [expect.objectContaining({ kind: 'unreadable' })] })
  })

  test('another key, and a head that somebody else has and this log has not', async () => {
    const other = new Uint8Array((await makeAgentDouble().key('other')).spkiDer)
    expect((await check(sound, { spkiDer: other })).findings.map(({ kind }) => kind)).toEqual(['other_log'])
    const rootHashHex = '07'.repeat(32)
    for (const size of [0, 5, SIZE, SIZE + 1]) {
      const { findings } = await check(sound, { expected: [{ from: 'a client', size, rootHashHex }] })
      expect(findings, `at size ${size}`).toEqual([
        expect.objectContaining({ kind: 'root', message: expect.stringContaining('a client') }),
      ])
    }
  })
})

describe('a check that was cut off', () => {
  test('goes on from any point, and finds the same', async () => {
    plant((db) => {
      flipIn(db, 'entry', 'tile_data', 'idx = 100')
      db.exec('INSERT INTO by_search_key VALUES (77, 20)')
    })
    const store = await openSqliteStore(path, { kind: 'rekor-v1', origin: ORIGIN, spkiDer })
    const states: FsckState[] = []
    const whole = await fsck(store, options, { onState: (state) => states.push(structuredClone(state)) })
    expect(whole.damaged).toBeGreaterThan(2)
    expect(states.length).toBeGreaterThan(6)
    for (const from of states) expect(await fsck(store, options, { from, onState: () => {} })).toEqual(whole)
    await store.close()
  })

  test('reads its file, begins again for a head that it passed, and leaves no file behind', async () => {
    const store = await openSqliteStore(sound, { kind: 'rekor-v1', origin: ORIGIN, spkiDer })
    const states: FsckState[] = []
    await fsck(store, options, { onState: (state) => states.push(structuredClone(state)) })
    const progressFile = join(folder, 'progress.json')
    const firstStep = async (expected: FsckOptions['expected']): Promise<FsckStep | undefined> => {
      writeFileSync(progressFile, JSON.stringify(states[2]))
      const steps: FsckStep[] = []
      const report = await checkLog(store, {
        fsck: { ...options, expected },
        progressFile,
        onStep: (step) => steps.push(step),
      })
      expect(report).toMatchObject({ size: SIZE, damaged: expected.length })
      expect(existsSync(progressFile)).toBe(false)
      return steps[0]
    }
    expect(await firstStep([])).toMatchObject({ what: 'entries', done: 512 })
    expect(await firstStep([{ from: 'a client', size: 10, rootHashHex: '07'.repeat(32) }])).toMatchObject({ done: 128 })
    await store.close()
  })
})
