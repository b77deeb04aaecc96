/**
 * What a module shows of itself to the HTTP listener: plain functions from a request to an answer. A module's `http.ts`
 * exports a `Section`; only `listener.ts` knows the web framework.
 */

/** One request, its body already read whole, bounded in size and time by the listener. */
export interface EndpointRequest {
  readonly method: string
  /** The path without query, percent-decoded once, `//` and a trailing slash folded away. */
  readonly path: string
  /** Values of the `:name` parts of the endpoint's path, percent-decoded. */
  readonly params: Readonly<Record<string, string>>
  readonly query: URLSearchParams
  /** Header names in lower case; repeated headers joined as Node does. */
  readonly headers: Readonly<Record<string, string | undefined>>
  /** Empty when the request had no body. */
  readonly body: Uint8Array
  /** At most 128 printable ASCII characters: the client's `x-request-id`, or a fresh one. */
  readonly requestId: string
  /** Aborted when the client goes away or the server's time for the request is over. */
  readonly signal: AbortSignal
}

/** What goes back. A body that is a string is sent as UTF-8. */
export interface EndpointAnswer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array | string
  /** Called once, after the last byte of this answer was handed to the connection; never for a cut connection. */
  readonly delivered?: () => void
  /** Added to the request's one log line; never a token or key material. */
  readonly log?: Readonly<Record<string, string | number | boolean | undefined>>
}

export interface Endpoint {
  readonly method: 'GET' | 'HEAD' | 'POST'
  /** Literal segments and `:name` segments, e.g. `/api/v1/log/entries/:entryId`; a last `*name` takes the rest, slashes included. */
  readonly path: string
  /** Bodies over this many bytes are answered by `Section.faults.tooLarge` and never reach `answer`. */
  readonly limitBytes: number
  readonly answer: (request: EndpointRequest) => EndpointAnswer | Promise<EndpointAnswer>
}

/** The endpoints of one service with its protocol's own form of the errors that the listener itself must give. */
export interface Section {
  /** The service in logs and metrics: `ca`, `rekor-v1`, `rekor-v2`, `ct`, `timestamp`, `trust-root`, `metrics`. */
  readonly name: string
  readonly endpoints: readonly Endpoint[]
  readonly faults: {
    readonly notFound: (path: string) => EndpointAnswer
    readonly methodNotAllowed: (method: string, path: string) => EndpointAnswer
    readonly tooLarge: (limitBytes: number) => EndpointAnswer
    /** The body did not arrive in time. */
    readonly timedOut: () => EndpointAnswer
    /** An unknown error: fixed text and the request id, nothing of the error. */
    readonly internal: (requestId: string) => EndpointAnswer
    /** Too many requests or bytes are under way; carries Retry-After. */
    readonly overloaded: () => EndpointAnswer
  }
  /** Header names (lower case) that browsers may send across origins; origins are always `*`. */
  readonly corsRequestHeaders?: readonly string[]
  /** Called for each finished request, for metrics under the peer's names. */
  readonly observe?: (done: { endpoint: string; method: string; status: number; seconds: number }) => void
}
