/**
 * The canaries that are kept, one file each in `trust-root/canaries/`: of every set of keys that ever signed one, the
 * first and the newest. They are public (logs and certificates show them); losing one costs a proof, not a key.
 */
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import type { CanaryBundle } from './canary-bundle.ts'
import { DISTRUSTED_FILE } from './canary-distrust.ts'

const hexDigest = z.string().regex(/^[0-9a-f]{64}$/)

const file = z.strictObject({
  schemaVersion: z.literal(1),
  madeAt: z.iso.datetime(),
  /** Absent in those of earlier releases. */
  endedAt: z.iso.datetime().optional(),
  identity: z.url(),
  bundles: z
    .array(
      z.strictObject({
        log: z.enum(['rekor-v1', 'rekor-v2']),
        signedBy: z.partialRecord(
          z.enum(['certificate-authority', 'ct-log', 'rekor-v1', 'rekor-v2', 'timestamp-authority']),
          hexDigest,
        ),
        bundle: z.unknown(),
      }),
    )
    .min(1),
})

/** One signature of the installation with itself, in a bundle for each log. */
export interface Canary {
  /** Name of its file, without the ending. */
  readonly id: string
  /** Before the first signature, */
  readonly madeAt: Date
  /** and after the last. */
  readonly endedAt: Date
  readonly identity: string
  readonly bundles: readonly CanaryBundle[]
}

/** A set of keys is one after each rotation: a century of them. */
const MOST_SETS = 400

export class CanaryStore {
  readonly #folder: string

  constructor(trustRootFolder: string) {
    this.#folder = join(trustRootFolder, 'canaries')
  }

  /** Oldest first; empty before the first. Throws for a file that is none. */
  all(): Canary[] {
    return names(this.#folder)
      .map((name) => this.#read(name))
      .toSorted((one, other) => one.madeAt.getTime() - other.madeAt.getTime())
  }

  /** Adds one, and lets go of the newest but one of the same keys. */
  keep({ madeAt, endedAt, identity, bundles }: Omit<Canary, 'id'>): Canary {
    const times = { madeAt: madeAt.toISOString(), endedAt: endedAt.toISOString() }
    const document = { schemaVersion: 1, ...times, identity, bundles }
    const text = `${JSON.stringify(document, undefined, 2)}\n`
    const hash = createHash('sha256').update(text).digest('hex').slice(0, 8)
    const id = `${times.madeAt.replaceAll(/[-:.]/g, '')}-${hash}`
    mkdirSync(this.#folder, { recursive: true, mode: 0o755 })
    const path = join(this.#folder, `${id}.json`)
    writeFileSync(`${path}.part`, text, { flush: true })
    renameSync(`${path}.part`, path)
    for (const gone of superfluous(this.all())) rmSync(join(this.#folder, `${gone.id}.json`), { force: true })
    return { id, madeAt, endedAt, identity, bundles }
  }

  #read(name: string): Canary {
    const path = join(this.#folder, name)
    try {
      const { madeAt, endedAt = madeAt, identity, bundles } = file.parse(JSON.parse(readFileSync(path, 'utf8')))
      const times = { madeAt: new Date(madeAt), endedAt: new Date(endedAt) }
      return { id: name.replace(/\.json$/, ''), ...times, identity, bundles }
    } catch (cause) {
      throw new Error(`${path} is no canary; move it away`, { cause })
    }
  }
}

/** Names the keys that signed: the same for two canaries if nothing was rotated between them. */
export function keysOf({ bundles }: Pick<Canary, 'bundles'>): string {
  return bundles
    .flatMap(({ log, signedBy }) => [log, ...Object.values(signedBy).toSorted((a = '', b = '') => a.localeCompare(b))])
    .join()
}

/** All but the first and the newest of each set of keys, and what is of more sets than are kept. Takes oldest first. */
export function superfluous(canaries: readonly Canary[]): readonly Canary[] {
  const sets = [...Map.groupBy(canaries, keysOf).values()]
  const keptSets = sets.slice(-MOST_SETS)
  const kept = new Set(keptSets.flatMap((set) => [set[0], set.at(-1)]))
  return canaries.filter((canary) => !kept.has(canary))
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.endsWith('.json') && name !== DISTRUSTED_FILE)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  }
}
