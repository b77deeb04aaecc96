/** A custodian believes nothing that a payload says but its bytes. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { custodianRoles } from '../test/support/trust-installation.ts'
import { closeCustody, custodians, DAY, folder, openCustody, trustRoot, withKey } from './custody.fixture.ts'
import { checkPayload, type PayloadFile, writeRoles } from './index.ts'

let text: string

beforeAll(async () => {
  await openCustody()
  await writeRoles(folder, await custodianRoles(custodians, ['bert', 'cleo', 'dora'], 2))
  await trustRoot.update(withKey())
  text = JSON.stringify(await trustRoot.payload())
})
afterAll(closeCustody)

describe('a payload', () => {
  let payload: PayloadFile

  beforeEach(() => {
    payload = JSON.parse(text) as PayloadFile
  })

  test('tells what is signed, in words that follow from it', () => {
    const { diff, parts, publishedRoot } = checkPayload(payload, new Date())
    expect(parts.map(({ metadata: { signed } }) => `${signed._type} ${signed.version}`)).toEqual([
      'root 2',
      'targets 2',
    ])
    expect(publishedRoot?.version).toBe(1)
    const lines = diff.flatMap((section) => section.lines)
    expect(lines.filter((line) => /^[+-] root: key/.test(line))).toEqual([
      expect.stringMatching(/^\+ root: key [0-9a-f]{16} \(dora, dora's safe\)$/),
      expect.stringMatching(/^- root: key [0-9a-f]{16} \(ada, ada's safe\)$/),
    ])
    expect(lines).toContainEqual(expect.stringMatching(/^\+ Rekor log http:\/\/rekor-v1.example.org, key /))
  })

  const rows: [string, (file: PayloadFile) => void][] = [
    ['bytes that it does not show', (file) => Object.assign(file.parts[1] ?? {}, { bytes: file.parts[0]?.bytes })],
    ['another digest', (file) => Object.assign(file.parts[0] ?? {}, { sha256: '0'.repeat(64) })],
    ['another version beside its bytes', (file) => Object.assign(file.parts[1] ?? {}, { version: 9 })],
    ['a later end beside its bytes', (file) => Object.assign(file.parts[1] ?? {}, { expires: '2030-01-01T00:00:00Z' })],
    ['a part less', (file) => file.parts.pop()],
    ['a root left out', (file) => file.parts.shift()],
    [
      'the content of a target changed',
      (file) => (file.files['rekor.pub'] = Buffer.from('another key').toString('base64')),
    ],
    ['a file that is no target', (file) => (file.files['more'] = '')],
    ['a published target changed', (file) => (file.published.files['rekor.pub'] = '')],
    ['nothing published', (file) => Object.assign(file, { published: { files: {} } })],
    ['a line of the difference left out', (file) => file.diff[0]?.lines.pop()],
    ['another custodian named', (file) => Object.assign(file.custodians[0] ?? {}, { name: 'ada-2' })],
    ['an unknown field', (file) => Object.assign(file, { trustMe: true })],
  ]
  test.each(rows)('with %s is not signed', (_, spoil) => {
    spoil(payload)
    expect(() => checkPayload(payload, new Date())).toThrow(expect.objectContaining({ code: 'payload_refused' }))
  })

  test('that has ended is not signed, nor one with a root that does not sign what is published', () => {
    const late = new Date(Date.now() + 366 * DAY)
    expect(() => checkPayload(payload, late)).toThrow(expect.objectContaining({ code: 'payload_refused' }))
    const root = payload.published.root as { signatures: unknown[] }
    root.signatures.pop()
    expect(() => checkPayload(payload, new Date())).toThrow(expect.objectContaining({ code: 'payload_refused' }))
  })
})
