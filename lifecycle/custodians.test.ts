import { expect, test } from 'vitest'
import { custodianNames, parseTufQuorum } from './custodians.ts'

test.each([
  ['2/3', { threshold: 2, count: 3 }],
  ['1/2', { threshold: 1, count: 2 }],
  ['9/9', { threshold: 9, count: 9 }],
])('%s is a quorum', (text, expected) => expect(parseTufQuorum(text)).toEqual(expected))

test.each(['', '2', '3/2', '0/3', '1/1', '2/10', '2 of 3', '2/3/4', ' 2/3', '-1/3', '1e0/3'])('%j is none', (text) => {
  expect(parseTufQuorum(text)).toBe(undefined)
})

test('custodians are numbered from one', () => {
  expect(custodianNames({ threshold: 2, count: 3 })).toEqual(['custodian-1', 'custodian-2', 'custodian-3'])
})
