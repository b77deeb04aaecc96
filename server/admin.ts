/**
 * Administration is local: a unix socket, mode 0600, that only this user can open. Small JSON over HTTP, one route a
 * verb; nothing here is reachable from a network.
 */

import { chmodSync, mkdirSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { dirname } from 'node:path'

/** What a verb is given. */
export interface AdminRequest {
  /** The JSON that was sent, or `{}`; the verb parses it strictly. */
  readonly argument: unknown
  /** Told to the one who asked while the work goes on; any JSON. */
  readonly progress: (step: unknown) => void
  /** Aborted when the one who asked has gone; long work that changes nothing may stop then. */
  readonly signal: AbortSignal
}

/** Administrative verbs by name; what they return is sent as JSON. */
export type AdminVerbs = Readonly<Record<string, (request: AdminRequest) => Promise<unknown>>>

export class AdminError extends Error {
  readonly code: 'not_running' | 'failed' | 'unusable_socket'
  /** Of the error that the server met: a code of the catalogue, an `HsmErrorCode`, or undefined. */
  readonly remoteCode: string | undefined
  constructor(code: AdminError['code'], message: string, options?: ErrorOptions & { remoteCode?: string | undefined }) {
    super(message, options)
    this.name = 'AdminError'
    this.code = code
    this.remoteCode = options?.remoteCode
  }
}

/** sun_path of Linux holds 108 bytes with its NUL. */
const longestSocketPath = 107

/** Listens on `socketPath`; returns a function that stops. Throws `AdminError` when the path is too long for a socket. */
export async function listenAdmin(socketPath: string, verbs: AdminVerbs): Promise<() => Promise<void>> {
  if (Buffer.byteLength(socketPath) > longestSocketPath) {
    throw new AdminError(
      'unusable_socket',
      `${socketPath} is over ${longestSocketPath} bytes, too long for a unix socket; use a shorter data folder`,
    )
  }
  mkdirSync(dirname(socketPath), { recursive: true, mode: 0o700 })
  rmSync(socketPath, { force: true })
  const server = createServer((incoming, outgoing) => {
    const name = incoming.url?.slice(1) ?? ''
    const verb = incoming.method === 'POST' && Object.hasOwn(verbs, name) ? verbs[name] : undefined
    const line = (value: unknown) => void outgoing.write(`${JSON.stringify(value)}\n`)
    const gone = new AbortController()
    outgoing.once('close', () => gone.abort())
    readArgument(incoming)
      .then(async (argument) => {
        if (verb === undefined) throw new AdminError('failed', `there is no administrative verb ${name}`)
        outgoing.writeHead(200, { 'content-type': 'application/x-ndjson' })
        const progress = (step: unknown) => line({ progress: step })
        return await verb({ argument, progress, signal: gone.signal })
      })
      .then((result) => line({ result: result ?? {} }))
      .catch((error: unknown) => {
        const message = error instanceof Error ? error.message : 'failed'
        line({ error: { message, ...(error instanceof Error && 'code' in error ? { code: String(error.code) } : {}) } })
      })
      .finally(() => outgoing.end())
  })
  // Between bind and chmod the folder's mode (0700) keeps others out.
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(socketPath, () => {
      server.off('error', reject)
      resolve()
    })
  })
  chmodSync(socketPath, 0o600)
  return async () => {
    server.closeAllConnections()
    await new Promise<void>((resolve) => {
      server.close(() => resolve())
    })
  }
}

/** Whether somebody listens there: a server that stands still is one, too. */
export async function isServed(socketPath: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(socketPath)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

/** More than any verb takes. */
const longestArgument = 1024 * 1024

async function readArgument(incoming: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = []
  let length = 0
  for await (const part of incoming as AsyncIterable<Buffer>) {
    length += part.length
    if (length > longestArgument) throw new AdminError('failed', 'the argument is longer than 1 MiB')
    parts.push(part)
  }
  return length === 0 ? {} : (JSON.parse(Buffer.concat(parts).toString('utf8')) as unknown)
}

export interface AskOptions {
  readonly argument?: unknown
  /** Silence of this long ends it; a verb that tells its progress may take longer in all. */
  readonly timeoutMs?: number
  readonly onProgress?: (step: unknown) => void
}

/** Asks a running server for one verb. Throws `AdminError` `not_running` when nobody listens. */
export async function askAdmin(socketPath: string, verb: string, options: AskOptions = {}): Promise<unknown> {
  const { argument, timeoutMs = 10_000, onProgress } = options
  return await new Promise((resolve, reject) => {
    const outgoing = httpRequest({ socketPath, path: `/${verb}`, method: 'POST', timeout: timeoutMs }, (incoming) => {
      let rest = ''
      let settled = false
      const take = (line: string) => {
        const answer = JSON.parse(line) as {
          progress?: unknown
          result?: unknown
          error?: { message: string; code?: string }
        } // our own server answers
        if ('progress' in answer) onProgress?.(answer.progress)
        else if (answer.error === undefined) resolve(answer.result)
        else reject(new AdminError('failed', answer.error.message, { remoteCode: answer.error.code }))
        settled ||= !('progress' in answer)
      }
      incoming.setEncoding('utf8')
      incoming.on('data', (part: string) => {
        const lines = `${rest}${part}`.split('\n')
        rest = lines.pop() ?? ''
        try {
          lines.forEach(take)
        } catch (cause) {
          reject(new AdminError('failed', 'the server gave an answer that is no JSON', { cause }))
        }
      })
      incoming.once('close', () => {
        if (!settled) reject(new AdminError('failed', 'the server ended before it answered; see its log'))
      })
    })
    outgoing.once('timeout', () => outgoing.destroy(new Error(`no answer within ${timeoutMs} ms`)))
    outgoing.once('error', (cause) => {
      reject(
        new AdminError('not_running', `no server answers on ${socketPath}; start it with: chancery serve`, { cause }),
      )
    })
    outgoing.end(argument === undefined ? undefined : JSON.stringify(argument))
  })
}
