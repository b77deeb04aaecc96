import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { rotationFindings } from './rotation-alarm.ts'

let dataDir = ''

beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'chancery-stalled-'))
  mkdirSync(join(dataDir, 'lifecycle'))
})
afterEach(() => rmSync(dataDir, { recursive: true, force: true }))

const begun = '2026-11-20T08:00:00.000Z'
const record = {
  schemaVersion: 1,
  id: '2026-11-20T08-00-00Z-tsa',
  kind: 'tsa',
  startedAt: begun,
  startedBy: 'me',
  steps: [{ name: 'key', startedAt: begun }],
  facts: {},
}
const waiting = {
  ...record,
  steps: [
    { name: 'publish', startedAt: begun, finishedAt: begun },
    { name: 'wait', startedAt: begun },
  ],
  facts: { waitUntil: '2026-11-23T08:00:00.000Z' },
}

test.each([
  ['interrupted an hour ago', record, '2026-11-20T09:00:00Z', undefined],
  ['interrupted three days ago', record, '2026-11-23T09:00:00Z', /stands at key since 2026-11-20/],
  ['waiting', waiting, '2026-11-23T07:00:00Z', undefined],
  ['waiting since long ago, rightly', waiting, '2026-11-22T23:00:00Z', undefined],
  ['over for an hour', waiting, '2026-11-23T09:00:00Z', undefined],
  ['over for a day', waiting, '2026-11-24T08:00:00Z', /go on with: chancery rotate resume/],
  [
    'being undone since today',
    { ...waiting, aborting: { at: '2026-11-24T07:00:00Z', by: 'me', keepKeys: false } },
    '2026-11-24T08:00:00Z',
    undefined,
  ],
])('a rotation %s', (_what, found, now, message) => {
  writeFileSync(join(dataDir, 'lifecycle/rotation.json'), JSON.stringify(found))
  const findings = rotationFindings(dataDir, Date.parse(now))
  if (message === undefined) expect(findings).toEqual([])
  else
    expect(findings).toMatchObject([
      { code: 'rotation_stalled', subject: 'tsa', message: expect.stringMatching(message) },
    ])
})

test('none, and one that cannot be read', () => {
  expect(rotationFindings(dataDir, Date.parse(begun))).toEqual([])
  writeFileSync(join(dataDir, 'lifecycle/rotation.json'), '{')
  expect(rotationFindings(dataDir, Date.parse(begun))).toMatchObject([{ code: 'rotation_stalled', subject: 'journal' }])
})
