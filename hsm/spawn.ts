import type { Logger } from 'pino'
import type { AdminAgent } from './administration.ts'
import type { ClientOptions } from './client.ts'
import { HsmError, type SigningAgent } from './signing.ts'

export interface SpawnOptions extends ClientOptions {
  /** The agent's configuration, `agent.yaml`. */
  readonly configPath: string
  readonly logger?: Pick<Logger, 'info' | 'warn' | 'error'>
  /** Also open the admin channel; only if the configuration has `adminWhenSpawned: true`. */
  readonly admin?: boolean
}

export interface SpawnedAgent {
  readonly agent: SigningAgent
  /** With `admin: true`. */
  readonly admin?: AdminAgent
  /** The process that serves just now; another one after a restart. */
  readonly child: { readonly pid: number | undefined }
  /** Ends the process and the supervision. `agent.close()` does the same. */
  close(): Promise<void>
}

/**
 * Starts an agent as a child and keeps it running: one that dies is started again with growing pauses. Requests that
 * were under way reject `unavailable`; later ones wait for the new process within their deadline.
 */
export async function spawnAgent(_options: SpawnOptions): Promise<SpawnedAgent> {
  throw new HsmError('unavailable', 'not_started', 'the agent cannot be started')
}
