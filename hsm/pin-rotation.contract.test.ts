/** The change of a PIN on SoftHSM, killed between any two of its steps: it completes, and at most one PIN was wrong. */
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { buildFaultShim, copyOf, install, need, setRequest, type Installation } from './agent.fixture.ts'
import { openAgentState } from './agent-state.ts'
import type { Fault, FaultShim } from './fault-shim.fixture.ts'
import { HsmError } from './signing.ts'
import type { SpawnedAgent } from './spawn.ts'

let original: Installation
let installation: Installation
let shim: FaultShim
let running: Required<SpawnedAgent> | undefined

beforeAll(async () => {
  original = await install()
  shim = buildFaultShim(original)
})

afterAll(() => original.remove())

let loginsBefore: number

beforeEach(() => {
  installation = copyOf(original)
  installation.configure({ modulePath: shim.modulePath })
  shim.set()
  loginsBefore = allLogins()
})

afterEach(async () => {
  await running?.close()
  running = undefined
  installation.remove()
})

async function start(): Promise<Required<SpawnedAgent>> {
  await running?.close()
  running = await installation.start()
  return running
}

async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    if (error instanceof HsmError) return `${error.code} ${error.reason}`
    throw error
  }
  return 'done'
}

const pinNow = () => readFileSync(installation.pinFile, 'utf8')
const pending = () => `${installation.pinFile}.new`
const allLogins = () => shim.calls().filter((call) => call === 'C_Login').length
const logins = () => allLogins() - loginsBefore

/** Signs, which proves a login, and finds no trace of an unfinished change. */
async function settled(agent: Required<SpawnedAgent>): Promise<void> {
  expect(await refusal(agent.admin.set(setRequest()))).toBe('done')
  expect(existsSync(pending())).toBe(false)
  expect((await agent.admin.tokens())[0]).toMatchObject({ latched: '', pinRotation: '', loggedIn: true, flags: [] })
}

describe('a change of the PIN', () => {
  test('puts a random one into the file, and the token takes it alone', async () => {
    const before = pinNow()
    const agent = await start()
    expect(await agent.admin.rotatePin({ token: 'online' })).toEqual({ resumed: false })
    const after = pinNow()
    expect(after).not.toBe(before)
    expect(after).toMatch(/^[A-Za-z0-9_-]{24}\n$/)
    expect(statSync(installation.pinFile).mode & 0o777).toBe(0o600)
    await settled(agent)
    await settled(await start())
    writeFileSync(installation.pinFile, before)
    expect(await refusal((await start()).admin.set(setRequest()))).toBe('latched token_latched')
  })

  test('takes a given one, again and again, one request after the other', async () => {
    const { admin } = await start()
    await Promise.all(
      ['first-pin', 'second-pin', 'third-pin'].map((newPin) => admin.rotatePin({ token: 'online', newPin })),
    )
    expect(['first-pin\n', 'second-pin\n', 'third-pin\n']).toContain(pinNow())
    await settled(await start())
  })

  test('goes on while services sign', async () => {
    const { admin, agent } = await start()
    const signed = Array.from({ length: 200 }, () => refusal(agent.set(setRequest())))
    await admin.rotatePin({ token: 'online' })
    expect(new Set(await Promise.all(signed))).toEqual(new Set(['done']))
  })

  test('to one that the token or a file cannot hold is refused, and nothing is changed', async () => {
    const before = pinNow()
    const agent = await start()
    for (const newPin of ['123', 'one\ntwo', 'x'.repeat(256), 'tab\there']) {
      expect(await refusal(agent.admin.rotatePin({ token: 'online', newPin })), newPin).toBe('refused pin_length')
    }
    expect(pinNow()).toBe(before)
    await settled(agent)
  })

  test('is refused of a token that nobody configured, and of one that is latched', async () => {
    const agent = await start()
    expect(await refusal(agent.admin.rotatePin({ token: 'other' }))).toBe('refused unknown_token')
    writeFileSync(installation.pinFile, 'wrong-pin\n')
    const again = await start()
    expect(await refusal(again.admin.rotatePin({ token: 'online' }))).toBe('latched token_latched')
    expect(logins()).toBe(2)
  })

  test('is refused where the new PIN cannot be kept', async () => {
    const { admin } = await start()
    // A folder in the file's place: root, as whom the tests may run, writes into every folder.
    mkdirSync(`${pending()}/x`, { recursive: true })
    expect(await refusal(admin.rotatePin({ token: 'online' }))).toBe('refused pin_file_not_writable')
    rmSync(pending(), { recursive: true })
    await settled(need(running))
  })

  test('that the token refuses is undone', async () => {
    const before = pinNow()
    const agent = await start()
    // CKR_PIN_INVALID: the token does not like the new one.
    shim.set({ call: 'C_SetPIN', action: 'error', value: 0xa1 })
    expect(await refusal(agent.admin.rotatePin({ token: 'online' }))).toBe('refused pin_not_changed')
    expect(pinNow()).toBe(before)
    await settled(agent)
  })

  test('whose old PIN is no longer the right one latches after one attempt', async () => {
    const { admin } = await start()
    writeFileSync(installation.pinFile, 'changed-underneath\n')
    expect(await refusal(admin.rotatePin({ token: 'online' }))).toBe('latched token_latched')
    expect(await refusal(admin.rotatePin({ token: 'online' }))).toBe('latched token_latched')
    expect(existsSync(pending())).toBe(false)
    expect(logins()).toBe(1)
  })

  test('that a lost token left open is completed by the next one', async () => {
    const { admin } = await start()
    shim.set({ call: 'C_SetPIN', action: 'error', value: 0x30 })
    expect(await refusal(admin.rotatePin({ token: 'online' }))).toBe('unavailable pin_rotation_interrupted')
    expect(await admin.rotatePin({ token: 'online' })).toEqual({ resumed: false })
    await settled(need(running))
  })
})

describe('an agent that is killed', () => {
  /** Kills it within a call of the module, which the shim makes long. */
  async function killedIn(fault: Omit<Fault, 'action' | 'value'>): Promise<void> {
    const { admin, child } = await start()
    shim.set({ ...fault, action: 'delay', value: 20_000 })
    const asked = refusal(admin.rotatePin({ token: 'online', newPin: 'the-new-pin' }))
    for (let waited = 0; shim.taken()[0] !== 1; waited++) {
      if (waited > 2000) throw new Error(`${fault.call} was not called`)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    shim.set()
    process.kill(need(child.pid), 'SIGKILL')
    expect(await asked).not.toBe('done')
  }

  test.each([
    // Which PIN the token has, and whether the next agent comes up by itself.
    ['before C_SetPIN has done anything', { call: 'C_SetPIN' }, 'old', true],
    ['after C_SetPIN, before that is durable', { call: 'C_CloseSession' }, 'new', false],
    ['before the file is renamed', { call: 'C_CloseAllSessions' }, 'new', true],
  ] as const)('%s: the change completes', async (_when, fault, tokenHas, comesUp) => {
    await killedIn(fault)
    const before = logins()
    const agent = await start()
    expect(await refusal(agent.admin.set(setRequest()))).toBe(comesUp ? 'done' : 'latched token_latched')
    if (comesUp) {
      expect(pinNow()).toBe(tokenHas === 'new' ? 'the-new-pin\n' : readFileSync(original.pinFile, 'utf8'))
      await settled(agent)
    } else {
      expect((await agent.admin.tokens())[0]?.latched).toContain('chancery token pin rotate online')
      // The old PIN once; a restart tries nothing.
      await start()
      expect(logins() - before).toBe(1)
    }
    const now = need(running)
    const { resumed } = await now.admin.rotatePin({ token: 'online' })
    expect(resumed).toBe(!comesUp)
    if (resumed) {
      expect(pinNow()).toBe('the-new-pin\n')
      // The new one, at once.
      expect(logins() - before).toBe(2)
    }
    await settled(now)
    expect(await now.admin.latches()).toEqual([])
  })

  test.each([
    ['the new PIN was written and nothing else', undefined, true],
    ['the file was renamed and the mark is still there', 'set', false],
  ] as const)('after %s: the next one logs in', async (_when, mark, leftover) => {
    if (mark !== undefined) {
      const state = await openAgentState(installation.stateFolder, { waitMs: 0 })
      state.transaction(() => state.setMark('pinRotation:online', mark))
      state.close()
    }
    if (leftover) writeFileSync(pending(), 'never-set\n', { mode: 0o600 })
    const agent = await start()
    expect(await refusal(agent.admin.set(setRequest()))).toBe('done')
    expect(await agent.admin.rotatePin({ token: 'online' })).toEqual({ resumed: false })
    await settled(agent)
    expect(pinNow()).not.toBe('never-set\n')
  })

  test('whose both PINs are wrong stays latched, and the operator has the PIN file', async () => {
    const right = pinNow()
    await killedIn({ call: 'C_SetPIN' })
    writeFileSync(installation.pinFile, 'neither\n')
    const { admin } = await start()
    expect(await refusal(admin.rotatePin({ token: 'online' }))).toBe('latched token_latched')
    const wrong = logins()
    expect(await refusal(admin.rotatePin({ token: 'online' }))).toBe('latched token_latched')
    expect(logins()).toBe(wrong)
    writeFileSync(installation.pinFile, right)
    await admin.unlatch({ latch: 'token:online' })
    expect(await refusal(admin.set(setRequest()))).toBe('done')
  })
})
