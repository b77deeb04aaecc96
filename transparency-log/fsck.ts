/**
 * Checks a whole log: everything that is stored against the tree that it must lead to, the heads that were signed, and
 * the indexes both ways. It believes nothing of the store but the bytes of the leaves; the public key comes from outside.
 *
 *     heads ─▶ entries, in order ─▶ key tables, in order ─▶ report
 *              leaf → leaf hash → root of each head that is to hold
 *              signature, attachment, time, keys
 *
 * It works from what it has checked so far, which is small (the hashes on the right edge of the tree), so that it can be
 * continued after a kill: `FsckState` is all there is to keep.
 */
import { createPublicKey, hash, type KeyObject, verify } from 'node:crypto'
import { leafHash, nodeHash, emptyRoot, TlogError, verifyCheckpoint } from '#tlog'
import { sctSignatureInput, treeHeadSignatureInput } from '#x509'
import { parseLeaf } from './ct/leaf.ts'
import { factsOfLeaf } from './from-leaf.ts'
import { type Inspection, LogError } from './log.ts'
import type { LogKind } from './open.ts'
import { type InspectedEntry, KEY_TABLES, type KeyCursor, type StoredSeal, StoreError } from './store.ts'

/** What was found, by kind; each says where and what is there. */
export type FindingKind =
  /** The database cannot be read at all, or is another log's. */
  | 'unreadable'
  | 'other_log'
  /** An entry is not there, or its place holds another. */
  | 'entry_missing'
  /** Stored beyond the end of the log. */
  | 'surplus'
  /** The leaf's bytes are not those that were hashed. */
  | 'leaf'
  /** The stored leaf hash (tile of level 0) is missing or wrong. */
  | 'leaf_hash'
  /** The leaves lead to another root than this head says. */
  | 'root'
  /** The stored checkpoint or tree head is not signed by the log's key, or says something else than the head. */
  | 'checkpoint'
  /** The entry's own signature (SET, SCT) is missing or wrong. */
  | 'entry_signature'
  | 'attachment'
  /** A CT leaf has another time than its row. */
  | 'time'
  /** A key table does not lead to the entry, or the entry does not know a key that its leaf has. */
  | 'index_missing'
  /** A key table leads to an entry that has no such key, or is not there. */
  | 'index_stray'

export interface Finding {
  readonly kind: FindingKind
  readonly message: string
  /** Of the entry. */
  readonly index?: number
}

/** A head that the tree must go through: of the guard, of an anchor, of a client. */
export interface ExpectedHead {
  /** Who says so: `guard`, or where the note came from. */
  readonly from: string
  readonly size: number
  readonly rootHashHex: string
}

export interface FsckOptions {
  readonly kind: LogKind
  readonly origin: string
  readonly spkiDer: Uint8Array
  /** Sizes of earlier shards together: what a Rekor v1 SET counts before this tree's own index. */
  readonly indexOffset: number
  readonly signatures: 'sample' | 'all'
  readonly expected: readonly ExpectedHead[]
}

export interface FsckReport {
  readonly origin: string
  /** Entries that were checked: those of the newest head when it began. */
  readonly size: number
  readonly rootHashHex: string
  readonly signaturesChecked: number
  readonly keyRowsChecked: number
  /** How many there are; `findings` holds the first hundred. */
  readonly damaged: number
  readonly findings: readonly Finding[]
}

/** Everything that a continuation needs; plain JSON. */
export interface FsckState {
  readonly origin: string
  /** The signed head that is being checked; what came after it is for the next time. */
  readonly target: { readonly size: number; readonly rootHashHex: string }
  readonly next: number
  /** Roots of complete subtrees, widest first: [leaves, hash]. */
  readonly edge: readonly (readonly [number, string])[]
  /** Roots at the sizes of heads that were passed. */
  readonly roots: Readonly<Record<string, string>>
  readonly table: number
  readonly cursor?: KeyCursor
  readonly signaturesChecked: number
  readonly keyRowsChecked: number
  readonly damaged: number
  readonly findings: readonly Finding[]
}

export interface FsckStep {
  readonly what: 'entries' | 'keys'
  readonly done: number
  readonly of: number
}

/** Entries of one reading: a few milliseconds of the database's thread. */
const CHUNK = 128
const KEY_CHUNK = 1024
/** Signatures cost more than all else; one in so many, and the newest, are checked unless all are asked for. */
const SAMPLE = 64
const SHOWN = 100

/** Checks the log behind `source`; `from` continues. `onState` is told after each chunk, for progress and for the file. */
export async function fsck(
  source: Inspection,
  options: FsckOptions,
  { from, onState }: { readonly from?: FsckState; readonly onState: (state: FsckState, step: FsckStep) => void },
): Promise<FsckReport> {
  const run = new Run(source, options, onState)
  try {
    await run.whole(from)
  } catch (error) {
    if (!(error instanceof StoreError) || error.code === 'failed') throw error
    run.find({ kind: 'unreadable', message: error.message })
  }
  return run.report()
}

class Run {
  readonly #source: Inspection
  readonly #options: FsckOptions
  readonly #onState: (state: FsckState, step: FsckStep) => void
  readonly #key: KeyObject
  #target = { size: 0, rootHashHex: hex(emptyRoot()) }
  #next = 0
  #edge: { leaves: number; hash: Uint8Array }[] = []
  #roots = new Map<number, string>()
  /** Sizes whose roots are asked for. */
  #wanted = new Set<number>()
  #table = 0
  #cursor: KeyCursor | undefined
  #signaturesChecked = 0
  #keyRowsChecked = 0
  #damaged = 0
  #findings: Finding[] = []

  constructor(source: Inspection, options: FsckOptions, onState: (state: FsckState, step: FsckStep) => void) {
    this.#source = source
    this.#options = options
    this.#onState = onState
    this.#key = createPublicKey({ key: Buffer.from(options.spkiDer), type: 'spki', format: 'der' })
  }

  async whole(from: FsckState | undefined): Promise<void> {
    const heads = await this.#source.inspectHeads()
    const { committed, sealed, identity } = heads
    const { kind, origin, spkiDer, expected } = this.#options
    if (identity.kind !== kind || identity.origin !== origin || Buffer.compare(identity.spkiDer, spkiDer) !== 0) {
      this.find({
        kind: 'other_log',
        message: `the database says that it is the log ${identity.origin} (${identity.kind})`,
      })
      return
    }
    // Entries above the signed head have no signatures yet, and every opening of the log counts them.
    const head = sealed ?? committed
    this.#target = { size: Math.min(head.size, committed.size), rootHashHex: hex(head.rootHash) }
    const sizes = expected.map(({ size }) => size)
    if (from !== undefined && from.origin === origin && from.target.size <= this.#target.size) {
      // A head that was not asked for when the leaves went by cannot be judged without them.
      if (sizes.every((size) => size >= from.next || String(size) in from.roots)) this.#continue(from)
    }
    this.#wanted = new Set([this.#target.size, ...sizes])
    if (this.#wanted.has(0)) this.#roots.set(0, hex(emptyRoot()))
    await this.#entries()
    await this.#keys()
    if (sealed === undefined) this.find({ kind: 'checkpoint', message: 'the log has no signed head' })
    else this.#sealed(sealed, committed.size)
    for (const { from: who, size, rootHashHex } of expected) this.#head(who, { size, rootHashHex })
    this.#surplus(heads)
  }

  #continue(from: FsckState): void {
    this.#target = { ...from.target }
    this.#next = from.next
    this.#edge = from.edge.map(([leaves, hash]) => ({ leaves, hash: Buffer.from(hash, 'hex') }))
    this.#roots = new Map(Object.entries(from.roots).map(([size, root]) => [Number(size), root]))
    this.#table = from.table
    this.#cursor = from.cursor
    this.#signaturesChecked = from.signaturesChecked
    this.#keyRowsChecked = from.keyRowsChecked
    this.#damaged = from.damaged
    this.#findings = [...from.findings]
  }

  async #entries(): Promise<void> {
    const { size } = this.#target
    while (this.#next < size) {
      const entries = await this.#source.inspectEntries(this.#next, Math.min(CHUNK, size - this.#next))
      for (const entry of entries) {
        // What is missing keeps its place with its stored hash unknown: the root will not hold, and later ones are judged.
        while (this.#next < Math.min(entry.index, size)) this.#missing(this.#next)
        if (entry.index >= size) break
        this.#entry(entry)
      }
      if (entries.length === 0) while (this.#next < size) this.#missing(this.#next)
      this.#tell('entries', this.#next, size)
    }
  }

  #missing(index: number): void {
    this.find({ kind: 'entry_missing', index, message: `entry ${index} is not there` })
    this.#append(new Uint8Array(32))
  }

  #entry(entry: InspectedEntry): void {
    const { index, leaf, timestampMs, unindexed } = entry
    const { kind } = this.#options
    const hashed = leafHash(leaf)
    const stored = entry.leafHash
    if (stored.length !== 32) {
      this.find({ kind: 'leaf_hash', index, message: `the hash of entry ${index} is not stored` })
    } else if (Buffer.compare(hashed, stored) !== 0) {
      const message = `entry ${index} hashes to ${hex(hashed)}, its tile says ${hex(stored)}`
      this.find({ kind: 'leaf', index, message })
    }
    if (Buffer.compare(entry.tileData, leaf) !== 0) {
      this.find({ kind: 'leaf', index, message: `entry ${index} is published with other bytes than were hashed` })
    }
    if (kind === 'ct' && ctLeaf(leaf)?.timestampMs !== timestampMs) {
      this.find({ kind: 'time', index, message: `entry ${index} is stored with another time than its leaf has` })
    }
    for (const table of unindexed) {
      this.find({ kind: 'index_missing', index, message: `${table} does not lead to entry ${index}` })
    }
    this.#attachment(entry)
    if (this.#options.signatures === 'all' || index % SAMPLE === 0 || index >= this.#target.size - SAMPLE) {
      this.#signature(entry)
      this.#facts(entry)
    }
    // The tree is what the leaves say; where a tile says otherwise both are told, once.
    this.#append(hashed)
  }

  #append(hashed: Uint8Array): void {
    let node = { leaves: 1, hash: hashed }
    for (let last = this.#edge.at(-1); last?.leaves === node.leaves; last = this.#edge.at(-1)) {
      node = { leaves: 2 * node.leaves, hash: nodeHash(last.hash, node.hash) }
      this.#edge.pop()
    }
    this.#edge.push(node)
    this.#next++
    if (this.#wanted.has(this.#next)) this.#roots.set(this.#next, hex(this.#root()))
  }

  #root(): Uint8Array {
    const [last, ...wider] = this.#edge.toReversed()
    if (last === undefined) return emptyRoot()
    return wider.reduce((right, left) => nodeHash(left.hash, right), last.hash)
  }

  #attachment({ index, leaf, attachment }: InspectedEntry): void {
    const { kind } = this.#options
    if (kind === 'ct') {
      if (attachment === undefined || !isExtraData(leaf, attachment)) {
        this.find({ kind: 'attachment', index, message: `the chain of entry ${index} is missing or cannot be read` })
      }
      return
    }
    if (attachment === undefined) return
    // RFC 8785 leaves hex as it is; the attestation is named by its hash in the leaf.
    if (!Buffer.from(leaf).includes(hash('sha256', attachment, 'hex'))) {
      this.find({
        kind: 'attachment',
        index,
        message: `the attestation of entry ${index} is not the one that it names`,
      })
    }
  }

  #signature({ index, leaf, timestampMs, entrySignature }: InspectedEntry): void {
    const { kind, indexOffset } = this.#options
    if (kind === 'rekor-v2') return
    this.#signaturesChecked++
    let signed: Uint8Array
    if (kind === 'rekor-v1') {
      const logID = hash('sha256', this.#options.spkiDer, 'hex')
      const body = Buffer.from(leaf).toString('base64')
      const integratedTime = Math.floor(timestampMs / 1000)
      // RFC 8785: these four members in this order.
      signed = Buffer.from(JSON.stringify({ body, integratedTime, logID, logIndex: indexOffset + index }))
    } else {
      const read = ctLeaf(leaf)
      if (read === undefined) {
        this.find({ kind: 'leaf', index, message: `entry ${index} is no leaf of a CT log` })
        return
      }
      signed = sctSignatureInput(read.entry, read.timestampMs, new Uint8Array(0))
    }
    if (entrySignature.length > 0 && verify('sha256', signed, this.#key, entrySignature)) return
    const what = entrySignature.length === 0 ? 'has no signature' : 'has a signature that does not verify'
    this.find({ kind: 'entry_signature', index, message: `entry ${index} ${what}` })
  }

  /** Keys that the leaf itself tells of: the entry's own list of them may have been cut together with the index. */
  #facts({ index, leaf, attachment, dedupeKey, searchHashes }: InspectedEntry): void {
    let facts
    try {
      facts = factsOfLeaf(this.#options.kind, leaf, attachment)
    } catch (error) {
      if (!(error instanceof LogError)) throw error
      return // `leaf` and `root` tell of it, or an older program made it
    }
    const held = Buffer.from(searchHashes).toString('hex')
    const lacks = facts.searchKeys.some((key) => !held.includes(hash('sha256', key, 'hex')))
    if (!lacks && Buffer.compare(facts.dedupeKey, dedupeKey) === 0) return
    this.find({ kind: 'index_missing', index, message: `entry ${index} is not stored under the keys of its leaf` })
  }

  async #keys(): Promise<void> {
    for (let table = KEY_TABLES[this.#table]; table !== undefined; table = KEY_TABLES[this.#table]) {
      const { rows, strays, next } = await this.#source.inspectKeys(table, this.#cursor, KEY_CHUNK)
      this.#keyRowsChecked += rows
      for (const index of strays) {
        this.find({ kind: 'index_stray', index, message: `${table} leads to ${index}, which has no such key` })
      }
      this.#cursor = next
      if (next === undefined) this.#table++
      this.#tell('keys', this.#table, KEY_TABLES.length)
    }
  }

  #head(who: string, { size, rootHashHex }: { size: number; rootHashHex: string }): void {
    const root = this.#roots.get(size)
    // A continuation was not asked for a head that came later than its target.
    if (root === undefined && size > this.#target.size) {
      if (size > 0)
        this.find({ kind: 'root', message: `${who} is of size ${size}, the log ends at ${this.#target.size}` })
      return
    }
    if (root === undefined || root === rootHashHex) return
    this.find({ kind: 'root', message: `${who} says root ${rootHashHex} at size ${size}, the leaves lead to ${root}` })
  }

  #sealed(sealed: StoredSeal, committedSize: number): void {
    const { kind, origin, spkiDer } = this.#options
    const { size, rootHash, timestampMs, note, signature } = sealed
    if (size > committedSize) {
      this.find({ kind: 'checkpoint', message: `the signed head ${size} is past the committed one ${committedSize}` })
    }
    // One that grew meanwhile has a later head; the one that was checked is in `#target`.
    this.#head('the signed head', this.#target)
    if (kind === 'ct') {
      if (verify('sha256', treeHeadSignatureInput(size, timestampMs, rootHash), this.#key, signature)) return
      this.find({ kind: 'checkpoint', message: `the tree head of size ${size} is not signed by the log's key` })
      return
    }
    try {
      const checkpoint = verifyCheckpoint(note, { origin, spkiDer })
      if (checkpoint.size === size && Buffer.compare(checkpoint.rootHash, rootHash) === 0) return
      this.find({
        kind: 'checkpoint',
        message: `the checkpoint is of size ${checkpoint.size}, the signed head of ${size}`,
      })
    } catch (error) {
      if (!(error instanceof TlogError)) throw error
      this.find({ kind: 'checkpoint', message: `the checkpoint of size ${size} does not verify: ${error.message}` })
    }
  }

  #surplus({ committed, highest, surplusHashes }: Awaited<ReturnType<Inspection['inspectHeads']>>): void {
    for (const [table, index] of Object.entries(highest)) {
      if (index >= committed.size) {
        this.find({ kind: 'surplus', index, message: `${table} has ${index}, the log ends at ${committed.size}` })
      }
    }
    if (surplusHashes > 0) {
      this.find({ kind: 'surplus', message: `${surplusHashes} leaf hashes beyond the end of the log` })
    }
  }

  find(finding: Finding): void {
    this.#damaged++
    if (this.#findings.length < SHOWN) this.#findings.push(finding)
  }

  #tell(what: FsckStep['what'], done: number, of: number): void {
    this.#onState(
      {
        origin: this.#options.origin,
        target: this.#target,
        next: this.#next,
        edge: this.#edge.map(({ leaves, hash: root }) => [leaves, hex(root)]),
        roots: Object.fromEntries([...this.#roots].map(([size, root]) => [String(size), root])),
        table: this.#table,
        ...(this.#cursor === undefined ? {} : { cursor: this.#cursor }),
        signaturesChecked: this.#signaturesChecked,
        keyRowsChecked: this.#keyRowsChecked,
        damaged: this.#damaged,
        findings: this.#findings,
      },
      { what, done, of },
    )
  }

  report(): FsckReport {
    return {
      origin: this.#options.origin,
      size: this.#target.size,
      rootHashHex: this.#roots.get(this.#target.size) ?? '',
      signaturesChecked: this.#signaturesChecked,
      keyRowsChecked: this.#keyRowsChecked,
      damaged: this.#damaged,
      findings: this.#findings,
    }
  }
}

function ctLeaf(leaf: Uint8Array): ReturnType<typeof parseLeaf> | undefined {
  try {
    return parseLeaf(leaf)
  } catch {
    return undefined
  }
}

/** `extra_data` of RFC 6962 §4.6: lengths that fit, and for a precertificate the certificate before its chain. */
function isExtraData(leaf: Uint8Array, extraData: Uint8Array): boolean {
  const isPrecert = leaf[11] === 1
  const afterFirst = isPrecert ? afterVector(extraData) : extraData
  const chain = afterFirst === undefined ? undefined : afterVector(afterFirst)
  if (afterFirst === undefined || chain?.length !== 0) return false
  let rest: Uint8Array | undefined = afterFirst.subarray(3)
  while (rest !== undefined && rest.length > 0) rest = afterVector(rest)
  return rest !== undefined
}

/** What follows a vector with a length of 24 bits, or undefined if it does not fit. */
function afterVector(bytes: Uint8Array): Uint8Array | undefined {
  const [high = 0, middle = 0, low = 0] = bytes
  const end = 3 + high * 65_536 + middle * 256 + low
  return bytes.length < 3 || end > bytes.length ? undefined : bytes.subarray(end)
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
