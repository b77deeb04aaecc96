/** Reading requests by the rules of protobuf's JSON form (protojson), as Fulcio's gateway does. */
import { CaError } from './error.ts'

/** A message: fields by lowerCamelCase name; null fields are absent. */
export type Message = ReadonlyMap<string, unknown>

/**
 * Reads a body as one message; an empty body is the empty message. Throws `invalid_request` for what is not UTF-8, not
 * JSON or not an object, and for a name that stands twice in one object, whichever of its two spellings it uses.
 */
export function readMessage(body: Uint8Array): Message {
  if (body.length === 0) return new Map()
  let value: unknown
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body)
    value = JSON.parse(text)
    refuseDuplicateNames(text)
  } catch (cause) {
    if (cause instanceof CaError) throw cause
    // Without the cause's message: it quotes the body, and so perhaps a token.
    throw new CaError('invalid_request', 'the body is not JSON')
  }
  return message(value, 'the body')
}

/** A field that is a message; undefined if absent. */
export function messageField(parent: Message, name: string): Message | undefined {
  const value = parent.get(name)
  return value === undefined ? undefined : message(value, name)
}

/** A string field; empty if absent. */
export function stringField(parent: Message | undefined, name: string): string {
  const value = parent?.get(name) ?? ''
  if (typeof value !== 'string') throw new CaError('invalid_request', `${name} is not a string`)
  return value
}

/** A bytes field: base64 in the standard or the URL alphabet, padded or not; empty if absent. */
export function bytesField(parent: Message | undefined, name: string): Uint8Array {
  // Go's decoder passes over line ends.
  const text = stringField(parent, name).replaceAll(/[\r\n]/g, '')
  const unpadded = text.replace(/={1,2}$/, '')
  const oneAlphabet = /^(?:[A-Za-z0-9+/]*|[A-Za-z0-9_-]*)$/.test(unpadded)
  const paddedRight = unpadded === text ? unpadded.length % 4 !== 1 : text.length % 4 === 0
  if (!oneAlphabet || !paddedRight) throw new CaError('invalid_request', `${name} is not base64`)
  return Buffer.from(unpadded, /[_-]/.test(unpadded) ? 'base64url' : 'base64')
}

/** Throws `invalid_request` if more than one of the fields is there: they are arms of a oneof. */
export function refuseBoth(parent: Message, first: string, second: string): void {
  if (parent.has(first) && parent.has(second))
    throw new CaError('invalid_request', `${first} and ${second} exclude each other`)
}

function message(value: unknown, name: string): Message {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CaError('invalid_request', `${name} is not an object`)
  }
  return new Map(
    Object.entries(value)
      .filter(([, one]) => one !== null)
      .map(([key, one]) => [camelCase(key), one]),
  )
}

function camelCase(name: string): string {
  return name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

/**
 * JSON.parse keeps the last of two equal names, other readers the first: what one of them checked, the other may not
 * use. Walks over text that JSON.parse has accepted, so that only strings and brackets need to be told apart.
 */
function refuseDuplicateNames(text: string): void {
  const open: (Set<string> | undefined)[] = []
  for (let at = 0; at < text.length; at++) {
    const character = text[at]
    if (character === '{') open.push(new Set())
    else if (character === '[') open.push(undefined)
    else if (character === '}' || character === ']') open.pop()
    else if (character === '"') {
      const end = endOfString(text, at)
      const names = open.at(-1)
      if (names !== undefined && followedByColon(text, end)) {
        const name = camelCase(String(JSON.parse(text.slice(at, end))))
        if (names.has(name)) throw new CaError('invalid_request', 'a name stands twice in one object')
        names.add(name)
      }
      at = end - 1
    }
  }
}

/** Index behind the closing quote of the string that begins at `start`. */
function endOfString(text: string, start: number): number {
  let end = text.indexOf('"', start + 1)
  while (isEscaped(text, end)) end = text.indexOf('"', end + 1)
  return end + 1
}

function isEscaped(text: string, at: number): boolean {
  let backslashes = 0
  while (text[at - 1 - backslashes] === '\\') backslashes++
  return backslashes % 2 === 1
}

function followedByColon(text: string, at: number): boolean {
  let next = at
  while (/\s/.test(text[next] ?? '')) next++
  return text[next] === ':'
}
