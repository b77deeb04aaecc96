import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { answerValue, readAnswer, readRequest, requestValue } from './protocol.ts'
import { HsmError } from './signing.ts'
import { decodeFrame, encodeFrame, FrameSplitter, MAX_FRAME_BYTES, WireError, type WireValue } from './wire.ts'

const { value } = fc.letrec<{ value: WireValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4, depthSize: 'small' },
    fc.constant(null),
    fc.boolean(),
    fc.maxSafeInteger(),
    fc.string({ unit: 'binary' }),
    fc.uint8Array({ maxLength: 400 }),
    fc.array(tie('value'), { maxLength: 5 }),
    fc.dictionary(fc.string(), tie('value'), { maxKeys: 5 }).map((map) => ({ ...map })),
  ),
}))

const hex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'))

describe('the wire', () => {
  test('gives back what was sent, and one encoding only', () => {
    fc.assert(
      fc.property(value, (sent) => {
        const frame = encodeFrame(sent)
        const received = decodeFrame(frame.subarray(4))
        expect(received).toEqual(sent)
        expect(Buffer.from(encodeFrame(received)).equals(frame)).toBe(true)
      }),
    )
  })

  test('gives back whole frames however the stream is cut', () => {
    fc.assert(
      fc.property(fc.array(value, { maxLength: 6 }), fc.array(fc.nat(40), { minLength: 1 }), (sent, cuts) => {
        const stream = Buffer.concat(sent.map(encodeFrame))
        const splitter = new FrameSplitter()
        const received: WireValue[] = []
        for (let at = 0, i = 0; at < stream.length; i++) {
          const end = at + 1 + (cuts[i % cuts.length] ?? 0)
          received.push(...splitter.push(stream.subarray(at, end)).map(decodeFrame))
          at = end
        }
        expect(received).toEqual(sent)
      }),
    )
  })

  test('refuses every cut and every other bytes with its own error', () => {
    fc.assert(
      fc.property(value, fc.nat(), (sent, at) => {
        const content = encodeFrame(sent).subarray(4)
        expect(() => decodeFrame(content.subarray(0, at % content.length))).toThrow(WireError)
        expect(() => decodeFrame(Buffer.concat([content, Buffer.of(0)]))).toThrow(WireError)
      }),
    )
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          const decoded = decodeFrame(bytes)
          expect(Buffer.from(encodeFrame(decoded)).subarray(4).equals(bytes)).toBe(true)
        } catch (error) {
          expect(error).toBeInstanceOf(WireError)
        }
      }),
      { numRuns: 2000 },
    )
  })

  // RFC 8949 appendix A, and forms that it allows and this protocol does not.
  test.each([
    ['00', 0],
    ['17', 23],
    ['18 18', 24],
    ['19 03e8', 1000],
    ['1b 000000e8d4a51000', 1_000_000_000_000],
    ['20', -1],
    ['38 63', -100],
    ['f4', false],
    ['f6', null],
    ['60', ''],
    ['64 49455446', 'IETF'],
    ['83 01 02 03', [1, 2, 3]],
    ['a1 61 61 01', { a: 1 }],
  ])('writes and reads %s', (bytes, expected) => {
    expect(decodeFrame(hex(bytes))).toEqual(expected)
    expect(Buffer.from(encodeFrame(expected)).subarray(4).toString('hex')).toBe(bytes.replaceAll(' ', ''))
  })

  test.each([
    ['nothing', ''],
    ['a long form of a short number', '18 17'],
    ['a longer form', '19 00ff'],
    ['a 64-bit form of a 32-bit number', '1b 00000000ffffffff'],
    ['a number beyond 2^53', '1b 0020000000000000'],
    ['the number -2^53', '3b 001fffffffffffff'],
    ['a float', 'f9 3c00'],
    ['undefined', 'f7'],
    ['a tag', 'c1 00'],
    ['an indefinite length', '5f 41 00 ff'],
    ['text that is not UTF-8', '61 ff'],
    ['a map key that is no text', 'a1 01 02'],
    ['a map key twice', 'a2 61 61 01 61 61 02'],
    ['an array of 2^32 items', '9a ffffffff'],
    ['bytes that are missing', '5a 7fffffff 00'],
    ['nesting without end', '81'.repeat(1000)],
  ])('refuses %s', (_, bytes) => {
    expect(() => decodeFrame(hex(bytes))).toThrow(WireError)
  })

  test('refuses a frame that is too long before it is collected', () => {
    const head = Buffer.alloc(4)
    head.writeUInt32BE(MAX_FRAME_BYTES + 1)
    expect(() => new FrameSplitter().push(head)).toThrow(WireError)
    expect(() => encodeFrame(new Uint8Array(MAX_FRAME_BYTES))).toThrow(WireError)
  })

  test.each([Number.NaN, 1.5, 2 ** 53, '\ud800'])('does not send %s', (bad) => {
    expect(() => encodeFrame(bad)).toThrow(WireError)
  })
})

describe('the protocol', () => {
  test('gives back requests and answers', () => {
    const request = { id: 7, method: 'sct', timeoutMs: 100, argument: { key: 'ct' } }
    expect(readRequest(requestValue(request))).toEqual(request)
    expect(readAnswer(answerValue({ id: 7, result: [1] }))).toEqual({ id: 7, result: [1] })
    const error = new HsmError('refused', 'wrong_purpose', 'no')
    expect(readAnswer(answerValue({ id: 7, error }))).toEqual({ id: 7, error })
  })

  test.each([null, [], [1, 'sct', 5], [1, 2, 3, 4], ['1', 'sct', 5, {}], { id: 1 }])(
    'refuses the request %j',
    (bad) => {
      expect(() => readRequest(bad)).toThrow(WireError)
    },
  )

  test.each([null, [], [1, true], [1, false, ['odd', 'a', 'b']], [1, false, ['refused']], ['1', true, 1]])(
    'refuses the answer %j',
    (bad) => {
      expect(() => readAnswer(bad)).toThrow(WireError)
    },
  )
})
