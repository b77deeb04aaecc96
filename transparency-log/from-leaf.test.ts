import { describe, expect, test } from 'vitest'
import { factsOfLeaf } from './from-leaf.ts'
import type { CheckedEntry } from './rekor/entry.ts'
import {
  base64,
  bytesOf,
  dsseV1,
  ecKeyPair,
  envelopeOf,
  freshCost,
  hashedRekordV1,
  hashedRekordV2,
  intotoV1,
  pemOf,
  spkiOf,
} from './rekor/material.fixture.ts'
import { checkInsertion } from './rekor/v1/entries.ts'
import { checkCreateEntry } from './rekor/v2/entries.ts'

const pair = ecKeyPair()
const large = ecKeyPair('P-384')
const statement = JSON.stringify({ subject: [{ name: 'a', digest: { sha256: 'AB'.repeat(32) } }] })
const envelope = envelopeOf([pair], statement)
const v1 = (proposed: unknown): CheckedEntry => checkInsertion(bytesOf(proposed), freshCost())
const v2 = (request: unknown): CheckedEntry => checkCreateEntry(bytesOf(request), { ...freshCost(), strict: false })
const verifiers = [{ keyDetails: 'PKIX_ECDSA_P256_SHA_256', publicKey: { rawBytes: base64(spkiOf(pair)) } }]

describe('the keys of an entry that is known by its leaf alone', () => {
  test.each<[string, 'rekor-v1' | 'rekor-v2', CheckedEntry]>([
    ['hashedrekord 0.0.1', 'rekor-v1', v1(hashedRekordV1(pair, 'message'))],
    ['hashedrekord 0.0.1 with SHA-384', 'rekor-v1', v1(hashedRekordV1(large, 'message', { hash: 'sha384' }))],
    ['dsse 0.0.1', 'rekor-v1', v1(dsseV1(envelopeOf([pair], 'text', 'text/plain'), [pemOf(pair)]))],
    ['intoto 0.0.2', 'rekor-v1', v1(intotoV1(envelopeOf([pair], 'text', 'text/plain'), [pemOf(pair)]))],
    ['hashedrekord 0.0.2', 'rekor-v2', v2(hashedRekordV2(pair, 'message'))],
    ['dsse 0.0.2', 'rekor-v2', v2({ dsseRequestV002: { envelope: envelopeOf([pair], 'x', 'text/plain'), verifiers } })],
  ])('are those that %s was logged with', (_, kind, { leaf, leafHash, searchKeys }) => {
    expect(factsOfLeaf(kind, leaf)).toEqual({ dedupeKey: leafHash, searchKeys })
  })

  test('lack the subjects of a statement, unless its attestation comes along', () => {
    const logged = v1(intotoV1(envelope, [pemOf(pair)]))
    const subject = `hash:sha256:${'ab'.repeat(32)}`
    expect(logged.searchKeys).toContain(subject)
    expect(factsOfLeaf('rekor-v1', logged.leaf).searchKeys).not.toContain(subject)
    expect(factsOfLeaf('rekor-v1', logged.leaf, logged.attachment).searchKeys).toEqual(logged.searchKeys)
  })

  test.each<[string, 'ct' | 'rekor-v1', Uint8Array]>([
    ['no JSON', 'rekor-v1', Buffer.from('leaf')],
    ['another kind', 'rekor-v1', bytesOf({ apiVersion: '0.0.1', kind: 'alpine', spec: {} })],
    ['a kind without its fields', 'rekor-v1', bytesOf({ apiVersion: '0.0.1', kind: 'hashedrekord', spec: {} })],
    ['no MerkleTreeLeaf', 'ct', Buffer.alloc(40, 1)],
  ])('are not looked for in %s', (_, kind, leaf) => {
    expect(() => factsOfLeaf(kind, leaf)).toThrow(expect.objectContaining({ code: 'invalid_entry' }))
  })
})
