/**
 * After a crash: everything that the loader's clients know, held against everything that the logs say. It rests on the
 * independent checker and on HTTP alone.
 */
import { createHash, verify, X509Certificate } from 'node:crypto'
import {
  CheckError,
  type Head,
  inclusionProof,
  isIncluded,
  type Recount,
  recountCt,
  recountTiles,
  verifyCheckpoint,
  verifyTreeHead,
} from './checker.ts'
import type { Ledger } from './ledger.ts'
import type { Outcome } from './loader.ts'

/** Where the logs are and what their clients pinned. */
export interface Logs {
  readonly rekorV1: string
  readonly rekorV2: string
  readonly ct: string
  readonly treeId: string
  readonly keys: Readonly<Record<'v1' | 'v2' | 'ct', { readonly spkiDer: Buffer; readonly origin: string }>>
}

/** The three trees as they are, and which request each entry is of: by the digest that the loader knows it by. */
export interface Found {
  readonly v1: Recount
  readonly v2: Recount
  readonly ct: Recount
  readonly index: Readonly<Record<'v1' | 'v2' | 'ca', ReadonlyMap<string, number>>>
}

export interface Scope {
  /** Everything since the first load. */
  readonly all: Ledger
  /** What gets a proof and a search of its own over HTTP; older acknowledgements get one in `sampleOf`. */
  readonly fresh: Ledger
  readonly sampleOf: number
}

/** Throws `CheckError` for the first thing that is not as promised. */
export async function checkWholeLogs(logs: Logs, { all, fresh, sampleOf }: Scope): Promise<Found> {
  const [v1, v2, ct] = await Promise.all([
    recountTiles(`${logs.rekorV1}/api/v1/tiles/${logs.treeId}`, logs.keys.v1),
    recountTiles(logs.rekorV2, logs.keys.v2),
    recountCt(logs.ct, logs.keys.ct.spkiDer),
  ])
  const index = {
    v1: indexBy(v1.entries, ofClients(digestOfV1Body)),
    v2: indexBy(v2.entries, ofClients(digestOfV2Body)),
    ca: indexBy(ct.extraData, digestOfPrecertificate),
  }
  const found: Found = { v1, v2, ct, index }
  for (const { log, head } of headsOf(all, logs)) {
    const root = found[log].roots[head.size]
    if (root === undefined || !root.equals(head.root)) {
      throw new CheckError(`${log}: a checkpoint of size ${head.size} was seen that the present one does not continue`)
    }
  }
  for (const outcome of all.acknowledged) checkKept(outcome, found, logs)
  checkNothingElse(found, all)
  const older = all.acknowledged.filter((outcome) => !fresh.acknowledged.includes(outcome))
  const sample = older.filter((_, at) => at % sampleOf === 0)
  await inTurns([...fresh.acknowledged, ...sample], (outcome) => checkProof(outcome, found, logs))
  await inTurns([...fresh.acknowledged, ...fresh.unanswered, ...sample], (outcome) => checkSearch(outcome, found, logs))
  return found
}

/** The acknowledged entry is where it was said to be, as it was said to be. */
function checkKept(outcome: Outcome, found: Found, logs: Logs): void {
  const { use, digest } = outcome
  if (use === 'v1') {
    const { uuid, body, index } = v1Entry(outcome.reply)
    const leaf = found.v1.leafHashes[index]?.toString('hex') ?? 'missing'
    const same = found.v1.entries[index]?.equals(body) === true && uuid.endsWith(leaf) && uuid.length === 80
    if (!same || found.index.v1.get(digest) !== index)
      throw new CheckError(`v1: acknowledged entry ${index} is not there`)
  } else if (use === 'v2') {
    const { body, index } = v2Entry(outcome.reply)
    const same = found.v2.entries[index]?.equals(body) === true
    if (!same || found.index.v2.get(digest) !== index)
      throw new CheckError(`v2: acknowledged entry ${index} is not there`)
  } else {
    const certificate = issued(outcome.reply)
    const index = found.index.ca.get(digest)
    const entry = index === undefined ? undefined : found.ct.entries[index]
    if (entry === undefined) throw new CheckError(`ct: no entry of certificate ${certificate.serialNumber}`)
    checkSct(certificate, entry, logs)
  }
}

/** No entry that nobody asked for. That none is there twice was seen when they were indexed. */
function checkNothingElse({ index }: Found, all: Ledger): void {
  for (const use of ['v1', 'v2', 'ca'] as const) {
    const sent = new Set(
      [...all.acknowledged, ...all.unanswered].filter((one) => one.use === use).map((one) => one.digest),
    )
    for (const [digest, at] of index[use]) {
      if (!sent.has(digest)) throw new CheckError(`${use}: nobody asked for entry ${at}`)
    }
  }
}

/** A proof in a present checkpoint, as a client of that log gets it. */
async function checkProof({ use, digest }: Outcome, found: Found, logs: Logs): Promise<void> {
  const index = found.index[use as keyof Found['index']].get(digest) ?? -1
  if (use === 'v1') {
    const { head, proof, uuid } = v1Entry(await getText(`${logs.rekorV1}/api/v1/log/entries?logIndex=${index}`), logs)
    const present =
      uuid.endsWith(found.v1.leafHashes[index]?.toString('hex') ?? 'missing') && head.size >= found.v1.size
    if (!present || !isIncluded(leafOf(found.v1, index), index, head, proof))
      throw new CheckError(`v1: no proof of ${index}`)
  } else if (use === 'v2') {
    // The client computes it from tiles, which were found to hold these hashes.
    const head = { size: found.v2.size, root: rootAt(found.v2, found.v2.size) }
    const proof = inclusionProof(found.v2.leafHashes, index)
    if (!isIncluded(leafOf(found.v2, index), index, head, proof)) throw new CheckError(`v2: no proof of ${index}`)
  } else {
    const leafHash = leafOf(found.ct, index)
    const query = `hash=${encodeURIComponent(leafHash.toString('base64'))}&tree_size=${found.ct.size}`
    const reply = JSON.parse(await getText(`${logs.ct}/ct/v1/get-proof-by-hash?${query}`)) as {
      leaf_index: number
      audit_path: string[]
    }
    const head = { size: found.ct.size, root: rootAt(found.ct, found.ct.size) }
    const proof = reply.audit_path.map((hash) => Buffer.from(hash, 'base64'))
    if (reply.leaf_index !== index || !isIncluded(leafHash, index, head, proof))
      throw new CheckError(`ct: no proof of ${index}`)
  }
}

/** Search knows exactly what the tree has. */
async function checkSearch({ use, digest }: Outcome, found: Found, logs: Logs): Promise<void> {
  if (use !== 'v1') return
  const response = await fetch(`${logs.rekorV1}/api/v1/index/retrieve`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ hash: `sha256:${digest}` }),
  })
  const uuids = (await response.json()) as string[]
  const index = found.index.v1.get(digest)
  const expected = index === undefined ? [] : [leafOf(found.v1, index).toString('hex')]
  const same = uuids.length === expected.length && uuids.every((uuid, at) => uuid.slice(16) === expected[at])
  if (!same) throw new CheckError(`v1: search for ${digest} finds ${uuids.join()}, the tree has it at ${index}`)
}

/** Every checkpoint that a client was ever shown, by whatever way, its signature checked. */
function headsOf(ledger: Ledger, logs: Logs): { log: 'v1' | 'v2' | 'ct'; head: Head }[] {
  const seen = new Map<Outcome, { log: 'v1' | 'v2' | 'ct'; head: Head } | undefined>()
  for (const outcome of [...ledger.acknowledged, ...ledger.heads]) {
    const known = headCache.get(outcome) ?? headOf(outcome, logs)
    headCache.set(outcome, known)
    seen.set(outcome, known)
  }
  return [...seen.values()].filter((head) => head !== undefined)
}

/** Signatures are checked once: the same outcomes are looked at after each crash. */
const headCache = new WeakMap<Outcome, ReturnType<typeof headOf>>()

function headOf({ use, sent, reply }: Outcome, logs: Logs): { log: 'v1' | 'v2' | 'ct'; head: Head } | undefined {
  if (use === 'ca') return undefined
  if (use === 'v1' || use === 'v2') {
    const { head, body, index, proof } = use === 'v1' ? v1Entry(reply, logs) : v2Entry(reply, logs)
    if (!isIncluded(sha256(Buffer.from([0]), body), index, head, proof))
      throw new CheckError(`${use}: a reply's proof is wrong`)
    return { log: use, head }
  }
  if (sent === 'ct') return { log: 'ct', head: verifyTreeHead(reply, logs.keys.ct.spkiDer) }
  if (sent === 'v2') return { log: 'v2', head: verifyCheckpoint(reply, logs.keys.v2) }
  const { signedTreeHead } = JSON.parse(reply) as { signedTreeHead: string }
  return { log: 'v1', head: verifyCheckpoint(signedTreeHead, logs.keys.v1) }
}

interface ReplyEntry {
  readonly body: Buffer
  readonly index: number
  readonly head: Head
  readonly proof: readonly Buffer[]
}

interface V1ReplyEntry {
  readonly body: string
  readonly integratedTime: number
  readonly logID: string
  readonly logIndex: number
  readonly verification: {
    readonly inclusionProof: { readonly checkpoint: string; readonly hashes: readonly string[] }
    readonly signedEntryTimestamp: string
  }
}

/** The log's signature over the entry's place and time, in RFC 8785 form. */
function checkSet({ body, integratedTime, logID, logIndex, verification }: V1ReplyEntry, { keys }: Logs): void {
  const signed = Buffer.from(JSON.stringify({ body, integratedTime, logID, logIndex }))
  const signature = Buffer.from(verification.signedEntryTimestamp, 'base64')
  if (!verify('sha256', signed, { key: keys.v1.spkiDer, format: 'der', type: 'spki' }, signature)) {
    throw new CheckError(`v1: the signed entry timestamp of ${logIndex} is not the log's`)
  }
}

/** Without `logs` the log's signatures are not looked at. */
export function v1Entry(reply: string, logs?: Logs): ReplyEntry & { readonly uuid: string } {
  const [uuid, entry] = Object.entries(JSON.parse(reply) as Record<string, V1ReplyEntry>)[0] ?? ['', undefined]
  if (entry === undefined) throw new CheckError('v1: an empty reply')
  const { checkpoint, hashes } = entry.verification.inclusionProof
  if (logs !== undefined) checkSet(entry, logs)
  return {
    uuid,
    body: Buffer.from(entry.body, 'base64'),
    index: entry.logIndex,
    head: logs === undefined ? { size: 0, root: Buffer.alloc(0) } : verifyCheckpoint(checkpoint, logs.keys.v1),
    proof: hashes.map((hash) => Buffer.from(hash, 'hex')),
  }
}

export function v2Entry(reply: string, logs?: Logs): ReplyEntry {
  const entry = JSON.parse(reply) as {
    logIndex: string
    canonicalizedBody: string
    inclusionProof: { hashes: string[]; checkpoint: { envelope: string } }
  }
  const { envelope } = entry.inclusionProof.checkpoint
  return {
    body: Buffer.from(entry.canonicalizedBody, 'base64'),
    index: Number(entry.logIndex),
    head: logs === undefined ? { size: 0, root: Buffer.alloc(0) } : verifyCheckpoint(envelope, logs.keys.v2),
    proof: entry.inclusionProof.hashes.map((hash) => Buffer.from(hash, 'base64')),
  }
}

function issued(reply: string): X509Certificate {
  const { certificates } = (
    JSON.parse(reply) as { signedCertificateEmbeddedSct: { chain: { certificates: string[] } } }
  ).signedCertificateEmbeddedSct.chain
  return new X509Certificate(certificates[0] ?? '')
}

const SCT_LIST_OID = Buffer.from('060a2b06010401d679020402', 'hex')

/** The certificate's only SCT is this log's promise of exactly that leaf: what is signed has the leaf's own bytes. */
function checkSct(certificate: X509Certificate, leaf: Buffer, { keys }: Logs): void {
  const at = certificate.raw.indexOf(SCT_LIST_OID)
  const list = derContent(derContent(certificate.raw.subarray(at + SCT_LIST_OID.length)))
  const sct = list.subarray(4, 4 + list.readUInt16BE(2))
  if (at < 0 || list.length !== sct.length + 4) throw new CheckError('not exactly one SCT in a certificate')
  const { spkiDer } = keys.ct
  const [logId, timestamp, signature] = [sct.subarray(1, 33), sct.subarray(33, 41), sct.subarray(47)]
  const promised =
    logId.equals(sha256(spkiDer)) &&
    timestamp.equals(leaf.subarray(2, 10)) &&
    verify('sha256', leaf, { key: spkiDer, format: 'der', type: 'spki' }, signature)
  if (!promised) throw new CheckError(`the SCT of certificate ${certificate.serialNumber} promises something else`)
}

/** Content of the first element, whose length has at most two more bytes. */
function derContent(der: Buffer): Buffer {
  const first = der[1] ?? 0
  if (first < 0x80) return der.subarray(2, 2 + first)
  return first === 0x81 ? der.subarray(3, 3 + der.readUInt8(2)) : der.subarray(4, 4 + der.readUInt16BE(2))
}

function precertificateOf(extraData: Buffer): X509Certificate {
  return new X509Certificate(extraData.subarray(3, 3 + extraData.readUIntBE(0, 3)))
}

function spkiOf(certificate: X509Certificate): Buffer {
  return certificate.publicKey.export({ type: 'spki', format: 'der' })
}

function digestOfV1Body(body: Buffer): string {
  return (JSON.parse(body.toString()) as { spec: { data: { hash: { value: string } } } }).spec.data.hash.value
}

function digestOfV2Body(body: Buffer): string {
  const parsed = JSON.parse(body.toString()) as { spec: { hashedRekordV002: { data: { digest: string } } } }
  return Buffer.from(parsed.spec.hashedRekordV002.data.digest, 'base64').toString('hex')
}

/** What the server signs by itself before a publication, over and over: no client knows of it. */
const CANARY = sha256(Buffer.from('chancery canary\n')).toString('hex')

function ofClients(digestOf: (entry: Buffer) => string): (entry: Buffer) => string | undefined {
  return (entry) => {
    const digest = digestOf(entry)
    return digest === CANARY ? undefined : digest
  }
}

function digestOfPrecertificate(extra: Buffer): string | undefined {
  const precertificate = precertificateOf(extra)
  const isCanary = /^URI:https:\/\/[^/]+\/chancery\/canary$/.test(precertificate.subjectAltName ?? '')
  return isCanary ? undefined : sha256(spkiOf(precertificate)).toString('hex')
}

/** Entries without a digest are left out. */
function indexBy(entries: readonly Buffer[], digestOf: (entry: Buffer) => string | undefined): Map<string, number> {
  const index = new Map<string, number>()
  entries.forEach((entry, at) => {
    const digest = digestOf(entry)
    if (digest === undefined) return
    if (index.has(digest)) throw new CheckError(`entries ${index.get(digest)} and ${at} are of the same request`)
    index.set(digest, at)
  })
  return index
}

function leafOf(recount: Recount, index: number): Buffer {
  return recount.leafHashes[index] ?? Buffer.alloc(0)
}

function rootAt(recount: Recount, size: number): Buffer {
  return recount.roots[size] ?? Buffer.alloc(0)
}

/** Eight at once, as a few clients would. */
async function inTurns<T>(items: readonly T[], each: (item: T) => Promise<void>): Promise<void> {
  let next = 0
  const lane = async (): Promise<void> => {
    for (let item = items[next++]; item !== undefined; item = items[next++]) await each(item)
  }
  await Promise.all(Array.from({ length: 8 }, lane))
}

async function getText(url: string): Promise<string> {
  const response = await fetch(url)
  if (response.status !== 200) throw new CheckError(`${url} answered ${response.status}`)
  return await response.text()
}

function sha256(...parts: readonly Buffer[]): Buffer {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest()
}
