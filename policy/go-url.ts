/**
 * URLs as Go's net/url reads and writes them, which is how Fulcio's URI names come to be: a name keeps its spelling
 * unless a part of it holds characters that must be escaped, and then that whole part is escaped anew.
 */
import { posix } from 'node:path'
import { PolicyError } from './error.ts'

export interface GoUrl {
  /** Lower case; empty for a relative reference. */
  readonly scheme: string
  /** With user information and port, as written. */
  readonly authority: string | undefined
  readonly hostname: string
  /** Escaped, as it will be written. */
  readonly path: string
  /** With its `?`, as written; empty without. */
  readonly query: string
  /** With its `#`, escaped; empty without. */
  readonly fragment: string
}

/** Throws `invalid_claim` for what Go refuses, and for names that could not stand in a certificate (RFC 5280 §4.2.1.6: ASCII). */
export function parseUrl(text: string): GoUrl {
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0
    if (code < 0x20 || code === 0x7f) throw invalid('has a control character')
  }
  const [, beforeFragment = '', fragment = ''] = /^([^#]*)(?:#(.*))?$/su.exec(text) ?? []
  const [, beforeQuery = '', query = ''] = /^([^?]*)(\?.*)?$/su.exec(beforeFragment) ?? []
  if (/[^\x21-\x7e]/.test(query)) throw invalid('has a query that is not plain ASCII')
  const schemeMatch = /^([A-Za-z][A-Za-z0-9+.-]*):(.*)$/su.exec(beforeQuery)
  const scheme = schemeMatch?.[1]?.toLowerCase() ?? ''
  const rest = schemeMatch?.[2] ?? beforeQuery
  if (scheme === '' && /^[^/]*:/u.test(rest)) throw invalid('has a colon where its scheme should be')
  const authorityMatch = /^\/\/([^/]*)(.*)$/su.exec(rest)
  const authority =
    authorityMatch !== null && !(scheme === '' && rest.startsWith('///')) ? (authorityMatch[1] ?? '') : undefined
  return {
    scheme,
    authority,
    hostname: authority === undefined ? '' : hostnameOf(authority),
    path: escaped(authority === undefined ? rest : (authorityMatch?.[2] ?? ''), PATH_KEPT),
    query,
    fragment: fragment === '' ? '' : `#${escaped(fragment, FRAGMENT_KEPT)}`,
  }
}

/** The URL as Go writes it. */
export function urlText(url: GoUrl): string {
  const scheme = url.scheme === '' ? '' : `${url.scheme}:`
  const authority = url.authority === undefined ? '' : `//${url.authority}`
  return scheme + authority + url.path + url.query + url.fragment
}

/** `URL.JoinPath`: the parts under the base's path, dots and double slashes cleaned away. Throws `invalid_claim`. */
export function joinPath(base: string, ...parts: readonly string[]): string {
  const url = parseUrl(base)
  const joined = posix.normalize(`/${[url.path, ...parts].join('/')}`)
  const trailing = (parts.at(-1) ?? '').endsWith('/')
  const path = trailing || joined === '/' ? joined : joined.replace(/\/$/, '')
  return urlText({ ...url, path: escaped(path, PATH_KEPT) })
}

function hostnameOf(authority: string): string {
  const match =
    /^(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=-]*)(?::[0-9]*)?$/u.exec(authority)
  if (match === null) throw invalid('has a malformed host')
  return (match[1] ?? '').replaceAll(/[[\]]/g, '')
}

/** Characters that Go does not escape when it escapes. */
const PATH_KEPT = /[A-Za-z0-9_.~$&+,/:;=@-]/
const FRAGMENT_KEPT = /[A-Za-z0-9_.~$&+,/:;=?@!()*-]/

/** As written if every character may stand as it is, else unescaped and escaped anew (Go's EscapedPath). */
function escaped(part: string, kept: RegExp): string {
  if (/%(?![0-9A-Fa-f]{2})/.test(part)) throw invalid('has a malformed escape')
  if (/^[A-Za-z0-9_.~$&+,/:;=@!'()*[\]%-]*$/.test(part)) return part
  if (kept === FRAGMENT_KEPT && /^[A-Za-z0-9_.~$&+,/:;=@!'()*[\]%?-]*$/.test(part)) return part
  const bytes = Buffer.from(part.replaceAll(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => `\0${hex}`))
  let text = ''
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at] ?? 0
    // A NUL stands for an escape that was there: control characters were refused before, so it can be nothing else.
    const value = byte === 0 ? Number.parseInt(bytes.toString('latin1', at + 1, at + 3), 16) : byte
    if (byte === 0) at += 2
    const character = String.fromCharCode(value)
    text += value < 0x80 && kept.test(character) ? character : `%${value.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return text
}

function invalid(how: string): PolicyError {
  return new PolicyError('invalid_claim', `the name of the identity ${how}`)
}
