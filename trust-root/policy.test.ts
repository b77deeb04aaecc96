import { expect, test } from 'vitest'
import { DEFAULT_TUF_POLICY, nearEndOf, type TufPolicy } from './policy.ts'

const DAY = 86_400
const HOUR = 3600

test.each<[keyof TufPolicy, number, string | undefined]>([
  ['root', 365 * DAY, undefined],
  ['root', 60 * DAY + 1, undefined],
  ['root', 60 * DAY, 'ending'],
  ['targets', 30 * DAY + 1, 'ending'],
  ['targets', 30 * DAY, 'soon'],
  ['root', 14 * DAY + 1, 'soon'],
  ['root', 14 * DAY, 'now'],
  ['targets', 1, 'now'],
  ['root', 0, 'expired'],
  ['targets', -1, 'expired'],
  ['timestamp', 47 * HOUR, undefined],
  ['timestamp', 42 * HOUR, 'late'],
  ['timestamp', 24 * HOUR + 1, 'late'],
  ['timestamp', 24 * HOUR, 'failing'],
  ['timestamp', 0, 'expired'],
  ['snapshot', 15 * DAY, undefined],
  ['snapshot', 15 * DAY - 6 * HOUR, 'late'],
  ['snapshot', HOUR, 'failing'],
])('%s with %i seconds left: %s', (role, secondsLeft, expected) => {
  expect(nearEndOf(role, secondsLeft, DEFAULT_TUF_POLICY)).toBe(expected)
})

test('a shorter policy has its alarms in proportion', () => {
  const policy = { ...DEFAULT_TUF_POLICY, root: { validSeconds: 40 * DAY, renewSeconds: 9 * DAY } }
  const found = [10, 7, 6, 3, 1].map((days) => nearEndOf('root', days * DAY, policy))
  expect(found).toEqual([undefined, undefined, 'ending', 'soon', 'now'])
})
