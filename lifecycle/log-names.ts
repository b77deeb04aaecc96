/** Names of the shards of a log, one after the other, and of whatever else has successors: pure, but for a tree's number. */
import { randomBytes } from 'node:crypto'
import type { LogKind } from '#transparency-log'

/** A log as it is configured now, with all of its fields. */
export interface FormerLog {
  readonly name: string
  readonly kind: LogKind
  readonly origin: string
  readonly listen: string
  readonly url: string
  readonly key: string
  readonly database: string
  readonly [field: string]: unknown
}

/** `rekor-v1` → `rekor-v1-2` → `rekor-v1-3`; of names that are `taken` (a standby has one) the next. */
export function successorName(name: string, taken: ReadonlySet<string> = new Set()): string {
  const [, base = name, number = '1'] = /^(.*?)(?:-(\d+))?$/.exec(/^rekor-v\d$/.test(name) ? `${name}-1` : name) ?? []
  const next = `${base}-${Number(number) + 1}`
  return taken.has(next) ? successorName(next, taken) : next
}

/**
 * Origin of the shard `name`: Rekor v1 keeps its host and gets a new tree; every other log is a host of its own, so that
 * the shard `rekor-v2-3` of `rekor-v2.example.org` is `rekor-v2-3.example.org`.
 */
export function shardOrigin(
  former: { readonly kind: LogKind; readonly origin: string },
  name: string,
  treeId: string,
): string {
  if (former.kind === 'rekor-v1') return former.origin.replace(/ - \d+$/, ` - ${treeId}`)
  const [first = '', ...rest] = former.origin.split('.')
  const [, number] = /-(\d+)$/.exec(name.replace(/^rekor-v\d/, '')) ?? []
  const base = first.replace(/^(rekor-v\d|.*?)(?:-\d+)?$/, '$1')
  return [number === undefined ? first : `${base}-${number}`, ...rest].join('.')
}

/** A random positive int64 for a Rekor v1 tree, decimal; its top byte is kept clear so that no client's parser overflows. */
export function newTreeId(): string {
  return (BigInt(`0x${randomBytes(7).toString('hex')}`) + 2n ** 56n).toString()
}
