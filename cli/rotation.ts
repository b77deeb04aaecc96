/** What the commands that change keys share: the installation as it is configured, and the way to its server. */
import { join, resolve } from 'node:path'
import type { Installation } from '#lifecycle'
import type { LoadedConfig } from '#server'

export interface InstallationOptions {
  readonly data: string
  readonly config?: string
  /** Of the services' keys. */
  readonly agent: string
}

/** A certificate waits for the root token, a publication for every client's check of it. */
const SILENCE_MS = 120_000

/** Reads the configuration. Throws `ConfigError`. */
export async function installationOf(options: InstallationOptions): Promise<Installation> {
  const { askAdmin, loadConfig } = await import('#server')
  const { becomeOwnerOf } = await import('#lifecycle')
  becomeOwnerOf(resolve(options.data))
  const loaded = loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
  const socket = loaded.resolve(loaded.config.admin.socket)
  return {
    ...configured(loaded, options.agent),
    ask: async (verb, argument) => await askAdmin(socket, verb, { argument, timeoutMs: SILENCE_MS }),
  }
}

function configured({ config, dataDir, resolve: at }: LoadedConfig, agent: string): Omit<Installation, 'ask'> {
  const { ca, timestamp, trustRoot, logs, domain } = config
  return {
    dataDir,
    domain,
    resolve: at,
    logs,
    agent: { dataDir, agent, acting: true },
    agentApart: !('spawn' in config.agent),
    ...(ca === undefined ? {} : { ca }),
    ...(timestamp === undefined ? {} : { timestamp }),
    ...(trustRoot === undefined ? {} : { trustRoot: { ...trustRoot, folder: at(trustRoot.folder) } }),
    ...(trustRoot?.rootAgent === undefined ? {} : { rootAgent: { dataDir, agent: at(trustRoot.rootAgent) } }),
  }
}
