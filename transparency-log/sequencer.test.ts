import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { HsmError } from '#hsm'
import { verifyCheckpoint } from '#tlog'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Log } from './log.ts'
import { type OpenLogOptions, openLog } from './open.ts'
import { type AgentDouble, makeAgentDouble } from './agent-double.fixture.ts'
import { checkLog } from './check-log.fixture.ts'
import { textEntry } from './entries.fixture.ts'

const ORIGIN = 'rekor-v1.chancery.internal - 1193050959916656506'
const away = () => new HsmError('unavailable', 'token_gone', 'the token does not answer')

let folder: string
let agent: AgentDouble
let now: number
const opened: Log[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-log-'))
  agent = makeAgentDouble()
  now = 1_790_000_000_000
})

afterEach(async () => {
  await Promise.all(opened.splice(0).map((log) => log.close()))
  rmSync(folder, { recursive: true })
})

async function open(options: Partial<OpenLogOptions> = {}): Promise<Log> {
  const log = await openLog({
    name: 'test',
    kind: 'rekor-v1',
    origin: ORIGIN,
    databasePath: join(folder, 'log.db'),
    agent,
    key: 'log',
    now: () => now,
    ...options,
  })
  opened.push(log)
  return log
}

const addAll = (log: Log, texts: readonly string[]) => Promise.all(texts.map((text) => log.add(textEntry(text))))
const numbered = (count: number, prefix = 'entry') => Array.from({ length: count }, (_, i) => `${prefix} ${i}`)

describe('adding', () => {
  test('a new log has a signed head of size 0', async () => {
    const log = await open()
    expect(log.head()).toMatchObject({ size: 0, timestampMs: now })
    verifyCheckpoint(log.head().note, { origin: ORIGIN, spkiDer: log.spkiDer })
    await checkLog(log)
  })

  test('an added entry is in the head that is shown when add resolves, with its proof', async () => {
    const log = await open()
    const added = await log.add(textEntry('one'))
    expect(added).toMatchObject({ index: 0, timestampMs: now, duplicate: false, delivered: false })
    const proven = await log.prove(0)
    expect(proven?.head.size).toBe(1)
    expect(Buffer.from(proven?.entry.leaf ?? []).toString()).toBe('one')
    await checkLog(log)
  })

  test('entries that arrive while a batch is under way share the next one', async () => {
    const log = await open()
    const first = log.add(textEntry('first'))
    await new Promise((resolve) => setImmediate(resolve))
    const rest = addAll(log, numbered(300))
    await Promise.all([first, rest])
    // Size 0, the first alone, 256, the remaining 44.
    expect(agent.heads.map((head) => head.size)).toEqual([0, 1, 257, 301])
    await checkLog(log)
  })

  test('equal entries under way at once get one place, and only the first is not a duplicate', async () => {
    const log = await open()
    const answers = await Promise.all([1, 2, 3].map(() => log.add(textEntry('same'))))
    expect(answers.map(({ index, duplicate }) => [index, duplicate])).toEqual([
      [0, false],
      [0, true],
      [0, true],
    ])
    expect((await checkLog(log)).length).toBe(1)
  })

  test('a stored entry is a duplicate, with the first time and leaf hash, also after reopening', async () => {
    const log = await open()
    const first = await log.add(textEntry('same'))
    now += 60_000
    expect(await log.add(textEntry('same'))).toEqual({ ...first, duplicate: true })
    await log.close()
    expect(await (await open()).add(textEntry('same'))).toEqual({ ...first, duplicate: true })
  })

  test('a duplicate says whether a reply was delivered, also before the mark is stored and after reopening', async () => {
    const log = await open()
    await addAll(log, ['told', 'not told'])
    log.markDelivered(0)
    expect((await log.add(textEntry('told'))).delivered).toBe(true)
    expect((await log.add(textEntry('not told'))).delivered).toBe(false)
    await log.close()
    const again = await open()
    expect((await again.add(textEntry('told'))).delivered).toBe(true)
    expect((await again.add(textEntry('not told'))).delivered).toBe(false)
  })

  test('heads never step back when the clock does; entries state its new time, or the old one while it wavers', async () => {
    const log = await open()
    const before = await log.add(textEntry('one'))
    now -= 900
    expect((await log.add(textEntry('wavering'))).timestampMs).toBe(before.timestampMs)
    now -= 3_600_000
    expect((await log.add(textEntry('two'))).timestampMs).toBe(now)
    expect(log.head().timestampMs).toBe(before.timestampMs)
    await log.close()
    const again = await open()
    expect((await again.add(textEntry('three'))).timestampMs).toBe(now)
    expect(again.head().timestampMs).toBe(before.timestampMs)
  })

  test('entry signatures are made side by side within the bound, and stored', async () => {
    const log = await open({
      limits: { signConcurrency: 8 },
      signEntry: (content, index, timestampMs) =>
        agent.set({ key: 'log', body: content.leaf, integratedTimeSeconds: timestampMs / 1000, logIndex: index }),
    })
    await addAll(log, numbered(40))
    expect(agent.mostInFlight).toBe(8)
    const entries = await log.entries(0, 100)
    expect(entries.length).toBe(40)
    expect(entries.every((entry) => entry.entrySignature.length > 60)).toBe(true)
  })
})

describe('refusing', () => {
  test('callers over the bound are refused pool_full, the others are answered', async () => {
    const log = await open({ limits: { poolSize: 3 } })
    const outcomes = await Promise.allSettled(numbered(5).map((text) => log.add(textEntry(text))))
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => reason.code)
    expect(refused).toEqual(['pool_full', 'pool_full'])
    expect((await checkLog(log)).length).toBe(3)
  })

  test.each([
    ['tile data over 65 535 bytes', { tileData: new Uint8Array(65_536), searchKeys: [] }],
    ['over 128 search keys', { tileData: new Uint8Array(1), searchKeys: numbered(129) }],
  ])('an entry with %s is invalid and takes no index', async (_, content) => {
    const log = await open()
    const bad = log.add({ dedupeKey: new Uint8Array(32), at: () => ({ leaf: new Uint8Array(1), ...content }) })
    const good = log.add(textEntry('good'))
    await expect(bad).rejects.toMatchObject({ code: 'invalid_entry' })
    expect((await good).index).toBe(0)
  })

  test('an entry whose making throws is invalid and harms no other', async () => {
    const log = await open()
    const bad = log.add({
      dedupeKey: new Uint8Array(32),
      at: () => {
        throw new TypeError('broken')
      },
    })
    await expect(bad).rejects.toMatchObject({ code: 'invalid_entry' })
    expect((await log.add(textEntry('good'))).index).toBe(0)
  })

  test('a dedupe key that is not a hash, a frozen log, a closed log', async () => {
    const log = await open()
    await expect(log.add({ ...textEntry('x'), dedupeKey: new Uint8Array(31) })).rejects.toMatchObject({
      code: 'invalid_entry',
    })
    await log.close()
    await expect(log.add(textEntry('x'))).rejects.toMatchObject({ code: 'unavailable' })
    const frozen = await open({ frozen: true })
    await expect(frozen.add(textEntry('x'))).rejects.toMatchObject({ code: 'frozen' })
  })

  test('a log that is held: what was accepted is sealed, nothing more is taken until it is let go', async () => {
    const log = await open()
    const accepted = addAll(log, numbered(5))
    const release = await log.hold()
    expect(log.head().size).toBe(5)
    await accepted
    await expect(log.add(textEntry('x'))).rejects.toMatchObject({ code: 'frozen' })
    release()
    expect((await log.add(textEntry('x'))).index).toBe(5)
    await log.hold()
    await log.freeze()
    expect(log.head()).toMatchObject({ size: 6, frozenAtMs: expect.any(Number) })
    await log.close()
    // Of this process alone: a crash lets go of it.
    const again = await open()
    await again.hold()
    expect(again.head().size).toBe(6)
  })

  test('a log whose key has left the agent: read as before, and the agent is asked for nothing', async () => {
    const log = await open()
    await addAll(log, numbered(3))
    // The line for witnesses is not stored.
    const { witnessNote: _, ...head } = log.head()
    log.retire()
    await expect(log.add(textEntry('x'))).rejects.toMatchObject({ code: 'frozen' })
    expect([log.head(), log.fault()]).toMatchObject([head, undefined])
    await log.close()
    const { spkiDer } = await agent.key('log')
    const nobody = new Proxy(agent, {
      get: (_, name) => {
        throw new Error(`the agent is asked for ${String(name)}`)
      },
    })
    const retired = await open({ agent: nobody, retiredSpkiDer: spkiDer })
    expect([retired.head(), retired.fault(), retired.spkiDer]).toEqual([head, undefined, spkiDer])
    expect((await retired.prove(1))?.head).toEqual(head)
    await expect(retired.add(textEntry('x'))).rejects.toMatchObject({ code: 'frozen' })
    await expect(retired.freeze()).rejects.toMatchObject({ code: 'unavailable' })
    await retired.close()
    await expect(open({ agent: nobody, retiredSpkiDer: new Uint8Array(91) })).rejects.toMatchObject({
      code: 'other_log',
    })
    const empty = { agent: nobody, retiredSpkiDer: spkiDer, databasePath: join(folder, 'empty.db') }
    await expect(open(empty)).rejects.toMatchObject({ code: 'unavailable' })
  })

  test('a second log on the same file is refused, and the first goes on', async () => {
    const log = await open()
    await expect(open()).rejects.toMatchObject({ code: 'in_use' })
    await log.add(textEntry('still here'))
  }, 20_000)

  test.each([
    ['kind', { kind: 'ct' as const }],
    ['origin', { origin: 'other.example' }],
  ])('a database of another %s is refused', async (_, other) => {
    await (await open()).close()
    await expect(open(other)).rejects.toMatchObject({ code: 'other_log' })
  })

  test('a database of another key is refused', async () => {
    await (await open()).close()
    agent = makeAgentDouble()
    await expect(open()).rejects.toMatchObject({ code: 'other_log' })
  })
})

describe('when the HSM is away', () => {
  test('callers are refused at their deadline, the batch is sealed by itself when it is back', async () => {
    const log = await open({ limits: { addDeadlineMs: 100 } })
    await log.add(textEntry('before'))
    agent.fault = away()
    const first = log.add(textEntry('during'))
    await expect(first).rejects.toMatchObject({ code: 'unavailable' })
    expect(log.head().size).toBe(1)
    expect(await log.entry(1)).toBeUndefined()
    expect(await log.lookup('text:during', { limit: 10 })).toEqual([])
    expect(log.fault()).toMatchObject({ code: 'unavailable' })
    agent.fault = undefined
    await expect.poll(() => log.head().size, { timeout: 10_000 }).toBe(2)
    expect(log.fault()).toBeUndefined()
    expect(await log.add(textEntry('during'))).toMatchObject({ index: 1, duplicate: true, delivered: false })
    await checkLog(log)
  })

  test('an entry that nobody waits for any more, and that was not written, is forgotten', async () => {
    const log = await open({ limits: { addDeadlineMs: 100, batchSize: 1 } })
    agent.fault = away()
    const waiting = addAll(log, ['committed', 'queued'])
    await expect(waiting).rejects.toMatchObject({ code: 'unavailable' })
    await new Promise((resolve) => setTimeout(resolve, 50))
    agent.fault = undefined
    await expect.poll(() => log.head().size, { timeout: 10_000 }).toBe(1)
    expect((await checkLog(log)).map(String)).toEqual(['committed'])
  })

  test('a failed entry signature keeps the whole batch from readers', async () => {
    const log = await open({
      limits: { addDeadlineMs: 100 },
      signEntry: (content) => agent.set({ key: 'log', body: content.leaf, integratedTimeSeconds: 0, logIndex: 0 }),
    })
    agent.entryFault = new HsmError('busy', 'queue_full', 'too much in flight')
    await expect(addAll(log, ['a', 'b'])).rejects.toMatchObject({ code: 'unavailable' })
    expect(log.head().size).toBe(0)
    agent.entryFault = undefined
    await expect.poll(() => log.head().size, { timeout: 10_000 }).toBe(2)
    expect((await log.entry(1))?.entrySignature.length).toBeGreaterThan(60)
    await checkLog(log)
  })

  test('an existing log opens readable and heals; a new one cannot open', async () => {
    const log = await open()
    await log.add(textEntry('one'))
    await log.close()
    agent.fault = away()
    const again = await open()
    expect(again.head().size).toBe(1)
    expect(again.fault()).toMatchObject({ code: 'unavailable' })
    agent.fault = undefined
    expect((await again.add(textEntry('two'))).index).toBe(1)
    await checkLog(again)
    agent.fault = away()
    await expect(open({ databasePath: join(folder, 'new.db') })).rejects.toMatchObject({ code: 'unavailable' })
  })
})

describe('when the guard refuses', () => {
  test.each(['latched', 'refused'] as const)('%s as fork_refused makes the log read-only', async (code) => {
    const log = await open()
    await log.add(textEntry('one'))
    agent.fault = new HsmError(code, 'fork_refused', 'two roots')
    await expect(log.add(textEntry('two'))).rejects.toMatchObject({ code: 'fork_refused' })
    agent.fault = undefined
    await expect(log.add(textEntry('three'))).rejects.toMatchObject({ code: 'fork_refused' })
    expect(log.fault()?.message).toContain('docs/runbook.md')
    expect(log.head().size).toBe(1)
    await checkLog(log)
  })

  test('a latched token is no fork: the log heals when an operator has lifted the latch', async () => {
    const log = await open({ limits: { addDeadlineMs: 100 } })
    agent.fault = new HsmError('latched', 'token_latched', 'the PIN was refused')
    await expect(log.add(textEntry('one'))).rejects.toMatchObject({ code: 'unavailable' })
    agent.fault = undefined
    await expect.poll(() => log.head().size, { timeout: 10_000 }).toBe(1)
    expect(log.fault()).toBeUndefined()
  })

  test.each([
    ['ahead of the database', { size: 9, rootHash: new Uint8Array(32) }, 'older than the log'],
    ['on another root', { size: 1, rootHash: new Uint8Array(32).fill(7) }, 'signed root 0707'],
  ])('a guard %s leaves the log readable and unwritable', async (_, guard, message) => {
    const log = await open()
    await addAll(log, ['one', 'two'])
    await log.close()
    agent.moveGuard(ORIGIN, guard)
    const again = await open()
    expect(again.fault()).toMatchObject({ code: 'fork_refused', message: expect.stringContaining(message) })
    await expect(again.add(textEntry('three'))).rejects.toMatchObject({ code: 'fork_refused' })
    expect((await checkLog(again)).length).toBe(2)
  })

  test('an empty database under a guard that remembers a log cannot open', async () => {
    agent.moveGuard(ORIGIN, { size: 3, rootHash: new Uint8Array(32) })
    await expect(open()).rejects.toMatchObject({ code: 'fork_refused' })
  })
})

test('an unchanged head is signed again once it is old, with a new time', async () => {
  const log = await open({ limits: { refreshMs: 20 } })
  await log.add(textEntry('one'))
  const before = log.head()
  now += 1_000
  await expect.poll(() => log.head().timestampMs, { timeout: 10_000 }).toBe(before.timestampMs + 1_000)
  expect(log.head().rootHash).toEqual(before.rootHash)
})

test('reads refuse what is outside the sealed log', async () => {
  const log = await open()
  await addAll(log, ['one', 'two', 'three'])
  await expect(log.inclusionProof(3, 3)).rejects.toMatchObject({ code: 'out_of_range' })
  await expect(log.inclusionProof(0, 4)).rejects.toMatchObject({ code: 'out_of_range' })
  await expect(log.inclusionProof(-1, 3)).rejects.toMatchObject({ code: 'out_of_range' })
  await expect(log.consistencyProof(2, 4)).rejects.toMatchObject({ code: 'out_of_range' })
  await expect(log.consistencyProof(3, 2)).rejects.toMatchObject({ code: 'out_of_range' })
  expect(await log.tile(0, 0, 4)).toBeUndefined()
  expect(await log.tile(1, 0, 1)).toBeUndefined()
  expect(await log.entryBundle(0, 4)).toBeUndefined()
  expect(await log.entryBundle(1, 1)).toBeUndefined()
  expect(await log.entry(0.5)).toBeUndefined()
  expect(await log.prove(3)).toBeUndefined()
  expect(await log.entries(3, 10)).toEqual([])
  expect(await log.lookup('text:one', { limit: 10, beforeIndex: 0 })).toEqual([])
})
