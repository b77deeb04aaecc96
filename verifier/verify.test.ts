import { describe, expect, test } from 'vitest'
import { type Checkpoint, leafHash, parseCheckpoint, parseNote } from '#tlog'
import { fromBase64 } from './encoding.ts'
import {
  formatTransparencyLogEntry,
  type LogEntry,
  parseRekorV1Entry,
  parseTransparencyLogEntry,
  readTrustedLogs,
  rekorV1,
  rekorV2,
  TileTree,
  verifyEntry,
  verifyGrowth,
  verifySignedCheckpoint,
} from './index.ts'
import { digestOf, TestLog } from '../test/support/rekor-log.ts'

const v1 = new TestLog(1, 300)
const v2 = new TestLog(2, 300)
const logs = { 1: readTrustedLogs(v1.trustedRoot), 2: readTrustedLogs(v2.trustedRoot) }
const flipped = (bytes: Uint8Array, at = 0) => bytes.map((byte, i) => (i === at ? byte ^ 1 : byte))

describe('an entry', () => {
  test.each([0, 1, 127, 255, 256, 298, 299])('verifies at index %d', (index) => {
    expect(verifyEntry(v1.entry(index), logs[1])).toMatchObject({ promised: true })
    expect(verifyEntry(v2.entry(index), logs[2])).toMatchObject({ promised: false })
  })

  test('survives the forms in which it travels', () => {
    const reply: unknown = JSON.parse(v1.entryReply(7) ?? '')
    const { entry, entryId } = parseRekorV1Entry(reply)
    expect(entryId).toBe(v1.entryId(7))
    const saved = parseTransparencyLogEntry(JSON.parse(JSON.stringify(formatTransparencyLogEntry(entry))))
    expect(saved).toEqual(entry)
    expect(() => verifyEntry(saved, logs[1])).not.toThrow()
  })

  const other = new TestLog(1, 300)
  const proof = (change: Partial<LogEntry['inclusionProof']>) => (entry: LogEntry) => ({
    ...entry,
    inclusionProof: { ...entry.inclusionProof, ...change },
  })
  const rows: [string, string, (entry: LogEntry) => LogEntry][] = [
    ['another body', 'bad_proof', (entry) => ({ ...entry, body: flipped(entry.body, 5) })],
    ['another place', 'bad_proof', proof({ index: 8 })],
    ['a place outside the tree', 'bad_proof', proof({ index: 300 })],
    ['a hash too few', 'bad_proof', (entry) => proof({ hashes: entry.inclusionProof.hashes.slice(1) })(entry)],
    [
      'a hash too many',
      'bad_proof',
      (entry) => proof({ hashes: [...entry.inclusionProof.hashes, new Uint8Array(32)] })(entry),
    ],
    [
      'a hash changed',
      'bad_proof',
      (entry) => proof({ hashes: entry.inclusionProof.hashes.map((hash) => flipped(hash)) })(entry),
    ],
    ['a root that is not the checkpoint’s', 'bad_proof', proof({ rootHash: new Uint8Array(32) })],
    ['a size that is not the checkpoint’s', 'bad_proof', proof({ size: 299 })],
    ['an older checkpoint', 'bad_proof', proof({ checkpoint: v1.checkpoint(200) })],
    ['a checkpoint of another key', 'bad_signature', proof({ checkpoint: other.checkpoint() })],
    [
      'a checkpoint whose size was changed',
      'bad_signature',
      (entry) => proof({ checkpoint: entry.inclusionProof.checkpoint.replace('\n300\n', '\n301\n') })(entry),
    ],
    [
      'a checkpoint of another host',
      'unknown_log',
      proof({ checkpoint: v1.checkpoint(300, 'other.example.org - 4711') }),
    ],
    ['a checkpoint that is none', 'malformed', proof({ checkpoint: 'hello' })],
    ['the id of another log', 'unknown_log', (entry) => ({ ...entry, logId: other.entry(0).logId })],
    [
      'a changed promise',
      'bad_promise',
      (entry) => ({ ...entry, promise: flipped(entry.promise ?? new Uint8Array(), 20) }),
    ],
    ['no bytes as promise', 'bad_promise', (entry) => ({ ...entry, promise: new Uint8Array() })],
    [
      'another time than promised',
      'bad_promise',
      (entry) => ({ ...entry, integratedTimeSeconds: entry.integratedTimeSeconds + 1 }),
    ],
    ['another index than promised', 'bad_promise', (entry) => ({ ...entry, logIndex: 9 })],
    [
      'the promise of another entry',
      'bad_promise',
      (entry) => ({ ...entry, promise: v1.entry(8).promise ?? new Uint8Array() }),
    ],
  ]
  test.each(rows)('is refused with %s: %s', (_, code, spoil) => {
    expect(() => verifyEntry(spoil(v1.entry(7)), logs[1])).toThrow(expect.objectContaining({ code }))
  })

  test.each([
    ['ended before', '2026-01-01T00:00:00Z', '2026-02-01T00:00:00Z'],
    ['begins after', '2026-12-01T00:00:00Z', undefined],
  ])('is refused when the window of its log %s its time', (_, start, end) => {
    const [log] = logs[1]
    if (!log) throw new Error('no log')
    const window = { start: new Date(start), ...(end === undefined ? {} : { end: new Date(end) }) }
    expect(() => verifyEntry(v1.entry(7), [{ ...log, window }])).toThrow(
      expect.objectContaining({ code: 'outside_window' }),
    )
  })
})

describe('growth', () => {
  const head = (log: TestLog, size: number): Checkpoint =>
    verifySignedCheckpoint(log.checkpoint(size), readTrustedLogs(log.trustedRoot)).checkpoint
  const forked = new TestLog(1, 300)
  test('is shown by a proof between any two sizes', () => {
    for (const [first, second] of [
      [1, 300],
      [7, 8],
      [255, 256],
      [256, 300],
      [300, 300],
    ] as const) {
      const proof = v1.tree(second).consistencyProof(first, second)
      expect(() => verifyGrowth(head(v1, first), head(v1, second), proof)).not.toThrow()
    }
  })
  test.each([
    ['a smaller tree', 'rollback', () => verifyGrowth(head(v1, 300), head(v1, 299), [])],
    [
      'another root of the same size',
      'fork',
      () => verifyGrowth({ ...head(v1, 300), rootHash: new Uint8Array(32) }, head(v1, 300), []),
    ],
    ['another origin', 'fork', () => verifyGrowth({ ...head(v1, 200), origin: 'x' }, head(v1, 300), [])],
    [
      'a proof of a changed entry',
      'bad_proof',
      () => {
        const changed = new TestLog(1, 0)
        changed.leaves.push(...forked.leaves.map((leaf, at) => (at === 3 ? flipped(leaf, 4) : leaf)))
        verifyGrowth(head(v1, 200), head(changed, 300), changed.tree().consistencyProof(200, 300))
      },
    ],
    ['no proof', 'bad_proof', () => verifyGrowth(head(v1, 200), head(v1, 300), [])],
  ] as const)('is refused for %s: %s', (_, code, verify) => expect(verify).toThrow(expect.objectContaining({ code })))
})

describe('a remote log', () => {
  const open = {
    1: (log: TestLog) => rekorV1({ url: log.url, fetch: log.fetch, logs: readTrustedLogs(log.trustedRoot) }),
    2: (log: TestLog) => rekorV2({ url: log.url, fetch: log.fetch, logs: readTrustedLogs(log.trustedRoot) }),
  }
  test.each([1, 2] as const)('v%d gives entries by index, leaf and digest that verify', async (version) => {
    const log = version === 1 ? v1 : v2
    const remote = open[version](log)
    const byIndex = await remote.entryAt(258)
    const byLeaf = await remote.entryByLeaf(Buffer.from(leafHash(log.leaves[258] ?? new Uint8Array())).toString('hex'))
    const [byDigest] = await remote.entriesByDigest('sha256', digestOf(258))
    for (const entry of [byIndex, byLeaf, byDigest]) {
      expect(entry?.body).toEqual(log.leaves[258])
      if (entry) expect(verifyEntry(entry, logs[version]).checkpoint.size).toBe(300)
    }
    expect(await remote.entriesByDigest('sha256', new Uint8Array(32).fill(9))).toEqual([])
  })

  test.each([1, 2] as const)('v%d gives consistency proofs and bundles', async (version) => {
    const remote = open[version](version === 1 ? v1 : v2)
    const log = version === 1 ? v1 : v2
    const older = parseCheckpoint(parseNote(log.checkpoint(100)).text)
    const newer = parseCheckpoint(parseNote(await remote.checkpoint()).text)
    expect(() => verifyGrowth(older, newer, [])).toThrow()
    verifyGrowth(older, newer, await remote.consistencyProof(100, 300))
    expect([...(await remote.bundle(0, 300)), ...(await remote.bundle(1, 300))]).toEqual(log.leaves)
  })

  test('says what is wrong when the log lies', async () => {
    const lie = async (path: string, reply: string | Uint8Array, version: 1 | 2 = 1) => {
      const log = new TestLog(version, 300)
      log.lies.set(path, reply)
      return open[version](log)
    }
    const wrong = v1.entryReply(6) ?? ''
    await expect((await lie('/api/v1/log/entries?logIndex=5', wrong)).entryAt(5)).rejects.toMatchObject({
      code: 'wrong_entry',
    })
    await expect(
      (await lie(`/api/v1/log/entries/${v1.entryId(5)}`, wrong)).entryByLeaf(v1.entryId(5)),
    ).rejects.toMatchObject({ code: 'wrong_entry' })
    await expect((await lie('/api/v1/log', '<html>')).checkpoint()).rejects.toMatchObject({ code: 'malformed' })
    await expect((await lie('/api/v1/log', '{}')).checkpoint()).rejects.toMatchObject({ code: 'malformed' })
    await expect((await lie('/tile/entries/000', new Uint8Array(9), 2)).bundle(0, 300)).rejects.toMatchObject({
      code: 'malformed',
    })
    await expect((await lie('/tile/0/000', new Uint8Array(9000), 2)).entryAt(5)).rejects.toMatchObject({
      code: 'unreachable',
    })
    await expect((await lie('/tile/0/000', new Uint8Array(32), 2)).entryAt(5)).rejects.toMatchObject({
      code: 'malformed',
    })
    await expect(open[1](v1).entryAt(300)).rejects.toMatchObject({ code: 'not_found' })
    await expect(open[2](v2).entryAt(300)).rejects.toMatchObject({ code: 'not_found' })
  })

  test('gives up on a log that does not answer, and on one that sends it elsewhere', async () => {
    const hang = ((_, init) =>
      new Promise((_resolve, reject) => {
        init?.signal?.addEventListener('abort', () => reject(new Error('timed out')))
      })) as typeof fetch
    const remote = rekorV2({ url: 'http://log.test', logs: [], fetch: hang, timeoutMs: 20 })
    await expect(remote.checkpoint()).rejects.toMatchObject({ code: 'unreachable' })
  })
})

describe('proofs from tiles', () => {
  test('equal those of the tree for every index and size', async () => {
    for (const size of [1, 2, 3, 255, 256, 257, 300]) {
      const tree = v2.tree(size)
      const tiles = new TileTree(size, (path) => {
        const [, level, n = '', width] = /^tile\/(\d+)\/(\d+)(?:\.p\/(\d+))?$/.exec(path) ?? []
        return Promise.resolve(tree.tile(Number(level), Number(n), Number(width ?? 256)) ?? new Uint8Array())
      })
      expect(await tiles.root()).toEqual(tree.root())
      for (let index = 0; index < size; index += 7) {
        expect(await tiles.inclusionProof(index)).toEqual(tree.inclusionProof(index, size))
        expect(await tiles.consistencyProof(index + 1)).toEqual(tree.consistencyProof(index + 1, size))
      }
    }
  })
})

describe('a trusted root', () => {
  const root = (change: (text: string) => string) => () =>
    readTrustedLogs(JSON.parse(change(JSON.stringify(v1.trustedRoot))))
  test.each([
    ['without tlogs', (json: string) => json.replace('tlogs', 'logs')],
    ['with a log id that is not its key’s', (json: string) => json.replace(/"keyId":"./, '"keyId":"_')],
    [
      'with another log id',
      (json: string) => json.replace(/"keyId":"[^"]+"/, `"keyId":"${Buffer.alloc(32).toString('base64')}"`),
    ],
    ['with a base URL that is none', (json: string) => json.replace('http://rekor.example.org', 'rekor')],
    ['with a start that is none', (json: string) => json.replace('2026-01-01T00:00:00Z', 'yesterday')],
    ['without a start', (json: string) => json.replace('"start"', '"begin"')],
  ])('%s is malformed', (_, change) => {
    expect(root(change)).toThrow(expect.objectContaining({ code: 'malformed' }))
  })
  test('keeps its key', () =>
    expect(fromBase64(Buffer.from(v1.spkiDer).toString('base64'), 'key')).toEqual(logs[1][0]?.spkiDer))
})
