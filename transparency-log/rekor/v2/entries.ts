/** From the body of a v2 request to what the log takes; runs in a check worker. */
import type { CheckedEntry } from '../entry.ts'
import { EntryError } from '../errors.ts'
import { parseJson } from '../json.ts'
import { MAX_LEAF_BYTES } from '../limits.ts'
import type { CheckCost } from '../signature.ts'
import { checkDsse, DSSE_FIELDS } from './dsse.ts'
import { checkHashedRekord, HASHED_REKORD_FIELDS } from './hashedrekord.ts'
import { ProtoMessage, requireOneOf } from './proto-json.ts'

/**
 * The entry of a `CreateEntryRequest`, checked. With `strict` only hashedrekord is taken, as by rekor-tiles 2.3 and
 * later. Throws `EntryError`.
 */
export function checkCreateEntry(body: Uint8Array, options: CheckCost & { readonly strict: boolean }): CheckedEntry {
  const request = new ProtoMessage('CreateEntryRequest', parseJson(body, { uniqueKeys: true }), [
    'hashedRekordRequestV002',
    'dsseRequestV002',
  ])
  requireOneOf(request, 'hashedRekordRequestV002', 'dsseRequestV002')
  const entry = check(request, options)
  if (entry.leaf.length > MAX_LEAF_BYTES) {
    throw new EntryError('invalid', `entry of ${entry.leaf.length} bytes; a tiled log takes at most ${MAX_LEAF_BYTES}`)
  }
  return entry
}

function check(request: ProtoMessage, options: CheckCost & { readonly strict: boolean }): CheckedEntry {
  const hashedRekord = request.message('hashedRekordRequestV002', HASHED_REKORD_FIELDS)
  if (hashedRekord !== undefined) return named('hashedrekord', () => checkHashedRekord(hashedRekord, options))
  const dsse = options.strict ? undefined : request.message('dsseRequestV002', DSSE_FIELDS)
  if (dsse !== undefined) return named('dsse', () => checkDsse(dsse, options))
  throw new EntryError('unsupported_kind', `invalid type, must be ${options.strict ? '' : 'dsse or '}hashedrekord`)
}

/** Upstream's text for every refusal of a kind, with the reason behind it. */
function named(kind: string, check: () => CheckedEntry): CheckedEntry {
  try {
    return check()
  } catch (error) {
    if (!(error instanceof EntryError) || error.code === 'busy') throw error
    throw new EntryError(error.code, `invalid ${kind} request: ${error.message}`, { cause: error })
  }
}
