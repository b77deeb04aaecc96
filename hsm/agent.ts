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
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, chownSync, lstatSync, rmSync } from 'node:fs'
import { createServer, Socket, type Server } from 'node:net'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { Administrator } from './administrator.ts'
import { openAgentClock } from './agent-clock.ts'
import { AgentConfigError, loadAgentConfig, type AgentConfig } from './agent-config.ts'
import { AgentStateError, openAgentState, type AgentState } from './agent-state.ts'
import { LoadBound, serveChannel, type Handler, type Load } from './channel.ts'
import { confirmationBy } from './time-confirmation.ts'
import type { SteadyClock } from './clock.ts'
import { agentLog as log } from './log-line.ts'
import { HsmModule } from './module.ts'
import { peerCheck, type AllowedPeers, type PeerCheck } from './peers.ts'
import { ADMIN_METHODS, SIGNING_METHODS } from './protocol.ts'
import { Fields, refuse } from './purposes/purpose.ts'
import { RoleScope, type Role } from './roles.ts'
import { SigningDesk } from './signing-desk.ts'
import type { SyncError } from './synced-writes.ts'
import { beats } from './watchdog-beats.ts'
import type { AgentStatus, SignedPurpose } from './signing.ts'
import type { WireValue } from './wire.ts'

/** A predecessor whose parent was killed notices within milliseconds; a rival stays. */
const WAIT_FOR_STATE_MS = 5000

/**
 * What may be under way on one socket, half of it on one connection. A client of ours has 4096 requests at most; those
 * of a few KiB are far below the bytes, which a flood of large ones is not. The desk has its own bound, by purpose: this
 * one must be wider, since it takes no account of what is urgent.
 */
const SOCKET_LOAD: Load = { requests: 8192, bytes: 32 * 1024 * 1024 }

/** A service opens one connection; each may hold one unfinished frame of a MiB. */
const MAX_CONNECTIONS = 32

/** An exchanged state is told of within a second. */
const STATE_LOOK_MS = 300

const SIGNING_CHANNEL = 3
const ADMIN_CHANNEL = 4

/** For whoever supervises the agent: waiting does not help against these. */
const EXIT = { configuration: 2, locked: 3, module: 4, disk: 5 } as const

const DESTINED_FOR_DESK: readonly string[] = [
  'certificate',
  'treeHead',
  'sct',
  'set',
  'timestamp',
  'tuf',
  'caCertificate',
  'certificateRequest',
  'ceremonyStatement',
  'accountHead',
] satisfies readonly SignedPurpose[]

class Agent {
  readonly #state: AgentState
  readonly #module: HsmModule
  readonly #desk: SigningDesk
  readonly #clock: SteadyClock
  readonly #administrator: Administrator

  constructor(configPath: string, config: AgentConfig, state: AgentState) {
    this.#state = state
    this.#module = new HsmModule(config, state, log)
    const { keys, inFlight } = config
    const { confirmedBy, steadySeconds } = config.clock
    this.#clock = openAgentClock({ state, log, confirm: confirmationBy(confirmedBy), steadySeconds })
    const clockFault = () => this.#clock.fault()
    this.#desk = new SigningDesk({ state, module: this.#module, keys, log, inFlight, now: Date.now, clockFault })
    this.#administrator = new Administrator({
      configPath,
      config,
      state,
      module: this.#module,
      desk: this.#desk,
      clockFault,
    })
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
        return await this.#desk.submit(method as SignedPurpose, request, deadlineAtMs) // just checked
      }
      return await this.#administrator.administer(method, request)
    }
  }

  /** The signing methods as far as this role has them, with the keys that its socket names or all of the role's. */
  roleHandler(role: Role): Handler {
    const named = () => this.#administrator.config.roleSockets.find((socket) => socket.role === role)?.keys
    const scope = new RoleScope(role, named, () => this.#desk.keys)
    const handle = this.handler('signing')
    return async (method, argument, deadlineAtMs) => {
      scope.check(method, argument)
      const answer = await handle(method, argument, deadlineAtMs)
      if (method !== 'status') return answer
      return scope.narrow(answer as unknown as AgentStatus) as unknown as WireValue // as the administrator made it
    }
  }

  /** How long the module has been silent on a pool thread, for the watchdog. */
  oldestCallMs(): number {
    return this.#module.oldestCallMs()
  }

  async close(): Promise<void> {
    this.#clock.close()
    await this.#module.close()
    this.#desk.close()
    this.#state.close()
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      config: { type: 'string' },
      inherited: { type: 'boolean' },
      admin: { type: 'boolean' },
      'adopt-state': { type: 'string' },
    },
  })
  if (values.config === undefined) throw new AgentConfigError('--config FILE is missing')
  const config = loadAgentConfig(values.config)
  if (values['adopt-state'] !== undefined) return await adoptState(config, values['adopt-state'])
  const state = await openAgentState(config.stateFolder, {
    waitMs: WAIT_FOR_STATE_MS,
    onDiskFailure: endAtOnce,
    endsWithParent: values.inherited === true,
  })
  watchState(state)
  const watch = await startWatchdog(config.watchdogSeconds)
  const agent = new Agent(values.config, config, state)
  watch(agent)
  const servers = await listen(agent, config)
  if (values.inherited === true) serveInherited(agent, config, values.admin === true, servers)
  else {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop(agent, servers))
    if (servers.length === 0) throw new AgentConfigError('configuration has no sockets, and nobody spawned this agent')
  }
  agent.connect()
}

/** Takes over a copied state, with a line of the account, and ends. */
async function adoptState({ stateFolder }: AgentConfig, instance: string): Promise<void> {
  const state = await openAgentState(stateFolder, { waitMs: 0, onDiskFailure: endAtOnce, adopt: instance })
  const digest = Uint8Array.from(hash('sha256', instance, 'buffer'))
  state.transaction(() => state.account({ atMs: Date.now(), key: 'state', act: 'adoptState', count: 1, digest }, 0))
  state.close()
  log.warn('copied state adopted', { folder: stateFolder, instance })
}

/** Signing looks before each batch; this tells of it also when nobody asks for a signature. */
function watchState(state: AgentState): void {
  let told = false
  setInterval(() => {
    const found = state.replaced()
    if (found === undefined || told) return
    told = true
    log.error('nothing is signed any more: the files of the state were exchanged', { code: 'state_replaced', found })
  }, STATE_LOOK_MS).unref()
}

/** The parent's end of the channel is the parent's life: without it there is nobody to sign for. */
function serveInherited(agent: Agent, config: AgentConfig, admin: boolean, servers: readonly Server[]): void {
  // The whole process group gets these; the server finishes what it accepted, and needs its agent for that.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined)
  const stream = new Socket({ fd: SIGNING_CHANNEL })
  serveChannel(stream, agent.handler('signing'), new LoadBound(SOCKET_LOAD), log)
  stream.once('close', () => void stop(agent, servers))
  if (!admin) return
  if (!config.adminWhenSpawned)
    throw new AgentConfigError('adminWhenSpawned is not set, and the admin channel is asked for')
  serveChannel(new Socket({ fd: ADMIN_CHANNEL }), agent.handler('admin'), new LoadBound(SOCKET_LOAD), log)
}

/** A socket with who may connect to it and what it answers. */
interface Listening {
  readonly path: string
  readonly allowed: AllowedPeers
  readonly handler: Handler
}

async function listen(agent: Agent, config: AgentConfig): Promise<Server[]> {
  const sockets: Listening[] = []
  if (config.signingSocket !== undefined) {
    const allowed = config.allowedUids.length > 0 ? { uids: config.allowedUids } : {}
    sockets.push({ path: config.signingSocket, allowed, handler: agent.handler('signing') })
  }
  for (const { role, path, gid, uids } of config.roleSockets) {
    sockets.push({ path, allowed: { gid, uids }, handler: agent.roleHandler(role) })
  }
  if (config.adminSocket !== undefined) {
    sockets.push({ path: config.adminSocket, allowed: {}, handler: agent.handler('admin') })
  }
  const servers: Server[] = []
  // Before the first socket, and without any: it also keeps our memory from being read.
  await peerCheck({}, log)
  for (const socket of sockets) {
    servers.push(await listenAt(socket, await peerCheck(socket.allowed, log)))
  }
  return servers
}

/** A group's members may connect; with users named the kernel's word decides, and the file's mode cannot. */
function modeOf({ gid, uids }: AllowedPeers): number {
  if (gid !== undefined) return 0o660
  return uids === undefined ? 0o600 : 0o666
}

async function listenAt({ path, allowed, handler }: Listening, admits: PeerCheck): Promise<Server> {
  // The state's lock is ours, so a socket that is still there was left by a predecessor.
  if (isSocket(path)) rmSync(path)
  const whole = new LoadBound(SOCKET_LOAD)
  const half = { requests: SOCKET_LOAD.requests / 2, bytes: SOCKET_LOAD.bytes / 2 }
  const server = createServer((socket) => {
    if (admits(socket)) serveChannel(socket, handler, new LoadBound(half, whole), log)
    else socket.destroy()
  })
  server.maxConnections = MAX_CONNECTIONS
  const previous = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, resolve)
    })
  } finally {
    process.umask(previous)
  }
  if (allowed.gid !== undefined) chownSync(path, process.getuid?.() ?? -1, allowed.gid)
  chmodSync(path, modeOf(allowed))
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

/**
 * Resolves when the watchdog watches this thread: only then may it call into the module, whose first call, made while
 * the agent is built, can hang like every other. The agent is told of for its calls on other threads.
 */
async function startWatchdog(limitSeconds: number): Promise<(agent: Agent) => void> {
  const limitMs = limitSeconds * 1000
  const watchdog = new Worker(new URL('./watchdog.ts', import.meta.url), { workerData: { beats, limitMs }, env: {} })
  await once(watchdog, 'message')
  watchdog.unref()
  let watched: Agent | undefined
  setInterval(() => {
    if (watched === undefined || watched.oldestCallMs() < limitMs) Atomics.add(beats, 0, 1)
  }, limitMs / 20).unref()
  return (agent) => {
    watched = agent
  }
}

async function stop(agent: Agent, servers: readonly Server[]): Promise<void> {
  for (const server of servers) server.close()
  await agent.close()
  // Open connections and pool threads would keep the process; everything accepted was answered or is void now.
  process.exit(0)
}

/** Nothing is answered any more: the next process rewrites its state before it signs (synced-writes.ts). */
function endAtOnce(error: SyncError): never {
  log.error(`the agent's state: ${error.message}`, { fatal: true, code: error.code })
  process.exit(EXIT.disk)
}

function exitCode(error: unknown): number {
  if (error instanceof AgentConfigError) return EXIT.configuration
  if (error instanceof AgentStateError) return EXIT.locked
  if (
    error instanceof Error &&
    'code' in error &&
    /^SQLITE_(?:IOERR|FULL|READONLY)|^SQLITE_CANTOPEN/.test(String(error.code))
  ) {
    return EXIT.disk
  }
  return EXIT.module
}

main().catch((error: unknown) => {
  log.error(error instanceof Error ? error.message : 'agent failed', {
    fatal: true,
    cause: error instanceof Error && error.cause instanceof Error ? error.cause.message : undefined,
  })
  process.exit(exitCode(error))
})
