/**
 * Disks that are full, read-only, slow, or fail to keep what was written, under load from all services: every request
 * ends in a right answer or in 503 with Retry-After, reads go on, and clients that come again get all they asked for.
 * Full disks are real small filesystems; what no filesystem does on demand is done by disk-shim.c.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Alarms } from '#alarms'
import { watchDisk } from '../../server/disk.ts'
import { type Ledger } from '../crash/ledger.ts'
import type { Outcome } from '../crash/loader.ts'
import { requestOf } from '../crash/requests.ts'
import { initialise, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { buildDiskShim, type DiskShim, readTrace } from '../support/disk-shim.ts'
import { badAnswers, checkEverything, configure, logLines, type PatientLoad, startPatientLoad } from './loaded-stack.ts'
import { keepPlaces } from '../support/moved-state.ts'
import { Disk } from '../support/power-model.ts'
import { leaveFree, makeRoom, mountMemory, remount, unmount } from './volumes.ts'

const MIB = 1024 * 1024
const scratch = mkdtempSync(join(tmpdir(), 'chancery-disk-'))
const dataDir = join(scratch, 'data')
const logsDir = join(dataDir, 'logs')
const stateDir = join(dataDir, 'agent/online')
const ledgers: Ledger[] = []
let shim: DiskShim
let stack: Stack

beforeAll(async () => {
  mountMemory(scratch)
  await initialise(dataDir)
  mountMemory(logsDir, '96m')
  mountMemory(stateDir, '96m')
  shim = buildDiskShim(scratch, { folders: [dataDir] })
  configure(dataDir, 'chancery.yaml', {
    disk: { refuseUploadsBelow: '40MiB', refuseIssuanceBelow: '20MiB', slowSeconds: 0.3 },
  })
  stack = await serve(dataDir, shim.environment)
})

afterAll(async () => {
  shim.set(undefined)
  await stack.stop()
  shim.close()
  unmount(scratch)
  rmSync(scratch, { recursive: true, force: true })
})

test('a disk that fills: uploads are refused first, then certificates; timestamps and reads go on; it heals by itself', async () => {
  const load = await started('filling')
  leaveFree(logsDir, 30 * MIB)
  await seen('disk_low')
  expect([await status('v1'), await status('v2')]).toEqual([503, 503])
  await expectReads()
  await load.progress(3, { uses: ['ca', 'tsa'] })

  leaveFree(logsDir, 10 * MIB)
  await seen('disk_full')
  await load.progress(3, { uses: ['tsa'] })
  await expectReads()
  expect([await status('v1'), await status('v2')]).toEqual([503, 503])

  makeRoom(logsDir)
  await load.progress(3)
  const outcomes = await finished(load)
  const refusedUses = new Set(outcomes.filter((one) => one.status === 503).map(({ use }) => use))
  expect([...refusedUses].toSorted((a, b) => a.localeCompare(b))).toEqual(['ca', 'v1', 'v2'])
})

test('a disk without a byte, before anybody looked: what cannot be stored is refused, and nothing is lost', async () => {
  const load = await started('full at once')
  for (let times = 0; times < 3; times++) {
    leaveFree(logsDir, 0)
    await delay(400)
    await expectReads()
    makeRoom(logsDir)
    await load.progress(2)
  }
  await finished(load)

  // Started on a full disk it is there for readers, and for writers once there is room.
  await stack.stop()
  leaveFree(logsDir, 0)
  stack = await serve(dataDir, shim.environment)
  await expectReads()
  expect([await status('v1'), await status('v2')]).toEqual([503, 503])
  makeRoom(logsDir)
  await until(async () => (await status('v1')) === 201)
})

test('a server that is started on a read-only disk says so and ends', async () => {
  const volume = join(scratch, 'volume')
  mountMemory(volume, '64m')
  const copy = join(volume, 'data')
  cpSync(dataDir, copy, { recursive: true, filter: (path) => path !== join(dataDir, 'run') && path !== logsDir })
  mkdirSync(join(copy, 'logs'))
  remount(volume, 'ro')
  const said = await runChancery(['serve', '--data', copy])
  expect([said.status, said.text]).toEqual([9, expect.stringMatching(/disk_read_only/)])
  unmount(volume)
})

test("a full disk under the agent's state: nothing is signed, and the same agent goes on when there is room", async () => {
  const agent = agentPid()
  const load = await started('agent full')
  leaveFree(stateDir, 0)
  await until(async () => (await status('v1')) === 503)
  await expectReads()
  makeRoom(stateDir)
  await load.progress(3)
  expect(agentPid()).toBe(agent)
  const outcomes = await finished(load)
  for (const use of ['ca', 'tsa', 'v1']) {
    expect(
      outcomes.some((one) => one.use === use && one.status === 503),
      use,
    ).toBe(true)
  }
})

test('a read-only disk: reads go on, and writes do when it can be written again', async () => {
  const load = await started('read-only')
  shim.set({ below: logsDir, writeError: 'EROFS' })
  await seen('disk_read_only')
  await expectReads()
  expect([await status('v1'), await status('v2')]).toEqual([503, 503])
  shim.set(undefined)
  await load.progress(3)
  await finished(load)
})

test('a filesystem that is remounted read-only and back is noticed both times', async () => {
  const volume = join(scratch, 'volume')
  mountMemory(volume, '8m')
  const alarms = new Alarms()
  const disk = await watchDisk([volume], {}, alarms)
  expect(disk.issuance()).toBeUndefined()
  remount(volume, 'ro')
  await disk.look()
  expect(disk.issuance()).toMatch(/read-only/)
  expect(alarms.active().map(({ code }) => code)).toEqual(['disk_read_only'])
  remount(volume, 'rw')
  await disk.look()
  expect([disk.uploads(), disk.issuance(), alarms.active()]).toEqual([undefined, undefined, []])
  disk.close()
  unmount(volume)
})

test('a slow disk: answers are late or 503, and it is told', async () => {
  const load = await started('slow')
  shim.set({ below: dataDir, syncMs: 400 })
  await seen('disk_slow')
  await expectReads()
  await load.progress(1)
  shim.set(undefined)
  await load.progress(3)
  await finished(load)
})

test("a failed fsync of the agent's state ends the agent; the next one goes on when the disk does", async () => {
  const agent = agentPid()
  const load = await started('agent EIO')
  shim.set({ below: join(stateDir, 'state.db'), syncError: 'EIO' })
  await until(() => Promise.resolve(ended(5) > 0))
  await until(async () => (await status('v1')) === 503)
  await expectReads()
  shim.set(undefined)
  await load.progress(3)
  expect(agentPid()).not.toBe(agent)
  await finished(load)
})

test('a failed fsync of a log ends its writing until a restart, and nothing rests on what the disk did not keep', async () => {
  await stack.stop()
  const recording = buildDiskShim(join(scratch, 'recording'), { folders: [dataDir], trace: true })
  const disk = new Disk(dataDir, ['hsm/tokens'])
  stack = await serve(dataDir, recording.environment)
  const load = await started('log EIO')
  recording.set({ below: join(logsDir, 'rekor-v1.db'), syncError: 'EIO' })
  await seen('disk_io_error')
  const { failed, syncsAfterFailure } = recording.counted()
  expect([failed, syncsAfterFailure]).toEqual([1, 0])
  // The disk is well again, and what it has is still unknown.
  recording.set(undefined)
  expect(await status('v1')).toBe(503)
  await load.progress(3, { uses: ['v2', 'ca', 'tsa'] })
  await expectReads()
  expect(await status('v1')).toBe(503)

  // Killed, so that nothing is put in order on the way out.
  stack.server.kill('SIGKILL')
  await stack.ended
  stack = await serve(dataDir, recording.environment)
  await load.progress(3)
  await finished(load, { killed: true })

  // The power is lost: what the failed fsync dropped was never written, unless somebody wrote it again.
  stack.server.kill('SIGKILL')
  await stack.ended
  await delay(300)
  for (const record of readTrace(recording.traceFile)) disk.apply(record)
  for (const volume of [logsDir, stateDir]) unmount(volume)
  renameSync(dataDir, join(scratch, 'before-the-cut'))
  disk.materialise(dataDir, 'nothing', () => 0)
  keepPlaces(dataDir)
  stack = await serve(dataDir, shim.environment)
  await checkEverything(stack, ledgers, ledgers.at(-1) ?? none)
  recording.close()
})

const none: Ledger = { acknowledged: [], unanswered: [], timestamps: [], heads: [] }
let marks = 0

/** A load of which every service has taken something. */
async function started(name: string): Promise<PatientLoad> {
  marks = logLines(dataDir).length
  const load = await startPatientLoad(stack, join(scratch, `load ${name}`))
  await load.progress(2)
  return load
}

/** Ends the load and checks all that was ever promised. While a server is killed there are no answers. */
async function finished(load: PatientLoad, { killed = false } = {}): Promise<readonly Outcome[]> {
  const { ledger, outcomes } = await load.finish()
  ledgers.push(ledger)
  expect(badAnswers(outcomes.filter((one) => !killed || one.status !== 0))).toEqual([])
  await checkEverything(stack, ledgers, ledger)
  return outcomes
}

/** The alarm is raised, since the load began. */
async function seen(alarm: string): Promise<void> {
  await until(() =>
    Promise.resolve(
      logLines(dataDir)
        .slice(marks)
        .some((line) => line['alarm'] === alarm),
    ),
  )
}

/** How often the agent ended with this status, since the load began. */
function ended(status: number): number {
  return logLines(dataDir)
    .slice(marks)
    .filter(({ msg, code }) => msg.startsWith('agent ended') && code === status).length
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const lastMs = performance.now() + 30_000
  while (!(await holds())) {
    if (performance.now() > lastMs)
      throw new Error(`waited too long; the log:\n${readFileSync(join(dataDir, 'serve.log'), 'utf8').slice(-2000)}`)
    await delay(50)
  }
}

let asked = 0

/** What a fresh upload is answered. */
async function status(use: 'v1' | 'v2'): Promise<number> {
  const request = requestOf(use, `${use} ${asked++} of the test itself`)
  const url =
    use === 'v1' ? `${stack.endpoints.rekorV1}/api/v1/log/entries` : `${stack.endpoints.rekorV2}/api/v2/log/entries`
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: request.sent,
  })
  const reply = await response.text()
  const outcome: Outcome = { use, sentMs: 0, endedMs: 0, status: response.status, reply, ...request }
  const taken = response.status === 200 || response.status === 201
  ledgers.push(taken ? { ...none, acknowledged: [outcome] } : { ...none, unanswered: [outcome] })
  if (!taken) expect(response.headers.get('retry-after')).toMatch(/^\d+$/)
  return response.status
}

async function expectReads(): Promise<void> {
  const { rekorV1, rekorV2, ct, tuf } = stack.endpoints
  const urls = [
    `${rekorV1}/api/v1/log`,
    `${rekorV1}/api/v1/log/entries?logIndex=0`,
    `${rekorV2}/checkpoint`,
    `${ct}/ct/v1/get-sth`,
    `${ct}/ct/v1/get-entries?start=0&end=0`,
    `${tuf}/timestamp.json`,
  ]
  for (const url of urls) expect((await fetch(url)).status, url).toBe(200)
}

/** The server's child that runs hsm/agent.ts. */
function agentPid(): number {
  const server = stack.server.pid ?? 0
  const children = readFileSync(`/proc/${server}/task/${server}/children`, 'utf8').trim().split(' ').map(Number)
  return children.find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('agent/online.yaml')) ?? 0
}
