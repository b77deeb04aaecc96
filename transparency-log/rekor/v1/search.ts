/** `POST /api/v1/index/retrieve`: entries by artifact hash, key, email or other name. */
import type { Log } from '../../log.ts'
import { decodeStandard } from '../base64.ts'
import { EntryError, invalid } from '../errors.ts'
import { isObject, type Json, type JsonObject, parseJson, stringAt } from '../json.ts'
import { hashKey, publicKeyKey } from '../search-keys.ts'
import { readPemKey } from '../submitted-key.ts'
import { notOneOf, patternMismatch, required, tooLong, wrongType } from './schema.ts'

/** Newest entries that one search can name; rekor names all, at the cost of its database. */
export const MAX_RESULTS = 1000

/** How far an intersection looks into each of its sides. */
const MAX_CANDIDATES = 20_000
const PAGE = 2000

/**
 * Indexes of the entries that a search body asks for, newest first. Each criterion stands for one or more search keys
 * of which any may match; criteria are joined by `operator`, `or` unless told. Throws `EntryError`.
 */
export async function searchIndex(log: Pick<Log, 'lookup'>, body: Uint8Array): Promise<readonly number[]> {
  if (body.length === 0) throw required('query', 'body')
  const { criteria, all } = readSearch(parseJson(body))
  if (criteria.length === 0) return []
  const limit = all ? MAX_CANDIDATES : MAX_RESULTS
  const sides = await Promise.all(
    criteria.map(async (keys) => {
      const found = await Promise.all(keys.map((key) => indexesOf(log, key, limit)))
      return new Set(found.flat())
    }),
  )
  const everything = [...new Set(sides.flatMap((side) => [...side]))]
  const joined = all ? everything.filter((index) => sides.every((side) => side.has(index))) : everything
  return joined.toSorted((a, b) => b - a).slice(0, MAX_RESULTS)
}

async function indexesOf(log: Pick<Log, 'lookup'>, key: string, limit: number): Promise<number[]> {
  const indexes: number[] = []
  for (;;) {
    const beforeIndex = indexes.at(-1)
    const page = await log.lookup(key, {
      limit: Math.min(PAGE, limit - indexes.length),
      ...(beforeIndex === undefined ? {} : { beforeIndex }),
    })
    indexes.push(...page)
    if (page.length < PAGE || indexes.length >= limit) return indexes
  }
}

const HASH = /^(sha512:)?[0-9a-fA-F]{128}$|^(sha256:)?[0-9a-fA-F]{64}$|^(sha1:)?[0-9a-fA-F]{40}$/
const HASH_OF_LENGTH: Readonly<Record<number, string>> = { 40: 'sha1', 64: 'sha256', 128: 'sha512' }
const FORMATS = ['pgp', 'x509', 'minisign', 'ssh', 'tuf']
const OPERATORS = ['and', 'or']

/** Each criterion as the search keys of which one must match. Absent and empty fields are no criteria. */
function readSearch(query: Json): { criteria: readonly (readonly string[])[]; all: boolean } {
  if (!isObject(query)) throw new EntryError('malformed_json', 'query is not an object')
  const criteria: string[][] = []
  const hash = textField(query, 'hash')
  if (hash !== '') {
    if (!HASH.test(hash)) throw patternMismatch('hash', 'body', HASH)
    const value = hash.slice(hash.indexOf(':') + 1)
    const keys = [hashKey(HASH_OF_LENGTH[value.length] ?? '', value)]
    // rekor stores the key of dsse and intoto entries among the hashes, where people have learnt to look for it.
    if (value.length === 64) keys.push(`key:${value.toLowerCase()}`)
    criteria.push(keys)
  }
  const email = textField(query, 'email')
  if (email !== '') {
    if (!/^[^\s@]+@[^\s@]+$/.test(email)) throw wrongType('email', 'body', 'email', email.slice(0, 320))
    criteria.push(nameKeys(email))
  }
  const subject = textField(query, 'subject')
  if (subject !== '') {
    if (subject.length > 512) throw tooLong('subject', 'body', 512)
    criteria.push(nameKeys(subject))
  }
  const publicKey = query['publicKey']
  if (publicKey !== undefined && publicKey !== null) criteria.push([keyCriterion(publicKey)])
  const operator = textField(query, 'operator')
  if (operator !== '' && !OPERATORS.includes(operator)) throw notOneOf('operator', 'body', OPERATORS)
  return { criteria, all: operator === 'and' }
}

/** A name is found whatever kind of name the certificate has it as. */
function nameKeys(name: string): string[] {
  return [`email:${name}`.toLowerCase(), `subject:${name}`.toLowerCase()]
}

function keyCriterion(publicKey: Json): string {
  if (!isObject(publicKey)) throw new EntryError('malformed_json', 'publicKey is not an object')
  const format = stringAt(publicKey, 'format')
  if (format === undefined) throw required('publicKey.format', 'body')
  if (!FORMATS.includes(format)) throw notOneOf('publicKey.format', 'body', FORMATS)
  if (format !== 'x509') throw invalid('the PKI format requested is not supported by this server')
  try {
    return publicKeyKey(readPemKey(decodeStandard(stringAt(publicKey, 'content') ?? '', 'content')).canonicalPem)
  } catch (error) {
    if (error instanceof EntryError) throw invalid('public key provided could not be parsed', error)
    throw error
  }
}

function textField(query: JsonObject, name: string): string {
  const value = query[name] ?? ''
  if (typeof value !== 'string') throw new EntryError('malformed_json', `${name} is not text`)
  return value
}
