import { OidcError } from './error.ts'

/** An issuer whose tokens are accepted. */
export interface IssuerEndpoint {
  /** Compared exactly with the token's `iss` and with the discovery document; one of `issuerUrl` and `pattern` is set. */
  readonly issuerUrl?: string
  /** Fulcio's meta issuer: each `*` stands for one or more of `-_a-zA-Z0-9`. */
  readonly pattern?: string
  /** The client id that must be in the token's `aud`. */
  readonly audience: string
  /** PEM; trusted beside Node's own authorities for this issuer's documents. */
  readonly caCertPem?: string
  /** Allows plain HTTP for this issuer's documents (development and closed networks). */
  readonly allowHttp?: boolean
}

/** Finds the issuer of a token: an exact URL before a pattern, patterns in their given order, so that it is always the same one. */
export function issuerFinder<E extends IssuerEndpoint>(endpoints: readonly E[]): (iss: string) => E | undefined {
  const exact = new Map<string, E>()
  const patterns: { matches: RegExp; endpoint: E }[] = []
  for (const endpoint of endpoints) {
    if (endpoint.issuerUrl !== undefined) exact.set(endpoint.issuerUrl, endpoint)
    else if (endpoint.pattern !== undefined) patterns.push({ matches: wildcard(endpoint.pattern), endpoint })
  }
  return (iss) => exact.get(iss) ?? patterns.find(({ matches }) => matches.test(iss))?.endpoint
}

/**
 * The expression of a meta issuer, anchored at both ends: an unanchored one would accept
 * `http://evil.example?https://issuer.example/x` (GHSA-59jp-pj84-45mr). Repetitions never touch each other but through
 * a literal, or are joined where the pattern says `**`, so that matching stays linear in practice.
 */
function wildcard(pattern: string): RegExp {
  const literal = pattern.split(/\*+/).map((part) => part.replaceAll(/[\\^$.*+?()[\]{}|/-]/g, String.raw`\$&`))
  return new RegExp(`^${literal.join('[-_a-zA-Z0-9]+')}$`, 'u')
}

/** The URL as one that may be fetched; throws `issuer_invalid` for other schemes, credentials, or HTTP where it is not allowed. */
export function fetchableUrl(url: string, allowHttp: boolean): URL {
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  const schemeAllowed = parsed?.protocol === 'https:' || (allowHttp && parsed?.protocol === 'http:')
  if (parsed === undefined || !schemeAllowed || parsed.username !== '' || parsed.password !== '') {
    throw new OidcError('issuer_invalid', 'the issuer names an address that may not be fetched')
  }
  return parsed
}
