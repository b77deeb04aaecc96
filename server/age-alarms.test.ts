import { expect, test } from 'vitest'
import type { NearEnd, TrustRootStatus } from '#trust-root'
import { certificateFindings, checkpointFindings, trustRootFindings } from './age-alarms.ts'

const nowMs = Date.parse('2026-11-21T12:00:00Z')
const at = (ms: number) => new Date(nowMs + ms).toISOString()
const day = 86_400_000

test.each([
  ['ends in a year', 365 * day, []],
  ['ends in fifteen days', 15 * day, []],
  ['ends in thirteen days', 13 * day, ['certificate_ending']],
  ['ends now', 0, ['certificate_expired']],
  ['ended', -day, ['certificate_expired']],
])('a certificate that %s', (_, left, codes) => {
  expect(certificateFindings([{ name: 'x', notAfter: at(left) }], nowMs).map(({ code }) => code)).toEqual(codes)
})

const role = (name: 'root' | 'timestamp', nearEnd?: NearEnd) => ({
  role: name,
  version: 1,
  threshold: 1,
  keys: 1,
  expires: new Date(nowMs),
  secondsLeft: 0,
  state: 'alarm' as const,
  ...(nearEnd === undefined ? {} : { nearEnd }),
})

const withRole = (name: 'root' | 'timestamp', nearEnd?: NearEnd): TrustRootStatus => ({
  published: true,
  state: 'alarm',
  roles: [role(name, nearEnd)],
})

test.each<[string, TrustRootStatus | undefined, string[]]>([
  ['none of ours', undefined, []],
  ['fresh', withRole('root'), []],
  ['ends in two months', withRole('root', 'ending'), ['trust_root_ending root']],
  ['ends in a month', withRole('root', 'soon'), ['trust_root_ending_soon root']],
  ['ends in two weeks', withRole('root', 'now'), ['trust_root_ending_now root']],
  ['late', withRole('timestamp', 'late'), ['trust_root_late timestamp']],
  ['failing', withRole('timestamp', 'failing'), ['trust_root_failing timestamp']],
  ['expired', withRole('root', 'expired'), ['trust_root_expired root']],
  ['gone', { published: false, state: 'expired', roles: [] }, ['trust_root_expired repository']],
])('a trust root: %s', (_, status, expected) => {
  expect(trustRootFindings(status).map(({ code, subject }) => `${code} ${subject}`)).toEqual(expected)
})

test.each([
  ['ct', 59, 0, 0],
  ['ct', 61, 0, 1],
  ['rekor-v1', 100_000, 0, 0],
  ['rekor-v1', 6, 1, 1],
  ['rekor-v2', 4, 9, 0],
])('a head of %s that is %i minutes old while %i wait', (kind, minutes, pending, count) => {
  const log = { name: 'x', kind, sealedAtMs: nowMs - minutes * 60_000, pending }
  expect(checkpointFindings([log], nowMs).map(({ code }) => code)).toEqual(Array(count).fill('checkpoint_old'))
})
