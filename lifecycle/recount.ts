/** Reads a log out of a backup or a database and counts its tree again, from the leaves to the signed head. */
import { createHash, createPublicKey, verify } from 'node:crypto'
import { leafHash, MerkleTree, TlogError, verifyCheckpoint } from '#tlog'
import { type BackupRow, decodeBackupRow, type LogStore, StoreError } from '#transparency-log'
import { treeHeadSignatureInput } from '#x509'
import { type BackedUpLog, type BackupManifest, damaged } from './backup-manifest.ts'
import { readSegment } from './segments.ts'

/** Entries of one transaction: large, since nobody waits for a single one of them. */
const BATCH = 2048

/** A row with its leaf hash. */
export type CountedRow = BackupRow & { readonly leafHash: Uint8Array }

/**
 * Walks a backed-up log in batches, counting its tree, and compares root and signature with the manifest at the end.
 * Throws `backup_damaged`.
 */
export async function recountBackup(
  folder: string,
  log: BackedUpLog,
  onBatch: (rows: readonly CountedRow[], tree: MerkleTree) => Promise<void>,
): Promise<MerkleTree> {
  const tree = new MerkleTree()
  let batch: CountedRow[] = []
  const flush = async () => {
    if (batch.length > 0) await onBatch(batch, tree)
    batch = []
  }
  for (const segment of log.segments) {
    for await (const line of readSegment(folder, segment)) {
      const row = decoded(line, log)
      if (row.index !== tree.size) throw damaged(`log ${log.name}: entry ${row.index} where ${tree.size} was expected`)
      const counted = { ...row, leafHash: leafHash(row.leaf) }
      tree.append(counted.leafHash)
      batch.push(counted)
      if (batch.length === BATCH) await flush()
    }
  }
  await flush()
  if (tree.size !== log.size) throw damaged(`log ${log.name} has ${tree.size} entries, its head says ${log.size}`)
  if (hex(tree.root()) !== log.rootHash) {
    throw damaged(`the ${log.size} entries of log ${log.name} do not lead to the root that was signed`)
  }
  checkSignature(log)
  return tree
}

/** Counts what a database holds, from the bytes of its leaves. Throws `StoreError` `damaged` unless it leads to its head. */
export async function recountStore(store: LogStore, onEntries: (done: number) => void): Promise<MerkleTree> {
  const { committed } = await store.head()
  const tree = new MerkleTree()
  while (tree.size < committed.size) {
    const entries = await store.entries(tree.size, BATCH)
    if (entries.length === 0) throw new StoreError('damaged', `entry ${tree.size} is missing`)
    for (const { leaf } of entries) tree.append(leafHash(leaf))
    onEntries(tree.size)
  }
  if (tree.size !== committed.size || Buffer.compare(tree.root(), committed.rootHash) !== 0) {
    throw new StoreError('damaged', `the entries that were written do not lead to the head of size ${committed.size}`)
  }
  return tree
}

/** The lines of the account in a backup, in their order. */
export async function* readAccount(folder: string, { files }: BackupManifest): AsyncGenerator<string> {
  for (const { path } of files.filter((file) => file.path.startsWith('account/'))) yield* readSegment(folder, { path })
}

/** Walks the chain of the account from its first line to the head in the manifest. Throws `backup_damaged`. */
export async function recountAccount(folder: string, { account, files }: BackupManifest): Promise<void> {
  if (account === undefined) return
  let [lines, head] = [0, '0'.repeat(64)]
  for (const { path } of files.filter((file) => file.path.startsWith('account/'))) {
    for await (const text of readSegment(folder, { path })) {
      const line = JSON.parse(text) as Readonly<Record<string, unknown>> // its file had the right hash
      const { sequence, atMs, key, act, count, digest } = line
      const chained = JSON.stringify([sequence, atMs, key, act, count, digest])
      head = createHash('sha256').update(Buffer.from(head, 'hex')).update(chained).digest('hex')
      lines += 1
      if (sequence !== lines || line['hash'] !== head)
        throw damaged(`the account of key uses does not chain at line ${lines}`)
    }
  }
  if (lines !== account.lines || head !== account.headHash) {
    throw damaged(`the account of key uses has ${lines} lines and another head than its manifest says`)
  }
}

function decoded(line: string, { name }: BackedUpLog): BackupRow {
  try {
    return decodeBackupRow(line)
  } catch (cause) {
    if (cause instanceof StoreError) throw damaged(`log ${name}: ${cause.message}`, cause)
    throw cause
  }
}

/** The log's own signature over the head that the entries lead to: a manifest alone is no witness. */
function checkSignature({ name, kind, origin, spki, size, rootHash, timestampMs, note, signature }: BackedUpLog): void {
  const spkiDer = Buffer.from(spki, 'base64')
  if (kind === 'ct') {
    const signed = treeHeadSignatureInput(size, timestampMs, Buffer.from(rootHash, 'hex'))
    const key = createPublicKey({ key: spkiDer, format: 'der', type: 'spki' })
    if (!verify('sha256', signed, key, Buffer.from(signature, 'base64'))) {
      throw damaged(`the tree head of log ${name} is not signed by its key`)
    }
    return
  }
  try {
    const checkpoint = verifyCheckpoint(note, { origin, spkiDer })
    if (checkpoint.size === size && hex(checkpoint.rootHash) === rootHash) return
  } catch (cause) {
    if (!(cause instanceof TlogError)) throw cause
    throw damaged(`the checkpoint of log ${name} is not signed by its key: ${cause.message}`, cause)
  }
  throw damaged(`the checkpoint of log ${name} is of another head`)
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
