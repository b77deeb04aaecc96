/**
 * What whoever holds a socket of the agent can have signed: every cell of the table in docs/security.md is tried, with
 * requests that are sound, so that the socket alone decides.
 */
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { AdminAgent } from './administration.ts'
import {
  install,
  type Installation,
  KEY_OF,
  need,
  ORIGIN,
  prepared,
  setRequest,
  timestampRequest,
  treeOf,
  tufPayload,
} from './agent.fixture.ts'
import { AgentStream, connectAdminAgent } from './client.ts'
import { type ExternalAgent, startExternal } from './external-agent.fixture.ts'
import { ADMIN_METHODS, SIGNING_METHODS } from './protocol.ts'
import { connectRoleAgents } from './role-agents.ts'
import { ROLES, type Role } from './roles.ts'
import { HsmError } from './signing.ts'
import { MAX_FRAME_BYTES } from './wire.ts'

const SOCKETS = [...ROLES, 'signing', 'admin'] as const
type SocketName = (typeof SOCKETS)[number]

let installation: Installation
let external: ExternalAgent
const agents = new Map<SocketName, AdminAgent>()

const pathOf = (name: string) => join(installation.folder, `${name}.sock`)

beforeAll(async () => {
  installation = await install()
  const roles = Object.fromEntries(ROLES.map((role) => [role, { path: pathOf(role) }]))
  installation.configure({ sockets: { signing: pathOf('signing'), admin: pathOf('admin'), roles } })
  external = await startExternal(installation.configPath)
  for (const name of SOCKETS) agents.set(name, await connectAdminAgent({ socketPath: pathOf(name) }))
})

afterAll(async () => {
  for (const agent of agents.values()) await agent.close()
  await external.stop()
  installation.remove()
})

function agentOf(name: SocketName): AdminAgent {
  const agent = agents.get(name)
  if (agent === undefined) throw new TypeError(`no connection ${name}`)
  return agent
}

/** `signed`, or `code reason` of a refusal. */
async function outcome(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'signed'
  } catch (error) {
    if (error instanceof HsmError) return `${error.code} ${error.reason}`
    throw error
  }
}

let tufVersion = 0

/** Sound requests, by the columns of the table. */
const ATTEMPTS: Readonly<Record<string, (agent: AdminAgent) => Promise<unknown>>> = {
  certificate: (agent) =>
    agent.certificate({ key: KEY_OF.certificate, tbsDer: prepared(installation).precertificateTbs() }),
  'tree head': (agent) =>
    agent.treeHead({
      key: KEY_OF.treeHead,
      origin: ORIGIN['rekor-v2'],
      size: 5,
      rootHash: treeOf(5).root(),
      timestampMs: Date.now(),
      consistencyProof: [],
    }),
  SCT: (agent) => agent.sct({ key: KEY_OF.sct, timestampMs: Date.now(), entry: prepared(installation).sctInput() }),
  SET: (agent) => agent.set(setRequest()),
  timestamp: (agent) => agent.timestamp(timestampRequest()),
  'TUF metadata': (agent) =>
    agent.tuf({ key: KEY_OF.tuf, role: 'timestamp', payload: tufPayload({ version: ++tufVersion }) }),
  'CA certificate': (agent) => agent.caCertificate({ key: KEY_OF.caCertificate, tbsDer: tbsOf(installation.rootDer) }),
  administration: (agent) => agent.raiseCap({ key: KEY_OF.certificate, perMinute: 60_000, minutes: 1 }),
}

/** Who has which socket, by the first words of the table's rows. */
const HOLDERS: Readonly<Record<string, SocketName>> = {
  'the CA': 'ca',
  'the logs': 'log',
  'the timestamp authority': 'timestamp',
  'the trust root': 'trust',
  'who reads the account': 'audit',
  'one process with all services': 'signing',
  'an operator': 'admin',
}

/** The table as the document has it: holder, column, yes or no. */
function documented(): { holder: string; column: string; signs: boolean }[] {
  const text = readFileSync(new URL('../docs/security.md', import.meta.url), 'utf8')
  const section = text.split('## What each captured process can and cannot sign')[1] ?? ''
  const rows = section
    .split('\n## ')[0]
    ?.split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    )
  const [head, , ...body] = rows ?? []
  return body.flatMap(([holder = '', ...cells]) =>
    cells.map((cell, at) => {
      if (cell !== 'yes' && cell !== '-') throw new TypeError(`a cell of ${holder} is ${cell}`)
      return { holder: holder.replace(/ \(.*/, ''), column: head?.[at + 1] ?? '', signs: cell === 'yes' }
    }),
  )
}

describe('the table of docs/security.md', () => {
  const cells = documented()

  test('has a row for each socket and a column for each purpose', () => {
    expect([...new Set(cells.map(({ holder }) => holder))].toSorted()).toEqual(Object.keys(HOLDERS).toSorted())
    expect([...new Set(cells.map(({ column }) => column))]).toEqual(Object.keys(ATTEMPTS))
  })

  test.each(cells)('$holder, $column: $signs', async ({ holder, column, signs }) => {
    const name = HOLDERS[holder]
    const attempt = ATTEMPTS[column]
    if (name === undefined || attempt === undefined) throw new TypeError(`nothing tries ${holder}, ${column}`)
    const found = await outcome(attempt(agentOf(name)))
    if (signs) expect(found).toBe('signed')
    else expect(found).toMatch(/^refused (wrong_socket|unknown_method)$/)
  })
})

/** What each role is meant to have, told here once more. */
const METHODS: Readonly<Record<Role, readonly string[]>> = {
  ca: ['certificate'],
  log: ['treeHead', 'sct', 'set', 'guardedHead', 'reportHead'],
  timestamp: ['timestamp'],
  trust: ['tuf', 'tufVersions'],
  audit: ['account', 'useDigests', 'accountHead'],
}

describe.each(ROLES)('the socket of the role %s', (role) => {
  test('refuses every method that is not its own, whatever the argument', async () => {
    const stream = new AgentStream(connect(pathOf(role)))
    const own: readonly string[] = ['key', 'status', ...METHODS[role]]
    for (const method of [...SIGNING_METHODS, ...ADMIN_METHODS]) {
      if (own.includes(method)) continue
      for (const argument of [{}, { key: KEY_OF.certificate }, { key: KEY_OF.treeHead }, [], null]) {
        expect(await outcome(stream.request(method, argument, 1000)), method).toBe('refused wrong_socket')
      }
    }
    stream.destroy()
  })

  test('knows no key of another role, and tells of none', async () => {
    const agent = agentOf(role)
    const status = await agent.status()
    expect(status.keys.map(({ name }) => name).toSorted()).toEqual(keysOf(role))
    expect(status.guards.length).toBe(role === 'log' ? 1 : 0)
    for (const name of Object.values(KEY_OF)) {
      const own = keysOf(role).includes(name)
      expect(await outcome(agent.key(name)), name).toBe(own ? 'signed' : 'unknown_key wrong_socket')
      expect(await outcome(agent.timestamp({ ...timestampRequest(), key: name })), name).toBe(
        role !== 'timestamp' ? 'refused wrong_socket' : own ? 'signed' : 'unknown_key wrong_socket',
      )
    }
  })
})

function keysOf(role: Role): string[] {
  return {
    ca: ['issuing-ca'],
    log: ['ct', 'rekor-v1', 'rekor-v2'],
    timestamp: ['tsa'],
    trust: ['tuf-online'],
    audit: [],
  }[role]
}

test('a socket that is for one key of its role has no other', async () => {
  const narrow = await import('./agent-config.ts')
  const text = readFileSync(installation.configPath, 'utf8')
  const folder = join(installation.folder, 'agent')
  const withKeys = (keys: string) => text.replace('log:\n      path:', `log:\n      keys: [${keys}]\n      path:`)
  expect(narrow.parseAgentConfig(withKeys('ct'), folder).roleSockets).toContainEqual({
    role: 'log',
    path: pathOf('log'),
    gid: undefined,
    uids: undefined,
    keys: ['ct'],
  })
  expect(() => narrow.parseAgentConfig(withKeys('tsa'), folder)).toThrow(/no key tsa of this role/)
})

test('the sockets of all roles together are one agent, and those of some refuse what they have not', async () => {
  const all = await connectRoleAgents(Object.fromEntries(ROLES.map((role) => [role, pathOf(role)])))
  const status = await all.status()
  expect(status.ready).toBe(true)
  expect(status.keys.map(({ name }) => name).toSorted()).toEqual(ROLES.flatMap(keysOf).toSorted())
  expect((await all.key('tsa')).purposes).toEqual(['timestamp'])
  expect(await outcome(all.key('root-ca'))).toBe('unknown_key unknown_key')
  expect(await outcome(all.timestamp(timestampRequest()))).toBe('signed')
  expect(await outcome(all.set(setRequest()))).toBe('signed')
  expect(await all.guardedHead({ key: 'rekor-v2', origin: ORIGIN['rekor-v2'] })).toMatchObject({ size: 5 })
  await all.close()
  const some = await connectRoleAgents({ timestamp: pathOf('timestamp') })
  expect(await outcome(some.set(setRequest()))).toBe('refused no_socket')
  await some.close()
})

test('a flood on one socket leaves the others alone, and the memory bounded', async () => {
  const before = residentMib()
  const half = Buffer.alloc(MAX_FRAME_BYTES)
  half.writeUInt32BE(MAX_FRAME_BYTES - 4)
  const crowd = Array.from({ length: 40 }, () => connect(pathOf('timestamp')))
  const closed = new Set<Socket>()
  for (const socket of crowd) {
    socket.on('error', () => undefined)
    socket.once('close', () => closed.add(socket))
    // All but the last bytes of a frame as large as any.
    socket.write(half.subarray(0, -8))
  }
  // One of the places is our own connection's.
  await expect.poll(() => closed.size).toBe(9)
  const floods = [1, 2].map(() => new AgentStream(connect(pathOf('log'))))
  const asked = floods.flatMap((stream) =>
    Array.from({ length: 4000 }, () =>
      outcome(stream.request('set', { key: 'rekor-v1', body: half.subarray(0, 2000) }, 5000)),
    ),
  )
  const answers = Promise.all(asked)
  for (let i = 0; i < 5; i++) {
    expect(await outcome(need(ATTEMPTS['certificate'])(agentOf('ca')))).toBe('signed')
  }
  for (const answer of await answers) expect(answer).toMatch(/^(refused malformed|busy too_many_requests)$/)
  // What it holds of unfinished frames and of requests under way, twice for what the collector has not got to.
  expect(residentMib() - before).toBeLessThan(2 * (32 + 32) + 32)
  for (const stream of [...crowd, ...floods]) stream.destroy()
})

function residentMib(): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${external.pid}/status`, 'utf8'))?.[1]
  return Number(kib) / 1024
}

/** The TBSCertificate inside a certificate whose head has four bytes. */
function tbsOf(certificateDer: Uint8Array): Uint8Array {
  const inner = Buffer.from(certificateDer.subarray(4))
  return inner.subarray(0, 4 + inner.readUInt16BE(2))
}
