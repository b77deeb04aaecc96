import { generateKeyPairSync, sign } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatCheckpoint, parseCheckpoint, signatureName, verifyCheckpoint } from './checkpoint.ts'
import { formatNote, keyHintC2sp, keyHintSpki, parseNote, signNoteText, vkeyEcdsa, vkeyEd25519 } from './note.ts'
import { parseNoteKey } from './signature.ts'
import { verifySignature as verifyInBrowser } from './signature.browser.ts'
import { verifySignature as verifyInNode } from './signature.node.ts'
import { leafHash } from './tree.ts'

/** golang.org/x/mod sumdb/note, `note_test.go`: its verifier key and the note signed with it. */
const NEUMANN_VKEY = 'PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW'
const NEUMANN_NOTE =
  'If you think cryptography is the answer to your problem,\nthen you don’t know what your problem is.\n\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n'

/** The example of c2sp.org/signed-note. */
const QUASIMODO_NOTE =
  'Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n'

/** Rekor v2 staging: key of its trusted root, checkpoint of sigstore-conformance rekor2-dsse-happy-path (Apache-2.0). */
const REKOR_ORIGIN = 'log2025-alpha1.rekor.sigstage.dev'
const REKOR_SPKI = 'MCowBQYDK2VwAyEAPn+AREHoBaZ7wgS1zBqpxmLSGnyhxXj4lFxSdWVB8o8='
const REKOR_NOTE = `${REKOR_ORIGIN}\n7132\noxP/ea30nl5qRXK7CWd0YGGajQNclTGmRbyTqZVS0AU=\n\n— ${REKOR_ORIGIN} 8w1amVmcxxHofaeiQdnXseduy+i75L3TKSG91maGEGjUkBbuRQ4oDZ08bVTO9M+MQJMfz0+vbuOeBrr8yYsofI36egQ=\n`

const unbase64 = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'base64'))

function ecdsaKey(namedCurve = 'P-256') {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve })
  const spkiDer = new Uint8Array(publicKey.export({ type: 'spki', format: 'der' }))
  const digest = namedCurve === 'P-256' ? 'sha256' : 'sha384'
  return {
    spkiDer,
    keyHint: keyHintSpki(spkiDer),
    sign: async (bytes: Uint8Array) => new Uint8Array(sign(digest, bytes, privateKey)),
  }
}

describe('published notes', () => {
  test('the note of golang.org/x/mod has the hint of its key, and its verifier key is written the same', () => {
    const key = unbase64(NEUMANN_VKEY.split('+').slice(2).join('+')).slice(1)
    const [line] = parseNote(NEUMANN_NOTE).signatures
    expect(line?.keyHint).toEqual(keyHintC2sp('PeterNeumann', 1, key))
    expect(vkeyEd25519('PeterNeumann', key)).toBe(NEUMANN_VKEY)
  })

  test.each([
    ['c2sp.org/signed-note', QUASIMODO_NOTE],
    ['golang.org/x/mod', NEUMANN_NOTE],
    ['Rekor v2 staging', REKOR_NOTE],
  ])('the note of %s is written again byte for byte', (_, note) => {
    const { text, signatures } = parseNote(note)
    expect(formatNote(text, signatures)).toBe(note)
  })

  test('the text ends at the last empty line', () => {
    expect(parseNote(QUASIMODO_NOTE).text).toBe(
      'Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n',
    )
  })

  test('the checkpoint of Rekor v2 staging verifies, and no other text under its signature', () => {
    const expected = { origin: REKOR_ORIGIN, spkiDer: unbase64(REKOR_SPKI) }
    expect(verifyCheckpoint(REKOR_NOTE, expected)).toMatchObject({ origin: REKOR_ORIGIN, size: 7132, extensions: [] })
    expect(() => verifyCheckpoint(REKOR_NOTE.replace('7132', '7133'), expected)).toThrow('does not verify')
  })
})

describe('checkpoints', () => {
  const ROOT = leafHash(new Uint8Array(0))
  const body = (origin: string) => formatCheckpoint({ origin, size: 3, rootHash: ROOT })

  test.each(['P-256', 'P-384'])('an ECDSA note of %s verifies under its key and origin alone', async (curve) => {
    const key = ecdsaKey(curve)
    const note = await signNoteText(body('log.example'), { name: 'log.example', ...key })
    expect(verifyCheckpoint(note, { origin: 'log.example', spkiDer: key.spkiDer }).size).toBe(3)
    expect(() => verifyCheckpoint(note, { origin: 'log.example', spkiDer: ecdsaKey(curve).spkiDer })).toThrow(
      'no signature of the expected key',
    )
    expect(() => verifyCheckpoint(note, { origin: 'log2.example', spkiDer: key.spkiDer })).toThrow('the origin is')
  })

  test('a note of Rekor v1 is named after the host and has one line only', async () => {
    const key = ecdsaKey()
    const origin = 'rekor.example - 1193050959916656506'
    expect(signatureName(origin)).toBe('rekor.example')
    const note = await signNoteText(body(origin), { name: 'rekor.example', ...key })
    expect(verifyCheckpoint(note, { origin, spkiDer: key.spkiDer }).origin).toBe(origin)
    const { text, signatures } = parseNote(note)
    const witness = { name: 'witness.example', keyHint: new Uint8Array(4), signature: new Uint8Array(64) }
    expect(() =>
      verifyCheckpoint(formatNote(text, [...signatures, witness]), { origin, spkiDer: key.spkiDer }),
    ).toThrow('2 signature lines')
    const named = formatNote(text, [{ ...(signatures[0] ?? witness), name: origin.replaceAll(' ', '') }])
    expect(() => verifyCheckpoint(named, { origin, spkiDer: key.spkiDer })).toThrow('no signature')
  })

  test("a witness's line before or after is ignored; a second line of our key must verify too", async () => {
    const key = ecdsaKey()
    const note = await signNoteText(body('log.example'), { name: 'log.example', ...key })
    const { text, signatures } = parseNote(note)
    const expected = { origin: 'log.example', spkiDer: key.spkiDer }
    const witness = { name: 'witness.example', keyHint: key.keyHint, signature: new Uint8Array(64) }
    expect(verifyCheckpoint(formatNote(text, [witness, ...signatures, witness]), expected).size).toBe(3)
    const broken = { name: 'log.example', keyHint: key.keyHint, signature: new Uint8Array(70) }
    expect(() => verifyCheckpoint(formatNote(text, [...signatures, broken]), expected)).toThrow('does not verify')
  })

  test('a mutated byte never verifies', async () => {
    const key = ecdsaKey()
    const note = await signNoteText(body('log.example'), { name: 'log.example', ...key })
    const bytes = Buffer.from(note)
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const mutated = Buffer.from(bytes)
        mutated[at] = (mutated[at] ?? 0) ^ change
        const text = mutated.toString('utf8')
        expect(() => verifyCheckpoint(text, { origin: 'log.example', spkiDer: key.spkiDer })).toThrow()
      }),
      { numRuns: 500 },
    )
  })

  test('what is written is parsed back', () => {
    fc.assert(
      fc.property(
        fc.stringMatching(/^[a-z0-9.]{1,20}( - [0-9]{1,19})?$/),
        fc.maxSafeNat(),
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        fc.array(fc.stringMatching(/^[a-z0-9 ]{1,20}$/), { maxLength: 3 }),
        (origin, size, rootHash, extensions) => {
          const checkpoint = { origin, size, rootHash, extensions }
          expect(parseCheckpoint(formatCheckpoint(checkpoint))).toEqual(checkpoint)
        },
      ),
    )
  })

  const GOOD = `log.example\n3\n${Buffer.from(ROOT).toString('base64')}\n`
  test.each([
    ['no newline at the end', GOOD.slice(0, -1)],
    ['two lines', 'log.example\n3\n'],
    ['an empty origin', GOOD.replace('log.example', '')],
    ['an empty extension', `${GOOD}\n`],
    ['a leading zero', GOOD.replace('\n3\n', '\n03\n')],
    ['a sign', GOOD.replace('\n3\n', '\n+3\n')],
    ['a fraction', GOOD.replace('\n3\n', '\n3.0\n')],
    ['a size over 2^53', GOOD.replace('\n3\n', '\n9007199254740992\n')],
    ['a root of 31 bytes', `log.example\n3\n${Buffer.alloc(31).toString('base64')}\n`],
    ['a root without padding', GOOD.replace('=', '')],
    ['a root with stray bits', `log.example\n3\n${'A'.repeat(42)}B=\n`],
    ['a root in URL-safe base64', `log.example\n3\n${'_'.repeat(42)}8=\n`],
  ])('%s is malformed', (_, text) => {
    expect(() => parseCheckpoint(text)).toThrow(expect.objectContaining({ code: 'malformed_checkpoint' }))
  })

  test.each([
    ['a newline in the origin', { origin: 'a\nb', size: 0, rootHash: ROOT }],
    ['an empty origin', { origin: '', size: 0, rootHash: ROOT }],
    ['a negative size', { origin: 'a', size: -1, rootHash: ROOT }],
    ['a short root', { origin: 'a', size: 0, rootHash: new Uint8Array(20) }],
  ])('%s cannot be written', (_, checkpoint) => {
    expect(() => formatCheckpoint(checkpoint)).toThrow(expect.objectContaining({ code: 'malformed_checkpoint' }))
  })

  test.each([
    [
      'an RSA key',
      new Uint8Array(
        generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({ type: 'spki', format: 'der' }),
      ),
    ],
    ['a P-521 key', ecdsaKey('P-521').spkiDer],
    ['a trailing byte', new Uint8Array([...ecdsaKey().spkiDer, 0])],
    ['nothing', new Uint8Array(0)],
  ])('%s is no key of a log', (_, spkiDer) => {
    expect(() => parseNoteKey(spkiDer)).toThrow(expect.objectContaining({ code: 'malformed_key' }))
  })

  test('verification in Node and in a browser agree, also on high s and rubbish', () => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const key = parseNoteKey(new Uint8Array(publicKey.export({ type: 'spki', format: 'der' })))
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), fc.nat(71), fc.boolean(), (message, at, break_) => {
        const signature = new Uint8Array(sign('sha256', message, privateKey))
        if (break_) signature[at % signature.length] = (signature[at % signature.length] ?? 0) ^ 1
        expect(verifyInBrowser(key, signature, message)).toBe(verifyInNode(key, signature, message))
        if (!break_) expect(verifyInNode(key, signature, message)).toBe(true)
      }),
      { numRuns: 60 },
    )
    const offCurve = parseNoteKey(new Uint8Array([...key.spkiDer.slice(0, -1), (key.spkiDer.at(-1) ?? 0) ^ 1]))
    const message = new Uint8Array(3)
    const signature = new Uint8Array(sign('sha256', message, privateKey))
    expect([verifyInNode(offCurve, signature, message), verifyInBrowser(offCurve, signature, message)]).toEqual([
      false,
      false,
    ])
  })
})

describe('malformed notes', () => {
  const LINE = '— log.example AAAAAAECAw==\n'
  test.each([
    ['empty', ''],
    ['text alone', 'text\n'],
    ['no signature line', 'text\n\n'],
    ['no newline at the end', `text\n\n${LINE.slice(0, -1)}`],
    ['no text', `\n${LINE}`],
    ['an empty text', `\n\n${LINE}`],
    ['a hyphen for the dash', `text\n\n${LINE.replace('—', '-')}`],
    ['two spaces', `text\n\n${LINE.replace(' AAAA', '  AAAA')}`],
    ['a trailing space', `text\n\n${LINE.replace('\n', ' \n')}`],
    ['a name with a plus', `text\n\n${LINE.replace('log.', 'log+')}`],
    ['a name with a no-break space', `text\n\n${LINE.replace('log.', 'log\u00a0')}`],
    ['a hint alone', 'text\n\n— log.example AAAAAA==\n'],
    ['base64 without padding', `text\n\n${LINE.replace('==', '')}`],
    ['base64 with stray bits', `text\n\n${LINE.replace('Aw==', 'Ax==')}`],
    ['base64 with white space', `text\n\n${LINE.replace('AAAAAA', 'AAA\tAAA')}`],
    ['a carriage return', `text\r\n\n${LINE}`],
    ['a NUL', `te\0xt\n\n${LINE}`],
    ['a lone surrogate', `te\ud800xt\n\n${LINE}`],
    ['a line after the signatures', `text\n\n${LINE}more\n`],
    ['too many signatures', `text\n\n${LINE.repeat(65)}`],
    ['over 1 MB', `${'x'.repeat(1_000_000)}\n\n${LINE}`],
  ])('%s is refused', (_, note) => {
    expect(() => parseNote(note)).toThrow(expect.objectContaining({ code: 'malformed_note' }))
  })

  test.each([
    ['a text without newline', 'text', 'log.example', 4, 64],
    ['a name with a space', 'text\n', 'log example', 4, 64],
    ['an empty name', 'text\n', '', 4, 64],
    ['a hint of 3 bytes', 'text\n', 'log.example', 3, 64],
    ['an empty signature', 'text\n', 'log.example', 4, 0],
  ])('%s cannot be written', (_, text, name, hint, length) => {
    const line = { name, keyHint: new Uint8Array(hint), signature: new Uint8Array(length) }
    expect(() => formatNote(text, [line])).toThrow(expect.objectContaining({ code: 'malformed_note' }))
  })

  test('a note without signature cannot be written, nor a verifier key for an origin with spaces', () => {
    expect(() => formatNote('text\n', [])).toThrow()
    expect(() => vkeyEcdsa('rekor.example - 1', ecdsaKey().spkiDer)).toThrow()
    expect(vkeyEcdsa('log.example', ecdsaKey().spkiDer)).toMatch(/^log\.example\+[0-9a-f]{8}\+AjBZ/)
  })
})
