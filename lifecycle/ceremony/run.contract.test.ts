/** A ceremony on two machines with three operators, one with each kind of key; cut off after every line and gone on with. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseRoles } from '#trust-root'
import { withAdminAgent } from '../agents.ts'
import { type SignedStatement, signStatement } from './approval.ts'
import { type Machine, makeMachine } from './machine.fixture.ts'
import { personWithHsm, personWithMinisign, personWithSsh, type Somebody } from './people.fixture.ts'
import { planText } from './plan.fixture.ts'
import { readPlan, type ReadPlan } from './plan.ts'
import { rehearse, runCeremony, type RunOptions } from './run.ts'
import { TRANSCRIPT_FILE } from './transcript.ts'
import { verifyTranscript } from './verify.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-ceremony-'))
const folder = join(scratch, 'ceremony')
let vault: Machine
let server: Machine
let operators: readonly Somebody[]
let read: ReadPlan
const approvals = new Map<string, SignedStatement>()

const now = () => new Date()
const at = (machine: 'vault' | 'server', changes: Partial<RunOptions> = {}): RunOptions => ({
  read,
  folder,
  machine,
  dataDir: machine === 'vault' ? vault.dataDir : server.dataDir,
  approvals: [],
  ...changes,
})
const transcriptIn = (where: string) => readFileSync(join(where, TRANSCRIPT_FILE), 'utf8')
const approvalOf = (name: string): SignedStatement => {
  const approval = approvals.get(name)
  if (approval === undefined) throw new TypeError(`${name} has not approved`)
  return approval
}

beforeAll(async () => {
  ;[vault, server] = await Promise.all([makeMachine(['root']), makeMachine(['online', 'standby'])])
  operators = [
    personWithSsh(join(scratch, 'alice'), 'alice'),
    personWithMinisign(join(scratch, 'bob'), 'bob'),
    await personWithHsm(join(scratch, 'carol'), 'carol'),
  ]
  const uris = {
    root: vault.uris['root'] ?? '',
    online: server.uris['online'] ?? '',
    standby: server.uris['standby'] ?? '',
  }
  read = readPlan(Buffer.from(planText({ operators, uris })))
  for (const { name, key } of operators)
    approvals.set(name, await signStatement(read, name, { act: 'approve' }, { key, now: now() }))
})

afterAll(() => {
  vault.remove()
  server.remove()
  rmSync(scratch, { recursive: true, force: true })
})

describe('approvals', () => {
  test('1 of 3 is refused, and so is the same person twice; nothing is written', async () => {
    for (const given of [[], [approvalOf('alice')], [approvalOf('bob'), approvalOf('bob')]]) {
      await expect(runCeremony(at('vault', { approvals: given }))).rejects.toMatchObject({ code: 'ceremony_quorum' })
      await expect(rehearse(at('vault', { approvals: given }), [])).rejects.toMatchObject({ code: 'ceremony_quorum' })
    }
    expect(existsSync(join(folder, TRANSCRIPT_FILE)) ? transcriptIn(folder) : '').toBe('')
  })

  test('one that does not count refuses the whole run, by name', async () => {
    const good = [approvalOf('alice'), approvalOf('carol')]
    const other = readPlan(Buffer.from(`${read.text}# a blank more\n`))
    const [first] = operators
    const key = first?.key ?? { ssh: '' }
    const ofOther = await signStatement(other, 'alice', { act: 'approve' }, { key, now: now() })
    const forged = { ...approvalOf('bob'), statement: approvalOf('bob').statement.replace('name: bob', 'name: carol') }
    const unknown = { ...approvalOf('bob'), statement: approvalOf('bob').statement.replace('name: bob', 'name: dave') }
    const damaged = { ...approvalOf('carol'), signature: { by: 'pkcs11' as const, base64: 'AAAA' } }
    const rows: readonly [SignedStatement, RegExp][] = [
      [ofOther, /alice signed another plan/],
      [forged, /in the name of carol .* another kind/],
      [unknown, /dave is no operator/],
      [damaged, /in the name of carol .* does not verify/],
    ]
    for (const [bad, words] of rows) {
      const run = runCeremony(at('vault', { approvals: [...good, bad] }))
      await expect(run).rejects.toMatchObject({
        code: 'ceremony_approval_refused',
        message: expect.stringMatching(words),
      })
    }
  })

  test('nobody signs with a key that the plan does not have for them', async () => {
    const mallory = personWithSsh(join(scratch, 'mallory'), 'mallory')
    const asked = signStatement(read, 'alice', { act: 'approve' }, { key: mallory.key, now: now() })
    await expect(asked).rejects.toThrow(/in the name of alice is refused/)
  })
})

describe('refused before anything is done', () => {
  test.each([
    ['an expired plan', { now: () => new Date('2099-01-01T00:00:00Z') }, 'ceremony_plan_expired'],
    ['a machine that the plan does not know', { machine: 'laptop' }, 'ceremony_plan_invalid'],
    ['an agent that is not there', { dataDir: '/nowhere' }, 'no_such_agent'],
  ])('%s', async (_what, changes, code) => {
    const where = join(scratch, 'refused')
    const given = [approvalOf('alice'), approvalOf('bob')]
    await expect(runCeremony(at('vault', { folder: where, approvals: given, ...changes }))).rejects.toMatchObject({
      code,
    })
  })
})

describe('two machines, one after the other', () => {
  test('a rehearsal writes nothing and tells what is left', async () => {
    const given = [approvalOf('alice'), approvalOf('bob')]
    const told = await rehearse(at('vault', { approvals: given }), [])
    expect(told.left.length).toBeGreaterThan(20)
    expect(told.left[0]).toEqual({ id: 'key root-ca', machine: 'vault' })
  })

  test('the vault makes the root; the server its keys and requests; the vault certificates; the server is done', async () => {
    const first = await runCeremony(at('vault', { approvals: [approvalOf('alice'), approvalOf('carol')] }))
    expect(first).toMatchObject({ state: 'elsewhere', approvals: ['alice', 'carol'] })
    const second = await runCeremony(at('server'))
    expect(second.left.map(({ machine }) => machine)).toContain('vault')
    await runCeremony(at('vault'))
    const last = await runCeremony(at('server'))
    expect(last).toMatchObject({ state: 'done', left: [] })
    const verified = verifyTranscript(transcriptIn(folder), { witnesses: [] })
    expect(verified.head).toBe(last.head)
    expect(parseRoles(readFileSync(join(folder, 'roles.json'), 'utf8')).root.threshold).toBe(1)
  })

  test('run again it does nothing', async () => {
    const before = transcriptIn(folder)
    expect(await runCeremony(at('server'))).toMatchObject({ state: 'done' })
    expect(transcriptIn(folder)).toBe(before)
  })

  test('every key has its purpose with the agents, and none is left that only asks', async () => {
    const purposes = await withAdminAgent({ dataDir: server.dataDir, agent: 'online' }, async (admin) =>
      Object.fromEntries((await admin.keyRecords()).map((record) => [record.name, record.purposes.join(' ')])),
    )
    expect(purposes).toMatchObject({
      'issuing-ca': 'certificate',
      tsa: 'timestamp',
      ct: 'sct treeHead',
      'ct-witness': 'witnessHead',
      account: 'accountHead',
    })
  })
})
