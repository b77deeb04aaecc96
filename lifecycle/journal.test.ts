import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Journal, readRotations } from './journal.ts'

const now = () => new Date('2026-11-21T08:30:00Z')
let dataDir = ''

beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'chancery-journal-'))
})
afterEach(() => rmSync(dataDir, { recursive: true, force: true }))

function withJournal<T>(use: (journal: Journal) => T): T {
  const journal = new Journal(dataDir, now)
  try {
    return use(journal)
  } finally {
    journal.close()
  }
}

test('keeps what a step made before the next begins, for whoever opens it next', () => {
  withJournal((journal) => {
    journal.begin('tsa', { former: 'tsa' })
    expect(journal.start('key')).toBe(true)
    journal.keep({ key: { idHex: '00ff' } })
  })
  withJournal((journal) => {
    expect(journal.current).toMatchObject({ kind: 'tsa', facts: { former: 'tsa', key: { idHex: '00ff' } } })
    expect(journal.start('key'), 'interrupted: done again').toBe(true)
    journal.finish('key')
    expect(journal.start('key'), 'finished: not again').toBe(false)
    expect(journal.current?.steps).toHaveLength(1)
  })
})

test('one that ended is history, and another may begin', () => {
  const record = withJournal((journal) => {
    journal.begin('tsa', {})
    return journal.end('done')
  })
  expect(record.id).toBe('2026-11-21T08-30-00Z-tsa')
  const { current, history } = readRotations(dataDir)
  expect(current).toBeUndefined()
  expect(history).toMatchObject([{ kind: 'tsa', ended: { outcome: 'done' } }])
  withJournal((journal) => expect(() => journal.begin('ct-log', {})).not.toThrow())
})

test('one that was killed between its last word and its place in the history is put there', () => {
  withJournal((journal) => journal.begin('tsa', {}))
  const file = join(dataDir, 'lifecycle/rotation.json')
  const record = JSON.parse(readFileSync(file, 'utf8')) as object
  writeFileSync(file, JSON.stringify({ ...record, ended: { at: now().toISOString(), by: 'me', outcome: 'done' } }))
  withJournal((journal) => expect(journal.current).toBeUndefined())
  expect(existsSync(file)).toBe(false)
  expect(readRotations(dataDir).history).toHaveLength(1)
})

test('a second rotation is refused while one is under way', () => {
  withJournal((journal) => journal.begin('tsa', {}))
  withJournal((journal) => expect(() => journal.begin('rekor-v1', {})).toThrow(/rotation of tsa is under way/))
})

test('a second journal is refused while one is open, in this process and in another', () => {
  const journal = new Journal(dataDir, now)
  expect(() => new Journal(dataDir, now)).toThrow(/another command/)
  const script = `import { Journal } from ${JSON.stringify(join(import.meta.dirname, 'journal.ts'))}
    try { new Journal(${JSON.stringify(dataDir)}); console.log('taken') } catch ({ code }) { console.log(code) }`
  const said = () =>
    spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', cwd: import.meta.dirname })
  expect(said().stdout).toBe('rotation_underway\n')
  journal.close()
  expect(said().stdout, 'whose holder has gone').toBe('taken\n')
  expect(said().stdout, 'whose holder was ended without a word').toBe('taken\n')
})

test('an undoing stays an undoing, and keeps what was said first', () => {
  withJournal((journal) => {
    journal.begin('tsa', {})
    journal.abort({ keepKeys: true })
  })
  withJournal((journal) => expect(journal.abort({ keepKeys: false }).aborting?.keepKeys).toBe(true))
})

test.each([
  ['no JSON', 'not json'],
  ['an unknown field', JSON.stringify({ schemaVersion: 1, surprise: true })],
  ['a newer version', JSON.stringify({ schemaVersion: 2 })],
])('%s is refused, and nothing is written over it', (_what, text) => {
  withJournal((journal) => journal.begin('tsa', {}))
  const file = join(dataDir, 'lifecycle/rotation.json')
  writeFileSync(file, text)
  expect(() => new Journal(dataDir, now)).toThrow(/cannot be read/)
  expect(() => readRotations(dataDir)).toThrow(/cannot be read/)
  expect(readFileSync(file, 'utf8')).toBe(text)
})
