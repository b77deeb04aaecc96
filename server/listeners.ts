/** One listener per `listen` value, with the sections that share it told apart by Host. Sections may come while it runs. */
import type { Logger } from 'pino'
import { listen, type Listener, type MountedSection, type Section } from '#http'

/** A section with the addresses of its configuration. */
export interface Mount {
  readonly listen: string
  readonly section: Section
  /** What clients dial; a section without answers to every name. */
  readonly url?: string | undefined
  readonly tls?: { readonly certFile: string; readonly keyFile: string } | undefined
}

export class Listeners {
  readonly #resolve: (path: string) => string
  readonly #logger: Logger
  readonly #bound = new Map<string, { readonly listener: Listener; readonly mounts: Mount[] }>()

  /** `resolve`: an absolute path for one of the configuration's. */
  constructor(resolve: (path: string) => string, logger: Logger) {
    this.#resolve = resolve
    this.#logger = logger
  }

  /** Listens everywhere at once, so that each listener knows all that it is for. Rejects with `ListenError`. */
  async open(mounts: readonly Mount[]): Promise<void> {
    for (const [listenAt, sharing] of Map.groupBy(mounts, (mount) => mount.listen)) await this.#bind(listenAt, sharing)
  }

  /** Serves one more section, as a restart would: on a listener of its own, or by its name beside those that share it. */
  async add(mount: Mount): Promise<void> {
    const bound = this.#bound.get(mount.listen)
    if (bound === undefined) {
      await this.#bind(mount.listen, [mount])
      return
    }
    bound.mounts.push(mount)
    bound.listener.mount(named(bound.mounts))
  }

  /** Finishes what was accepted. */
  async close(): Promise<void> {
    await Promise.all([...this.#bound.values()].map(async ({ listener }) => await listener.close()))
  }

  async #bind(listenAt: string, sharing: readonly Mount[]): Promise<void> {
    const tls = sharing.find((mount) => mount.tls !== undefined)?.tls
    const listener = await listen({
      ...splitListen(listenAt),
      sections: named(sharing),
      tls: tls && { certFile: this.#resolve(tls.certFile), keyFile: this.#resolve(tls.keyFile) },
      logger: this.#logger,
    })
    this.#bound.set(listenAt, { listener, mounts: [...sharing] })
  }
}

/** Whoever has a listener for itself answers to every name. */
function named(sharing: readonly Mount[]): MountedSection[] {
  return sharing.map(({ section, url }) =>
    sharing.length === 1 || url === undefined ? { section } : { section, hosts: [new URL(url).hostname] },
  )
}

/** `host:port`, with or without the brackets of IPv6. */
export function splitListen(listenAt: string): { host: string; port: number } {
  const at = listenAt.lastIndexOf(':')
  return { host: listenAt.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(listenAt.slice(at + 1)) }
}
