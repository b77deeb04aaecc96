/** An agent as a child of the server: crash isolation only. The parent starts it, and starts it again when it dies. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Duplex, Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import type { AdminAgent } from './administration.ts'
import { AgentStream, clientOver, type ClientOptions, type StreamSource } from './client.ts'
import { HsmError, type SigningAgent } from './signing.ts'

export interface SpawnOptions extends ClientOptions {
  /** The agent's configuration, `agent.yaml`. */
  readonly configPath: string
  readonly logger?: Pick<Logger, 'info' | 'warn' | 'error'>
  /** Also open the admin channel; only if the configuration has `adminWhenSpawned: true`. */
  readonly admin?: boolean
  /** Whom it runs as; only root can say. Unless told, it runs as we do. */
  readonly user?: { readonly uid: number; readonly gid: number }
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

/** A slow machine loads Node and the module in seconds, and a predecessor's lock is waited for. */
const START_WITHIN_MS = 15_000

const RESTART_FIRST_MS = 20
const RESTART_LAST_MS = 5000
/** One that ran this long was well; its end is not one more of a row of failures. */
const WELL_AFTER_MS = 10_000
/** The agent answers what it has and closes its state; a hung module does not. */
const STOP_WITHIN_MS = 5000

const SIGNING_CHANNEL = 3
const ADMIN_CHANNEL = 4

/**
 * Starts an agent as a child and keeps it running: one that dies is started again with growing pauses. Requests that
 * were under way reject `unavailable`; later ones wait for the new process within their deadline. Rejects `unavailable`,
 * with what the agent said, if it does not come up in the first place.
 */
export async function spawnAgent(options: SpawnOptions): Promise<SpawnedAgent> {
  const supervisor = new Supervisor(options)
  const close = () => supervisor.stop()
  const agent = clientOver(supervisor.source('signing'), options, close)
  const admin = options.admin === true ? clientOver(supervisor.source('admin'), options, close) : undefined
  supervisor.start()
  const patient = clientOver(supervisor.source('signing'), { deadlineMs: START_WITHIN_MS }, close)
  try {
    await patient.status()
  } catch (error) {
    await close()
    throw supervisor.lastWords() ?? error
  }
  supervisor.keepRunning()
  const child = {
    get pid() {
      return supervisor.pid
    },
  }
  return { agent, child, close, ...(admin === undefined ? {} : { admin }) }
}

interface Running {
  readonly child: ChildProcess
  readonly signing: AgentStream
  readonly admin: AgentStream | undefined
  readonly startedMs: number
}

class Supervisor {
  readonly #options: SpawnOptions
  #running: Running | undefined
  #waiting: ((running: Running | undefined) => void)[] = []
  #stopped = false
  #keptRunning = false
  #failures = 0
  #lastError = ''
  #exited: Promise<void> = Promise.resolve()

  constructor(options: SpawnOptions) {
    this.#options = options
  }

  get pid(): number | undefined {
    return this.#running?.child.pid
  }

  /** From now on a child that dies is replaced; before, its death is an error of the configuration. */
  keepRunning(): void {
    this.#keptRunning = true
  }

  /** What the agent said before it ended by itself. */
  lastWords(): HsmError | undefined {
    return this.#lastError === '' ? undefined : new HsmError('unavailable', 'agent_ended', this.#lastError)
  }

  source(channel: 'signing' | 'admin'): StreamSource {
    return {
      stream: async (timeoutMs) => {
        const running = this.#running ?? (await this.#next(timeoutMs))
        const stream = running?.[channel]
        if (stream === undefined) throw new HsmError('unavailable', 'agent_down', 'the agent is not running')
        return stream
      },
    }
  }

  start(): void {
    const { configPath, admin, user } = this.#options
    const child = spawn(
      process.execPath,
      [
        fileURLToPath(new URL('./agent.ts', import.meta.url)),
        '--inherited',
        '--config',
        configPath,
        ...(admin === true ? ['--admin'] : []),
      ],
      {
        env: agentEnvironment(),
        ...user,
        stdio: ['ignore', 'ignore', 'pipe', 'pipe', ...(admin === true ? (['pipe'] as const) : [])],
      },
    )
    const running: Running = {
      child,
      signing: new AgentStream(streamOf(child, SIGNING_CHANNEL)),
      admin: admin === true ? new AgentStream(streamOf(child, ADMIN_CHANNEL)) : undefined,
      startedMs: performance.now(),
    }
    if (child.stderr !== null) this.#passOn(child.stderr)
    this.#running = running
    this.#exited = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        this.#ended(running, code, signal)
        resolve()
      })
      child.once('error', (error) => {
        this.#lastError = `the agent cannot be started: ${error.message}`
        resolve()
      })
    })
    for (const resolve of this.#waiting.splice(0)) resolve(running)
  }

  /** Closes the channel, which is how the agent knows; ends it if it does not listen. */
  async stop(): Promise<void> {
    this.#stopped = true
    for (const resolve of this.#waiting.splice(0)) resolve(undefined)
    const running = this.#running
    if (running === undefined) return
    running.signing.destroy()
    running.admin?.destroy()
    const kill = setTimeout(() => running.child.kill('SIGKILL'), STOP_WITHIN_MS)
    await this.#exited
    clearTimeout(kill)
  }

  #ended(running: Running, code: number | null, signal: NodeJS.Signals | null): void {
    // The kernel closes its end as well; this makes the order certain.
    running.signing.destroy()
    running.admin?.destroy()
    this.#running = undefined
    if (this.#stopped || !this.#keptRunning) return
    if (performance.now() - running.startedMs > WELL_AFTER_MS) this.#failures = 0
    const pauseMs = Math.min(RESTART_FIRST_MS * 2 ** this.#failures++, RESTART_LAST_MS)
    this.#options.logger?.error({ code, signal, pauseMs }, 'agent ended; starting it again')
    setTimeout(() => {
      if (!this.#stopped) this.start()
    }, pauseMs)
  }

  async #next(timeoutMs: number): Promise<Running | undefined> {
    if (this.#stopped || !this.#keptRunning) return undefined
    return await new Promise((resolve) => {
      const timer = setTimeout(() => resolve(undefined), timeoutMs)
      this.#waiting.push((running) => {
        clearTimeout(timer)
        resolve(running)
      })
    })
  }

  /** The agent's own lines, each with its level; what is no such line comes from the module or from Node. */
  #passOn(stderr: Readable): void {
    createInterface({ input: stderr }).on('line', (line) => {
      const { level, msg, ...fields } = parseLine(line)
      if (fields['fatal'] === true) this.#lastError = msg
      const logger = this.#options.logger
      if (level >= 50) logger?.error(fields, msg)
      else if (level >= 40) logger?.warn(fields, msg)
      else logger?.info(fields, msg)
    })
  }
}

/** Nothing of the server's environment, from which a module reads paths and switches, but where Node keeps compiled code. */
function agentEnvironment(): NodeJS.ProcessEnv {
  const compiled = process.env['NODE_COMPILE_CACHE']
  return compiled === undefined ? {} : { NODE_COMPILE_CACHE: compiled }
}

function streamOf(child: ChildProcess, descriptor: number): Duplex {
  const stream = child.stdio[descriptor]
  if (stream === null || stream === undefined || !('write' in stream) || !('read' in stream)) {
    throw new HsmError('unavailable', 'no_channel', 'the channel to the agent was not made')
  }
  return stream as unknown as Duplex // Node makes a socket for every `pipe` beyond the standard three
}

function parseLine(line: string): { level: number; msg: string; [field: string]: unknown } {
  try {
    const parsed: unknown = JSON.parse(line)
    if (typeof parsed === 'object' && parsed !== null && 'level' in parsed && 'msg' in parsed) {
      const { level, msg, ...fields } = parsed
      if (typeof level === 'number' && typeof msg === 'string') return { level, msg, ...fields }
    }
  } catch {
    // Not one of the agent's lines.
  }
  return { level: 40, msg: 'agent wrote', line }
}
