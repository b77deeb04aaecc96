/**
 * Administration is local: a unix socket, mode 0600, that only this user can open. Small JSON over HTTP, one route a
 * verb; nothing here is reachable from a network.
 */

import { chmodSync, mkdirSync, rmSync } from 'node:fs'
import { createServer, request as httpRequest } from 'node:http'
import { dirname } from 'node:path'

/** Administrative verbs by name; what they return is sent as JSON. */
export type AdminVerbs = Readonly<Record<string, () => Promise<unknown>>>

export class AdminError extends Error {
  readonly code: 'not_running' | 'failed' | 'unusable_socket'
  constructor(code: AdminError['code'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'AdminError'
    this.code = code
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
    incoming.resume()
    const answer = (status: number, body: unknown) => {
      outgoing.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
    }
    if (verb === undefined) {
      answer(404, { message: `there is no administrative verb ${name}` })
      return
    }
    verb().then(
      (value) => answer(200, value ?? {}),
      (error: unknown) => answer(500, { message: error instanceof Error ? error.message : 'failed' }),
    )
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

/** Asks a running server for one verb. Throws `AdminError` `not_running` when nobody listens. */
export async function askAdmin(socketPath: string, verb: string, timeoutMs = 10_000): Promise<unknown> {
  return await new Promise((resolve, reject) => {
    const outgoing = httpRequest({ socketPath, path: `/${verb}`, method: 'POST', timeout: timeoutMs }, (incoming) => {
      const parts: Buffer[] = []
      incoming.on('data', (part: Buffer) => parts.push(part))
      incoming.once('end', () => {
        try {
          const body: unknown = JSON.parse(Buffer.concat(parts).toString('utf8'))
          if (incoming.statusCode === 200) resolve(body)
          else reject(new AdminError('failed', messageOf(body)))
        } catch (cause) {
          reject(new AdminError('failed', 'the server gave an answer that is no JSON', { cause }))
        }
      })
    })
    outgoing.once('timeout', () => outgoing.destroy(new Error(`no answer within ${timeoutMs} ms`)))
    outgoing.once('error', (cause) => {
      reject(
        new AdminError('not_running', `no server answers on ${socketPath}; start it with: chancery serve`, { cause }),
      )
    })
    outgoing.end()
  })
}

function messageOf(body: unknown): string {
  return typeof body === 'object' && body !== null && 'message' in body ? String(body.message) : 'failed'
}
