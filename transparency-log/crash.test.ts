/** The crash table: the process is killed (SIGKILL) at every point between two steps; then the whole log is checked. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { makeAgentDouble } from './agent-double.fixture.ts'
import { checkLog } from './check-log.fixture.ts'
import { textEntry } from './entries.fixture.ts'
import { FAULT_POINTS, type FaultPoint } from './fault-points.ts'
import type { SealedHead } from './log.ts'
import { openLog } from './open.ts'
import { openSqliteStore } from './sqlite-store.ts'
import { parseCheckpoint, parseNote } from '#tlog'

interface Answer {
  readonly text: string
  readonly index: number
  readonly note: string
}

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-crash-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

/** Runs the child until it is killed by its fault point or has answered everything; returns its answers and signal. */
async function run(texts: readonly string[], point: FaultPoint | 'none') {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'crash-child.fixture.ts'), folder, point], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended = new Promise<NodeJS.Signals | null>((resolve) => child.on('exit', (_, signal) => resolve(signal)))
  // The child may be dead before it has read everything.
  child.stdin.on('error', () => {})
  const answers: Answer[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    const said = JSON.parse(line) as Answer & { ready?: true } // printed by our own fixture
    if (said.ready === true) child.stdin.write(texts.map((text) => `${text}\n`).join(''))
    else answers.push(said)
    if (said.ready !== true && answers.length === texts.length) child.kill('SIGKILL')
  }
  return { answers, signal: await ended }
}

function headsOf(answers: readonly Answer[]): SealedHead[] {
  return answers.map(({ note }) => {
    const { size, rootHash } = parseCheckpoint(parseNote(note).text)
    return { size, rootHash, timestampMs: 0, note, signature: new Uint8Array(0) }
  })
}

async function reopen() {
  const agent = makeAgentDouble({ stateFile: join(folder, 'agent.json') })
  const log = await openLog({
    name: 'crash',
    kind: 'rekor-v1',
    origin: 'crash.example - 1',
    databasePath: join(folder, 'log.db'),
    agent,
    key: 'log',
    signEntry: (content, index, timestampMs) =>
      agent.set({ key: 'log', body: content.leaf, integratedTimeSeconds: timestampMs, logIndex: index }),
  })
  return { agent, log }
}

/** What is durable where, after a kill at each point of the batch that would make the log grow from 20 to 40. */
const TABLE: readonly { point: FaultPoint; committed: boolean; guarded: boolean; sealed: boolean }[] = [
  { point: 'before-commit', committed: false, guarded: false, sealed: false },
  { point: 'after-commit', committed: true, guarded: false, sealed: false },
  { point: 'after-guard', committed: true, guarded: true, sealed: false },
  { point: 'after-entry-signatures', committed: true, guarded: true, sealed: false },
  { point: 'after-seal', committed: true, guarded: true, sealed: true },
]

test('the table has every fault point', () => {
  expect(TABLE.map(({ point }) => point)).toEqual(FAULT_POINTS)
})

describe.each(TABLE)('killed $point', ({ point, committed, guarded, sealed }) => {
  test('nothing acknowledged is lost, and the log heals when it is opened', async () => {
    const before = await run(
      Array.from({ length: 20 }, (_, i) => `before ${i}`),
      'none',
    )
    expect(before.answers).toHaveLength(20)
    const during = Array.from({ length: 20 }, (_, i) => `during ${i}`)
    const killed = await run(during, point)
    expect(killed.signal).toBe('SIGKILL')
    expect(killed.answers, 'nobody is answered before the end').toEqual([])

    await expectState({ committed, guarded, sealed })

    const { log, agent } = await reopen()
    const size = log.head().size
    expect(size > 20, 'what was committed is sealed, what was not is gone').toBe(committed)
    expect(agent.heads.length > 0, 'only an unsealed head is signed again').toBe(committed && !sealed)
    const leaves = await checkLog(log, headsOf(before.answers))
    expect(leaves.slice(0, 20).map(String).toSorted()).toEqual(before.answers.map(({ text }) => text).toSorted())
    for (const { text, index } of before.answers) expect(String(leaves[index])).toBe(text)
    for (const entry of await log.entries(0, 100)) expect(entry.entrySignature.length).toBeGreaterThan(60)

    // The clients send again what was not answered; each entry is there once, whatever the kill left.
    const added = await Promise.all(during.map((text) => log.add(textEntry(text))))
    expect(new Set(added.map(({ index }) => index)).size).toBe(20)
    expect(added.some(({ delivered }) => delivered)).toBe(false)
    expect(log.head().size).toBe(40)
    await checkLog(log, headsOf(before.answers))
    for (const text of during) expect(await log.lookup(`text:${text}`, { limit: 5 })).toHaveLength(1)
    await log.close()
  }, 60_000)

  test('killed again at the same point while it heals, it heals the time after', async () => {
    await run(['one'], point)
    await run(['two'], point)
    const { log } = await reopen()
    await Promise.all(['one', 'two', 'three'].map((text) => log.add(textEntry(text))))
    expect((await checkLog(log)).map(String).toSorted()).toEqual(['one', 'three', 'two'])
    await log.close()
  }, 60_000)
})

/** Looks at database and guard as the kill left them, before anything heals. */
async function expectState(expected: { committed: boolean; guarded: boolean; sealed: boolean }): Promise<void> {
  const agent = makeAgentDouble({ stateFile: join(folder, 'agent.json') })
  const { spkiDer } = await agent.key('log')
  const origin = 'crash.example - 1'
  const store = await openSqliteStore(join(folder, 'log.db'), { kind: 'rekor-v1', origin, spkiDer })
  const head = await store.head()
  const guard = await agent.guardedHead({ key: 'log', origin })
  await store.close()
  expect({
    committed: head.committed.size > 20,
    guarded: guard.size > 20,
    sealed: (head.sealed?.size ?? 0) > 20,
  }).toEqual(expected)
  expect(guard.size, 'the database is never behind the guard').toBeLessThanOrEqual(head.committed.size)
}
