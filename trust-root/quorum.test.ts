import { generateKeyPairSync, sign } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isSignature, type TufKey, tufKeyOf } from './metadata.ts'
import { type Quorum, tally } from './quorum.ts'

const KEYS = ['a', 'b', 'c', 'd', 'e']
const anyKey: TufKey = { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: '0'.repeat(64) } }
const quorum = fc.subarray(KEYS, { minLength: 1 }).chain((ids) =>
  fc.integer({ min: 1, max: ids.length }).map((threshold): Quorum => {
    return { threshold, keys: Object.fromEntries(ids.map((id) => [id, anyKey])) }
  }),
)

const holds = (signed: readonly string[], quorums: readonly Quorum[]) =>
  quorums.every(({ keys, threshold }) => new Set(signed.filter((id) => id in keys)).size >= threshold)

/** Fewest more signatures, by trying every set. */
function fewest(signed: readonly string[], quorums: readonly Quorum[]): number {
  const sets = KEYS.reduce<string[][]>((all, id) => [...all, ...all.map((set) => [...set, id])], [[]])
  const enough = sets.filter((set) => holds([...signed, ...set], quorums)).map((set) => set.length)
  return Math.min(...enough)
}

test('what is lacking is the fewest signatures that meet every threshold, whoever has signed how often', () => {
  fc.assert(
    fc.property(
      fc.array(quorum, { minLength: 1, maxLength: 2 }),
      fc.array(fc.constantFrom(...KEYS)),
      (quorums, signed) => {
        const { have, lacking, missing } = tally(signed, quorums)
        expect(lacking).toBe(fewest(signed, quorums))
        expect(lacking === 0).toBe(holds(signed, quorums))
        expect(new Set(have).size).toBe(have.length)
        // Nobody is asked in vain: each has a word in a threshold that is not met, and has not signed.
        const open = quorums.filter((each) => !holds(signed, [each]))
        for (const id of missing)
          expect([open.some(({ keys }) => id in keys), have.includes(id)]).toEqual([true, false])
      },
    ),
    { numRuns: 2000 },
  )
})

test.each(['P-256', 'ed25519'] as const)('a signature of a %s key verifies, and nothing near it', (kind) => {
  const make = () => (kind === 'P-256' ? generateKeyPairSync('ec', { namedCurve: kind }) : generateKeyPairSync(kind))
  const [{ publicKey, privateKey }, other] = [make(), make()]
  const keyOf = (pair: typeof other) =>
    tufKeyOf({ kind, spkiDer: new Uint8Array(pair.publicKey.export({ type: 'spki', format: 'der' })) })
  const payload = Buffer.from('payload')
  const signature = sign(kind === 'P-256' ? 'sha256' : null, payload, privateKey)
  expect(isSignature(keyOf({ publicKey, privateKey }), payload, signature)).toBe(true)
  expect(isSignature(keyOf(other), payload, signature)).toBe(false)
  expect(isSignature(keyOf({ publicKey, privateKey }), Buffer.from('payloae'), signature)).toBe(false)
  expect(isSignature(keyOf({ publicKey, privateKey }), payload, signature.subarray(1))).toBe(false)
  expect(isSignature(keyOf({ publicKey, privateKey }), payload, new Uint8Array(0))).toBe(false)
})
