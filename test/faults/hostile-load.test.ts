/**
 * Sixty-four hostile connections leave other clients' issuance working. The clients here want certificates, one after
 * the other, first alone, then beside the crowd; each must get it, if need be after 503 with Retry-After. What is reported
 * is how long it takes and how much memory server and agent use; what is asserted is that all are served and that the
 * memory is bounded.
 */
import { fork } from 'node:child_process'
import { readFileSync, mkdtempSync, rmSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { certificateRequest } from '../crash/requests.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, runChancery, serve, type Stack } from '../e2e/stack.ts'
import type { Crowd } from './hostile-crowd.ts'

const LONG = process.env['CHANCERY_LONG'] === '1'
const EMAIL = 'patient@example.test'
const CLIENTS = 4
const ALONE_MS = LONG ? 20_000 : 5_000
const ATTACK_MS = LONG ? 120_000 : 12_000

/**
 * The bodies under way have a budget of 256 MiB (`http/listener.ts`), of which this crowd can hold 64 bodies of a megabyte
 * at most; the rest is what the collector has not got to on several threads, and pools, caches and the logs' trees.
 */
const SERVER_MAY_GROW_MIB = 512
/** Its frames under way: 32 MiB for a socket, and as much for what is not collected yet. */
const AGENT_MAY_GROW_MIB = 128

const scratch = mkdtempSync(join(tmpdir(), 'chancery-hostile-'))
let stack: Stack
let token: string

beforeAll(async () => {
  await initialise(join(scratch, 'data'))
  stack = await serve(join(scratch, 'data'))
  token = succeeded(await runChancery(['dev', 'token', '--data', stack.dataDir, '--email', EMAIL])).stdout.trim()
})

afterAll(async () => {
  try {
    await stack.stop()
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
})

interface Issued {
  /** From the first attempt to the certificate. */
  readonly ms: number
  readonly refusals: number
}

test('sixty-four hostile connections: every certificate is issued, memory is bounded', async () => {
  await issueFor(500) // what is compiled and opened at first
  const before = memory()
  const alone = await issueFor(ALONE_MS)
  const crowd = attack()
  await delay(1000)
  const beside: Issued[] = []
  const during: Memory[] = []
  for (let quarter = 0; quarter < 4; quarter++) {
    beside.push(...(await issueFor(ATTACK_MS / 4)))
    during.push(memory())
  }
  const did = await crowd.end()
  const after = await issueFor(1000)

  console.log(
    [
      `issuance alone:        ${described(alone)}`,
      `beside 64 hostile:     ${described(beside)}`,
      `after them:            ${described(after)}`,
      `memory of the server:  ${before.server} MiB before, ${during.map(({ server }) => server).join(', ')} MiB by quarters`,
      `memory of the agent:   ${before.agent} MiB before, ${during.map(({ agent }) => agent).join(', ')} MiB by quarters`,
      `the crowd:             ${JSON.stringify(did)}`,
    ].join('\n'),
  )
  // It was an attack: uploads and timestamps were served or refused by the hundred, and slow bodies held their places.
  expect(sum(did.upload)).toBeGreaterThan(100)
  expect(sum(did.timestamp)).toBeGreaterThan(100)
  expect(sum(did.slow)).toBeGreaterThanOrEqual(21)
  for (const kind of ['upload', 'timestamp'] as const) {
    // Connections are not dropped, and nothing fails but what is refused for its content or told to come back.
    expect(
      Object.keys(did[kind]).filter((status) => !['200', '201', '400', '413', '422', '503'].includes(status)),
    ).toEqual([])
  }
  // Each of the clients went on being served, all the time.
  expect(beside.length).toBeGreaterThanOrEqual(CLIENTS * 5)
  for (const { server, agent } of during) {
    expect(server - before.server).toBeLessThan(SERVER_MAY_GROW_MIB)
    expect(agent - before.agent).toBeLessThan(AGENT_MAY_GROW_MIB)
  }
})

/** All clients issue for so long; each finishes what it began. */
async function issueFor(ms: number): Promise<Issued[]> {
  const untilMs = performance.now() + ms
  const clients = Array.from({ length: CLIENTS }, async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const issued: Issued[] = []
    while (performance.now() < untilMs) issued.push(await issue(agent))
    agent.destroy()
    return issued
  })
  return (await Promise.all(clients)).flat()
}

/** One certificate, asked for until it comes. Throws for every answer but 200 and 503 with Retry-After. */
async function issue(agent: Agent): Promise<Issued> {
  const startMs = performance.now()
  const { sent } = certificateRequest({ token, email: EMAIL })
  for (let refusals = 0; ; refusals++) {
    const { status, retryAfter, text } = await post(`${stack.endpoints.ca}/api/v2/signingCert`, sent, agent)
    if (status === 200) {
      expect(text).toContain('BEGIN CERTIFICATE')
      return { ms: performance.now() - startMs, refusals }
    }
    expect({ status, retryAfter }, text).toEqual({ status: 503, retryAfter: expect.stringMatching(/^\d+$/) })
    if (refusals === 30) throw new Error('refused thirty times')
    await delay(Number(retryAfter) * 1000)
  }
}

async function post(
  url: string,
  body: string,
  agent: Agent,
): Promise<{ status: number; retryAfter: string | undefined; text: string }> {
  return await new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
    const sent = request(url, { method: 'POST', agent, headers }, (response) => {
      let text = ''
      response.on('data', (chunk: Buffer) => (text += chunk.toString()))
      response.once('end', () =>
        resolve({ status: response.statusCode ?? 0, retryAfter: response.headers['retry-after'], text }),
      )
      response.once('error', reject)
    })
    sent.once('error', reject)
    sent.end(body)
  })
}

function attack(): { end(): Promise<Crowd> } {
  const child = fork(join(import.meta.dirname, 'hostile-crowd.ts'), {
    env: {},
    execArgv: [],
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  child.send({ attack: stack.endpoints })
  return {
    end: async () =>
      await new Promise((resolve, reject) => {
        child.once('message', (crowd: Crowd) => resolve(crowd))
        child.once('exit', () => reject(new Error('the crowd ended without a word')))
        child.send('end')
      }),
  }
}

/** Resident memory, MiB. */
interface Memory {
  readonly server: number
  readonly agent: number
}

function memory(): Memory {
  const server = stack.server.pid
  if (server === undefined) throw new TypeError('the server has no process id')
  const children = readFileSync(`/proc/${server}/task/${server}/children`, 'utf8').trim().split(' ').map(Number)
  const agent = children.find((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('agent/online.yaml'))
  if (agent === undefined) throw new TypeError('the server has no agent')
  return { server: residentMib(server), agent: residentMib(agent) }
}

function residentMib(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Math.round(Number(kib) / 1024)
}

function described(issued: readonly Issued[]): string {
  const sorted = issued.map(({ ms }) => ms).toSorted((a, b) => a - b)
  const at = (share: number) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0)
  const refusals = issued.reduce((total, one) => total + one.refusals, 0)
  return `${issued.length} certificates, median ${at(0.5)} ms, p99 ${at(0.99)} ms, worst ${at(1)} ms, ${refusals} times 503`
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0)
}
