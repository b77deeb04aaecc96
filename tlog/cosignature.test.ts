import { createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import {
  formatNote,
  keyHintC2sp,
  parseNote,
  parseWitnessKey,
  verifyCosignature,
  withSignatures,
  witnessOrigin,
} from './index.ts'

/** A cosignature that litewitness 0.9.0 (filippo.io/torchwood) made of a checkpoint of ours, 2026-11-21. */
const LITEWITNESS = {
  vkey: 'witness.test/lite+6217bbf1+BJLwDIA13u1JXia5q1FY097usJwf9YXvlCBjI9cWqIzC',
  note: 'log.example\n1\nPH6byTDck/AfppmF7yQtn56GHzxTVaokzl70tLinDMs=\n\n— log.example VY7TO1tvCRMdZtujyh0SELoItwsgrh1UrdXC6lviNblqh7R/bdHUnHvGYMDCgOnIgYwzyJzpc4ydSHb5Mi3v+UUS/g8=\n— witness.test/lite Yhe78QAAAABrAS2BjbmlsGsrxRLEZTnZHQyxYvZF01T4xm1CyL6MQ9XfltEuNj7n83IjnKkrq7/JGwJaFF3UcM2KCpbNj0JhN2j3DA==\n',
}

const TEXT = 'log.example\n5\nMRpOJdMFqRVQ8t3VdHgdrQNGRQvPnjR0FNqsyGzCvUI=\n'

function witness(name = 'witness.example/w1') {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const raw = new Uint8Array(publicKey.export({ type: 'spki', format: 'der' }).subarray(-32))
  const keyHint = keyHintC2sp(name, 4, raw)
  const vkey = `${name}+${Buffer.from(keyHint).toString('hex')}+${Buffer.from([4, ...raw]).toString('base64')}`
  const cosign = (
    text: string,
    { time = 1_700_000_000n, signedTime = time }: { time?: bigint; signedTime?: bigint } = {},
  ) => {
    const stamp = Buffer.alloc(8)
    stamp.writeBigUInt64BE(time)
    const signature = sign(null, Buffer.from(`cosignature/v1\ntime ${signedTime}\n${text}`), privateKey)
    return { name, keyHint, signature: new Uint8Array([...stamp, ...signature]) }
  }
  return { name, vkey, raw, keyHint, cosign, publicKey }
}

describe('a cosignature', () => {
  test('of a witness that this project did not write verifies', () => {
    const { text, signatures } = parseNote(LITEWITNESS.note)
    const { timestampSeconds } = verifyCosignature(signatures, parseWitnessKey(LITEWITNESS.vkey), text)
    expect(timestampSeconds).toBeGreaterThan(1_790_000_000)
    for (const changed of [text.replace('\n1\n', '\n2\n'), `${text}more\n`]) {
      expect(() => verifyCosignature(signatures, parseWitnessKey(LITEWITNESS.vkey), changed)).toThrow('does not verify')
    }
  })

  test('has its time in what is signed', () => {
    const { vkey, cosign, publicKey } = witness()
    expect(createPublicKey(publicKey.export({ type: 'spki', format: 'pem' })).asymmetricKeyType).toBe('ed25519')
    const key = parseWitnessKey(vkey)
    expect(verifyCosignature([cosign(TEXT)], key, TEXT)).toMatchObject({ timestampSeconds: 1_700_000_000 })
    expect(() => verifyCosignature([cosign(TEXT, { signedTime: 5n })], key, TEXT)).toThrow('does not verify')
  })

  test.each([
    ['no line', () => []],
    ["another witness's", () => [witness('witness.example/w2').cosign(TEXT)]],
    ['another key under the same name', () => [witness().cosign(TEXT)]],
    ['another text', (own: ReturnType<typeof witness>) => [own.cosign('log.example\n6\nAAAA\n')]],
    [
      'a bare signature without its time',
      (own: ReturnType<typeof witness>) => [{ ...own.cosign(TEXT), signature: own.cosign(TEXT).signature.slice(8) }],
    ],
    [
      'a byte too many',
      (own: ReturnType<typeof witness>) => [
        { ...own.cosign(TEXT), signature: new Uint8Array([...own.cosign(TEXT).signature, 0]) },
      ],
    ],
    ['a time beyond any', (own: ReturnType<typeof witness>) => [own.cosign(TEXT, { time: 2n ** 63n })]],
    ['a good line before a bad one', (own: ReturnType<typeof witness>) => [own.cosign(TEXT), own.cosign('x\n')]],
    [
      'an empty signature',
      (own: ReturnType<typeof witness>) => [{ ...own.cosign(TEXT), signature: new Uint8Array(0) }],
    ],
  ])('is refused: %s', (_, lines) => {
    const own = witness()
    const code = { code: 'bad_signature' }
    expect(() => verifyCosignature(lines(own), parseWitnessKey(own.vkey), TEXT)).toThrow(expect.objectContaining(code))
  })
})

describe("a witness's verifier key", () => {
  const { vkey, name, raw } = witness()
  const hint = vkey.split('+')[1] ?? ''
  const plain = Buffer.from([1, ...raw]).toString('base64')
  test.each([
    ['nothing', ''],
    ['a name alone', name],
    ['another hint', vkey.replace(hint, '00000000')],
    ['a hint in capitals', `${name}+ABCDEF01+${vkey.split('+')[2]}`],
    ["a log's Ed25519 key", `${name}+${Buffer.from(keyHintC2sp(name, 1, raw)).toString('hex')}+${plain}`],
    ['a key that is too short', vkey.slice(0, -8)],
    ['a name with a space', vkey.replace('witness', 'wit ness')],
    ['base64 with white space', `${vkey} `],
    ['an ML-DSA key', `${name}+${hint}+${Buffer.alloc(1313, 6).toString('base64')}`],
  ])('is refused: %s', (_, text) => {
    expect(() => parseWitnessKey(text)).toThrow()
  })

  test('is read', () => {
    expect(parseWitnessKey(vkey)).toMatchObject({ name, raw })
  })
})

test('lines are added after those that are there, each once', () => {
  const [one, other] = [witness('w.example/1'), witness('w.example/2')]
  const note = formatNote(TEXT, [one.cosign(TEXT)])
  const both = withSignatures(note, [other.cosign(TEXT), one.cosign(TEXT)])
  expect(parseNote(both).signatures.map(({ name }) => name)).toEqual(['w.example/1', 'w.example/2'])
})

test.each([
  ['rekor-v1.example - 123', 'rekor-v1.example/123'],
  ['rekor-v2.example', 'rekor-v2.example'],
  ['a - b', 'a - b'],
])('to witnesses %s is %s', (origin, name) => {
  expect(witnessOrigin(origin)).toBe(name)
})
