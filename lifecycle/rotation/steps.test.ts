import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Facts } from './facts.ts'
import { issuingCa } from './issuing-ca.ts'
import { proveStep } from './prove.ts'
import { endStep, publishStep, waitReasons, waitStep, wholeSeconds } from './publication.ts'
import type { Installation, Resuming, Rotation, Step } from './rotation.ts'
import { shardEnds } from './shard.ts'
import { tsa } from './tsa.ts'

let dataDir = ''
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'chancery-steps-'))
  mkdirSync(join(dataDir, 'agent'))
})
afterEach(() => rmSync(dataDir, { recursive: true, force: true }))

const begun: Facts = {
  destroyOldKey: false,
  former: { keys: [{ name: 'tsa', side: 'services' }], item: 'timestamp-authority' },
  item: 'timestamp-authority-2',
  start: '2026-11-21T08:00:00Z',
  keys: {},
  switchedAt: '2026-11-24T10:00:00.250Z',
}

interface Given {
  readonly facts?: Partial<Facts>
  readonly now?: string
  readonly resuming?: Resuming
  readonly answers?: Readonly<Record<string, unknown>>
}

/** One step with a server that answers as told; what it asked for and kept. */
async function run(step: Step | undefined, { facts = {}, now = begun.start, resuming = {}, answers = {} }: Given) {
  if (step === undefined) throw new TypeError('there is no such step')
  let kept: Facts = { ...begun, ...facts }
  const asked: { verb: string; argument: unknown }[] = []
  const installation: Installation = {
    dataDir,
    domain: 'example.test',
    agent: { dataDir, agent: 'online' },
    logs: [],
    trustRoot: { folder: join(dataDir, 'trust-root'), onlineKey: 'tuf-online', rootKey: 'tuf-root' },
    resolve: (path) => join(dataDir, path),
    ask: async (verb, argument) => {
      asked.push({ verb, argument })
      return answers[verb]
    },
  }
  const rotation: Rotation = {
    kind: 'tsa',
    installation,
    resuming,
    now: () => new Date(now),
    get facts() {
      return kept
    },
    keep: (changes) => {
      kept = { ...kept, ...changes }
    },
  }
  const pause = await step.run(rotation)
  return { pause, asked, kept }
}

const published = { state: 'published', versions: { root: 1, targets: 2, snapshot: 2, timestamp: 2 } }

describe('waits for the caches of clients', () => {
  const told = { at: '2026-11-21T08:00:00.000Z', timestampExpires: '2026-11-24T08:00:00.000Z' }

  test('as long as a timestamp lives, and a day', () => {
    expect(waitReasons(told).map(({ until }) => until)).toEqual([
      '2026-11-24T08:00:00.000Z',
      '2026-11-22T08:00:00.000Z',
    ])
  })

  test.each([
    ['at once', '2026-11-21T08:00:01Z', true],
    ['when the day is over, and a timestamp not', '2026-11-22T08:00:01Z', true],
    ['a second before', '2026-11-24T07:59:59Z', true],
    ['in the last second', '2026-11-24T08:00:00Z', false],
    ['a week later', '2026-12-01T08:00:00Z', false],
  ])('%s', async (_what, now, waits) => {
    const { pause, kept } = await run(waitStep, { facts: { published: told }, now })
    expect(pause?.state).toBe(waits ? 'waiting' : undefined)
    expect(kept.waitUntil).toBe('2026-11-24T08:00:00.000Z')
    expect(kept.shortened).toBeUndefined()
  })

  test('a day where timestamps live for an hour', async () => {
    const short = { ...told, timestampExpires: '2026-11-21T09:00:00.000Z' }
    const { pause } = await run(waitStep, { facts: { published: short }, now: '2026-11-21T10:00:00Z' })
    expect(pause).toMatchObject({ state: 'waiting', until: '2026-11-22T08:00:00.000Z' })
  })

  test('not, where somebody said so, and that is written down', async () => {
    const now = '2026-11-21T08:05:00Z'
    const { pause, kept } = await run(waitStep, { facts: { published: told }, now, resuming: { shorten: true } })
    expect(pause).toBeUndefined()
    expect(kept.shortened).toMatchObject({ insteadOf: '2026-11-24T08:00:00.000Z', by: expect.any(String) })
  })
})

test('counts from the timestamp that lives longest, of before the publication or after', async () => {
  let asked = 0
  const expires = ['2026-11-25T08:00:00.000Z', '2026-11-24T08:00:00.000Z']
  const status = () => ({ roles: [{ role: 'timestamp', version: 1, expires: expires[asked++] }] })
  const answers = {
    'trust-change': published,
    get 'trust-status'() {
      return status()
    },
  }
  const step = publishStep(() => ({
    id: 'timestamp-authority-2',
    kind: 'timestamp-authority',
    der: [new Uint8Array([1])],
    url: 'http://tsa.example.test/api/v1/timestamp',
    window: { start: new Date(begun.start) },
    state: 'active',
  }))
  const { kept, asked: verbs } = await run(step, { answers })
  expect(kept.published?.timestampExpires).toBe('2026-11-25T08:00:00.000Z')
  expect(verbs.find(({ verb }) => verb === 'trust-change')?.argument).toMatchObject({
    changes: [{ op: 'add', item: { state: 'trusted' } }],
  })
})

test('stops where custodians must sign, and knows what for', async () => {
  const pending = { id: '0123456789abcdef', roles: [] }
  const answers = { 'trust-change': { state: 'awaiting-signatures', pending } }
  const { pause, kept } = await run(endStep(shardEnds), { answers })
  expect(pause).toEqual({ state: 'awaiting-signatures', pending })
  expect(kept.pendingId).toBe(pending.id)
})

describe('ends the former window', () => {
  const endOf = async (step: Step | undefined, facts: Partial<Facts> = {}) => {
    const { asked } = await run(step, { facts, answers: { 'trust-change': published } })
    return asked
  }
  const stepOf = (steps: readonly Step[]) => steps.find(({ name }) => name === 'end')

  test('and sends signers to the new item, in one release', async () => {
    expect(await endOf(stepOf(tsa.steps))).toEqual([
      {
        verb: 'trust-change',
        argument: {
          changes: [
            { op: 'set', id: 'timestamp-authority', state: 'retired', end: '2026-11-24T10:00:02Z' },
            { op: 'set', id: 'timestamp-authority-2', state: 'active' },
          ],
        },
      },
    ])
  })

  test.each([
    ['the seconds that the agent allows', 'maxValiditySeconds: 600', '2026-11-24T10:10:01Z'],
    ['an hour unless told', 'purposes: [certificate]', '2026-11-24T11:00:01Z'],
  ])('of a CA when its last certificate has ended: %s', async (_what, option, end) => {
    const file = `modulePath: /none\ntokens: {}\nkeys:\n  tsa:\n    uri: none\n    token: none\n    ${option}\n`
    writeFileSync(join(dataDir, 'agent/online.yaml'), file)
    expect(await endOf(stepOf(issuingCa.steps))).toMatchObject([{ argument: { changes: [{ end }, {}] } }])
  })

  test('at the time that was said first, also when it is asked again', async () => {
    const asked = await endOf(stepOf(tsa.steps), { formerEnd: '2026-11-24T09:00:00Z' })
    expect(asked).toMatchObject([{ argument: { changes: [{ end: '2026-11-24T09:00:00Z' }, {}] } }])
  })

  test.each([
    ['2026-11-24T10:00:00.000Z', '2026-11-24T10:00:00Z'],
    ['2026-11-24T10:00:00.001Z', '2026-11-24T10:00:01Z'],
  ])('%s is inside of the second %s', (time, second) => expect(wholeSeconds(new Date(time))).toBe(second))
})

describe('is proved by an old and a new signature', () => {
  const by = (...signedBy: string[]) => ({ bundles: [{ signedBy }] })

  test.each([
    ['nothing old', { new: by('timestamp-authority-2'), old: null }],
    ['the new one by the former key', { new: by('timestamp-authority'), old: by('timestamp-authority') }],
    ['no new one', { new: { bundles: [] }, old: by('timestamp-authority') }],
  ])('refuses %s', async (_what, canary) => {
    await expect(run(proveStep, { answers: { canary } })).rejects.toMatchObject({ code: 'rotation_unproven' })
  })

  test('takes both', async () => {
    const canary = { new: by('ct-log', 'timestamp-authority-2'), old: by('timestamp-authority') }
    expect((await run(proveStep, { answers: { canary } })).kept.provedAt).toBeDefined()
  })
})
