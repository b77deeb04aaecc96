/** What signs is changed in a running server while clients sign: nobody is refused, and everything verifies. */
import { X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { initialise, runChancery, serve, type Stack } from '../e2e/stack.ts'
import type { StandbyKind } from '#lifecycle'
import type { AdminError, LoadedConfig } from '#server'
import { verifyCheckpoint } from '#tlog'
import type { Use } from '../crash/loader.ts'
import { pinnedKeys } from '../crash/pinned-logs.ts'
import { requestOf } from '../crash/requests.ts'
import {
  addToAgent,
  ask as askIn,
  chainPem,
  type ClientLoad,
  dersOf,
  judgeCertificate,
  judgeTimestamp,
  judgeV1,
  judgeV2,
  keyIdOf,
  reconfigureAgent,
  successorOf,
  standbyOf,
  strangeRoot,
  startClients,
} from './switching.ts'

const folder = mkdtempSync(join(tmpdir(), 'chancery-switch-'))
const dataDir = join(folder, 'data')
let stack: Stack
let clients: ClientLoad
const ask = async (verb: string, argument?: unknown) => await askIn(dataDir, verb, argument)
const configuration = () => parse(readFileSync(join(dataDir, 'chancery.yaml'), 'utf8')) as LoadedConfig['config'] // the server reads it strictly
/** Where what took over is dialled. */
const urlOf = (kind: StandbyKind) =>
  configuration().logs.find(({ name }) => name === standbyOf(dataDir, kind).name)?.url ?? ''
const codeOf = async (asked: Promise<unknown>) =>
  await asked.then(
    () => 'done',
    (error: AdminError) => error.remoteCode,
  )

beforeAll(async () => {
  await initialise(dataDir)
  stack = await serve(dataDir)
  clients = await startClients(stack, { folder: join(folder, 'load'), lanes: { ca: 3, tsa: 2, v1: 1, v2: 2 } })
  await clients.more(5)
})
afterAll(async () => {
  await stack.stop().catch(() => stack.server.kill('SIGKILL'))
  rmSync(folder, { recursive: true, force: true })
})

const trust = { chains: {} as Record<string, Uint8Array[]>, tsa: {} as Record<string, Uint8Array[]> }

test('the CA signs with another key under another chain', async () => {
  const member = standbyOf(dataDir, 'issuing-ca')
  const chain = chainPem(dataDir, member)
  trust.chains = { former: dersOf(readFileSync(join(dataDir, 'ca/chain.pem'), 'utf8')), next: dersOf(chain) }
  expect(await codeOf(ask('ca-switch', { key: member.name, chain }))).toBe('switch_refused')
  await addToAgent(dataDir, member, 'issuing-ca')
  expect(await ask('ca-switch', { key: member.name, chain })).toMatchObject({ former: 'issuing-ca', already: false })
  expect(await ask('ca-switch', { key: member.name, chain })).toMatchObject({ already: true })
  expect(configuration().ca).toMatchObject({ key: member.name })
  await clients.more(10)
})

test('the timestamp authority signs with another key, and its chain follows', async () => {
  const member = standbyOf(dataDir, 'tsa')
  const chain = chainPem(dataDir, member)
  trust.tsa = { former: dersOf(readFileSync(join(dataDir, 'timestamp/chain.pem'), 'utf8')), next: dersOf(chain) }
  await addToAgent(dataDir, member, 'tsa')
  expect(await ask('tsa-switch', { key: member.name, chain })).toMatchObject({ former: 'tsa', already: false })
  expect(dersOf(await (await fetch(`${stack.endpoints.tsa}/api/v1/timestamp/certchain`)).text())).toEqual(
    trust.tsa.next,
  )
  await clients.more(10)
})

test.each([
  ['ct-log', 'ct'],
  ['rekor-v2', 'rekor-v2'],
  ['rekor-v1', 'rekor-v1'],
] as const)('%s goes on in a log with another key', async (kind, former) => {
  const member = standbyOf(dataDir, kind)
  const planned = successorOf(dataDir, member, former)
  // By its name on the listener of the former one, as an installation with one port has it.
  const { listen = '', url = '' } = configuration().logs.find(({ name }) => name === former) ?? {}
  const successor = kind === 'rekor-v2' ? { ...planned, listen, url: url.replace('127.0.0.1', 'localhost') } : planned
  expect(await codeOf(ask('log-switch', { name: former, successor }))).toBe('switch_refused')
  await addToAgent(dataDir, member, former)
  const asked = { name: former, successor }
  const { size } = (await ask('log-switch', asked)) as { size: number }
  expect(await ask('log-switch', asked)).toMatchObject({ size, frozen: true })
  if (kind === 'rekor-v1') expect(await signerOfEntry(size)).toContain('/chancery/canary')
  await clients.more(10)
})

/** Of a Rekor v1 entry: the name in its certificate. */
async function signerOfEntry(index: number): Promise<string | undefined> {
  const answer = await fetch(`${urlOf('rekor-v1')}/api/v1/log/entries?logIndex=${index}`)
  const [entry] = Object.values((await answer.json()) as Record<string, { body: string }>)
  const { spec } = JSON.parse(Buffer.from(entry?.body ?? '', 'base64').toString()) as {
    spec: { signature: { publicKey: { content: string } } }
  }
  return new X509Certificate(Buffer.from(spec.signature.publicKey.content, 'base64')).subjectAltName
}

test('a CT log accepts another root, without a restart', async () => {
  const add = strangeRoot()
  for (const none of ['no PEM', `${add}${chainPem(dataDir, standbyOf(dataDir, 'issuing-ca'))}`])
    expect(await codeOf(ask('ct-roots', { add: none }))).toBe('switch_refused')
  const roots = async () => {
    const { certificates } = (await (await fetch(`${urlOf('ct-log')}/ct/v1/get-roots`)).json()) as {
      certificates: string[]
    }
    return certificates.length
  }
  const before = await roots()
  expect(await ask('ct-roots', { add })).toEqual({ logs: ['ct', standbyOf(dataDir, 'ct-log').name] })
  expect(await ask('ct-roots', { add })).toEqual({ logs: [] })
  expect(await roots()).toBe(before + 1)

  // That of the CA, alone or with another, or both at once: nothing is taken away.
  const own =
    chainPem(dataDir, standbyOf(dataDir, 'issuing-ca'))
      .split(/(?=-----BEGIN)/)
      .at(-1) ?? ''
  for (const none of [own, `${add}${own}`])
    expect(await codeOf(ask('ct-roots', { remove: none }))).toBe('switch_refused')
  expect(await codeOf(ask('ct-roots', { add, remove: add }))).not.toBe('done')
  expect(await roots()).toBe(before + 1)
  expect(await ask('ct-roots', { remove: add })).toEqual({ logs: ['ct', standbyOf(dataDir, 'ct-log').name] })
  expect(await ask('ct-roots', { remove: add })).toEqual({ logs: [] })
  expect(await roots()).toBe(before)
})

test('every request of all that time was answered, by what signed before or by what signs now', async () => {
  const outcomes = await clients.finish()
  expect(outcomes.filter(({ status }) => status !== 200 && status !== 201)).toEqual([])
  expect(outcomes.length).toBeGreaterThan(200)
  const keys = pinnedKeys(dataDir)
  const spki = (kind: StandbyKind, former: string) => ({
    former: keys[former]?.spkiDer ?? Buffer.alloc(0),
    next: Buffer.from(standbyOf(dataDir, kind).key.spki, 'base64'),
  })
  const both = new Set(['former', 'next'])
  const of = (use: Use) => outcomes.filter((outcome) => outcome.use === use)
  const certificates = of('ca').map((each) =>
    judgeCertificate(each, { chains: trust.chains, ctLogs: spki('ct-log', 'ct') }),
  )
  expect(new Set(certificates.map(({ chain }) => chain))).toEqual(both)
  expect(new Set(certificates.map(({ ctLog }) => ctLog))).toEqual(both)
  expect(new Set(of('tsa').map((each) => judgeTimestamp(each, trust.tsa)))).toEqual(both)
  expect(new Set(of('v2').map((each) => judgeV2(each, spki('rekor-v2', 'rekor-v2'))))).toEqual(both)
  expect(new Set(of('v1').map((each) => judgeV1(each, spki('rekor-v1', 'rekor-v1'))))).toEqual(both)
})

const upload = async (url: string) =>
  await fetch(`${url}/api/v2/log/entries`, { method: 'POST', body: requestOf('v2', `${Math.random()}`).sent })

test('a restart comes up the same, and a former address passes uploads on', async () => {
  const before = configuration()
  await stack.stop()
  stack = await serve(dataDir)
  expect(configuration()).toEqual(before)
  const formerUrl = before.logs.find(({ name }) => name === 'rekor-v2')?.url ?? ''
  const former = pinnedKeys(dataDir)['rekor-v2'] ?? { spkiDer: Buffer.alloc(0), origin: '' }
  const frozen = await (await fetch(`${formerUrl}/checkpoint`)).text()
  expect(verifyCheckpoint(frozen, former).origin).toBe(former.origin)
  const passedOn = await upload(formerUrl)
  expect(passedOn.status).toBe(201)
  const { logId } = (await passedOn.json()) as { logId: { keyId: string } }
  expect(logId.keyId).toBe(keyIdOf(standbyOf(dataDir, 'rekor-v2').key.spki))
})

test('former keys leave the agent: former logs are read without them, one key of each kind is left, and the doctor finds nothing', async () => {
  const formerUrl = configuration().logs.find(({ name }) => name === 'rekor-v2')?.url ?? ''
  const former = ['ct', 'rekor-v1', 'rekor-v2'] as const
  expect(await codeOf(ask('log-retire', { name: standbyOf(dataDir, 'rekor-v1').name }))).toBe('switch_refused')
  for (const name of former) {
    expect(await ask('log-retire', { name })).toEqual({ already: false, key: name })
    expect(await ask('log-retire', { name })).toMatchObject({ already: true })
  }
  const gone = new Set<string>(['issuing-ca', 'tsa', ...former, ...former.map((name) => `${name}-witness`)])
  await reconfigureAgent(dataDir, (file) => {
    file.keys = Object.fromEntries(Object.entries(file.keys).filter(([name]) => !gone.has(name)))
    for (const each of Object.values(file.keys))
      if (each['ctKey'] !== undefined)
        Object.assign(each, { ctKey: [each['ctKey']].flat().filter((log) => log !== 'ct') })
  })
  const reads = async () => {
    const { logs } = configuration()
    const url = (name: string) => logs.find((log) => log.name === name)?.url ?? ''
    const paths = [
      `${url('ct')}/ct/v1/get-sth`,
      `${url('ct')}/ct/v1/get-entries?start=0&end=0`,
      `${url('rekor-v2')}/checkpoint`,
      `${url('rekor-v2')}/tile/0/000.p/1`,
      `${url('rekor-v1')}/api/v1/log/entries?logIndex=0`,
    ]
    return await Promise.all(
      paths.map(async (path) => [path, (await fetch(path)).status, await (await fetch(path)).text()]),
    )
  }
  const before = await reads()
  expect(before.map(([, status]) => status)).toEqual([200, 200, 200, 200, 200])
  const findings = async () => {
    const { status, text } = await runChancery(['doctor', '--data', dataDir, '--json'])
    expect([0, 1], text).toContain(status)
    const { findings: found } = JSON.parse(text) as { findings: { code: string; subject: string }[] }
    return found.filter(({ code }) => code !== 'backup_overdue' && code !== 'standby_missing')
  }
  await stack.stop()
  const file = join(dataDir, 'chancery.yaml')
  writeFileSync(file, readFileSync(file, 'utf8').replace(/forwardUntil: .*/, 'forwardUntil: "2026-01-01T00:00:00Z"'))
  stack = await serve(dataDir)
  expect(await reads()).toEqual(before)
  const refused = await upload(formerUrl)
  expect([refused.status, await refused.text()]).toEqual([
    405,
    'This log has been frozen, please switch to the latest log.\n',
  ])
  expect(await findings()).toEqual([])
  const purposes = Object.values(
    parse(readFileSync(join(dataDir, 'agent/online.yaml'), 'utf8')).keys as Record<
      string,
      { purposes: string[]; style?: string }
    >,
  ).map(({ purposes: of, style }) => `${of.join('+')} ${style ?? ''}`.trim())
  expect(purposes.length).toBe(new Set(purposes).size + purposes.filter((each) => each === 'witnessHead').length - 1)
  const again = await startClients(stack, { folder: join(folder, 'after'), lanes: { ca: 1, tsa: 1, v1: 1 } })
  await again.more(3)
  expect((await upload(urlOf('rekor-v2'))).status).toBe(201)
  expect((await again.finish()).filter(({ status }) => status !== 200 && status !== 201)).toEqual([])
})
