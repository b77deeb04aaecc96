import { compactVerify, errors } from 'jose'
import { OidcError } from './error.ts'
import { type FetchDocument, fetchDocument } from './fetch.ts'
import { type IssuerEndpoint, issuerFinder } from './issuer.ts'
import { IssuerKeys } from './issuer-keys.ts'
import { parseBody, parseToken, type TokenBody, type UnverifiedToken } from './token.ts'

/** A token whose signature, issuer, audience and times hold. */
export interface VerifiedToken<E extends IssuerEndpoint = IssuerEndpoint> {
  readonly issuer: string
  /** `sub`; empty if the issuer sent none. */
  readonly subject: string
  readonly audience: readonly string[]
  readonly claims: Readonly<Record<string, unknown>>
  readonly expiresAt: Date
  /** The configured issuer that accepted it, the very object given to `createTokenVerifier`. */
  readonly endpoint: E
}

export interface TokenVerifier<E extends IssuerEndpoint = IssuerEndpoint> {
  /** Rejects with `OidcError`. */
  verify(token: string): Promise<VerifiedToken<E>>
  /** Fetches the keys of every issuer that has no wildcard; returns those that failed, which are tried again when a token needs them. */
  prefetch(): Promise<readonly { readonly issuerUrl: string; readonly error: unknown }[]>
}

export interface TokenVerifierOptions<E extends IssuerEndpoint = IssuerEndpoint> {
  readonly issuers: readonly E[]
  /** Milliseconds since 1970. */
  readonly clock: () => number
  readonly fetch?: FetchDocument
}

/** go-oidc, and so Fulcio, forgives this much of a fast issuer clock in `nbf`; `exp` has no leeway. */
const NOT_BEFORE_LEEWAY_MS = 5 * 60_000
/** Fulcio's cache has the same size. */
const WILDCARD_ISSUERS_KEPT = 100
/** A wildcard lets a stranger name issuers without end: so many first fetches at once, and so many failures remembered. */
const WILDCARD_FIRST_FETCHES = 8
const WILDCARD_FAILURES_KEPT = 1000

/** Verifies tokens of the issuers given; keys are fetched when first needed and kept for the verifier's life. */
export function createTokenVerifier<E extends IssuerEndpoint>(options: TokenVerifierOptions<E>): TokenVerifier<E> {
  const { issuers, clock, fetch = fetchDocument } = options
  const find = issuerFinder(issuers)
  const keysOf = (issuerUrl: string, endpoint: E) => new IssuerKeys({ issuerUrl, endpoint, fetch, clock })
  const configured = new Map(
    issuers.flatMap((endpoint) =>
      endpoint.issuerUrl === undefined ? [] : [[endpoint.issuerUrl, keysOf(endpoint.issuerUrl, endpoint)]],
    ),
  )
  const wildcards = new WildcardIssuers(keysOf)

  return {
    async verify(compact) {
      const token = parseToken(compact)
      const endpoint = find(token.unverifiedIssuer)
      if (endpoint === undefined)
        throw new OidcError('unknown_issuer', 'the issuer of the identity token is not configured')
      const keys = configured.get(token.unverifiedIssuer) ?? (await wildcards.keys(token.unverifiedIssuer, endpoint))
      const body = parseBody(await verifySignature(token, keys))
      requireValidNow(body, clock())
      if (!body.audience.includes(endpoint.audience)) {
        throw new OidcError('wrong_audience', 'the identity token is meant for another audience')
      }
      const { issuer, subject, audience, claims, expiresAt } = body
      return { issuer, subject, audience, claims, expiresAt, endpoint }
    },

    async prefetch() {
      const outcomes = await Promise.all(
        [...configured].map(async ([issuerUrl, keys]) => {
          try {
            await keys.current()
            return []
          } catch (error) {
            return [{ issuerUrl, error }]
          }
        }),
      )
      return outcomes.flat()
    },
  }
}

/** The payload, once a key of the issuer verifies it. */
async function verifySignature(token: UnverifiedToken, keys: IssuerKeys): Promise<Uint8Array> {
  const first = await tryKeys(token, keys)
  if (first !== undefined) return first
  // The issuer may have changed a key and kept its id. The fetch is rate limited, whoever sends forged tokens.
  const second = (await keys.refreshed()) === undefined ? undefined : await tryKeys(token, keys)
  if (second === undefined) throw new OidcError('bad_signature', 'the signature of the identity token does not verify')
  return second
}

async function tryKeys(token: UnverifiedToken, keys: IssuerKeys): Promise<Uint8Array | undefined> {
  for (const key of await keys.candidates(token.algorithm, token.keyId)) {
    try {
      const { payload } = await compactVerify(token.compact, key, { algorithms: [token.algorithm] })
      return payload
    } catch (error) {
      if (error instanceof errors.JWSSignatureVerificationFailed) continue
      // jose refuses weak and ill-fitting keys, and malformed signatures, by other errors; none of them is a valid token.
      if (error instanceof errors.JOSEError || error instanceof TypeError) continue
      throw error
    }
  }
  return undefined
}

function requireValidNow(body: TokenBody, nowMs: number): void {
  if (body.expiresAt.getTime() < nowMs) throw new OidcError('expired', 'the identity token is expired')
  if (body.notBefore !== undefined && body.notBefore.getTime() > nowMs + NOT_BEFORE_LEEWAY_MS) {
    throw new OidcError('not_yet_valid', 'the identity token is not yet valid')
  }
}

/**
 * Keys of issuers that only a pattern names. Those that answered and those that failed are kept apart, so that a flood
 * of invented issuers cannot push out the ones in use; each map forgets its least recently used first.
 */
class WildcardIssuers<E extends IssuerEndpoint> {
  readonly #create: (issuerUrl: string, endpoint: E) => IssuerKeys
  readonly #good = new Map<string, IssuerKeys>()
  readonly #failed = new Map<string, IssuerKeys>()
  readonly #underWay = new Set<string>()

  constructor(create: (issuerUrl: string, endpoint: E) => IssuerKeys) {
    this.#create = create
  }

  async keys(issuerUrl: string, endpoint: E): Promise<IssuerKeys> {
    const good = this.#good.get(issuerUrl)
    if (good !== undefined) {
      remember(this.#good, issuerUrl, good, WILDCARD_ISSUERS_KEPT)
      return good
    }
    const keys = this.#failed.get(issuerUrl) ?? this.#create(issuerUrl, endpoint)
    remember(this.#failed, issuerUrl, keys, WILDCARD_FAILURES_KEPT)
    if (!this.#underWay.has(issuerUrl) && this.#underWay.size >= WILDCARD_FIRST_FETCHES) {
      throw new OidcError('issuer_unreachable', 'too many unknown issuers are being looked up')
    }
    this.#underWay.add(issuerUrl)
    try {
      await keys.current()
    } finally {
      this.#underWay.delete(issuerUrl)
    }
    this.#failed.delete(issuerUrl)
    remember(this.#good, issuerUrl, keys, WILDCARD_ISSUERS_KEPT)
    return keys
  }
}

function remember<V>(map: Map<string, V>, key: string, value: V, limit: number): void {
  map.delete(key)
  map.set(key, value)
  if (map.size <= limit) return
  const [oldest] = map.keys()
  if (oldest !== undefined) map.delete(oldest)
}
