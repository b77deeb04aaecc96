/**
 * protojson (protobuf.dev/programming-guides/json) for the few messages that are read here: camelCase or snake_case
 * names, enum names or numbers, either base64 alphabet; an unknown or doubled field is an error, null is an absent one.
 */
import { decodeProtoBytes } from '../base64.ts'
import { EntryError } from '../errors.ts'
import { isObject, type Json, type JsonObject } from '../json.ts'

/** A message whose fields were named; each is taken at most once. */
export class ProtoMessage {
  readonly #fields: ReadonlyMap<string, Json>
  readonly #name: string

  /** `fields`: the camelCase names that the message has. Throws `schema` for another shape, field, or a doubled one. */
  constructor(name: string, value: Json, fields: readonly string[]) {
    if (!isObject(value)) throw protoError(`${name} is not an object`)
    this.#name = name
    this.#fields = collect(name, value, fields)
  }

  has(field: string): boolean {
    return this.#fields.has(field)
  }

  /** Bytes, empty if absent. */
  bytes(field: string): Uint8Array {
    const value = this.#fields.get(field)
    if (value === undefined) return new Uint8Array()
    const bytes = typeof value === 'string' ? decodeProtoBytes(value) : undefined
    if (bytes === undefined) throw protoError(`invalid value for bytes field ${this.#name}.${field}`)
    return bytes
  }

  /** Text, empty if absent. */
  string(field: string): string {
    const value = this.#fields.get(field) ?? ''
    if (typeof value !== 'string') throw protoError(`invalid value for string field ${this.#name}.${field}`)
    return value
  }

  /** The enum's name; undefined if absent, zero, or a number without a name. */
  enum(field: string, numbers: Readonly<Record<string, number>>): string | undefined {
    const value = this.#fields.get(field)
    if (value === undefined) return undefined
    if (typeof value === 'string' && Object.hasOwn(numbers, value)) return value
    if (typeof value === 'number' && Number.isInteger(value)) {
      return Object.keys(numbers).find((name) => numbers[name] === value)
    }
    throw protoError(`invalid value for enum field ${this.#name}.${field}`)
  }

  message(field: string, fields: readonly string[]): ProtoMessage | undefined {
    const value = this.#fields.get(field)
    return value === undefined ? undefined : new ProtoMessage(field, value, fields)
  }

  messages(field: string, fields: readonly string[]): ProtoMessage[] {
    return this.list(field).map((item) => new ProtoMessage(field, item, fields))
  }

  /** How many items a repeated field has, before any of them is read. */
  count(field: string): number {
    return this.list(field).length
  }

  private list(field: string): readonly Json[] {
    const value = this.#fields.get(field) ?? []
    if (!Array.isArray(value)) throw protoError(`invalid value for repeated field ${this.#name}.${field}`)
    return value as readonly Json[]
  }
}

/** Refuses two members of one oneof. */
export function requireOneOf(message: ProtoMessage, ...fields: readonly string[]): void {
  if (fields.filter((field) => message.has(field)).length > 1) {
    throw protoError(`error parsing: oneof is already set: ${fields.join(', ')}`)
  }
}

function collect(name: string, value: JsonObject, fields: readonly string[]): ReadonlyMap<string, Json> {
  const collected = new Map<string, Json>()
  const seen = new Set<string>()
  for (const [given, member] of Object.entries(value)) {
    const field = fields.find((known) => known === given || snakeCase(known) === given)
    if (field === undefined) throw protoError(`unknown field ${JSON.stringify(given)} in ${name}`)
    if (seen.has(field)) throw protoError(`duplicate field ${JSON.stringify(given)} in ${name}`)
    seen.add(field)
    if (member !== null && member !== undefined) collected.set(field, member)
  }
  return collected
}

/** The name in the .proto file; a digit does not start a new word (`hashed_rekord_request_v002`, `x509_certificate`). */
function snakeCase(camel: string): string {
  return camel.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

function protoError(message: string): EntryError {
  return new EntryError('schema', message)
}
