/** `chancery trust` as an operator and two custodians call it: each custodian has a token and an agent, and no server. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { stringify } from 'yaml'
import { makeCustodians, signAsCustodians } from '#lifecycle'
import { listenAdmin, trustVerbs } from '#server'
import { formatRoles, initTrustRoot, readInventory, type Roles, type TrustRoot, writeInventory } from '#trust-root'
import { exampleInventory, memoryAgent, spki } from '../test/support/trust-installation.ts'
import { main } from './main.ts'

let data: string
let roles: Roles
let trustRoot: TrustRoot
let stop: () => Promise<void>

beforeAll(async () => {
  data = mkdtempSync(join(tmpdir(), 'chancery-trust-cli-'))
  for (const folder of ['agent', 'run', 'trust-root']) mkdirSync(join(data, folder), { mode: 0o700 })
  const config = {
    profile: 'development',
    domain: 'example.org',
    agent: { spawn: 'agent/online.yaml' },
    admin: { socket: 'run/admin.sock' },
  }
  writeFileSync(join(data, 'chancery.yaml'), stringify(config))
  roles = await makeCustodians(data, { quorum: { threshold: 2, count: 2 } })
  const agent = memoryAgent('tuf-online')
  trustRoot = await initTrustRoot({ folder: join(data, 'trust-root'), agent }, await exampleInventory(), roles)
  await signAsCustodians(data, trustRoot, roles)
  stop = await listenAdmin(join(data, 'run/admin.sock'), trustVerbs({ trustRoot }))
})

afterAll(async () => {
  await stop?.()
  await trustRoot?.close()
  rmSync(data, { recursive: true })
})

interface Said {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

async function trust(...words: string[]): Promise<Said> {
  const said = { stdout: '', stderr: '' }
  const spies = (['stdout', 'stderr'] as const).map((stream) =>
    vi.spyOn(process[stream], 'write').mockImplementation((chunk) => {
      said[stream] += String(chunk)
      return true
    }),
  )
  process.exitCode = undefined
  try {
    return { status: await main(['trust', ...words, '--data', data]), ...said }
  } finally {
    for (const spy of spies) spy.mockRestore()
    process.exitCode = undefined
  }
}

/** A screen, which must fit 80 columns. */
async function screen(...words: string[]): Promise<string> {
  const { status, stdout, stderr } = await trust(...words)
  expect(status, stderr).toBe(0)
  for (const line of stdout.split('\n')) expect(line.length, line).toBeLessThanOrEqual(80)
  return stdout
}

async function json(...words: string[]): Promise<unknown> {
  return JSON.parse((await trust(...words, '--json')).stdout)
}

const at = (name: string) => join(data, name)
const as = (name: string) => ['--agent', name, '--key', name]

async function addKey(id: string): Promise<void> {
  const folder = join(data, 'trust-root')
  const before = await readInventory(folder)
  const [rekor] = before.items.filter(({ kind }) => kind === 'rekor-v1')
  if (rekor === undefined) throw new Error('no rekor')
  await writeInventory(folder, {
    ...before,
    items: [...before.items, { ...rekor, id, der: [spki()], state: 'trusted' }],
  })
}

test('shows what is published, by whom it is signed, and that nothing changes', async () => {
  expect(await screen('status')).toMatch(/^root +1 +\S+ \S+ +36\d days +2 of 2 +fresh$/m)
  expect(await screen('roles')).toMatch(/^custodian-1 +yes +yes +[0-9a-f]{16}/m)
  expect(await screen('diff')).toBe('Nothing changes.\n')
  expect(await trust('pending')).toMatchObject({ status: 0, stdout: 'nothing awaits signatures\n' })
  expect((await trust('merge', at('chancery.yaml'))).status).toBe(8)
  expect((await trust('payload')).status, 'nothing to sign').toBe(2)
  expect((await trust('withdraw', '--confirm')).status, 'nothing to give up').toBe(2)
})

test('a change is previewed, waits with status 7, and is published with the second signature', async () => {
  await addKey('rekor-v1-next')
  const diff = await screen('diff')
  expect(diff).toMatch(/^ {2}\+ rekor-v1-next: rekor-v1, trusted$/m)
  expect(diff).toMatch(/^ {2}\+ Rekor log http:\/\/rekor-v1\.example\.org, key [0-9a-f]{16}:\s+trusted\s+from/m)
  expect(diff).toMatch(/^ {2}targets 2: 0\/2 signed; may sign: custodian-1 /m)
  expect((await trust('publish')).status).toBe(7)
  expect(await json('pending')).toMatchObject({
    state: 'awaiting-signatures',
    pending: { roles: [{ have: 0, need: 2 }] },
  })
  expect((await trust('payload', '-o', at('p.json'))).status).toBe(0)

  const refused = await trust('sign', at('p.json'), ...as('custodian-1'), '-o', at('1.json'))
  expect(refused.status, 'nobody agreed').toBe(7)
  expect(refused.stderr).toMatch(/\+ Rekor log http:\/\/rekor-v1/)
  expect(existsSync(at('1.json'))).toBe(false)
  expect(await json('sign', at('p.json'), ...as('custodian-1'), '--dry-run')).toMatchObject({
    parts: [{ role: 'targets', version: 2 }],
  })

  for (const number of ['1', '2']) {
    const signed = await trust(
      'sign',
      at('p.json'),
      ...as(`custodian-${number}`),
      '--confirm',
      '-o',
      at(`${number}.json`),
    )
    expect(signed.status, signed.stderr).toBe(0)
  }
  expect((await trust('merge', at('1.json'), at('1.json'))).status, 'the same twice').toBe(6)
  expect((await trust('merge', at('1.json'))).status).toBe(7)
  expect((await trust('merge', at('1.json'))).status, 'again').toBe(6)
  const spoiled = readFileSync(at('2.json'), 'utf8').replace(/"sig": "30(..)/, '"sig": "31$1')
  writeFileSync(at('2-spoiled.json'), spoiled)
  expect((await trust('merge', at('2-spoiled.json'))).status).toBe(8)
  expect(await trust('merge', at('2.json'))).toMatchObject({
    status: 0,
    stdout: 'published: root 1, targets 2, snapshot 2, timestamp 2\n',
  })
})

test("a custodian's agent signs no lower version, and a payload that was changed is shown to nobody", async () => {
  await addKey('rekor-v1-third')
  await trust('publish')
  await trust('payload', '-o', at('q.json'))
  await trust('sign', at('q.json'), ...as('custodian-1'), '--confirm', '-o', at('q1.json'))
  expect((await trust('sign', at('p.json'), ...as('custodian-1'), '--confirm')).status, 'the older one').toBe(6)
  const text = readFileSync(at('q.json'), 'utf8')
  writeFileSync(at('r.json'), text.replace('trusted from', 'trusted until'))
  const refused = await trust('sign', at('r.json'), ...as('custodian-2'), '--confirm')
  expect([refused.status, refused.stdout]).toEqual([8, ''])
  expect((await trust('sign', at('q.json'), '--agent', 'custodian-2', '--key', 'nobody', '--confirm')).status).toBe(6)
  expect((await trust('withdraw')).status, 'not confirmed').toBe(7)
  expect((await trust('withdraw', '--confirm')).stdout).toMatch(/is withdrawn/)
  expect((await trust('merge', at('q1.json'))).status).toBe(2)
})

test('custodians change by their own signatures and those of the new ones', async () => {
  const entry = JSON.parse((await trust('custodian', ...as('custodian-2'), '--holder', 'Cleo')).stdout) as unknown
  const one = { ...roles, root: { threshold: 1, custodians: ['custodian-2'] } }
  const [first] = roles.custodians
  writeFileSync(at('roles.json'), JSON.stringify({ schemaVersion: 1, ...one, custodians: [first, entry] }))
  expect((await trust('roles', '--set', at('roles.json'))).status).toBe(7)
  await trust('payload', '-o', at('s.json'))
  for (const number of ['1', '2']) {
    await trust('sign', at('s.json'), ...as(`custodian-${number}`), '--confirm', '-o', at(`s${number}.json`))
  }
  expect((await trust('merge', at('s1.json'), at('s2.json'))).stdout).toMatch(/^published: root 2, /)
  expect(await screen('roles')).toMatch(/^custodian-1 +- +yes /m)
  expect(formatRoles((await json('roles')) as Roles)).toContain('"holder": "Cleo"')
  writeFileSync(
    at('roles.json'),
    JSON.stringify({ schemaVersion: 1, ...one, root: { threshold: 3, custodians: ['custodian-1'] } }),
  )
  expect((await trust('roles', '--set', at('roles.json'))).status).toBe(2)
})
