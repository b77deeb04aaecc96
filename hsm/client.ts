import type { Duplex } from 'node:stream'
import type { AdminAgent } from './administration.ts'
import { HsmError, type SigningAgent } from './signing.ts'

/** A unix socket that is dialled again after a loss, or a connected stream that is not. */
export type AgentAddress = { readonly socketPath: string } | { readonly duplex: Duplex }

export interface ClientOptions {
  /** How long a request may take, from the call to the answer; 10 000 unless told. */
  readonly deadlineMs?: number
}

/** Connects to an agent's signing socket; rejects `unavailable` if it does not answer. */
export async function connectAgent(_address: AgentAddress, _options: ClientOptions = {}): Promise<SigningAgent> {
  throw new HsmError('unavailable', 'not_connected', 'the agent cannot be reached')
}

/** Connects to an agent's admin socket. */
export async function connectAdminAgent(_address: AgentAddress, _options: ClientOptions = {}): Promise<AdminAgent> {
  throw new HsmError('unavailable', 'not_connected', 'the agent cannot be reached')
}
