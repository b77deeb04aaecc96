/**
 * The server is killed under load, at moments of chance and at each fault point between commit, guard, signature and
 * seal; each time it is started again and nothing else is done. Then everything that its clients hold is checked
 * against everything that it says. The load and the killing are another process (`loader.ts`); the checks rest on
 * HTTP and on code that shares nothing with the server (`checker.ts`).
 */
import { spawn } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseDocument } from 'yaml'
import { FAULT_POINTS } from '#transparency-log'
import { succeeded } from '../e2e/run.ts'
import { initialise, projectFolder, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { joined, type Ledger, readLedger } from './ledger.ts'
import { type Ended, type RunningLoad, startLoad } from './load.ts'
import type { Outcome, Use } from './loader.ts'
import { pinnedLogs } from './pinned-logs.ts'
import { requestOf } from './requests.ts'
import { checkWholeLogs, type Found, type Logs, v1Entry, v2Entry } from './whole-log-check.ts'

const EMAIL = 'loader@example.test'
/** Writers: 18 connections, each with one request under way. */
const LANES: Readonly<Partial<Record<Use, number>>> = { v1: 8, v2: 6, ca: 4, watch: 1 }
/** A kill with fewer requests under way, or before anything was acknowledged, shows too little. */
const IN_FLIGHT = 8
const acknowledged = (): number => 30 + Math.floor(Math.random() * 60)
/** Notes of delivery are stored within a quarter of a second; a slow machine gets this long. */
const MARKED_WITHIN_MS = 1500
const NONE: Ledger = { acknowledged: [], unanswered: [], timestamps: [], heads: [] }

const scratch = mkdtempSync(join(tmpdir(), 'chancery-crash-'))
const dataDir = join(scratch, 'data')
let stack: Stack
let logs: Logs
let token = ''
let tokenUntilMs = 0
const ledgers: Ledger[] = []
/** One line for each crash, shown at the end. */
const seen: string[] = []

beforeAll(async () => {
  await initialise(dataDir)
  stack = await serve(dataDir)
  logs = pinnedLogs(dataDir, stack.endpoints)
})

afterAll(async () => {
  console.log(seen.join('\n'))
  try {
    await stack.stop()
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
})

describe('kill -9 under load', () => {
  test.each(Array.from({ length: 10 }, (_, number) => number + 1))(
    'at a moment of chance, %i of 10',
    async (number) => {
      const kill = async (load: RunningLoad): Promise<number> => {
        return await load.kill(pidOf(stack), { acknowledged: acknowledged(), inFlight: IN_FLIGHT })
      }
      const crash = await crashUnderLoad(`kill-${number}`, { kill })
      const found = await checkAfter(crash)
      await sendAgain(crash.ledger, found)
    },
  )
})

const FAULTS = (['rekor-v1', 'rekor-v2', 'ct'] as const).flatMap((log) => FAULT_POINTS.map((point) => ({ log, point })))
const USE_OF = { 'rekor-v1': 'v1', 'rekor-v2': 'v2', ct: 'ca' } as const

describe('kill -9 between two steps', () => {
  test.each(FAULTS)('$log: $point', async (fault) => {
    const crash = await crashUnderLoad(`${fault.log}-${fault.point}`, { fault })
    const found = await checkAfter(crash)
    const use = USE_OF[fault.log]
    const committed = crash.ledger.unanswered.filter((one) => one.use === use && found.index[use].has(one.digest))
    // The load's first batch was the last thing that the log did.
    expect(crash.ledger.acknowledged.filter((one) => one.use === use).length).toBe(0)
    expect(committed.length > 0, 'unanswered entries are in the log').toBe(fault.point !== 'before-commit')
    await sendAgain(crash.ledger, found)
  })
})

describe('kill -9 of the HSM agent alone', () => {
  test.each([1, 2, 3])('under load: the server heals by itself, %i of 3', async (number) => {
    const folder = join(scratch, `agent-${number}`)
    const load = await startLoadInto(folder)
    const before = agentPid()
    const inFlight = await load.kill(before, { acknowledged: acknowledged(), inFlight: IN_FLIGHT })
    const killedMs = Date.now()
    await delay(3000)
    load.stop()
    const ended = await load.ended
    const ledger = readLedger(folder)
    ledgers.push(ledger)
    expect(stack.server.exitCode).toBe(null)
    expect(agentPid()).not.toBe(before)
    expect(ended.lost, 'requests without a reply, though the server lived').toBe(0)
    const after = ledger.acknowledged.filter(({ sentMs }) => sentMs > killedMs)
    for (const use of ['v1', 'v2', 'ca']) expect(after.filter((one) => one.use === use).length, use).toBeGreaterThan(0)
    const healedMs = Math.min(...after.map(({ endedMs }) => endedMs)) - killedMs
    seen.push(
      `agent ${number}: ${inFlight} in flight, ${ended.refused} refused with 503, served again after ${healedMs} ms`,
    )
    const found = await checkWholeLogs(logs, { all: joined(ledgers), fresh: ledger, sampleOf: 50 })
    await sendAgain(ledger, found)
  })
})

describe('what must not be started', () => {
  test('a second server on one data folder is refused, and the first goes on', async () => {
    const second = await runChancery(['serve', '--data', dataDir])
    expect(second.status).not.toBe(0)
    expect(second.text).toMatch(/a server runs on .* already.*store_in_use/s)
    expect((await fetch(`${logs.rekorV1}/api/v1/log`)).status).toBe(200)
    expect((await runChancery(['status', '--data', dataDir])).status).toBe(0)
    await expectTaken('after the second server')
  })

  test('a second agent on one state is refused', async () => {
    const config = join(dataDir, 'agent', 'online.yaml')
    const second = spawn(
      process.execPath,
      [join(projectFolder, 'hsm', 'agent.ts'), '--inherited', '--config', config],
      {
        env: {},
        stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
      },
    )
    const said: Buffer[] = []
    second.stderr?.on('data', (chunk: Buffer) => said.push(chunk))
    const status = await new Promise((resolve) => {
      second.once('close', resolve)
    })
    expect(Buffer.concat(said).toString()).toMatch(/another agent uses the state folder/)
    expect(status).toBe(3)
    await expectTaken('after the second agent')
  })
})

describe('an old database under a newer guard', () => {
  test('is refused loudly for writing and goes on for reading; other logs and the right database work', async () => {
    const [older, newer] = [join(scratch, 'older'), join(scratch, 'newer')]
    await stack.stop()
    moveDatabase('rekor-v1', { from: join(dataDir, 'logs'), to: older })
    stack = await serve(dataDir)
    await expectTaken('in the newer database')
    await stack.stop()
    moveDatabase('rekor-v1', { from: join(dataDir, 'logs'), to: newer, away: true })
    moveDatabase('rekor-v1', { from: older, to: join(dataDir, 'logs') })

    stack = await serve(dataDir)
    const refused = await post(unsent('v1', 'under the old database'))
    expect(refused).toMatchObject({ status: 503, reply: expect.stringContaining('read-only') })
    expect((await fetch(`${logs.rekorV1}/api/v1/log/entries?logIndex=0`)).status).toBe(200)
    expect((await fetch(`${logs.rekorV1}/api/v1/log`)).status).toBe(200)
    expect(await post(unsent('v2', 'beside the old database'))).toMatchObject({ status: 201 })
    expect(readFileSync(join(dataDir, 'serve.log'), 'utf8')).toMatch(/log is read-only/)
    expect((await runChancery(['status', '--data', dataDir])).text).toMatch(/it is older than the log/)

    await stack.stop()
    moveDatabase('rekor-v1', { from: join(dataDir, 'logs'), to: join(scratch, 'refused'), away: true })
    moveDatabase('rekor-v1', { from: newer, to: join(dataDir, 'logs') })
    stack = await serve(dataDir)
    await expectTaken('with the right database again')
    const all = joined([...ledgers, { ...NONE, unanswered: [unsent('v2', 'beside the old database')] }])
    await checkWholeLogs(logs, { all, fresh: NONE, sampleOf: 20 })
  })
})

interface Crash {
  readonly name: string
  readonly ledger: Ledger
  /** Writes that had been sent when the server died and never had a reply. */
  readonly inFlight: number
  readonly ended: Ended
}

/**
 * Loads the running server until it is dead: by what `kill` does, or by its own fault point. A crash with fewer than
 * `IN_FLIGHT` requests under way does not count: it is done again.
 */
async function crashUnderLoad(
  name: string,
  by: { kill: (load: RunningLoad) => Promise<number> } | { fault: (typeof FAULTS)[number] },
): Promise<Crash> {
  for (let attempt = 1; ; attempt += 1) {
    if ('fault' in by) {
      await stack.stop()
      setFault(by.fault)
      stack = await serve(dataDir)
    }
    const folder = join(scratch, `${name}-${attempt}`)
    const load = await startLoadInto(folder)
    const atKill = 'kill' in by ? await by.kill(load) : Number.POSITIVE_INFINITY
    const ended = await load.ended
    await stack.ended
    expect(stack.server.signalCode).toBe('SIGKILL')
    // What the crash left to be sealed would stop the next start at the same point.
    setFault(undefined)
    stack = await serve(dataDir)
    const ledger = readLedger(folder)
    ledgers.push(ledger)
    const inFlight = Math.min(ended.lost, atKill)
    if (inFlight >= IN_FLIGHT) return { name, ledger, inFlight, ended }
    if (attempt === 3) throw new Error(`${name}: three crashes, the last with ${inFlight} requests in flight`)
  }
}

async function startLoadInto(folder: string): Promise<RunningLoad> {
  if (Date.now() > tokenUntilMs) {
    token = succeeded(await runChancery(['dev', 'token', '--data', dataDir, '--email', EMAIL])).stdout.trim()
    // Development tokens live ten minutes.
    tokenUntilMs = Date.now() + 300_000
  }
  return startLoad({ folder, name: folder, endpoints: stack.endpoints, token, email: EMAIL, lanes: LANES })
}

async function checkAfter({ name, ledger, inFlight, ended }: Crash): Promise<Found> {
  const startMs = Date.now()
  const found = await checkWholeLogs(logs, { all: joined(ledgers), fresh: ledger, sampleOf: 50 })
  const sizes = `v1 ${found.v1.size}, v2 ${found.v2.size}, ct ${found.ct.size}`
  const ms = Date.now() - startMs
  seen.push(`${name}: ${inFlight} in flight, ${ended.acknowledged} acknowledged; ${sizes}; checked in ${ms} ms`)
  return found
}

/**
 * The clients of unanswered requests send them again: 201 with the entry that is there, if it is, once; then 409. Of what
 * was acknowledged some is sent again too: 409, at the latest after one reply more where the crash took the note of
 * delivery with it.
 */
async function sendAgain(ledger: Ledger, found: Found): Promise<void> {
  for (const outcome of ledger.unanswered.filter(isEntry)) {
    const existing = indexIn(found, outcome)
    const first = await post(outcome)
    expect(first).toMatchObject({ status: 201 })
    if (existing !== undefined) expect(entryIndex(first)).toBe(existing)
    await expectConflict(outcome, first)
    ledgers.push({ ...NONE, acknowledged: [first] })
  }
  const killedMs = Math.max(0, ...ledger.acknowledged.map(({ endedMs }) => endedMs))
  for (const outcome of ledger.acknowledged.filter(isEntry).filter((_, at) => at % 8 === 0)) {
    const again = await post(outcome)
    if (again.status === 201) {
      expect(outcome.endedMs, 'the note of delivery was lost').toBeGreaterThan(killedMs - MARKED_WITHIN_MS)
      expect(entryIndex(again)).toBe(entryIndex(outcome))
    } else expect(again).toMatchObject({ status: 409 })
    await expectConflict(outcome, outcome)
  }
}

function isEntry({ use }: Outcome): boolean {
  return use === 'v1' || use === 'v2'
}

/** 409 that names the entry of the first reply. */
async function expectConflict(outcome: Outcome, first: Outcome): Promise<void> {
  const response = await postTo(outcome)
  const text = await response.text()
  expect(response.status, text).toBe(409)
  if (outcome.use === 'v2') expect(text).toContain(`index ${entryIndex(first)}`)
  else expect(response.headers.get('location')).toBe(`/api/v1/log/entries/${v1Entry(first.reply).uuid}`)
}

function indexIn(found: Found, { use, digest }: Outcome): number | undefined {
  return use === 'watch' || use === 'tsa' ? undefined : found.index[use].get(digest)
}

function entryIndex({ use, reply }: Outcome): number {
  return use === 'v1' ? v1Entry(reply).index : v2Entry(reply).index
}

async function postTo({ use, sent }: Outcome): Promise<Response> {
  const url = use === 'v1' ? `${logs.rekorV1}/api/v1/log/entries` : `${logs.rekorV2}/api/v2/log/entries`
  return await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: sent })
}

async function post(outcome: Outcome): Promise<Outcome> {
  const sentMs = Date.now()
  const response = await postTo(outcome)
  return { ...outcome, sentMs, endedMs: Date.now(), status: response.status, reply: await response.text() }
}

function unsent(use: 'v1' | 'v2', message: string): Outcome {
  return { use, sentMs: 0, endedMs: 0, status: 0, reply: '', ...requestOf(use, message) }
}

async function expectTaken(message: string): Promise<void> {
  for (const use of ['v1', 'v2'] as const) {
    const outcome = await post(unsent(use, message))
    expect(outcome).toMatchObject({ status: 201 })
    ledgers.push({ ...NONE, acknowledged: [outcome] })
  }
}

function pidOf({ server }: Stack): number {
  if (server.pid === undefined) throw new Error('the server has no process id')
  return server.pid
}

/** The server's child that runs hsm/agent.ts. */
function agentPid(): number {
  const server = pidOf(stack)
  const children = readFileSync(`/proc/${server}/task/${server}/children`, 'utf8').trim().split(' ').map(Number)
  const agent = children.find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('agent/online.yaml'))
  if (agent === undefined) throw new Error('the server has no agent')
  return agent
}

/** Sets the fault point of one log in chancery.yaml and clears all others. */
function setFault(fault: (typeof FAULTS)[number] | undefined): void {
  const file = join(dataDir, 'chancery.yaml')
  const document = parseDocument(readFileSync(file, 'utf8'))
  const { logs } = document.toJS() as { logs: { name: string }[] }
  logs.forEach(({ name }, at) => {
    if (name === fault?.log) document.setIn(['logs', at, 'faultPoint'], fault.point)
    else document.deleteIn(['logs', at, 'faultPoint'])
  })
  writeFileSync(file, document.toString())
}

/** Copies or moves a log's database with what belongs to it (WAL). */
function moveDatabase(log: string, { from, to, away = false }: { from: string; to: string; away?: boolean }): void {
  mkdirSync(to, { recursive: true })
  for (const name of readdirSync(from).filter((file) => file.startsWith(`${log}.db`))) {
    cpSync(join(from, name), join(to, name))
    if (away) rmSync(join(from, name))
  }
}
