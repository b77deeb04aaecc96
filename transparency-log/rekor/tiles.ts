/** The read side of C2SP tlog-tiles: checkpoint, hash tiles and entry bundles under a prefix. */
import type { Endpoint, EndpointAnswer, EndpointRequest } from '#http'
import { type NoteSignature, parseTilePath, TlogError, type TilePath, withSignatures } from '#tlog'
import type { Log, SealedHead } from '../log.ts'

/** Tiles never change; a week is what Tessera's own storages say. */
const IMMUTABLE = 'max-age=604800,immutable'

/** Verified lines of witnesses for exactly this head. */
export type Cosignatures = (head: SealedHead) => readonly NoteSignature[]

/**
 * `<prefix>/checkpoint` and `<prefix>/tile/…`; a prefix has no trailing slash and may be empty. Cosignatures stand after
 * the log's own lines, if the newest head has some yet.
 */
export function tileEndpoints(log: TiledLog, prefix: string, cosignatures: Cosignatures = () => []): Endpoint[] {
  return tileEndpointsOf(() => log, prefix, cosignatures)
}

type TiledLog = Pick<Log, 'head' | 'tile' | 'entryBundle'>

/** The same for whichever log the request names by a parameter of the prefix; 404 if there is none. */
export function tileEndpointsOf(
  named: (request: EndpointRequest) => TiledLog | undefined,
  prefix: string,
  cosignatures: Cosignatures = () => [],
): Endpoint[] {
  return [
    {
      method: 'GET',
      path: `${prefix}/checkpoint`,
      limitBytes: 0,
      answer: (request) => {
        const log = named(request)
        return log === undefined ? notFound : checkpoint(log, cosignatures)
      },
    },
    {
      method: 'GET',
      path: `${prefix}/tile/*tile`,
      limitBytes: 0,
      answer: (request) => {
        const log = named(request)
        return log === undefined ? notFound : tile(log, `tile/${request.params['tile'] ?? ''}`)
      },
    },
  ]
}

function checkpoint(log: Pick<TiledLog, 'head'>, cosignatures: Cosignatures): EndpointAnswer {
  const head = log.head()
  const lines = cosignatures(head)
  return {
    status: 200,
    headers: { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-cache' },
    body: lines.length === 0 ? head.note : withSignatures(head.note, lines),
  }
}

/** Missing tiles are 404, whatever is missing about them: readers fall back from a partial tile to the full one only then. */
async function tile(log: Pick<Log, 'tile' | 'entryBundle'>, path: string): Promise<EndpointAnswer> {
  const named = readPath(path)
  if (named === undefined) return notFound
  const body =
    named.kind === 'entries'
      ? await log.entryBundle(named.n, named.width)
      : await log.tile(named.level, named.n, named.width)
  if (body === undefined) return notFound
  return { status: 200, headers: { 'content-type': 'application/octet-stream', 'cache-control': IMMUTABLE }, body }
}

const notFound: EndpointAnswer = {
  status: 404,
  headers: { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-cache' },
  body: 'not found\n',
}

function readPath(path: string): TilePath | undefined {
  try {
    return parseTilePath(path)
  } catch (error) {
    if (error instanceof TlogError) return undefined
    throw error
  }
}
