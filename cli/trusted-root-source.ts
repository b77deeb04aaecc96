import { copyFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Where an auditor's trust comes from: a file, or a TUF mirror whose root.json was obtained out of band. */
export interface TrustedRootSource {
  readonly trustedRoot?: string | undefined
  readonly mirror?: string | undefined
  readonly root?: string | undefined
}

/** Neither a file nor a mirror with its root was named, or what was named cannot be had. */
export class TrustedRootError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'TrustedRootError'
  }
}

/** A mirror answers a few small files. */
const FETCH_TIMEOUT_MS = 20_000

/**
 * The parsed trusted_root.json. From a mirror it is fetched by tuf-js, which shares no code with what published it, into
 * a cache that is thrown away: an audit starts from the root that it was given and from nothing else.
 */
export async function loadTrustedRoot({ trustedRoot, mirror, root }: TrustedRootSource): Promise<unknown> {
  if (trustedRoot !== undefined)
    return parse(await readFile(trustedRoot, 'utf8').catch(unreadable(trustedRoot)), trustedRoot)
  if (mirror === undefined || root === undefined) {
    throw new TrustedRootError(
      'no trust root: give --trusted-root trusted_root.json, or --mirror URL with --root 1.root.json (obtained out of band)',
    )
  }
  const { Updater } = await import('tuf-js')
  const cache = await mkdtemp(join(tmpdir(), 'chancery-audit-'))
  try {
    await copyFile(root, join(cache, 'root.json')).catch(unreadable(root))
    const base = mirror.replace(/\/+$/, '')
    const updater = new Updater({
      metadataDir: cache,
      metadataBaseUrl: base,
      targetDir: cache,
      targetBaseUrl: `${base}/targets`,
      config: { fetchTimeout: FETCH_TIMEOUT_MS },
    })
    await updater.refresh()
    const target = await updater.getTargetInfo('trusted_root.json')
    if (!target) throw new TrustedRootError(`${mirror} has no target trusted_root.json`)
    return parse(await readFile(await updater.downloadTarget(target), 'utf8'), 'trusted_root.json')
  } catch (error) {
    if (error instanceof TrustedRootError) throw error
    throw new TrustedRootError(`${mirror}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  } finally {
    await rm(cache, { recursive: true })
  }
}

function unreadable(path: string): (error: unknown) => never {
  return (error) => {
    throw new TrustedRootError(`${path} cannot be read`, { cause: error })
  }
}

function parse(text: string, name: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch (error) {
    throw new TrustedRootError(`${name} is not JSON`, { cause: error })
  }
}
