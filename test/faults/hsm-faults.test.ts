/**
 * The whole stack under load from all services, while its HSM does everything wrong that an HSM can do: a PKCS#11 module
 * (`hsm/fault-shim.c`) around SoftHSM fails, hangs, delays, forgets, fills up and flips bits. Nothing is ever restarted
 * by hand. In the end every answer that any client had is looked at, and each signature is verified anew.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { connectAdminAgent } from '#hsm'
import { buildFaultShimIn, type Fault, type FaultShim } from '../../hsm/fault-shim.fixture.ts'
import { askAdmin } from '../../server/admin.ts'
import type { Ledger } from '../crash/ledger.ts'
import { initialise, projectFolder, type Stack, serve } from '../e2e/stack.ts'
import {
  badAnswers,
  checkEverything,
  configure,
  logLines,
  LONG,
  type PatientLoad,
  slowestRefusalMs,
  startPatientLoad,
} from './loaded-stack.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-hsm-faults-'))
const dataDir = join(scratch, 'data')
const adminSocket = join(scratch, 'admin.sock')
let stack: Stack
let realModule = ''
let pinFile = ''
let softhsmConf = ''
let shim: FaultShim
let load: PatientLoad
const ledgers: Ledger[] = []
/** One line for each fault, shown at the end. */
const seen: string[] = []

beforeAll(async () => {
  await initialise(dataDir)
  const { modulePath, tokens } = parse(readFileSync(join(dataDir, 'agent/online.yaml'), 'utf8')) as {
    modulePath: string
    tokens: { online: { pinFile: string; softhsmConf: string } }
  }
  pinFile = resolve(dataDir, 'agent', tokens.online.pinFile)
  softhsmConf = resolve(dataDir, 'agent', tokens.online.softhsmConf)
  mkdirSync(join(scratch, 'shim'))
  realModule = modulePath
  shim = buildFaultShimIn(join(scratch, 'shim'), realModule)
  configure(dataDir, 'agent/online.yaml', {
    modulePath: shim.modulePath,
    watchdogSeconds: 2,
    sockets: { admin: adminSocket },
  })
  stack = await serve(dataDir)
  load = await startPatientLoad(stack, join(scratch, 'load'))
  await load.progress(5)
})

afterAll(async () => {
  console.log(seen.join('\n'))
  try {
    await stack.stop()
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
})

const CKR = {
  HOST_MEMORY: 0x2,
  SLOT_ID_INVALID: 0x3,
  GENERAL_ERROR: 0x5,
  FUNCTION_FAILED: 0x6,
  DATA_LEN_RANGE: 0x21,
  DEVICE_ERROR: 0x30,
  DEVICE_MEMORY: 0x31,
  DEVICE_REMOVED: 0x32,
  FUNCTION_CANCELED: 0x50,
  KEY_HANDLE_INVALID: 0x60,
  MECHANISM_INVALID: 0x70,
  OBJECT_HANDLE_INVALID: 0x82,
  OPERATION_ACTIVE: 0x90,
  OPERATION_NOT_INITIALIZED: 0x91,
  SESSION_CLOSED: 0xb0,
  SESSION_COUNT: 0xb1,
  SESSION_HANDLE_INVALID: 0xb3,
  TOKEN_NOT_PRESENT: 0xe0,
  TOKEN_NOT_RECOGNIZED: 0xe1,
  USER_NOT_LOGGED_IN: 0x101,
  BUFFER_TOO_SMALL: 0x150,
  CRYPTOKI_NOT_INITIALIZED: 0x190,
} as const
type Ckr = keyof typeof CKR

function failing(call: string, rv: Ckr, times: number): Fault {
  return { call, action: 'error', times, value: CKR[rv] }
}

/** What makes the agent connect anew. */
const LOSS = failing('C_Sign', 'DEVICE_REMOVED', 1)

/** Injects `faults`, waits until all of them have happened, and then for five more of everything. */
async function survive(name: string, ...faults: readonly Fault[]): Promise<void> {
  shim.set(...faults)
  const untilMs = performance.now() + 30_000
  const left = () => faults.filter(({ times = 1 }, at) => (shim.taken()[at] ?? 0) < times)
  while (left().length > 0) {
    if (performance.now() > untilMs) {
      const what = JSON.stringify(left())
      shim.set()
      throw new Error(`${name}: ${what} did not happen`)
    }
    await delay(10)
  }
  shim.set()
  const startMs = performance.now()
  await load.progress(5)
  expect(stack.server.exitCode, 'the server lives').toBe(null)
  seen.push(
    `${name}: ${shim.taken().join()} everything is served again after ${Math.round(performance.now() - startMs)} ms`,
  )
}

describe('each error of a signature, of a sudden and several times over', () => {
  const errors = Object.keys(CKR) as Ckr[]
  test.each(errors)('%s', async (rv) => {
    await survive(`C_Sign ${rv}`, failing('C_Sign', rv, 3))
  })

  const initErrors: readonly Ckr[] = LONG
    ? errors
    : ['DEVICE_ERROR', 'OPERATION_ACTIVE', 'KEY_HANDLE_INVALID', 'USER_NOT_LOGGED_IN', 'GENERAL_ERROR']
  test.each(initErrors)('%s when the operation begins', async (rv) => {
    await survive(`C_SignInit ${rv}`, failing('C_SignInit', rv, 3))
  })
})

describe('a token that is lost, and then', () => {
  const later: readonly (readonly [string, Ckr, number])[] = [
    ['C_OpenSession', 'SESSION_COUNT', 3],
    ['C_OpenSession', 'DEVICE_MEMORY', 3],
    ['C_Login', 'DEVICE_ERROR', 2],
    ['C_FindObjectsInit', 'GENERAL_ERROR', 3],
    ['C_FindObjects', 'DEVICE_ERROR', 3],
    ['C_GetAttributeValue', 'FUNCTION_FAILED', 3],
    ['C_GetTokenInfo', 'TOKEN_NOT_RECOGNIZED', 3],
    ['C_GetSlotList', 'GENERAL_ERROR', 3],
    ['C_Initialize', 'HOST_MEMORY', 2],
    ['C_CloseAllSessions', 'DEVICE_ERROR', 1],
    ...(LONG
      ? Object.keys(CKR).map((rv) => ['any', rv as Ckr, 12] as const)
      : ([['any', 'FUNCTION_FAILED', 12]] as const)),
  ]
  test.each(later)('%s answers %s', async (call, rv, times) => {
    // A fresh module is only asked for when the first attempt to connect has failed.
    const first = call === 'C_Initialize' ? [LOSS, failing('C_GetSlotList', 'DEVICE_ERROR', 1)] : [LOSS]
    await survive(`lost, then ${call} ${rv}`, ...first, failing(call, rv, times))
  })
})

describe('a token that is there and forgets', () => {
  test('logged out behind the agent', async () => {
    await survive('logout', { call: 'C_Sign', action: 'logout', times: 2 })
  })
  test('all sessions dropped', async () => {
    await survive('drop', { call: 'C_SignInit', action: 'drop', times: 2 })
  })
  test('no session can be replaced for a while', async () => {
    await survive(
      'full of sessions',
      failing('C_Sign', 'GENERAL_ERROR', 12),
      failing('C_OpenSession', 'SESSION_COUNT', 8),
    )
  })
  test('full: a key cannot be made, and everything else goes on', async () => {
    const admin = await connectAdminAgent({ socketPath: adminSocket })
    try {
      shim.set(failing('C_GenerateKeyPair', 'DEVICE_MEMORY', 100))
      await expect(admin.generateKey({ token: 'online', label: 'one-more', kind: 'P-256' })).rejects.toThrow()
      expect(shim.taken()[0]).toBeGreaterThan(0)
      shim.set()
      await load.progress(5)
    } finally {
      await admin.close()
    }
  })
  test.each([20, 400])('every third signature takes %i ms more', async (value) => {
    shim.set({ call: 'C_Sign', action: 'delay', times: 1_000_000, every: 3, value })
    await load.progress(value < 100 ? 5 : 1, { withinMs: 60_000 })
    shim.set()
    await load.progress(5)
  })
})

describe('one bit of one in fifty signatures is wrong', () => {
  test.each(LONG ? [0, 7, 100, 255, 256, 300, 511] : [100, 300])('bit %i', async (value) => {
    shim.set({ call: 'C_Sign', action: 'flip', times: 1_000_000, every: 50, value })
    const untilMs = performance.now() + 30_000
    while ((shim.taken()[0] ?? 0) < 12 && performance.now() < untilMs) await delay(20)
    const [flipped = 0] = shim.taken()
    shim.set()
    expect(flipped).toBeGreaterThanOrEqual(12)
    await load.progress(5)
    seen.push(`flipped bit ${value}: ${flipped} signatures`)
  })
})

describe('a driver that hangs', () => {
  const hanging: readonly (readonly Fault[])[] = [
    [{ call: 'C_Sign', action: 'hang' }],
    [{ call: 'C_SignInit', action: 'hang' }],
    [LOSS, { call: 'C_OpenSession', action: 'hang' }],
    ...(LONG
      ? [
          [LOSS, { call: 'C_GetTokenInfo', action: 'hang' } as const],
          [LOSS, { call: 'C_Login', action: 'hang' } as const],
          [LOSS, { call: 'C_FindObjects', action: 'hang' } as const],
        ]
      : []),
  ]
  test.each(hanging)(
    '$call: the watchdog ends the agent, and the next is ready within two seconds',
    async (...faults) => {
      const before = logLines(dataDir).length
      await survive(`hang ${faults.at(-1)?.call}`, ...faults)
      // From the server's log: the end of the child, and the new child's word that its keys are connected.
      const lines = logLines(dataDir).slice(before)
      const ended = lines.find(({ msg }) => msg.startsWith('agent ended'))
      const ready = lines.find(
        ({ msg, time }) => msg === 'tokens connected' && time > (ended?.time ?? Number.POSITIVE_INFINITY),
      )
      expect(ended).toMatchObject({ signal: 'SIGKILL' })
      const readyMs = (ready?.time ?? Number.POSITIVE_INFINITY) - (ended?.time ?? 0)
      seen.push(`hang ${faults.at(-1)?.call}: ready ${readyMs} ms after the end`)
      // Two seconds, and as much again for a machine that does other things.
      expect(readyMs).toBeLessThan(4000)
    },
  )
})

describe('around the HSM', () => {
  test('the agent is killed', async () => {
    process.kill(agentPid(), 'SIGKILL')
    await load.progress(5)
  })

  test("the token's folder cannot be read, and can be again", async () => {
    const [tokens, away] = [join(dataDir, 'hsm/tokens'), join(dataDir, 'hsm/tokens-away')]
    renameSync(tokens, away)
    shim.set(LOSS)
    await delay(3000)
    renameSync(away, tokens)
    await load.progress(5)
  })

  test('the trust root is signed again meanwhile', async () => {
    shim.set(failing('C_Sign', 'DEVICE_REMOVED', 2))
    await askAdmin(join(dataDir, 'run/admin.sock'), 'publish-trust')
    shim.set()
  })
})

test('every request was answered rightly or with 503 and Retry-After; none is left over; every signature holds', async () => {
  const { ledger, outcomes, ended } = await load.finish()
  ledgers.push(ledger)
  expect(badAnswers(outcomes)).toEqual([])
  expect(ended).toMatchObject({ lost: 0, abandoned: 0 })
  const slowestMs = slowestRefusalMs(outcomes)
  seen.push(`${ended.acknowledged} taken, ${ended.refused} refused with 503, the slowest after ${slowestMs} ms`)
  // sigstore-js gives up after five seconds, and must have its answer by then.
  expect(slowestMs).toBeLessThan(5000)
  await checkEverything(stack, ledgers, { acknowledged: [], unanswered: [], timestamps: [], heads: [] })
})

/** `C_Login` as the token saw it, by any process. */
function logins(): number {
  return shim.calls().filter((call) => call === 'C_Login').length
}

describe('a wrong PIN', () => {
  let right = ''

  async function unlatch(): Promise<void> {
    const admin = await connectAdminAgent({ socketPath: adminSocket })
    try {
      await admin.unlatch({ latch: 'token:online' })
    } finally {
      await admin.close()
    }
  }

  /** Brings the PIN back and lets the load finish. */
  async function finishAfter(waiting: PatientLoad): Promise<Ledger> {
    const before = logins()
    writeFileSync(pinFile, right, { mode: 0o600 })
    await unlatch()
    await waiting.progress(3)
    expect(logins()).toBe(before + 1)
    const { ledger, outcomes, ended } = await waiting.finish()
    expect(badAnswers(outcomes)).toEqual([])
    expect(ended).toMatchObject({ lost: 0, abandoned: 0 })
    ledgers.push(ledger)
    return ledger
  }

  test('is tried once whatever the load; the latch outlives agent and server; unlatch recovers', async () => {
    right = readFileSync(pinFile, 'utf8')
    const before = logins()
    await stack.stop()
    writeFileSync(pinFile, 'not-the-pin\n', { mode: 0o600 })
    stack = await serve(dataDir)
    await delay(500)
    process.kill(agentPid(), 'SIGKILL')
    await delay(1000)
    await stack.stop()
    stack = await serve(dataDir)
    const waiting = await startPatientLoad(stack, join(scratch, 'wrong-pin'))
    await delay(2500)
    expect(await waiting.running.acknowledged()).toMatchObject({ v1: 0, v2: 0, ca: 0, tsa: 0 })
    expect(logins()).toBe(before + 1)
    const ledger = await finishAfter(waiting)
    await checkEverything(stack, ledgers, ledger)
  })

  test('that was changed underneath is found when the agent connects anew, and tried once', async () => {
    const before = logins()
    const waiting = await startPatientLoad(stack, join(scratch, 'changed-pin'))
    await waiting.progress(3)
    const [old, fresh] = [right.trim(), '86428642']
    changePin(old, fresh)
    // SoftHSM takes the old one until it is initialised anew.
    process.kill(agentPid(), 'SIGKILL')
    await delay(2500)
    process.kill(agentPid(), 'SIGKILL')
    await delay(2500)
    expect(logins()).toBe(before + 1)
    right = `${fresh}\n`
    const ledger = await finishAfter(waiting)
    await checkEverything(stack, ledgers, ledger)
  })
})

function agentPid(): number {
  const { pid } = stack.server
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
  const agent = children.find((child) => readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('agent/online.yaml'))
  if (agent === undefined) throw new Error('the server has no agent')
  return agent
}

/** As an operator would who forgot to tell the agent: in another process, by C_SetPIN. */
function changePin(old: string, fresh: string): void {
  const script = `
    import pkcs11js from 'pkcs11js'
    const [path, old, fresh] = process.argv.slice(1)
    const module = new pkcs11js.PKCS11()
    module.load(path)
    module.C_Initialize({ flags: 2 })
    const slot = module.C_GetSlotList(true).find((slot) => module.C_GetTokenInfo(slot).label.includes('online'))
    const session = module.C_OpenSession(slot, 6)
    module.C_Login(session, 1, old)
    module.C_SetPIN(session, old, fresh)
    process.kill(process.pid, 'SIGKILL')`
  try {
    execFileSync(process.execPath, ['--input-type=module', '-e', script, realModule, old, fresh], {
      cwd: projectFolder,
      env: { SOFTHSM2_CONF: softhsmConf },
      stdio: 'pipe',
    })
  } catch (error) {
    // The module is never closed: pkcs11js may crash then.
    if (!(error instanceof Error && 'signal' in error && error.signal === 'SIGKILL')) throw error
  }
}
