/** After every test: nothing of it tried to leave the machine, not even a look-up. */
import { afterEach, expect } from 'vitest'
import { packetsThatLeft } from './isolation.ts'

let before = packetsThatLeft()

afterEach(() => {
  const now = packetsThatLeft()
  const left = now - before
  before = now
  expect(left, 'packets that tried to leave the network namespace').toBe(0)
})
