/**
 * The agent: the process that alone loads the PKCS#11 module, holds the PIN and signs. Its life in order: read the
 * configuration, take the state folder for itself, load the module, serve, and meanwhile connect to the tokens. One
 * request's way: `channel.ts` reads it, `signing-desk.ts` checks it by its purpose (`purposes/`), makes guard and account
 * durable (`agent-state.ts`), and has `module.ts` sign and verify.
 *
 *     node hsm/agent.ts --config agent.yaml
 *
 * With `--inherited` it serves the stream on descriptor 3 (and the admin channel on 4) and ends when that closes.
 */
import { chmodSync, lstatSync, rmSync } from 'node:fs'
import { createServer, Socket, type Server } from 'node:net'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { Administrator } from './administrator.ts'
import { AgentConfigError, loadAgentConfig, type AgentConfig } from './agent-config.ts'
import { AgentStateError, openAgentState, type AgentState } from './agent-state.ts'
import { serveChannel, type Handler } from './channel.ts'
import { agentLog as log } from './log-line.ts'
import { HsmModule } from './module.ts'
import { peerCheck, type PeerCheck } from './peers.ts'
import { ADMIN_METHODS, SIGNING_METHODS } from './protocol.ts'
import { Fields, refuse } from './purposes/purpose.ts'
import { SigningDesk } from './signing-desk.ts'
import type { Purpose } from './signing.ts'

/** A predecessor whose parent was killed notices within milliseconds; a rival stays. */
const WAIT_FOR_STATE_MS = 5000

const SIGNING_CHANNEL = 3
const ADMIN_CHANNEL = 4

/** For whoever supervises the agent: waiting does not help against these. */
const EXIT = { configuration: 2, locked: 3, module: 4 } as const

const DESTINED_FOR_DESK: readonly string[] = [
  'certificate',
  'treeHead',
  'sct',
  'set',
  'timestamp',
  'tuf',
  'caCertificate',
] satisfies readonly Purpose[]

class Agent {
  readonly #state: AgentState
  readonly #module: HsmModule
  readonly #desk: SigningDesk
  readonly #administrator: Administrator

  constructor(configPath: string, config: AgentConfig, state: AgentState) {
    this.#state = state
    this.#module = new HsmModule(config, state, log)
    const { keys, inFlight } = config
    this.#desk = new SigningDesk({ state, module: this.#module, keys, log, inFlight, now: Date.now })
    this.#administrator = new Administrator({ configPath, config, state, module: this.#module, desk: this.#desk })
  }

  /** Begins to connect to the tokens; requests are answered from the start. */
  connect(): void {
    this.#module.start()
  }

  handler(channel: 'signing' | 'admin'): Handler {
    const methods: readonly string[] = channel === 'admin' ? [...SIGNING_METHODS, ...ADMIN_METHODS] : SIGNING_METHODS
    return async (method, argument, deadlineAtMs) => {
      if (!methods.includes(method)) refuse('unknown_method', `${JSON.stringify(method)} is no method of this channel`)
      const request = new Fields(argument)
      if (DESTINED_FOR_DESK.includes(method)) {
        return await this.#desk.submit(method as Purpose, request, deadlineAtMs) // just checked
      }
      return await this.#administrator.administer(method, request)
    }
  }

  /** How long the module has been silent on a pool thread, for the watchdog. */
  oldestCallMs(): number {
    return this.#module.oldestCallMs()
  }

  async close(): Promise<void> {
    await this.#module.close()
    this.#desk.close()
    this.#state.close()
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { config: { type: 'string' }, inherited: { type: 'boolean' }, admin: { type: 'boolean' } },
  })
  if (values.config === undefined) throw new AgentConfigError('--config FILE is missing')
  const config = loadAgentConfig(values.config)
  const state = await openAgentState(config.stateFolder, { waitMs: WAIT_FOR_STATE_MS })
  const agent = new Agent(values.config, config, state)
  startWatchdog(agent, config.watchdogSeconds)
  const servers = await listen(agent, config)
  if (values.inherited === true) serveInherited(agent, config, values.admin === true, servers)
  else {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop(agent, servers))
    if (servers.length === 0) throw new AgentConfigError('configuration has no sockets, and nobody spawned this agent')
  }
  agent.connect()
}

/** The parent's end of the channel is the parent's life: without it there is nobody to sign for. */
function serveInherited(agent: Agent, config: AgentConfig, admin: boolean, servers: readonly Server[]): void {
  // The whole process group gets these; the server finishes what it accepted, and needs its agent for that.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined)
  const stream = new Socket({ fd: SIGNING_CHANNEL })
  serveChannel(stream, agent.handler('signing'), log)
  stream.once('close', () => void stop(agent, servers))
  if (!admin) return
  if (!config.adminWhenSpawned)
    throw new AgentConfigError('adminWhenSpawned is not set, and the admin channel is asked for')
  serveChannel(new Socket({ fd: ADMIN_CHANNEL }), agent.handler('admin'), log)
}

async function listen(agent: Agent, config: AgentConfig): Promise<Server[]> {
  const servers: Server[] = []
  const ownOnly = await peerCheck([], log)
  if (config.signingSocket !== undefined) {
    const check = config.allowedUids.length > 0 ? await peerCheck(config.allowedUids, log) : ownOnly
    // With other users named, the kernel's word for the peer decides, and the file's mode cannot.
    const mode = config.allowedUids.length > 0 ? 0o666 : 0o600
    servers.push(await listenAt(config.signingSocket, mode, check, agent.handler('signing')))
  }
  if (config.adminSocket !== undefined) {
    servers.push(await listenAt(config.adminSocket, 0o600, ownOnly, agent.handler('admin')))
  }
  return servers
}

async function listenAt(path: string, mode: number, admits: PeerCheck, handler: Handler): Promise<Server> {
  // The state's lock is ours, so a socket that is still there was left by a predecessor.
  if (isSocket(path)) rmSync(path)
  const server = createServer((socket) => {
    if (admits(socket)) serveChannel(socket, handler, log)
    else socket.destroy()
  })
  const previous = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, resolve)
    })
  } finally {
    process.umask(previous)
  }
  chmodSync(path, mode)
  log.info('listening', { socket: path })
  return server
}

function isSocket(path: string): boolean {
  try {
    return lstatSync(path).isSocket()
  } catch {
    return false
  }
}

function startWatchdog(agent: Agent, limitSeconds: number): void {
  const beats = new Int32Array(new SharedArrayBuffer(4))
  const limitMs = limitSeconds * 1000
  const watchdog = new Worker(new URL('./watchdog.ts', import.meta.url), { workerData: { beats, limitMs }, env: {} })
  watchdog.unref()
  setInterval(() => {
    if (agent.oldestCallMs() < limitMs) Atomics.add(beats, 0, 1)
  }, limitMs / 20).unref()
}

async function stop(agent: Agent, servers: readonly Server[]): Promise<void> {
  for (const server of servers) server.close()
  await agent.close()
  // Open connections and pool threads would keep the process; everything accepted was answered or is void now.
  process.exit(0)
}

function exitCode(error: unknown): number {
  if (error instanceof AgentConfigError) return EXIT.configuration
  if (error instanceof AgentStateError) return EXIT.locked
  return EXIT.module
}

main().catch((error: unknown) => {
  log.error(error instanceof Error ? error.message : 'agent failed', {
    fatal: true,
    cause: error instanceof Error && error.cause instanceof Error ? error.cause.message : undefined,
  })
  process.exit(exitCode(error))
})
