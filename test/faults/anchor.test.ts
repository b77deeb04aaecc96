/**
 * Anchors: a machine that is rolled back whole, data and agent's state together, is caught by what remembers elsewhere.
 * The witness is litewitness, which this project did not write; the file lies in a folder that is not rolled back.
 */
import { execFileSync } from 'node:child_process'
import { createPublicKey, verify } from 'node:crypto'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { EXIT } from '#alarms'
import { vkeyEcdsa, vkeyEd25519 } from '#tlog'
import { certificateRequest, requestOf } from '../crash/requests.ts'
import { pinnedKeys } from '../crash/pinned-logs.ts'
import { client } from '../e2e/clients.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, projectFolder, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { keepPlaces } from '../support/moved-state.ts'
import { startWitness, type Witness } from '../support/witness.ts'

const EMAIL = 'anchored@example.test'
const LOGS = ['ct', 'rekor-v1', 'rekor-v2'] as const
type LogName = (typeof LOGS)[number]

/** What the issue gives a server to notice. */
const TEN_SECONDS_MS = 10_000

const scratch = mkdtempSync(join(tmpdir(), 'chancery-anchor-'))
const dataDir = join(scratch, 'data')
const volume = join(scratch, 'other-volume')
/** Data and agent's state together, as a snapshot of the machine has them. */
const snapshot = join(scratch, 'snapshot')
let stack: Stack
let witness: Witness
let count = 0

beforeAll(async () => {
  await initialise(dataDir)
  mkdirSync(volume)
  writeFileSync(join(volume, '.chancery-anchor'), '')
  witness = await startWitness()
  for (const log of LOGS) witness.addLog(witnessName(log), vkeyEd25519(witnessName(log), rawWitnessKey(log)))
  setAnchors(['witness', 'file'])
  stack = await serve(dataDir)
})

afterAll(async () => {
  await stack.stop().catch(() => stack.server.kill('SIGKILL'))
  await witness.close()
  rmSync(scratch, { recursive: true, force: true })
})

describe('growth', () => {
  test('of each log gets to each anchor, and the cosignatures verify', async () => {
    // The first one of each is the server's own.
    await grow()
    const sizes = await waitUntilAnchored()
    expect(sizes).toEqual({ ct: 2, 'rekor-v1': 2, 'rekor-v2': 2 })
    for (const log of LOGS) {
      const note = readFileSync(join(dataDir, 'anchors/lite', `${encodeURIComponent(originOf(log))}.note`), 'utf8')
      expect(cosignedSize(note)).toBe(2)
      const kept = readFileSync(join(volume, `${encodeURIComponent(originOf(log))}.note`), 'utf8')
      expect(kept.split('\n').slice(0, 2)).toEqual([originOf(log), '2'])
    }
  })

  test('is served for Rekor v2 with the P-256 line first, then Ed25519, then the witness', async () => {
    const checkpoint = await until(async () => {
      const text = await (await fetch(`${stack.endpoints.rekorV2}/checkpoint`)).text()
      return text.trimEnd().split('\n').length === 7 ? text : undefined
    })
    expect(cosignedSize(checkpoint)).toBe(2)
    const [text = '', lines = ''] = checkpoint.split('\n\n')
    const [first, second] = lines.split('\n').map((line) => Buffer.from(line.split(' ')[2] ?? '', 'base64').subarray(4))
    const message = Buffer.from(`${text}\n`)
    expect(verify('sha256', message, publicKeyOf('rekor-v2'), first ?? Buffer.alloc(0))).toBe(true)
    expect(verify(null, message, publicKeyOf('rekor-v2-witness'), second ?? Buffer.alloc(0))).toBe(true)
    const v1 = (await (await fetch(`${stack.endpoints.rekorV1}/api/v1/log`)).json()) as { signedTreeHead: string }
    expect(v1.signedTreeHead.split('\n\n')[1]?.trimEnd().split('\n')).toHaveLength(1)
  })
})

describe('cosigned checkpoints', () => {
  test.each(['rekor-v2', 'rekor-v2-witness'])('are read by fsck with the key %s, and by the auditor', async (name) => {
    const file = join(scratch, 'vkey')
    const { spkiDer = Buffer.alloc(0) } = pinnedKeys(dataDir)[name] ?? {}
    const origin = originOf('rekor-v2')
    writeFileSync(file, name === 'rekor-v2' ? vkeyEcdsa(origin, spkiDer) : vkeyEd25519(origin, spkiDer.subarray(-32)))
    const { rekorV2 } = stack.endpoints
    expect((await (await fetch(`${rekorV2}/checkpoint`)).text()).split('\n— ')).toHaveLength(4)
    const storage = ['--storage_url', `${rekorV2}/`, '--public_key', file, '--origin', origin, '--ui=false']
    const { text } = succeeded(await client('fsck', storage))
    expect(text).toMatch(/Successfully fsck'd log|OK/)
    expect(text).not.toMatch(/fail|error/i)
    const trustRoot = join(dataDir, 'trust-root/repository/trusted_root.json')
    const of = ['--log', 'v2', '--url', rekorV2, '--trusted-root', trustRoot]
    succeeded(await runChancery(['audit', 'recount', ...of]))
    succeeded(await runChancery(['audit', 'watch', '--once', '--state', join(scratch, 'watch'), ...of]))
  })

  test('need the verifier keys that docs/auditors.md tells how to make', () => {
    const document = readFileSync(join(projectFolder, 'docs/auditors.md'), 'utf8')
    const [, block = ''] = /<!-- run: witness -->\n```sh\n(.*?)```/s.exec(document) ?? []
    for (const log of LOGS) {
      const spki = pinnedKeys(dataDir)[`${log}-witness`]?.spkiDer.toString('base64') ?? ''
      const env = { PATH: process.env['PATH'] ?? '', ORIGIN: witnessName(log), SPKI: spki }
      const said = execFileSync('bash', ['-euc', block], {
        env,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      expect(said.trim()).toBe(vkeyEd25519(witnessName(log), rawWitnessKey(log)))
    }
  })
})

test('an anchor that is away stops nothing: there is an alarm, and it catches up', async () => {
  await witness.stop()
  rmSync(join(volume, '.chancery-anchor'))
  await grow()
  await grow()
  const told = (line: string) => until(() => Promise.resolve(logLines(line).length >= 6 || undefined))
  await told('"alarm":"anchor_stale"')
  await grow()
  expect(logLines('"alarm":"anchor_stale"').some((line) => line.includes('.chancery-anchor'))).toBe(true)
  writeFileSync(join(volume, '.chancery-anchor'), '')
  await witness.start()
  expect(await waitUntilAnchored()).toEqual({ ct: 5, 'rekor-v1': 5, 'rekor-v2': 5 })
  await told('alarm is over')
})

test('a required anchor that is away keeps the server from starting, and says so; another one does not', async () => {
  await stack.stop()
  await witness.stop()
  setAnchors(['witness'], { required: true })
  const refused = await runChancery(['serve', '--data', dataDir])
  expect(refused.status).toBe(EXIT.failed)
  expect(refused.text).toMatch(/required anchor could not be asked: .*lite.*docs\/runbook\.md#anchor_required/s)
  setAnchors(['witness', 'file'])
  stack = await serve(dataDir)
  await grow()
  await witness.start()
  expect(await waitUntilAnchored()).toEqual({ ct: 6, 'rekor-v1': 6, 'rekor-v2': 6 })
})

describe('a machine rolled back with its data and its agent', () => {
  beforeAll(async () => {
    await stack.stop()
    cpSync(dataDir, snapshot, { recursive: true })
    stack = await serve(dataDir)
    await grow()
    await grow()
    await waitUntilAnchored()
    await stack.stop()
  })

  /** When the server was started, on the scale of `performance.now()`. */
  const rollBack = async (anchors: readonly ('witness' | 'file')[]): Promise<number> => {
    await stack.stop()
    rmSync(dataDir, { recursive: true })
    cpSync(snapshot, dataDir, { recursive: true })
    keepPlaces(dataDir)
    writeFileSync(join(dataDir, 'serve.log'), '')
    setAnchors(anchors)
    const startedMs = performance.now()
    stack = await serve(dataDir)
    return startedMs
  }

  test.each(['witness', 'file'] as const)('is refused by what a %s remembers, and still serves', async (kind) => {
    const startedMs = await rollBack([kind])
    const refusals = await Promise.all(LOGS.map(async (log) => await upload(log)))
    expect(performance.now() - startedMs).toBeLessThan(TEN_SECONDS_MS)
    expect(refusals.map(({ status }) => status)).toEqual([503, 503, 503])
    expect(logLines('"alarm":"anchor_ahead"')).toHaveLength(3)
    expect(logLines('docs/runbook.md#anchor_ahead')).not.toHaveLength(0)
    expect(await sizes()).toEqual({ ct: 6, 'rekor-v1': 6, 'rekor-v2': 6 })
    const v1 = await fetch(`${stack.endpoints.rekorV1}/api/v1/log/entries?logIndex=2`)
    expect(v1.status).toBe(200)
    expect(LOGS.map((log) => witness.held(witnessName(log))?.size)).toEqual([8, 8, 8])
  })

  test('and the agent, shown its own signature, refuses from then on without any anchor', async () => {
    await stack.stop()
    setAnchors([])
    stack = await serve(dataDir)
    const refusals = await Promise.all(LOGS.map(async (log) => await upload(log)))
    expect(refusals.map(({ status }) => status)).toEqual([503, 503, 503])
    const said = (await runChancery(['status', '--data', dataDir, '--json'])).stdout
    const { agent } = JSON.parse(said) as { agent: { guards: { size: number; latched: string }[] } }
    expect(agent.guards.map(({ size }) => size)).toEqual([6, 6, 6])
    for (const { latched } of agent.guards)
      expect(latched).toMatch(/signed size 8 .* the agent's state was rolled back/)
  })

  test('without an anchor is not noticed; the next anchor finds two histories', async () => {
    await rollBack([])
    for (let times = 0; times < 3; times++) await grow()
    expect(await sizes()).toEqual({ ct: 9, 'rekor-v1': 9, 'rekor-v2': 9 })
    await stack.stop()
    setAnchors(['witness', 'file'])
    stack = await serve(dataDir)
    expect((await upload('rekor-v1')).status).toBe(503)
    expect(logLines('"alarm":"anchor_disagrees"')).toHaveLength(6)
  })
})

function setAnchors(kinds: readonly ('witness' | 'file')[], changes: object = {}): void {
  const path = join(dataDir, 'chancery.yaml')
  const often = { everySeconds: 1, staleSeconds: 2 }
  const all = {
    witness: { name: 'lite', kind: 'witness', url: witness.url, vkey: witness.vkey, ...often },
    file: { name: 'volume', kind: 'file', path: volume, ...often },
  }
  const anchors = kinds.map((kind) => ({ ...all[kind], ...changes }))
  writeFileSync(path, stringify({ ...(parse(readFileSync(path, 'utf8')) as object), anchors }))
}

const originOf = (log: LogName) => pinnedKeys(dataDir)[log]?.origin ?? ''
const witnessName = (log: LogName) => pinnedKeys(dataDir)[`${log}-witness`]?.origin ?? ''
const rawWitnessKey = (log: LogName) => pinnedKeys(dataDir)[`${log}-witness`]?.spkiDer.subarray(-32) ?? Buffer.alloc(0)

function publicKeyOf(name: string) {
  return createPublicKey({ key: pinnedKeys(dataDir)[name]?.spkiDer ?? Buffer.alloc(0), format: 'der', type: 'spki' })
}

/** The size in a note that the witness cosigned; its line is checked by what C2SP tlog-cosignature says alone. */
function cosignedSize(note: string): number {
  const [text = '', lines = ''] = note.split('\n\n')
  const [name = '', , ...encoded] = witness.vkey.split('+')
  const key = encoded.join('+') // base64 has them too
  const line = lines.split('\n').find((each) => each.startsWith(`— ${name} `)) ?? ''
  const bytes = Buffer.from(line.split(' ')[2] ?? '', 'base64')
  const prefix = Buffer.from('302a300506032b6570032100', 'hex')
  const spki = Buffer.concat([prefix, Buffer.from(key, 'base64').subarray(1)])
  const message = `cosignature/v1\ntime ${bytes.readBigUInt64BE(4)}\n${text}\n`
  const publicKey = createPublicKey({ key: spki, format: 'der', type: 'spki' })
  expect(verify(null, Buffer.from(message), publicKey, bytes.subarray(12))).toBe(true)
  return Number(text.split('\n')[1])
}

/** One more entry in each log. */
async function grow(): Promise<void> {
  for (const log of LOGS) {
    const { status, text } = await upload(log)
    expect([200, 201], text).toContain(status)
  }
}

async function upload(log: LogName): Promise<{ status: number; text: string }> {
  const { ca, rekorV1, rekorV2 } = stack.endpoints
  const send = async (url: string, body: string) => {
    const answer = await fetch(url, { method: 'POST', body, headers: { 'content-type': 'application/json' } })
    return { status: answer.status, text: await answer.text() }
  }
  if (log === 'ct') {
    const said = await runChancery(['dev', 'token', '--data', dataDir, '--email', EMAIL])
    const token = succeeded(said).stdout.trim()
    return await send(`${ca}/api/v2/signingCert`, certificateRequest({ token, email: EMAIL }).sent)
  }
  const use = log === 'rekor-v1' ? 'v1' : 'v2'
  const url = use === 'v1' ? `${rekorV1}/api/v1/log/entries` : `${rekorV2}/api/v2/log/entries`
  return await send(url, requestOf(use, `message ${count++}`).sent)
}

async function sizes(): Promise<Record<LogName, number>> {
  const { ct, rekorV1, rekorV2 } = stack.endpoints
  const [v2 = ''] = (await (await fetch(`${rekorV2}/checkpoint`)).text()).split('\n').slice(1)
  const v1 = (await (await fetch(`${rekorV1}/api/v1/log`)).json()) as { treeSize: number }
  const sth = (await (await fetch(`${ct}/ct/v1/get-sth`)).json()) as { tree_size: number }
  return { ct: sth.tree_size, 'rekor-v1': v1.treeSize, 'rekor-v2': Number(v2) }
}

/** The sizes, once both anchors hold them. */
async function waitUntilAnchored(): Promise<Record<LogName, number>> {
  return await until(async () => {
    const wanted = await sizes()
    const kept = LOGS.every((log) => {
      const note = readFileSync(join(volume, `${encodeURIComponent(originOf(log))}.note`), 'utf8')
      return witness.held(witnessName(log))?.size === wanted[log] && Number(note.split('\n')[1]) === wanted[log]
    })
    return kept ? wanted : undefined
  })
}

function logLines(part: string): string[] {
  return readFileSync(join(dataDir, 'serve.log'), 'utf8')
    .split('\n')
    .filter((line) => line.includes(part))
}

async function until<T>(look: () => Promise<T | undefined>): Promise<T> {
  const deadlineMs = performance.now() + 60_000
  for (;;) {
    const found = await look().catch(() => undefined)
    if (found !== undefined) return found
    if (performance.now() > deadlineMs) throw new Error(`it did not come: ${logLines('anchor').slice(-5).join('\n')}`)
    await delay(100)
  }
}
