import { type CryptoKey, importJWK, type JWK } from 'jose'
import { OidcError } from './error.ts'
import type { FetchDocument } from './fetch.ts'
import { fetchableUrl, type IssuerEndpoint } from './issuer.ts'

/** For discovery and key set together; Fulcio's time for discovery. */
const FETCH_TIMEOUT_MS = 10_000
/** Between two fetches from one issuer, whatever tokens arrive: an unauthenticated caller cannot make us fetch faster. */
const REFETCH_INTERVAL_MS = 10_000
/** After a first failure, doubled with each further one up to the interval above: an issuer that starts beside us is soon found. */
const RETRY_INTERVAL_MS = 500
/** A key that the issuer withdrew is used no longer than this. */
const MAXIMUM_AGE_MS = 15 * 60_000
/** With the issuer unreachable its last keys serve this long. */
const MAXIMUM_STALE_MS = 60 * 60_000
/** More keys than any issuer publishes; each token without key id tries several. */
const KEY_LIMIT = 64
/** A token that names no key is tried against at most this many. */
const UNNAMED_TRIES = 8

/** `none` and HMAC never: with HMAC the issuer's public key would be the secret. */
const ASYMMETRIC = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519']

const KEY_TYPE: Readonly<Record<string, string>> = { RS: 'RSA', PS: 'RSA', ES: 'EC', Ed: 'OKP' }

interface PublishedKey {
  readonly jwk: JWK
  /** Imported once for each algorithm that a token asked for. */
  readonly imported: Map<string, Promise<CryptoKey>>
}

interface Published {
  readonly algorithms: ReadonlySet<string>
  readonly keys: readonly PublishedKey[]
  readonly fetchedAtMs: number
}

/** The keys that one issuer publishes, fetched through OpenID Connect discovery and kept. */
export class IssuerKeys {
  readonly #issuerUrl: string
  readonly #endpoint: IssuerEndpoint
  readonly #fetch: FetchDocument
  readonly #clock: () => number
  #published: Published | undefined
  #fetching: Promise<Published> | undefined
  #lastAttemptMs = Number.NEGATIVE_INFINITY
  #lastFailure: unknown
  #failures = 0

  constructor(options: { issuerUrl: string; endpoint: IssuerEndpoint; fetch: FetchDocument; clock: () => number }) {
    this.#issuerUrl = options.issuerUrl
    this.#endpoint = options.endpoint
    this.#fetch = options.fetch
    this.#clock = options.clock
  }

  /** Whether keys were ever fetched. */
  get known(): boolean {
    return this.#published !== undefined
  }

  /**
   * The keys that may have signed a token with this header, best first. With `refetch` they are fetched again first,
   * if the last fetch is long enough ago; undefined if that brings nothing new. Rejects `unsupported_algorithm`,
   * `unknown_key`, `issuer_unreachable`, `issuer_invalid`.
   */
  async candidates(algorithm: string, keyId: string | undefined): Promise<readonly CryptoKey[]> {
    let published = await this.current()
    if (!published.algorithms.has(algorithm)) {
      throw new OidcError(
        'unsupported_algorithm',
        'the token is signed with an algorithm that its issuer does not announce',
      )
    }
    let matching = matchingKeys(published, algorithm, keyId)
    if (matching.length === 0) {
      published = (await this.refreshed()) ?? published
      matching = matchingKeys(published, algorithm, keyId)
    }
    if (matching.length === 0)
      throw new OidcError('unknown_key', 'the issuer has no key that the token could be signed with')
    return await Promise.all(matching.map((key) => imported(key, algorithm)))
  }

  /** Fetches again unless that was tried just now; undefined when it was, or when it failed. */
  async refreshed(): Promise<Published | undefined> {
    if (this.#fetching === undefined && this.#triedJustNow()) return undefined
    return await this.#refetch().catch(() => undefined)
  }

  /** The keys in use, fetched if they are absent or too old. */
  async current(): Promise<Published> {
    const now = this.#clock()
    const age = this.#published === undefined ? Number.POSITIVE_INFINITY : now - this.#published.fetchedAtMs
    if (this.#published !== undefined && age < MAXIMUM_AGE_MS) return this.#published
    if (this.#fetching === undefined && this.#triedJustNow()) {
      if (this.#published !== undefined && age < MAXIMUM_STALE_MS) return this.#published
      throw this.#lastFailure
    }
    try {
      return await this.#refetch()
    } catch (error) {
      if (this.#published !== undefined && age < MAXIMUM_STALE_MS) return this.#published
      throw error
    }
  }

  #triedJustNow(): boolean {
    const interval =
      this.#failures === 0 ? REFETCH_INTERVAL_MS : RETRY_INTERVAL_MS * 2 ** Math.min(this.#failures - 1, 10)
    return this.#clock() - this.#lastAttemptMs < Math.min(interval, REFETCH_INTERVAL_MS)
  }

  /** One fetch at a time; everybody who needs it waits for the same one. */
  #refetch(): Promise<Published> {
    this.#fetching ??= this.#discover().finally(() => {
      this.#fetching = undefined
    })
    return this.#fetching
  }

  async #discover(): Promise<Published> {
    this.#lastAttemptMs = this.#clock()
    try {
      const options = {
        ...(this.#endpoint.caCertPem !== undefined && { caCertPem: this.#endpoint.caCertPem }),
        signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
      }
      const allowHttp = this.#endpoint.allowHttp ?? false
      const discoveryUrl = `${this.#issuerUrl.replace(/\/$/, '')}/.well-known/openid-configuration`
      const discovery = await this.#fetch(fetchableUrl(discoveryUrl, allowHttp), options)
      const { jwksUri, algorithms } = readDiscovery(discovery, this.#issuerUrl)
      const keySet = await this.#fetch(fetchableUrl(jwksUri, allowHttp), options)
      this.#published = { algorithms, keys: readKeySet(keySet), fetchedAtMs: this.#clock() }
      this.#failures = 0
      return this.#published
    } catch (error) {
      this.#failures++
      this.#lastFailure =
        error instanceof OidcError
          ? error
          : new OidcError('issuer_unreachable', 'the issuer cannot be reached', { cause: error })
      throw this.#lastFailure
    } finally {
      // The interval counts from the end, so that a slow issuer is not asked again the moment it has answered.
      this.#lastAttemptMs = this.#clock()
    }
  }
}

function readDiscovery(document: unknown, issuerUrl: string): { jwksUri: string; algorithms: ReadonlySet<string> } {
  const { issuer, jwks_uri: jwksUri, id_token_signing_alg_values_supported: announced } = record(document)
  if (issuer !== issuerUrl) throw new OidcError('issuer_invalid', 'the discovery document names another issuer')
  if (typeof jwksUri !== 'string') throw new OidcError('issuer_invalid', 'the discovery document names no key set')
  const usable = Array.isArray(announced) ? ASYMMETRIC.filter((algorithm) => announced.includes(algorithm)) : []
  // OpenID Connect Discovery §3: RS256 is what every issuer must support.
  return { jwksUri, algorithms: new Set(usable.length > 0 ? usable : ['RS256']) }
}

function readKeySet(document: unknown): readonly PublishedKey[] {
  const { keys } = record(document)
  if (!Array.isArray(keys)) throw new OidcError('issuer_invalid', 'the key set has no keys')
  if (keys.length > KEY_LIMIT) throw new OidcError('issuer_invalid', 'the key set has too many keys')
  return keys
    .filter((jwk: unknown): jwk is JWK => typeof jwk === 'object' && jwk !== null && isVerificationKey(jwk))
    .map((jwk) => ({ jwk, imported: new Map() }))
}

/** A set may hold encryption keys and kinds that we do not know (RFC 7517 §5): they are passed over. */
function isVerificationKey(jwk: JWK): boolean {
  return (
    (jwk.kty === 'RSA' || jwk.kty === 'EC' || jwk.kty === 'OKP') && (jwk.use ?? 'sig') === 'sig' && jwk.d === undefined
  )
}

function matchingKeys(published: Published, algorithm: string, keyId: string | undefined): readonly PublishedKey[] {
  const kind = KEY_TYPE[algorithm.slice(0, 2)]
  const fitting = published.keys.filter(({ jwk }) => jwk.kty === kind && (jwk.alg ?? algorithm) === algorithm)
  if (keyId === undefined) return fitting.slice(0, UNNAMED_TRIES)
  return fitting.filter(({ jwk }) => jwk.kid === keyId).slice(0, UNNAMED_TRIES)
}

function imported(key: PublishedKey, algorithm: string): Promise<CryptoKey> {
  let pending = key.imported.get(algorithm)
  if (pending === undefined) {
    pending = importJWK(key.jwk, algorithm).then((result) => {
      if (result instanceof Uint8Array) throw new OidcError('issuer_invalid', "the issuer's key is not a public key")
      return result
    })
    key.imported.set(algorithm, pending)
  }
  return pending.catch((cause: unknown) => {
    throw new OidcError('issuer_invalid', "the issuer's key cannot be used", { cause })
  })
}

function record(document: unknown): Record<string, unknown> {
  if (typeof document !== 'object' || document === null || Array.isArray(document)) {
    throw new OidcError('issuer_invalid', "the issuer's document is not an object")
  }
  return document as Record<string, unknown>
}
