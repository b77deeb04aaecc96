/** A log's database after a loss of power and after a failed fsync, on a disk that keeps only what was synced. */
import { copyFileSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { buildDiskShim, type DiskRecord, type DiskShim, readTrace } from '../test/support/disk-shim.ts'
import { Disk, FATES } from '../test/support/power-model.ts'
import { drawFrom, startOnShim } from '../test/support/on-shim.ts'
import type { GuardedHead } from '#hsm'
import { parseCheckpoint, parseNote } from '#tlog'
import { type AgentDouble, makeAgentDouble } from './agent-double.fixture.ts'
import { checkLog } from './check-log.fixture.ts'
import type { SealedHead } from './log.ts'
import { openLog } from './open.ts'
import { openSqliteStore } from './sqlite-store.ts'

const FIXTURE = join(import.meta.dirname, 'crash-child.fixture.ts')
const CUTS = 24

let scratch: string
let folder: string
let shim: DiskShim
let disk: Disk

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'chancery-power-loss-'))
  folder = join(scratch, 'log')
  mkdirSync(folder)
  disk = new Disk(folder)
  shim = buildDiskShim(join(scratch, 'shim'), { folders: [folder], trace: true })
})

afterEach(() => {
  shim.close()
  rmSync(scratch, { recursive: true })
})

const start = async () =>
  await startOnShim(shim, FIXTURE, [folder, 'none'], (answer) => shim.mark('told', JSON.stringify(answer)))

/** What clients know: entries with their places, and the newest head. */
class Told {
  readonly texts = new Map<string, number>()
  head: SealedHead | undefined

  hear({ bytes }: DiskRecord): void {
    const answer = JSON.parse(bytes?.toString() ?? '') as { text?: string; index?: number; note?: string }
    if (answer.note === undefined) return
    const { size, rootHash } = parseCheckpoint(parseNote(answer.note).text)
    this.head = { size, rootHash, timestampMs: 0, note: answer.note, signature: new Uint8Array(0) }
    if (answer.text !== undefined) this.texts.set(answer.text, answer.index ?? -1)
  }
}

/** The log opens on what is left, under a guard that has seen what clients were shown. */
async function expectLog(name: string, told: Told, materialise: (into: string) => void): Promise<void> {
  const cut = join(scratch, 'cut')
  materialise(cut)
  // The agent is on another machine: it has the key, and its guard is at least at each head that it has signed, those
  // that clients were shown and the one that the database holds.
  copyFileSync(join(folder, 'agent.json'), join(scratch, 'agent.json'))
  renameSync(join(scratch, 'agent.json'), join(cut, 'agent.json'))
  const agent = makeAgentDouble({ stateFile: join(cut, 'agent.json') })
  agent.moveGuard('crash.example - 1', newer(told.head, await sealedHead(join(cut, 'log.db'), agent)))
  const log = await openLog({
    name: 'power',
    kind: 'rekor-v1',
    origin: 'crash.example - 1',
    databasePath: join(cut, 'log.db'),
    agent,
    key: 'log',
    signEntry: (content, index, timestampMs) =>
      agent.set({ key: 'log', body: content.leaf, integratedTimeSeconds: timestampMs, logIndex: index }),
  })
  try {
    expect(log.fault(), name).toBeUndefined()
    const leaves = await checkLog(log, told.head === undefined ? [] : [told.head])
    for (const [text, index] of told.texts) {
      expect(String(leaves[index]), name).toBe(text)
    }
    const newest = [...leaves.entries()].slice(-5)
    for (const [index, leaf] of newest) expect(await log.lookup(`text:${String(leaf)}`, { limit: 5 })).toEqual([index])
  } finally {
    await log.close()
    rmSync(cut, { recursive: true })
  }
}

/** The newest head that the database has a signature for. */
async function sealedHead(path: string, agent: AgentDouble): Promise<GuardedHead | undefined> {
  const { spkiDer } = await agent.key('log')
  const store = await openSqliteStore(path, { kind: 'rekor-v1', origin: 'crash.example - 1', spkiDer })
  try {
    return (await store.head()).sealed
  } finally {
    await store.close()
  }
}

function newer(one: GuardedHead | undefined, other: GuardedHead | undefined): GuardedHead {
  const [newest] = [one, other].filter((head) => head !== undefined).toSorted((a, b) => b.size - a.size)
  return newest ?? { size: 0, rootHash: EMPTY_ROOT }
}

const EMPTY_ROOT = new Uint8Array(
  Buffer.from('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 'hex'),
)

test('whatever a loss of power takes, it takes nothing that was acknowledged', async () => {
  const server = await start()
  for (let round = 0; round < 12; round++) {
    await server.ask(Array.from({ length: 4 }, (_, at) => `entry ${round} ${at} ${'.'.repeat(9000)}`))
  }
  await server.kill()
  const records = readTrace(shim.traceFile)
  const seed = Math.floor(Math.random() * 2 ** 32)
  const draw = drawFrom(seed)
  const cuts = Array.from({ length: CUTS }, () => draw(records.length + 1)).toSorted((a, b) => a - b)
  const told = new Told()
  let applied = 0
  for (const [number, at] of cuts.entries()) {
    for (; applied < at; applied++) {
      const record = records[applied]
      if (record?.path === 'told') told.hear(record)
      else if (record !== undefined) disk.apply(record)
    }
    const fate = FATES[number % FATES.length] ?? 'nothing'
    const name = `seed ${seed}, after record ${at} of ${records.length}, unsynced: ${fate}`
    await expectLog(name, told, (into) => disk.materialise(into, fate, draw))
  }
})
