/**
 * The only code that knows Koa and node:http servers: it turns sections of endpoints into a bounded listener. A request
 * passes: target folded → section by Host → endpoint → body read, bounded → `answer` → sent → one log line.
 */
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https'
import type { Socket } from 'node:net'
import Router from '@koa/router'
import Koa, { type Context, type Middleware, type Next } from 'koa'
import type { Logger } from 'pino'
import { BodyBudget, readBody, type BodyFault } from './body.ts'
import type { Endpoint, EndpointAnswer, Section } from './endpoint.ts'
import { Exchange } from './exchange.ts'
import { plain, plainFaults } from './faults.ts'
import { connectionsRefused, countInFlight } from './metrics.ts'
import { parseTarget } from './target.ts'
import { readTls, reloadTls, type TlsFiles } from './tls.ts'

/** Bounds of one listener. */
export interface ListenLimits {
  /** Open connections; more are dropped, and idle ones closed to make room. */
  readonly connections: number
  /** Requests under way, pipelined ones included; more are answered `overloaded`. */
  readonly requestsInFlight: number
  /** All headers of one request; a GitLab token in `Authorization` takes a few KiB. */
  readonly headerBytes: number
  readonly headersMs: number
  readonly bodyMs: number
  /** From the whole body to the answer; then the request's signal aborts and the client is told to come back. */
  readonly answerMs: number
  /** From the answer to its last byte taken by the client. */
  readonly deliveryMs: number
  /** An idle connection is kept this long; longer than clients keep theirs, so that they and not we close first. */
  readonly idleMs: number
  /** `close` waits this long for what was accepted, then cuts. */
  readonly closeMs: number
  /** Shared by listeners that share a process. */
  readonly bodies: BodyBudget
}

/** What a socket takes without its reader. */
const SOCKET_BUFFER_BYTES = 64 << 10

/** Headers of ours that a page of another origin may read. */
const EXPOSED = 'etag, location, retry-after, x-request-id, x-log-index'

/** One budget a process: the memory is the process's. */
const processBodies = new BodyBudget(256 << 20)

export const DEFAULT_LIMITS: ListenLimits = {
  connections: 2_048,
  requestsInFlight: 1_024,
  headerBytes: 32 << 10,
  headersMs: 10_000,
  bodyMs: 30_000,
  answerMs: 60_000,
  deliveryMs: 60_000,
  idleMs: 65_000,
  closeMs: 15_000,
  bodies: processBodies,
}

/** A section and the names (Host without port, lower case) that it answers to; without names it answers to every other. */
export interface MountedSection {
  readonly section: Section
  readonly hosts?: readonly string[]
}

export interface ListenOptions {
  readonly host: string
  /** 0 takes any free port; `Listener.port` tells which. */
  readonly port: number
  readonly sections: readonly MountedSection[]
  readonly tls?: TlsFiles | undefined
  readonly limits?: Partial<ListenLimits> | undefined
  readonly logger?: Pick<Logger, 'info' | 'warn' | 'error'> | undefined
}

export interface Listener {
  /** Serves these and no others from now on; a request that began before goes on where it was. */
  mount(sections: readonly MountedSection[]): void
  /** `http(s)://host:port`, as bound. */
  readonly url: string
  readonly port: number
  /** Accepts no more, finishes what was accepted within `closeMs`, then resolves. May be called twice. */
  close(): Promise<void>
}

export type ListenErrorCode = 'address_in_use' | 'address_unavailable' | 'permission' | 'tls_files' | 'listen_failed'

/** A listener could not start. */
export class ListenError extends Error {
  readonly code: ListenErrorCode
  constructor(code: ListenErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'ListenError'
    this.code = code
  }
}

/** Binds and serves the sections. Throws `ListenError`. */
export async function listen(options: ListenOptions): Promise<Listener> {
  const limits = { ...DEFAULT_LIMITS, ...options.limits }
  const connections = new Connections(limits, options)
  const mounting: Mounting = { mounts: options.sections.map((mounted) => mount(mounted, limits)) }
  const handle = application(mounting, limits, connections)
  const server = await createServer(options, limits, handle)
  connections.watch(server)
  const port = await bind(server, options)
  const stopReload = options.tls ? reloadTls(server as HttpsServer, options.tls, { logger: options.logger }) : undefined
  let closing: Promise<void> | undefined
  return {
    url: `${options.tls ? 'https' : 'http'}://${options.host.includes(':') ? `[${options.host}]` : options.host}:${port}`,
    port,
    mount(sections) {
      mounting.mounts = sections.map((mounted) => mount(mounted, limits))
    },
    close() {
      closing ??= connections.drain(server).finally(() => stopReload?.())
      return closing
    },
  }
}

type Handle = (request: IncomingMessage, response: ServerResponse) => void

async function createServer(options: ListenOptions, limits: ListenLimits, handle: Handle): Promise<Server> {
  const bounds = {
    maxHeaderSize: limits.headerBytes,
    headersTimeout: limits.headersMs,
    // Behind our own, which answer in the protocol's form; this one cuts whatever they should miss.
    requestTimeout: limits.headersMs + limits.bodyMs + 5_000,
    connectionsCheckingInterval: Math.max(50, Math.min(limits.headersMs / 2, 5_000)),
    keepAliveTimeout: limits.idleMs,
    noDelay: true,
  }
  const server = options.tls
    ? createHttpsServer({ ...bounds, ...(await tlsOf(options.tls)), minVersion: 'TLSv1.2' }, handle)
    : createHttpServer(bounds, handle)
  server.maxConnections = limits.connections
  server.timeout = limits.bodyMs + limits.answerMs + limits.deliveryMs
  server.on('checkContinue', handle)
  return server
}

async function tlsOf(files: TlsFiles): Promise<{ cert: Buffer; key: Buffer }> {
  try {
    return await readTls(files)
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new ListenError('tls_files', `cannot use ${files.certFile} with ${files.keyFile}: ${why}`, { cause })
  }
}

function bind(server: Server, { host, port }: ListenOptions): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => reject(listenError(cause, host, port)))
    server.listen({ host, port, backlog: 511 }, () => {
      const address = server.address()
      resolve(typeof address === 'object' && address ? address.port : port)
    })
  })
}

function listenError(cause: NodeJS.ErrnoException, host: string, port: number): ListenError {
  const at = `${host}:${port}`
  if (cause.code === 'EADDRINUSE') {
    return new ListenError('address_in_use', `another program already listens on ${at}`, { cause })
  }
  if (cause.code === 'EACCES') return new ListenError('permission', `not permitted to listen on ${at}`, { cause })
  if (cause.code === 'EADDRNOTAVAIL' || cause.code === 'ENOTFOUND') {
    return new ListenError('address_unavailable', `this machine has no address ${host}`, { cause })
  }
  return new ListenError('listen_failed', `cannot listen on ${at}: ${cause.message}`, { cause })
}

/** Which exchanges are under way on which connection, so that nothing is written between two answers, and a stop waits. */
class Connections {
  readonly #limits: ListenLimits
  readonly #logger: ListenOptions['logger']
  readonly #name: string
  readonly #bySocket = new Map<Socket, Set<Exchange>>()
  #inFlight = 0
  #closing = false
  #idleClosedMs = 0

  constructor(limits: ListenLimits, options: ListenOptions) {
    this.#limits = limits
    this.#logger = options.logger
    this.#name = options.sections.map(({ section }) => section.name).join(',')
  }

  get closing(): boolean {
    return this.#closing
  }

  get full(): boolean {
    return this.#inFlight > this.#limits.requestsInFlight
  }

  watch(server: Server): void {
    const stopCounting = countInFlight(this.#name, () => this.#inFlight)
    server.once('close', stopCounting)
    server.on('tlsClientError', () => this.#refused('tls'))
    server.on('secureConnection', (socket: Socket) => this.#track(socket))
    server.on('connection', (socket: Socket) => {
      if (!('setSecureContext' in server)) this.#track(socket)
    })
    server.on('drop', () => {
      this.#refused('over_the_cap')
      const nowMs = performance.now()
      if (nowMs - this.#idleClosedMs < 1_000) return
      this.#idleClosedMs = nowMs
      server.closeIdleConnections()
    })
    server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => this.#clientError(error, socket))
  }

  open(request: IncomingMessage, response: ServerResponse): Exchange {
    const { socket } = request
    const underWay = this.#bySocket.get(socket) ?? this.#track(socket)
    const exchange: Exchange = new Exchange({
      request,
      response,
      budget: this.#limits.bodies,
      logger: this.#logger,
      onEnd: () => {
        underWay.delete(exchange)
        this.#inFlight--
      },
    })
    underWay.add(exchange)
    this.#inFlight++
    return exchange
  }

  /** Stops accepting and waits for what is under way, bounded. */
  async drain(server: Server): Promise<void> {
    this.#closing = true
    const closed = new Promise<void>((resolve) => server.close(() => resolve()))
    for (const [socket, underWay] of this.#bySocket) if (underWay.size === 0) socket.end()
    const timer = setTimeout(() => server.closeAllConnections(), this.#limits.closeMs)
    // A connection that got its last answer just before `closing` was set would idle on.
    const sweep = setInterval(() => server.closeIdleConnections(), 100)
    await closed
    clearTimeout(timer)
    clearInterval(sweep)
  }

  #track(socket: Socket): Set<Exchange> {
    const known = this.#bySocket.get(socket)
    if (known) return known
    const underWay = new Set<Exchange>()
    this.#bySocket.set(socket, underWay)
    socket.once('close', () => this.#bySocket.delete(socket))
    return underWay
  }

  /** What Node's parser refuses. Only answered when nothing else is being written on the connection. */
  #clientError(error: NodeJS.ErrnoException, socket: Socket): void {
    const [status, reason] =
      error.code === 'HPE_HEADER_OVERFLOW'
        ? ['431 Request Header Fields Too Large', 'headers_too_large']
        : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
          ? ['408 Request Timeout', 'too_slow']
          : ['400 Bad Request', 'malformed']
    const gone = error.code === 'ECONNRESET' || error.code === 'EPIPE' || !socket.writable
    if (!gone) {
      this.#refused(reason)
      this.#logger?.warn({ reason, remote: socket.remoteAddress }, 'connection refused')
    }
    if (gone || (this.#bySocket.get(socket)?.size ?? 0) > 0) socket.destroy()
    else socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`, () => socket.destroy())
  }

  #refused(reason: string): void {
    connectionsRefused.inc({ listener: this.#name, reason })
  }
}

/** What passes between the middleware of one request. */
interface State {
  exchange: Exchange
  mounts: readonly Mount[]
}

type ListenerContext = Context & { state: State }

interface Mount {
  readonly section: Section
  readonly hosts: ReadonlySet<string> | undefined
  readonly routes: Middleware
  /** Whether any endpoint has this (folded, encoded) path, whatever the method. */
  readonly knows: (path: string) => boolean
}

/** What a listener serves at the moment. */
interface Mounting {
  mounts: readonly Mount[]
}

function application(mounting: Mounting, limits: ListenLimits, connections: Connections): Handle {
  const app = new Koa()
  // Koa tells of failed connections and unwritable answers here: both belong on the request's own line.
  app.on('error', (error: unknown, context?: ListenerContext) => context?.state.exchange.failed(error))
  app.use((context, next) =>
    converse(context as ListenerContext, next, { mounts: mounting.mounts, limits, connections }),
  )
  app.use((context, next) => route(context as ListenerContext, next))
  app.use((context) => refuse(context as ListenerContext, limits))
  const callback = app.callback()
  return (request, response) => void callback(request, response)
}

/** Each section of this Host in turn, until one has the endpoint. */
async function route(context: ListenerContext, next: Next, at = 0): Promise<unknown> {
  const mounted = context.state.mounts[at]
  return mounted === undefined ? await next() : await mounted.routes(context, () => route(context, next, at + 1))
}

function mount({ section, hosts }: MountedSection, limits: ListenLimits): Mount {
  const router = new Router({ sensitive: true, strict: true })
  for (const endpoint of section.endpoints) {
    router.register(endpoint.path, [endpoint.method], (context: Context) => serve(context, section, endpoint, limits))
  }
  return {
    section,
    hosts: hosts && new Set(hosts.map((host) => host.toLowerCase())),
    // The router's own context type adds what only it reads.
    routes: router.routes() as unknown as Middleware,
    knows: (path) => router.match(path, 'GET').path.length > 0,
  }
}

/** The frame of every request: its identity, its headers, its target, and the answer to an unknown error. */
async function converse(
  context: ListenerContext,
  next: Next,
  listener: { readonly mounts: readonly Mount[]; readonly limits: ListenLimits; readonly connections: Connections },
): Promise<void> {
  const { connections } = listener
  const exchange = connections.open(context.req, context.res)
  const mounts = mountsFor(listener.mounts, context.req.headers.host)
  context.state = { exchange, mounts }
  exchange.section = mounts.length === 1 ? mounts[0]?.section : undefined
  const faults = (): Section['faults'] => (exchange.section ?? mounts[0]?.section)?.faults ?? plainFaults
  context.res.setHeader('x-request-id', exchange.requestId)
  context.res.setHeader('access-control-allow-origin', '*')
  if (connections.closing) context.res.setHeader('connection', 'close')
  const target = parseTarget(context.req.url ?? '')
  exchange.path = target?.decodedPath ?? '(malformed)'
  if (!target) {
    return send(context, plain(400, 'the path is malformed'), { close: true })
  }
  if (connections.full) {
    exchange.note = 'requests_in_flight'
    return send(context, faults().overloaded(), { close: true })
  }
  context.url = target.path + target.search
  try {
    await next()
  } catch (error) {
    exchange.error = error
    send(context, faults().internal(exchange.requestId))
  }
  // A short answer is the kernel's to deliver; only a long one can be kept waiting by its reader.
  if ((context.length ?? 0) > SOCKET_BUFFER_BYTES) exchange.cutUnless(listener.limits.deliveryMs)
}

function mountsFor(mounts: readonly Mount[], host: string | undefined): readonly Mount[] {
  if (mounts.every((mount) => mount.hosts === undefined)) return mounts
  const name = (host ?? '').replace(/:\d+$/, '').toLowerCase()
  const named = mounts.filter((mount) => mount.hosts?.has(name))
  return named.length > 0 ? named : mounts.filter((mount) => mount.hosts === undefined)
}

/** One request to one endpoint. */
async function serve(
  context: ListenerContext,
  section: Section,
  endpoint: Endpoint,
  limits: ListenLimits,
): Promise<void> {
  const { exchange } = context.state
  exchange.section = section
  exchange.endpoint = endpoint.path
  const body = await readBody(context.req, context.res, {
    limitBytes: endpoint.limitBytes,
    timeoutMs: limits.bodyMs,
    account: exchange.account,
    awaitsContinue: context.req.headers.expect !== undefined,
  })
  if (!body.ok) return answerBodyFault(context, section, endpoint, body.fault)
  const answering = endpoint.answer({
    method: context.method,
    path: exchange.path,
    params: context['params'] as Readonly<Record<string, string>>,
    query: new URLSearchParams(context.querystring),
    // Only `set-cookie` is ever an array, and that is no header of requests.
    headers: context.req.headers as Readonly<Record<string, string | undefined>>,
    body: body.bytes,
    requestId: exchange.requestId,
    signal: exchange.signal,
  })
  const answer = answering instanceof Promise ? await withinTime(exchange, limits.answerMs, answering) : answering
  send(context, answer ?? section.faults.overloaded())
}

function answerBodyFault(context: ListenerContext, section: Section, endpoint: Endpoint, fault: BodyFault): void {
  const { exchange } = context.state
  exchange.note = `body_${fault}`
  switch (fault) {
    case 'tooLarge':
      return send(context, section.faults.tooLarge(endpoint.limitBytes), { close: true })
    case 'timedOut':
      return send(context, section.faults.timedOut(), { close: true })
    case 'overloaded':
      return send(context, section.faults.overloaded(), { close: true })
    case 'cut':
      context.respond = false
      context.res.destroy()
  }
}

/** The answer, or undefined when it does not come in time; then nobody waits for it any more. */
async function withinTime(
  exchange: Exchange,
  limitMs: number,
  answer: Promise<EndpointAnswer>,
): Promise<EndpointAnswer | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => {
      exchange.note = 'answer_late'
      exchange.giveUp()
      resolve(undefined)
    }, limitMs)
  })
  try {
    return await Promise.race([answer, late])
  } finally {
    clearTimeout(timer)
  }
}

/** No endpoint took the request: preflight, unknown path or wrong method, in the form of the section it came closest to. */
async function refuse(context: ListenerContext, limits: ListenLimits): Promise<void> {
  const { exchange, mounts } = context.state
  if (context.method === 'OPTIONS' && context.get('access-control-request-method') !== '') {
    return preflight(context, mounts)
  }
  const knowing = mounts.find((mount) => mount.knows(context.path))
  const section = (knowing ?? mounts[0])?.section
  exchange.section = section
  const faults = section?.faults ?? plainFaults
  const body = await readBody(context.req, context.res, {
    limitBytes: 0,
    timeoutMs: limits.bodyMs,
    account: exchange.account,
    awaitsContinue: context.req.headers.expect !== undefined,
  })
  const answer = knowing ? faults.methodNotAllowed(context.method, exchange.path) : faults.notFound(exchange.path)
  send(context, answer, { close: !body.ok })
}

/** Any origin may ask: nothing here is authorised by what a browser adds by itself. */
function preflight(context: ListenerContext, mounts: readonly Mount[]): void {
  const allowed = new Set(['accept', 'content-type', 'x-request-id'])
  for (const { section } of mounts) for (const name of section.corsRequestHeaders ?? []) allowed.add(name)
  send(context, {
    status: 204,
    headers: {
      'access-control-allow-methods': 'GET, HEAD, POST',
      'access-control-allow-headers': [...allowed].join(', '),
      'access-control-max-age': '3600',
    },
  })
}

/** Hands an answer to Koa, which sends it when the middleware is done. */
function send(context: ListenerContext, answer: EndpointAnswer, options: { readonly close?: boolean } = {}): void {
  const { exchange } = context.state
  if (exchange.ended) {
    // The client is gone and the request is logged; there is nothing left to write to.
    context.respond = false
    return
  }
  exchange.answered(answer)
  const { res } = context
  context.status = answer.status
  // What the answer says comes first: Koa then guesses no type from the body.
  for (const name in answer.headers) res.setHeader(name, answer.headers[name] ?? '')
  const typed = res.hasHeader('content-type')
  const { body } = answer
  context.body = typeof body === 'string' ? body : body ? Buffer.from(body.buffer, body.byteOffset, body.length) : ''
  if (!typed) res.removeHeader('content-type')
  if (context.req.headers.origin !== undefined) res.setHeader('access-control-expose-headers', EXPOSED)
  if (options.close) res.setHeader('connection', 'close')
}
