/** The agent's state after a loss of power and after a failed fsync, on a disk that keeps only what was synced. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { buildDiskShim, type DiskShim, readTrace } from '../test/support/disk-shim.ts'
import { Disk, FATES } from '../test/support/power-model.ts'
import { drawFrom, startOnShim } from '../test/support/on-shim.ts'
import { openAgentState } from './agent-state.ts'

const FIXTURE = join(import.meta.dirname, 'power-loss.fixture.ts')
const CUTS = 60

let scratch: string
let folder: string
let shim: DiskShim
let disk: Disk

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'chancery-power-loss-'))
  folder = join(scratch, 'state')
  mkdirSync(folder)
  disk = new Disk(folder)
  shim = buildDiskShim(join(scratch, 'shim'), { folders: [folder], trace: true })
})

afterEach(() => {
  shim.close()
  rmSync(scratch, { recursive: true })
})

const start = async () =>
  await startOnShim(shim, FIXTURE, [folder], ({ size }) => {
    if (typeof size === 'number') shim.mark('told', size.toString())
  })

/** The state as it is on the disk that was cut now: what was told to be done is, and all of it belongs together. */
async function expectState(name: string, told: number, materialise: (into: string) => void): Promise<void> {
  const cut = join(scratch, 'cut')
  materialise(cut)
  // The file belongs to the inode it was on; a disk that lost power has the same one, and the model's copy has not.
  rmSync(join(cut, 'place.json'), { force: true })
  const state = await openAgentState(cut, { waitMs: 0 })
  try {
    const size = state.guard('log.test')?.size ?? 0
    expect(size, name).toBeGreaterThanOrEqual(told)
    expect([state.tufVersion('tuf', 'timestamp')?.version ?? 0, state.uses('log')], name).toEqual([size, size])
    expect(state.accountRows(), name).toHaveLength(size)
    state.verifyAccount()
  } finally {
    state.close()
    rmSync(cut, { recursive: true })
  }
}

test('whatever a loss of power takes, it takes nothing that was told to be durable', async () => {
  const agent = await start()
  // Long enough for the write-ahead log to be moved into the database.
  await agent.ask(Array.from({ length: 160 }, () => 'next'))
  await agent.kill()
  const records = readTrace(shim.traceFile)
  const seed = Math.floor(Math.random() * 2 ** 32)
  const draw = drawFrom(seed)
  const cuts = Array.from({ length: CUTS }, () => draw(records.length + 1)).toSorted((a, b) => a - b)
  let told = 0
  let applied = 0
  for (const [number, at] of cuts.entries()) {
    for (; applied < at; applied++) {
      const record = records[applied]
      if (record?.path === 'told') told = Number(record.bytes?.toString())
      else if (record !== undefined) disk.apply(record)
    }
    const fate = FATES[number % FATES.length] ?? 'nothing'
    const name = `seed ${seed}, after record ${at} of ${records.length}, unsynced: ${fate}`
    await expectState(name, told, (into) => disk.materialise(into, fate, draw))
  }
})

test('after a failed fsync nothing is written any more, and the next process does not rest on the cache', async () => {
  const first = await start()
  await first.ask(['1', '2', '3'])
  shim.set({ below: join(folder, 'state.db'), syncError: 'EIO' })
  expect((await first.ask(['4']))[0]).toEqual({ diskFailure: 'disk_io_error' })
  shim.set({ below: join(folder, 'state.db') })
  const refused = (await first.ask(['5', '6'])).map((answer) => answer['refused'] ?? answer['diskFailure'])
  expect(new Set(refused)).toEqual(new Set(['disk_io_error']))
  expect(shim.counted()).toEqual({ failed: 0, syncsAfterFailure: 0 })
  await first.kill()

  const second = await start()
  await second.ask(['1', '2', '3'])
  await second.kill()
  let told = 0
  for (const record of readTrace(shim.traceFile)) {
    if (record.path === 'told') told = Number(record.bytes?.toString())
    else disk.apply(record)
  }
  expect(told).toBeGreaterThanOrEqual(6)
  await expectState('the cut', told, (into) => disk.materialise(into, 'nothing', () => 0))
})

test('what a full disk refuses is undone, and can be asked for again', async () => {
  const agent = await start()
  await agent.ask(['1', '2'])
  shim.set({ below: join(folder, 'state.db'), writeError: 'ENOSPC' })
  expect(await agent.ask(['3'])).toEqual([{ refused: 'SQLITE_FULL' }])
  shim.set(undefined)
  expect(await agent.ask(['3', '4'])).toEqual([{ size: 3 }, { size: 4 }])
  await agent.kill()
})
