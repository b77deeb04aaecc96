import { setTimeout as delay } from 'node:timers/promises'
import { register } from 'prom-client'
import { expect, test, vi } from 'vitest'
import { Alarms, CATALOGUE } from '#alarms'
import type { AgentStatus } from '#hsm'
import { alarmsOf, watchAgent } from './agent-alarms.ts'

type Token = AgentStatus['tokens'][number]
type Place = AgentStatus['keys'][number]['places'][number]

const token = (name: string, changes: Partial<Token> = {}): Token => ({
  name,
  label: name,
  serial: '1',
  model: 'm',
  manufacturer: 'v',
  software: false,
  loggedIn: true,
  profile: 'PKCS#11',
  breaker: 'closed',
  fault: '',
  latched: '',
  ...changes,
})
const place = (name: string, changes: Partial<Place> = {}): Place => ({
  token: name,
  usable: true,
  fault: '',
  unproven: [],
  ...changes,
})

function status(tokens: readonly Token[], ...places: readonly (readonly Place[])[]): AgentStatus {
  const keys = places.map((of, at) => {
    return { name: `key-${at}`, kind: 'P-256' as const, purposes: [], uses: 0, latched: '', places: of }
  })
  const clock = { confirmedBy: 'steady', fault: '' } as const
  return { ready: true, reason: '', startedAtMs: 0, queue: { underWay: 0, most: 1 }, clock, tokens, keys, guards: [] }
}

const away = { breaker: 'open', fault: 'it is gone', loggedIn: false } as const
const gone = { usable: false }

test.each([
  ['all is well', status([token('a')], [place('a')]), []],
  ['no answer', undefined, ['agent_away agent']],
  ['a latch', status([token('a', { ...away, latched: 'wrong PIN' })], [place('a', gone)]), ['token_latched a']],
  ['connecting at the start', status([token('a', { breaker: 'half_open' })], [place('a', gone)]), []],
  ['the only token is away', status([token('a', away)], [place('a', gone)]), ['token_absent a']],
  [
    'one of two is away',
    status([token('a', away), token('b')], [place('a', gone), place('b')]),
    ['token_breaker_open a'],
  ],
  [
    'one of two is away, and a key is on it alone',
    status([token('a', away), token('b')], [place('a', gone), place('b')], [place('a', gone)]),
    ['token_absent a'],
  ],
  ['another key in its place', status([token('a')], [place('a', { ...gone, fault: 'wrong' })]), ['key_unusable key-0']],
  [
    'another key on the second token',
    status([token('a'), token('b')], [place('a'), place('b', { ...gone, fault: 'wrong' })]),
    ['key_place_unusable key-0'],
  ],
] as const)('%s', (_, found, expected) => {
  expect(alarmsOf(found).map(({ code, subject }) => `${code} ${subject}`)).toEqual(expected)
  for (const { code } of alarmsOf(found)) expect(Object.keys(CATALOGUE)).toContain(code)
})

test('a key that nobody needs any more may be gone, and its token too', () => {
  const lost = status([token('a')], [place('a', { ...gone, fault: 'not found' })], [place('a')])
  expect(alarmsOf(lost, new Set(['key-0']))).toEqual([])
  expect(alarmsOf(lost, new Set(['key-1']))).toMatchObject([{ code: 'key_unusable', subject: 'key-0' }])
  const away_ = status([token('a', away), token('b')], [place('a', gone)], [place('b')])
  expect(alarmsOf(away_, new Set(['key-0']))).toMatchObject([{ code: 'token_breaker_open', subject: 'a' }])
})

test('an alarm is over when its cause is', async () => {
  let answer: AgentStatus | undefined = status([token('a', away)], [place('a', gone)])
  const told: string[] = []
  const alarms = new Alarms(({ code, subject }, change) => told.push(`${code} ${subject} ${change}`))
  const stop = watchAgent({ status: async () => answer ?? Promise.reject(new Error('away')) }, alarms)
  const until = async (count: number) => {
    while (told.length < count) await delay(20)
  }
  await until(1)
  answer = undefined
  await until(3)
  answer = status([token('a')], [place('a')])
  await until(4)
  stop()
  expect(told).toEqual([
    'token_absent a raised',
    'agent_away agent raised',
    'token_absent a cleared',
    'agent_away agent cleared',
  ])
})

test('an agent that is another process each second is told of, and counted', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
  const alarms = new Alarms()
  let startedAtMs = 0
  const counted = async () => (await register.getSingleMetric('chancery_agent_restarts_total')?.get())?.values[0]?.value
  const before = Number(await counted())
  const agent = { status: async () => ({ ...status([token('a')], [place('a')]), startedAtMs: startedAtMs++ }) }
  const stop = watchAgent(agent, alarms)
  const looks = async (count: number) => {
    for (let look = 0; look < count; look++) {
      await vi.advanceTimersByTimeAsync(1000)
      // The answer comes over real promises.
      await delay(1)
    }
  }
  await looks(4)
  expect([Number(await counted()) - before, alarms.active()]).toEqual([3, []])
  await looks(1)
  expect(alarms.active()).toMatchObject([{ code: 'agent_restarts', subject: 'agent' }])
  stop()
  vi.useRealTimers()
})
