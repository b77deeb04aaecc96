/**
 * How many signatures of an item's key fall into a time, before somebody gives them up: certificates in the CT logs,
 * entries of a log, timestamps in the agent's account. Changes nothing.
 */
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { readRotations } from '#lifecycle'
import type { Log } from '#transparency-log'
import { readInventory, type TrustItem } from '#trust-root'
import { equalBytes, parseCertificate } from '#x509'
import type { AdminRequest, AdminVerbs } from './admin.ts'
import type { Parts } from './main.ts'

const time = z.iso.datetime().transform((text) => Date.parse(text))
const argumentSchema = z.strictObject({ item: z.string(), from: time.optional(), until: time.optional() })

export interface Affected {
  readonly item: string
  readonly kind: TrustItem['kind']
  /** Of what: `certificates in ct`, `entries of rekor-v1`, `timestamps`. */
  readonly counts: readonly { readonly what: string; readonly count: number }[]
  /** What could not be counted and why, or empty. */
  readonly unknown: string
}

/** The verbs by name. */
export function distrustVerbs(parts: Parts): AdminVerbs {
  return { 'distrust-affected': async (request) => await affectedVerb(parts, request) }
}

interface Span {
  readonly fromMs: number
  readonly untilMs: number
}

async function affectedVerb(parts: Parts, { argument }: AdminRequest): Promise<Affected> {
  const { item: id, from, until } = argumentSchema.parse(argument)
  const { config, resolve } = parts.loaded
  if (config.trustRoot === undefined) throw new OperatorError('no_trust_root', 'this server has no trustRoot')
  const { items } = await readInventory(resolve(config.trustRoot.folder))
  const item = items.find((each) => each.id === id)
  if (item === undefined) throw new OperatorError('distrust_impossible', `the trust root has no item ${id}`)
  const span = { fromMs: from ?? 0, untilMs: until ?? Number.MAX_SAFE_INTEGER }
  return { item: id, kind: item.kind, unknown: '', ...(await counted(parts, item, span)) }
}

async function counted(
  parts: Parts,
  item: TrustItem,
  span: Span,
): Promise<Pick<Affected, 'counts'> & Partial<Affected>> {
  const [der = new Uint8Array()] = item.der
  if (item.kind === 'certificate-authority') return { counts: await certificates(parts, der, span) }
  if (item.kind === 'timestamp-authority') return await timestamps(parts, item, span)
  const open = parts.logs.find(({ log }) => equalBytes(log.spkiDer, der))
  if (open === undefined) return { counts: [], unknown: 'this server does not have the log' }
  const [first, end] = [await firstAt(open.log, span.fromMs), await firstAt(open.log, span.untilMs + 1)]
  return { counts: [{ what: `entries of ${open.config.name}`, count: end - first }] }
}

/** Index of the first entry that is not older; the log's size if there is none. Times in a log never go back. */
async function firstAt(log: Pick<Log, 'head' | 'entry'>, timeMs: number): Promise<number> {
  let [low, high] = [0, log.head().size]
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const entry = await log.entry(middle)
    if (entry === undefined || entry.timestampMs >= timeMs) high = middle
    else low = middle + 1
  }
  return low
}

const PAGE = 512
/** MerkleTreeLeaf of a precertificate (RFC 6962 §3.4): version, type, timestamp, entry type 1, then the issuer's key hash. */
const KEY_HASH_AT = 12

async function certificates({ logs }: Parts, der: Uint8Array, span: Span): Promise<Affected['counts']> {
  const keyHash = createHash('sha256').update(parseCertificate(der).publicKey.spkiDer).digest()
  const counts: Affected['counts'][number][] = []
  for (const { config, log } of logs.filter((each) => each.config.kind === 'ct')) {
    const end = await firstAt(log, span.untilMs + 1)
    let count = 0
    for (let at = await firstAt(log, span.fromMs); at < end; at += PAGE) {
      const page = await log.entries(at, Math.min(PAGE, end - at))
      count += page.filter(({ leaf }) => isIssuedBy(leaf, keyHash)).length
    }
    counts.push({ what: `certificates in ${config.name}`, count })
  }
  return counts
}

function isIssuedBy(leaf: Uint8Array, keyHash: Uint8Array): boolean {
  return leaf[10] === 0 && leaf[11] === 1 && equalBytes(leaf.subarray(KEY_HASH_AT, KEY_HASH_AT + 32), keyHash)
}

/** The account names keys; one that left the configuration is found by the rotation that put it away. */
async function timestamps(parts: Parts, item: TrustItem, span: Span) {
  const names = await keyNames(parts, item)
  if (names.length === 0) {
    return { counts: [], unknown: 'nobody knows any more by which name the account has this key' }
  }
  let count = 0
  for (let from = await firstLine(parts, span.fromMs); ; ) {
    const lines = await parts.agent.account({ from, limit: PAGE })
    const inside = lines.filter(({ atMs }) => atMs <= span.untilMs)
    for (const { key, act, count: uses } of inside) if (act === 'timestamp' && names.includes(key)) count += uses
    const last = lines.at(-1)
    if (last === undefined || inside.length < lines.length) break
    from = last.sequence + 1
  }
  return { counts: [{ what: 'timestamps', count }] }
}

/** Of the journal, in which rotations and emergencies tell the same in other words. */
const rotatedKey = z.object({
  former: z
    .object({ item: z.string(), name: z.string(), keys: z.array(z.object({ name: z.string() })) })
    .partial()
    .optional(),
  item: z.string().optional(),
  member: z.object({ name: z.string() }).optional(),
  keys: z
    .object({ signer: z.object({ name: z.string() }) })
    .partial()
    .optional(),
})

async function keyNames({ loaded, agent }: Parts, { id, der }: TrustItem): Promise<string[]> {
  const [leaf] = der
  if (leaf === undefined) return []
  const { spkiDer } = parseCertificate(leaf).publicKey
  const { current, history } = readRotations(loaded.dataDir)
  const rotated = [...history, ...(current === undefined ? [] : [current])].flatMap(({ facts }) => {
    const { former, item, keys, member } = rotatedKey.parse(facts)
    const names = [
      ...(former?.item === id ? [former.keys?.[0]?.name, former.name] : []),
      ...(item === id ? [keys?.signer?.name] : []),
      ...(member?.name === id ? [id] : []),
    ]
    return names.flatMap((name) => name ?? [])
  })
  const configured = loaded.config.timestamp?.key
  const isOurs = async (name: string) =>
    await agent.key(name).then(
      (key) => equalBytes(key.spkiDer, spkiDer),
      () => false,
    )
  const known = configured !== undefined && (await isOurs(configured)) ? [configured] : []
  return [...new Set([...known, ...rotated])]
}

/** Sequence of the first line that is not older. */
async function firstLine({ agent }: Parts, timeMs: number): Promise<number> {
  let [low, high] = [1, 1]
  while ((await agent.account({ from: high, limit: 1 })).some(({ atMs }) => atMs < timeMs)) {
    low = high + 1
    high *= 2
  }
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const [line] = await agent.account({ from: middle, limit: 1 })
    if (line === undefined || line.atMs >= timeMs) high = middle
    else low = middle + 1
  }
  return low
}
