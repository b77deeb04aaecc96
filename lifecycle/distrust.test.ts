import { expect, test } from 'vitest'
import type { TrustItem } from '#trust-root'
import { changesFor, type Cut } from './distrust.ts'

const now = new Date('2026-11-21T12:00:00Z')
const authority: TrustItem = {
  id: 'certificate-authority',
  kind: 'certificate-authority',
  der: [new Uint8Array([1])],
  url: 'http://ca.example.test',
  window: { start: new Date('2026-01-01T00:00:00Z') },
  state: 'active',
}
const log: TrustItem = { ...authority, id: 'rekor-v1', kind: 'rekor-v1', origin: 'rekor.example.test - 1' }
const ended: TrustItem = {
  ...log,
  state: 'retired',
  window: { start: authority.window.start, end: new Date('2026-06-01T00:00:00Z') },
}
const at = (from: string, until?: string): Cut => ({
  from: new Date(from),
  ...(until === undefined ? {} : { until: new Date(until) }),
  entirely: false,
})

test('the last second that is accepted is the one before', () => {
  const { changes, from } = changesFor(log, at('2026-11-21T08:00:00Z'), now)
  expect(changes).toEqual([{ op: 'set', id: 'rekor-v1', state: 'retired', end: '2026-11-21T07:59:59Z' }])
  // What was signed within that last second is refused by clients, and so is given up.
  expect(from).toEqual(new Date('2026-11-21T07:59:59.001Z'))
  expect(changesFor(log, at('2026-11-21T08:00:00.500Z'), now).changes).toMatchObject([{ end: '2026-11-21T08:00:00Z' }])
})

test('all of it is revoked', () => {
  expect(changesFor(ended, { entirely: true }, now).changes).toEqual([{ op: 'set', id: 'rekor-v1', state: 'revoked' }])
})

test('an authority goes on behind a hole, as an item of its own', () => {
  const { changes, until } = changesFor(authority, at('2026-11-21T08:00:00Z', '2026-11-21T09:00:00Z'), now)
  expect(changes).toMatchObject([
    { op: 'set', id: 'certificate-authority', state: 'retired', end: '2026-11-21T07:59:59Z' },
    {
      op: 'add',
      item: {
        id: 'certificate-authority-after-20261121090001',
        state: 'active',
        window: { start: '2026-11-21T09:00:01Z' },
      },
    },
  ])
  expect(until).toEqual(new Date('2026-11-21T09:00:00.999Z'))
})

test('a hole up to the end of a window is no hole', () => {
  const cut = at('2026-05-01T00:00:00Z', '2026-07-01T00:00:00Z')
  expect(changesFor(ended, cut, now).changes).toMatchObject([{ end: '2026-04-30T23:59:59Z' }])
})

test.each<[string, TrustItem, Cut]>([
  ['what is revoked', { ...log, state: 'revoked' }, { entirely: true }],
  ['an issuer, which has no key', { ...authority, kind: 'oidc-issuer', der: [] }, { entirely: true }],
  ['a time before the window', log, at('2025-12-31T00:00:00Z')],
  ['the very start', log, at('2026-01-01T00:00:00Z')],
  ['a second after the start: nothing is left', log, at('2026-01-01T00:00:01Z')],
  ['a time after the window', ended, at('2026-07-01T00:00:00Z')],
  ['a time to come', log, at('2026-11-21T12:00:01Z')],
  ['a hole in a log', log, at('2026-11-21T08:00:00Z', '2026-11-21T09:00:00Z')],
  ['a hole of no time', authority, at('2026-11-21T08:00:00Z', '2026-11-21T08:00:00Z')],
  ['a hole that ends before it begins', authority, at('2026-11-21T08:00:00Z', '2026-11-21T07:00:00Z')],
  ['a hole that is not over', authority, at('2026-11-21T08:00:00Z', '2026-11-21T12:30:00Z')],
])('refuses %s', (_what, item, cut) => {
  expect(() => changesFor(item, cut, now)).toThrow(expect.objectContaining({ code: 'distrust_impossible' }))
})
