import { describe, expect, test } from 'vitest'
import { Capacity, RankedQueue } from './capacity.ts'
import { SessionPool } from './session-pool.ts'
import type { Purpose } from './signing.ts'

const URGENT_FIRST: readonly Purpose[] = ['treeHead', 'certificate', 'sct', 'set', 'tuf', 'timestamp']

/** How many places `purpose` gets when nothing else is asked for. */
function placesFor(purpose: Purpose, total: number): number {
  const capacity = new Capacity(total)
  for (let taken = 0; ; taken++) if (!capacity.take(purpose)) return taken
}

describe('capacity', () => {
  test.each([
    [1, { treeHead: 1, certificate: 1, sct: 1, set: 1, tuf: 1, timestamp: 1 }],
    [2, { treeHead: 2, certificate: 1, sct: 1, set: 1, tuf: 1, timestamp: 1 }],
    [4, { treeHead: 4, certificate: 3, sct: 3, set: 3, tuf: 1, timestamp: 2 }],
    [2048, { treeHead: 2048, certificate: 1920, sct: 1792, set: 1792, tuf: 512, timestamp: 1024 }],
  ])('of %i places', (total, expected) => {
    expect(Object.fromEntries(URGENT_FIRST.map((purpose) => [purpose, placesFor(purpose, total)]))).toEqual(expected)
  })

  test('what is full for the less urgent has room for the more urgent', () => {
    const capacity = new Capacity(64)
    const fill = (purpose: Purpose) => {
      let taken = 0
      while (capacity.take(purpose)) taken++
      return taken
    }
    expect(URGENT_FIRST.toReversed().map(fill)).toEqual([32, 16, 8, 0, 4, 4])
    expect(capacity.take('treeHead')).toBe(false)
    capacity.giveBack('timestamp')
    expect(capacity.take('timestamp')).toBe(false)
    expect(capacity.take('treeHead')).toBe(true)
  })
})

test('a ranked queue gives the urgent first, and in a rank what came first', () => {
  const queue = new RankedQueue<string>()
  const arrivals: Purpose[] = ['timestamp', 'tuf', 'set', 'timestamp', 'sct', 'certificate', 'treeHead', 'certificate']
  for (const [at, purpose] of arrivals.entries()) queue.push(purpose, `${purpose} ${at}`)
  expect(queue.take(4)).toEqual(['treeHead 6', 'certificate 5', 'certificate 7', 'set 2'])
  expect(queue.take(9, (item) => !item.startsWith('tuf'))).toEqual(['sct 4', 'timestamp 0', 'timestamp 3'])
  expect(queue.take(9)).toEqual(['tuf 1'])
  expect(queue.length).toBe(0)
})

describe('session pool', () => {
  const sessions = (count: number) => Array.from({ length: count }, (_, at) => Buffer.from([at]))

  function pool(count: number): SessionPool {
    const made = new SessionPool(count)
    made.restock(sessions(count))
    return made
  }

  /** Leases and says so in `order` when it has one. */
  async function leaseInto(order: Purpose[], from: SessionPool, purpose: Purpose): Promise<void> {
    const session = await from.lease(purpose)
    if (session === undefined) return
    order.push(purpose)
    await Promise.resolve()
    from.giveBack(session, session)
  }

  test('two hundred timestamps wait, and what is more urgent goes before them', async () => {
    const one = pool(1)
    const busy = await one.lease('timestamp')
    const order: Purpose[] = []
    const asked = [
      ...Array.from({ length: 200 }, () => leaseInto(order, one, 'timestamp')),
      ...URGENT_FIRST.toReversed()
        .slice(1)
        .map((purpose) => leaseInto(order, one, purpose)),
    ]
    expect(order).toEqual([])
    if (busy !== undefined) one.giveBack(busy, busy)
    await Promise.all(asked)
    expect(order.slice(0, 6)).toEqual(['treeHead', 'certificate', 'set', 'sct', 'tuf', 'timestamp'])
    expect(order).toHaveLength(205)
  })

  test('timestamps take half of the sessions, all but a tree head leave one', () => {
    const four = pool(4)
    const taken = ['timestamp', 'timestamp', 'timestamp', 'sct', 'sct', 'certificate', 'treeHead', 'treeHead'] as const
    const granted = taken.filter((purpose) => four.take(purpose) !== undefined)
    expect(granted).toEqual(['timestamp', 'timestamp', 'sct', 'treeHead'])
  })

  test('the agent’s own calls are outside of the reckoning', () => {
    const two = pool(2)
    const own = two.take()
    expect(own).toBeDefined()
    expect(two.take('timestamp')).toBeDefined()
    expect(two.take('treeHead')).toBeUndefined()
  })

  test('a session that was lost is not given to the next one, and who waited is woken with none', async () => {
    const one = pool(1)
    const session = one.take('set')
    const waiting = one.lease('set')
    const drained = one.drained()
    if (session !== undefined) one.giveBack(session, undefined)
    await drained
    one.wake()
    expect(await waiting).toBeUndefined()
    one.restock(sessions(1))
    expect(one.take('set')).toBeDefined()
  })
})
