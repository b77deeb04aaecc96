/** The agent and its own clock, which is stepped under it (faketime): it believes no service about the time. */
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type FakedClock, fakeClock } from '../test/support/faked-clock.ts'
import { install, type Installation, ORIGIN, setRequest, timestampRequest, treeOf } from './agent.fixture.ts'
import { connectAgent } from './client.ts'
import { type ExternalAgent, startExternal } from './external-agent.fixture.ts'
import { HsmError, type SigningAgent } from './signing.ts'

let installation: Installation
let clock: FakedClock
let external: ExternalAgent
let agent: SigningAgent

beforeAll(async () => {
  installation = await install()
  clock = fakeClock(installation.folder, 'agent')
  installation.configure({
    sockets: { signing: join(installation.folder, 's.sock') },
    clock: { confirmedBy: clock.source },
  })
  external = await start()
  agent = await connectAgent({ socketPath: join(installation.folder, 's.sock') })
})

afterAll(async () => {
  await agent.close()
  await external.stop()
  installation.remove()
})

async function start(): Promise<ExternalAgent> {
  return await startExternal(installation.configPath, undefined, clock.environment)
}

async function outcome(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'signed'
  } catch (error) {
    if (error instanceof HsmError) return `${error.code} ${error.reason}`
    throw error
  }
}

/** Requests with right times, whatever the agent's clock shows. */
const set = async () => await outcome(agent.set(setRequest()))
const timestamp = async () => await outcome(agent.timestamp(timestampRequest()))

test.each([2, -2, 3600, -3600])(
  'after a step of %i s the very next request is refused, over a restart too, until the source agrees',
  async (seconds) => {
    await expect.poll(set, { timeout: 20_000 }).toBe('signed')
    clock.step(seconds)
    // Made by somebody who was misled as well: the times would fit the agent's clock.
    const misled = Math.floor(Date.now() / 1000) + seconds
    expect(await outcome(agent.set(setRequest({ integratedTimeSeconds: misled })))).toBe('unavailable clock_stepped')
    const genTime = new Date(misled * 1000)
    expect(await outcome(agent.timestamp(timestampRequest({ genTime })))).toBe('unavailable clock_stepped')
    expect(await set()).toBe('unavailable clock_stepped')
    expect((await agent.status()).clock).toMatchObject({ confirmedBy: 'command', fault: expect.any(String) })
    // A checkpoint states no time.
    const head = { key: 'rekor-v2', origin: ORIGIN['rekor-v2'], size: 7, rootHash: treeOf(7).root() }
    const guarded = await agent.guardedHead({ key: head.key, origin: head.origin })
    if (guarded.size === 0) await agent.treeHead({ ...head, timestampMs: Date.now(), consistencyProof: [] })
    if (seconds === 3600) {
      await external.stop()
      external = await start()
      await expect.poll(set, { timeout: 20_000 }).toBe('unavailable clock_stepped')
    }
    clock.step(0)
    await expect.poll(set, { timeout: 20_000 }).toBe('signed')
    expect(await timestamp()).toBe('signed')
  },
)

test('a clock that was ahead and is set right by its source signs the right time at once', async () => {
  clock.step(3600, { sourceKnows: false })
  const ahead = async () =>
    await outcome(agent.set(setRequest({ integratedTimeSeconds: Math.floor(Date.now() / 1000) + 3600 })))
  await expect.poll(ahead, { timeout: 20_000 }).toBe('signed')
  clock.step(0)
  expect(await set()).toBe('unavailable clock_stepped')
  await expect.poll(set, { timeout: 20_000 }).toBe('signed')
})
