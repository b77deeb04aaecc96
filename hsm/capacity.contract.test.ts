/** Who is served first by a slow HSM, and the cap on certificates with its raise, at the real agent. */
import Database from 'better-sqlite3'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { AdminAgent } from './administration.ts'
import {
  copyOf,
  install,
  type Installation,
  KEY_OF,
  ORIGIN,
  prepared,
  setRequest,
  timestampRequest,
  treeOf,
  tufPayload,
} from './agent.fixture.ts'
import { buildFaultShimIn, type FaultShim } from './fault-shim.fixture.ts'
import { HsmError } from './signing.ts'
import type { SpawnedAgent } from './spawn.ts'

let installation: Installation

beforeAll(async () => {
  installation = await install()
})

afterAll(() => installation.remove())

async function outcome(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'signed'
  } catch (error) {
    if (error instanceof HsmError) return `${error.code} ${error.reason}`
    throw error
  }
}

describe('an HSM that takes 100 ms for a signature, and forty timestamps before everything else', () => {
  let shim: FaultShim
  let ours: Installation

  beforeAll(() => {
    ours = copyOf(installation)
    shim = buildFaultShimIn(ours.folder, ours.tokens.modulePath)
    // From the start on: a key is asked to sign off the loop when its first signatures are slow.
    shim.set({ call: 'C_Sign', action: 'delay', times: 1e6, value: 100 })
  })

  afterAll(() => ours.remove())

  /** Asks for timestamps, then for the others; the order in which the answers came. */
  async function answersOf(sessions: number, others: readonly Urgent[]): Promise<string[]> {
    ours.configure({ modulePath: shim.modulePath, sessions })
    const spawned = await ours.start({ deadlineMs: 60_000 })
    try {
      // Those before may already be in the module; all others wait.
      const answers: string[] = []
      const noted = async (name: string, asked: Promise<unknown>) => {
        const found = await outcome(asked)
        answers.push(found === 'signed' ? name : `${name}: ${found}`)
      }
      const timestamps = Array.from({ length: 40 }, () =>
        noted('timestamp', spawned.admin.timestamp(timestampRequest())),
      )
      await expect.poll(() => answers.length).toBeGreaterThan(2)
      const before = answers.length
      await Promise.all(others.map((name) => noted(name, URGENT[name](spawned.admin))))
      // Only those that were behind them when they came: the rest need not be waited for.
      const after = answers.slice(before)
      void Promise.allSettled(timestamps)
      return after
    } finally {
      await spawned.close()
    }
  }

  const URGENT = {
    treeHead: (agent: AdminAgent) => agent.treeHead(headNow()),
    certificate: (agent: AdminAgent) =>
      agent.certificate({ key: KEY_OF.certificate, tbsDer: prepared(ours).precertificateTbs() }),
    set: (agent: AdminAgent) => agent.set(setRequest()),
    tuf: (agent: AdminAgent) =>
      agent.tuf({ key: KEY_OF.tuf, role: 'timestamp', payload: tufPayload({ version: Date.now() % 1e9 }) }),
  }
  type Urgent = keyof typeof URGENT

  test('with one session: in the order of urgency, whatever came first', async () => {
    const answers = await answersOf(1, ['tuf', 'set', 'certificate', 'treeHead'])
    // One timestamp was in the module, and one more may have been given the session while the requests were under way.
    expect(answers.filter((name) => name !== 'timestamp')).toEqual(['treeHead', 'certificate', 'set', 'tuf'])
    expect(answers.filter((name) => name === 'timestamp').length).toBeLessThanOrEqual(3)
  })

  test('with four: half of them are never a timestamp’s, and a tree head waits for nothing', async () => {
    const answers = await answersOf(4, ['treeHead'])
    expect(answers.at(-1)).toBe('treeHead')
    expect(answers.length).toBeLessThanOrEqual(6)
  })
})

test('more timestamps than half of what may be under way are refused as busy, and a tree head is not', async () => {
  const ours = copyOf(installation)
  ours.configure({ inFlight: 16 })
  const spawned = await ours.start()
  const flood = Array.from({ length: 100 }, () => outcome(spawned.agent.timestamp(timestampRequest())))
  const head = outcome(spawned.agent.treeHead(headNow()))
  const certificate = outcome(
    spawned.agent.certificate({ key: KEY_OF.certificate, tbsDer: prepared(ours).precertificateTbs() }),
  )
  expect([await head, await certificate]).toEqual(['signed', 'signed'])
  const answers = await Promise.all(flood)
  expect(new Set(answers)).toEqual(new Set(['signed', 'busy too_many_requests']))
  await spawned.close()
  ours.remove()
})

describe('the cap on certificates a minute', () => {
  const CAP = 3
  let ours: Installation
  let spawned: Required<SpawnedAgent>

  beforeAll(async () => {
    ours = copyOf(installation)
    const { keys } = ours.configuration as { keys: Record<string, object> }
    ours.configure({ keys: { ...keys, 'issuing-ca': { ...keys['issuing-ca'], certificatesPerMinute: CAP } } })
    spawned = await ours.start()
  })

  afterAll(async () => {
    await spawned.close()
    ours.remove()
  })

  const ask = () =>
    outcome(spawned.agent.certificate({ key: KEY_OF.certificate, tbsDer: prepared(ours).precertificateTbs() }))
  const raise = (perMinute: number, minutes = 60) =>
    spawned.admin.raiseCap({ key: KEY_OF.certificate, perMinute, minutes })
  const capNow = async () => (await spawned.agent.status()).keys.find(({ name }) => name === KEY_OF.certificate)?.cap

  /** How many are signed until the first refusal. */
  async function signed(): Promise<number> {
    for (let count = 0; ; count++) {
      const found = await ask()
      if (found === 'signed') continue
      expect(found).toBe('busy rate_capped')
      return count
    }
  }

  /** The cap counts by the minute of the clock: what follows shall be within one. */
  async function earlyInAMinute(): Promise<void> {
    const leftMs = 60_000 - (Date.now() % 60_000)
    if (leftMs < 25_000) await delay(leftMs)
  }

  test('holds; raised, it lets through the difference, over a restart too; ended, nothing more', async () => {
    await earlyInAMinute()
    expect(await signed()).toBe(CAP)
    const { untilMs } = await raise(CAP + 4)
    expect(untilMs).toBeGreaterThan(Date.now() + 59 * 60_000)
    expect(await ask()).toBe('signed')
    await spawned.close()
    spawned = await ours.start()
    expect(await capNow()).toEqual({ perMinute: CAP + 4, untilMs })
    expect(await signed()).toBe(3)
    // Its hour is over: told to the state as an hour that has passed, since nobody waits here for one.
    await spawned.close()
    endRaise(ours)
    spawned = await ours.start()
    expect(await capNow()).toEqual({ perMinute: CAP })
    expect(await ask()).toBe('busy rate_capped')
    await raise(CAP + 5)
    expect(await signed()).toBe(1)
    // The configured number ends it by hand.
    await raise(CAP, 1)
    expect(await capNow()).toMatchObject({ perMinute: CAP })
  })

  test.each([
    ['less than the configured cap', CAP - 1, 60, 'refused cap_not_raised'],
    ['two hours', CAP + 1, 120, 'refused raise_too_long'],
    ['no time', CAP + 1, 0, 'refused raise_too_long'],
    ['a negative number', -1, 60, 'refused malformed'],
  ])('is not raised to %s', async (_, perMinute, minutes, expected) => {
    expect(await outcome(raise(perMinute, minutes))).toBe(expected)
  })

  test('is not raised for a key that has none, for one that is not there, or from the signing channel', async () => {
    const request = { key: KEY_OF.timestamp, perMinute: 100_000, minutes: 1 }
    expect(await outcome(spawned.admin.raiseCap(request))).toBe('refused no_cap')
    expect(await outcome(spawned.admin.raiseCap({ ...request, key: 'nobody' }))).toBe('unknown_key unknown_key')
    const signing = spawned.agent as AdminAgent // the same client; the channel is what differs
    expect(await outcome(signing.raiseCap({ ...request, key: KEY_OF.certificate }))).toBe('refused unknown_method')
  })

  test('is in the account with what it was raised to', async () => {
    await spawned.close()
    const rows = inState(ours, (db) => db.prepare("SELECT key, count FROM account WHERE act = 'raiseCap'").all())
    expect(rows).toEqual([CAP + 4, CAP + 5, CAP].map((count) => ({ key: KEY_OF.certificate, count })))
    spawned = await ours.start()
  })
})

function headNow() {
  const head = { key: KEY_OF.treeHead, origin: ORIGIN['rekor-v2'], size: 5, rootHash: treeOf(5).root() }
  return { ...head, timestampMs: Date.now(), consistencyProof: [] }
}

function inState<T>(of: Installation, work: (db: Database.Database) => T): T {
  const db = new Database(join(of.stateFolder, 'state.db'))
  try {
    return work(db)
  } finally {
    db.close()
  }
}

function endRaise(of: Installation): void {
  inState(of, (db) => db.prepare('UPDATE raised_cap SET until_ms = ?').run(Date.now() - 1))
}
