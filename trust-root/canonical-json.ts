import { TrustRootError } from './errors.ts'

/** What a TUF metadata file may hold: no fractions, no undefined. */
export type CanonicalValue =
  | string
  | number
  | boolean
  | null
  | readonly CanonicalValue[]
  | { readonly [key: string]: CanonicalValue }

/**
 * The bytes that TUF signs: canonical JSON of OLPC (http://wiki.laptop.org/go/Canonical_JSON). Keys sorted by code
 * point, integers only, and in strings only `"` and `\` are escaped: the line feeds of a PEM key stay literal, so the
 * result is *not* always JSON and `JSON.stringify` would give signatures that no client accepts.
 * Throws `TrustRootError` `not_canonical` for fractions, unsafe integers and lone surrogates.
 */
export function canonicalJson(value: CanonicalValue): Uint8Array {
  return new TextEncoder().encode(encode(value))
}

function encode(value: CanonicalValue): string {
  if (value === null || typeof value === 'boolean') return String(value)
  if (typeof value === 'string') return encodeString(value)
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) throw new TrustRootError('not_canonical', `${value} is not a safe integer`)
    // -0 would print as 0 here and as -0 elsewhere.
    return String(value + 0)
  }
  if (isList(value)) return `[${value.map(encode).join(',')}]`
  const members = Object.entries(value)
    .toSorted(([a], [b]) => compareCodePoints(a, b))
    .map(([key, member]) => `${encodeString(key)}:${encode(member)}`)
  return `{${members.join(',')}}`
}

function isList(value: object): value is readonly CanonicalValue[] {
  return Array.isArray(value)
}

function encodeString(text: string): string {
  if (!text.isWellFormed()) throw new TrustRootError('not_canonical', 'a string holds a lone surrogate')
  return `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`
}

/** Go and Python sort by code point, JavaScript's default by UTF-16 unit; they differ above U+FFFF. */
function compareCodePoints(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}
