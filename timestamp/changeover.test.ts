/** A timestamp authority that goes over to another key while timestamps are under way. */
import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { createTimestampAuthority, inspectTimestampResponse, type TimestampRequest } from '#timestamp'
import { makeSigner } from './test-chain.ts'

const NOW = Date.UTC(2026, 7, 20, 10, 0, 0, 750)
const former = await makeSigner(new Date(NOW))
const next = await makeSigner(new Date(NOW))
const request: TimestampRequest = {
  hash: 'sha256',
  digest: Uint8Array.from(createHash('sha256').update('artifact').digest()),
  certReq: true,
}
const leafOf = (response: Uint8Array) => inspectTimestampResponse(response).certificates[0]

/** `gate` holds back what the former key signs. */
async function open(gate: Promise<void>) {
  const of = (name: string) => (name === 'next' ? next : former)
  return await createTimestampAuthority({
    agent: {
      key: async (name) => await of(name).key('tsa'),
      timestamp: async (asked) => {
        if (asked.key !== 'next') await gate
        return await of(asked.key).timestamp({ ...asked, key: 'tsa' })
      },
    },
    key: 'former',
    chain: former.chain,
    now: () => NOW,
    production: false,
  })
}

test('what began before is signed as it began, what begins later by the new key; it is over with the last of the former', async () => {
  const gate = Promise.withResolvers<void>()
  const authority = await open(gate.promise)
  const early = [authority.timestamp(request), authority.timestamp(request)]
  const changeover = await authority.prepare({ key: 'next', chain: next.chain })
  expect(authority.chain).toEqual(former.chain)
  expect(leafOf(await changeover.timestamp(request))).toEqual(next.chain[0])
  const over = changeover.take()
  expect(authority.chain).toEqual(next.chain)
  expect(leafOf(await authority.timestamp(request))).toEqual(next.chain[0])
  const soon = new Promise((resolve) => setImmediate(resolve, 'not over'))
  expect(await Promise.race([over, soon])).toBe('not over')
  gate.resolve()
  for (const response of await Promise.all(early)) expect(leafOf(response)).toEqual(former.chain[0])
  await over
})

test.each([
  ['the chain of another key', { key: 'former', chain: next.chain }],
  ['a leaf alone', { key: 'next', chain: next.chain.slice(0, 1) }],
  ['no chain', { key: 'next', chain: [] }],
])('%s is not prepared, and the former signs on', async (_, change) => {
  const authority = await open(Promise.resolve())
  await expect(authority.prepare(change)).rejects.toThrow()
  expect(leafOf(await authority.timestamp(request))).toEqual(former.chain[0])
})
