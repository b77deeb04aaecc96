import { generateKeyPairSync } from 'node:crypto'
import { expect, test } from 'vitest'
import { OperatorError } from '#alarms'
import { formatKeyBackup, type KeyBackup, parseKeyBackup } from './key-backup.ts'

const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const keys: KeyBackup['keys'] = [
  {
    label: 'ct',
    idHex: '0a'.repeat(16),
    kind: 'P-256',
    spkiDer: new Uint8Array(publicKey.export({ type: 'spki', format: 'der' })),
    mechanism: 'AES-KWP',
    kekIdHex: '0b'.repeat(16),
    wrapped: new Uint8Array(80).fill(7),
    token: 'online',
    createdAt: '2026-08-01T00:00:00.000Z',
  },
]
const text = formatKeyBackup({ keys })

test('a backup is read as it was written', () => {
  expect(parseKeyBackup(text)).toEqual(keys)
})

test.each([
  ['no JSON', text.slice(0, -3)],
  ['empty', ''],
  ['another format', text.replace('key-backup/1', 'key-backup/2')],
  ['an unknown field', text.replace('"label"', '"pin": "1234", "label"')],
  ['an id that is no hex', text.replace('0a0a', 'zz0a')],
  ['another mechanism', text.replace('AES-KWP', 'AES-CBC')],
  ['a public key that was changed', text.replace(/"spki": "..../, '"spki": "AAAA')],
  ['no time', text.replace('2026-08-01T00:00:00.000Z', 'yesterday')],
])('%s is refused', (_what, damaged) => {
  expect(damaged).not.toBe(text)
  let refusal: unknown
  try {
    parseKeyBackup(damaged)
  } catch (error) {
    refusal = error
  }
  expect(refusal).toBeInstanceOf(OperatorError)
  expect(refusal).toMatchObject({ code: 'key_backup_damaged', exitStatus: 8 })
})
