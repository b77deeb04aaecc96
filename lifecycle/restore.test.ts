import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { AgentStatus } from '#hsm'
import { entryBundlePath, leafHash } from '#tlog'
import { factsOfLeaf, type Log, openLog, type PendingEntry } from '#transparency-log'
import { type AgentDouble, makeAgentDouble } from '../test/support/logs.ts'
import { backUp } from './backup.ts'
import { readManifest } from './backup-manifest.ts'
import { restore, type RestoreOptions, verifyBackup } from './restore.ts'
import { SEGMENT_LINES } from './segments.ts'

const ORIGIN = 'rekor-v2.example.org'
const SPKI = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ type: 'spki', format: 'der' })
const { searchKeys: KEYS } = factsOfLeaf('rekor-v2', leaf('00'.repeat(32)))

let scratch: string
let dataDir: string
let agent: AgentDouble
let log: Log | undefined

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'chancery-restore-'))
  dataDir = join(scratch, 'data')
  mkdirSync(join(dataDir, 'logs'), { recursive: true })
  agent = makeAgentDouble()
})

afterEach(async () => {
  await log?.close()
  log = undefined
  rmSync(scratch, { recursive: true })
})

describe('a backup', () => {
  test('brings a log back with everything that is kept of its entries', async () => {
    const running = await open()
    const entries = await addEntries(running, 300)
    running.markDelivered(7)
    await takeBackup('first')
    await lose()
    expect(await restoreFrom('first')).toMatchObject({ logs: [{ size: 300, guardedSize: 300, state: 'whole' }] })
    const restored = await open()
    expect(restored.head()).toMatchObject({ size: 300 })
    for (const index of [0, 7, 255, 256, 299]) {
      const { digest, entry } = entries[index] ?? missing()
      expect(await restored.lookup(`hash:sha256:${digest}`, { limit: 5 })).toEqual([index])
      expect(await restored.add(entry)).toMatchObject({ index, duplicate: true })
    }
    expect((await restored.lookup(KEYS.at(-1) ?? '', { limit: 1000 })).length).toBe(300)
    await addEntries(restored, 3)
    expect(restored.head()).toMatchObject({ size: 303 })
  })

  test('takes over full files of an earlier one, and writes anew what is damaged there', async () => {
    const running = await open({ limits: { poolSize: 20_000, batchSize: 4096, addDeadlineMs: 60_000 } })
    await addEntries(running, SEGMENT_LINES + 10)
    await takeBackup('first')
    await addEntries(running, 5)
    expect(await takeBackup('second', 'first')).toMatchObject({ reusedFiles: 1 })
    const full = `logs/v2/${'0'.repeat(12)}-${SEGMENT_LINES}.jsonl.zst`
    expect(statSync(join(scratch, 'second', full)).nlink).toBe(2)
    await verifyBackup(join(scratch, 'second'))

    const bytes = readFileSync(join(scratch, 'first', full))
    cpSync(join(scratch, 'first'), join(scratch, 'rotten'), { recursive: true })
    bytes[1000] = (bytes[1000] ?? 0) ^ 1
    writeFileSync(join(scratch, 'rotten', full), bytes)
    expect(await takeBackup('third', 'rotten')).toMatchObject({ reusedFiles: 0 })
    await verifyBackup(join(scratch, 'third'))
  })

  test('takes nothing over from a backup of another history', async () => {
    const running = await open()
    await addEntries(running, 10)
    await takeBackup('first')
    const file = join(scratch, 'first', 'manifest.json')
    const manifest = JSON.parse(readFileSync(file, 'utf8'))
    manifest.logs[0].rootHash = '1'.repeat(64)
    writeFileSync(file, JSON.stringify(manifest))
    await addEntries(running, 5)
    expect(await takeBackup('second', 'first')).toMatchObject({ reusedFiles: 0 })
    await verifyBackup(join(scratch, 'second'))
  })

  test('whose file was changed in one byte is refused', async () => {
    const running = await open()
    await addEntries(running, 10)
    writeFileSync(join(dataDir, 'chancery.yaml'), 'profile: development\n')
    await takeBackup('first', undefined, undefined, ['chancery.yaml'])
    await verifyBackup(join(scratch, 'first'))
    writeFileSync(join(scratch, 'first/data/chancery.yaml'), 'profile: development!')
    await expect(verifyBackup(join(scratch, 'first'))).rejects.toMatchObject({ code: 'backup_damaged' })
    await expect(restoreFrom('first')).rejects.toMatchObject({ code: 'backup_damaged' })
  })

  test('that is stopped in the middle is none', async () => {
    const running = await open()
    await addEntries(running, 10)
    const stop = new AbortController()
    await expect(takeBackup('stopped', undefined, stop)).rejects.toThrow()
    expect(readdirSync(join(scratch, 'stopped')).length).toBeGreaterThan(0)
    await expect(readManifest(join(scratch, 'stopped'))).rejects.toMatchObject({ code: 'backup_incomplete' })
  })
})

describe('a restore', () => {
  test('of a backup below the guard is refused and changes nothing', async () => {
    await backedUpThen(20)
    const before = filesOf(dataDir)
    await expect(restoreFrom('first')).rejects.toMatchObject({ code: 'restore_behind_guard' })
    expect(filesOf(dataDir)).toEqual(before)
  })

  test('rolls forward from tiles to exactly the guarded head', async () => {
    const entries = await backedUpThen(300)
    const restored = await restoreFrom('first', { tiles: new Map([['v2', join(scratch, 'tiles')]]) })
    expect(restored).toMatchObject({ logs: [{ size: 310, backupSize: 10, guardedSize: 310, state: 'whole' }] })
    const running = await open()
    expect(running.fault()).toBe(undefined)
    const { digest, entry } = entries.at(-1) ?? missing()
    expect(await running.lookup(`hash:sha256:${digest}`, { limit: 5 })).toEqual([309])
    expect(await running.add(entry)).toMatchObject({ index: 309, duplicate: true })
    await addEntries(running, 1)
  })

  test.each<[string, (tiles: string) => void, string]>([
    ['a tile is missing', (tiles) => rmSync(join(tiles, 'tile/entries/000')), 'restore_behind_guard'],
    ['a tile is cut', (tiles) => cut(join(tiles, 'tile/entries/001.p/54')), 'restore_behind_guard'],
    ['an entry is another', (tiles) => exchangeEntry(join(tiles, 'tile/entries/001.p/54')), 'restore_other_history'],
  ])('refuses tiles of which %s', async (_, damage, code) => {
    await backedUpThen(300)
    damage(join(scratch, 'tiles'))
    const before = filesOf(dataDir)
    await expect(restoreFrom('first', { tiles: new Map([['v2', join(scratch, 'tiles')]]) })).rejects.toMatchObject({
      code,
    })
    expect(filesOf(dataDir)).toEqual(before)
  })

  test('refuses what the guard knows otherwise', async () => {
    await backedUpThen(0)
    agent.moveGuard(ORIGIN, { size: 10, rootHash: randomBytes(32) })
    await expect(restoreFrom('first')).rejects.toMatchObject({ code: 'restore_other_history' })
    agent.moveGuard(ORIGIN, { size: 4, rootHash: randomBytes(32) })
    await expect(restoreFrom('first')).rejects.toMatchObject({ code: 'restore_other_history' })
    agent.moveGuard(ORIGIN, { size: 0, rootHash: createHash('sha256').digest() })
    await expect(restoreFrom('first')).rejects.toMatchObject({ code: 'restore_without_guard' })
    agent = makeAgentDouble()
    await expect(restoreFrom('first')).rejects.toMatchObject({ code: 'restore_other_key' })
  })

  test('puts a log below its guard in place only when it is told to; it can then be read alone', async () => {
    await backedUpThen(5)
    const told = await restoreFrom('first', { behind: new Set(['v2']) })
    expect(told).toMatchObject({ logs: [{ size: 10, guardedSize: 15, state: 'behind' }] })
    const running = await open()
    expect(running.fault()).toMatchObject({ code: 'fork_refused' })
    expect(await running.entry(9)).toBeDefined()
  })

  test('moves old files aside', async () => {
    await backedUpThen(0)
    writeFileSync(join(dataDir, 'logs/v2.db'), 'damaged')
    writeFileSync(join(dataDir, 'logs/v2.db-wal'), 'of the damaged one')
    const { movedAside } = await restoreFrom('first')
    expect(readFileSync(join(movedAside ?? '', 'logs/v2.db'), 'utf8')).toBe('damaged')
    expect(existsSync(join(movedAside ?? '', 'logs/v2.db-wal'))).toBe(true)
    expect((await open()).head()).toMatchObject({ size: 10 })
  })
})

async function open(options: Partial<Parameters<typeof openLog>[0]> = {}): Promise<Log> {
  await log?.close()
  log = await openLog({
    name: 'v2',
    kind: 'rekor-v2',
    origin: ORIGIN,
    databasePath: join(dataDir, 'logs/v2.db'),
    agent,
    key: 'log',
    ...options,
  })
  return log
}

/** Ten entries backed up as `first`, some more signed and published in `tiles`, then the database lost. */
async function backedUpThen(more: number): Promise<{ digest: string; entry: PendingEntry }[]> {
  const running = await open()
  await addEntries(running, 10)
  await takeBackup('first')
  const entries = await addEntries(running, more)
  const { size } = running.head()
  for (let n = 0; n * 256 < size; n += 1) {
    const width = Math.min(256, size - n * 256)
    const path = join(scratch, 'tiles', entryBundlePath(n, width))
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, (await running.entryBundle(n, width)) ?? '')
  }
  await lose()
  return entries
}

async function addEntries(to: Log, count: number): Promise<{ digest: string; entry: PendingEntry }[]> {
  const entries = Array.from({ length: count }, () => {
    const digest = randomBytes(32).toString('hex')
    return { digest, entry: entryOf(digest) }
  })
  await Promise.all(entries.map(({ entry }) => to.add(entry)))
  // Placed in the order of adding: they joined in one turn.
  return entries
}

function entryOf(digest: string): PendingEntry {
  const bytes = leaf(digest)
  const content = { leaf: bytes, tileData: bytes, searchKeys: [`hash:sha256:${digest}`, ...KEYS.slice(1)] }
  return { dedupeKey: leafHash(bytes), at: () => content }
}

function leaf(digest: string): Uint8Array {
  const verifier = { keyDetails: 'PKIX_ECDSA_P256_SHA_256', publicKey: { rawBytes: SPKI.toString('base64') } }
  const data = { algorithm: 'SHA2_256', digest: Buffer.from(digest, 'hex').toString('base64') }
  const spec = { hashedRekordV002: { data, signature: { content: 'AAAA', verifier } } }
  return new Uint8Array(Buffer.from(JSON.stringify({ apiVersion: '0.0.2', kind: 'hashedrekord', spec })))
}

async function takeBackup(name: string, since?: string, stop?: AbortController, files: readonly string[] = []) {
  const status = { ready: true, reason: '', tokens: [], keys: [], guards: [] } as unknown as AgentStatus
  const running = log ?? missing()
  return await backUp(
    {
      program: '0',
      profile: 'development',
      domain: 'example.org',
      dataDir,
      files,
      logs: [{ name: 'v2', kind: 'rekor-v2', database: 'logs/v2.db', log: running }],
      agent: { status: async () => status, key: (key) => agent.key(key), account: (asked) => agent.account(asked) },
      notBackedUp: [],
    },
    {
      target: join(scratch, name),
      ...(since === undefined ? {} : { since: join(scratch, since) }),
      ...(stop && { signal: stop.signal, onStep: () => stop.abort() }),
    },
  )
}

async function lose(): Promise<void> {
  await log?.close()
  log = undefined
  rmSync(join(dataDir, 'logs'), { recursive: true })
  mkdirSync(join(dataDir, 'logs'))
}

async function restoreFrom(name: string, options: Partial<RestoreOptions> = {}) {
  return await restore({
    backup: join(scratch, name),
    dataDir,
    keys: new Map([['v2', 'log']]),
    openAgent: async () => agent,
    tiles: new Map(),
    behind: new Set(),
    withoutGuard: new Set(),
    dryRun: false,
    now: new Date(),
    ...options,
  })
}

function cut(file: string): void {
  writeFileSync(file, readFileSync(file).subarray(0, 700))
}

/** Another digest of the same length, in an entry that is one of the log's kind. */
function exchangeEntry(file: string): void {
  const text = readFileSync(file, 'latin1')
  writeFileSync(file, text.replace(/"digest":"..../, '"digest":"AAAA'), 'latin1')
}

function filesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true }).map(String).toSorted()
}

function missing(): never {
  throw new Error('missing')
}
