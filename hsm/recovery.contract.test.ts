/** What the agent survives and what it remembers: kills, losses, forks, wrong PINs, rivals; on SoftHSM. */
import { execFile } from 'node:child_process'
import { createPublicKey, verify } from 'node:crypto'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import Database from 'better-sqlite3'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { openAgentState } from './agent-state.ts'
import {
  buildFaultShim,
  copyOf,
  install,
  need,
  ORIGIN,
  setRequest,
  treeOf,
  tufPayload,
  type Installation,
} from './agent.fixture.ts'
import { connectAdminAgent, connectAgent } from './client.ts'
import { HsmError, type SigningAgent } from './signing.ts'

const CKR_DEVICE_REMOVED = 0x32
const CKR_SESSION_HANDLE_INVALID = 0xb3
const CKR_OBJECT_HANDLE_INVALID = 0x82
const CKR_GENERAL_ERROR = 0x5
const CKR_SESSION_COUNT = 0xb1

let template: Installation
let installation: Installation
const running: { close(): Promise<void> }[] = []

beforeAll(async () => {
  template = await install()
})

afterAll(() => template.remove())

beforeEach(() => {
  installation = copyOf(template)
})

afterEach(async () => {
  for (const one of running.splice(0)) await one.close()
  installation.remove()
})

async function start(options: Parameters<Installation['start']>[0] = {}) {
  const spawned = await installation.start(options)
  running.push(spawned)
  return spawned
}

async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    if (error instanceof HsmError) return `${error.code} ${error.reason}`
    throw error
  }
  return 'signed'
}

/** Asks until it is answered with anything but `unavailable`. */
async function eventually<T>(ask: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await ask()
    } catch (error) {
      if (!(error instanceof HsmError && error.retriable) || attempt > 200) throw error
      await new Promise((resolve) => setTimeout(resolve, 25))
    }
  }
}

const tree = treeOf(40)

function head(size: number, from: number, changes: { rootHash?: Uint8Array; proof?: readonly Uint8Array[] } = {}) {
  const consistencyProof = changes.proof ?? (from === 0 || from >= size ? [] : tree.consistencyProof(from, size))
  const rootHash = changes.rootHash ?? tree.root(size)
  return { key: 'rekor-v2', origin: ORIGIN['rekor-v2'], size, rootHash, timestampMs: Date.now(), consistencyProof }
}

describe('the guard', () => {
  test('holds over a kill and lets the same head be signed again', async () => {
    const { agent, child } = await start()
    await agent.treeHead(head(7, 0))
    await agent.treeHead(head(20, 7))
    process.kill(need(child.pid), 'SIGKILL')
    const guarded = await eventually(() => agent.guardedHead({ key: 'rekor-v2', origin: ORIGIN['rekor-v2'] }))
    expect(guarded).toEqual({ size: 20, rootHash: tree.root(20) })
    expect((await agent.treeHead(head(20, 20))).note).toContain('\n20\n')
    expect((await agent.treeHead(head(40, 20))).note).toContain('\n40\n')
  })

  test.each([
    ['another root of the same size', () => head(20, 20, { rootHash: treeOf(21).root(19) })],
    ['a smaller size', () => head(7, 7)],
    ['a missing proof', () => head(30, 20, { proof: [] })],
    ['a proof from another size', () => head(30, 19)],
    ['a proof with one hash too many', () => head(30, 20, { proof: [...tree.consistencyProof(20, 30), tree.root(1)] })],
    ['an old database: size 0', () => head(0, 0, { rootHash: treeOf(0).root() })],
  ])('latches on %s until an operator lifts it', async (_, fork) => {
    const { agent, admin, child } = await start()
    await agent.treeHead(head(20, 0))
    expect(await refusal(agent.treeHead(fork()))).toBe('latched fork_refused')
    expect(await refusal(agent.treeHead(head(30, 20)))).toBe('latched fork_refused')
    process.kill(need(child.pid), 'SIGKILL')
    await eventually(() => agent.status())
    expect(await refusal(eventually(() => agent.treeHead(head(30, 20))))).toBe('latched fork_refused')
    const { guards } = await agent.status()
    expect(guards).toMatchObject([
      { origin: ORIGIN['rekor-v2'], size: 20, latched: expect.stringMatching(/^asked to sign/) },
    ])
    await admin.unlatch({ latch: `origin:${ORIGIN['rekor-v2']}` })
    expect(await refusal(agent.treeHead(head(30, 20)))).toBe('signed')
  })

  test('belongs to one origin and one key', async () => {
    const { agent } = await start()
    expect(await refusal(agent.treeHead({ ...head(7, 0), origin: 'other.test' }))).toBe('refused wrong_origin')
    expect(await refusal(agent.treeHead({ ...head(7, 0), key: 'rekor-v1' }))).toBe('refused wrong_origin')
    expect(await refusal(agent.guardedHead({ key: 'rekor-v2', origin: ORIGIN.ct }))).toBe('refused wrong_origin')
  })
})

describe('the account', () => {
  test('has every use, chained, and TUF versions outlive the process', async () => {
    const first = await start()
    await Promise.all(Array.from({ length: 20 }, () => first.agent.set(setRequest())))
    await first.agent.tuf({ key: 'tuf-online', role: 'timestamp', payload: tufPayload({ version: 5 }) })
    const { keys } = await first.agent.status()
    const uses = Object.fromEntries(keys.map((key) => [key.name, key.uses]))
    await first.close()
    const state = await openAgentState(installation.stateFolder, { waitMs: 0 })
    state.verifyAccount()
    const rows = state.accountRows()
    const counted = (key: string) => rows.filter((row) => row.key === key).reduce((sum, row) => sum + row.count, 0)
    expect(rows.filter((row) => row.act === 'set').reduce((sum, row) => sum + row.count, 0)).toBe(20)
    for (const name of ['rekor-v1', 'tuf-online', 'root-ca']) expect(uses[name]).toBe(counted(name))
    state.close()
    const second = await start()
    const older = tufPayload({ version: 4 })
    expect(await refusal(second.agent.tuf({ key: 'tuf-online', role: 'timestamp', payload: older }))).toBe(
      'refused version_steps_back',
    )
  })

  test('that was changed is noticed', async () => {
    const { agent, close } = await start()
    await agent.set(setRequest())
    await close()
    const db = new Database(join(installation.stateFolder, 'state.db'))
    db.prepare("UPDATE account SET count = count + 1 WHERE act = 'set'").run()
    db.close()
    await expect(installation.start()).rejects.toThrow(/account of key uses does not chain/)
  })

  test('of a newer agent is left alone', async () => {
    const db = new Database(join(installation.stateFolder, 'state.db'))
    db.pragma('user_version = 99')
    db.close()
    await expect(installation.start()).rejects.toThrow(/has schema 99/)
  })
})

test('a second agent on the same state is refused', async () => {
  const { agent } = await start()
  await expect(installation.start()).rejects.toThrow(/another agent uses the state folder/)
  expect((await agent.status()).ready).toBe(true)
})

describe('the PIN', () => {
  test('is tried once if it is wrong, and then not by a restart either', async () => {
    const shim = buildFaultShim(installation)
    installation.configure({ modulePath: shim.modulePath })
    const right = readFileSync(installation.pinFile, 'utf8')
    writeFileSync(installation.pinFile, 'not-the-pin\n')
    const first = await start()
    await Promise.all(
      Array.from({ length: 30 }, async () => {
        expect(await refusal(first.agent.set(setRequest()))).toBe('latched token_latched')
      }),
    )
    process.kill(need(first.child.pid), 'SIGKILL')
    await eventually(() => first.agent.status())
    expect(await refusal(eventually(() => first.agent.set(setRequest())))).toBe('latched token_latched')
    await first.close()
    const second = await start()
    expect(await second.agent.status()).toMatchObject({ ready: false, reason: expect.stringContaining('PIN') })
    expect(shim.calls().filter((call) => call === 'C_Login')).toHaveLength(1)
    writeFileSync(installation.pinFile, right)
    await second.admin.unlatch({ latch: 'token:online' })
    expect(await refusal(second.agent.set(setRequest()))).toBe('signed')
    expect(shim.calls().filter((call) => call === 'C_Login')).toHaveLength(2)
  })

  test.each([0o640, 0o604, 0o644])('in a file of mode %o is not read', async (mode) => {
    const shim = buildFaultShim(installation)
    installation.configure({ modulePath: shim.modulePath })
    chmodSync(installation.pinFile, mode)
    const { agent } = await start()
    expect(await refusal(agent.set(setRequest()))).toBe('unavailable pin_file_mode')
    expect(shim.calls()).toEqual([])
  })

  test('is in no argument, environment or log line', async () => {
    const lines: string[] = []
    const write = (...parts: unknown[]) => void lines.push(JSON.stringify(parts))
    const { agent, child } = await start({ logger: { info: write, warn: write, error: write } as never })
    await agent.set(setRequest())
    const pin = readFileSync(installation.pinFile, 'utf8').trim()
    expect(readFileSync(`/proc/${need(child.pid)}/cmdline`, 'utf8')).not.toContain(pin)
    expect(lines.length).toBeGreaterThan(0)
    expect(lines.join('\n')).not.toContain(pin)
  })
})

describe('a token that fails', () => {
  test.each([
    ['is removed', CKR_DEVICE_REMOVED, 3],
    ['ends its sessions', CKR_SESSION_HANDLE_INVALID, 1],
    ['was logged out', CKR_OBJECT_HANDLE_INVALID, 2],
    ['has one error', CKR_GENERAL_ERROR, 1],
  ])('%s: every request is answered with a signature that holds', async (_, rv, times) => {
    const shim = buildFaultShim(installation)
    installation.configure({ modulePath: shim.modulePath })
    const { agent } = await start()
    const { spkiDer } = await agent.key('tuf-online')
    const publicKey = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
    const payload = tufPayload({ version: 3 })
    shim.fail('sign', times, rv)
    const ask = () => agent.tuf({ key: 'tuf-online', role: 'timestamp', payload })
    const signatures = await Promise.all(Array.from({ length: 50 }, ask))
    for (const signature of signatures) expect(verify('sha256', payload, publicKey, signature)).toBe(true)
    expect(shim.calls().filter((call) => call === 'C_Sign error').length).toBe(times)
  })

  test('gives a wrong signature: it is never released', async () => {
    const shim = buildFaultShim(installation)
    installation.configure({ modulePath: shim.modulePath })
    const errors: string[] = []
    const note = (...parts: unknown[]) => void errors.push(JSON.stringify(parts))
    const { agent } = await start({ logger: { info: () => undefined, warn: () => undefined, error: note } as never })
    shim.fail('corrupt', 1000)
    expect(await refusal(agent.set(setRequest()))).toBe('unavailable signature_did_not_verify')
    expect(errors.join('\n')).toContain('ALARM')
    shim.fail('corrupt', 0)
    expect(await refusal(eventually(() => agent.set(setRequest())))).toBe('signed')
    const before = need((await agent.status()).keys.find((key) => key.name === 'rekor-v1')).uses
    await agent.set(setRequest())
    const { keys } = await agent.status()
    expect(need(keys.find((key) => key.name === 'rekor-v1')).uses).toBe(before + 1)
  })

  test.each([
    ['cannot be looked for', 'C_FindObjectsInit'],
    ['cannot be tried', 'C_SignInit'],
  ])('comes back, and a key %s once: it is served without anybody doing anything', async (_, call) => {
    const shim = buildFaultShim(installation)
    installation.configure({ modulePath: shim.modulePath })
    const { agent } = await start()
    const removed = { call: 'C_Sign', action: 'error', value: CKR_DEVICE_REMOVED } as const
    shim.set(removed, { call, action: 'error', times: 4, value: CKR_GENERAL_ERROR })
    expect(await refusal(eventually(() => agent.set(setRequest())))).toBe('signed')
    const faults = async () => (await agent.status()).keys.map(({ latched }) => latched).join('')
    await expect.poll(faults, { timeout: 10_000 }).toBe('')
  })

  test('has no room for a session in place of each that failed: they are opened later', async () => {
    const shim = buildFaultShim(installation)
    installation.configure({ modulePath: shim.modulePath })
    const { agent } = await start({ deadlineMs: 1000 })
    const failing = { call: 'C_Sign', action: 'error', times: 8, value: CKR_GENERAL_ERROR } as const
    shim.set(failing, { call: 'C_OpenSession', action: 'error', times: 6, value: CKR_SESSION_COUNT })
    const served = Array.from({ length: 8 }, async () => await refusal(eventually(() => agent.set(setRequest()))))
    expect(await Promise.all(served)).toEqual(Array.from({ length: 8 }, () => 'signed'))
  })

  test('hangs: the watchdog ends the agent and the next one serves', async () => {
    const shim = buildFaultShim(installation)
    installation.configure({ modulePath: shim.modulePath, watchdogSeconds: 2 })
    const { agent, child } = await start({ deadlineMs: 8000 })
    const first = child.pid
    shim.fail('hang', 1)
    expect(await refusal(agent.set(setRequest()))).toBe('unavailable connection_lost')
    expect(await refusal(eventually(() => agent.set(setRequest())))).toBe('signed')
    expect(child.pid).not.toBe(first)
  })

  test('makes a key for longer than the watchdog waits for a signature: it is let finish', async () => {
    const shim = buildFaultShim(installation)
    installation.configure({ modulePath: shim.modulePath, watchdogSeconds: 2 })
    const { admin, child } = await start({ deadlineMs: 20_000 })
    const first = child.pid
    shim.set({ call: 'C_GenerateKeyPair', action: 'delay', times: 1, value: 4000 })
    expect((await admin.generateKey({ token: 'online', label: 'slow', kind: 'P-256' })).kind).toBe('P-256')
    expect(child.pid).toBe(first)
  })

  test('hangs in its very first call: the first agent is ended and says so, a later one is followed by another', async () => {
    const shim = buildFaultShim(installation)
    installation.configure({ modulePath: shim.modulePath, watchdogSeconds: 2 })
    const hang = { call: 'C_Initialize', action: 'hang', times: 1 } as const
    shim.set(hang)
    await expect(start({ deadlineMs: 8000 })).rejects.toThrow('PKCS#11 module has not answered for 2 seconds')
    const { agent, child } = await start({ deadlineMs: 8000 })
    const first = child.pid ?? 0
    shim.set(hang)
    process.kill(first, 'SIGKILL')
    expect(await refusal(eventually(() => agent.set(setRequest())))).toBe('signed')
    expect(child.pid).not.toBe(first)
  })
})

describe('a killed agent', () => {
  test('is started again; everybody who retries is served', async () => {
    const { agent, child } = await start()
    const load = { done: false, served: 0 }
    const { spkiDer } = await agent.key('tuf-online')
    const publicKey = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
    const payload = tufPayload({ version: 2 })
    const callers = Array.from({ length: 8 }, async () => {
      while (!load.done) {
        const ask = () => agent.tuf({ key: 'tuf-online', role: 'timestamp', payload })
        expect(verify('sha256', payload, publicKey, await eventually(ask))).toBe(true)
        load.served++
      }
    })
    const pids = new Set<number>()
    for (let kill = 0; kill < 5; kill++) {
      const wanted = load.served + 20
      while (load.served < wanted) await new Promise((resolve) => setTimeout(resolve, 5))
      const pid = need(child.pid)
      pids.add(pid)
      process.kill(pid, 'SIGKILL')
    }
    load.done = true
    await Promise.all(callers)
    expect(pids.size).toBe(5)
    await agent.close()
    const state = await openAgentState(installation.stateFolder, { waitMs: 1000 })
    state.verifyAccount()
    expect(state.uses('tuf-online')).toBeGreaterThanOrEqual(load.served)
    state.close()
  })

  test('that cannot start is told with what it said', async () => {
    installation.configure({ colour: 'red' })
    await expect(installation.start()).rejects.toThrow(/Unrecognized key: "colour"/)
    installation.configure({ modulePath: '/nowhere/module.so' })
    await expect(installation.start()).rejects.toThrow(HsmError)
  })

  test('ends when its parent is gone', async () => {
    const { child, close } = await start()
    const pid = need(child.pid)
    await close()
    expect(() => process.kill(pid, 0)).toThrow(/ESRCH/)
  })
})

describe('an agent of its own', () => {
  test('serves its sockets over restarts, to its own user', async () => {
    const socketPath = join(installation.folder, 's.sock')
    const adminPath = join(installation.folder, 'a.sock')
    installation.configure({ sockets: { signing: socketPath, admin: adminPath } })
    const first = await start()
    const agent: SigningAgent = await connectAgent({ socketPath })
    const admin = await connectAdminAgent({ socketPath: adminPath })
    running.push(agent, admin)
    expect(await refusal(agent.set(setRequest()))).toBe('signed')
    expect(await refusal((await connectAdminAgent({ socketPath })).reload())).toBe('refused unknown_method')
    await admin.reload()
    process.kill(need(first.child.pid), 'SIGKILL')
    expect(await refusal(eventually(() => agent.set(setRequest())))).toBe('signed')
  })

  test('refuses to be reached where nobody listens', async () => {
    const socketPath = join(installation.folder, 'nobody.sock')
    await expect(connectAgent({ socketPath }, { deadlineMs: 200 })).rejects.toMatchObject({ reason: 'not_connected' })
  })
})

test('the running agent has loaded nothing of the servers, and only it has loaded the module', async () => {
  // Every module that the agent loads is written down by a hook in its own process.
  const hook = join(installation.folder, 'hook.mjs')
  const list = join(installation.folder, 'loaded')
  writeFileSync(
    hook,
    `import { registerHooks } from 'node:module'
import { appendFileSync } from 'node:fs'
registerHooks({ load(url, context, next) { appendFileSync(${JSON.stringify(list)}, url + '\\n'); return next(url, context) } })
`,
  )
  const socketPath = join(installation.folder, 's.sock')
  installation.configure({ sockets: { signing: socketPath } })
  const agentPath = new URL('./agent.ts', import.meta.url).pathname
  const child = execFile(process.execPath, ['--import', hook, agentPath, '--config', installation.configPath], {
    env: {},
  })
  const agent = await connectAgent({ socketPath })
  expect(await refusal(agent.set(setRequest()))).toBe('signed')
  await agent.close()
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  expect(await ended).toBe(0)
  const loaded = readFileSync(list, 'utf8')
  const packages = [...loaded.matchAll(/node_modules\/((?:@[^/]+\/)?[^/\n]+)/g)].map(([, name]) => name)
  expect(new Set(packages)).toEqual(new Set(['better-sqlite3', 'pkcs11js', 'yaml', 'zod']))
  expect(loaded).not.toMatch(/hsm\/ceremony\.ts|spawn\.ts/)
  expect(readFileSync('/proc/self/maps', 'utf8')).not.toMatch(/softhsm/)
  await promisify(setImmediate)()
})
