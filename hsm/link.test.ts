import { expect, test } from 'vitest'
import { Link } from './link.ts'
import { HsmError } from './signing.ts'
import type { Token } from './token.ts'

/** A link asks nothing of its token by itself. */
const link = () => new Link(Object.create(null) as Token)

test('is closed while it is connected, open while it is away, half open while it is tried', () => {
  const one = link()
  expect(one.breaker).toBe('closed')
  one.reconnecting = Promise.resolve()
  expect([one.breaker, one.usable]).toEqual(['open', false])
  one.trying = true
  expect(one.breaker).toBe('half_open')
  one.trying = false
  one.reconnecting = undefined
  one.fault = new HsmError('latched', 'token_latched', 'wrong PIN')
  expect([one.breaker, one.usable]).toEqual(['open', false])
  one.fault = undefined
  expect(one.breaker).toBe('closed')
})

test('five failures in a row are too many, and a success ends the row', () => {
  const one = link()
  const failures = (count: number) => Array.from({ length: count }, () => one.failedTooOften())
  expect(failures(4)).toEqual([false, false, false, false])
  one.succeeded()
  expect(failures(5)).toEqual([false, false, false, false, true])
  expect(failures(4)).toEqual([false, false, false, false])
})
