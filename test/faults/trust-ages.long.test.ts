/**
 * A server whose custodians never come, looked at on single days of a year (faketime): what it says of root and targets in
 * metrics, log, status and readiness, while it signs snapshot and timestamp by itself. CHANCERY_LONG=1.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { type ExternalAgent, startExternal } from '../../hsm/external-agent.fixture.ts'
import { initialise, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { fakeClock } from '../support/faked-clock.ts'
import { configure } from './loaded-stack.ts'

const DAY_MS = 86_400_000
const readiness = z.object({ services: z.record(z.string(), z.object({ ready: z.boolean() })) })
const timestamp = z.object({ signed: z.object({ expires: z.string() }) })

describe('a year without custodians', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'chancery-trust-ages-'))
  const dataDir = join(scratch, 'data')
  const clock = fakeClock(scratch, 'world')
  let agent: ExternalAgent | undefined
  let stack: Stack | undefined

  beforeAll(async () => {
    await initialise(dataDir, ['--tuf-quorum', '2/2'])
    const socket = join(scratch, 'agent.sock')
    configure(dataDir, 'agent/online.yaml', { sockets: { signing: socket }, clock: { confirmedBy: clock.source } })
    configure(dataDir, 'chancery.yaml', { agent: { socket } })
  })

  async function stop(): Promise<void> {
    await stack?.stop()
    await agent?.stop()
    stack = agent = undefined
  }

  afterAll(async () => {
    try {
      await stop()
    } finally {
      rmSync(scratch, { recursive: true, force: true })
    }
  })

  test.each([
    [300, 200, true, ''],
    [306, 200, false, 'trust_root_ending'],
    [336, 200, false, 'trust_root_ending_soon'],
    [352, 200, false, 'trust_root_ending_now'],
    [366, 503, false, 'trust_root_expired'],
  ])('day %i: /readyz answers %i', async (days, status, ready, code) => {
    await stop()
    // Nobody knows it for a step: so much time has gone by.
    clock.step(days * 86_400, { sourceKnows: false })
    agent = await startExternal(join(dataDir, 'agent/online.yaml'), undefined, clock.environment)
    const running = await serve(dataDir, clock.environment)
    stack = running
    const { tuf, metrics } = running.endpoints
    const get = async (url: string) => await fetch(url)
    const end = async () =>
      Date.parse(timestamp.parse(await (await get(`${tuf}/timestamp.json`)).json()).signed.expires)
    await expect.poll(end, { timeout: 20_000 }).toBeGreaterThan(Date.now() + days * DAY_MS)

    const answer = await get(`${metrics}/readyz`)
    const { services } = readiness.parse(await answer.json())
    expect([answer.status, services['trust-root']?.ready]).toEqual([status, ready])
    const alarms = async () => {
      const text = await (await get(`${metrics}/metrics`)).text()
      const found = text.matchAll(/^chancery_alarm\{code="(trust_root_\w+)",subject="(\w+)"/gm)
      return [...found].map(([, which, subject]) => `${which} ${subject}`)
    }
    const expected = code === '' ? [] : [`${code} root`, `${code} targets`]
    await expect.poll(alarms, { timeout: 45_000, interval: 500 }).toEqual(expected)
    if (code === '') return
    expect(readFileSync(join(dataDir, 'serve.log'), 'utf8')).toContain(`"alarm":"${code}","subject":"root"`)
    const screen = await runChancery(['status', '--data', dataDir])
    expect([screen.status, screen.stdout]).toEqual([
      1,
      expect.stringMatching(new RegExp(`^ALARM ${code} {2}root `, 'm')),
    ])
  })
})
