/**
 * What an operator has given up (`chancery distrust`): signatures of a key from a time on. Without this list the canary
 * could not tell a window that was cut on purpose from one that was cut by mistake.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'

/** Signatures that this key made from `from` on, and up to `until` if that is told, are given up. */
export interface Distrusted {
  /** Id of the trust item. */
  readonly item: string
  /** SHA-256, hex, of the item's first `der`. */
  readonly key: string
  readonly from: Date
  readonly until?: Date | undefined
}

const time = z.iso.datetime().transform((text) => new Date(text))
const file = z.array(
  z.strictObject({
    item: z.string(),
    key: z.string().regex(/^[0-9a-f]{64}$/),
    from: time,
    until: time.optional(),
  }),
)

export class DistrustedList {
  readonly #folder: string

  constructor(trustRootFolder: string) {
    this.#folder = join(trustRootFolder, 'canaries')
  }

  /** Asked again it changes nothing. */
  add(given: Distrusted): Distrusted {
    const before = this.#read()
    const known = before.find(({ key, from, until }) => key === given.key && covers({ from, until }, given))
    if (known !== undefined) return known
    const all = [...before, given]
    mkdirSync(this.#folder, { recursive: true, mode: 0o755 })
    const path = join(this.#folder, DISTRUSTED_FILE)
    writeFileSync(`${path}.part`, `${JSON.stringify(all, undefined, 2)}\n`, { flush: true })
    renameSync(`${path}.part`, path)
    return given
  }

  /** Keys of which signatures between these times, both included, are given up. */
  keysBetween(first: Date, last: Date): ReadonlySet<string> {
    const given = this.#read().filter(({ from, until }) => from <= last && (until === undefined || first <= until))
    return new Set(given.map(({ key }) => key))
  }

  #read(): readonly Distrusted[] {
    const path = join(this.#folder, DISTRUSTED_FILE)
    let text: string
    try {
      text = readFileSync(path, 'utf8')
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
      throw error
    }
    return file.parse(JSON.parse(text))
  }
}

type Span = Pick<Distrusted, 'from' | 'until'>

function covers(one: Span, other: Span): boolean {
  return one.from <= other.from && (one.until === undefined || (other.until !== undefined && other.until <= one.until))
}

/** Beside the canaries, whose names are times. */
export const DISTRUSTED_FILE = 'distrusted.json'
