/** A ceremony that dies between every two lines of its transcript, and goes on: one key a step, whatever happened. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { parseRoles } from '#trust-root'
import { readAgentFile, withAdminAgent } from '../agents.ts'
import { type SignedStatement, signStatement } from './approval.ts'
import { type Machine, makeMachine } from './machine.fixture.ts'
import { personWithMinisign, type Somebody } from './people.fixture.ts'
import { readPlan, type ReadPlan } from './plan.ts'
import { runCeremony } from './run.ts'
import { templateText } from './templates.ts'
import { readTranscript, TRANSCRIPT_FILE, type TranscriptLine } from './transcript.ts'
import { verifyTranscript } from './verify.ts'
import { longTest } from '../../test/support/long.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-kill-'))
let machine: Machine
let alice: Somebody

beforeAll(async () => {
  machine = await makeMachine(['safe'])
  alice = personWithMinisign(join(scratch, 'alice'), 'alice')
  // Both tokens of the plan with one agent, whose start is what takes the time.
  const path = machine.agentPath('safe')
  const config = parse(readFileSync(path, 'utf8')) as { tokens: Record<string, object> }
  const { softhsmConf = '' } = readAgentFile({ dataDir: machine.dataDir, agent: 'safe' })
  const { modulePath } = readAgentFile({ dataDir: machine.dataDir, agent: 'safe' })
  const words = [
    '--init-token',
    '--free',
    '--label',
    'line',
    '--pin',
    '123456',
    '--so-pin',
    '12345678',
    '--module',
    modulePath,
  ]
  execFileSync('softhsm2-util', words, { env: { ...process.env, SOFTHSM2_CONF: softhsmConf }, stdio: 'ignore' })
  const pinFile = join(machine.dataDir, 'line.pin')
  writeFileSync(pinFile, '123456', { mode: 0o600 })
  const tokens = { ...config.tokens, line: { uri: 'pkcs11:token=line', pinFile, softhsmConf } }
  writeFileSync(path, stringify({ ...config, tokens }))
  await machine.start()
})

afterAll(async () => {
  await machine.remove()
  rmSync(scratch, { recursive: true, force: true })
})

/** A root, and what stands below it, with names that begin with `prefix`. */
function planOf(prefix: string): ReadPlan {
  const name = { organization: 'Example', commonName: `${prefix} CA` }
  const online = { token: 'line', kind: 'P-256' }
  const plan = {
    ceremony: `kill-${prefix}`,
    expires: '2099-01-01T00:00:00Z',
    quorum: 1,
    operators: [{ name: alice.name, [alice.field]: alice.publicKey }],
    tokens: {
      safe: { machine: 'one', uri: machine.uris['safe'], agent: 'safe' },
      line: { machine: 'one', uri: 'pkcs11:token=line', agent: 'safe' },
    },
    make: [
      { what: 'root-ca', key: `${prefix}-root`, token: 'safe', kind: 'P-256', ...name, years: 10 },
      { what: 'ct-log', key: `${prefix}-ct`, ...online, origin: `ct.${prefix}.test`, witness: false },
      {
        what: 'issuing-ca',
        key: `${prefix}-ca`,
        ...online,
        ...name,
        years: 5,
        issuer: `${prefix}-root`,
        ctKey: `${prefix}-ct`,
      },
      { what: 'tuf-key', key: `${prefix}-online`, ...online, roles: ['snapshot', 'timestamp'] },
    ],
  }
  return readPlan(Buffer.from(stringify(plan)))
}

async function approved(read: ReadPlan): Promise<SignedStatement[]> {
  return [await signStatement(read, 'alice', { act: 'approve' }, { key: alice.key, now: new Date() })]
}

/** Asked once too often what time it is, it ends the run. */
function dyingAfter(calls: number): () => Date {
  let left = calls
  return () => {
    left -= 1
    if (left < 0) throw new Error('killed')
    return new Date()
  }
}

const at = (read: ReadPlan, approvals: readonly SignedStatement[], now = () => new Date()) => ({
  read,
  folder: join(scratch, read.plan.ceremony),
  machine: 'one',
  dataDir: machine.dataDir,
  approvals,
  now,
})
const textOf = ({ plan }: ReadPlan) => readFileSync(join(scratch, plan.ceremony, TRANSCRIPT_FILE), 'utf8')
const linesOf = (read: ReadPlan): TranscriptLine[] => readTranscript(textOf(read))

async function labels(prefix: string): Promise<string[]> {
  return await withAdminAgent({ dataDir: machine.dataDir, agent: 'safe' }, async (admin) => {
    const objects = [...(await admin.listObjects('safe')), ...(await admin.listObjects('line'))]
    const halves = objects.filter(({ label }) => label.startsWith(prefix))
    return halves.map(({ class: half, label }) => `${label} ${half}`).toSorted()
  })
}

const wholePairs = (prefix: string) =>
  ['ca', 'ct', 'online', 'root'].flatMap((name) => [`${prefix}-${name} private key`, `${prefix}-${name} public key`])

test('killed after each line, it goes on after it and makes no second key', async () => {
  const read = planOf('a')
  const approvals = await approved(read)
  let deaths = 0
  for (; deaths < 40; deaths++) {
    // The start, the line that says that it goes on, a step, and one or two lines of it; then it dies before the next.
    const run = runCeremony(at(read, approvals, dyingAfter(4 + (deaths % 2))))
    const error = await run.then(
      () => undefined,
      (reason: unknown) => reason,
    )
    if (error === undefined) break
    expect(error).toMatchObject({ message: 'killed' })
  }
  expect(deaths).toBeGreaterThan(10)
  verifyTranscript(textOf(read), { witnesses: [] })
  expect(await labels('a-')).toEqual(wholePairs('a'))
  const made = linesOf(read).filter((line) => line.event === 'key')
  expect(made.filter(({ found }) => found).length).toBeGreaterThan(0)
  // What was prepared once is what was signed, though the run died in between.
  expect(linesOf(read).filter(({ event }) => event === 'prepared')).toHaveLength(2)
})

test('half a pair is made whole under its own id; an older transcript does not get a second key', async () => {
  const read = planOf('b')
  const approvals = await approved(read)
  // Begin, approval, and the first key's beginning: then the key is there, and its line is not.
  await expect(runCeremony(at(read, approvals, dyingAfter(5)))).rejects.toThrow('killed')
  const intent = linesOf(read).find((line) => line.event === 'intent')
  const { modulePath, softhsmConf = '', tokens } = readAgentFile({ dataDir: machine.dataDir, agent: 'safe' })
  const pin = readFileSync(tokens['safe']?.pinFile ?? '', 'utf8').trim()
  const words = ['--module', modulePath, '--token-label', 'chancery-safe', '--login', '--pin', pin]
  // As if it had died while the token made the pair: nothing else was done by then.
  const config = parse(readFileSync(machine.agentPath('safe'), 'utf8')) as { keys: Record<string, object> }
  const { 'b-root': _made, ...keys } = config.keys
  writeFileSync(machine.agentPath('safe'), stringify({ ...config, keys }))
  await withAdminAgent({ dataDir: machine.dataDir, agent: 'safe' }, async (admin) => void (await admin.reload()))
  const half = ['--delete-object', '--type', 'pubkey', '--id', intent?.idHex ?? '']
  execFileSync('pkcs11-tool', [...words, ...half], {
    env: { ...process.env, SOFTHSM2_CONF: softhsmConf },
    stdio: 'ignore',
  })
  expect(await labels('b-')).toEqual(['b-root private key'])

  const old = textOf(read).split('\n').slice(0, 2).join('\n')
  expect(await runCeremony(at(read, []))).toMatchObject({ state: 'done' })
  expect(await labels('b-')).toEqual(wholePairs('b'))
  const root = linesOf(read).find((line) => line.event === 'key')
  expect(root).toMatchObject({ found: false, key: { idHex: intent?.idHex } })

  writeFileSync(join(scratch, read.plan.ceremony, TRANSCRIPT_FILE), `${old}\n`)
  await expect(runCeremony(at(read, []))).rejects.toMatchObject({ code: 'ceremony_key_exists' })
  expect(await labels('b-')).toEqual(wholePairs('b'))
})

test('another token than the plan’s is refused before anything is done', async () => {
  const read = planOf('c')
  const other = readPlan(Buffer.from(read.text.replace('pkcs11:token=line', 'pkcs11:token=lime')))
  await expect(runCeremony(at(other, await approved(other)))).rejects.toMatchObject({ code: 'ceremony_token_mismatch' })
  expect(() => textOf(other)).toThrow('ENOENT')
  expect(await labels('c-')).toEqual([])
})

test('of two runs at once the second is refused', async () => {
  const read = planOf('d')
  const approvals = await approved(read)
  const settled = await Promise.allSettled([1, 2].map(() => runCeremony(at(read, approvals))))
  const refused = settled.filter((each) => each.status === 'rejected')
  expect(refused.map(({ reason }) => (reason as { code: string }).code)).toEqual(['ceremony_underway'])
  expect(await labels('d-')).toEqual(wholePairs('d'))
})

/** Four machines with an agent each: minutes on a busy machine. CHANCERY_LONG=1. */
longTest(
  'custodians of TUF, each on a machine of their own: visited in any order, and their roles are written at the last',
  async () => {
    const names = ['custodian-1', 'custodian-2', 'custodian-3', 'online']
    const machines = await Promise.all(names.map((name) => makeMachine([name])))
    try {
      const uris = Object.fromEntries(machines.flatMap((each) => Object.entries(each.uris)))
      const read = readPlan(
        Buffer.from(
          templateText('tuf-root', {
            ceremony: 'custodians',
            domain: 'sig.example.test',
            organization: 'Example',
            expires: new Date('2099-01-01T00:00:00Z'),
            operators: [{ name: alice.name, minisign: alice.publicKey }],
            quorum: 1,
            uris,
            treeIds: ['1', '2'],
          }),
        ),
      )
      const approvals = await approved(read)
      const left: number[] = []
      for (const turn of [2, 3, 0, 1]) {
        const [name = '', dataDir = ''] = [names[turn], machines[turn]?.dataDir]
        const where = name === 'online' ? 'server' : name
        const told = await runCeremony({ ...at(read, left.length === 0 ? approvals : []), machine: where, dataDir })
        left.push(told.left.length)
      }
      expect(left).toEqual([4, 3, 2, 0])
      const { root, targets, custodians, online } = parseRoles(
        readFileSync(join(scratch, 'custodians', 'roles.json'), 'utf8'),
      )
      expect([root.threshold, targets.threshold, custodians.length, online]).toEqual([2, 2, 3, ['tuf-online']])
      verifyTranscript(textOf(read), { witnesses: [] })
    } finally {
      await Promise.all(machines.map((each) => each.remove()))
    }
  },
)
