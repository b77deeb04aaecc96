/**
 * A repository that the real publisher makes step by step, with real agents, each step of it kept: what clients had seen
 * then, and what they shall see next. It is served by the real section of HTTP, from whichever step a test wants.
 */
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { listen } from '#http'
import { servedFolder, trustRootSection } from '#trust-root'

/** What a mirror shows after one step. */
export interface Step {
  readonly name: string
  /** Every file that is served, by its path below the mirror's URL. */
  readonly files: ReadonlyMap<string, Uint8Array>
  /** SHA-256 of every target, hex. */
  readonly targets: Readonly<Record<string, string>>
  readonly versions: Readonly<Record<'root' | 'timestamp' | 'snapshot' | 'targets', number>>
}

interface Metadata {
  readonly signed: {
    readonly version: number
    readonly meta?: Readonly<Record<string, { readonly version: number }>>
    readonly targets?: Readonly<Record<string, { readonly hashes: { readonly sha256: string } }>>
  }
}

/** Reads what is served of a trust-root folder just now. The versions and targets come from the files alone. */
export function readStep(name: string, folder: string): Step {
  const served = servedFolder(folder)
  const files = new Map<string, Uint8Array>()
  for (const entry of readdirSync(served, { withFileTypes: true })) {
    if (entry.isFile() && !entry.name.startsWith('.')) files.set(entry.name, readFileSync(join(served, entry.name)))
  }
  for (const entry of readdirSync(join(served, 'targets'))) {
    files.set(`targets/${entry}`, readFileSync(join(served, 'targets', entry)))
  }
  const read = (file: string): Metadata['signed'] => {
    const bytes = files.get(file)
    if (bytes === undefined) throw new Error(`${file} is not served after "${name}"`)
    return (JSON.parse(Buffer.from(bytes).toString('utf8')) as Metadata).signed
  }
  const timestamp = read('timestamp.json')
  const snapshot = read(`${timestamp.meta?.['snapshot.json']?.version ?? 0}.snapshot.json`)
  const targets = read(`${snapshot.meta?.['targets.json']?.version ?? 0}.targets.json`)
  const digests: Record<string, string> = {}
  for (const [target, { hashes }] of Object.entries(targets.targets ?? {})) {
    const bytes = files.get(`targets/${hashes.sha256}.${target}`)
    if (bytes === undefined) throw new Error(`target ${target} is not served after "${name}"`)
    digests[target] = createHash('sha256').update(bytes).digest('hex')
  }
  const root = read('root.json').version
  const versions = { root, timestamp: timestamp.version, snapshot: snapshot.version, targets: targets.version }
  return { name, files, targets: digests, versions }
}

/** A mirror with the product's own HTTP that shows one kept step after the other, at one address. */
export async function openMirror(scratch: string) {
  const folder = join(scratch, 'mirror')
  mkdirSync(folder, { recursive: true })
  const section = trustRootSection({ folder })
  const server = await listen({ host: '127.0.0.1', port: 0, sections: [{ section }] })
  return {
    url: server.url,
    /** Keeps the generation that `trustRoot` serves just now, for `show`. */
    keep: (trustRoot: string, as: string): void => {
      cpSync(servedFolder(trustRoot), join(folder, 'kept', as), { recursive: true, dereference: true })
    },
    show: (kept: string): void => {
      const link = join(folder, 'next')
      rmSync(link, { force: true })
      symlinkSync(join('kept', kept), link)
      renameSync(link, servedFolder(folder))
    },
    close: () => server.close(),
  }
}
