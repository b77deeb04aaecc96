/**
 * The journal of rotations: what is under way, step by step, with all that a step made before the next begins. A kill
 * anywhere leaves a record from which `chancery rotate resume` goes on; every step may be done again.
 *
 *     lifecycle/rotation.json          the one that is under way; replaced whole and durably at each step
 *     lifecycle/rotations/<id>.json    those that ended, for ever
 *     lifecycle/rotation.lock          held by the process that works on one: the kernel lets go of it when that one dies
 *
 * Plain JSON: an operator may have to read it on a machine where nothing else works. It holds public keys, names and
 * times, no secret. A thief who writes it can make the next `resume` do a step of a rotation that was not asked for; who
 * can write here can as well write the configuration.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { replaceDurably, syncFolder } from './durable-file.ts'

/** What can be rotated in one command. */
export const ROTATION_KINDS = [
  'issuing-ca',
  'root-ca',
  'ct-log',
  'rekor-v1',
  'rekor-v2',
  'tsa',
  'tuf-online',
  'tuf-root',
  'standby',
] as const
export type RotationKind = (typeof ROTATION_KINDS)[number]

const time = z.iso.datetime()

const stepSchema = z.strictObject({
  name: z.string(),
  startedAt: time,
  /** Missing while it is under way, or was interrupted. */
  finishedAt: time.optional(),
})

const recordSchema = z.strictObject({
  schemaVersion: z.literal(1),
  /** Time and kind, the name of its file once it has ended. */
  id: z.string().regex(/^[0-9TZ-]+-[a-z0-9-]+$/),
  kind: z.enum(ROTATION_KINDS),
  startedAt: time,
  /** Operating-system user. */
  startedBy: z.string(),
  /** In order; a step that is not begun is not in it. */
  steps: z.array(stepSchema),
  /** What the steps made and know; its shape is the kind's. */
  facts: z.record(z.string(), z.unknown()),
  /** Set once it is to be undone: from then on it goes back only. */
  aborting: z.strictObject({ at: time, by: z.string(), keepKeys: z.boolean() }).optional(),
  ended: z.strictObject({ at: time, by: z.string(), outcome: z.enum(['done', 'aborted']) }).optional(),
})

export type RotationStep = Readonly<z.infer<typeof stepSchema>>

/** One rotation, under way or ended. */
export type RotationRecord = Readonly<z.infer<typeof recordSchema>>

/** What is written, for whoever only looks: needs no lock. */
export interface Rotations {
  readonly current: RotationRecord | undefined
  /** Newest first. */
  readonly history: readonly RotationRecord[]
}

/** Reads the journal of a data folder. Throws `rotation_unreadable` for a file that this program did not write. */
export function readRotations(dataDir: string, name = 'rotation'): Rotations {
  const folder = join(dataDir, 'lifecycle/rotations')
  const names = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.json')) : []
  const history = names
    .toSorted()
    .toReversed()
    .map((name) => read(join(folder, name)))
  const current = join(dataDir, `lifecycle/${name}.json`)
  return { current: existsSync(current) ? read(current) : undefined, history }
}

/** The journal under the lock of this process. What is written is durable when a method returns. */
export class Journal {
  readonly #dataDir: string
  readonly #file: string
  readonly #lock: Database.Database
  readonly #now: () => Date
  #record: RotationRecord | undefined

  /**
   * `name`: of the file of what is under way; an emergency has one of its own beside a rotation that waits. Throws
   * `rotation_underway` where another process works on one.
   */
  constructor(dataDir: string, now: () => Date = () => new Date(), name = 'rotation') {
    this.#dataDir = dataDir
    this.#file = join(dataDir, `lifecycle/${name}.json`)
    this.#now = now
    mkdirSync(join(dataDir, 'lifecycle'), { recursive: true, mode: 0o700 })
    this.#lock = takeLock(join(dataDir, 'lifecycle/rotation.lock'))
    try {
      const current = existsSync(this.#file) ? read(this.#file) : undefined
      this.#record = current
      // Killed between its last word and its place in the history.
      if (current?.ended !== undefined) this.#moveToHistory(current)
    } catch (error) {
      this.#lock.close()
      throw error
    }
  }

  /** The rotation under way, if there is one. */
  get current(): RotationRecord | undefined {
    return this.#record
  }

  /** Begins a rotation with what is known so far. Throws `rotation_underway` while there is one. */
  begin(kind: RotationKind, facts: RotationRecord['facts']): RotationRecord {
    if (this.#record !== undefined) throw underway(this.#record)
    const startedAt = this.#now().toISOString()
    const id = `${startedAt.slice(0, 19).replaceAll(':', '-')}Z-${kind}`
    return this.#write({ schemaVersion: 1, id, kind, startedAt, startedBy: whoAmI(), steps: [], facts })
  }

  /** Says that a step is about to be done, or done again; false if it was finished before. */
  start(name: string): boolean {
    const record = this.#current()
    const before = record.steps.find((step) => step.name === name)
    if (before?.finishedAt !== undefined) return false
    if (before === undefined) {
      this.#write({ ...record, steps: [...record.steps, { name, startedAt: this.#now().toISOString() }] })
    }
    return true
  }

  /** Keeps what a step has found out or made. */
  keep(facts: RotationRecord['facts']): RotationRecord {
    const record = this.#current()
    return this.#write({ ...record, facts: { ...record.facts, ...facts } })
  }

  /** Says that a step is done. */
  finish(name: string): RotationRecord {
    const record = this.#current()
    const finishedAt = this.#now().toISOString()
    return this.#write({
      ...record,
      steps: record.steps.map((step) => (step.name === name ? { ...step, finishedAt } : step)),
    })
  }

  /** From now on this rotation goes back. Said again it changes nothing. */
  abort({ keepKeys }: { readonly keepKeys: boolean }): RotationRecord {
    const record = this.#current()
    if (record.aborting !== undefined) return record
    return this.#write({ ...record, aborting: { at: this.#now().toISOString(), by: whoAmI(), keepKeys } })
  }

  /** Ends the rotation: it is history from now on. */
  end(outcome: 'done' | 'aborted'): RotationRecord {
    const record = this.#write({
      ...this.#current(),
      ended: { at: this.#now().toISOString(), by: whoAmI(), outcome },
    })
    this.#moveToHistory(record)
    return record
  }

  close(): void {
    this.#lock.close()
  }

  #current(): RotationRecord {
    if (this.#record === undefined) throw new TypeError('no rotation is under way')
    return this.#record
  }

  #write(record: RotationRecord): RotationRecord {
    replaceDurably(this.#file, `${JSON.stringify(recordSchema.parse(record), undefined, 2)}\n`)
    this.#record = record
    return record
  }

  #moveToHistory(record: RotationRecord): void {
    const folder = join(this.#dataDir, 'lifecycle/rotations')
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    renameSync(this.#file, join(folder, `${record.id}.json`))
    syncFolder(folder)
    syncFolder(join(this.#dataDir, 'lifecycle'))
    this.#record = undefined
  }
}

/** Said to whoever wants to begin a second one. */
export function underway({ kind, startedAt, startedBy }: RotationRecord): OperatorError {
  return new OperatorError(
    'rotation_underway',
    `a rotation of ${kind} is under way since ${startedAt}, begun by ${startedBy}; finish or undo it first: chancery rotate status`,
  )
}

function read(path: string): RotationRecord {
  try {
    return recordSchema.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch (error) {
    const said = error instanceof z.ZodError ? z.prettifyError(error) : String(error)
    throw new OperatorError('rotation_unreadable', `${path} cannot be read: ${said}`, { cause: error })
  }
}

/** An empty database with a transaction that never ends: the one lock of a file that Node.js reaches without a package. */
function takeLock(path: string): Database.Database {
  const lock = new Database(path, { timeout: 0 })
  try {
    lock.exec('BEGIN EXCLUSIVE')
    return lock
  } catch (error) {
    lock.close()
    if (!(error instanceof Database.SqliteError) || !error.code.startsWith('SQLITE_BUSY')) throw error
    throw new OperatorError(
      'rotation_underway',
      'another command works on a rotation of this installation just now; see: chancery rotate status',
      { cause: error },
    )
  }
}

/** The operating-system user; one without an entry in the system's list has a number. */
export function whoAmI(): string {
  try {
    return process.env['SUDO_USER'] ?? userInfo().username
  } catch {
    return `user ${process.getuid?.() ?? 'unknown'}`
  }
}
