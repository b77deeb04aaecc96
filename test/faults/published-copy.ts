/**
 * What others keep of a stack: its logs and its TUF repository as they were read over HTTP, served again by a small
 * server. It knows nothing of the project; a copy can be cut short or forged, as copies can.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Endpoints } from '../e2e/stack.ts'

export interface PublishedCopy {
  /** Path with query -> bytes; tests take some away or change them. */
  readonly pages: Map<string, Buffer>
  readonly url: string
  close(): Promise<void>
}

/** Reads everything that is published, entry by entry, and serves it again under one address. */
export async function copyPublished({ rekorV1, rekorV2, ct, tuf }: Endpoints): Promise<PublishedCopy> {
  const pages = new Map<string, Buffer>()
  const get = async (base: string, path: string): Promise<Buffer | undefined> => {
    const response = await fetch(`${base}${path}`)
    const body = Buffer.from(await response.arrayBuffer())
    if (!response.ok) return undefined
    pages.set(path, body)
    return body
  }
  const v1 = JSON.parse(String(await get(rekorV1, '/api/v1/log'))) as { treeSize: number }
  for (let index = 0; index < v1.treeSize; index += 1) await get(rekorV1, `/api/v1/log/entries?logIndex=${index}`)

  const size = Number(String(await get(rekorV2, '/checkpoint')).split('\n')[1])
  for (let n = 0; n * 256 < size; n += 1) {
    const width = Math.min(256, size - n * 256)
    const name = String(n).padStart(3, '0')
    await get(rekorV2, `/tile/entries/${width === 256 ? name : `${name}.p/${width}`}`)
  }

  const { tree_size: ctSize } = JSON.parse(String(await get(ct, '/ct/v1/get-sth'))) as { tree_size: number }
  for (let start = 0; start < ctSize; start += 1) await get(ct, `/ct/v1/get-entries?start=${start}&end=${start}`)

  await copyRepository(tuf, get)
  return await serveCopy(pages, ctSize)
}

async function copyRepository(tuf: string, get: (base: string, path: string) => Promise<Buffer | undefined>) {
  let version = 1
  while ((await get(tuf, `/${version}.root.json`)) !== undefined) version += 1
  const timestamp = JSON.parse(String(await get(tuf, '/timestamp.json'))) as Role<'snapshot.json'>
  const snapshotVersion = timestamp.signed.meta['snapshot.json'].version
  const snapshot = JSON.parse(String(await get(tuf, `/${snapshotVersion}.snapshot.json`))) as Role<'targets.json'>
  const targetsName = `/${snapshot.signed.meta['targets.json'].version}.targets.json`
  const { signed } = JSON.parse(String(await get(tuf, targetsName))) as {
    signed: { targets: Record<string, { hashes: { sha256: string } }> }
  }
  for (const [name, { hashes }] of Object.entries(signed.targets)) await get(tuf, `/targets/${hashes.sha256}.${name}`)
}

interface Role<Name extends string> {
  readonly signed: { readonly meta: Readonly<Record<Name, { readonly version: number }>> }
}

async function serveCopy(pages: Map<string, Buffer>, ctSize: number): Promise<PublishedCopy> {
  const server = createServer((request, response) => {
    const url = request.url ?? ''
    const page = pages.get(url) ?? entriesFrom(pages, url, ctSize)
    response.writeHead(page === undefined ? 404 : 200).end(page)
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const { port } = server.address() as AddressInfo
  return {
    pages,
    url: `http://127.0.0.1:${port}`,
    close: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => {
        server.close(resolve)
      })
    },
  }
}

/** get-entries for any range, from the single entries that were copied; as many as there are. */
function entriesFrom(pages: Map<string, Buffer>, url: string, size: number): Buffer | undefined {
  const match = /^\/ct\/v1\/get-entries\?start=(\d+)&end=(\d+)$/.exec(url)
  if (match === null) return undefined
  const entries: unknown[] = []
  for (let index = Number(match[1]); index <= Math.min(Number(match[2]), size - 1); index += 1) {
    const page = pages.get(`/ct/v1/get-entries?start=${index}&end=${index}`)
    if (page === undefined) break
    entries.push(...(JSON.parse(page.toString()) as { entries: unknown[] }).entries)
  }
  return entries.length === 0 ? undefined : Buffer.from(JSON.stringify({ entries }))
}
