/** What a server notes of what it asked an agent for, where the agent gave no signature. */
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { formatCheckpoint, witnessOrigin } from '#tlog'
import { frozenLine } from './frozen-line.ts'
import { HsmError, type SigningAgent } from './signing.ts'
import { readUseJournal, recordUses, UseJournal } from './use-journal.ts'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-uses-'))
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

const FROZEN_AT_MS = Date.parse('2026-11-21T12:00:00Z')
const LAST = {
  key: 'rekor-v2',
  origin: 'log.example.test',
  size: 7,
  rootHash: new Uint8Array(32).fill(3),
  timestampMs: FROZEN_AT_MS,
  consistencyProof: [],
  witnessed: true,
}

/** An agent whose key is lost: it makes guard and account durable, and signs nothing. */
function lost(frozenAtMs: number | undefined): SigningAgent {
  const { size, rootHash } = LAST
  const agent: Partial<SigningAgent> = {
    treeHead: () => Promise.reject(new HsmError('unavailable', 'key_missing', 'the key is gone')),
    guardedHead: () =>
      frozenAtMs === undefined
        ? Promise.reject(new HsmError('unavailable', 'deadline', 'no answer'))
        : Promise.resolve({ size, rootHash, frozenAtMs }),
  }
  return agent as SigningAgent // all that is asked of it here
}

const digest = (origin: string, extensions: readonly string[]) => {
  const { size, rootHash } = LAST
  return createHash('sha256').update(formatCheckpoint({ origin, size, rootHash, extensions })).digest('hex')
}

const noted = (key: string): string[] => {
  const hex = Buffer.from(readUseJournal(folder).get(key) ?? []).toString('hex')
  return hex.match(/.{64}/g) ?? []
}

test('the last head of a log that its lost key did not sign is known, both lines of it', async () => {
  const agent = recordUses(lost(FROZEN_AT_MS), new UseJournal(folder))
  await expect(agent.treeHead({ ...LAST, freeze: true })).rejects.toMatchObject({ reason: 'key_missing' })
  const line = [frozenLine(FROZEN_AT_MS)]
  expect(noted('rekor-v2')).toContain(digest(LAST.origin, line))
  expect(noted('rekor-v2+witness')).toContain(digest(witnessOrigin(LAST.origin), line))
})

test('a head that was not to be the last excuses no frozen one', async () => {
  const agent = recordUses(lost(FROZEN_AT_MS), new UseJournal(folder))
  await expect(agent.treeHead(LAST)).rejects.toMatchObject({ reason: 'key_missing' })
  expect(noted('rekor-v2')).toContain(digest(LAST.origin, []))
  expect(noted('rekor-v2')).not.toContain(digest(LAST.origin, [frozenLine(FROZEN_AT_MS)]))
})

test('an agent that tells nothing of its guard is no other failure', async () => {
  const agent = recordUses(lost(undefined), new UseJournal(folder))
  await expect(agent.treeHead({ ...LAST, freeze: true })).rejects.toMatchObject({ reason: 'key_missing' })
})
