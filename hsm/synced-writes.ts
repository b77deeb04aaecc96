/**
 * The writes of a WAL database when its disk may fail. After a failed fsync nobody knows what the disk holds: Linux
 * tells the failure once, marks the pages clean, and the next fsync succeeds over bytes that were never written
 * (docs/decisions/0022-disk.md). So:
 *
 * - After the first failed fsync nothing is written through this object any more.
 * - Before its first write it copies what an earlier process left in the write-ahead log into the database, which writes
 *   those bytes again and syncs them: they may stand in the kernel's cache alone.
 * - Checkpoints are made here, since SQLite hides the errors of the ones that it makes by itself.
 *
 * Any other failure (disk full, read-only) changes nothing and may pass: the write can be asked for again.
 */
import Database from 'better-sqlite3'

/** An fsync has failed; thrown for that write and for every later one. */
export class SyncError extends Error {
  readonly code = 'disk_io_error'
  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'SyncError'
  }
}

/** Pages in the write-ahead log from which it is moved into the database; SQLite's own measure, some 4 MB. */
const CHECKPOINT_PAGES = 1000

export class SyncedWrites {
  readonly #db: Database.Database
  readonly #fill: Database.Statement<[], { log: number }>
  #settled = false
  #broken: SyncError | undefined

  /** For a database in WAL mode that this connection alone has open. */
  constructor(db: Database.Database) {
    this.#db = db
    db.pragma('wal_autocheckpoint = 0')
    this.#fill = db.prepare('PRAGMA wal_checkpoint(NOOP)')
  }

  /** Runs a write that ends durable. Throws `SyncError`, or what `write` throws. */
  run<T>(write: () => T): T {
    return this.#watched(() => {
      this.#settle()
      const result = write()
      this.#checkpointIfLong()
      return result
    })
  }

  /** Makes durable what an earlier process may have left in the kernel's cache only; nothing to do after the first time. */
  settle(): void {
    this.#watched(() => this.#settle())
  }

  #watched<T>(work: () => T): T {
    if (this.#broken !== undefined) throw this.#broken
    try {
      return work()
    } catch (error) {
      if (!isFailedSync(error)) throw error
      this.#broken = new SyncError(
        `the disk failed to keep what was written (${error.code}); nothing more is written until a restart`,
        { cause: error },
      )
      throw this.#broken
    }
  }

  #settle(): void {
    if (this.#settled) return
    this.#db.pragma('wal_checkpoint(TRUNCATE)')
    this.#settled = true
  }

  #checkpointIfLong(): void {
    if ((this.#fill.get()?.log ?? 0) < CHECKPOINT_PAGES) return
    try {
      this.#db.pragma('wal_checkpoint(PASSIVE)')
    } catch (error) {
      // The write itself is durable, and the log can grow until the disk has room.
      if (isFailedSync(error)) throw error
    }
  }
}

function isFailedSync(error: unknown): error is { code: string } {
  return error instanceof Database.SqliteError && /^SQLITE_IOERR_(?:DIR_)?FSYNC$/.test(error.code)
}
