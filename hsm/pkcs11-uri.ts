/** PKCS#11 URIs (RFC 7512): how configuration names a token or a key. Never a slot index: SoftHSM draws them at random. */

export type TokenUri = { readonly [attribute in 'token' | 'serial' | 'model' | 'manufacturer']?: string }

export interface KeyUri extends TokenUri {
  /** CKA_ID, 1 to 255 bytes: the only attribute by which a key is found. */
  readonly id: Uint8Array
  /** CKA_LABEL, which must then match too. */
  readonly object?: string
}

export class Pkcs11UriError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'Pkcs11UriError'
  }
}

const TOKEN_ATTRIBUTES = ['token', 'serial', 'model', 'manufacturer'] as const
const KEY_ATTRIBUTES: readonly string[] = [...TOKEN_ATTRIBUTES, 'id', 'object', 'type']

/** A URI that names a token by one attribute at least; every attribute given must match. Throws `Pkcs11UriError`. */
export function parseTokenUri(uri: string): TokenUri {
  const attributes = parseAttributes(uri, TOKEN_ATTRIBUTES)
  if (attributes.size === 0) throw new Pkcs11UriError('PKCS#11 URI names no token')
  return tokenPart(attributes)
}

/** A URI of a private key: an `id` is required, since labels are neither unique nor kept. Throws `Pkcs11UriError`. */
export function parseKeyUri(uri: string): KeyUri {
  const attributes = parseAttributes(uri, KEY_ATTRIBUTES)
  const id = attributes.get('id')
  const type = attributes.get('type')
  const object = attributes.get('object')
  if (id === undefined || id.length === 0 || id.length > 255) {
    throw new Pkcs11UriError('PKCS#11 URI of a key has no id of 1 to 255 bytes')
  }
  if (type !== undefined && text(type) !== 'private') throw new Pkcs11UriError('PKCS#11 URI is not of a private key')
  return { ...tokenPart(attributes), id, ...(object === undefined ? {} : { object: text(object) }) }
}

/** The URI of a private key on a token; binary ids are percent-encoded byte by byte. */
export function formatKeyUri(key: { token: string; id: Uint8Array; object: string }): string {
  const id = [...key.id].map((octet) => `%${octet.toString(16).padStart(2, '0')}`).join('')
  return `pkcs11:token=${encodeURIComponent(key.token)};id=${id};object=${encodeURIComponent(key.object)};type=private`
}

function tokenPart(attributes: ReadonlyMap<string, Uint8Array>): TokenUri {
  const found: { -readonly [name in keyof TokenUri]: string } = {}
  for (const name of TOKEN_ATTRIBUTES) {
    const value = attributes.get(name)
    if (value !== undefined) found[name] = text(value)
  }
  return found
}

function parseAttributes(uri: string, known: readonly string[]): Map<string, Uint8Array> {
  // No message repeats the URI: a pin-value in it would end in a log.
  if (!uri.startsWith('pkcs11:')) throw new Pkcs11UriError('PKCS#11 URI does not begin with pkcs11:')
  if (uri.includes('?')) {
    throw new Pkcs11UriError('PKCS#11 URI has a query: module and PIN file have their own fields in the configuration')
  }
  const attributes = new Map<string, Uint8Array>()
  for (const part of uri.slice('pkcs11:'.length).split(';')) {
    const equals = part.indexOf('=')
    const name = part.slice(0, Math.max(equals, 0))
    if (!known.includes(name))
      throw new Pkcs11UriError(`PKCS#11 URI attribute ${JSON.stringify(name)} is not known here`)
    if (attributes.has(name)) throw new Pkcs11UriError(`PKCS#11 URI has ${name} twice`)
    attributes.set(name, percentDecoded(part.slice(equals + 1)))
  }
  return attributes
}

function percentDecoded(value: string): Uint8Array {
  if (!/^(?:[\x21-\x24\x26-\x7e]|%[0-9a-fA-F]{2})*$/.test(value)) {
    throw new Pkcs11UriError('PKCS#11 URI has a character that must be percent-encoded')
  }
  const octets: number[] = []
  for (let i = 0; i < value.length; i++) {
    if (value[i] === '%') {
      octets.push(Number.parseInt(value.slice(i + 1, i + 3), 16))
      i += 2
    } else octets.push(value.charCodeAt(i))
  }
  return Uint8Array.from(octets)
}

function text(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    throw new Pkcs11UriError(
      `PKCS#11 URI attribute is not UTF-8: ${error instanceof Error ? error.message : 'unknown'}`,
    )
  }
}
