/**
 * Reads OLPC canonical JSON, in which TUF metadata is signed, and nothing but it: members sorted, integers, no white
 * space, only `"` and `\` escaped, so that a newline in a PEM key stands as it is. Text that is read here has one
 * encoding, so whoever parses it leniently reads the same.
 */

/** A value of canonical JSON. */
export type CanonicalValue =
  | null
  | boolean
  | number
  | string
  | readonly CanonicalValue[]
  | ReadonlyMap<string, CanonicalValue>

export class CanonicalJsonError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'CanonicalJsonError'
  }
}

const MAX_DEPTH = 32

/** The value of canonical JSON in UTF-8; throws `CanonicalJsonError` for any other bytes. */
export function parseCanonicalJson(bytes: Uint8Array): CanonicalValue {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new CanonicalJsonError('not UTF-8')
  }
  const parser = new Parser(text)
  const value = parser.value(0)
  parser.end()
  return value
}

class Parser {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  value(depth: number): CanonicalValue {
    if (depth > MAX_DEPTH) throw new CanonicalJsonError('nested too deeply')
    switch (this.#text[this.#at]) {
      case '{':
        return this.#object(depth)
      case '[':
        return this.#array(depth)
      case '"':
        return this.#string()
      case 't':
        return this.#literal('true', true)
      case 'f':
        return this.#literal('false', false)
      case 'n':
        return this.#literal('null', null)
      default:
        return this.#integer()
    }
  }

  end(): void {
    if (this.#at !== this.#text.length) throw new CanonicalJsonError('text after the value')
  }

  #object(depth: number): ReadonlyMap<string, CanonicalValue> {
    const members = new Map<string, CanonicalValue>()
    this.#expect('{')
    if (this.#skip('}')) return members
    let previous: string | undefined
    do {
      const name = this.#string()
      if (previous !== undefined && !codePointsBefore(previous, name)) {
        throw new CanonicalJsonError('members are not sorted, or one occurs twice')
      }
      previous = name
      this.#expect(':')
      members.set(name, this.value(depth + 1))
    } while (this.#skip(','))
    this.#expect('}')
    return members
  }

  #array(depth: number): CanonicalValue[] {
    const items: CanonicalValue[] = []
    this.#expect('[')
    if (this.#skip(']')) return items
    do items.push(this.value(depth + 1))
    while (this.#skip(','))
    this.#expect(']')
    return items
  }

  #string(): string {
    this.#expect('"')
    let value = ''
    for (;;) {
      const start = this.#at
      while (this.#at < this.#text.length && this.#text[this.#at] !== '"' && this.#text[this.#at] !== '\\') this.#at++
      value += this.#text.slice(start, this.#at)
      if (this.#skip('"')) return value
      this.#expect('\\')
      const escaped = this.#text[this.#at++]
      if (escaped !== '"' && escaped !== '\\') throw new CanonicalJsonError('an escape that is not needed')
      value += escaped
    }
  }

  #integer(): number {
    const pattern = /-?(?:0|[1-9][0-9]*)/y
    pattern.lastIndex = this.#at
    const digits = pattern.exec(this.#text)?.[0]
    const value = Number(digits)
    if (digits === undefined || digits === '-0' || !Number.isSafeInteger(value)) {
      throw new CanonicalJsonError('not a value, or not a safe integer')
    }
    this.#at += digits.length
    return value
  }

  #literal<T extends boolean | null>(text: string, value: T): T {
    if (!this.#text.startsWith(text, this.#at)) throw new CanonicalJsonError('not a value')
    this.#at += text.length
    return value
  }

  #skip(character: string): boolean {
    if (this.#text[this.#at] !== character) return false
    this.#at++
    return true
  }

  #expect(character: string): void {
    if (!this.#skip(character)) throw new CanonicalJsonError(`expected ${character}`)
  }
}

/** True if `a` sorts before `b` by code points, as UTF-8 sorts; JavaScript compares UTF-16 units. */
function codePointsBefore(a: string, b: string): boolean {
  return Buffer.compare(Buffer.from(a, 'utf8'), Buffer.from(b, 'utf8')) < 0
}
