/** What an entry can be found by. One spelling for all logs, so that one search spans them. */
import { hash } from 'node:crypto'
import { type Json, arrayAt, isObject, objectAt, parseJson, stringAt } from './json.ts'
import { MAX_SEARCH_KEY_CHARS, MAX_SEARCH_KEYS } from './limits.ts'
import type { Subject, SubmittedKey } from './submitted-key.ts'
import { EntryError } from './errors.ts'

/** `hash:<algorithm>:<hex>` of an artifact, payload, envelope or statement subject. */
export function hashKey(algorithm: string, value: string): string {
  return `hash:${algorithm}:${value}`.toLowerCase()
}

/** `key:<hex>`: SHA-256 of the key or chain in rekor's canonical PEM. */
export function publicKeyKey(canonicalPem: string): string {
  return `key:${hash('sha256', canonicalPem, 'hex')}`
}

/** `email:…` for an email address, `subject:…` for every other SAN, in lower case as rekor stores them. */
export function subjectKey({ type, value }: Subject): string {
  return `${type === 'email' ? 'email' : 'subject'}:${value}`.toLowerCase()
}

/** The keys that a verifier is found by. */
export function verifierKeys({ canonicalPem, subjects }: SubmittedKey): string[] {
  return [publicKeyKey(canonicalPem), ...subjects.map(subjectKey)]
}

/**
 * Keys of the subjects and materials of an in-toto statement; none for a payload that is no statement. Attestations
 * are logged for what signed them, so a payload that cannot be read is not refused.
 */
export function statementKeys(payload: Uint8Array): string[] {
  let statement: Json
  try {
    statement = parseJson(payload)
  } catch (error) {
    if (error instanceof EntryError) return []
    throw error
  }
  if (!isObject(statement)) return []
  const materials = arrayAt(objectAt(statement, 'predicate'), 'materials') ?? []
  return [...(arrayAt(statement, 'subject') ?? []), ...materials].flatMap((item) => {
    const digest = isObject(item) ? objectAt(item, 'digest') : undefined
    return Object.keys(digest ?? {}).flatMap((algorithm) => {
      const value = stringAt(digest, algorithm)
      return value === undefined ? [] : [hashKey(algorithm, value)]
    })
  })
}

/** Without repetitions and within the store's bounds; the first ones stay, so callers put the entry's own keys first. */
export function boundedKeys(keys: readonly string[]): string[] {
  return [...new Set(keys.filter((key) => key.length <= MAX_SEARCH_KEY_CHARS))].slice(0, MAX_SEARCH_KEYS)
}
