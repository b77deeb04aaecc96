/** A ceremony on two machines with three operators, one with each kind of key; and transcripts that are not what they say. */
import { generateKeyPairSync, hash } from 'node:crypto'
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
  await Promise.all([vault.start(), server.start()])
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

afterAll(async () => {
  await vault.remove()
  await server.remove()
  rmSync(scratch, { recursive: true, force: true })
})

describe('approvals', () => {
  test('1 of 3 is refused, and so is the same person twice; nothing is written', async () => {
    for (const given of [[], [approvalOf('alice')], [approvalOf('bob'), approvalOf('bob')]]) {
      await expect(runCeremony(at('vault', { approvals: given }))).rejects.toMatchObject({ code: 'ceremony_quorum' })
      await expect(rehearse(at('vault', { approvals: given }), [])).rejects.toMatchObject({ code: 'ceremony_quorum' })
    }
    expect(existsSync(join(folder, TRANSCRIPT_FILE))).toBe(false)
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

describe('a transcript that was written anew, with all its hashes, is refused by what it says', () => {
  type Line = Readonly<Record<string, unknown>>
  const lines = (): Line[] =>
    transcriptIn(folder)
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Line)

  /** With numbers and hashes that fit. */
  function forged(all: readonly Line[]): string {
    let previous = '0'.repeat(64)
    return all
      .map((each, at) => {
        const { line: _line, time, machine, previous: _previous, hash: _hash, ...said } = each
        const unhashed = { line: at + 1, time, machine, previous, ...said }
        previous = hash('sha256', JSON.stringify(unhashed))
        return `${JSON.stringify({ ...unhashed, hash: previous })}\n`
      })
      .join('')
  }

  /** The one line of this event and step with other members. */
  const other = (event: string, step: string, change: (line: Line) => Line) => (all: Line[]) => {
    const at = all.findIndex((line) => line['event'] === event && (line['step'] ?? line['name']) === step)
    expect(at, `${event} ${step}`).toBeGreaterThan(0)
    return all.with(at, change(all[at] ?? {}))
  }
  const without = (event: string, step: string) => (all: Line[]) =>
    all.filter((line) => line['event'] !== event || (line['step'] ?? line['name']) !== step)
  const keyOf = (line: Line) => line['key'] as Readonly<Record<string, string>> // of the event key
  const chainOf = (line: Line) => line['chain'] as readonly string[] // of the event certificate

  test('unchanged, it is accepted', () => {
    expect(forged(lines())).toBe(transcriptIn(folder))
  })

  const rows: readonly [string, (all: Line[]) => Line[], RegExp][] = [
    ['one approval less', without('approval', 'carol'), /line 3 .* 1 of 2 approvals were missing/],
    ['one approval twice', (all) => all.with(2, all[1] ?? {}), /line 3 .* alice has approved already/],
    [
      'an approval in another name',
      other('approval', 'alice', (line) => ({ ...line, name: 'bob' })),
      /line 2 .* by alice, not by bob/,
    ],
    [
      'an approval of another day',
      other('approval', 'alice', (line) => ({
        ...line,
        statement: String(line['statement']).replace('at: 2', 'at: 3'),
      })),
      /line 2 .* in the name of alice is refused/,
    ],
    [
      'another plan',
      (all) => all.with(0, { ...all[0], ...planOf(read.text.replace('quorum: 2', 'quorum: 1')) }),
      /line 2 .* alice signed another plan/,
    ],
    [
      'a digest that is not of the plan',
      (all) => all.with(0, { ...all[0], planSha256: '00'.repeat(32) }),
      /line 1 .* digest/,
    ],
    ['a key whose beginning was not written', without('intent', 'key ct'), /nothing was written before/],
    ['a key that is not told of', without('key', 'key tsa'), /request tsa comes after key tsa/],
    ['a step on another machine', other('key', 'key ct', (line) => ({ ...line, machine: 'vault' })), /is for server/],
    [
      'a machine that the plan does not have',
      other('key', 'key ct', (line) => ({ ...line, machine: 'x' })),
      /no machine x/,
    ],
    [
      'a step that is not planned',
      other('key', 'key ct', (line) => ({ ...line, step: 'key spare' })),
      /no step "key spare"/,
    ],
    [
      'a key that can leave its token',
      other('key', 'key root-ca', (line) => ({
        ...line,
        attributes: { ...(line['attributes'] as object), EXTRACTABLE: 'yes' },
      })),
      /root-ca is not what it must be: WRAP_WITH_TRUSTED|root-ca can leave/,
    ],
    [
      'a key that others could read',
      other('key', 'key root-ca', (line) => ({
        ...line,
        attributes: { ...(line['attributes'] as object), SENSITIVE: 'no' },
      })),
      /SENSITIVE is no, not yes/,
    ],
    [
      'an origin that is not proven, and not told of',
      other('key', 'key root-ca', (line) => ({
        ...line,
        attributes: { ...(line['attributes'] as object), LOCAL: 'no' },
      })),
      /unproven is told otherwise/,
    ],
    [
      'another id',
      other('key', 'key ct', (line) => ({ ...line, key: { ...keyOf(line), idHex: '00' } })),
      /another key than was begun/,
    ],
    [
      'another public key',
      other('key', 'key ct', (line) => ({ ...line, key: { ...keyOf(line), spki: someSpki() } })),
      /output is not the digest/,
    ],
    [
      'another request',
      (all) => {
        const tsa = all.find((line) => line['step'] === 'request tsa') ?? {}
        const { input, csr, output } = tsa
        return other('request', 'request issuing-ca', (line) => ({ ...line, input, csr, output }))(all)
      },
      /not for the key issuing-ca/,
    ],
    [
      'what was signed is not what was prepared',
      (all) => {
        const tsa = all.find((line) => line['event'] === 'certificate' && line['step'] === 'certificate tsa') ?? {}
        return other('certificate', 'certificate issuing-ca', (line) => ({ ...line, chain: tsa['chain'] }))(all)
      },
      /what was signed is not what was prepared/,
    ],
    [
      'a certificate with another signature',
      other('certificate', 'certificate issuing-ca', (line) => ({ ...line, chain: withOtherSignature(chainOf(line)) })),
      /signature is not by the issuer/,
    ],
    ['a certificate that was prepared by nobody', without('prepared', 'certificate tsa'), /nothing was prepared/],
    [
      'roles with another threshold',
      other('roles', 'roles tuf', (line) => ({
        ...line,
        roles: String(line['roles']).replace('"threshold": 1', '"threshold": 2'),
      })),
      /the roles are not those of the plan/,
    ],
    ['an end before its time', (all) => [...all.slice(0, -5), all.at(-1) ?? {}], /steps were not done/],
    ['something after the end', (all) => [...all, all.at(-2) ?? {}], /had ended/],
  ]
  test.each(rows)('%s', (_what, change, words) => {
    const text = forged(change(lines()))
    const wrong = { code: 'ceremony_transcript_wrong', message: expect.stringMatching(words) as string }
    expect(() => verifyTranscript(text, { witnesses: [] })).toThrow(expect.objectContaining(wrong))
  })

  test('a line after the plan had expired', () => {
    const text = forged(lines().map((line, at) => (at === 9 ? { ...line, time: '2099-01-01T00:00:00.000Z' } : line)))
    expect(() => verifyTranscript(text, { witnesses: [] })).toThrow(/line 10 .* the plan had expired/)
  })

  test('a witness of the one does not stand for the other', async () => {
    const { lines: all, head } = verifyTranscript(transcriptIn(folder), { witnesses: [] })
    const [alice] = operators
    const key = alice?.key ?? { ssh: '' }
    const witness = await signStatement(read, 'alice', { act: 'witness', lines: all.length, head }, { key, now: now() })
    expect(verifyTranscript(transcriptIn(folder), { witnesses: [witness, witness] }).witnesses).toEqual(['alice'])
    const text = forged(lines().map((line, at) => (at === 5 ? { ...line, time: '2026-01-01T00:00:00.000Z' } : line)))
    expect(() => verifyTranscript(text, { witnesses: [witness] })).toThrow(/alice witnessed \d+ lines with head/)
    expect(() => verifyTranscript(text, { witnesses: [approvalOf('alice')] })).toThrow(/it says approve, not witness/)
  })
})

function planOf(text: string) {
  return { plan: text, planSha256: hash('sha256', text) }
}

function someSpki(): string {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' })
    .publicKey.export({ type: 'spki', format: 'der' })
    .toString('base64')
}

function withOtherSignature([first = '', ...rest]: readonly string[]): string[] {
  const der = Buffer.from(first, 'base64')
  der[der.length - 3] = (der.at(-3) ?? 0) ^ 1
  return [der.toString('base64'), ...rest]
}
