/** `chancery log succeed`: a successor under load, killed at each step, and what clients see of both. */
import { spawn } from 'node:child_process'
import { createHash, verify } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { EXIT } from '#alarms'
import { pinnedKeys } from '../crash/pinned-logs.ts'
import { certificateRequest, requestOf } from '../crash/requests.ts'
import { client } from '../e2e/clients.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, ownEnvironment, projectFolder, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { LONG } from './loaded-stack.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-succeed-'))
const dataDir = join(scratch, 'data')
const EMAIL = 'operator@example.test'
let stack: Stack

beforeAll(async () => {
  await initialise(dataDir)
  stack = await serve(dataDir)
})

afterAll(async () => {
  await stack.stop().catch(() => stack.server.kill('SIGKILL'))
  rmSync(scratch, { recursive: true, force: true })
})

const log = (...words: string[]) => runChancery(['log', ...words, '--data', dataDir])
const originOf = (key: string): string => pinnedKeys(dataDir)[key]?.origin ?? ''

interface V1Entry {
  readonly body: string
  readonly integratedTime: number
  readonly logID: string
  readonly logIndex: number
  readonly verification: {
    readonly signedEntryTimestamp: string
    readonly inclusionProof: { readonly logIndex: number }
  }
}

describe('Rekor v1', () => {
  const sent: { digest: string; uuid: string; entry: V1Entry }[] = []

  async function add(): Promise<number> {
    const { sent: body, digest } = requestOf('v1', `${Math.random()}`)
    const answer = await postTo(`${stack.endpoints.rekorV1}/api/v1/log/entries`, body)
    if (answer.status !== 201) return answer.status
    const [[uuid, entry] = ['', undefined]] = Object.entries((await answer.json()) as Record<string, V1Entry>)
    if (entry !== undefined) sent.push({ digest, uuid, entry })
    return 201
  }

  test('goes on at its address while a successor is put in its place: no request fails, indexes run on', async () => {
    const state = join(scratch, 'rekor-cli')
    mkdirSync(state)
    for (let n = 0; n < 3; n++) expect(await add()).toBe(201)
    const info = () =>
      client('rekor-cli', ['loginfo', '--rekor_server', stack.endpoints.rekorV1], { env: { HOME: state } })
    succeeded(await info())

    expect((await log('succeed', 'rekor-v1')).status).toBe(EXIT.approval)
    expect(succeeded(await log('succeed', 'rekor-v1', '--dry-run')).stdout).toContain('rekor-v1-3 takes its place')
    const origin = originOf('rekor-v1')
    const running = new AbortController()
    const statuses: number[] = []
    const load = Promise.all(
      Array.from({ length: 4 }, async () => {
        while (!running.signal.aborted) statuses.push(await add())
      }),
    )
    const said = succeeded(await log('succeed', 'rekor-v1', '--confirm', origin))
    await delay(300)
    running.abort()
    await load
    expect(said.stdout).toMatch(/^log rekor-v1 has ended at \d+ entries\nlog rekor-v1-3 takes entries/)
    expect(new Set(statuses)).toEqual(new Set([201]))

    const { inactiveShards, treeID, treeSize } = (await getJson(`${stack.endpoints.rekorV1}/api/v1/log`)) as {
      inactiveShards: { treeID: string; treeSize: number }[]
      treeID: string
      treeSize: number
    }
    expect(inactiveShards.map((shard) => origin.endsWith(shard.treeID))).toEqual([true])
    expect(originOf('rekor-v1-3').endsWith(` - ${treeID}`)).toBe(true)
    // The server's own signatures of its publications are among them.
    const total = (inactiveShards[0]?.treeSize ?? 0) + treeSize
    expect(treeSize).toBeGreaterThan(0)
    expect(total).toBeGreaterThanOrEqual(sent.length)
    expect(new Set(sent.map(({ entry }) => entry.logIndex)).size).toBe(sent.length)
    expect(Math.max(...sent.map(({ entry }) => entry.logIndex))).toBeLessThan(total)
    succeeded(await info())
    await everythingIsThere()
  })

  test('serves both shards after a restart; the former one takes nothing, and cannot be succeeded again', async () => {
    await stack.stop()
    stack = await serve(dataDir)
    expect(await add()).toBe(201)
    await everythingIsThere()
    const reports = JSON.parse(
      succeeded(await log('fsck', 'rekor-v1', 'rekor-v1-3', '--signatures', 'all', '--json')).stdout,
    )
    expect(reports).toMatchObject([{ damaged: 0 }, { damaged: 0 }])
    const states = JSON.parse(succeeded(await log('ls', '--json')).stdout) as { name: string; state: string }[]
    expect(states.filter(({ name }) => name.startsWith('rekor-v1')).map(({ state }) => state)).toEqual([
      'frozen',
      'active',
    ])
    const again = await log('succeed', 'rekor-v1', '--confirm', originOf('rekor-v1'))
    expect([again.status, again.text]).toEqual([EXIT.policy, expect.stringContaining('#log_frozen')])
  })

  test('a log that lost entries has a successor that gives none of their indexes out again', async () => {
    const database = join(dataDir, 'logs/rekor-v1-3.db')
    await stack.stop()
    cpSync(database, join(scratch, 'older.db'))
    stack = await serve(dataDir)
    expect([await add(), await add()]).toEqual([201, 201])
    await stack.stop()
    cpSync(join(scratch, 'older.db'), database)
    const lost = sent.splice(-2).map(({ entry }) => entry.logIndex)
    stack = await serve(dataDir)
    expect(await add()).toBe(503)
    const said = succeeded(await log('succeed', 'rekor-v1-3', '--confirm', originOf('rekor-v1-3')))
    expect(said.stdout).toContain('without a last head')
    expect([await add(), await add()]).toEqual([201, 201])
    for (const { entry } of sent.slice(-2)) expect(entry.logIndex).toBeGreaterThan(Math.max(...lost))
    await everythingIsThere()
    for (const index of lost)
      expect((await fetch(`${stack.endpoints.rekorV1}/api/v1/log/entries?logIndex=${index}`)).status).toBe(404)
    expect(succeeded(await log('fsck', '--all')).stdout).not.toMatch(/FAULTS/)
    const lastAlarm = () =>
      readFileSync(join(dataDir, 'serve.log'), 'utf8')
        .split('\n')
        .findLast((line) => line.includes('"alarm":"fork_refused"'))
    await expect.poll(lastAlarm, { timeout: 30_000 }).toContain('alarm is over')
  })

  /** Each entry by id, by index and by search, with a SET of its own shard's key. */
  async function everythingIsThere(): Promise<void> {
    const { rekorV1 } = stack.endpoints
    const keys = Object.values(pinnedKeys(dataDir)).map(({ spkiDer }) => spkiDer)
    for (const { digest, uuid, entry } of sent.filter((_, at) => at < 4 || at > sent.length - 6 || at % 10 === 0)) {
      const byIndex = (await getJson(`${rekorV1}/api/v1/log/entries?logIndex=${entry.logIndex}`)) as Record<
        string,
        V1Entry
      >
      const byId = (await getJson(`${rekorV1}/api/v1/log/entries/${uuid}`)) as Record<string, V1Entry>
      const bare = (await getJson(`${rekorV1}/api/v1/log/entries/${uuid.slice(16)}`)) as Record<string, V1Entry>
      for (const found of [byIndex, byId, bare]) expect(found[uuid]?.logIndex, uuid).toBe(entry.logIndex)
      const search = await postTo(`${rekorV1}/api/v1/index/retrieve`, JSON.stringify({ hash: `sha256:${digest}` }))
      expect(await search.json()).toEqual([uuid])
      const { body, integratedTime, logID, logIndex, verification } = entry
      const key = keys.find((spki) => createHash('sha256').update(spki).digest('hex') === logID)
      const set = Buffer.from(verification.signedEntryTimestamp, 'base64')
      const signed = Buffer.from(JSON.stringify({ body, integratedTime, logID, logIndex }))
      expect(verify('sha256', signed, { key: key ?? Buffer.alloc(0), format: 'der', type: 'spki' }, set)).toBe(true)
      const tree = BigInt(`0x${uuid.slice(0, 16)}`)
      expect((await fetch(`${rekorV1}/api/v1/tiles/${tree}/checkpoint`)).status).toBe(200)
      expect((await fetch(`${rekorV1}/api/v1/log/publicKey?treeID=${tree}`)).status).toBe(200)
    }
  }
})

describe('Rekor v2', () => {
  test('is published first, then switched; the former log is frozen, and its address passes uploads on', async () => {
    const former = stack.endpoints.rekorV2
    const add = async (url: string) =>
      await postTo(`${url}/api/v2/log/entries`, requestOf('v2', `${Math.random()}`).sent)
    const passedOn = async () => {
      const reply = await add(former)
      expect(reply.status).toBe(201)
      const { inclusionProof } = (await reply.json()) as { inclusionProof: { checkpoint: { envelope: string } } }
      expect(inclusionProof.checkpoint.envelope.split('\n')[0]).toBe('rekor-v2-3.chancery.internal')
    }
    expect((await add(former)).status).toBe(201)
    const published = succeeded(await log('succeed', 'rekor-v2', '--publish-only'))
    expect(published.stdout).toContain('the key of rekor-v2-3 (rekor-v2-3.chancery.internal) is published')
    expect((await add(former)).status).toBe(201)
    expect(hostsOfTlogs()).toContain('http://rekor-v2-3.chancery.internal')
    succeeded(await log('succeed', 'rekor-v2', '--confirm', originOf('rekor-v2')))
    const { rekorV2 } = JSON.parse(readFileSync(join(dataDir, 'run/endpoints.json'), 'utf8')) as { rekorV2: string }
    expect(rekorV2).not.toBe(former)
    expect((await add(rekorV2)).status).toBe(201)
    await passedOn()
    expect(await (await fetch(`${former}/checkpoint`)).text()).toContain('Log frozen')
    expect((await (await fetch(`${rekorV2}/checkpoint`)).text()).split('\n')[0]).toBe('rekor-v2-3.chancery.internal')
    const served = join(dataDir, 'trust-root/repository')
    const config = JSON.parse(readFileSync(join(served, 'signing_config_rekor_v2.v0.2.json'), 'utf8')) as {
      rekorTlogUrls: { url: string }[]
    }
    expect(config.rekorTlogUrls.map(({ url }) => url)).toEqual([rekorV2])
    await stack.stop()
    stack = await serve(dataDir)
    expect((await add(rekorV2)).status).toBe(201)
    await passedOn()
  })

  const STEPS = ['plan', 'key', 'agent', 'publish', 'wait', 'switch', 'end'] as const
  test.each(LONG ? STEPS : (['key', 'switch'] as const))(
    'killed at the step %s and called again, there is exactly one active shard',
    async (step) => {
      const [active = ''] = activeNames('rekor-v2')
      await killedAt(step, active)
      if (step === 'switch') {
        // The server too, in the middle of it.
        stack.server.kill('SIGKILL')
        await stack.ended
        stack = await serve(dataDir)
      }
      const before = activeNames('rekor-v2')
      expect(before.length).toBeLessThanOrEqual(2)
      succeeded(await log('succeed', active, '--confirm', originOf(active)))
      const lines = JSON.parse(succeeded(await log('ls', '--json')).stdout) as {
        name: string
        kind: string
        state: string
      }[]
      expect(lines.filter(({ kind, state }) => kind === 'rekor-v2' && state === 'active')).toHaveLength(1)
      expect(lines.find(({ name }) => name === active)?.state).toBe('frozen')
      expect(existsSync(join(dataDir, 'lifecycle/succession.json'))).toBe(false)
      succeeded(await log('fsck', '--all'))
    },
  )
})

describe('CT', () => {
  test('has a successor without a restart, and certificates carry its promise', async () => {
    const token = succeeded(await runChancery(['dev', 'token', '--data', dataDir, '--email', EMAIL])).stdout.trim()
    const issue = async (): Promise<number> => {
      const { sent } = certificateRequest({ token, email: EMAIL })
      return (await postTo(`${stack.endpoints.ca}/api/v2/signingCert`, sent)).status
    }
    expect(await issue()).toBe(200)
    succeeded(await log('succeed', 'ct', '--confirm', originOf('ct')))
    expect(await issue()).toBe(200)
    expect(JSON.parse(succeeded(await log('show', 'ct-3', '--json')).stdout)).toMatchObject({ state: 'active' })
    expect(JSON.parse(succeeded(await log('show', 'ct', '--json')).stdout)).toMatchObject({ state: 'frozen' })
    await stack.stop()
    stack = await serve(dataDir)
    expect(await issue()).toBe(200)
  })
})

/** Runs the command until it tells this step, and kills it there. */
async function killedAt(step: string, name: string): Promise<void> {
  const words = ['log', 'succeed', name, '--data', dataDir, '--confirm', originOf(name)]
  // Not through a shell, whose child would live on.
  const child = spawn(process.execPath, [join(projectFolder, 'cli/main.ts'), ...words], {
    env: ownEnvironment(),
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  for await (const line of createInterface({ input: child.stderr })) {
    if (line.trim() === step) child.kill('SIGKILL')
  }
}

/** Logs of the configuration without a successor. */
function activeNames(kind: string): string[] {
  const { logs } = parse(readFileSync(join(dataDir, 'chancery.yaml'), 'utf8')) as {
    logs: { name: string; kind: string; succeeds?: string }[]
  }
  const former = new Set(logs.map(({ succeeds }) => succeeds))
  return logs.filter((found) => found.kind === kind && !former.has(found.name)).map(({ name }) => name)
}

function hostsOfTlogs(): string[] {
  const file = join(dataDir, 'trust-root/repository/trusted_root.json')
  return (JSON.parse(readFileSync(file, 'utf8')) as { tlogs: { baseUrl: string }[] }).tlogs.map(
    ({ baseUrl }) => baseUrl,
  )
}

async function postTo(url: string, body: string): Promise<Response> {
  return await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
}

async function getJson(url: string): Promise<unknown> {
  const answer = await fetch(url)
  expect(answer.status, url).toBe(200)
  return await answer.json()
}
