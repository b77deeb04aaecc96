/**
 * The thread that compares: uses on one side, what explains them on the other, in a temporary database, since a million
 * entries are some three million uses. Asked by `reconcile.ts`, one question after the other.
 */
import { hash } from 'node:crypto'
import { parentPort } from 'node:worker_threads'
import Database from 'better-sqlite3'
import type { AccountLine, UseDigests } from '#hsm'
import { type LogKind, parseLeaf, type SealedEntry } from '#transparency-log'
import {
  encodeSctList,
  parseCertificate,
  replaceExtension,
  sctSignatureInput,
  sequence,
  serializeSct,
  objectIdentifier,
  octetString,
  OID,
} from '#x509'

export type ReconcileAsk =
  | { readonly do: 'account'; readonly lines: readonly AccountLine[] }
  | { readonly do: 'digests'; readonly digests: readonly UseDigests[] }
  | { readonly do: 'certificates'; readonly certificates: readonly Uint8Array[] }
  | {
      readonly do: 'entries'
      readonly kind: LogKind
      readonly key: string
      readonly logId: Uint8Array
      /** Of a Rekor v1 shard: entries of the shards before it. Its promises name virtual indexes. */
      readonly indexOffset: number
      readonly certificateKeys: readonly string[]
      /** Entries below this index were sealed before the account was read: it must have them. */
      readonly settled: number
      readonly entries: readonly SealedEntry[]
    }
  | { readonly do: 'noted'; readonly key: string; readonly digests: Uint8Array }
  | { readonly do: 'compare' }

/** One use that nothing explains. */
export interface UnknownUse {
  /** Line of the account. */
  readonly line: number
  readonly atMs: number
  readonly key: string
  readonly act: string
  /** SHA-256 of what was signed, hex. */
  readonly digest: string
}

export interface KeyUses {
  readonly key: string
  readonly act: string
  readonly uses: number
  /** How many of them are known, and by what. */
  readonly known: Readonly<Partial<Record<How, number>>>
  readonly unknown: number
}

/** `noted`: the server asked for it, and there is no other trace: for certificates one that was given up. */
export type How =
  | 'certificate'
  | 'precertificate'
  | 'sct'
  | 'set'
  | 'ceremony'
  | 'noted'
  | 'accepted'
  | 'selfTest'
  | 'accountHead'
  | 'notItemised'

export interface Comparison {
  readonly keys: readonly KeyUses[]
  /** The first thousand. */
  readonly unknown: readonly UnknownUse[]
  readonly unknownTotal: number
  /** Artefacts that the account has no use for, since its first line: the first thousand. */
  readonly unaccounted: readonly { readonly key: string; readonly what: How; readonly digest: string }[]
  readonly unaccountedTotal: number
  /** Accounted for and not released, by key. */
  readonly withheld: Readonly<Record<string, number>>
}

/** Uses of a key that somebody asked for; the rest of the account is administration. */
const ASKED: ReadonlySet<string> = new Set([
  'certificate',
  'caCertificate',
  'treeHead',
  'witnessHead',
  'sct',
  'set',
  'timestamp',
  'tuf',
])
/** Uses that the agent makes by itself, of text that is its own. */
const OWN: ReadonlySet<string> = new Set(['selfTest', 'accountHead'])

/** Notes of second lines of checkpoints; the message names the log. */
const WITNESSES = '+witness'
/** Digests that an operator has looked into explain a use of any key. */
const ACCEPTED = 'accepted'
const LISTED = 1000
const NO_EXTENSIONS = new Uint8Array(0)

const db = new Database('')
db.pragma('journal_mode = OFF')
db.exec(`
  CREATE TABLE use (line INTEGER NOT NULL, at_ms INTEGER NOT NULL, key TEXT NOT NULL, act TEXT NOT NULL, digest BLOB NOT NULL) STRICT;
  CREATE TABLE joint (line INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, key TEXT NOT NULL, act TEXT NOT NULL, count INTEGER NOT NULL, digest BLOB NOT NULL) STRICT;
  CREATE TABLE own (key TEXT NOT NULL, act TEXT NOT NULL, count INTEGER NOT NULL) STRICT;
  CREATE TABLE withheld (key TEXT NOT NULL, count INTEGER NOT NULL) STRICT;
  CREATE TABLE known (digest BLOB NOT NULL, key TEXT NOT NULL, how TEXT NOT NULL, settled INTEGER NOT NULL, PRIMARY KEY (digest, key)) STRICT, WITHOUT ROWID;
`)
const addUse = db.prepare('INSERT INTO use VALUES (?, ?, ?, ?, ?)')
const addJoint = db.prepare('INSERT INTO joint VALUES (?, ?, ?, ?, ?, ?)')
const addOwn = db.prepare('INSERT INTO own VALUES (?, ?, ?)')
const addWithheld = db.prepare('INSERT INTO withheld VALUES (?, ?)')
const addKnown = db.prepare('INSERT OR IGNORE INTO known VALUES (?, ?, ?, ?)')
const takeJoint = db.prepare<[number], { at_ms: number; key: string; act: string; digest: Uint8Array }>(
  'DELETE FROM joint WHERE line = ? RETURNING at_ms, key, act, digest',
)
/** An account that was begun anew knows nothing of what was made before. */
let firstAtMs = Number.POSITIVE_INFINITY

function takeAccount(lines: readonly AccountLine[]): void {
  for (const { sequence, atMs, key, act, count, digest } of lines) {
    firstAtMs = Math.min(firstAtMs, atMs)
    if (act === 'withheld') addWithheld.run(key, count)
    else if (OWN.has(act)) addOwn.run(key, act, count)
    else if (!ASKED.has(act)) continue
    else if (count === 1) addUse.run(sequence, atMs, key, act, digest)
    else addJoint.run(sequence, atMs, key, act, count, digest)
  }
}

function takeDigests(digests: readonly UseDigests[]): void {
  for (const { sequence, digests: joined } of digests) {
    const line = takeJoint.get(sequence)
    if (line === undefined) continue
    // They do not stand in the chain themselves: the line's own digest, which does, is over them.
    if (!Buffer.from(line.digest).equals(sha256(joined))) {
      throw new Error(`the digests of line ${sequence} of the account are not those that it was written with`)
    }
    for (let at = 0; at < joined.length; at += 32) {
      addUse.run(sequence, line.at_ms, line.key, line.act, joined.subarray(at, at + 32))
    }
  }
}

function takeCertificates(certificates: readonly Uint8Array[]): void {
  // Signed with the root's key, which is another agent's but for the one that has it.
  for (const der of certificates) addKnown.run(sha256(parseCertificate(der).tbsDer), '', 'ceremony' satisfies How, 0)
}

function takeEntries(ask: Extract<ReconcileAsk, { do: 'entries' }>): void {
  for (const entry of ask.entries) {
    const settled = entry.index < ask.settled && entry.timestampMs >= firstAtMs ? 1 : 0
    const know = (key: string, how: How, message: Uint8Array) => addKnown.run(sha256(message), key, how, settled)
    if (ask.kind === 'rekor-v1') know(ask.key, 'set', setMessage(entry, ask))
    if (ask.kind !== 'ct') continue
    const { entry: logged, timestampMs } = parseLeaf(entry.leaf)
    know(ask.key, 'sct', sctSignatureInput(logged, timestampMs, NO_EXTENSIONS))
    if (logged.type !== 'precert' || entry.attachment === undefined) continue
    const precertificate = parseCertificate(firstVector(entry.attachment)).tbsDer
    const signatureDer = entry.entrySignature
    const sct = serializeSct({ logId: ask.logId, timestampMs, extensions: NO_EXTENSIONS, signatureDer })
    const final = replaceExtension(precertificate, OID.ctPoison, sctListExtension(sct))
    // Also of a former issuing key, whose name nobody knows any more.
    addKnown.run(sha256(precertificate), '', 'precertificate' satisfies How, 0)
    addKnown.run(sha256(final), '', 'certificate' satisfies How, 0)
    for (const key of ask.certificateKeys) {
      know(key, 'precertificate', precertificate)
      // That it was logged does not say that the certificate was finished: the account need not have it.
      addKnown.run(sha256(final), key, 'certificate' satisfies How, 0)
    }
  }
}

/** What a Rekor v1 log promises of an entry, as RFC 8785 writes it. */
function setMessage(
  { leaf, index, timestampMs }: SealedEntry,
  { logId, indexOffset }: { readonly logId: Uint8Array; readonly indexOffset: number },
): Uint8Array {
  const body = Buffer.from(leaf).toString('base64')
  const logID = Buffer.from(logId).toString('hex')
  const integratedTime = Math.floor(timestampMs / 1000)
  return Buffer.from(JSON.stringify({ body, integratedTime, logID, logIndex: indexOffset + index }))
}

function sctListExtension(sct: Uint8Array): Uint8Array {
  return sequence(objectIdentifier(OID.sctList), octetString(encodeSctList([sct])))
}

/** The precertificate in `extra_data` (RFC 6962 §4.6). */
function firstVector(bytes: Uint8Array): Uint8Array {
  const length = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).readUIntBE(0, 3)
  return bytes.subarray(3, 3 + length)
}

function takeNotes(key: string, digests: Uint8Array): void {
  const how: How = key === ACCEPTED ? 'accepted' : 'noted'
  for (let at = 0; at < digests.length; at += 32) {
    addKnown.run(digests.subarray(at, at + 32), key === ACCEPTED ? '' : key, how, 0)
  }
}

const EXPLAINED = `
  SELECT use.*, coalesce(
    (SELECT how FROM known WHERE known.digest = use.digest AND known.key = iif(use.act = 'witnessHead', '${WITNESSES}', use.key)),
    (SELECT how FROM known WHERE known.digest = use.digest AND known.key = '')
  ) AS how FROM use`

function compare(): Comparison {
  const rows = [
    ...(db.prepare(`SELECT key, act, how, count(*) AS uses FROM (${EXPLAINED}) GROUP BY key, act, how`).all() as Row[]),
    ...(db.prepare('SELECT key, act, act AS how, sum(count) AS uses FROM own GROUP BY key, act').all() as Row[]),
    // Of before an agent kept each digest.
    ...(db
      .prepare("SELECT key, act, 'notItemised' AS how, sum(count) AS uses FROM joint GROUP BY key, act")
      .all() as Row[]),
  ]
  const keys = [...Map.groupBy(rows, ({ key, act }) => `${key} ${act}`).values()].flatMap((group) => {
    const [first] = group
    if (first === undefined) return []
    const known = Object.fromEntries(group.flatMap(({ how, uses }) => (how === null ? [] : [[how, uses]])))
    const unknown = group.find(({ how }) => how === null)?.uses ?? 0
    return [{ key: first.key, act: first.act, uses: group.reduce((sum, { uses }) => sum + uses, 0), known, unknown }]
  })
  const unknown = db
    .prepare(
      `SELECT line, at_ms atMs, key, act, lower(hex(digest)) digest FROM (${EXPLAINED}) WHERE how IS NULL ORDER BY line LIMIT ${LISTED}`,
    )
    .all() as UnknownUse[]
  const missing = `FROM known WHERE settled = 1 AND NOT EXISTS (SELECT 1 FROM by_digest WHERE by_digest.digest = known.digest)`
  db.exec('DROP TABLE IF EXISTS by_digest; CREATE TABLE by_digest (digest BLOB PRIMARY KEY) STRICT, WITHOUT ROWID')
  db.exec('INSERT OR IGNORE INTO by_digest SELECT digest FROM use')
  const notItemised = new Set(
    (db.prepare('SELECT DISTINCT key FROM joint').all() as { key: string }[]).map(({ key }) => key),
  )
  const unaccounted = (
    db.prepare(`SELECT key, how what, lower(hex(digest)) digest ${missing} LIMIT ${LISTED}`).all() as {
      key: string
      what: How
      digest: string
    }[]
  ).filter(({ key }) => !notItemised.has(key))
  const withheld = db.prepare('SELECT key, sum(count) AS uses FROM withheld GROUP BY key').all() as Row[]
  return {
    keys: keys.toSorted((a, b) => (`${a.key} ${a.act}` < `${b.key} ${b.act}` ? -1 : 1)),
    unknown,
    unknownTotal: keys.reduce((sum, one) => sum + one.unknown, 0),
    unaccounted,
    unaccountedTotal: unaccounted.length,
    withheld: Object.fromEntries(withheld.map(({ key, uses }) => [key, uses])),
  }
}

interface Row {
  readonly key: string
  readonly act: string
  readonly how: How | null
  readonly uses: number
}

function answer(ask: ReconcileAsk): Comparison | undefined {
  if (ask.do === 'compare') return compare()
  db.transaction(() => {
    if (ask.do === 'account') takeAccount(ask.lines)
    else if (ask.do === 'digests') takeDigests(ask.digests)
    else if (ask.do === 'certificates') takeCertificates(ask.certificates)
    else if (ask.do === 'entries') takeEntries(ask)
    else takeNotes(ask.key, ask.digests)
  })()
  return undefined
}

function sha256(bytes: Uint8Array): Buffer {
  return hash('sha256', bytes, 'buffer')
}

parentPort?.on('message', (ask: ReconcileAsk) => {
  try {
    parentPort?.postMessage({ result: answer(ask) }, [])
  } catch (error) {
    parentPort?.postMessage({ error: error instanceof Error ? error.message : String(error) }, [])
  }
})
