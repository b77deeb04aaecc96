import { generateKeyPairSync, hash, sign } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { formatNote, keyHintC2sp, parseNote } from '#tlog'
import { treeHeadSignatureInput } from '#x509'
import { ctNote, readCtNote } from './ct-note.ts'

const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const spkiDer = new Uint8Array(publicKey.export({ type: 'spki', format: 'der' }))
const log = { origin: 'ct.example', spkiDer, logId: new Uint8Array(hash('sha256', spkiDer, 'buffer')) }
const rootHash = new Uint8Array(hash('sha256', 'root', 'buffer'))
const timestampMs = 1_790_000_000_123

function head(size = 7) {
  const signature = new Uint8Array(sign('sha256', treeHeadSignatureInput(size, timestampMs, rootHash), privateKey))
  return { size, rootHash, timestampMs, signature, note: '' }
}

describe('a CT tree head as a note (C2SP static-ct-api)', () => {
  test('carries the signature that was made, under a hint of type 5', () => {
    const note = ctNote(log, head())
    const [line] = parseNote(note).signatures
    const input = Buffer.concat([Buffer.from('ct.example\n\u0005'), log.logId])
    expect(Buffer.from(line?.keyHint ?? [])).toEqual(hash('sha256', input, 'buffer').subarray(0, 4))
    // uint64 time, SHA-256 (4), ECDSA (3), length, DER.
    const bytes = Buffer.from(line?.signature ?? [])
    expect([bytes.readBigUInt64BE(0), bytes[8], bytes[9]]).toEqual([BigInt(timestampMs), 4, 3])
    expect(bytes.readUInt16BE(10)).toBe(bytes.length - 12)
    expect(readCtNote(log, note)).toEqual({ size: 7, rootHash, timestampMs, signature: expect.any(Uint8Array) })
  })

  const good = ctNote(log, head())
  const [line] = parseNote(good).signatures
  const withSignature = (signature: Uint8Array) =>
    formatNote(parseNote(good).text, [{ name: 'ct.example', keyHint: line?.keyHint ?? new Uint8Array(4), signature }])
  test.each([
    ['another size', good.replace('\n7\n', '\n8\n')],
    ['another origin', good.replaceAll('ct.example', 'ct.other')],
    ["another log's line", ctNote({ ...log, logId: new Uint8Array(32) }, head())],
    [
      'another time',
      withSignature(
        new Uint8Array([0, ...(line?.signature.slice(1) ?? [])]).map((byte, at) => (at === 7 ? byte ^ 1 : byte)),
      ),
    ],
    ['a time alone', withSignature(new Uint8Array(8))],
    ['a time without end', withSignature(new Uint8Array([255, ...(line?.signature.slice(1) ?? [])]))],
    ['a signature cut off', withSignature(line?.signature.slice(0, -1) ?? new Uint8Array(1))],
    ['bytes after the signature', withSignature(new Uint8Array([...(line?.signature ?? []), 0]))],
    [
      'an Ed25519 line',
      formatNote(parseNote(good).text, [
        {
          name: 'ct.example',
          keyHint: keyHintC2sp('ct.example', 1, new Uint8Array(32)),
          signature: new Uint8Array(64),
        },
      ]),
    ],
    ['no note', 'ct.example\n7\n'],
  ])('is refused: %s', (_, note) => {
    expect(() => readCtNote(log, note)).toThrow()
  })
})
