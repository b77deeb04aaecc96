import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Endpoint, EndpointAnswer, EndpointRequest, Section } from '#http'
import { servedFolder } from './repository.ts'

/**
 * The TUF mirror: static files of the published generation. A file that is not there is a 404 (go-tuf takes only that
 * for "no newer root"; a friendly page with 200 would brick cosign) that no cache may keep.
 */
export function trustRootSection({ folder }: { readonly folder: string }): Section {
  const served = servedFolder(folder)
  const answer = (pathOf: (request: EndpointRequest) => string) => (request: EndpointRequest) =>
    serveFile(served, pathOf(request), request)
  const both = (path: string, pathOf: (request: EndpointRequest) => string): Endpoint[] =>
    (['GET', 'HEAD'] as const).map((method) => ({ method, path, limitBytes: 0, answer: answer(pathOf) }))
  return {
    name: 'trust-root',
    endpoints: [
      ...both('/targets/:name', ({ params }) => join('targets', plainName(params['name']))),
      ...both('/:name', ({ params }) => plainName(params['name'])),
    ],
    faults: {
      notFound: () => text(404, 'not found'),
      methodNotAllowed: () => ({ ...text(405, 'method not allowed'), headers: { ...plain, allow: 'GET, HEAD' } }),
      tooLarge: () => text(413, 'request too large'),
      timedOut: () => text(408, 'request timed out'),
      internal: (requestId) => text(500, `internal error, request ${requestId}`),
      overloaded: () => ({ ...text(503, 'overloaded'), headers: { ...plain, 'retry-after': '1' } }),
    },
  }
}

const plain = { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store' }

function text(status: number, body: string): EndpointAnswer {
  return { status, headers: plain, body: `${body}\n` }
}

/** A name that could leave the folder, or that is not published (leading dot), becomes one that is never there. */
function plainName(name: string | undefined): string {
  return name !== undefined && /^[A-Za-z0-9_][A-Za-z0-9._-]{0,200}$/.test(name) ? name : '.not-published'
}

async function serveFile(served: string, path: string, request: EndpointRequest): Promise<EndpointAnswer> {
  if (path.includes('.not-published')) return text(404, 'not found')
  let body: Uint8Array
  try {
    body = await readFile(join(served, path))
  } catch (error) {
    if (isAbsent(error)) return text(404, 'not found')
    throw error
  }
  const headers = {
    'content-type': contentType(path),
    'cache-control': cacheControl(path),
    etag: `"${createHash('sha256').update(body).digest('hex').slice(0, 32)}"`,
    'x-content-type-options': 'nosniff',
  }
  if (request.headers['if-none-match'] === headers.etag) return { status: 304, headers }
  if (request.method === 'HEAD') return { status: 200, headers: { ...headers, 'content-length': String(body.length) } }
  return { status: 200, headers, body }
}

/** A folder is as absent as a missing file: there are no listings. */
function isAbsent(error: unknown): boolean {
  const code: unknown = error instanceof Error && 'code' in error ? error.code : undefined
  return code === 'ENOENT' || code === 'EISDIR' || code === 'ENOTDIR'
}

/** Versioned and content-addressed names never change their bytes; the others must be fresh within seconds. */
function cacheControl(path: string): string {
  const isFixed = path.startsWith('targets/') || /^\d+\./.test(path)
  return isFixed ? 'public, max-age=31536000, immutable' : 'public, max-age=10, must-revalidate'
}

function contentType(path: string): string {
  if (path.endsWith('.json')) return 'application/json'
  return path.endsWith('.pem') || path.endsWith('.pub') ? 'application/x-pem-file' : 'application/octet-stream'
}
