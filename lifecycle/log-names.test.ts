import { expect, test } from 'vitest'
import { newTreeId, shardOrigin, successorName } from './log-names.ts'

test.each([
  ['rekor-v1', [], 'rekor-v1-2'],
  ['rekor-v1-2', [], 'rekor-v1-3'],
  ['rekor-v2', ['rekor-v2-2'], 'rekor-v2-3'],
  ['rekor-v2', ['rekor-v2-2', 'rekor-v2-3'], 'rekor-v2-4'],
  ['ct', ['ct-3'], 'ct-2'],
  ['ct-9', [], 'ct-10'],
  ['issuing-ca', ['issuing-ca-2'], 'issuing-ca-3'],
  ['my-log', [], 'my-log-2'],
])('after %s, with %j taken, comes %s', (name, taken, next) => {
  expect(successorName(name, new Set(taken))).toBe(next)
})

test.each([
  ['rekor-v2', 'rekor-v2.example.org', 'rekor-v2', 'rekor-v2.example.org'],
  ['rekor-v2', 'rekor-v2.example.org', 'rekor-v2-3', 'rekor-v2-3.example.org'],
  ['rekor-v2', 'rekor-v2-3.example.org', 'rekor-v2-4', 'rekor-v2-4.example.org'],
  ['ct', 'ct.example.org', 'ct-2', 'ct-2.example.org'],
  ['ct', 'ct-2.example.org', 'ct-3', 'ct-3.example.org'],
  ['ct', 'our-log.example.org', 'ct-2', 'our-log-2.example.org'],
  ['rekor-v1', 'rekor-v1.example.org - 4711', 'rekor-v1-2', 'rekor-v1.example.org - 815'],
] as const)('a %s log %s has the shard %s with the origin %s', (kind, origin, name, wanted) => {
  expect(shardOrigin({ kind, origin }, name, '815')).toBe(wanted)
})

test('a tree has a positive number of 64 bits that leaves the top byte clear', () => {
  const number = BigInt(newTreeId())
  expect([number >= 2n ** 56n, number < 2n ** 57n]).toEqual([true, true])
})
