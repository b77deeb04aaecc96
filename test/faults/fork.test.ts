/**
 * No fork, from any side: databases that are old, exchanged, deleted or written by others, also under a running server;
 * two servers, two agents, copies. Each is refused loudly: by code, with what was found and what to do, and within a
 * second of its cause, or of the start that met it. The times are printed; what is asserted is longer, for slow machines.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { EXIT } from '#alarms'
import { requestOf } from '../crash/requests.ts'
import { initialise, ownEnvironment, projectFolder, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { keepPlaces } from '../support/moved-state.ts'
import { LONG } from './loaded-stack.ts'

/** The issue says a second; a machine whose cores are all taken gets more. */
const LOUD_WITHIN_MS = 3_000

const scratch = mkdtempSync(join(tmpdir(), 'chancery-fork-'))
const dataDir = join(scratch, 'data')
const older = join(scratch, 'older')
const told: string[] = []
let stack: Stack | undefined
let others: ChildProcess[] = []

beforeAll(async () => {
  await initialise(dataDir)
  stack = await serve(dataDir)
  expect([await post('one'), await post('one', 'v2')]).toEqual([201, 201])
  await stack.stop()
  cpSync(dataDir, older, { recursive: true })
  rmSync(join(older, 'run'), { recursive: true })
})

/** Every test begins with the same installation, some entries newer than its copy in `older`. */
async function installed(): Promise<Stack> {
  rmSync(dataDir, { recursive: true, force: true })
  cpSync(older, dataDir, { recursive: true })
  keepPlaces(dataDir)
  mkdirSync(join(dataDir, 'run'), { mode: 0o700 })
  stack = await serve(dataDir)
  expect([await post('two'), await post('two', 'v2')]).toEqual([201, 201])
  return stack
}

afterEach(async () => {
  for (const other of others) other.kill('SIGKILL')
  others = []
  await stack?.stop().catch(() => stack?.server.kill('SIGKILL'))
  stack = undefined
})

afterAll(() => {
  console.log(told.join('\n'))
  rmSync(scratch, { recursive: true, force: true })
})

const database = join(dataDir, 'logs/rekor-v1.db')

describe('under a running server', () => {
  const toDatabase: readonly [string, () => void][] = [
    [
      'an older copy is moved over the database',
      () => {
        copyFileSync(join(older, 'logs/rekor-v1.db'), `${database}.new`)
        renameSync(`${database}.new`, database)
      },
    ],
    [
      'an older copy is written into the database',
      () => writeFileSync(database, readFileSync(join(older, 'logs/rekor-v1.db'))),
    ],
    ['the database is deleted', () => rmSync(database)],
    ['the write-ahead log is deleted', () => rmSync(`${database}-wal`)],
    ['the folder is moved away', () => renameSync(join(dataDir, 'logs'), join(dataDir, 'logs-elsewhere'))],
  ]
  test.each(LONG ? toDatabase : toDatabase.slice(0, 3))(
    '%s: read-only at once, nothing more is acknowledged',
    async (cause, act) => {
      const { endpoints } = await installed()
      act()
      await loud('store_replaced', cause)
      expect(await post('four')).toBe(503)
      // What was sealed is in memory and in the open file: readers lose nothing.
      expect((await fetch(`${endpoints.rekorV1}/api/v1/log`)).status).toBe(200)
      expect((await runChancery(['status', '--data', dataDir])).text).toMatch(/Nothing is written any more/)
      expect(await post('other log', 'v2')).toBe(cause === 'the folder is moved away' ? 503 : 201)
    },
  )

  const toState: readonly [string, (state: string) => void][] = [
    ["the agent's state is deleted", (state) => rmSync(state)],
    [
      "an older copy is moved over the agent's state",
      (state) => {
        copyFileSync(join(older, 'agent/online/state.db'), `${state}.new`)
        renameSync(`${state}.new`, state)
      },
    ],
    [
      "an older copy is written into the agent's state",
      (state) => writeFileSync(state, readFileSync(join(older, 'agent/online/state.db'))),
    ],
  ]
  test.each(LONG ? toState : toState.slice(0, 1))(
    '%s: nothing is signed any more, by no service',
    async (cause, act) => {
      await installed()
      act(join(dataDir, 'agent/online/state.db'))
      await loud('state_replaced', cause)
      expect(await Promise.all([post('four'), post('four', 'v2')])).toEqual([503, 503])
    },
  )
})

describe('at the start', () => {
  test('an old backup of a database', async () => {
    await (await installed()).stop()
    for (const name of readdirSync(join(dataDir, 'logs'))) rmSync(join(dataDir, 'logs', name))
    cpSync(join(older, 'logs'), join(dataDir, 'logs'), { recursive: true })
    stack = await serve(dataDir)
    await loud('fork_refused', 'an old backup of the databases, from the end of the start')
    expect(await Promise.all([post('four'), post('four', 'v2')])).toEqual([503, 503])
  })

  test("an old copy of the agent's state under newer databases", async () => {
    await (await installed()).stop()
    rmSync(join(dataDir, 'agent/online'), { recursive: true })
    cpSync(join(older, 'agent/online'), join(dataDir, 'agent/online'), { recursive: true })
    await refused('state_copied', "a copy of the agent's state")
    keepPlaces(dataDir)
    stack = await serve(dataDir)
    await loud('guard_behind', 'an older state of the agent that is no copy, from the end of the start')
    expect(await post('four')).toBe(503)
  })

  // What comes of it is told in log-commands.test.ts, and of the two after it in the crash tier.
  if (LONG)
    test("the agent's state is lost", async () => {
      await (await installed()).stop()
      rmSync(join(dataDir, 'agent/online'), { recursive: true })
      stack = await serve(dataDir)
      await loud('guard_behind', "the agent's state is lost, from the end of the start")
      expect(await post('four')).toBe(503)
    })

  if (LONG)
    test('a second server on the folder', async () => {
      await installed()
      await refused('store_in_use', 'two servers on one folder')
      expect(await post('four')).toBe(201)
    })

  if (LONG)
    test('a second agent on the state', async () => {
      await installed()
      const startedMs = performance.now()
      const agent = spawn(
        process.execPath,
        [join(projectFolder, 'hsm/agent.ts'), '--inherited', '--config', join(dataDir, 'agent/online.yaml')],
        { env: {}, stdio: ['ignore', 'ignore', 'pipe', 'pipe'] },
      )
      others.push(agent)
      const said: Buffer[] = []
      agent.stderr?.on('data', (chunk: Buffer) => said.push(chunk))
      expect(await new Promise((resolve) => agent.once('close', resolve))).toBe(EXIT.locked)
      within('two agents on one state, with the start of the agent', performance.now() - startedMs)
      expect(Buffer.concat(said).toString()).toMatch(/another agent uses the state folder .* \(process \d+\)/)
      expect(await post('four')).toBe(201)
    })

  test('a copied folder, the state of its agent copied too; adopted once the original is gone', async () => {
    await installed()
    const copy = join(scratch, 'copy')
    await stack?.stop()
    cpSync(dataDir, copy, { recursive: true })
    renameTokens(dataDir, copy)
    stack = await serve(dataDir)
    const text = await refused('state_copied', 'data folder and state of the agent copied', copy)
    await stack.stop()
    const [, instance = ''] = /--confirm ([0-9a-f]{16})/.exec(text) ?? []
    const adopt = (...more: string[]) => runChancery(['agent', 'adopt', '--data', copy, ...more])
    expect((await adopt()).status).toBe(EXIT.approval)
    expect((await adopt('--confirm', '0123456789abcdef')).status).toBe(EXIT.approval)
    expect(await adopt('--confirm', instance)).toMatchObject({ status: 0 })
    stack = await serve(copy)
    expect(await post('four')).toBe(201)
  })

  test('a copied data folder at the agent of the original, while that runs and after it has ended', async () => {
    await (await installed()).stop()
    stack = undefined
    const socket = join(dataDir, 'run/agent.sock')
    edit(join(dataDir, 'agent/online.yaml'), (config) => ({ ...config, sockets: { signing: socket } }))
    edit(join(dataDir, 'chancery.yaml'), (config) => ({ ...config, agent: { socket } }))
    others.push(
      spawn(process.execPath, [join(projectFolder, 'hsm/agent.ts'), '--config', join(dataDir, 'agent/online.yaml')], {
        env: ownEnvironment(),
        stdio: 'ignore',
      }),
    )
    while (!existsSync(socket)) await delay(20)
    const copy = join(scratch, 'second')
    cpSync(dataDir, copy, { recursive: true, filter: (path) => !path.includes('/run/') })
    stack = await serve(dataDir)
    expect(await post('four')).toBe(201)
    await refused('origin_in_use', 'a copied data folder at the same agent', copy)
    expect(await post('five')).toBe(201)
    await stack.stop()
    stack = await serve(copy)
    await loud('fork_refused', 'the older copy alone, from the end of the start')
    expect(await post('six')).toBe(503)
  })
})

/** A copy's configuration names tokens in the original's folder. */
function renameTokens(from: string, to: string): void {
  for (const name of ['hsm/softhsm2.conf']) {
    const file = join(to, name)
    if (existsSync(file)) writeFileSync(file, readFileSync(file, 'utf8').replaceAll(from, to))
  }
  for (const name of readdirSync(join(to, 'agent')).filter((file) => file.endsWith('.yaml'))) {
    const file = join(to, 'agent', name)
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll(from, to))
  }
}

function edit(file: string, change: (config: Record<string, unknown>) => unknown): void {
  writeFileSync(file, stringify(change(parse(readFileSync(file, 'utf8')) as Record<string, unknown>)))
}

async function post(message: string, use: 'v1' | 'v2' = 'v1'): Promise<number> {
  const { endpoints } = stack ?? {}
  const url = use === 'v1' ? `${endpoints?.rekorV1}/api/v1/log/entries` : `${endpoints?.rekorV2}/api/v2/log/entries`
  const { sent } = requestOf(use, `${message} ${Math.random()}`)
  const answer = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: sent })
  if (answer.status === 503) expect(answer.headers.get('retry-after')).not.toBeNull()
  return answer.status
}

/** Waits for the alarm in the server's log: code, what was found, where the runbook tells more. */
async function loud(code: string, cause: string): Promise<void> {
  const beganMs = performance.now()
  const file = join(stack?.dataDir ?? '', 'serve.log')
  const found = () =>
    readFileSync(file, 'utf8')
      .split('\n')
      .find((line) => line.includes(`"alarm":"${code}"`) && line.includes(`docs/runbook.md#${code}`))
  while (found() === undefined && performance.now() - beganMs < 10_000) await delay(10)
  within(`${code}: ${cause}`, performance.now() - beganMs)
  expect(found(), `${code} in the log`).toBeDefined()
}

/** Starts a server that must end, with the code's exit status and its place in the runbook; returns what it said. */
async function refused(code: string, cause: string, folder = dataDir): Promise<string> {
  const startedMs = performance.now()
  const { status, text } = await runChancery(['serve', '--data', folder])
  within(`${code}: ${cause}, with the start of the server`, performance.now() - startedMs)
  expect(text).toContain(`docs/runbook.md#${code}`)
  expect(status).toBe(code === 'state_copied' ? EXIT.integrity : EXIT.locked)
  return text
}

function within(cause: string, tookMs: number): void {
  told.push(`${Math.round(tookMs)} ms  ${cause}`)
  // A command takes about a second to start before it can look at anything.
  expect(tookMs, cause).toBeLessThan(cause.includes('with the start') ? 2 * LOUD_WITHIN_MS : LOUD_WITHIN_MS)
}
