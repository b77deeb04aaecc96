/** `chancery token` and `chancery key` on an installation with SoftHSM, as an operator calls them. */
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { parse, stringify } from 'yaml'
import { findSoftHsm, spawnAgent, type SpawnedAgent } from '#hsm'
import { createInstallation, defaultPorts, newTreeId } from '#lifecycle'
import { main } from './main.ts'

let folder: string
let data: string
/** Everything that any command printed. */
let printed = ''
let running: SpawnedAgent | undefined

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-cli-'))
  data = join(folder, 'data')
  const choices = { profile: 'development', domain: 'cli.test', host: '127.0.0.1', listenHost: '127.0.0.1' } as const
  await createInstallation(data, { ...choices, ports: defaultPorts, treeId: newTreeId() }, () => undefined)
})

afterAll(async () => {
  await running?.close()
  rmSync(folder, { recursive: true })
})

interface Said {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** In this process: a command takes a second to start on a busy machine, and a hundred are called here. */
async function chancery(...words: string[]): Promise<Said> {
  const said = { stdout: '', stderr: '' }
  const spies = (['stdout', 'stderr'] as const).map((stream) =>
    vi.spyOn(process[stream], 'write').mockImplementation((chunk) => {
      said[stream] += String(chunk)
      return true
    }),
  )
  process.exitCode = undefined
  try {
    const status = await main(words.includes('--data') ? words : [...words, '--data', data])
    printed += said.stdout + said.stderr
    return { status, ...said }
  } finally {
    for (const spy of spies) spy.mockRestore()
    process.exitCode = undefined
  }
}

/** The same for what prints a screen, which must fit. */
async function screen(...words: string[]): Promise<string> {
  const { status, stdout, stderr } = await chancery(...words)
  expect(status, stderr).toBe(0)
  // But for paths and URIs, which are to be copied whole.
  const lines = stdout.split('\n').filter((line) => !line.includes('/') && !line.includes('pkcs11:'))
  for (const line of lines) expect(line.length, line).toBeLessThanOrEqual(80)
  return stdout
}

async function json<T>(...words: string[]): Promise<T> {
  const { status, stdout, stderr } = await chancery(...words, '--json')
  expect(status, stderr).toBe(0)
  return JSON.parse(stdout) as T // our own program prints it
}

/** Another program's hands on the token. */
function pkcs11Tool(...words: string[]): void {
  const pin = readFileSync(join(data, 'hsm/chancery-online.pin'), 'utf8').trim()
  execFileSync(
    'pkcs11-tool',
    ['--module', findSoftHsm(), '--token-label', 'chancery-online', '--login', '--pin', pin, ...words],
    { env: { SOFTHSM2_CONF: join(data, 'hsm/softhsm2.conf') }, stdio: 'ignore' },
  )
}

function need<T>(value: T | undefined): T {
  if (value === undefined) throw new TypeError('a value is missing')
  return value
}

interface Made {
  readonly idHex: string
}

test('a folder too deep for sockets is told before anything is made', async () => {
  const deep = join(folder, 'x'.repeat(90))
  const { status, stderr } = await chancery('init', '--ports', 'auto', '--data', deep)
  expect([status, existsSync(deep)]).toEqual([1, false])
  expect(stderr).toContain('too long for a unix socket; choose a shorter folder with --data')
})

describe('without an agent that runs', () => {
  test('one is started for the moment, of the root token too', async () => {
    expect(await screen('key', 'ls', '--agent', 'root')).toMatch(/^root-ca +P-384 +root +ready +\d+ +caCertificate$/m)
    expect(await json<unknown[]>('token', 'ls', '--agent', 'root')).toMatchObject([
      { name: 'root', label: 'chancery-root', software: true, loggedIn: true, latched: '', flags: [], objects: 4 },
    ])
    expect(readdirSync(join(data, 'run')).filter((name) => name === 'root.sock')).toEqual([])
  })

  test.each([
    [['token', 'ls', '--agent', 'nobody'], 2, 'no_such_agent'],
    [['key', 'ls', '--agent', 'package.yaml'], 2, 'no_such_agent'],
    [['token', 'ls', '--agent', 'nowhere.sock'], 5, '#agent_away'],
    [['key', 'gen', 'x', '--kind', 'P-521'], 2, 'Allowed choices'],
    [['token', 'init', 'a label'], 2, 'a label is 1 to 32'],
    [['key', 'destroy', 'ff', '--dry-run', '--confirm'], 2, 'cannot be used with'],
  ])('%j is told what is wrong', async (words, status, said) => {
    const result = await chancery(...words)
    expect([result.status, result.stdout]).toEqual([status, ''])
    expect(result.stderr).toContain(said)
  })

  test('an agent that others hold is not doubled', async () => {
    // The same state, and no socket: nobody can be asked.
    const { sockets: _, ...hidden } = parse(readFileSync(join(data, 'agent/online.yaml'), 'utf8')) as Record<
      string,
      unknown
    >
    const configPath = join(data, 'agent/hidden.yaml')
    writeFileSync(configPath, stringify(hidden))
    const holder = await spawnAgent({ configPath })
    rmSync(configPath)
    const { pid } = holder.child
    const { status, stderr } = await chancery('token', 'ls')
    await holder.close()
    expect([status, stderr]).toEqual([
      3,
      `chancery token ls: another agent uses the state folder ${join(data, 'agent/online')} (process ${String(pid)})\nMore: docs/runbook.md#agent_locked\n`,
    ])
  })
})

describe('with an agent that runs', () => {
  beforeAll(async () => {
    running = await spawnAgent({ configPath: join(data, 'agent/online.yaml') })
  })

  test('its socket is asked', async () => {
    const [token] = await json<{ name: string; loggedIn: boolean }[]>('token', 'ls')
    expect(token).toMatchObject({ name: 'online', loggedIn: true })
    const { stdout } = await chancery('token', 'ls')
    expect(stdout).toMatch(/^online +logged in +\d+ +\S+ +chancery-online$/m)
    expect(stdout).toContain('software: its keys are files')
  })

  test('keys are listed by role, and shown with attributes and certificates', async () => {
    const { keys } = await json<{ keys: { name: string; state: string }[] }>('key', 'ls', '--role', 'timestamp')
    expect(keys.map(({ name, state }) => [name, state])).toEqual([['tsa', 'ready']])
    expect(await json('key', 'show', 'issuing-ca')).toMatchObject({
      name: 'issuing-ca',
      state: 'ready',
      backup: false,
      unproven: [],
      certificates: [{ subject: 'O=cli.test, CN=cli.test issuing CA' }],
    })
    expect(await screen('key', 'show', 'issuing-ca')).toMatch(/^EXTRACTABLE +no +no +hard +as wanted$/m)
    expect(await chancery('key', 'show', 'nobody')).toMatchObject({
      status: 6,
      stderr: expect.stringContaining('no key nobody'),
    })
  })

  test('a key is made once, and destroyed only when it is said twice', async () => {
    expect(await screen('key', 'gen', 'fresh', '--dry-run')).toContain('Nothing was done.')
    const { idHex } = await json<Made>('key', 'gen', 'fresh', '--kind', 'P-384')
    for (const more of [[], ['--dry-run']]) {
      expect(await chancery('key', 'gen', 'fresh', ...more)).toMatchObject({
        status: 6,
        stderr: expect.stringContaining('#label_exists'),
      })
    }
    expect(await screen('key', 'destroy', idHex, '--dry-run')).toMatch(/^Would destroy on token online:\n/)
    expect(await chancery('key', 'destroy', idHex)).toMatchObject({
      status: 7,
      stderr: expect.stringContaining('add --confirm'),
    })
    expect(await json<{ state: string }>('key', 'show', 'fresh')).toMatchObject({ idHex, state: 'in no configuration' })
    expect(await screen('key', 'destroy', idHex, '--confirm')).toMatch(/^Destroyed on token online:\n/)
    expect((await chancery('key', 'destroy', idHex, '--confirm')).status).toBe(6)
  })

  test.each(['tsa', 'root-ca'])('%s, which a configuration names, is not destroyed', async (name) => {
    const agent = name === 'root-ca' ? 'root' : 'online'
    const { idHex } = await json<Made>('key', 'show', name, '--agent', agent)
    // Also not through the agent that does not know of it.
    expect(await chancery('key', 'destroy', idHex, '--confirm')).toMatchObject({
      status: 6,
      stderr: expect.stringContaining('docs/runbook.md#key_configured'),
    })
    expect(await json('key', 'show', name, '--agent', agent)).toMatchObject({ state: 'ready' })
  })

  test('a key of a configuration that lies elsewhere is not destroyed', async () => {
    const { idHex } = await json<Made>('key', 'show', 'tsa')
    const elsewhere = join(folder, 'elsewhere')
    const socket = join(data, 'run/agent.sock')
    const result = await chancery('key', 'destroy', idHex, '--confirm', '--agent', socket, '--data', elsewhere)
    expect(result).toMatchObject({ status: 6, stderr: expect.stringContaining('#key_configured') })
  })

  test('what nobody here made is found', async () => {
    expect(await screen('key', 'ls', '--orphans')).toBe('no orphans\n')
    const { idHex } = await json<Made>('key', 'gen', 'halved')
    pkcs11Tool('--delete-object', '--type', 'pubkey', '--id', idHex)
    pkcs11Tool('--keygen', '--key-type', 'AES:32', '--label', 'stranger')
    const { orphans } = await json<{ orphans: { label: string; verdict: string }[] }>('key', 'ls', '--orphans')
    expect(orphans.map(({ label, verdict }) => `${label}: ${verdict}`).toSorted()).toEqual([
      'halved: half pair',
      'stranger: unknown secret key',
    ])
    expect((await chancery('key', 'destroy', idHex, '--confirm')).status).toBe(0)
  })

  test('a log that was asked to fork is latched, and lifted by hand', async () => {
    const { agent } = need(running)
    const origin = 'rekor-v2.cli.test'
    const head = { key: 'rekor-v2', origin, size: 1, timestampMs: Date.now(), consistencyProof: [] }
    await agent.treeHead({ ...head, rootHash: Buffer.alloc(32, 1) })
    await expect(agent.treeHead({ ...head, rootHash: Buffer.alloc(32, 2) })).rejects.toThrow()
    expect(await screen('key', 'ls', '--role', 'log')).toMatch(/^rekor-v2 +P-256 +online +LATCHED/m)
    expect(await chancery('key', 'unlatch', 'rekor-v2')).toMatchObject({
      status: 7,
      stderr: expect.stringMatching(/^origin:rekor-v2\.cli\.test since 20[^]*#confirmation_needed/),
    })
    expect(await screen('key', 'unlatch', 'rekor-v2', '--confirm')).toBe(`lifted: origin:${origin}\n`)
    await agent.treeHead({ ...head, rootHash: Buffer.alloc(32, 1) })
    expect((await chancery('key', 'unlatch', 'nobody', '--confirm')).status).toBe(6)
  })

  test('a PIN is changed; a wrong one latches and is lifted by hand', async () => {
    const pinFile = join(data, 'hsm/chancery-online.pin')
    const before = readFileSync(pinFile, 'utf8')
    expect((await chancery('token', 'pin', 'rotate', 'online')).status).toBe(0)
    const after = readFileSync(pinFile, 'utf8')
    expect(after).not.toBe(before)
    expect(await screen('token', 'unlatch', 'online')).toBe('token online is not latched\n')
    writeFileSync(pinFile, before)
    await running?.close()
    running = await spawnAgent({ configPath: join(data, 'agent/online.yaml') })
    expect(await screen('token', 'ls')).toMatch(/^online +LATCHED/m)
    expect(await chancery('token', 'pin', 'rotate', 'online')).toMatchObject({
      status: 4,
      stderr: expect.stringContaining('#token_latched'),
    })
    expect((await chancery('key', 'gen', 'x')).status).toBe(4)
    expect(await chancery('token', 'unlatch', 'online')).toMatchObject({
      status: 7,
      stderr: expect.stringContaining('#confirmation_needed'),
    })
    expect(await chancery('token', 'unlatch', 'online', '--confirm')).toMatchObject({
      status: 4,
      stderr: expect.stringContaining('latched again'),
    })
    writeFileSync(pinFile, after)
    expect(await screen('token', 'unlatch', 'online', '--confirm')).toBe('token online is logged in\n')
    expect(await screen('key', 'unlatch', 'ct')).toBe('key ct is not latched\n')
    const loose = join(folder, 'loose.pin')
    writeFileSync(loose, 'a-new-pin\n', { mode: 0o644 })
    expect(await chancery('token', 'pin', 'rotate', 'online', '--new-pin-file', loose)).toMatchObject({
      status: 4,
      stderr: expect.stringContaining('#pin_file_mode'),
    })
  })

  test('a key is backed up and comes back on a second token', async () => {
    const file = (name: string) => join(folder, name)
    const second = { label: 'recovery', pinFile: join(data, 'hsm/recovery.pin') }
    expect(await screen('token', 'init', 'recovery', '--dry-run')).toContain('Nothing was done')
    expect(existsSync(second.pinFile)).toBe(false)
    expect((await chancery('token', 'init', 'recovery', '--add')).status).toBe(0)
    expect(await chancery('token', 'init', 'recovery', '--add')).toMatchObject({
      status: 6,
      stderr: expect.stringContaining('#token_exists'),
    })
    await running?.close()
    running = await spawnAgent({ configPath: join(data, 'agent/online.yaml') })

    const { idHex } = await json<Made>('key', 'gen', 'kept', '--backup')
    expect(await chancery('key', 'backup', 'kept', '-o', file('early.json'))).toMatchObject({
      status: 6,
      stderr: expect.stringContaining('no_kek'),
    })
    expect(existsSync(file('early.json'))).toBe(false)
    expect((await chancery('key', 'kek', 'init', 'online')).status).toBe(0)
    const asked = await json<{ fingerprint: string }>('key', 'kek', 'request', 'recovery', '-o', file('request.json'))
    const share = ['key', 'kek', 'share', 'online', '--request', file('request.json'), '-o', file('share.json')]
    expect((await chancery(...share)).status).toBe(7)
    expect(await chancery(...share, '--fingerprint', 'abcd')).toMatchObject({
      status: 7,
      stderr: expect.stringContaining('#kek_fingerprint'),
    })
    expect((await chancery(...share, '--fingerprint', asked.fingerprint)).status).toBe(0)
    expect((await chancery('key', 'kek', 'accept', 'recovery', '--from', file('request.json'))).status).toBe(8)
    expect((await chancery('key', 'kek', 'accept', 'recovery', '--from', file('share.json'))).status).toBe(0)

    // Without names: what can be; the keys of the installation cannot.
    const made = await json<{ keys: { label: string }[]; notWrapped: { reason: string }[] }>(
      'key',
      'backup',
      '-o',
      file('keys.json'),
    )
    expect(made.keys.map(({ label }) => label)).toEqual(['kept'])
    expect(new Set(made.notWrapped.map(({ reason }) => reason))).toEqual(new Set(['not_extractable']))
    expect((await chancery('key', 'backup', '-o', file('keys.json'))).stderr).toContain('#backup_target_exists')
    expect(await chancery('key', 'backup', 'tsa', '-o', file('tsa.json'))).toMatchObject({ status: 6 })

    expect(await screen('key', 'restore', '--from', file('keys.json'), '--token', 'recovery', '--dry-run')).toContain(
      'Nothing was done',
    )
    copyFileSync(file('keys.json'), file('damaged.json'))
    writeFileSync(
      file('damaged.json'),
      readFileSync(file('keys.json'), 'utf8').replace(/"wrapped": "..../, '"wrapped": "AAAA'),
    )
    expect(await chancery('key', 'restore', '--from', file('damaged.json'), '--token', 'recovery')).toMatchObject({
      status: 8,
      stderr: expect.stringContaining('#unwrap_refused'),
    })
    const back = await json<{ keys: object[] }>(
      'key',
      'restore',
      'kept',
      '--from',
      file('keys.json'),
      '--token',
      'recovery',
    )
    expect(back.keys).toMatchObject([{ idHex, token: 'recovery', already: false }])
    expect(await screen('key', 'restore', '--from', file('keys.json'), '--token', 'recovery')).toContain(
      'was there already',
    )
    expect(await json('key', 'show', 'kept', '--token', 'recovery')).toMatchObject({
      backup: true,
      unproven: ['ALWAYS_SENSITIVE', 'LOCAL'],
    })
  })

  test('no PIN was ever printed', async () => {
    const pins = readdirSync(join(data, 'hsm')).filter((name) => name.endsWith('pin'))
    expect(pins.length).toBeGreaterThanOrEqual(6)
    for (const name of pins) expect(printed).not.toContain(readFileSync(join(data, 'hsm', name), 'utf8').trim())
  })
})
