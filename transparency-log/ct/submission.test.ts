import { expect, test } from 'vitest'
import { merkleTreeLeaf } from '#x509'
import type { Log } from '../log.ts'
import type { CheckedChain } from './chain.ts'
import { submit } from './submission.ts'

test('an entry whose SCT was lost is refused, never answered with an empty one', async () => {
  const entry = { type: 'x509', certificateDer: Uint8Array.of(0x30, 0) } as const
  const chain: CheckedChain = { entry, submitted: entry.certificateDer, issuers: [] }
  const leaf = merkleTreeLeaf(entry, 1_790_000_000_000, new Uint8Array(0))
  const held = { leaf, entrySignature: new Uint8Array(0) }
  const log = {
    logId: new Uint8Array(32),
    add: async () => ({ index: 3 }),
    entry: async () => held,
  } as unknown as Log // the three that a submission asks
  await expect(submit(log, chain)).rejects.toMatchObject({ code: 'unavailable' })
  held.entrySignature = Uint8Array.of(0x30, 6, 2, 1, 1, 2, 1, 1)
  expect((await submit(log, chain)).length).toBeGreaterThan(40)
})
