/** Keys and tokens come and go while the agent signs: nothing is refused for it, and nobody logs in twice. */
import { createPublicKey, randomBytes, verify } from 'node:crypto'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { stringify } from 'yaml'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { certificateTbs, copyOf, install, need, timestampRequest, type Installation } from './agent.fixture.ts'
import type { AdminAgent, GeneratedKey } from './administration.ts'
import { createSoftTokens } from './softhsm.ts'
import type { SpawnedAgent } from './spawn.ts'

let original: Installation
let installation: Installation
let running: Required<SpawnedAgent>
let admin: AdminAgent
/** Of the token `online` by the time that a test begins: one of the installation, one of this agent. */
let loginsAtStart: number

beforeAll(async () => {
  original = await install()
  await createSoftTokens({ folder: join(original.folder, 'hsm'), labels: ['standby'] })
})
afterAll(() => original.remove())

beforeEach(async () => {
  installation = copyOf(original)
  running = await installation.start()
  admin = running.admin
  await admin.status()
  loginsAtStart = await logins('online')
})
afterEach(async () => {
  await running.close()
  installation.remove()
})

type Entries = Readonly<Record<string, object>>
const configured = () => installation.configuration as { readonly tokens: Entries; readonly keys: Entries } // as the fixture wrote it

const STANDBY = { uri: 'pkcs11:token=standby', pinFile: '../hsm/standby.pin', softhsmConf: '../hsm/softhsm2.conf' }
const withStandby = () => ({ ...configured().tokens, standby: STANDBY })

function timestampKey({ uri, token, spkiDer }: GeneratedKey): object {
  return { uri, token, spki: Buffer.from(spkiDer).toString('base64'), purposes: ['timestamp'] }
}

async function logins(token: string): Promise<number> {
  const lines = await admin.account({ from: 1, limit: 1000 })
  return lines.filter(({ act, key }) => act === 'login' && key === `token:${token}`).length
}

const reasonOf = async (asked: Promise<unknown>): Promise<string> =>
  await asked.then(
    () => 'done',
    (error: { code: string; reason: string }) => `${error.code} ${error.reason}`,
  )

/** Signs with a key until told to stop; whatever is refused, or does not verify, ends up in `faults`. */
function load(name: string, spkiDer: Uint8Array) {
  const over = new AbortController()
  const count = { signed: 0 }
  const judge = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  const faults: unknown[] = []
  const workers = Array.from({ length: 4 }, async () => {
    while (!over.signal.aborted) {
      const request = { ...timestampRequest(), key: name }
      try {
        const signature = await running.agent.timestamp(request)
        if (verify('sha256', request.signedAttributesDer, judge, signature)) count.signed++
        else faults.push('a signature does not verify')
      } catch (error) {
        faults.push(error)
      }
    }
  })
  const stop = async () => {
    over.abort()
    await Promise.all(workers)
  }
  /** Until so many more were signed. */
  const goesOn = async (more = 50) => {
    const wanted = count.signed + more
    while (count.signed < wanted && faults.length === 0) await setTimeout(5)
  }
  return { stop, goesOn, faults }
}

test('keys and tokens come and go under load: no request fails, each token is logged in to once', async () => {
  const first = load('tsa', need(installation.keys['tsa']).spkiDer)
  const idHex = randomBytes(16).toString('hex')
  const own = await admin.generateKey({ token: 'online', label: 'tsa-2', kind: 'P-256', idHex })
  expect(own.idHex).toBe(idHex)
  installation.configure({ keys: { ...configured().keys, 'tsa-2': timestampKey(own) } })
  expect(await admin.reload()).toEqual({
    keys: { added: ['tsa-2'], dropped: [] },
    tokens: { added: [], dropped: [] },
    faults: [],
    needsRestart: [],
  })
  const second = load('tsa-2', own.spkiDer)
  await second.goesOn()

  installation.configure({ tokens: withStandby(), keys: { ...configured().keys, 'tsa-2': timestampKey(own) } })
  expect((await admin.reload()).tokens).toEqual({ added: ['standby'], dropped: [] })
  const far = await admin.generateKey({ token: 'standby', label: 'tsa-3', kind: 'P-256' })
  const keys = { ...configured().keys, 'tsa-2': timestampKey(own), 'tsa-3': timestampKey(far) }
  installation.configure({ tokens: withStandby(), keys })
  expect(await admin.reload()).toMatchObject({ keys: { added: ['tsa-3'], dropped: [] }, faults: [] })
  const third = load('tsa-3', far.spkiDer)
  await admin.reload()
  await Promise.all([first.goesOn(), second.goesOn(), third.goesOn()])
  await second.stop()
  await third.stop()

  installation.configure({})
  expect(await admin.reload()).toMatchObject({
    keys: { added: [], dropped: ['tsa-2', 'tsa-3'] },
    tokens: { added: [], dropped: ['standby'] },
  })
  expect((await admin.tokens()).map(({ name }) => name)).toEqual(['online'])
  expect(await reasonOf(running.agent.timestamp({ ...timestampRequest(), key: 'tsa-3' }))).toBe(
    'unknown_key unknown_key',
  )
  await first.goesOn()
  await first.stop()
  expect([first, second, third].flatMap(({ faults }) => faults)).toEqual([])
  expect([await logins('online'), await logins('standby')]).toEqual([loginsAtStart, 1])

  // Its sessions were closed and it was logged out: it is logged in to again when it comes back.
  installation.configure({ tokens: withStandby(), keys })
  await admin.reload()
  expect([await logins('online'), await logins('standby')]).toEqual([loginsAtStart, 2])
  expect(await reasonOf(running.agent.timestamp({ ...timestampRequest(), key: 'tsa-3' }))).toBe('done')
})

test('a token whose PIN file was named wrongly is described anew, with no restart', async () => {
  installation.configure({ tokens: { ...configured().tokens, standby: { ...STANDBY, pinFile: '../hsm/nowhere.pin' } } })
  expect((await admin.reload()).faults).toEqual([
    { name: 'token:standby', message: expect.stringContaining('nowhere') },
  ])
  installation.configure({ tokens: withStandby() })
  expect((await admin.reload()).faults).toEqual([])
  const far = await admin.generateKey({ token: 'standby', label: 'tsa-4', kind: 'P-256' })
  installation.configure({ tokens: withStandby(), keys: { ...configured().keys, 'tsa-4': timestampKey(far) } })
  await admin.reload()
  expect(await reasonOf(running.agent.timestamp({ ...timestampRequest(), key: 'tsa-4' }))).toBe('done')
  expect([await logins('online'), await logins('standby')]).toEqual([loginsAtStart, 1])
})

test('what arrived before a key was dropped is signed with it, and what comes after is not', async () => {
  const { tsa: _tsa, ...others } = configured().keys
  installation.configure({ keys: others })
  // One channel, so that the order is known.
  const early = Array.from({ length: 600 }, async () => await reasonOf(admin.timestamp(timestampRequest())))
  const reloading = admin.reload()
  const late = Array.from({ length: 20 }, async () => await reasonOf(admin.timestamp(timestampRequest())))
  expect(new Set(await Promise.all(early))).toEqual(new Set(['done']))
  expect((await reloading).keys.dropped).toEqual(['tsa'])
  // Those may have overtaken the reading of the file, and nothing else.
  for (const reason of await Promise.all(late)) expect(['done', 'unknown_key unknown_key']).toContain(reason)
  expect(await reasonOf(admin.timestamp(timestampRequest()))).toBe('unknown_key unknown_key')
})

test('a faulty configuration leaves the old one in force, and says why', async () => {
  const { keys } = configured()
  const { ct: _ct, 'issuing-ca': _ca, ...rest } = keys
  const tsa = timestampKey(need(installation.keys['tsa']))
  const other = timestampKey({ ...need(installation.keys['tsa']), spkiDer: need(installation.keys['ct']).spkiDer })
  const faulty: readonly (readonly [Readonly<Record<string, unknown>>, string])[] = [
    [{ colour: 'red' }, 'refused bad_configuration'],
    [{ keys: { ...rest, tsa: { ...tsa, token: 'nowhere' } } }, 'refused bad_configuration'],
    [{ keys: { ...keys, twin: tsa } }, 'refused bad_configuration'],
    [{ keys: { ...rest, tsa: other } }, 'refused key_changed'],
    [{ tokens: { online: { ...STANDBY, pinFile: '../hsm/online.pin' } } }, 'refused token_changed'],
    [{ tokens: { online: { ...configured().tokens['online'], pinFile: 'x' } } }, 'refused token_changed'],
  ]
  const check = async (reason: string) => {
    expect(await reasonOf(admin.reload())).toBe(reason)
    expect(await reasonOf(running.agent.timestamp(timestampRequest()))).toBe('done')
    expect((await running.agent.status()).keys.map(({ name }) => name)).toEqual(Object.keys(keys))
  }
  for (const [changes, reason] of faulty) {
    installation.configure(changes)
    await check(reason)
  }
  writeFileSync(installation.configPath, '{')
  await check('refused bad_configuration')
  expect(await logins('online')).toBe(loginsAtStart)
})

test('a new token with a wrong PIN costs one attempt, is told of, and keeps nobody else from signing', async () => {
  writeFileSync(join(installation.folder, 'hsm/standby.pin'), 'not-the-pin\n', { mode: 0o600 })
  installation.configure({ tokens: withStandby() })
  const { faults } = await admin.reload()
  expect(faults).toMatchObject([{ name: 'token:standby', message: /refused the PIN/ }])
  expect((await admin.reload()).faults).toEqual(faults)
  expect(await logins('standby')).toBe(1)
  expect(await admin.latches()).toMatchObject([{ name: 'token:standby' }])
  expect(await reasonOf(running.agent.timestamp(timestampRequest()))).toBe('done')
})

describe('a key with an id that the caller fixed', () => {
  const wish = { token: 'online', label: 'fixed', kind: 'P-256' } as const

  test('is refused by its own reason once it is there, before the label is', async () => {
    const idHex = randomBytes(16).toString('hex')
    await admin.generateKey({ ...wish, idHex })
    expect(await reasonOf(admin.generateKey({ ...wish, idHex }))).toBe('refused id_exists')
    expect(await reasonOf(admin.generateKey({ ...wish, label: 'another', idHex }))).toBe('refused id_exists')
    expect(await reasonOf(admin.generateKey(wish))).toBe('refused label_exists')
  })

  test('is not made with an id that is none, or of another length', async () => {
    for (const idHex of ['00', 'xyz', 'ab'.repeat(17), 'AB'.repeat(16)]) {
      expect(await reasonOf(admin.generateKey({ ...wish, idHex })), idHex).toBe('refused bad_id')
    }
    expect((await admin.listObjects('online')).some(({ label }) => label === 'fixed')).toBe(false)
  })
})

describe('a list of CT logs', () => {
  const withCtKeys = (ctKey: unknown) => ({
    keys: { ...configured().keys, 'issuing-ca': { ...configured().keys['issuing-ca'], ctKey } },
  })
  const OTHER = () => Buffer.from(need(original.keys['tsa']).spkiDer).toString('base64')

  test('takes the SCT of any of them, and of no other', async () => {
    const asked = async () => {
      const tbsDer = await certificateTbs(installation, admin)
      return await reasonOf(running.agent.certificate({ key: 'issuing-ca', tbsDer }))
    }
    expect(await asked()).toBe('done')
    installation.configure(withCtKeys([OTHER(), 'ct']))
    await admin.reload()
    expect(await asked()).toBe('done')
    installation.configure(withCtKeys([OTHER()]))
    await admin.reload()
    expect(await asked()).toBe('refused sct_of_other_log')
  })

  test('is not empty', async () => {
    installation.configure(withCtKeys([]))
    expect(await reasonOf(admin.reload())).toBe('refused bad_configuration')
  })
})

test('settings that need a restart are told', async () => {
  installation.configure({ inFlight: 100, sockets: { signing: join(installation.folder, 's.sock') } })
  expect((await admin.reload()).needsRestart).toEqual(['signingSocket', 'inFlight'])
  rmSync(installation.configPath)
  writeFileSync(installation.configPath, stringify(installation.configuration))
  expect((await admin.reload()).needsRestart).toEqual([])
})
