import { expect, test } from 'vitest'
import { formatCheckpoint } from '#tlog'
import { type EntryWithProof, refuseContradictions } from './verify.ts'

const rootHash = new Uint8Array(32).fill(1)
const signature = Buffer.alloc(76, 2).toString('base64')
const note = `${formatCheckpoint({ origin: 'log.example', size: 8, rootHash })}\n\u2014 log.example ${signature}\n`
const proof = { logIndex: '3', rootHash, treeSize: '8', checkpoint: { envelope: note } }
const promise = { signedEntryTimestamp: new Uint8Array(8) }

test.each<[string, EntryWithProof]>([
  ['an entry whose copies say what the checkpoint says', { logIndex: '3', inclusionProof: proof }],
  ['an entry in a later shard under a SET', { logIndex: '1003', inclusionPromise: promise, inclusionProof: proof }],
  ['an entry with a SET alone', { logIndex: '3', inclusionPromise: promise }],
])('takes %s', (_, entry) => {
  expect(() => refuseContradictions([entry])).not.toThrow()
})

test.each<[string, EntryWithProof, string]>([
  ['another index than the proof', { logIndex: '4', inclusionProof: proof }, 'different indexes'],
  ['another root', { logIndex: '3', inclusionProof: { ...proof, rootHash: new Uint8Array(32) } }, 'another tree'],
  ['a shorter root', { logIndex: '3', inclusionProof: { ...proof, rootHash: rootHash.slice(1) } }, 'another tree'],
  ['another tree size', { logIndex: '3', inclusionProof: { ...proof, treeSize: '9' } }, 'another tree'],
  ['a tree size in another form', { logIndex: '3', inclusionProof: { ...proof, treeSize: '08' } }, 'another tree'],
  [
    'another root under a SET',
    { logIndex: '1003', inclusionPromise: promise, inclusionProof: { ...proof, rootHash: new Uint8Array(32) } },
    'another tree',
  ],
  [
    'a checkpoint that is none',
    { logIndex: '3', inclusionProof: { ...proof, checkpoint: { envelope: 'log.example\n8\n' } } },
    'no empty line',
  ],
])('refuses %s', (_, entry, words) => {
  const refused = { code: 'not_in_log', message: expect.stringContaining(words) as unknown }
  expect(() => refuseContradictions([{ logIndex: '3', inclusionProof: proof }, entry])).toThrow(
    expect.objectContaining(refused),
  )
})
