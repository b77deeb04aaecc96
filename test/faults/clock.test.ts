/**
 * The clock is stepped under the whole stack and its load (faketime), forwards and back, by two seconds and by an hour:
 * under server and agent together, and under the agent alone. This process and the clients keep true time.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ExternalAgent, startExternal } from '../../hsm/external-agent.fixture.ts'
import type { Ledger } from '../crash/ledger.ts'
import { initialise, type Stack, serve } from '../e2e/stack.ts'
import { type FakedClock, fakeClock } from '../support/faked-clock.ts'
import { badAnswers, checkEverything, configure, LONG, type PatientLoad, startPatientLoad } from './loaded-stack.ts'

/** What states a time to the world. */
const STATING = ['v1', 'ca', 'tsa'] as const
/** The largest step that is let pass. */
const TOLERANCE_MS = 1000

const scratch = mkdtempSync(join(tmpdir(), 'chancery-clock-'))
const dataDir = join(scratch, 'data')
let serverClock: FakedClock
let agentClock: FakedClock
let agent: ExternalAgent
let stack: Stack
let load: PatientLoad
const ledgers: Ledger[] = []

beforeAll(async () => {
  await initialise(dataDir)
  serverClock = fakeClock(scratch, 'server')
  agentClock = fakeClock(scratch, 'agent')
  const socket = join(scratch, 'agent.sock')
  configure(dataDir, 'agent/online.yaml', { sockets: { signing: socket }, clock: { confirmedBy: agentClock.source } })
  configure(dataDir, 'chancery.yaml', {
    agent: { socket },
    time: { sources: [{ command: serverClock.source }] },
  })
  agent = await startExternal(join(dataDir, 'agent/online.yaml'), undefined, agentClock.environment)
  stack = await serve(dataDir, serverClock.environment)
  load = await startPatientLoad(stack, join(scratch, 'load'))
  await load.progress(5)
})

afterAll(async () => {
  try {
    await stack.stop()
    await agent.stop()
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
})

function stepAll(seconds: number): void {
  serverClock.step(seconds)
  agentClock.step(seconds)
}

/** Nothing that states a time is given any more, while the log without times goes on. */
async function expectStopped(): Promise<void> {
  // What was signed before the step is on its way.
  await delay(300)
  const before = await load.running.acknowledged()
  await load.progress(10, { uses: ['v2'] })
  const after = await load.running.acknowledged()
  for (const use of STATING) expect(after[use], use).toBe(before[use])
}

function serverLog(): string {
  return readFileSync(join(dataDir, 'serve.log'), 'utf8')
}

describe('a step of the clock of the whole machine', () => {
  test.each([2, -2, 3600, -3600, ...(LONG ? [1.5, -1.5, 86_400, -86_400] : [])])(
    'by %d s stops whatever states a time until the sources agree',
    async (seconds) => {
      const from = serverLog().length
      stepAll(seconds)
      await expectStopped()
      const said = serverLog().slice(from)
      expect(said).toMatch(/"alarm":"clock_stepped","subject":"server"/)
      expect(said).toMatch(/"runbook":"docs\/runbook.md#clock_stepped"/)
      stepAll(0)
      await load.progress(3)
    },
  )

  test('by half a second is let pass', async () => {
    stepAll(0.5)
    await load.progress(3)
    stepAll(0)
    await load.progress(3)
  })
})

test("a step of the agent's clock alone stops it too: it believes no service about the time", async () => {
  agentClock.step(3600)
  await expectStopped()
  expect(agent.said.join('\n')).toContain('clock_stepped')
  agentClock.step(0)
  await load.progress(3)
})

test('every answer was right or 503; no time was stated that was off by more than the tolerance', async () => {
  const { ledger, outcomes, ended } = await load.finish()
  ledgers.push(ledger)
  expect(badAnswers(outcomes)).toEqual([])
  expect(ended).toMatchObject({ lost: 0, abandoned: 0 })
  const { times } = await checkEverything(stack, [ledger], ledger)
  // An entry may have its time from the first of several tries.
  const firstMs = new Map<string, number>()
  for (const { digest, sentMs } of outcomes) firstMs.set(digest, Math.min(sentMs, firstMs.get(digest) ?? sentMs))
  const wrong = times.filter(({ statedMs, digest, wholeSeconds, sentMs, endedMs }) => {
    const earliestMs = (firstMs.get(digest) ?? sentMs) - TOLERANCE_MS - (wholeSeconds ? 1000 : 0)
    return statedMs < earliestMs || statedMs > endedMs + TOLERANCE_MS
  })
  expect(times.length).toBeGreaterThan(100)
  expect(wrong).toEqual([])
})

test('a clock that was an hour ahead and is set right breaks no log: heads do not step back, entries state the right time', async () => {
  // Nobody knew that it was ahead.
  serverClock.step(3600, { sourceKnows: false })
  agentClock.step(3600, { sourceKnows: false })
  // No certificates: to this clock the identity tokens of clients with the right time have expired.
  const uses = ['v1', 'v2', 'tsa'] as const
  const ahead = await startPatientLoad(stack, join(scratch, 'ahead'), { v1: 2, v2: 1, tsa: 1 })
  await ahead.progress(3, { uses })
  const sth = async () => {
    const response = await fetch(`${stack.endpoints.ct}/ct/v1/get-sth`)
    return (await response.json()) as { timestamp: number; tree_size: number }
  }
  const before = await sth()
  const first = await ahead.finish()
  stepAll(0)
  const right = await startPatientLoad(stack, join(scratch, 'right'))
  await right.progress(3)
  const second = await right.finish()
  ledgers.push(first.ledger, second.ledger)
  const after = await sth()
  expect(after.tree_size).toBeGreaterThan(before.tree_size)
  expect(after.timestamp).toBeGreaterThanOrEqual(before.timestamp)
  const { times: aheadTimes } = await checkEverything(stack, ledgers, first.ledger)
  expect(Math.max(...aheadTimes.map(({ statedMs }) => statedMs))).toBeGreaterThan(Date.now() + 3_000_000)
  expect(badAnswers([...first.outcomes, ...second.outcomes])).toEqual([])
  const { times } = await checkEverything(stack, ledgers, second.ledger)
  const digests = new Set(second.outcomes.map(({ digest }) => digest))
  const late = times.filter(({ digest, statedMs, endedMs }) => digests.has(digest) && statedMs > endedMs + TOLERANCE_MS)
  expect(late).toEqual([])
})
