/** The whole server as one process tree on SoftHSM: start, status, an HSM that goes away and returns, a clean stop. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createHash, generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { GAUGES } from './gauges.ts'

const run = promisify(execFile)
const main = join(import.meta.dirname, '../cli/main.ts')
const folder = mkdtempSync(join(tmpdir(), 'chancery-server-'))
const data = join(folder, 'data')

interface Endpoints {
  rekorV1: string
  tsa: string
  metrics: string
  tuf: string
}

async function chancery(...words: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  try {
    return { code: 0, ...(await run(process.execPath, [main, ...words], { timeout: 60_000 })) }
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string }
    return { code, stdout, stderr }
  }
}

let server: ChildProcess | undefined
let endpoints: Endpoints

async function start(): Promise<void> {
  const child = spawn(process.execPath, [main, 'serve', '--data', data, '--log-level', 'warn'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  server = child
  const file = join(data, 'run/endpoints.json')
  await until(() => {
    if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}`)
    return existsSync(file)
  })
  endpoints = JSON.parse(readFileSync(file, 'utf8')) as Endpoints
}

async function stop(): Promise<number | null> {
  const child = server
  if (child === undefined) return null
  server = undefined
  if (child.exitCode !== null) return child.exitCode
  child.kill('SIGTERM')
  return await new Promise((resolve) => child.once('exit', resolve))
}

async function until(holds: () => boolean | Promise<boolean>, seconds = 30): Promise<void> {
  const end = performance.now() + seconds * 1000
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`not so within ${seconds} s`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** A new Rekor v1 hashedrekord, valid. */
function entry(): string {
  const artifact = randomBytes(32)
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const pem = publicKey.export({ type: 'spki', format: 'pem' })
  return JSON.stringify({
    kind: 'hashedrekord',
    apiVersion: '0.0.1',
    spec: {
      data: { hash: { algorithm: 'sha256', value: createHash('sha256').update(artifact).digest('hex') } },
      signature: {
        content: sign('sha256', artifact, privateKey).toString('base64'),
        publicKey: { content: Buffer.from(pem).toString('base64') },
      },
    },
  })
}

const post = async (body: string) =>
  await fetch(`${endpoints.rekorV1}/api/v1/log/entries`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
  })

interface Ready {
  ready: boolean
  services: Record<string, { ready: boolean; reason?: string }>
}

async function readiness(): Promise<{ status: number; body: Ready }> {
  const response = await fetch(`${endpoints.metrics}/readyz`)
  return { status: response.status, body: (await response.json()) as Ready }
}

beforeAll(async () => {
  const made = await chancery('init', '--data', data, '--ports', 'auto')
  expect(made.stderr).toContain('made ')
  await start()
})

afterAll(async () => {
  await stop()
  rmSync(folder, { recursive: true, force: true })
})

describe('a running server', () => {
  test('tells its status, and every service is ready', async () => {
    const { code, stdout } = await chancery('status', '--data', data, '--json')
    const status = JSON.parse(stdout) as {
      services: { service: string; state: string }[]
      agent: { tokens: { name: string; software: boolean }[] }
    }
    expect(code).toBe(0)
    expect(status.services.map(({ service, state }) => `${service} ${state}`)).toEqual(
      ['ca', 'ct', 'rekor-v1', 'rekor-v2', 'timestamp', 'trust-root'].map((service) => `${service} ready`),
    )
    // The serving agent knows the online token alone.
    expect(status.agent.tokens).toMatchObject([{ name: 'online', software: true }])
    expect((await readiness()).body.ready).toBe(true)
  })

  test('gives Prometheus the same picture', async () => {
    const text = await (await fetch(`${endpoints.metrics}/metrics`)).text()
    for (const metric of GAUGES.filter((name) => !['chancery_alarm', 'chancery_anchor_lag_entries'].includes(name))) {
      expect(text, metric).toMatch(new RegExp(`^${metric}(\\{.*\\})? `, 'm'))
    }
    expect(text).not.toMatch(/^chancery_alarm\{/m)
    expect(text).toMatch(/^chancery_agent_restarts_total 0$/m)
    expect(text).toMatch(/^chancery_log_guard_size\{log="ct"\} \d+$/m)
  })

  test('a status screen fits 80 columns', async () => {
    const { stdout } = await chancery('status', '--data', data)
    expect(stdout.split('\n').filter((line) => line.length > 80)).toEqual([])
  })

  test('init refuses the folder, a second server is refused', async () => {
    expect(await chancery('init', '--data', data, '--ports', 'auto')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('holds an installation already') as string,
    })
    const second = await chancery('serve', '--data', data)
    expect(second.code).not.toBe(0)
    expect(second.stderr + second.stdout).toMatch(/a server runs on .* already/)
    expect((await post(entry())).status).toBe(201)
  })

  test('with the token away it answers 503 with Retry-After, reads on, says so, and heals by itself', async () => {
    const logged = await post(entry())
    const location = logged.headers.get('location') ?? ''
    expect(logged.status).toBe(201)
    const tokens = join(data, 'hsm/tokens')
    renameSync(tokens, `${tokens}.away`)
    const lost = entry()
    try {
      const refused = await post(lost)
      expect(refused.status).toBe(503)
      expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
      const stamp = await fetch(`${endpoints.tsa}/api/v1/timestamp`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ artifactHash: randomBytes(32).toString('base64'), hashAlgorithm: 'sha256' }),
      })
      expect(stamp.status).toBe(503)
      expect((await fetch(endpoints.rekorV1 + location)).status).toBe(200)
      expect((await fetch(`${endpoints.tuf}/timestamp.json`)).status).toBe(200)
      const { status, body } = await readiness()
      expect(status).toBe(200)
      expect(body.services['rekor-v1']).toMatchObject({ ready: false })
      expect(body.services['trust-root']).toMatchObject({ ready: true })
      const absent = /^chancery_alarm\{code="token_absent",subject="online",severity="page"\} 1$/m
      await until(async () => absent.test(await (await fetch(`${endpoints.metrics}/metrics`)).text()))
      const screen = await chancery('status', '--data', data)
      expect(screen.code).toBe(1)
      expect(screen.stdout.split('\n')[1]).toMatch(/^ALARM token_absent {2}online {2}page {2}for /)
    } finally {
      renameSync(`${tokens}.away`, tokens)
    }
    await until(async () => (await readiness()).body.services['rekor-v1']?.ready === true)
    // The reply was lost with the token, so the same request again is a retry and no conflict.
    expect((await post(lost)).status).toBe(201)
    expect((await post(lost)).status).toBe(409)
  })

  test('without a trust root that clients could use it is not ready, and is again when there is one', async () => {
    const repository = join(data, 'trust-root/repository')
    renameSync(repository, `${repository}.away`)
    try {
      const { status, body } = await readiness()
      expect(status).toBe(503)
      expect(body.services['trust-root']).toMatchObject({ ready: false })
      expect(body.services['rekor-v1']).toMatchObject({ ready: true })
    } finally {
      renameSync(`${repository}.away`, repository)
    }
    expect((await readiness()).status).toBe(200)
  })

  test('a stop finishes what was accepted, and the next start has it', async () => {
    const bodies = Array.from({ length: 16 }, entry)
    const answers = Promise.allSettled(bodies.map(post))
    // In flight once the server has taken their connections; any that it never took is refused, which is as good.
    await new Promise((resolve) => setTimeout(resolve, 15))
    const code = await stop()
    const outcomes = await answers
    expect(code).toBe(0)
    await start()
    const acknowledged = outcomes.flatMap((outcome) =>
      outcome.status === 'fulfilled' && outcome.value.status === 201
        ? [outcome.value.headers.get('location') ?? '']
        : [],
    )
    expect(acknowledged.length).toBeGreaterThan(0)
    for (const location of acknowledged) expect((await fetch(endpoints.rekorV1 + location)).status).toBe(200)
  })
})

describe('with certificates in its configuration', () => {
  test('every listener speaks TLS, and none of them plain HTTP', async () => {
    await stop()
    const certFile = join(folder, 'tls.pem')
    const keyFile = join(folder, 'tls.key')
    const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1']
    await run('openssl', [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-keyout',
      keyFile,
      '-out',
      certFile,
      ...subject,
    ])
    const file = join(data, 'chancery.yaml')
    const plain = readFileSync(file, 'utf8')
    const configuration = parse(plain) as Record<string, unknown> & { logs: Record<string, unknown>[] }
    const services = [
      configuration['metrics'],
      configuration['ca'],
      configuration['timestamp'],
      configuration['trustRoot'],
      ...configuration.logs,
    ] as Record<string, unknown>[]
    for (const service of services) service['tls'] = { certFile, keyFile }
    writeFileSync(file, stringify(configuration))
    await start()
    try {
      for (const service of services) {
        const at = String(service['listen'])
        expect(await statusOverTls(at, readFileSync(certFile, 'utf8'))).toBe(404)
        await expect(fetch(`http://${at}/none`)).rejects.toThrow('fetch failed')
      }
    } finally {
      await stop()
      writeFileSync(file, plain)
    }
  })

  async function statusOverTls(at: string, ca: string): Promise<number | undefined> {
    return await new Promise((resolve, reject) => {
      const outgoing = request(`https://${at}/none`, { ca, minVersion: 'TLSv1.2' }, (incoming) => {
        incoming.resume()
        resolve(incoming.statusCode)
      })
      outgoing.once('error', reject)
      outgoing.end()
    })
  }
})

describe('a server that is not running', () => {
  test('status says so with its own exit status, and --check finds the installation sound', async () => {
    await stop()
    expect(await chancery('status', '--data', data)).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('chancery serve') as string,
    })
    expect(await chancery('serve', '--data', data, '--check')).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('is sound') as string,
    })
  })

  test('the production profile refuses a software token and all that is for development, and names each', async () => {
    const file = join(data, 'chancery.yaml')
    const text = readFileSync(file, 'utf8')
    writeFileSync(file, text.replace('profile: development', 'profile: production'))
    const { code, stderr, stdout } = await chancery('serve', '--data', data, '--check')
    writeFileSync(file, text)
    expect(code).toBe(2)
    for (const fault of ['software token', 'developmentIssuer', 'agent.spawn', 'rootAgent', 'timeSource', 'plain HTTP'])
      expect(stderr + stdout).toContain(fault)
  })
})
