import { afterEach, expect, test } from 'vitest'
import type { Section } from './endpoint.ts'
import { plain, plainFaults } from './faults.ts'
import { listen, type Listener } from './listener.ts'
import { metricsSection, type Readiness } from './metrics.ts'

const open: Listener[] = []
afterEach(async () => {
  for (const listener of open.splice(0)) await listener.close()
})

async function serving(...sections: Section[]): Promise<Listener> {
  const listener = await listen({ host: '127.0.0.1', port: 0, sections: sections.map((section) => ({ section })) })
  open.push(listener)
  return listener
}

test('counts requests by service, pattern, method and code, whatever clients make up', async () => {
  const observed: unknown[] = []
  const listener = await serving(
    {
      name: 'counted',
      faults: plainFaults,
      observe: (done) => observed.push(done),
      endpoints: [{ method: 'GET', path: '/thing/:id', limitBytes: 0, answer: () => plain(200, 'x') }],
    },
    metricsSection({ readiness: () => ({ ready: true, services: {} }) }),
  )
  for (const path of ['/thing/1', '/thing/2', '/nothing/3', '/nothing/4'])
    await (await fetch(listener.url + path)).text()
  await (await fetch(`${listener.url}/thing/1`, { method: 'PROPFIND' })).text()
  const text = await (await fetch(`${listener.url}/metrics`)).text()
  const counts = text
    .split('\n')
    .filter((line) => line.startsWith('chancery_http_request_duration_seconds_count{service="counted"'))
  expect(counts.map((line) => line.replace(/^[^{]*/, '')).toSorted()).toEqual([
    '{service="counted",endpoint="",method="GET",code="404"} 2',
    '{service="counted",endpoint="",method="other",code="405"} 1',
    '{service="counted",endpoint="/thing/:id",method="GET",code="200"} 2',
  ])
  expect(observed).toHaveLength(5)
  expect(observed[0]).toMatchObject({ endpoint: '/thing/:id', method: 'GET', status: 200 })
})

test('readiness follows what it is given, liveness does not, and a hung check is not ready', async () => {
  let answer: () => Readiness | Promise<Readiness> = () => ({ ready: true, services: { ca: { ready: true } } })
  const listener = await serving(metricsSection({ readiness: () => answer() }))
  const ready = async (): Promise<[number, unknown]> => {
    const found = await fetch(`${listener.url}/readyz`)
    return [found.status, await found.json()]
  }
  expect(await ready()).toEqual([200, { ready: true, services: { ca: { ready: true } } }])
  answer = () => ({ ready: false, services: { ca: { ready: false, reason: 'the token is gone' } } })
  expect(await ready()).toEqual([
    503,
    { ready: false, services: { ca: { ready: false, reason: 'the token is gone' } } },
  ])
  answer = () => new Promise(() => {})
  expect((await ready())[0]).toBe(503)
  answer = () => Promise.reject(new Error('broken'))
  expect((await fetch(`${listener.url}/readyz`)).status).toBe(500)
  expect((await fetch(`${listener.url}/livez`)).status).toBe(200)
})
