/**
 * Whether the files of an open SQLite database are still the ones that were opened. SQLite keeps its descriptors: when a
 * file is deleted or another is moved over it, everything that is written goes on into a file that no restart will find;
 * when an older copy is written into it, pages of two histories mix. Neither is an error to SQLite, so the owner of the
 * database, who alone writes it, looks before and after each write and every moment in between.
 */
import { statSync, type BigIntStats } from 'node:fs'

/** Database and write-ahead log; rollback journals are not used by anyone here. */
const SUFFIXES = ['', '-wal'] as const

type Seen = Pick<BigIntStats, 'dev' | 'ino' | 'size' | 'mtimeNs'>

/** Made once the database is open; `remember` after each write of our own, `fault` before each. */
export class DatabaseFiles {
  readonly #path: string
  #seen: readonly (Seen | undefined)[]

  constructor(path: string) {
    this.#path = path
    this.#seen = SUFFIXES.map((suffix) => look(path + suffix))
  }

  /**
   * What somebody else did to the files, in words, or undefined. Times and sizes count as long as nothing was written by
   * us since `remember`; a write-ahead log that appears is SQLite's.
   */
  fault(options: { readonly afterOwnWrite?: boolean } = {}): string | undefined {
    for (const [at, suffix] of SUFFIXES.entries()) {
      const before = this.#seen[at]
      if (before === undefined) continue
      const now = look(this.#path + suffix)
      const file = `${this.#path}${suffix}`
      if (now === undefined) return `${file} was deleted while it was in use`
      if (now.ino !== before.ino || now.dev !== before.dev) return `${file} is another file than the one in use`
      if (options.afterOwnWrite === true) continue
      if (now.size !== before.size || now.mtimeNs !== before.mtimeNs) {
        return `${file} was written by somebody else while it was in use`
      }
    }
    return undefined
  }

  /** Takes what is there now for ours; called right after a write of our own, once `fault({ afterOwnWrite })` is clear. */
  remember(): void {
    this.#seen = SUFFIXES.map((suffix) => look(this.#path + suffix))
  }
}

function look(path: string): Seen | undefined {
  return statSync(path, { bigint: true, throwIfNoEntry: false })
}
