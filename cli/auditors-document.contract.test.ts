/** The commands of docs/auditors.md, run as they stand there, against logs with real keys. */
import { execFile } from 'node:child_process'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { vkeyEcdsa } from '#tlog'
import { TestLog } from '../test/support/rekor-log.ts'

const logs = { v1: new TestLog(1, 300), v2: new TestLog(2, 300) }
const servers: Server[] = []
let folder: string
let script: string
let environment: NodeJS.ProcessEnv

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chancery-auditors-'))
  const tlogs = [logs.v1, logs.v2].flatMap((log) => (log.trustedRoot as { tlogs: unknown[] }).tlogs)
  await writeFile(join(folder, 'trusted_root.json'), JSON.stringify({ tlogs }))
  const document = await readFile(join(import.meta.dirname, '../docs/auditors.md'), 'utf8')
  const blocks = [...document.matchAll(/<!-- run -->\n```sh\n(.*?)```/gs)].map(([, block]) => block ?? '')
  expect(blocks.length).toBeGreaterThan(7)
  const main = join(import.meta.dirname, 'main.ts')
  script = `set -euo pipefail\nchancery() { "${process.execPath}" "${main}" "$@"; }\n${blocks.join('\n')}`
  environment = { PATH: process.env['PATH'] ?? '', HOME: folder, V1: await serve(logs.v1), V2: await serve(logs.v2) }
})

afterAll(async () => {
  for (const server of servers) server.close()
  await rm(folder, { recursive: true })
})

async function serve(log: TestLog): Promise<string> {
  const server = createServer((request, reply) => {
    void log.fetch(`http://log.test${request.url}`).then(async (answer) => {
      reply.writeHead(answer.status).end(Buffer.from(await answer.arrayBuffer()))
    })
  })
  servers.push(server)
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function bash(): Promise<{ status: number; output: string }> {
  return new Promise((resolve) => {
    execFile('bash', ['-c', script], { cwd: folder, env: environment }, (error, stdout, stderr) => {
      resolve({ status: error ? Number(error.code ?? 1) : 0, output: stdout + stderr })
    })
  })
}

describe('docs/auditors.md', () => {
  test('verifies an honest log with each of its commands', async () => {
    const { status, output } = await bash()
    expect([status, output.match(/Verified OK/g)?.length, output.match(/inclusion proof OK/g)?.length]).toEqual([
      0, 4, 1,
    ])
    expect(output.match(/recounted 300 entries/g)).toHaveLength(2)
    const vkey = (await readFile(join(folder, 'rekor-v2.vkey'), 'utf8')).trim()
    expect(vkey).toBe(vkeyEcdsa(logs.v2.origin, logs.v2.spkiDer))
  })

  test.each(['body', 'rootHash', 'hashes'])('is stopped by an entry with another %s', async (field) => {
    const reply = logs.v1.entryReply(0) ?? ''
    const pattern = field === 'hashes' ? /"hashes":\["./ : new RegExp(`"${field}":".`)
    logs.v1.lies.set(
      '/api/v1/log/entries?logIndex=0',
      reply.replace(pattern, (found) => `${found.slice(0, -1)}${found.endsWith('1') ? '2' : '1'}`),
    )
    expect((await bash()).status).not.toBe(0)
    logs.v1.lies.clear()
  })
})
