import { expect, test } from 'vitest'
import type { Status } from '#server'
import { statusScreen } from './status.ts'

const now = new Date('2026-11-21T12:00:00Z')

const token: Status['agent']['tokens'][number] = {
  name: 'online',
  label: 'chancery-online',
  serial: '1',
  model: 'SoftHSM v2',
  manufacturer: 'SoftHSM project',
  software: true,
  loggedIn: true,
  profile: 'softhsm',
  breaker: 'closed',
  fault: '',
  latched: '',
}

const key: Status['agent']['keys'][number] = {
  name: 'issuing-ca',
  kind: 'P-256',
  purposes: ['certificate'],
  uses: 123_456_789,
  cap: { perMinute: 60_000 },
  latched: '',
  places: [{ token: 'online', usable: true, fault: '', unproven: [] }],
}

const log: Status['logs'][number] = {
  name: 'rekor-v1',
  kind: 'rekor-v1',
  origin: 'rekor-v1.sig.example - 7',
  size: 1_234_567_890,
  rootHashHex: 'ab'.repeat(32),
  sealedAt: '2026-11-21T11:59:48Z',
  guardedSize: 1_234_567_890,
  guardLatched: '',
  pending: 12,
}

const sound: Status = {
  alarms: [],
  profile: 'production',
  domain: 'sig.example',
  startedAt: '2026-11-18T08:00:00Z',
  services: ['ca', 'ct', 'rekor-v1'].map((service) => ({ service, state: 'ready' as const, reason: '' })),
  agent: {
    ready: true,
    reason: '',
    startedAtMs: 0,
    queue: { underWay: 3, most: 2048 },
    clock: { confirmedBy: 'kernel', fault: '' },
    tokens: [token],
    keys: [key],
    guards: [],
  },
  logs: [log],
  anchors: [{ anchor: 'far', kind: 'file', log: 'rekor-v1', size: 1_234_567_800, at: '', fault: '' }],
  certificates: [{ name: 'issuing CA', notAfter: '2031-11-21T00:00:00Z' }],
  standby: [{ kind: 'tsa', state: 'ready', name: 'tsa-2', reason: '' }],
  clock: { lastStepMs: 0, fault: '' },
  disk: [{ path: '/srv/logs', state: 'sound', freeBytes: 12 * 1024 ** 3, totalBytes: 40 * 1024 ** 3 }],
  lastBackup: { finishedAt: '2026-11-21T02:00:00Z', target: '/backup/1', manifestSha256: '', bytes: 1 },
}

const withToken = (changes: Partial<typeof token>): Status => ({
  ...sound,
  agent: { ...sound.agent, tokens: [{ ...token, ...changes }] },
})

test('a sound installation is one short screen without a loud word', () => {
  const screen = statusScreen(sound, now)
  expect(screen.split('\n').length).toBeLessThanOrEqual(20)
  expect(screen).toMatch(/^sig\.example {2}production {2}up 3 d 4 h\nno alarms\nready: ca ct rekor-v1\n/)
  expect(screen).not.toMatch(/LATCHED|AWAY|DEGRADED|FAILS|EXPIRED|SOON|NOT |NONE/)
  expect(screen).toMatch(/^rekor-v1 +1234567890 +1234567890 +1234567800 +12 s +12 +abababababab$/m)
  expect(screen).toMatch(/^issuing-ca +P-256 +123456789 +60000 +certificate$/m)
  expect(screen).toContain('disk     12.0 of 40.0 GiB free, /srv/logs')
  expect(screen).toContain('standby  tsa-2')
  expect(screen).toContain('backup   10 h 0 min ago, /backup/1')
})

test('what is wrong comes first', () => {
  const alarms: Status['alarms'] = [
    {
      code: 'fork_refused',
      severity: 'page',
      subject: 'ct',
      message:
        'the database ends at 7, and the agent signed a head of size 9; put the newest database back and start again',
      since: '2026-11-21T11:00:00Z',
      runbook: 'docs/runbook.md#fork_refused',
    },
  ]
  const services = sound.services.map((service) => ({ ...service, state: 'degraded' as const, reason: 'HSM: gone' }))
  expect(
    statusScreen({ ...sound, alarms, services }, now)
      .split('\n')
      .slice(1, 6),
  ).toEqual([
    'ALARM fork_refused  ct  page  for 1 h 0 min',
    '      the database ends at 7, and the agent signed a head of size 9; put the',
    '      newest database back and start again',
    'DEGRADED ca ct rekor-v1: HSM: gone',
    'ready: NOTHING',
  ])
})

test.each<[string, Status, string]>([
  [
    'a latched token',
    withToken({ latched: 'the token refused the PIN of its file', loggedIn: false }),
    'token    online LATCHED: the token refused the PIN of its file',
  ],
  [
    'a token whose breaker is open',
    withToken({ breaker: 'half_open', fault: 'CKR_DEVICE_REMOVED', loggedIn: false }),
    'token    online AWAY (breaker half open): CKR_DEVICE_REMOVED',
  ],
  [
    'a latched key',
    { ...sound, agent: { ...sound.agent, keys: [{ ...key, latched: 'it signed badly' }] } },
    'LATCHED: it signed badly',
  ],
  [
    'a cap that was raised',
    {
      ...sound,
      agent: { ...sound.agent, keys: [{ ...key, cap: { perMinute: 9, untilMs: Date.parse('2026-11-21T12:30:00Z') } }] },
    },
    'certificate raised until 12:30Z',
  ],
  ['a latched guard', { ...sound, logs: [{ ...log, guardLatched: 'two roots' }] }, 'rekor-v1  1234567890  LATCHED'],
  ['an agent that tells nothing', { ...sound, agent: { ...sound.agent, keys: [], tokens: [] } }, 'keys     NOT KNOWN'],
  [
    'an anchor that does not take',
    { ...sound, anchors: [{ anchor: 'far', kind: 'file', log: 'ct', fault: 'no answer' }] },
    'anchors  far/ct FAILS: no answer',
  ],
  [
    'a certificate near its end',
    { ...sound, certificates: [{ name: 'issuing CA', notAfter: '2026-11-30T00:00:00Z' }] },
    'issuing CA SOON 2026-11-30',
  ],
  [
    'a certificate past it',
    { ...sound, certificates: [{ name: 'issuing CA', notAfter: '2026-11-20T00:00:00Z' }] },
    'issuing CA EXPIRED 2026-11-20',
  ],
  [
    'a full disk',
    { ...sound, disk: [{ path: '/srv', state: 'full', freeBytes: 1, totalBytes: 1024 ** 3 }] },
    'disk     FULL: 0.0 of 1.0 GiB free, /srv',
  ],
  [
    'a clock that was stepped',
    { ...sound, clock: { lastStepMs: 5000, fault: 'the clock was stepped' } },
    'clock    NOT TRUSTED: the clock was stepped',
  ],
  [
    'a step that only the agent saw',
    { ...sound, agent: { ...sound.agent, clock: { confirmedBy: 'kernel', fault: 'by 5 s' } } },
    'clock    NOT TRUSTED: by 5 s',
  ],
  ['no backup', { ...sound, lastBackup: undefined } as unknown as Status, 'backup   NONE known'],
])('%s shows, in 80 columns', (_, status, line) => {
  const screen = statusScreen(status, now)
  expect(screen).toContain(line)
  for (const each of screen.split('\n')) expect(each.length, each).toBeLessThanOrEqual(80)
})
