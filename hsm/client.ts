/** The agent's client: requests pipelined over one stream, each with its own deadline; dialled again after a loss. */
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import type {
  Reloaded,
  AdminAgent,
  GeneratedKey,
  KeyRecord,
  LatchedName,
  RestoredKey,
  SignedStatement,
  TokenDetails,
  TokenObject,
  WrappedKey,
} from './administration.ts'
import { readAnswer, requestValue, type AgentAnswer, type Method } from './protocol.ts'
import {
  HsmError,
  type AccountHead,
  type AccountLine,
  type AgentStatus,
  type GuardedHead,
  type KeyDescription,
  type SignedTreeHead,
  type SigningAgent,
  type TufRole,
  type UseDigests,
} from './signing.ts'
import { decodeFrame, encodeFrame, FrameSplitter, WireError, writeTogether, type WireValue } from './wire.ts'

/** A unix socket that is dialled again after a loss, or a connected stream that is not. */
export type AgentAddress = { readonly socketPath: string } | { readonly duplex: Duplex }

export interface ClientOptions {
  /** How long a request may take, from the call to the answer; 10 000 unless told. */
  readonly deadlineMs?: number
}

/** Half of what the services' own clients wait: sigstore-js gives up after five seconds, most others after thirty. */
const DEFAULT_DEADLINE_MS = 10_000

/** Requests under way at most; the agent has a bound of its own for all its clients together. */
const MAX_IN_FLIGHT = 4096

const REDIAL_FIRST_MS = 20
const REDIAL_LAST_MS = 1000

/** Connects to an agent's signing socket; rejects `unavailable` if it does not answer. */
export async function connectAgent(address: AgentAddress, options: ClientOptions = {}): Promise<SigningAgent> {
  return await connectAdminAgent(address, options)
}

/** Connects to an agent's admin socket; rejects `unavailable` if it does not answer. */
export async function connectAdminAgent(address: AgentAddress, options: ClientOptions = {}): Promise<AdminAgent> {
  const { connection, stop } = 'duplex' in address ? connectionOver(address.duplex) : redialling(address.socketPath)
  const client = new AgentClient(connection, options.deadlineMs ?? DEFAULT_DEADLINE_MS, stop)
  try {
    await client.status()
  } catch (error) {
    await client.close()
    throw error
  }
  return client
}

/** Where a client gets the stream of the moment from; undefined while there is none. */
export interface StreamSource {
  /** The open stream, or the next one; rejects `unavailable` if there will be none, or none in time. */
  stream(timeoutMs: number): Promise<AgentStream>
}

/** A client of the admin channel over whatever streams `source` has, one after the other. */
export function clientOver(source: StreamSource, options: ClientOptions, close: () => Promise<void>): AdminAgent {
  return new AgentClient(source, options.deadlineMs ?? DEFAULT_DEADLINE_MS, close)
}

interface Pending {
  readonly resolve: (value: WireValue) => void
  readonly reject: (error: HsmError) => void
  readonly timer: NodeJS.Timeout
}

/** One stream to an agent with the requests that are under way on it. */
export class AgentStream {
  readonly #stream: Duplex
  readonly #pending = new Map<number, Pending>()
  readonly #splitter = new FrameSplitter()
  #nextId = 1
  #lost: HsmError | undefined
  /** Resolves when the stream is gone. */
  readonly closed: Promise<void>

  constructor(stream: Duplex) {
    this.#stream = stream
    stream.on('data', (chunk: Buffer) => this.#read(chunk))
    // An error is followed by close, which ends the requests.
    stream.on('error', () => undefined)
    this.closed = new Promise((resolve) => {
      stream.once('close', () => {
        this.#fail()
        resolve()
      })
      stream.once('end', () => stream.destroy())
    })
  }

  get open(): boolean {
    return this.#lost === undefined
  }

  async request(method: Method, argument: WireValue, timeoutMs: number): Promise<WireValue> {
    if (this.#lost !== undefined) throw this.#lost
    if (this.#pending.size >= MAX_IN_FLIGHT) throw new HsmError('busy', 'too_many_requests', 'too many requests')
    const id = this.#nextId++
    const frame = frameOf(requestValue({ id, method, timeoutMs: Math.ceil(timeoutMs), argument }))
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id)
        reject(new HsmError('unavailable', 'deadline', `the agent did not answer ${method} in time`))
      }, timeoutMs)
      this.#pending.set(id, { resolve, reject, timer })
      writeTogether(this.#stream, frame)
    })
  }

  destroy(): void {
    this.#stream.destroy()
  }

  #read(chunk: Buffer): void {
    try {
      for (const frame of this.#splitter.push(chunk)) this.#settle(readAnswer(decodeFrame(frame)))
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      this.#stream.destroy()
    }
  }

  /** An answer to a request that has run out of time is let go of. */
  #settle(answer: AgentAnswer): void {
    const pending = this.#pending.get(answer.id)
    if (pending === undefined) return
    this.#pending.delete(answer.id)
    clearTimeout(pending.timer)
    if ('result' in answer) pending.resolve(answer.result)
    else pending.reject(answer.error)
  }

  /** Whether the agent got and signed them is unknown; every purpose may be asked for again. */
  #fail(): void {
    this.#lost = new HsmError('unavailable', 'connection_lost', 'the connection to the agent was lost')
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer)
      reject(this.#lost)
    }
    this.#pending.clear()
  }
}

/** What is too long to send is the caller's fault, not the connection's. */
function frameOf(value: WireValue): Uint8Array {
  try {
    return encodeFrame(value)
  } catch (error) {
    if (!(error instanceof WireError)) throw error
    throw new HsmError('refused', 'malformed', `request cannot be sent: ${error.message}`, { cause: error })
  }
}

class AgentClient implements AdminAgent {
  readonly #source: StreamSource
  readonly #deadlineMs: number
  readonly #stop: () => Promise<void>
  readonly #keys = new Map<string, KeyDescription>()

  constructor(source: StreamSource, deadlineMs: number, stop: () => Promise<void>) {
    this.#source = source
    this.#deadlineMs = deadlineMs
    this.#stop = stop
  }

  /** Remembered: a key's description changes with its name only. */
  async key(name: string): Promise<KeyDescription> {
    const known = this.#keys.get(name)
    if (known !== undefined) return known
    const description = (await this.#call('key', { name })) as unknown as KeyDescription
    this.#keys.set(name, description)
    return description
  }

  async certificate(request: Parameters<SigningAgent['certificate']>[0]): Promise<Uint8Array> {
    return signatureIn(await this.#call('certificate', { ...request }))
  }

  async treeHead(request: Parameters<SigningAgent['treeHead']>[0]): Promise<SignedTreeHead> {
    return (await this.#call('treeHead', { ...request })) as unknown as SignedTreeHead
  }

  async guardedHead(request: Parameters<SigningAgent['guardedHead']>[0]): Promise<GuardedHead> {
    return (await this.#call('guardedHead', { ...request })) as unknown as GuardedHead
  }

  async tufVersions(request: { readonly key: string }): Promise<Readonly<Partial<Record<TufRole, number>>>> {
    return (await this.#call('tufVersions', { ...request })) as unknown as Readonly<Partial<Record<TufRole, number>>>
  }

  async account(request: { readonly from: number; readonly limit: number }): Promise<readonly AccountLine[]> {
    return (await this.#call('account', { ...request })) as unknown as readonly AccountLine[]
  }

  async useDigests(request: { readonly from: number }): Promise<readonly UseDigests[]> {
    return (await this.#call('useDigests', { ...request })) as unknown as readonly UseDigests[]
  }

  async accountHead(request: { readonly key: string }): Promise<AccountHead> {
    return (await this.#call('accountHead', { ...request })) as unknown as AccountHead
  }

  async reportHead(report: Parameters<SigningAgent['reportHead']>[0]): Promise<void> {
    await this.#call('reportHead', { ...report })
  }

  async sct(request: Parameters<SigningAgent['sct']>[0]): Promise<Uint8Array> {
    return signatureIn(await this.#call('sct', { ...request, entry: { ...request.entry } }))
  }

  async set(request: Parameters<SigningAgent['set']>[0]): Promise<Uint8Array> {
    return signatureIn(await this.#call('set', { ...request }))
  }

  async timestamp(request: Parameters<SigningAgent['timestamp']>[0]): Promise<Uint8Array> {
    return signatureIn(await this.#call('timestamp', { ...request }))
  }

  async tuf(request: Parameters<SigningAgent['tuf']>[0]): Promise<Uint8Array> {
    return signatureIn(await this.#call('tuf', { ...request }))
  }

  async caCertificate(request: Parameters<AdminAgent['caCertificate']>[0]): Promise<Uint8Array> {
    return signatureIn(await this.#call('caCertificate', { ...request }))
  }

  async certificateRequest(request: Parameters<AdminAgent['certificateRequest']>[0]): Promise<Uint8Array> {
    return signatureIn(await this.#call('certificateRequest', { ...request }))
  }

  async ceremonyStatement(request: Parameters<AdminAgent['ceremonyStatement']>[0]): Promise<SignedStatement> {
    return (await this.#call('ceremonyStatement', { ...request })) as unknown as SignedStatement
  }

  async status(): Promise<AgentStatus> {
    return (await this.#call('status', {})) as unknown as AgentStatus
  }

  async generateKey(request: Parameters<AdminAgent['generateKey']>[0]): Promise<GeneratedKey> {
    const argument = { ...request, backup: request.backup ?? false, idHex: request.idHex ?? '' }
    return (await this.#call('generateKey', argument)) as unknown as GeneratedKey
  }

  async tokens(): Promise<readonly TokenDetails[]> {
    return (await this.#call('tokens', {})) as unknown as readonly TokenDetails[]
  }

  async latches(): Promise<readonly LatchedName[]> {
    return (await this.#call('latches', {})) as unknown as readonly LatchedName[]
  }

  async keyRecords(): Promise<readonly KeyRecord[]> {
    return (await this.#call('keyRecords', {})) as unknown as readonly KeyRecord[]
  }

  async listObjects(token: string): Promise<readonly TokenObject[]> {
    const found: TokenObject[] = []
    for (;;) {
      const page = (await this.#call('objects', { token, offset: found.length })) as unknown as {
        readonly total: number
        readonly objects: readonly TokenObject[]
      }
      found.push(...page.objects)
      if (page.objects.length === 0 || found.length >= page.total) return found
    }
  }

  async rotatePin({ token, newPin }: Parameters<AdminAgent['rotatePin']>[0]): Promise<{ readonly resumed: boolean }> {
    return (await this.#call('rotatePin', { token, newPin: newPin ?? '' })) as { readonly resumed: boolean }
  }

  async wrapKey(request: { token: string; idHex: string }): Promise<WrappedKey> {
    return (await this.#call('wrapKey', { ...request })) as unknown as WrappedKey
  }

  async unwrapKey({ token, key }: { token: string; key: WrappedKey }): Promise<RestoredKey> {
    return (await this.#call('unwrapKey', { token, key: { ...key } })) as unknown as RestoredKey
  }

  async destroyKey(request: { token: string; idHex: string }): Promise<void> {
    await this.#call('destroyKey', { ...request })
  }

  async adoptHead(adoption: Parameters<AdminAgent['adoptHead']>[0]): Promise<void> {
    await this.#call('adoptHead', { ...adoption })
  }

  async unlatch(request: { latch: string }): Promise<void> {
    await this.#call('unlatch', { ...request })
  }

  async raiseCap(request: Parameters<AdminAgent['raiseCap']>[0]): ReturnType<AdminAgent['raiseCap']> {
    return (await this.#call('raiseCap', { ...request })) as unknown as Awaited<ReturnType<AdminAgent['raiseCap']>>
  }

  async reload(): Promise<Reloaded> {
    const reloaded = (await this.#call('reload', {})) as unknown as Reloaded
    this.#keys.clear()
    return reloaded
  }

  async close(): Promise<void> {
    await this.#stop()
  }

  /** The agent is trusted by its services, so the shape of its answers is not checked again: the casts above. */
  async #call(method: Method, argument: WireValue): Promise<WireValue> {
    const start = performance.now()
    const stream = await this.#source.stream(this.#deadlineMs)
    return await stream.request(method, argument, Math.max(1, this.#deadlineMs - (performance.now() - start)))
  }
}

function signatureIn(value: WireValue): Uint8Array {
  if (value instanceof Uint8Array) return value
  throw new HsmError('unavailable', 'bad_answer', 'the agent answered without a signature')
}

function connectionOver(duplex: Duplex): { connection: StreamSource; stop: () => Promise<void> } {
  const stream = new AgentStream(duplex)
  const stop = async () => {
    stream.destroy()
    await stream.closed
  }
  return { connection: { stream: async () => stream }, stop }
}

/** Dials on demand; calls made while the agent is away wait for it within their own deadline. */
function redialling(socketPath: string): { connection: StreamSource; stop: () => Promise<void> } {
  let current: AgentStream | undefined
  let dialling: Promise<AgentStream> | undefined
  let stopped = false
  const connection: StreamSource = {
    stream: async (timeoutMs) => {
      if (current?.open === true) return current
      if (stopped) throw new HsmError('unavailable', 'closed', 'the client was closed')
      dialling ??= dialUntil(socketPath, performance.now() + timeoutMs, () => stopped).finally(() => {
        dialling = undefined
      })
      current = await dialling
      return current
    },
  }
  const stop = async () => {
    stopped = true
    current?.destroy()
    await current?.closed
  }
  return { connection, stop }
}

async function dialUntil(socketPath: string, untilMs: number, stopped: () => boolean): Promise<AgentStream> {
  for (let attempt = 0; ; attempt++) {
    try {
      return new AgentStream(await dial(socketPath))
    } catch (error) {
      const pauseMs = Math.min(REDIAL_FIRST_MS * 2 ** attempt, REDIAL_LAST_MS)
      if (stopped() || performance.now() + pauseMs >= untilMs) {
        throw new HsmError('unavailable', 'not_connected', `agent at ${socketPath} cannot be reached`, { cause: error })
      }
      await new Promise((resolve) => setTimeout(resolve, pauseMs))
    }
  }
}

async function dial(socketPath: string): Promise<Duplex> {
  return await new Promise((resolve, reject) => {
    const socket = connect(socketPath)
    socket.once('error', reject)
    socket.once('connect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
  })
}
