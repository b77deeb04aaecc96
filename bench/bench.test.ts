import { expect, test } from 'vitest'
import { type Endpoint, listen, plainFaults } from '#http'
import { httpRequest, load, type PreparedRequest } from './http-load.ts'
import { limitOf } from './limits.ts'
import type { Primitives, Timing } from './primitives.ts'
import { cpuSeconds, mainThreadSeconds, memory } from './processes.ts'
import { quantile, spread } from './statistics.ts'

test.each([
  [[1], 0.99, 1],
  [[1, 2, 3, 4], 0.5, 2.5],
  [[1, 2, 3, 4, 5], 0.5, 3],
  [[10, 20], 0.25, 12.5],
  [[], 0.5, Number.NaN],
])('quantile of %j at %d is %d', (sorted, q, expected) => {
  expect(quantile(sorted, q)).toBe(expected)
})

test('a spread does not depend on order', () => {
  expect(spread([3, 1, 2])).toEqual({ median: 2, least: 1, most: 3 })
})

test('the CPU of a process grows with its work, and its main thread has no more than the whole', () => {
  const used = () => process.cpuUsage().user + process.cpuUsage().system
  const [before, usedBefore] = [cpuSeconds(process.pid), used()]
  while (used() - usedBefore < 100_000);
  // Counted in steps of 10 ms.
  expect(cpuSeconds(process.pid) - before).toBeGreaterThan(0.07)
  expect(mainThreadSeconds(process.pid)).toBeLessThan(cpuSeconds(process.pid) + 0.1)
})

test('memory of a process is in bytes', () => {
  const { rss } = process.memoryUsage()
  expect(memory(process.pid).rss / rss).toBeGreaterThan(0.5)
  expect(memory(process.pid).rss / rss).toBeLessThan(2)
})

test('a limit is one over the sum of its terms, with those of a batch shared', () => {
  const timing = (us: number): Timing => {
    const same = { median: us, least: us, most: us }
    return { elapsed: same, cpu: same }
  }
  const primitives: Primitives = {
    keyImport: timing(1),
    possession: timing(1),
    token: timing(1),
    digestVerify: timing(10),
    certificateRead: timing(2),
    fsync: timing(80),
    treeHead: timing(160),
    ctTreeHead: timing(1),
    'set@4': timing(28),
  }
  // 20 echo + 2 + 10 + 80 · 2/4 + 160/4 + 28
  const { perSecond, cpu, terms } = limitOf('rekorV1', 4, primitives, timing(20))
  expect(cpu).toBe(140)
  expect(perSecond).toBeCloseTo(1e6 / 140)
  expect(terms.map(({ times }) => times)).toEqual([1, 1, 1, 0.5, 0.25, 1])
  // A signature that was not timed at this concurrency makes no limit, rather than a wrong one.
  expect(limitOf('rekorV1', 2, primitives, timing(20)).perSecond).toBeNaN()
})

async function withServer<T>(answer: Endpoint['answer'], use: (url: string) => Promise<T>): Promise<T> {
  const endpoint: Endpoint = { method: 'POST', path: '/', limitBytes: 1000, answer }
  const section = { name: 'test', endpoints: [endpoint], faults: plainFaults }
  const listener = await listen({ host: '127.0.0.1', port: 0, sections: [{ section }] })
  try {
    return await use(listener.url)
  } finally {
    await listener.close()
  }
}

function numbered(url: string, count: number): PreparedRequest[] {
  return Array.from({ length: count }, (_, place) => ({
    bytes: httpRequest(`${url}/`, { body: String(place) }),
    verify: (body) => expect(Buffer.from(body).toString()).toBe(`answer ${place}`),
  }))
}

test('each request is sent once and each sampled answer belongs to its request', async () => {
  const seen: string[] = []
  const result = await withServer(
    ({ body }) => {
      const text = Buffer.from(body).toString()
      seen.push(text)
      return { status: 200, body: `answer ${text}` }
    },
    async (url) => await load({ url, requests: numbered(url, 250), connections: 4, seconds: 30, expectedStatus: 200 }),
  )
  expect(new Set(seen).size).toBe(250)
  expect(result.latenciesMs.length).toBe(250)
  expect(result.failures).toEqual({})
  expect(result.sample.length).toBe(3)
  for (const { request, body } of result.sample) request.verify(body)
})

test('an answer with another status is a failure and no measurement', async () => {
  const result = await withServer(
    ({ body }) => ({ status: Buffer.from(body).toString() === '3' ? 503 : 200, body: 'answer' }),
    async (url) => await load({ url, requests: numbered(url, 10), connections: 1, seconds: 30, expectedStatus: 200 }),
  )
  expect(result.latenciesMs.length).toBe(9)
  expect(result.failures).toEqual({ 503: { count: 1, example: 'answer' } })
})

test('the seconds end a run that has requests left', async () => {
  const result = await withServer(
    () => ({ status: 200, body: '' }),
    async (url) =>
      await load({ url, requests: numbered(url, 200_000), connections: 2, seconds: 0.2, expectedStatus: 200 }),
  )
  expect(result.seconds).toBeLessThan(5)
  expect(result.latenciesMs.length).toBeLessThan(200_000)
})
