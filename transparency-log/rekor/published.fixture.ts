import { readFileSync } from 'node:fs'

/** An entry of a public log with what its client signed; `published-entries.fixture.json` names its source. */
export interface PublishedEntry {
  readonly name: string
  readonly kind: string
  readonly version: string
  /** DER, base64. */
  readonly certificate?: string
  readonly publicKeyPem?: string
  readonly digest?: string
  readonly signature?: string
  readonly envelope?: {
    readonly payload: string
    readonly payloadType: string
    readonly signatures: readonly { readonly sig: string }[]
  }
  /** Canonical body, base64. */
  readonly body: string
}

/** The entry of that name; throws if there is none. */
export function publishedEntry(name: string): PublishedEntry {
  const { entries } = JSON.parse(readFileSync(new URL('published-entries.fixture.json', import.meta.url), 'utf8')) as {
    entries: readonly PublishedEntry[] // our own file
  }
  const found = entries.find((entry) => entry.name === name)
  if (found === undefined) throw new Error(`no published entry ${name}`)
  return found
}
