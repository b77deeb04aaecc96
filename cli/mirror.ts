/**
 * What clients trust, fetched from a TUF mirror: trusted root and signing configuration. Trust starts from a root.json
 * that was obtained out of band, or from its checksum; nothing is trusted because it was there first.
 */
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { SigningConfig, TrustedRoot } from '@sigstore/protobuf-specs'
import { initTUF } from '@sigstore/tuf'

export type MirrorErrorCode =
  | 'no_root'
  | 'root_unreadable'
  | 'root_checksum'
  | 'mirror_refused'
  | 'no_target'
  | 'target_malformed'

/** The mirror, its root or a target cannot be had or cannot be trusted. */
export class MirrorError extends Error {
  readonly code: MirrorErrorCode
  constructor(code: MirrorErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'MirrorError'
    this.code = code
  }
}

export interface MirrorOptions {
  readonly mirror: string
  /** File or URL of a root.json; the mirror's first by default. */
  readonly root?: string
  /** SHA-256 of the root, hex; may be left out only for a root from a file. */
  readonly rootChecksum?: string
  /** Where verified metadata is kept between calls; below the user's cache folder by default. */
  readonly trustDir?: string
}

/** A mirror whose metadata was verified up to the root that was given. */
export interface Mirror {
  trustedRoot(): Promise<TrustedRoot>
  /** The default one, or one that lists a Rekor of this major version. */
  signingConfig(rekor?: 1 | 2): Promise<SigningConfig>
}

/** A slow mirror is tried again by the TUF client. */
const FETCH_TIMEOUT_MS = 10_000
/** A root with dozens of keys is far below. */
const ROOT_LIMIT_BYTES = 1 << 20
const CONFIG_TARGETS = ['signing_config.v0.2.json', 'signing_config_rekor_v2.v0.2.json'] as const

/** Refreshes the mirror's metadata. Throws `MirrorError`. */
export async function openMirror(options: MirrorOptions): Promise<Mirror> {
  const mirrorURL = options.mirror.replace(/\/+$/, '')
  const { rootPath, cachePath } = seed(options, await rootBytes(options, mirrorURL))
  const client = await attempt(mirrorURL, () =>
    initTUF({ mirrorURL, rootPath, cachePath, timeout: FETCH_TIMEOUT_MS, retry: { retries: 2 } }),
  )
  const target = async (name: string): Promise<unknown> => {
    const text = await attempt(mirrorURL, () => client.getTarget(name))
    try {
      return JSON.parse(text)
    } catch (cause) {
      throw new MirrorError('target_malformed', `${mirrorURL}: ${name} is not JSON`, { cause })
    }
  }
  return {
    trustedRoot: async () => TrustedRoot.fromJSON(await target('trusted_root.json')),
    async signingConfig(rekor) {
      for (const name of CONFIG_TARGETS) {
        const config = SigningConfig.fromJSON(await target(name))
        if (rekor === undefined || config.rekorTlogUrls.some((log) => log.majorApiVersion === rekor)) return config
      }
      throw new MirrorError('no_target', `${mirrorURL} publishes no signing configuration with a Rekor v${rekor}`)
    },
  }
}

/** Any root.json that was not in the user's hands must match a checksum. */
async function rootBytes(options: MirrorOptions, mirrorURL: string): Promise<Uint8Array> {
  const source = options.root ?? `${mirrorURL}/1.root.json`
  const remote = /^https?:\/\//.test(source)
  if (remote && options.rootChecksum === undefined) {
    throw new MirrorError(
      'no_root',
      'give --root-checksum, or --root with a file: a root that the mirror itself hands out proves nothing',
    )
  }
  const bytes = remote ? await fetchRoot(source) : readRoot(source)
  const found = createHash('sha256').update(bytes).digest('hex')
  if (options.rootChecksum !== undefined && found !== options.rootChecksum.toLowerCase()) {
    throw new MirrorError('root_checksum', `${source} has the checksum ${found}, which is not the one that was given`)
  }
  return bytes
}

async function fetchRoot(url: string): Promise<Uint8Array> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) })
    if (!answer.ok) throw new Error(`status ${answer.status}`)
    const chunks: Uint8Array[] = []
    let size = 0
    for await (const chunk of answer.body ?? []) {
      // The web stream of a fetch yields bytes.
      chunks.push(chunk as Uint8Array)
      size += (chunk as Uint8Array).length
      if (size > ROOT_LIMIT_BYTES) throw new Error('it is too large to be a root.json')
    }
    return Buffer.concat(chunks)
  } catch (cause) {
    throw new MirrorError('root_unreadable', `cannot fetch ${url}: ${reason(cause)}`, { cause })
  }
}

function readRoot(file: string): Uint8Array {
  try {
    return readFileSync(file)
  } catch (cause) {
    throw new MirrorError('root_unreadable', `cannot read ${file}: ${reason(cause)}`, { cause })
  }
}

/** Metadata is kept apart by root: the same mirror URL after a new `init` is another repository. */
function seed(options: MirrorOptions, root: Uint8Array): { rootPath: string; cachePath: string } {
  const caches = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache')
  const base = options.trustDir ?? join(caches, 'chancery', 'trust')
  const cachePath = join(base, createHash('sha256').update(root).digest('hex').slice(0, 32))
  mkdirSync(cachePath, { recursive: true, mode: 0o700 })
  const rootPath = join(cachePath, 'initial-root.json')
  const draft = `${rootPath}.${process.pid}`
  writeFileSync(draft, root, { flush: true })
  renameSync(draft, rootPath)
  return { rootPath, cachePath }
}

async function attempt<T>(mirrorURL: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (cause) {
    throw new MirrorError('mirror_refused', `the metadata of ${mirrorURL} was not accepted: ${reason(cause)}`, {
      cause,
    })
  }
}

/** The innermost message: libraries wrap what happened in what they were doing. */
function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause instanceof Error ? `${error.message}: ${reason(error.cause)}` : error.message
}
