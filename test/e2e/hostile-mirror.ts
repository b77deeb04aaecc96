/** A TUF mirror in the hands of an attacker: it serves whatever files it is given, right or wrong. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

/** The bytes of a file, or another answer than 200. A path that is not named is a 404. */
export type Served = Uint8Array | { readonly status: number; readonly body: string }

export interface HostileMirror {
  readonly url: string
  serve(files: ReadonlyMap<string, Served>): void
  close(): Promise<void>
}

export async function openHostileMirror(): Promise<HostileMirror> {
  let served: ReadonlyMap<string, Served> = new Map()
  const server = createServer((request, response) => {
    const found = served.get((request.url ?? '/').slice(1)) ?? { status: 404, body: 'not found' }
    const [status, body] = found instanceof Uint8Array ? [200, Buffer.from(found)] : [found.status, found.body]
    response.writeHead(status, { 'content-length': Buffer.byteLength(body) })
    response.end(body)
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    serve: (files) => {
      served = files
    },
    close: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => {
        server.close(resolve)
      })
    },
  }
}
