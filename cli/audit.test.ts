import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { toHex } from '#verifier'
import { digestOf, TestLog } from '../test/support/rekor-log.ts'
import { main } from './main.ts'

let folder: string
let server: Server
let url: string
let log: TestLog
const printed = { out: '', err: '' }

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chancery-audit-test-'))
  server = createServer((request, reply) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      void answer(`${request.url}`, Buffer.concat(chunks).toString()).then(({ status, body }) =>
        reply.writeHead(status).end(body),
      )
    })
  })
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => Boolean((printed.out += String(text))))
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => Boolean((printed.err += String(text))))
})

afterEach(async () => {
  vi.restoreAllMocks()
  process.exitCode = undefined
  server.close()
  await rm(folder, { recursive: true })
})

async function answer(path: string, body: string): Promise<{ status: number; body: Buffer }> {
  const reply = await log.fetch(`http://log.test${path}`, body === '' ? {} : { method: 'POST', body })
  return { status: reply.status, body: Buffer.from(await reply.arrayBuffer()) }
}

async function use(version: 1 | 2, size = 300): Promise<void> {
  log = new TestLog(version, size)
  await writeFile(join(folder, 'root.json'), JSON.stringify(log.trustedRoot))
}

async function audit(...words: string[]): Promise<{ status: number; out: string; err: string }> {
  process.exitCode = undefined
  printed.out = ''
  printed.err = ''
  const trust = ['--trusted-root', join(folder, 'root.json')]
  const common = words[0] === 'verify' ? trust : ['--url', url, ...trust, '--log', `v${log.version}`]
  const status = await main(['audit', ...words, ...common])
  return { status, ...printed }
}

describe.each([1, 2] as const)('chancery audit, Rekor v%d', (version) => {
  beforeEach(() => use(version))

  test('proves an entry by index, by digest and by leaf, saves it and verifies what it saved', async () => {
    const file = join(folder, 'proof.json')
    const byIndex = await audit('proof', '258', '--output', file)
    expect(byIndex).toMatchObject({ status: 0, err: '' })
    expect(byIndex.out).toContain('index 258 of 300')
    expect((await audit('proof', `sha256:${toHex(digestOf(258))}`)).out).toContain('index 258 of 300')
    expect((await audit('proof', toHex(digestOf(258)))).out).toContain('index 258 of 300')
    expect((await audit('proof', log.entryId(258).slice(16))).out).toContain('index 258 of 300')
    expect((await audit('verify', file)).status).toBe(0)
    const saved = await readFile(file, 'utf8')
    await writeFile(file, saved.replace(/"logIndex": "258"/g, '"logIndex": "257"'))
    expect(await audit('verify', file)).toMatchObject({ status: 8, out: '' })
  })

  test('says in JSON what is proven', async () => {
    const { out } = await audit('proof', '3', '--json')
    expect(JSON.parse(out)).toMatchObject({
      verified: true,
      entries: [{ index: 3, treeSize: 300, kind: 'hashedrekord' }],
    })
  })

  test('recounts the whole log', async () => {
    expect((await audit('recount')).out).toContain('recounted 300 entries')
  })

  test('sees an entry that was changed behind the checkpoint', async () => {
    const honest = log.checkpoint()
    log.leaves[40] = new TextEncoder().encode('changed')
    log.lies.set(
      version === 1 ? '/api/v1/log' : '/checkpoint',
      version === 1 ? JSON.stringify({ treeID: '4711', signedTreeHead: honest }) : honest,
    )
    expect(await audit('recount')).toMatchObject({ status: 8, out: '' })
  })

  test('watches growth, and shouts at a rollback and at a fork with evidence', async () => {
    const watch = () => audit('watch', '--once', '--state', join(folder, 'state'))
    expect((await watch()).out).toContain('first look')
    log.grow(77)
    expect((await watch()).out).toContain('consistent since 300')
    expect((await watch()).out).toContain('consistent since 377')
    const state = await readFile(join(folder, 'state'), 'utf8')
    log.leaves.length = 350
    expect(await watch()).toMatchObject({ status: 8, err: expect.stringContaining('rollback') as string })
    log.grow(50)
    log.leaves[10] = new TextEncoder().encode('{"kind":"hashedrekord","apiVersion":"0.0.1"}')
    expect(await watch()).toMatchObject({ status: 8 })
    log.leaves.length = 377
    expect(await watch()).toMatchObject({ status: 8, err: expect.stringContaining('fork') as string })
    expect((await readdir(folder)).filter((name) => name.includes('evidence')).length).toBeGreaterThanOrEqual(2)
    // The state still holds what was last proven.
    expect(await readFile(join(folder, 'state'), 'utf8')).toBe(state)
  })

  test('has an exit status for each way to fail', async () => {
    expect(await audit('proof', '300')).toMatchObject({ status: 6 })
    expect(await audit('proof', toHex(new Uint8Array(32)))).toMatchObject({ status: 6 })
    expect(await audit('proof', 'hello')).toMatchObject({ status: 2 })
    expect(await audit('proof', `sha512:${toHex(digestOf(1))}`)).toMatchObject({ status: 2 })
    expect(await audit('verify', join(folder, 'nothing'))).toMatchObject({ status: 1 })
    await writeFile(join(folder, 'state'), 'not a state')
    expect(await audit('watch', '--once', '--state', join(folder, 'state'))).toMatchObject({ status: 1 })
    await writeFile(join(folder, 'root.json'), JSON.stringify(new TestLog(version, 0).trustedRoot))
    expect(await audit('proof', '3')).toMatchObject({ status: 8 })
    await rm(join(folder, 'root.json'))
    expect(await audit('proof', '3')).toMatchObject({ status: 1 })
    server.close()
    server.closeAllConnections()
    await writeFile(join(folder, 'root.json'), JSON.stringify(log.trustedRoot))
    expect(await audit('proof', '3')).toMatchObject({ status: 3 })
  })
})

test('a v2 log is not taken for a v1 log', async () => {
  await use(2)
  const head = log.checkpoint()
  log.lies.set('/api/v1/log', JSON.stringify({ treeID: '1', signedTreeHead: head }))
  const words = ['audit', 'recount', '--url', url, '--trusted-root', join(folder, 'root.json'), '--log', 'v1']
  expect(await main(words)).toBe(8)
})
