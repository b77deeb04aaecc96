import { readFile, stat } from 'node:fs/promises'
import type { Server } from 'node:https'
import { createSecureContext } from 'node:tls'
import type { Logger } from 'pino'

/** Paths of a PEM chain (leaf first) and its unencrypted PEM key; both are read again when either changes. */
export interface TlsFiles {
  readonly certFile: string
  readonly keyFile: string
}

/** How soon a renewed certificate is served. Polled, since watches miss files that are replaced behind a symbolic link. */
const POLL_MS = 2_000

/** Reads both files and checks that they fit together. Throws what node:fs or OpenSSL say. */
export async function readTls(files: TlsFiles): Promise<{ cert: Buffer; key: Buffer }> {
  const [cert, key] = await Promise.all([readFile(files.certFile), readFile(files.keyFile)])
  createSecureContext({ cert, key })
  return { cert, key }
}

/**
 * Serves renewed files on new connections. Files that cannot be used (half written, a key that does not fit) are
 * reported once and the present ones stay. Returns a function that ends the watch.
 */
export function reloadTls(
  server: Server,
  files: TlsFiles,
  options: { readonly logger?: Pick<Logger, 'info' | 'error'> | undefined; readonly pollMs?: number | undefined },
): () => void {
  let served: string | undefined
  let reported: string | undefined
  let busy = false
  const poll = async (): Promise<void> => {
    const seen = await fingerprint(files)
    if (seen === served || seen === reported) return
    try {
      if (served !== undefined) {
        server.setSecureContext({ ...(await readTls(files)), minVersion: 'TLSv1.2' })
        options.logger?.info({ certFile: files.certFile }, 'TLS certificate reloaded')
      }
      served = seen
      reported = undefined
    } catch (cause) {
      reported = seen
      options.logger?.error(
        { err: cause, certFile: files.certFile },
        'TLS certificate not reloaded; the present one stays',
      )
    }
  }
  const tick = (): void => {
    if (busy) return
    busy = true
    void poll().finally(() => {
      busy = false
    })
  }
  tick()
  const timer = setInterval(tick, options.pollMs ?? POLL_MS).unref()
  return () => clearInterval(timer)
}

async function fingerprint(files: TlsFiles): Promise<string> {
  const of = async (path: string): Promise<string> => {
    const found = await stat(path).catch(() => undefined)
    return found ? `${found.ino}:${found.mtimeMs}:${found.size}` : 'missing'
  }
  return (await Promise.all([of(files.certFile), of(files.keyFile)])).join(' ')
}
