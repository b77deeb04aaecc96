/**
 * The agent as its own user, as a service manager runs it: who may connect to the socket of a role, and that neither
 * another user nor its own may look into its memory. Users need no entry in /etc/passwd; becoming one takes root.
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { install, type Installation } from './agent.fixture.ts'
import { asUser, type ExternalAgent, type OtherUser, outputAs, startExternal } from './external-agent.fixture.ts'

const CA_GROUP = 64_101
const LOG_GROUP = 64_102
const user = (uid: number, groups: readonly number[] = []): OtherUser => ({ uid, gid: uid, groups })
const AGENT = user(64_001, [CA_GROUP, LOG_GROUP])
const CA = user(64_002, [CA_GROUP])
const CA_BY_PRIMARY_GROUP: OtherUser = { uid: 64_003, gid: CA_GROUP, groups: [] }
const LOG = user(64_004, [LOG_GROUP])
const STRANGER = user(64_005)
const STRANGER_IN_GROUP = user(64_006, [CA_GROUP])

let installation: Installation
let agent: ExternalAgent
const pathOf = (name: string) => join(installation.folder, 'run', `${name}.sock`)

beforeAll(async () => {
  if (process.getuid?.() !== 0) {
    throw new Error('these tests act as several users, which takes root: sudo -E scripts/test contract')
  }
  installation = await install()
  mkdirSync(join(installation.folder, 'run'))
  installation.configure({
    sockets: {
      admin: pathOf('admin'),
      roles: {
        ca: { path: pathOf('ca'), group: CA_GROUP, users: [CA.uid, CA_BY_PRIMARY_GROUP.uid] },
        log: { path: pathOf('log'), group: LOG_GROUP },
        timestamp: { path: pathOf('timestamp'), users: [STRANGER.uid] },
        trust: { path: pathOf('trust') },
      },
    },
  })
  giveTo(installation.folder, AGENT)
  chmodSync(installation.folder, 0o711)
  agent = await startExternal(installation.configPath, AGENT)
})

afterAll(async () => {
  await agent.stop()
  installation.remove()
})

function giveTo(path: string, { uid, gid }: OtherUser): void {
  chownSync(path, uid, gid)
  if (!lstatSync(path).isDirectory()) return
  for (const name of readdirSync(path)) giveTo(join(path, name), { uid, gid, groups: [] })
}

const ask = async (as: OtherUser, socket: string) =>
  await outputAs(as, ['hsm/stranger.fixture.ts', 'socket', pathOf(socket)])
const read = async (as: OtherUser, file: string) => await outputAs(as, ['hsm/stranger.fixture.ts', 'read', file])

describe('the socket of a role', () => {
  test.each([
    ['ca', 'the CA', CA, 'answered'],
    ['ca', 'the CA by its primary group', CA_BY_PRIMARY_GROUP, 'answered'],
    ['ca', 'a log', LOG, 'EACCES'],
    ['ca', 'a stranger', STRANGER, 'EACCES'],
    ['ca', 'a stranger in the group', STRANGER_IN_GROUP, 'refused'],
    ['log', 'a log', LOG, 'answered'],
    ['log', 'the CA', CA, 'EACCES'],
    ['timestamp', 'the user it names', STRANGER, 'answered'],
    ['timestamp', 'another user', LOG, 'refused'],
    ['trust', 'a stranger', STRANGER, 'EACCES'],
    ['admin', 'a stranger', STRANGER, 'EACCES'],
    ['admin', 'the CA', CA, 'EACCES'],
    ['trust', "the agent's own user", AGENT, 'answered'],
  ])('%s: %s', async (socket, _, as, expected) => {
    expect(await ask(as, socket)).toBe(expected)
  })

  test('does not rest on the mode of the file: with it open to all, the kernel’s word for the peer decides', async () => {
    for (const socket of ['ca', 'log', 'trust', 'admin']) chmodSync(pathOf(socket), 0o666)
    for (const socket of ['ca', 'log', 'trust', 'admin']) expect(await ask(STRANGER, socket), socket).toBe('refused')
    expect(await ask(LOG, 'ca')).toBe('refused')
    expect(agent.said.filter((line) => line.includes('connection of another user refused')).length).toBeGreaterThan(4)
  })

  test('belongs to the agent and to the group of its role', () => {
    for (const [name, gid] of [
      ['ca', CA_GROUP],
      ['log', LOG_GROUP],
      ['trust', AGENT.gid],
      ['admin', AGENT.gid],
    ] as const) {
      expect(statSync(pathOf(name)), name).toMatchObject({ uid: AGENT.uid, gid })
    }
  })
})

describe('the memory of the agent, which holds the PIN', () => {
  const proc = (name: string) => `/proc/${agent.pid}/${name}`
  const lineOf = (file: string, start: string) =>
    readFileSync(file, 'utf8')
      .split('\n')
      .find((line) => line.startsWith(start))

  test('is read neither by another user nor by its own', async () => {
    for (const as of [STRANGER, CA, AGENT]) {
      for (const name of ['mem', 'environ', 'maps', 'fd/0']) {
        expect(await read(as, proc(name)), `${name} by ${as.uid}`).toMatch(/^(EACCES|EPERM)$/)
      }
    }
  })

  test('the same user reads a process that has not shut itself off', async () => {
    const open = asUser(AGENT, ['-e', 'setInterval(() => {}, 1000)'])
    const { pid } = open
    try {
      // The shell and setpriv come first; Node.js is there when its name is.
      await expect.poll(() => readFileSync(`/proc/${String(pid)}/cmdline`, 'utf8')).toContain('setInterval')
      expect(await read(AGENT, `/proc/${String(pid)}/environ`)).toBe('readable')
    } finally {
      open.kill('SIGKILL')
    }
  })

  test('never goes into a core file', () => {
    expect(lineOf(proc('limits'), 'Max core file size')).toMatch(/^Max core file size +0 +0 /)
    // What is not dumpable belongs to root in /proc, and is not dumped by the kernel, into a pipe neither.
    expect(statSync(proc('environ'))).toMatchObject({ uid: 0, gid: 0 })
  })

  test('the process has no capability, can gain none, and has no network', () => {
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
      expect(lineOf(proc('status'), set)).toMatch(/\t0{16}$/)
    }
    expect(lineOf(proc('status'), 'NoNewPrivs')).toMatch(/\t1$/)
    expect(lineOf(proc('status'), 'Uid')).toBe(`Uid:${`\t${AGENT.uid}`.repeat(4)}`)
    const interfaces = readFileSync(proc('net/dev'), 'utf8').trim().split('\n').slice(2)
    expect(interfaces.map((line) => line.trim().split(':')[0])).toEqual(['lo'])
    for (const kind of ['tcp', 'tcp6', 'udp', 'udp6']) {
      const file = proc(`net/${kind}`)
      if (existsSync(file)) expect(readFileSync(file, 'utf8').trim().split('\n').slice(1), kind).toEqual([])
    }
  })
})

test('a PIN file as systemd gives it is taken, and refused outside of the folder of credentials', async () => {
  const { readPin } = await import('./token.ts')
  const folder = join(installation.folder, 'credentials')
  mkdirSync(folder)
  const pin = join(folder, 'pin')
  writeFileSync(pin, '1234\n')
  chmodSync(pin, 0o440) // the mask of its ACL
  expect(() => readPin(pin)).toThrow(/may be read by others/)
  process.env['CREDENTIALS_DIRECTORY'] = folder
  try {
    expect(readPin(pin)).toBe('1234')
    for (const mode of [0o444, 0o460, 0o404]) {
      chmodSync(pin, mode)
      expect(() => readPin(pin), mode.toString(8)).toThrow(/may be read by others/)
    }
  } finally {
    delete process.env['CREDENTIALS_DIRECTORY']
  }
})
