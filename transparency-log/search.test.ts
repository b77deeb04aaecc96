import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { makeAgentDouble } from './agent-double.fixture.ts'
import { textEntry } from './entries.fixture.ts'
import type { Log } from './log.ts'
import { openLog } from './open.ts'
import { type SearchCursor, type SearchHit, searchLogs } from './search.ts'

let folder: string
let now = 1_000
let logs: Log[]
const KEY = 'email:someone@example.com'

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-search-'))
  logs = await Promise.all(
    ['a', 'b', 'c'].map((name) =>
      openLog({
        name,
        kind: 'rekor-v2',
        origin: `${name}.example`,
        databasePath: join(folder, `${name}.db`),
        agent: makeAgentDouble(),
        key: 'log',
        now: () => now,
      }),
    ),
  )
})
afterEach(async () => {
  await Promise.all(logs.map((log) => log.close()))
  rmSync(folder, { recursive: true })
})

/** Adds to the logs named, one after another, each at the next `step` of the clock; every third entry has another key. */
async function fill(names: string, step: number): Promise<void> {
  for (const [at, name] of names.split('').entries()) {
    now += step
    const log = logs.find((candidate) => candidate.name === name)
    await log?.add(textEntry(`${now} ${at} ${name}`, [at % 3 === 2 ? 'other' : KEY]))
  }
}

async function allPages(limit: number, between: () => Promise<void> = async () => {}): Promise<SearchHit[][]> {
  const pages: SearchHit[][] = []
  let cursor: SearchCursor | undefined
  do {
    const page = await searchLogs(logs, KEY, { limit, ...(cursor === undefined ? {} : { cursor }) })
    pages.push([...page.hits])
    cursor = page.next
    await between()
  } while (cursor !== undefined)
  return pages
}

const name = ({ log, index, timestampMs }: SearchHit) => `${timestampMs} ${log}${index}`

test.each([
  ['different times', 10],
  ['one time for all', 0],
])('pages join without gap or repetition over logs with %s', async (_, step) => {
  await fill('abcabccbaabacbcaacb', step)
  const [whole = []] = await allPages(100)
  expect(whole).toHaveLength(13)
  const times = whole.map(({ timestampMs }) => timestampMs)
  expect(times).toEqual(times.toSorted((a, b) => b - a))
  for (const limit of [1, 2, 3, 5, 12, 13]) {
    const pages = await allPages(limit)
    expect(pages.flat().map(name)).toEqual(whole.map(name))
    expect(pages.slice(0, -1).every((page) => page.length === limit)).toBe(true)
  }
})

test('what is added between two pages is not in the later ones', async () => {
  await fill('abcabc', 10)
  const before = (await allPages(100)).flat().map(name)
  const pages = await allPages(2, () => fill('ab', 10))
  expect(pages.flat().map(name)).toEqual(before)
})

test('a key that nobody has is one empty page', async () => {
  await fill('abc', 1)
  expect(await searchLogs(logs, 'email:SOMEONE@example.com', { limit: 5 })).toEqual({ hits: [] })
  expect(await searchLogs([], KEY, { limit: 5 })).toEqual({ hits: [] })
})
