import canonicalize from 'canonicalize'
import { EntryError } from './errors.ts'
import { MAX_JSON_DEPTH } from './limits.ts'

export type Json = null | boolean | number | string | readonly Json[] | JsonObject
export interface JsonObject {
  readonly [name: string]: Json | undefined
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * Parses UTF-8 JSON of bounded depth. With `uniqueKeys` an object that names a key twice is refused, as protojson
 * does; encoding/json, behind Rekor v1, takes the last one, and so does this without it. Throws `malformed_json`.
 */
export function parseJson(bytes: Uint8Array | string, options: { uniqueKeys?: boolean } = {}): Json {
  let text: string
  try {
    text = typeof bytes === 'string' ? bytes : utf8.decode(bytes)
  } catch (error) {
    throw new EntryError('malformed_json', 'body is not UTF-8', { cause: error })
  }
  checkDepth(text)
  let parsed: Json
  try {
    parsed = JSON.parse(text) as Json // what JSON.parse returns is this type by definition
  } catch (error) {
    throw new EntryError('malformed_json', 'body is not valid JSON', { cause: error })
  }
  if (options.uniqueKeys === true) checkUniqueKeys(text)
  return parsed
}

/** RFC 8785 bytes of a value that this code built itself. */
export function jcs(value: Json): Uint8Array {
  const text = canonicalize(value)
  if (text === undefined) throw new EntryError('invalid', 'entry has no canonical form')
  return new TextEncoder().encode(text)
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The member if it is an object, else undefined: Rekor v1 takes a field of another type for an absent one. */
export function objectAt(value: JsonObject | undefined, name: string): JsonObject | undefined {
  const member = value?.[name]
  return isObject(member) ? member : undefined
}

export function stringAt(value: JsonObject | undefined, name: string): string | undefined {
  const member = value?.[name]
  return typeof member === 'string' ? member : undefined
}

export function arrayAt(value: JsonObject | undefined, name: string): readonly Json[] | undefined {
  const member = value?.[name]
  return Array.isArray(member) ? (member as readonly Json[]) : undefined
}

/** Before JSON.parse builds anything: nesting costs a request one byte a level and a naive reader its stack. */
function checkDepth(text: string): void {
  let depth = 0
  for (let at = 0; at < text.length; at++) {
    const c = text.charCodeAt(at)
    if (c === QUOTE) at = endOfString(text, at)
    else if (c === OPEN_BRACE || c === OPEN_BRACKET) {
      depth += 1
      if (depth > MAX_JSON_DEPTH) throw new EntryError('malformed_json', `JSON is nested deeper than ${MAX_JSON_DEPTH}`)
    } else if (c === CLOSE_BRACE || c === CLOSE_BRACKET) depth -= 1
  }
}

/** For text that JSON.parse took: a string directly inside of an object that a colon follows is a key. */
function checkUniqueKeys(text: string): void {
  const seen: (Set<string> | undefined)[] = []
  for (let at = 0; at < text.length; at++) {
    const c = text.charCodeAt(at)
    if (c === OPEN_BRACE) seen.push(new Set())
    else if (c === OPEN_BRACKET) seen.push(undefined)
    else if (c === CLOSE_BRACE || c === CLOSE_BRACKET) seen.pop()
    else if (c === QUOTE) {
      const end = endOfString(text, at)
      const keys = seen.at(-1)
      if (keys !== undefined && followedByColon(text, end + 1)) {
        const key = JSON.parse(text.slice(at, end + 1)) as string // a JSON string literal
        if (keys.has(key)) throw new EntryError('malformed_json', 'duplicate field in JSON')
        keys.add(key)
      }
      at = end
    }
  }
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COLON = 0x3a
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d

/** Index of the closing quote of the string that opens at `start`, or of the text's end. */
function endOfString(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at++) {
    const c = text.charCodeAt(at)
    if (c === BACKSLASH) at += 1
    else if (c === QUOTE) return at
  }
  return text.length
}

function followedByColon(text: string, from: number): boolean {
  let at = from
  while (at < text.length && text.charCodeAt(at) <= 0x20) at += 1
  return text.charCodeAt(at) === COLON
}
