/**
 * A log out of a backup, into a new database beside the old one. It is brought to exactly the head that the agent's
 * guard remembers, or it is not given out: a log that starts below its guard would fork, and the agent would latch it.
 */
import { mkdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import { OperatorError } from '#alarms'
import { type GuardedHead, HsmError, type SigningAgent } from '#hsm'
import { leafHash, type MerkleTree } from '#tlog'
import { factsOfLeaf, type LogStore, type NewEntry, openSqliteStore, parseLeaf } from '#transparency-log'
import type { BackedUpLog } from './backup-manifest.ts'
import { logSource, SourceError, type SourcedEntry } from './log-sources.ts'
import { hex, recountBackup, recountStore } from './recount.ts'

/** Entries of one transaction. */
const BATCH = 1024

export interface RestoreLogOptions {
  /** The backup. */
  readonly folder: string
  readonly log: BackedUpLog
  /** A database that is not there yet. */
  readonly database: string
  /** The agent's name of the log's key. */
  readonly key: string
  readonly agent: Pick<SigningAgent, 'key' | 'guardedHead' | 'treeHead' | 'sct'>
  /** Where entries above the backup's head may be had. */
  readonly source?: string
  /** Give the log out although it ends below its guard; it can only be read then. */
  readonly allowBehind: boolean
  /** Give it out although the agent remembers no head of it: `chancery log adopt` has to follow. */
  readonly allowWithoutGuard: boolean
  readonly onStep: (step: { readonly what: string; readonly done: number; readonly of: number }) => void
}

export interface RestoredLog {
  readonly name: string
  readonly size: number
  readonly rootHash: string
  readonly backupSize: number
  readonly guardedSize: number
  /** `whole`: at its guard. `behind`: readable alone. `unguarded`: the agent remembers nothing of it. */
  readonly state: 'whole' | 'behind' | 'unguarded'
}

/** Restores one log. Throws `OperatorError`; the unfinished database is then the caller's to remove. */
export async function restoreLog(options: RestoreLogOptions): Promise<RestoredLog> {
  const { folder, log, database, onStep } = options
  const { name, origin, kind } = log
  const { spkiDer, guard } = await knownOf(options)
  await mkdir(dirname(database), { recursive: true, mode: 0o700 })
  const store = await openSqliteStore(database, { kind, origin, spkiDer })
  try {
    const tree = await recountBackup(folder, log, async (rows, tree) => {
      await append(store, tree, rows.map(entryOfRow))
      onStep({ what: `restoring log ${name}`, done: tree.size, of: log.size })
    })
    await store.seal(sealOf(log), [])
    const state = await compare(options, guard, tree)
    if (state === 'behind') {
      const { source } = options
      if (source !== undefined) await rollForward({ ...options, source }, { store, tree, guard })
      else if (!options.allowBehind) throw behind(options, guard)
    }
    const counted = await recountStore(store, (done) => onStep({ what: `counting log ${name}`, done, of: tree.size }))
    const whole = guard.size > 0 && counted.size >= guard.size
    return {
      name,
      size: counted.size,
      rootHash: hex(counted.root()),
      backupSize: log.size,
      guardedSize: guard.size,
      state: whole ? 'whole' : guard.size === 0 && log.size > 0 ? 'unguarded' : guard.size === 0 ? 'whole' : 'behind',
    }
  } finally {
    await store.close()
  }
}

/**
 * The log's key, and the end that the agent remembers. A log that was frozen before its key left the agent ends for ever
 * where the backup has its last head, which that key signed.
 */
async function knownOf(options: RestoreLogOptions): Promise<{ spkiDer: Uint8Array; guard: GuardedHead }> {
  const { agent, key, log } = options
  try {
    return { spkiDer: await keyOf(options), guard: await agent.guardedHead({ key, origin: log.origin }) }
  } catch (error) {
    const isRetired = error instanceof HsmError && error.code === 'unknown_key' && log.frozenAtMs !== undefined
    if (!isRetired) throw error
    const rootHash = new Uint8Array(Buffer.from(log.rootHash, 'hex'))
    return { spkiDer: new Uint8Array(Buffer.from(log.spki, 'base64')), guard: { size: log.size, rootHash } }
  }
}

async function keyOf({ agent, key, log }: RestoreLogOptions): Promise<Uint8Array> {
  const { spkiDer } = await agent.key(key)
  if (Buffer.from(spkiDer).toString('base64') !== log.spki) {
    throw new OperatorError(
      'restore_other_key',
      `the agent's key ${key} is not the key of log ${log.name} in the backup: a log keeps its key for life, so this agent belongs to another installation or the log has a successor`,
    )
  }
  return spkiDer
}

/** What the guard says of the backup's head. Throws if they are of two histories. */
async function compare(
  { log, allowWithoutGuard }: RestoreLogOptions,
  guard: GuardedHead,
  tree: MerkleTree,
): Promise<'reached' | 'behind'> {
  if (guard.size === 0 && log.size > 0) {
    if (allowWithoutGuard) return 'reached'
    throw new OperatorError(
      'restore_without_guard',
      `the agent remembers no head of log ${log.name} (${log.origin}): its state is lost or new, so nothing can say whether the backup of size ${log.size} is the log's end. Look for the newest head at an anchor, a witness or a monitor; then restore with --without-guard ${log.name} and let the log be adopted with it: chancery log adopt`,
    )
  }
  const common = Math.min(guard.size, log.size)
  if (guard.size <= log.size && hex(tree.root(common)) !== hex(guard.rootHash)) throw otherHistory(log, guard)
  return guard.size > log.size ? 'behind' : 'reached'
}

function otherHistory({ name, origin, size }: BackedUpLog, guard: GuardedHead): OperatorError {
  return new OperatorError(
    'restore_other_history',
    `the agent signed size ${guard.size} root ${hex(guard.rootHash)} for log ${name} (${origin}), and the entries here (backup of size ${size}) do not lead to it. Keep both; nothing was changed`,
  )
}

function behind({ log }: RestoreLogOptions, guard: GuardedHead): OperatorError {
  return new OperatorError(
    'restore_behind_guard',
    `log ${log.name}: the backup ends at ${log.size}, but ${guard.size} entries were signed and promised. Give --tiles ${log.name}=URL of a copy of the log (a mirror, a monitor, a replica), or, if nobody has the entries, restore with --behind ${log.name}: it is then readable alone, and chancery log succeed ${log.name} starts its successor. Nothing was changed`,
  )
}

/** Brings the log to exactly the guarded head and has it signed anew. The database is dropped if this throws. */
async function rollForward(
  options: RestoreLogOptions & { readonly source: string },
  { store, tree, guard }: { store: LogStore; tree: MerkleTree; guard: GuardedHead },
): Promise<void> {
  const { log, source, agent, key, onStep } = options
  try {
    const read = logSource(source, { kind: log.kind, spkiDer: Buffer.from(log.spki, 'base64') })
    let { timestampMs } = log
    let batch: NewEntry[] = []
    while (tree.size < guard.size) {
      for (const sourced of await read(tree.size, guard.size)) {
        timestampMs = Math.max(timestampMs, timestampOf(log, sourced) ?? timestampMs)
        const entry = await entryOfSource(options, sourced, timestampMs)
        tree.append(entry.leafHash)
        batch.push(entry)
      }
      if (batch.length < BATCH && tree.size < guard.size) continue
      await append(store, tree, batch)
      batch = []
      onStep({ what: `rolling log ${log.name} forward`, done: tree.size, of: guard.size })
    }
  } catch (error) {
    if (!(error instanceof SourceError)) throw error
    throw new OperatorError(
      'restore_behind_guard',
      `log ${log.name}: the backup ends at ${log.size}, ${guard.size} entries were signed, and the rest cannot be had: ${error.message}. Give another --tiles, or --behind ${log.name} without one. Nothing was changed`,
      { cause: error },
    )
  }
  if (hex(tree.root()) !== hex(guard.rootHash)) throw otherHistory(log, guard)
  const now = Date.now()
  // The same size and root once more: what the agent signed before, it signs again.
  const head = { origin: log.origin, size: guard.size, rootHash: guard.rootHash }
  const signed = await agent.treeHead({ key, ...head, timestampMs: now, consistencyProof: [] })
  await store.seal({ ...head, timestampMs: now, note: signed.note, signature: signed.signature }, [])
}

async function append(store: LogStore, tree: MerkleTree, entries: readonly NewEntry[]): Promise<void> {
  const { committed } = await store.head()
  const timestampMs = Math.max(committed.timestampMs, entries.at(-1)?.kept?.timestampMs ?? 0)
  await committedOrThrow(store, { head: { size: tree.size, rootHash: tree.root(), timestampMs }, entries }, committed)
}

async function committedOrThrow(store: LogStore, ...[batch, expected]: Parameters<LogStore['commit']>): Promise<void> {
  const outcome = await store.commit(batch, expected)
  if (outcome === 'conflict') throw new Error('something else wrote into the database that is being restored')
}

function entryOfRow(row: Parameters<Parameters<typeof recountBackup>[2]>[0][number]): NewEntry {
  const { dedupeKey, leafHash, leaf, tileData, attachment, timestampMs, searchHashes, entrySignature, delivered } = row
  return {
    dedupeKey,
    leafHash,
    leaf,
    tileData,
    searchKeys: [],
    ...(attachment === undefined ? {} : { attachment }),
    kept: { timestampMs, searchHashes, delivered, ...(entrySignature === undefined ? {} : { entrySignature }) },
  }
}

/** A CT leaf holds its time, a Rekor v1 reply tells it; of a v2 entry nobody outside knows it, nor does anybody rely on it. */
function timestampOf({ kind }: BackedUpLog, { leaf, timestampMs }: SourcedEntry): number | undefined {
  return timestampMs ?? factsOf(kind, leaf).timestampMs
}

function factsOf(...given: Parameters<typeof factsOfLeaf>): ReturnType<typeof factsOfLeaf> {
  try {
    return factsOfLeaf(...given)
  } catch (cause) {
    throw new SourceError('an entry that was given is none of this log', { cause })
  }
}

async function entryOfSource(
  options: RestoreLogOptions,
  sourced: SourcedEntry,
  timestampMs: number,
): Promise<NewEntry> {
  const { leaf, tileData, attachment } = sourced
  const { dedupeKey, searchKeys } = factsOf(options.log.kind, leaf, attachment)
  const entrySignature = sourced.entrySignature ?? (await sctAgain(options, leaf))
  return {
    dedupeKey,
    leafHash: leafHash(leaf),
    leaf,
    tileData,
    searchKeys,
    ...(attachment === undefined ? {} : { attachment }),
    // A reply for it was surely given: others hold it.
    kept: { timestampMs, delivered: true, ...(entrySignature === undefined ? {} : { entrySignature }) },
  }
}

/**
 * No source has the SCTs that a CT log gave. The agent makes one again while the entry is young enough for it; an older
 * one is in its certificate anyway, and only who submits that chain once more is refused.
 */
async function sctAgain({ log, agent, key }: RestoreLogOptions, leaf: Uint8Array): Promise<Uint8Array | undefined> {
  if (log.kind !== 'ct') return undefined
  const { entry, timestampMs } = parseLeaf(leaf)
  try {
    return await agent.sct({ key, timestampMs, entry })
  } catch (error) {
    if (error instanceof HsmError && error.code === 'refused') return undefined
    throw error
  }
}

function sealOf({ size, rootHash, timestampMs, note, signature, frozenAtMs }: BackedUpLog) {
  return {
    size,
    rootHash: Buffer.from(rootHash, 'hex'),
    timestampMs,
    note,
    signature: Buffer.from(signature, 'base64'),
    ...(frozenAtMs === undefined ? {} : { frozenAtMs }),
  }
}
