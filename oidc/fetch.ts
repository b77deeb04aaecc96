import * as http from 'node:http'
import * as https from 'node:https'
import { getCACertificates } from 'node:tls'
import { OidcError } from './error.ts'

/** Gets one JSON document. Rejects with `OidcError` `issuer_unreachable` (network, time, status) or `issuer_invalid` (size, form). */
export type FetchDocument = (url: URL, options: FetchOptions) => Promise<unknown>

export interface FetchOptions {
  /** PEM; trusted beside Node's own authorities. */
  readonly caCertPem?: string
  readonly signal: AbortSignal
}

/** The largest key sets seen in use (GitHub, Google, Azure) are under 20 KB. */
const DOCUMENT_LIMIT_BYTES = 256 * 1024
const REDIRECT_LIMIT = 3

/**
 * Gets a document over HTTP(S) with a bounded body. A redirect is followed only on the same scheme, host and port:
 * otherwise whoever controls one path of an issuer's host chooses whose keys we trust.
 */
export const fetchDocument: FetchDocument = async (url, options) => {
  let current = url
  for (let hop = 0; hop <= REDIRECT_LIMIT; hop++) {
    const answer = await get(current, options)
    if (answer.location === undefined) return parse(answer.body)
    const next = URL.canParse(answer.location, current.href) ? new URL(answer.location, current) : undefined
    if (next?.origin !== url.origin) throw new OidcError('issuer_invalid', 'the issuer redirects to another host')
    current = next
  }
  throw new OidcError('issuer_invalid', 'the issuer redirects too often')
}

interface Answer {
  readonly location?: string
  readonly body: Uint8Array
}

function get(url: URL, { caCertPem, signal }: FetchOptions): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>()
  const unreachable = (cause: unknown) => {
    reject(
      cause instanceof OidcError
        ? cause
        : new OidcError('issuer_unreachable', 'the issuer cannot be reached', { cause }),
    )
  }
  const headers = { accept: 'application/json', 'user-agent': 'chancery' }
  // A `ca` option replaces Node's own authorities instead of adding to them: both are given.
  const tls = caCertPem === undefined ? {} : { ca: [...getCACertificates('default'), caCertPem] }
  const request =
    url.protocol === 'https:'
      ? https.request(url, { headers, signal, minVersion: 'TLSv1.2', ...tls })
      : http.request(url, { headers, signal })
  request.on('error', unreachable)
  request.on('response', (response) => {
    const status = response.statusCode ?? 0
    if (status >= 300 && status < 400 && response.headers.location !== undefined) {
      response.resume()
      resolve({ location: response.headers.location, body: new Uint8Array() })
      return
    }
    if (status !== 200) {
      response.resume()
      reject(new OidcError('issuer_unreachable', `the issuer answered with status ${status}`))
      return
    }
    const chunks: Uint8Array[] = []
    let length = 0
    response.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length > DOCUMENT_LIMIT_BYTES)
        request.destroy(new OidcError('issuer_invalid', "the issuer's document is too large"))
      else chunks.push(chunk)
    })
    response.on('error', unreachable)
    response.on('end', () => {
      resolve({ body: Buffer.concat(chunks) })
    })
  })
  request.end()
  return promise
}

function parse(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (cause) {
    throw new OidcError('issuer_invalid', "the issuer's document is not JSON", { cause })
  }
}
