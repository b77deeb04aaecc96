/** From the body of a v1 request to what the log takes or looks for; runs in a check worker. */
import type { CheckedEntry } from '../entry.ts'
import { EntryError } from '../errors.ts'
import { isObject, type Json, parseJson } from '../json.ts'
import { MAX_LEAF_BYTES } from '../limits.ts'
import type { CheckCost } from '../signature.ts'
import { checkDsse } from './dsse.ts'
import { checkHashedRekord } from './hashedrekord.ts'
import { checkIntoto001, checkIntoto002 } from './intoto.ts'
import {
  readProposedEntry,
  required,
  tooManyItems,
  tooSmall,
  patternMismatch,
  unprocessable,
  type ProposedEntry,
} from './schema.ts'

/** 64 hex digits (leaf hash) or 80 (tree id before it). */
export const ENTRY_ID = /^([0-9a-fA-F]{64}|[0-9a-fA-F]{80})$/

/** Items that one retrieval may ask for, of each sort and together. */
const MAX_RETRIEVED = 10

/** The entry that a `POST /log/entries` proposes, checked. Throws `EntryError`. */
export function checkInsertion(body: Uint8Array, cost: CheckCost): CheckedEntry {
  if (body.length === 0) throw required('proposedEntry', 'body')
  const proposed = readProposedEntry(parseJson(body))
  const entry = checkEntry(proposed, 'insert', cost)
  if (entry === undefined) {
    throw new EntryError(
      'unsupported_kind',
      `entry kind '${proposed.kind}' is not enabled for submission on this server`,
    )
  }
  if (entry.leaf.length > MAX_LEAF_BYTES) {
    throw new EntryError('invalid', `entry of ${entry.leaf.length} bytes; a tiled log takes at most ${MAX_LEAF_BYTES}`)
  }
  return entry
}

/** What a `POST /log/entries/retrieve` asks for. */
export interface Retrieval {
  readonly entryIds: readonly string[]
  readonly logIndexes: readonly number[]
  /** Of the entries that were given whole; those of kinds that this log never takes are left out. */
  readonly leafHashes: readonly Uint8Array[]
}

/** Reads and checks a retrieval. Throws `EntryError`. */
export function checkRetrieval(body: Uint8Array, cost: CheckCost): Retrieval {
  if (body.length === 0) throw required('entry', 'body')
  const query = parseJson(body)
  if (!isObject(query)) throw new EntryError('malformed_json', 'query is not an object')
  const entries = list(query['entries'], 'entries').map((item, i) => readProposedEntry(item, `entries.${i}.`))
  const entryIds = list(query['entryUUIDs'], 'entryUUIDs').map((id, i) => {
    if (typeof id !== 'string') throw new EntryError('malformed_json', 'entryUUIDs holds something else than text')
    if (!ENTRY_ID.test(id)) throw patternMismatch(`entryUUIDs.${i}`, 'body', ENTRY_ID)
    return id
  })
  const logIndexes = list(query['logIndexes'], 'logIndexes').map((index, i) => {
    if (typeof index !== 'number' || !Number.isInteger(index)) {
      throw new EntryError('malformed_json', 'logIndexes holds something else than integers')
    }
    if (index < 0) throw tooSmall(`logIndexes.${i}`, 'body', 0)
    return index
  })
  if (entries.length + entryIds.length + logIndexes.length > MAX_RETRIEVED) {
    throw unprocessable(`more than max allowed ${MAX_RETRIEVED} entries in request`)
  }
  const leafHashes = entries.flatMap((entry) => checkEntry(entry, 'find', cost)?.leafHash ?? [])
  return { entryIds, logIndexes, leafHashes }
}

/** Undefined for a kind that this log does not take. */
function checkEntry(
  { kind, apiVersion, spec }: ProposedEntry,
  purpose: 'insert' | 'find',
  cost: CheckCost,
): CheckedEntry | undefined {
  if (kind === 'hashedrekord' && apiVersion === '0.0.1') return checkHashedRekord(spec, cost)
  if (kind === 'dsse' && apiVersion === '0.0.1') return checkDsse(spec, purpose, cost)
  if (kind === 'intoto' && apiVersion === '0.0.1') return checkIntoto001(spec, purpose, cost)
  if (kind === 'intoto' && apiVersion === '0.0.2') return checkIntoto002(spec, purpose, cost)
  if (kind === 'hashedrekord' || kind === 'dsse' || kind === 'intoto') {
    throw new EntryError('unsupported_kind', `entry kind '${kind}' does not support version '${apiVersion}'`)
  }
  return undefined
}

function list(value: Json | undefined, name: string): readonly Json[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) throw new EntryError('malformed_json', `${name} is not a list`)
  if (value.length > MAX_RETRIEVED) throw tooManyItems(name, 'body', MAX_RETRIEVED)
  return value as readonly Json[]
}
