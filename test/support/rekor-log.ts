/** A small log in memory for the tests: real keys and signatures, answering the routes that auditors read. */
import { generateKeyPairSync, sign } from 'node:crypto'
import {
  encodeEntryBundle,
  formatCheckpoint,
  formatNote,
  keyHintSpki,
  leafHash,
  MerkleTree,
  parseTilePath,
} from '#tlog'
import { sha256 } from '#sha256'
import { type LogEntry, toHex } from '#verifier'

/** Seconds; inside the window of `TestLog.trustedRoot`. */
export const INTEGRATED_AT = 1_785_000_000

/** A log with its own key; `version` decides the form of origin and API. */
export class TestLog {
  readonly url = 'http://log.test'
  readonly origin: string
  readonly spkiDer: Uint8Array
  readonly leaves: Uint8Array[] = []
  readonly treeId = 4711
  readonly version: 1 | 2
  /** Replaces replies by path, for logs that lie. */
  readonly lies = new Map<string, string | Uint8Array>()
  readonly #keys = generateKeyPairSync('ec', { namedCurve: 'P-256' })

  constructor(version: 1 | 2, size: number) {
    this.version = version
    this.origin = version === 1 ? 'rekor.example.org - 4711' : 'rekor.example.org'
    this.spkiDer = new Uint8Array(this.#keys.publicKey.export({ type: 'spki', format: 'der' }))
    this.grow(size)
  }

  grow(count: number): void {
    for (let at = 0; at < count; at++) this.leaves.push(leafOf(this.version, this.leaves.length))
  }

  get trustedRoot(): unknown {
    return {
      tlogs: [
        {
          baseUrl: 'http://rekor.example.org',
          publicKey: {
            rawBytes: toBase64(this.spkiDer),
            keyDetails: 'PKIX_ECDSA_P256_SHA_256',
            validFor: { start: '2026-01-01T00:00:00Z', end: '2027-01-01T00:00:00Z' },
          },
          logId: { keyId: toBase64(sha256(this.spkiDer)) },
        },
      ],
    }
  }

  tree(size = this.leaves.length): MerkleTree {
    const tree = new MerkleTree()
    for (const leaf of this.leaves.slice(0, size)) tree.append(leafHash(leaf))
    return tree
  }

  sign(bytes: Uint8Array): Uint8Array {
    return new Uint8Array(sign('sha256', bytes, this.#keys.privateKey))
  }

  checkpoint(size = this.leaves.length, origin = this.origin): string {
    const text = formatCheckpoint({ origin, size, rootHash: this.tree(size).root() })
    const signature = this.sign(new TextEncoder().encode(text))
    return formatNote(text, [{ name: 'rekor.example.org', keyHint: keyHintSpki(this.spkiDer), signature }])
  }

  entry(index: number, size = this.leaves.length): LogEntry {
    const body = this.leaves[index] ?? new Uint8Array()
    const tree = this.tree(size)
    const logId = sha256(this.spkiDer)
    const payload = `{"body":"${toBase64(body)}","integratedTime":${INTEGRATED_AT},"logID":"${toHex(logId)}","logIndex":${index}}`
    const inclusionProof = {
      index,
      size,
      rootHash: tree.root(),
      hashes: tree.inclusionProof(index, size),
      checkpoint: this.checkpoint(size),
    }
    const promise = this.sign(new TextEncoder().encode(payload))
    return {
      body,
      logId,
      logIndex: index,
      integratedTimeSeconds: this.version === 1 ? INTEGRATED_AT : 0,
      inclusionProof,
      ...(this.version === 1 ? { promise } : {}),
    }
  }

  entryId(index: number): string {
    return this.treeId.toString(16).padStart(16, '0') + toHex(leafHash(this.leaves[index] ?? new Uint8Array()))
  }

  /** Answers as the log would; give it to `rekorV1` or `rekorV2`. */
  readonly fetch = (input: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const url = new URL(input instanceof Request ? input.url : input)
    const path = `${url.pathname}${url.search}`
    const body = this.lies.get(path) ?? this.#answer(url, init)
    if (body === undefined) return Promise.resolve(new Response('', { status: 404 }))
    return Promise.resolve(new Response(typeof body === 'string' ? body : new Uint8Array(body)))
  }

  #answer(url: URL, init?: RequestInit): string | Uint8Array | undefined {
    const prefix = this.version === 1 ? `/api/v1/tiles/${this.treeId}/` : '/'
    if (url.pathname.startsWith(`${prefix}tile/`)) return this.#tile(url.pathname.slice(prefix.length))
    if (this.version === 2) return url.pathname === '/checkpoint' ? this.checkpoint() : undefined
    const ask = (name: string) => Number(url.searchParams.get(name))
    switch (url.pathname) {
      case '/api/v1/log':
        return JSON.stringify({ treeID: String(this.treeId), signedTreeHead: this.checkpoint() })
      case '/api/v1/log/proof': {
        const hashes = this.tree().consistencyProof(ask('firstSize'), ask('lastSize'))
        return JSON.stringify({ hashes: hashes.map(toHex), rootHash: toHex(this.tree().root()) })
      }
      case '/api/v1/log/entries':
        return this.entryReply(ask('logIndex'))
      case '/api/v1/index/retrieve': {
        const { hash } = JSON.parse(typeof init?.body === 'string' ? init.body : '') as { hash: string }
        const index = this.leaves.findIndex((leaf) =>
          new TextDecoder().decode(leaf).includes(hash.replace('sha256:', '')),
        )
        return JSON.stringify(index < 0 ? [] : [this.entryId(index)])
      }
      default: {
        const id = url.pathname.replace('/api/v1/log/entries/', '')
        const index = this.leaves.findIndex((_, at) => this.entryId(at).endsWith(id))
        return index < 0 ? undefined : this.entryReply(index)
      }
    }
  }

  /** Rekor v1's map of one entry. */
  entryReply(index: number): string | undefined {
    if (index >= this.leaves.length) return undefined
    const { body, logId, inclusionProof, promise } = this.entry(index)
    const reply = {
      body: toBase64(body),
      integratedTime: INTEGRATED_AT,
      logID: toHex(logId),
      logIndex: index,
      verification: {
        inclusionProof: {
          checkpoint: inclusionProof.checkpoint,
          hashes: inclusionProof.hashes.map(toHex),
          logIndex: index,
          rootHash: toHex(inclusionProof.rootHash),
          treeSize: inclusionProof.size,
        },
        signedEntryTimestamp: toBase64(promise ?? new Uint8Array()),
      },
    }
    return JSON.stringify({ [this.entryId(index)]: reply })
  }

  #tile(path: string): Uint8Array | undefined {
    const tile = parseTilePath(path)
    if (tile.kind === 'entries') return encodeEntryBundle(this.leaves.slice(tile.n * 256, tile.n * 256 + tile.width))
    return this.tree().tile(tile.level, tile.n, tile.width)
  }
}

function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}

/** SHA-256 digest (as bytes) that entry `index` names. */
export function digestOf(index: number): Uint8Array {
  return sha256(new TextEncoder().encode(`artifact ${index}`))
}

function leafOf(version: 1 | 2, index: number): Uint8Array {
  const digest = digestOf(index)
  const entry =
    version === 1
      ? {
          apiVersion: '0.0.1',
          kind: 'hashedrekord',
          spec: { data: { hash: { algorithm: 'sha256', value: toHex(digest) } } },
        }
      : {
          apiVersion: '0.0.2',
          kind: 'hashedrekord',
          spec: { hashedRekordV002: { data: { algorithm: 'SHA2_256', digest: toBase64(digest) } } },
        }
  return new TextEncoder().encode(JSON.stringify(entry))
}
