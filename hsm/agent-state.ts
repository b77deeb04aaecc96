/**
 * What the agent must not forget: guards, latches, clocks, TUF versions, counters and the account of every use of a key.
 * One SQLite file under the exclusive lock of one process. Reads come from memory, which is filled when the state is
 * opened; writes go through `transaction`, are durable when it returns (`synchronous=FULL`), and are all undone, in memory
 * too, if it throws.
 *
 * A thief of this file who can write it can make the agent forget a guard or a latch; the hash chain then shows a cut
 * account only to those who kept a later row. It holds no secrets.
 */
import { hash } from 'node:crypto'
import { chmodSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { DatabaseFiles } from './database-files.ts'
import type { GuardedHead, TufRole } from './signing.ts'
import { foreignPlace, lastingHolder, noteHolder, takePlace } from './state-place.ts'
import { SyncedWrites, SyncError } from './synced-writes.ts'

/**
 * From nothing to the newest schema: entry n leads from version n to n+1, and a file of any age gets those that it has
 * not seen, in one transaction. A published entry is never edited; a change is a new entry at the end.
 */
const MIGRATIONS: readonly string[] = [
  `
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE guard (
  origin TEXT PRIMARY KEY, key_id BLOB NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, timestamp_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE latch (name TEXT PRIMARY KEY, reason TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE clock (name TEXT PRIMARY KEY, last_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tuf (
  name TEXT PRIMARY KEY, version INTEGER NOT NULL, digest BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE quota (name TEXT PRIMARY KEY, minute INTEGER NOT NULL, used INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE authority (key_id BLOB PRIMARY KEY, subject BLOB NOT NULL, ski BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE counter (key TEXT PRIMARY KEY, uses INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE account (
  sequence INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, key TEXT NOT NULL, act TEXT NOT NULL, count INTEGER NOT NULL,
  digest BLOB NOT NULL, hash BLOB NOT NULL
) STRICT;
`,
  `
CREATE TABLE raised_cap (
  key TEXT PRIMARY KEY, per_minute INTEGER NOT NULL, until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`,
  `CREATE TABLE frozen (origin TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;`,
  // Of lines that stand for more than one use, each digest, joined: the line's own digest is over them.
  `CREATE TABLE use_digests (sequence INTEGER PRIMARY KEY, digests BLOB NOT NULL) STRICT;`,
]

const SCHEMA_VERSION = MIGRATIONS.length

/**
 * The state cannot be opened: held by another agent, written by a newer one, damaged, or a copy. `state_replaced` ends the
 * use of an open one: its files were exchanged or written by somebody else.
 */
export class AgentStateError extends Error {
  readonly code: 'locked' | 'newer_schema' | 'damaged' | 'state_copied' | 'state_replaced' | 'not_copied'
  constructor(code: AgentStateError['code'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'AgentStateError'
    this.code = code
  }
}

/** A guarded head with what else is remembered of it. */
export interface Guard extends GuardedHead {
  readonly origin: string
  /** SHA-256 of the SPKI of the key that signed it. */
  readonly keyId: Uint8Array
  /** Of the signed tree head; 0 for notes, which have no time. */
  readonly timestampMs: number
}

/** One line of the account. Its hash covers the line before it. */
export interface AccountRow {
  readonly sequence: number
  readonly atMs: number
  /** The key's name, or `token:<name>` for a login. */
  readonly key: string
  /** A purpose, `selfTest`, `withheld` (of what was accounted for, this many were not released), or an act of administration. */
  readonly act: string
  readonly count: number
  /** SHA-256 of the signed message; of the digests one after the other if `count` > 1. */
  readonly digest: Uint8Array
}

/** What an operator has to look at before it is lifted. */
export interface Latch {
  /** `token:…`, `key:…` or `origin:…`. */
  readonly name: string
  readonly reason: string
  readonly atMs: number
}

/** A certificate authority that this key signed for itself: the issuer that its later certificates must name. */
export interface PinnedAuthority {
  readonly subjectDer: Uint8Array
  readonly ski: Uint8Array
}

/** Rows whose hashes are checked when the state is opened; `verifyAccount` checks all. */
const CHECKED_AT_OPEN = 1000

/** Told when an fsync has failed: what the disk holds is unknown from then on. */
export type DiskFailure = (error: SyncError) => void

export class AgentState {
  readonly #db: Database.Database
  readonly #writes: SyncedWrites
  readonly #onDiskFailure: DiskFailure
  readonly #statements: Statements
  readonly #guards = new Map<string, Guard>()
  readonly #latches = new Map<string, string>()
  readonly #clocks = new Map<string, number>()
  readonly #tuf = new Map<string, { version: number; digest: Uint8Array }>()
  readonly #quotas = new Map<string, { minute: number; used: number }>()
  readonly #frozen = new Map<string, number>()
  readonly #raisedCaps = new Map<string, { readonly perMinute: number; readonly untilMs: number }>()
  readonly #authorities = new Map<string, PinnedAuthority>()
  readonly #counters = new Map<string, number>()
  readonly #files: DatabaseFiles | undefined
  #replaced: string | undefined
  #lastSequence = 0
  #lastHash = new Uint8Array(32)

  constructor(db: Database.Database, onDiskFailure: DiskFailure = () => undefined, files?: DatabaseFiles) {
    this.#db = db
    this.#files = files
    this.#writes = new SyncedWrites(db)
    this.#onDiskFailure = onDiskFailure
    this.#statements = prepare(db)
    this.#reload()
    this.#checkAccount(Math.max(1, this.#lastSequence - CHECKED_AT_OPEN + 1))
  }

  /**
   * Runs `change` with its writes made durable together; if it throws, nothing has happened. Only after a `SyncError` that
   * is not known: then no later transaction is tried, and the process is to end.
   */
  transaction<T>(change: () => T): T {
    this.#refuseReplaced()
    try {
      return this.#writes.run(() => this.#undivided(change))
    } catch (error) {
      if (error instanceof SyncError) this.#onDiskFailure(error)
      throw error
    } finally {
      // What went into a file that no restart will find is not remembered: nothing may be signed upon it.
      this.#refuseReplaced({ afterOwnWrite: true })
      this.#files?.remember()
    }
  }

  /** Why nothing can be remembered any more, in words, or undefined: looked up now, and for ever once it is so. */
  replaced(options: { readonly afterOwnWrite?: boolean } = {}): string | undefined {
    this.#replaced ??= this.#files?.fault(options)
    return this.#replaced
  }

  #refuseReplaced(options: { readonly afterOwnWrite?: boolean } = {}): void {
    const found = this.replaced(options)
    if (found !== undefined) throw new AgentStateError('state_replaced', found)
  }

  #undivided<T>(change: () => T): T {
    this.#db.exec('BEGIN IMMEDIATE')
    try {
      const result = change()
      this.#db.exec('COMMIT')
      return result
    } catch (error) {
      if (this.#db.inTransaction) this.#db.exec('ROLLBACK')
      this.#reload()
      throw error
    }
  }

  guard(origin: string): Guard | undefined {
    return this.#guards.get(origin)
  }

  guards(): readonly Guard[] {
    return [...this.#guards.values()]
  }

  setGuard(guard: Guard): void {
    this.#statements.guard.run(guard.origin, guard.keyId, guard.size, guard.rootHash, guard.timestampMs)
    this.#guards.set(guard.origin, guard)
  }

  /** When the last head of this origin was signed, or undefined: there is no other after it. */
  frozenAt(origin: string): number | undefined {
    return this.#frozen.get(origin)
  }

  setFrozen(origin: string, atMs: number): void {
    this.#db.prepare('INSERT OR IGNORE INTO frozen VALUES (?, ?)').run(origin, atMs)
    if (!this.#frozen.has(origin)) this.#frozen.set(origin, atMs)
  }

  /** Why `name` (`token:…`, `key:…`, `origin:…`) is latched, or undefined. */
  latch(name: string): string | undefined {
    return this.#latches.get(name)
  }

  /** The first reason stays: what came after it is its consequence. */
  setLatch(name: string, reason: string, atMs: number): void {
    if (this.#latches.has(name)) return
    this.#statements.latch.run(name, reason, atMs)
    this.#latches.set(name, reason)
  }

  /** True if there was such a latch. */
  liftLatch(name: string): boolean {
    this.#statements.unlatch.run(name)
    return this.#latches.delete(name)
  }

  /** Every latch that is set, oldest first. */
  latches(): readonly Latch[] {
    return this.#db.prepare('SELECT name, reason, at_ms atMs FROM latch ORDER BY at_ms, name').all() as readonly Latch[] // columns are named so
  }

  /** How far something that must survive a kill has come, or undefined; of administration, so not held in memory. */
  mark(name: string): string | undefined {
    const row = this.#db.prepare('SELECT value FROM meta WHERE name = ?').get(name) as { value: string } | undefined
    return row?.value
  }

  setMark(name: string, value: string | undefined): void {
    if (value === undefined) this.#db.prepare('DELETE FROM meta WHERE name = ?').run(name)
    else this.#db.prepare('INSERT OR REPLACE INTO meta VALUES (?, ?)').run(name, value)
  }

  /** The last time signed under `name`, or 0. */
  clock(name: string): number {
    return this.#clocks.get(name) ?? 0
  }

  /** The latest of all times signed, milliseconds. */
  lastSignedMs(): number {
    return Math.max(0, ...[...this.#clocks].filter(isSignedTime).map(([, lastMs]) => lastMs))
  }

  /** Times signed that lie after `nowMs` are forgotten for it: the clock was ahead, and has been found to be right now. */
  lowerSignedTimes(nowMs: number): void {
    for (const [name, lastMs] of this.#clocks) {
      if (isSignedTime([name, lastMs]) && lastMs > nowMs) this.setClock(name, nowMs)
    }
  }

  setClock(name: string, lastMs: number): void {
    this.#statements.clock.run(name, lastMs)
    this.#clocks.set(name, lastMs)
  }

  tufVersion(key: string, role: TufRole): { readonly version: number; readonly digest: Uint8Array } | undefined {
    return this.#tuf.get(`${key}/${role}`)
  }

  setTufVersion(key: string, role: TufRole, version: number, digest: Uint8Array): void {
    this.#statements.tuf.run(`${key}/${role}`, version, digest)
    this.#tuf.set(`${key}/${role}`, { version, digest })
  }

  /** Takes one of `limit` for this minute; false if none is left. */
  takeQuota(name: string, limit: number, nowMs: number): boolean {
    const minute = Math.floor(nowMs / 60_000)
    const last = this.#quotas.get(name)
    const used = last !== undefined && last.minute === minute ? last.used : 0
    if (used >= limit) return false
    this.#statements.quota.run(name, minute, used + 1)
    this.#quotas.set(name, { minute, used: used + 1 })
    return true
  }

  /** The cap that an operator raised last, whether it still holds or not (`raise-cap.ts`). */
  raisedCap(key: string): { readonly perMinute: number; readonly untilMs: number } | undefined {
    return this.#raisedCaps.get(key)
  }

  setRaisedCap(key: string, cap: { readonly perMinute: number; readonly untilMs: number }): void {
    this.#statements.raisedCap.run(key, cap.perMinute, cap.untilMs)
    this.#raisedCaps.set(key, cap)
  }

  authority(keyId: Uint8Array): PinnedAuthority | undefined {
    return this.#authorities.get(hex(keyId))
  }

  setAuthority(keyId: Uint8Array, authority: PinnedAuthority): void {
    this.#statements.authority.run(keyId, authority.subjectDer, authority.ski)
    this.#authorities.set(hex(keyId), authority)
  }

  /** Signatures released by this key, as far as is known: one that was made and not yet delivered counts. */
  uses(key: string): number {
    return this.#counters.get(key) ?? 0
  }

  /**
   * Adds a line to the account; `uses` is what it adds to the key's counter. `digests`: of a line for several uses, what
   * its digest is over.
   */
  account(row: Omit<AccountRow, 'sequence'>, uses: number, digests?: readonly Uint8Array[]): void {
    const whole = { ...row, sequence: this.#lastSequence + 1 }
    const chained = rowHash(this.#lastHash, whole)
    this.#statements.account.run(whole.sequence, row.atMs, row.key, row.act, row.count, row.digest, chained)
    if (digests !== undefined) this.#statements.digests.run(whole.sequence, Buffer.concat(digests))
    this.#lastSequence = whole.sequence
    this.#lastHash = chained
    if (uses === 0) return
    const total = this.uses(row.key) + uses
    this.#statements.counter.run(row.key, total)
    this.#counters.set(row.key, total)
  }

  /** At most `limit` lines of the account from line `from` (1 is the first) on, each with the hash that chains it. */
  accountLines(from: number, limit: number): readonly (AccountRow & { readonly hash: Uint8Array })[] {
    return this.#rows(from, limit)
  }

  /** Where the account ends: its last line and the hash that chains it; 0 and zeros before the first. */
  accountEnd(): { readonly sequence: number; readonly hash: Uint8Array } {
    return { sequence: this.#lastSequence, hash: this.#lastHash }
  }

  /** Of those lines from `from` on that stand for several uses: each digest, joined, of as many lines as fit `maxBytes`. */
  useDigests(from: number, maxBytes: number): readonly { readonly sequence: number; readonly digests: Uint8Array }[] {
    const found: { sequence: number; digests: Uint8Array }[] = []
    let bytes = 0
    for (const row of this.#statements.digestsFrom.iterate(from) as Iterable<{
      sequence: number
      digests: Uint8Array
    }>) {
      bytes += row.digests.length
      if (bytes > maxBytes && found.length > 0) break
      found.push(row)
    }
    return found
  }

  /** The account from its first line. */
  accountRows(): readonly AccountRow[] {
    return this.#rows(1)
  }

  /** Throws `damaged` unless every line's hash follows from the line before it. */
  verifyAccount(): void {
    this.#checkAccount(1)
  }

  close(): void {
    this.#db.close()
  }

  #checkAccount(from: number): void {
    const before = from === 1 ? undefined : this.#rows(from - 1, 1)[0]
    let previous: Uint8Array = before?.hash ?? new Uint8Array(32)
    let expected = from
    for (const row of this.#rows(from)) {
      const chained = rowHash(previous, row)
      if (row.sequence !== expected || !Buffer.from(row.hash).equals(chained)) {
        throw new AgentStateError('damaged', `account of key uses does not chain at line ${expected}`)
      }
      previous = chained
      expected++
    }
  }

  #rows(from: number, limit = -1): (AccountRow & { hash: Uint8Array })[] {
    return this.#statements.rows.all(from, limit) as (AccountRow & { hash: Uint8Array })[] // columns are named so
  }

  /** Fills memory from the file: at the start, and after a transaction that did not happen. */
  #reload(): void {
    const db = this.#db
    const all = <T>(sql: string) => db.prepare(sql).all() as T[] // the schema is ours and STRICT
    const refill = <K, V>(map: Map<K, V>, entries: readonly (readonly [K, V])[]) => {
      map.clear()
      for (const [key, value] of entries) map.set(key, value)
    }
    refill(
      this.#guards,
      all<Guard>('SELECT origin, key_id keyId, size, root rootHash, timestamp_ms timestampMs FROM guard').map(
        (guard) => [
          guard.origin,
          { ...guard, keyId: Uint8Array.from(guard.keyId), rootHash: Uint8Array.from(guard.rootHash) },
        ],
      ),
    )
    refill(
      this.#frozen,
      all<{ origin: string; at: number }>('SELECT origin, at_ms at FROM frozen').map((row) => [row.origin, row.at]),
    )
    refill(
      this.#latches,
      all<{ name: string; reason: string }>('SELECT name, reason FROM latch').map((row) => [row.name, row.reason]),
    )
    refill(
      this.#clocks,
      all<{ name: string; last: number }>('SELECT name, last_ms last FROM clock').map((row) => [row.name, row.last]),
    )
    refill(
      this.#tuf,
      all<{ name: string; version: number; digest: Uint8Array }>('SELECT * FROM tuf').map((row) => [row.name, row]),
    )
    refill(
      this.#quotas,
      all<{ name: string; minute: number; used: number }>('SELECT * FROM quota').map((row) => [row.name, row]),
    )
    refill(
      this.#raisedCaps,
      all<{ key: string; perMinute: number; untilMs: number }>(
        'SELECT key, per_minute perMinute, until_ms untilMs FROM raised_cap',
      ).map(({ key, ...cap }) => [key, cap]),
    )
    refill(
      this.#authorities,
      all<{ key_id: Uint8Array; subject: Uint8Array; ski: Uint8Array }>('SELECT * FROM authority').map((row) => [
        hex(row.key_id),
        { subjectDer: Uint8Array.from(row.subject), ski: Uint8Array.from(row.ski) },
      ]),
    )
    refill(
      this.#counters,
      all<{ key: string; uses: number }>('SELECT key, uses FROM counter').map((row) => [row.key, row.uses]),
    )
    const [last] = all<{ sequence: number; hash: Uint8Array }>(
      'SELECT sequence, hash FROM account ORDER BY sequence DESC LIMIT 1',
    )
    this.#lastSequence = last?.sequence ?? 0
    this.#lastHash = last === undefined ? new Uint8Array(32) : Uint8Array.from(last.hash)
  }
}

/** How the state is opened. */
export interface OpenStateOptions {
  /** How long a predecessor that is about to end is waited for. */
  readonly waitMs: number
  readonly onDiskFailure?: DiskFailure
  /** This agent ends when its parent does, and a successor waits for that. */
  readonly endsWithParent?: boolean
  /** The instance whose copy this is, as the refusal told it: the state is taken over from it. */
  readonly adopt?: string
}

/** A holder that is not about to end is waited for this long: its last words, and the scheduler. */
const RIVAL_MS = 500

/**
 * Opens the state and holds it alone until `close` or the end of the process; the kernel frees the lock of one that was
 * killed. Throws `AgentStateError`; `locked` within half a second where the holder is alive and well, after `waitMs`
 * otherwise; `state_copied` for a copy that was not adopted.
 */
export async function openAgentState(folder: string, options: OpenStateOptions): Promise<AgentState> {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const path = join(folder, 'state.db')
  const begunMs = Date.now()
  for (;;) {
    try {
      const db = openDatabase(path)
      try {
        settlePlace(folder, options.adopt)
      } catch (error) {
        db.close()
        throw error
      }
      noteHolder(folder, { endsWithParent: options.endsWithParent ?? false })
      return new AgentState(db, options.onDiskFailure, new DatabaseFiles(path))
    } catch (error) {
      if (!isBusy(error)) throw error
      const waitedMs = Date.now() - begunMs
      const rival = waitedMs >= RIVAL_MS || options.waitMs === 0 ? lastingHolder(folder) : undefined
      if (rival !== undefined || waitedMs >= options.waitMs) {
        const who = rival === undefined ? '' : ` (process ${rival})`
        throw new AgentStateError('locked', `another agent uses the state folder ${folder}${who}`, { cause: error })
      }
      // A predecessor whose parent was killed needs a moment to notice that its channel is gone.
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}

/** Whoever has the lock decides whose place this is. */
function settlePlace(folder: string, adopt: string | undefined): void {
  const foreign = foreignPlace(folder)
  if (foreign === undefined) {
    if (adopt !== undefined) throw new AgentStateError('not_copied', `${folder} is no copy: there is nothing to adopt`)
    takePlace(folder, { adopted: false })
    return
  }
  if (adopt !== foreign.instance) {
    throw new AgentStateError(
      'state_copied',
      `state_copied: ${foreign.found}. Two agents with one memory would sign two histories. If the original is gone ` +
        `for good: chancery agent adopt --confirm ${foreign.instance}`,
    )
  }
  takePlace(folder, { adopted: true })
}

function openDatabase(path: string): Database.Database {
  const db = new Database(path, { timeout: 0 })
  try {
    chmodSync(path, 0o600)
    // Set before the first read, so that WAL needs no shared memory and the lock is never let go between transactions.
    db.pragma('locking_mode = EXCLUSIVE')
    db.pragma('journal_mode = WAL')
    // A database that is opened again falls to NORMAL unless this is said each time.
    db.pragma('synchronous = FULL')
    db.exec('BEGIN EXCLUSIVE')
    const version = db.pragma('user_version', { simple: true }) as number // an integer in the file's header
    if (version > SCHEMA_VERSION) {
      throw new AgentStateError('newer_schema', `${path} has schema ${version}, this agent knows ${SCHEMA_VERSION}`)
    }
    for (const step of MIGRATIONS.slice(version)) db.exec(step)
    if (version < SCHEMA_VERSION) db.pragma(`user_version = ${SCHEMA_VERSION}`)
    db.exec('COMMIT')
    return db
  } catch (error) {
    db.close()
    throw error
  }
}

/** `<key>/<purpose>`; beside them stands the offset of the clocks, which is of a boot. */
function isSignedTime([name]: readonly [string, number]): boolean {
  return !name.startsWith('wall-monotonic/')
}

function isBusy(error: unknown): boolean {
  return error instanceof Database.SqliteError && error.code.startsWith('SQLITE_BUSY')
}

interface Statements {
  readonly guard: Database.Statement
  readonly latch: Database.Statement
  readonly unlatch: Database.Statement
  readonly clock: Database.Statement
  readonly tuf: Database.Statement
  readonly quota: Database.Statement
  readonly raisedCap: Database.Statement
  readonly authority: Database.Statement
  readonly counter: Database.Statement
  readonly account: Database.Statement
  readonly rows: Database.Statement
  readonly digests: Database.Statement
  readonly digestsFrom: Database.Statement
}

function prepare(db: Database.Database): Statements {
  return {
    guard: db.prepare('INSERT OR REPLACE INTO guard VALUES (?, ?, ?, ?, ?)'),
    latch: db.prepare('INSERT INTO latch VALUES (?, ?, ?)'),
    unlatch: db.prepare('DELETE FROM latch WHERE name = ?'),
    clock: db.prepare('INSERT OR REPLACE INTO clock VALUES (?, ?)'),
    tuf: db.prepare('INSERT OR REPLACE INTO tuf VALUES (?, ?, ?)'),
    quota: db.prepare('INSERT OR REPLACE INTO quota VALUES (?, ?, ?)'),
    raisedCap: db.prepare('INSERT OR REPLACE INTO raised_cap VALUES (?, ?, ?)'),
    authority: db.prepare('INSERT OR REPLACE INTO authority VALUES (?, ?, ?)'),
    counter: db.prepare('INSERT OR REPLACE INTO counter VALUES (?, ?)'),
    account: db.prepare('INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?)'),
    digests: db.prepare('INSERT INTO use_digests VALUES (?, ?)'),
    digestsFrom: db.prepare('SELECT sequence, digests FROM use_digests WHERE sequence >= ? ORDER BY sequence'),
    rows: db.prepare(
      'SELECT sequence, at_ms atMs, key, act, count, digest, hash FROM account WHERE sequence >= ? ORDER BY sequence LIMIT ?',
    ),
  }
}

function rowHash(previous: Uint8Array, row: AccountRow): Uint8Array<ArrayBuffer> {
  const line = JSON.stringify([row.sequence, row.atMs, row.key, row.act, row.count, hex(row.digest)])
  return Uint8Array.from(hash('sha256', Buffer.concat([previous, Buffer.from(line)]), 'buffer'))
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
