/**
 * `chancery rotate standby` where two of three custodians sign what clients trust: it stands still until they have, says
 * whose signatures are missing, is undone as long as they are, and leaves nothing of it on the token then.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { EXIT } from '#alarms'
import { readStandbyPlan, STANDBY_KINDS, withAdminAgent } from '#lifecycle'
import { decodePem } from '#x509'
import { answerRequest, readRequest } from '../../lifecycle/ceremony/certificate-request.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, runChancery, serve, type Stack } from '../e2e/stack.ts'

interface Item {
  readonly id: string
  readonly state: string
}

const scratch = mkdtempSync(join(tmpdir(), 'chancery-standby-quorum-'))
const dataDir = join(scratch, 'data')
const at = (name: string) => join(scratch, name)
let stack: Stack

beforeAll(async () => {
  await initialise(dataDir, ['--tuf-quorum', '2/3'])
  stack = await serve(dataDir)
})

afterAll(async () => {
  await stack.stop().catch(() => stack.server.kill('SIGKILL'))
  rmSync(scratch, { recursive: true, force: true })
})

const rotate = async (...words: string[]) => await runChancery(['rotate', ...words, '--data', dataDir])
const read = (file: string): string => readFileSync(join(dataDir, file), 'utf8')
const published = () => (JSON.parse(read('trust-root/repository/.items.json')) as { items: Item[] }).items
const inState = (state: string) => published().flatMap((item) => (item.state === state ? [item.id] : []))
const timestamps = () => read('trust-root/repository/timestamp.json')

async function states(): Promise<string[]> {
  const { standby } = JSON.parse((await runChancery(['status', '--data', dataDir, '--json'])).stdout) as {
    standby: { state: string }[]
  }
  return standby.map(({ state }) => state).toSorted()
}

/** All that lies on the token of an agent. */
async function onToken(agent: string): Promise<string[]> {
  return await withAdminAgent({ dataDir, agent }, async (admin) => {
    const [token] = await admin.tokens()
    return (await admin.listObjects(token?.name ?? '')).map(({ label }) => label)
  })
}

/** As a custodian does on a machine of their own; the answer to the merge. */
async function signed(custodian: string) {
  const trust = (...words: string[]) => runChancery(['trust', ...words, '--data', dataDir])
  succeeded(await trust('payload', '-o', at('payload.json')))
  const key = ['--agent', custodian, '--key', custodian, '--confirm', '-o', at(`${custodian}.json`)]
  succeeded(await trust('sign', at('payload.json'), ...key))
  return await trust('merge', at(`${custodian}.json`))
}

/** Each request in turn, as a ceremony with the root key answers it; what the last one was told. */
async function certified(): Promise<{ readonly status: number; readonly text: string }> {
  const [, root = new Uint8Array()] = decodePem(read('ca/chain.pem'), { labels: ['CERTIFICATE'] }).map(({ der }) => der)
  let last = { status: EXIT.failed as number, text: 'nothing was asked for' }
  for (const file of requests()) {
    const { name, spkiDer, kind } = readRequest(read(join('lifecycle', file)))
    const profile = file.startsWith('tsa') ? 'timestamp' : 'issuing'
    const wish = { issuerKey: 'root-ca', issuerChain: [root], profile, name, validityYears: 2 } as const
    const answer = await withAdminAgent({ dataDir, agent: 'root' }, (agent) =>
      answerRequest({ ...wish, agent, subject: { spkiDer, kind } }, new Date()),
    )
    writeFileSync(at('answer.pem'), answer)
    last = await rotate('resume', '--certificate', at('answer.pem'))
  }
  return last
}

const requests = () => readdirSync(join(dataDir, 'lifecycle')).filter((name) => name.endsWith('.csr.pem'))

/** Undoes it; of its keys and files nothing is left, and clients see `told`. */
async function undone(agent: string, told: readonly Item[]): Promise<void> {
  succeeded(await rotate('abort', '--confirm'))
  if (existsSync(join(dataDir, `agent/${agent}.yaml`))) {
    expect(await onToken(agent)).toEqual([])
    expect((parse(read(`agent/${agent}.yaml`)) as { keys: object }).keys).toEqual({})
  }
  expect(published()).toEqual(told)
  expect((JSON.parse(read('trust-root/items.json')) as { items: Item[] }).items).toEqual(told)
  expect((await runChancery(['trust', 'pending', '--data', dataDir])).status).toBe(EXIT.done)
  expect(existsSync(join(dataDir, 'lifecycle/rotation.json'))).toBe(false)
  expect(files()).toEqual(inUse)
}

/** Certificates, and requests for them. */
const files = () => [...['ca', 'timestamp'].flatMap((folder) => readdirSync(join(dataDir, folder))), ...requests()]
/** Before the rotations of a group. */
let inUse: string[]

const awaits = (counts: string) => [EXIT.approval, expect.stringContaining(`awaiting-signatures targets ${counts};`)]

describe('the root offline, as init makes it', () => {
  let before: readonly Item[]

  test('it stands still, and says whose signatures are missing and how they are made', async () => {
    inUse = files()
    succeeded(await rotate('rekor-v1', '--emergency', '--confirm'))
    before = published()
    const timestamp = timestamps()
    const first = await rotate('standby')
    expect([first.status, first.text]).toEqual(awaits('0/2'))
    expect(first.text).toContain('#awaiting_signatures')
    expect(first.text).toMatch(/may still sign: custodian-1, custodian-2, custodian-3$/m)
    expect(first.stdout).toContain(`chancery trust payload --data ${dataDir}`)
    expect(first.stdout).toContain(`chancery rotate resume --data ${dataDir}`)
    const shown = JSON.parse((await rotate('status', '--json')).stdout) as { current: unknown }
    expect(shown.current).toMatchObject({ kind: 'standby', state: 'awaiting-signatures' })
    const again = await rotate('resume')
    expect([again.status, again.text]).toEqual(awaits('0/2'))
    const other = await rotate('standby')
    expect([other.status, other.text]).toEqual([EXIT.locked, expect.stringContaining('#rotation_underway')])
    expect([timestamps(), published()]).toEqual([timestamp, before])
    expect(await states()).toContain('in-service')
  })

  test('one signature is not enough; undone, nothing was said', async () => {
    const merged = await signed('custodian-1')
    expect([merged.status, merged.text]).toEqual([EXIT.approval, expect.stringMatching(/^targets +\d+ +1\/2 /m)])
    const one = await rotate('resume')
    expect([one.status, one.text]).toEqual(awaits('1/2'))
    expect(one.text).toMatch(/may still sign: custodian-2, custodian-3$/m)
    await undone('standby-2', before)
    expect((await states()).filter((state) => state === 'ready')).toHaveLength(STANDBY_KINDS.length - 1)
  })

  test('begun anew it goes on over a restart between the signatures; undone then, clients know who signs now', async () => {
    expect((await rotate('standby')).status).toBe(EXIT.approval)
    // The one who signed what was withdrawn signs this, too.
    expect((await signed('custodian-1')).status).toBe(EXIT.approval)
    await stack.stop()
    stack = await serve(dataDir)
    expect((await rotate('resume')).text).toContain('1/2')
    expect(succeeded(await signed('custodian-3')).stdout).toMatch(/^published: /m)
    const asks = await rotate('resume')
    expect([asks.status, asks.text]).toEqual([EXIT.approval, expect.stringContaining('#rotation_awaiting_certificate')])
    expect([inState('active').includes('rekor-v1-2'), inState('retired').includes('rekor-v1')]).toEqual([true, true])
    expect((await onToken('standby-2')).length).toBeGreaterThan(0)
    await undone('standby-2', published())
  })

  test('undone while the set itself awaits signatures, no key and no item of it is left', async () => {
    const told = published()
    expect((await rotate('standby')).text).toContain('#rotation_awaiting_certificate')
    const waits = await certified()
    expect([waits.status, waits.text]).toEqual(awaits('0/2'))
    await signed('custodian-2')
    expect((await onToken('standby-2')).length).toBeGreaterThan(0)
    expect(files()).not.toEqual(inUse)
    await undone('standby-2', told)
  })

  test('with the signatures of two it ends with a whole set, which stands an emergency', async () => {
    await rotate('standby')
    const waits = await certified()
    expect([waits.status, waits.text]).toEqual(awaits('0/2'))
    await signed('custodian-2')
    expect(succeeded(await signed('custodian-3')).stdout).toMatch(/^published: /m)
    succeeded(await rotate('resume'))
    await isWhole('agent/standby-2.yaml')
    const said = succeeded(await rotate('rekor-v1', '--emergency', '--confirm'))
    expect(said.stdout).toContain('verifies with the published trust root')
  })
})

describe('the root of the CA at hand, the custodians elsewhere', () => {
  beforeAll(async () => {
    await stack.stop()
    const config = parse(read('chancery.yaml')) as { trustRoot: { rootAgent?: string } }
    config.trustRoot.rootAgent = 'agent/root.yaml'
    writeFileSync(join(dataDir, 'chancery.yaml'), stringify(config))
    stack = await serve(dataDir)
  })

  test('one publication says all; undone before it, nothing is left; signed, the set is whole', async () => {
    const before = published()
    inUse = files()
    const first = await rotate('standby')
    expect([first.status, first.text]).toEqual(awaits('0/2'))
    await undone('standby-3', before)
    expect((await rotate('standby')).status).toBe(EXIT.approval)
    await signed('custodian-1')
    succeeded(await signed('custodian-2'))
    succeeded(await rotate('resume'))
    expect(inState('active')).toContain('rekor-v1-3')
    await isWhole('agent/standby-3.yaml')
  })
})

/** Everything stands by, is published, and nobody finds anything amiss. */
async function isWhole(agent: string): Promise<void> {
  expect(await states()).toEqual(STANDBY_KINDS.map(() => 'ready'))
  const plan = readStandbyPlan(dataDir)
  expect([plan?.agent, plan?.inService]).toEqual([agent, []])
  expect(inState('standby').toSorted()).toEqual(plan?.members.map(({ name }) => name).toSorted())
  const nothing = await rotate('standby')
  expect([nothing.status, nothing.text]).toEqual([EXIT.policy, expect.stringContaining('#rotation_impossible')])
  const { findings } = JSON.parse((await runChancery(['doctor', '--data', dataDir, '--json'])).stdout) as {
    findings: { code: string }[]
  }
  expect(findings.filter(({ code }) => /^(standby|object|key|rotation)_/.test(code))).toEqual([])
}
