/** The errors of go-openapi, whose numbers and texts Rekor v1's clients and tests see in 422 replies. */
import { EntryError } from '../errors.ts'
import { isObject, type Json, type JsonObject } from '../json.ts'

const INVALID_TYPE = 601
const REQUIRED = 602
const TOO_LONG = 603
const PATTERN = 605
const ENUM = 606
const TOO_SMALL = 609
const TOO_MANY_ITEMS = 611

export function required(name: string, place: string): EntryError {
  return schemaError(REQUIRED, `${name} in ${place} is required`)
}

export function wrongType(name: string, place: string, type: string, value: string): EntryError {
  return schemaError(INVALID_TYPE, `${name} in ${place} must be of type ${type}: ${JSON.stringify(value)}`)
}

export function tooLong(name: string, place: string, max: number): EntryError {
  return schemaError(TOO_LONG, `${name} in ${place} should be at most ${max} chars long`)
}

export function patternMismatch(name: string, place: string, pattern: RegExp): EntryError {
  return schemaError(PATTERN, `${name} in ${place} should match '${pattern.source.replaceAll('\\/', '/')}'`)
}

export function notOneOf(name: string, place: string, values: readonly string[]): EntryError {
  return schemaError(ENUM, `${name} in ${place} should be one of [${values.join(' ')}]`)
}

export function tooSmall(name: string, place: string, min: number): EntryError {
  return schemaError(TOO_SMALL, `${name} in ${place} should be greater than or equal to ${min}`)
}

export function tooManyItems(name: string, place: string, max: number): EntryError {
  return schemaError(TOO_MANY_ITEMS, `${name} in ${place} should have at most ${max} items`)
}

/** A refusal whose body carries the HTTP status itself as its number. */
export function unprocessable(message: string): EntryError {
  return schemaError(422, message)
}

function schemaError(schemaCode: number, message: string): EntryError {
  return new EntryError('schema', message, { schemaCode })
}

/** Semantic version (semver.org), as the interface's schema has it. */
const API_VERSION =
  /^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$/

/** Longer than any version; the pattern above is not linear. */
const MAX_API_VERSION_CHARS = 64

/** Every kind of upstream's interface; those that this log takes are in `entries.ts`. */
const KINDS = new Set([
  'alpine',
  'cose',
  'dsse',
  'hashedrekord',
  'helm',
  'intoto',
  'jar',
  'rekord',
  'rfc3161',
  'rpm',
  'tuf',
])

/** A proposed entry whose outer shape holds; `spec` is for its kind to judge. */
export interface ProposedEntry {
  readonly kind: string
  readonly apiVersion: string
  readonly spec: JsonObject
}

/** Checks kind, version and the presence of a spec; throws `schema` or `malformed_json`. */
export function readProposedEntry(value: Json, name = ''): ProposedEntry {
  if (!isObject(value)) throw new EntryError('malformed_json', 'proposed entry is not an object')
  const { kind, apiVersion, spec } = value
  if (kind === undefined || kind === '') throw required(`${name}kind`, 'body')
  if (typeof kind !== 'string' || !KINDS.has(kind)) throw unprocessable(`invalid kind value: ${JSON.stringify(kind)}`)
  if (apiVersion === undefined || apiVersion === null) throw required(`${name}apiVersion`, 'body')
  if (typeof apiVersion !== 'string' || apiVersion.length > MAX_API_VERSION_CHARS || !API_VERSION.test(apiVersion)) {
    throw patternMismatch(`${name}apiVersion`, 'body', API_VERSION)
  }
  if (spec === undefined || spec === null) throw required(`${name}spec`, 'body')
  if (!isObject(spec)) throw new EntryError('invalid', 'spec is not an object')
  return { kind, apiVersion, spec }
}
