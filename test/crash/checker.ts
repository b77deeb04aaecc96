/**
 * The independent checker: reads a log over HTTP as any auditor could, recomputes its whole tree from the entries, and
 * verifies what was promised. It imports nothing of this project. Trees are computed twice: by the few lines of
 * RFC 6962 §2.1 below, for every size, and by merkletreejs, for the present one.
 */
import { createHash, createPublicKey, type KeyObject, verify } from 'node:crypto'
import { MerkleTree } from 'merkletreejs'

/** A tree as it was found, complete: `roots[size]` is the root of its first `size` entries. */
export interface Recount {
  readonly size: number
  readonly entries: readonly Buffer[]
  readonly leafHashes: readonly Buffer[]
  readonly roots: readonly Buffer[]
}

export interface Head {
  readonly size: number
  readonly root: Buffer
}

/** The public key of a log and the name under which it signs. */
export interface LogKey {
  readonly spkiDer: Buffer
  readonly origin: string
}

export class CheckError extends Error {
  override readonly name = 'CheckError'
}

/** Fetches a log by its tiles, checks checkpoint, bundles, hash tiles and root; throws `CheckError` for what is wrong. */
export async function recountTiles(prefix: string, key: LogKey): Promise<Recount> {
  const head = verifyCheckpoint(await fetchText(`${prefix}/checkpoint`), key)
  const entries: Buffer[] = []
  for (let n = 0; n * 256 < head.size; n += 1) {
    const width = Math.min(256, head.size - n * 256)
    entries.push(...splitBundle(await fetchBytes(`${prefix}/tile/entries/${tileNumber(n, width)}`), width))
  }
  const recount = recountEntries(entries, head)
  await checkHashTiles(prefix, recount)
  return recount
}

/** Fetches a CT log by get-entries (RFC 6962 §4.6) and checks its tree head; an entry is its MerkleTreeLeaf. */
export async function recountCt(base: string, spkiDer: Buffer): Promise<Recount & { extraData: readonly Buffer[] }> {
  const head = verifyTreeHead(await fetchText(`${base}/ct/v1/get-sth`), spkiDer)
  const entries: Buffer[] = []
  const extraData: Buffer[] = []
  while (entries.length < head.size) {
    const reply = await fetchText(`${base}/ct/v1/get-entries?start=${entries.length}&end=${head.size - 1}`)
    const batch = (JSON.parse(reply) as { entries: { leaf_input: string; extra_data: string }[] }).entries
    if (batch.length === 0) throw new CheckError(`get-entries gave nothing from ${entries.length} on`)
    entries.push(...batch.map((entry) => Buffer.from(entry.leaf_input, 'base64')))
    extraData.push(...batch.map((entry) => Buffer.from(entry.extra_data, 'base64')))
  }
  return { ...recountEntries(entries, head), extraData }
}

/** Throws `CheckError` unless the entries lead to the head. */
export function recountEntries(entries: readonly Buffer[], head: Head): Recount {
  if (entries.length !== head.size) throw new CheckError(`${entries.length} entries under a head of ${head.size}`)
  const leafHashes = entries.map((entry) => sha256(Buffer.from([0]), entry))
  const roots = rootsOfAllSizes(leafHashes)
  const root = roots[head.size]
  if (root === undefined || !root.equals(head.root)) {
    throw new CheckError(`the entries lead to root ${root?.toString('hex')}, the head of ${head.size} says otherwise`)
  }
  const second = new MerkleTree([...leafHashes], (bytes: Buffer) => sha256(Buffer.from([1]), bytes)).getRoot()
  if (head.size > 0 && !second.equals(root)) throw new CheckError('merkletreejs finds another root')
  return { size: head.size, entries, leafHashes, roots }
}

/** RFC 6962 §2.1 for every size: the complete subtrees of the entries so far, largest first, folded from the right. */
function rootsOfAllSizes(leafHashes: readonly Buffer[]): Buffer[] {
  const roots = [sha256()]
  const subtrees: { height: number; hash: Buffer }[] = []
  for (const leaf of leafHashes) {
    let last = { height: 0, hash: leaf }
    for (let top = subtrees.at(-1); top?.height === last.height; top = subtrees.at(-1)) {
      subtrees.pop()
      last = { height: last.height + 1, hash: node(top.hash, last.hash) }
    }
    subtrees.push(last)
    roots.push(subtrees.map(({ hash }) => hash).reduceRight((right, left) => node(left, right)))
  }
  return roots
}

/** Every proof of a tile log is made of these tiles: each must hold the hashes that the entries lead to. */
async function checkHashTiles(prefix: string, { size, leafHashes }: Recount): Promise<void> {
  let hashes: readonly Buffer[] = leafHashes
  for (let level = 0; hashes.length > 0; level += 1) {
    const above: Buffer[] = []
    for (let n = 0; n * 256 < hashes.length; n += 1) {
      const expected = hashes.slice(n * 256, n * 256 + 256)
      const tile = await fetchBytes(`${prefix}/tile/${level}/${tileNumber(n, expected.length)}`)
      if (!tile.equals(Buffer.concat(expected))) throw new CheckError(`tile ${level}/${n} of ${size} is not the tree's`)
      const top = expected.length === 256 ? rootsOfAllSizes(expected)[256] : undefined
      if (top !== undefined) above.push(top)
    }
    hashes = above
  }
}

/** RFC 9162 §2.1.3.2; `proof` from leaf to root. True if it leads from the leaf to the root. */
export function isIncluded(leafHash: Buffer, index: number, head: Head, proof: readonly Buffer[]): boolean {
  if (index < 0 || index >= head.size) return false
  let [fn, sn, hash] = [index, head.size - 1, leafHash]
  for (const sibling of proof) {
    if (sn === 0) return false
    if (fn % 2 === 1 || fn === sn) {
      hash = node(sibling, hash)
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [Math.floor(fn / 2), Math.floor(sn / 2)]
    } else hash = node(hash, sibling)
    fn = Math.floor(fn / 2)
    sn = Math.floor(sn / 2)
  }
  return sn === 0 && hash.equals(head.root)
}

/** The proof that a client makes from a log's hashes (RFC 6962 §2.1.1), leaf to root. */
export function inclusionProof(leafHashes: readonly Buffer[], index: number): Buffer[] {
  if (leafHashes.length <= 1) return []
  let split = 1
  while (split * 2 < leafHashes.length) split *= 2
  const [left, right] = [leafHashes.slice(0, split), leafHashes.slice(split)]
  return index < split
    ? [...inclusionProof(left, index), rootOf(right)]
    : [...inclusionProof(right, index - split), rootOf(left)]
}

function rootOf(leafHashes: readonly Buffer[]): Buffer {
  let hashes = leafHashes
  // Pairs, an odd last one copied up: the same tree as RFC 6962's split.
  while (hashes.length > 1) {
    hashes = hashes.flatMap((hash, at) => {
      if (at % 2 === 1) return []
      const right = hashes[at + 1]
      return [right === undefined ? hash : node(hash, right)]
    })
  }
  return hashes[0] ?? sha256()
}

/** C2SP signed note: body, an empty line, then `— name base64(4 bytes of key hint, signature)`. Throws `CheckError`. */
export function verifyCheckpoint(text: string, { spkiDer, origin }: LogKey): Head {
  const end = text.indexOf('\n\n')
  const body = text.slice(0, end + 1)
  const [name, size = '', root = ''] = body.split('\n')
  if (name !== origin) throw new CheckError(`a checkpoint of ${name}, not of ${origin}`)
  const lines = text
    .slice(end + 2)
    .split('\n')
    .filter((line) => line.startsWith('— '))
  const good = lines.some((line) => {
    const signature = Buffer.from(line.slice(line.lastIndexOf(' ') + 1), 'base64').subarray(4)
    return verify('sha256', Buffer.from(body), keyOf(spkiDer), signature)
  })
  if (!good) throw new CheckError(`no signature of ${origin} under its checkpoint of size ${size}`)
  return { size: Number(size), root: Buffer.from(root, 'base64') }
}

/** RFC 6962 §3.5. Throws `CheckError`. */
export function verifyTreeHead(reply: string, spkiDer: Buffer): Head {
  const sth = JSON.parse(reply) as {
    tree_size: number
    timestamp: number
    sha256_root_hash: string
    tree_head_signature: string
  }
  const root = Buffer.from(sth.sha256_root_hash, 'base64')
  const signed = Buffer.alloc(18)
  signed.writeUInt16BE(1, 0)
  signed.writeBigUInt64BE(BigInt(sth.timestamp), 2)
  signed.writeBigUInt64BE(BigInt(sth.tree_size), 10)
  const signature = Buffer.from(sth.tree_head_signature, 'base64').subarray(4)
  if (!verify('sha256', Buffer.concat([signed, root]), keyOf(spkiDer), signature)) {
    throw new CheckError(`the tree head of size ${sth.tree_size} is not signed by the log`)
  }
  return { size: sth.tree_size, root }
}

const keys = new Map<string, KeyObject>()

function keyOf(spkiDer: Buffer): KeyObject {
  const name = spkiDer.toString('hex')
  const key = keys.get(name) ?? createPublicKey({ key: spkiDer, format: 'der', type: 'spki' })
  keys.set(name, key)
  return key
}

/** C2SP tlog-tiles: groups of three digits, all but the last with an `x`; a partial tile says how wide it is. */
function tileNumber(n: number, width: number): string {
  const digits = String(n).padStart(Math.ceil(String(n).length / 3) * 3, '0')
  const groups = digits.match(/.{3}/g) ?? []
  const path = groups.map((group, at) => (at === groups.length - 1 ? group : `x${group}`)).join('/')
  return width === 256 ? path : `${path}.p/${width}`
}

/** Entries behind their big-endian 16-bit lengths. */
function splitBundle(bundle: Buffer, width: number): Buffer[] {
  const entries: Buffer[] = []
  for (let at = 0; at < bundle.length; ) {
    const length = bundle.readUInt16BE(at)
    entries.push(bundle.subarray(at + 2, at + 2 + length))
    at += 2 + length
  }
  if (entries.length !== width) throw new CheckError(`a bundle of ${entries.length} entries, not ${width}`)
  return entries
}

async function fetchBytes(url: string): Promise<Buffer> {
  const response = await fetch(url)
  if (response.status !== 200) throw new CheckError(`${url} answered ${response.status}`)
  return Buffer.from(await response.arrayBuffer())
}

async function fetchText(url: string): Promise<string> {
  return (await fetchBytes(url)).toString()
}

function node(left: Buffer, right: Buffer): Buffer {
  return sha256(Buffer.from([1]), left, right)
}

function sha256(...parts: readonly Buffer[]): Buffer {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest()
}
