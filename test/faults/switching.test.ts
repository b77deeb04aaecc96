/** What signs is changed in a running server while clients sign: nobody is refused, and everything verifies. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { initialise, serve, type Stack } from '../e2e/stack.ts'
import type { AdminError, LoadedConfig } from '#server'
import {
  addToAgent,
  ask as askIn,
  chainPem,
  type ClientLoad,
  dersOf,
  judgeCertificate,
  judgeTimestamp,
  standbyOf,
  startClients,
} from './switching.ts'

const folder = mkdtempSync(join(tmpdir(), 'chancery-switch-'))
const dataDir = join(folder, 'data')
let stack: Stack
let clients: ClientLoad
const ask = async (verb: string, argument?: unknown) => await askIn(dataDir, verb, argument)
const configuration = () => parse(readFileSync(join(dataDir, 'chancery.yaml'), 'utf8')) as LoadedConfig['config'] // the server reads it strictly
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

test('every request of all that time was answered, by one or the other', async () => {
  const outcomes = await clients.finish()
  expect(outcomes.filter(({ status }) => status !== 200 && status !== 201)).toEqual([])
  const config = parse(readFileSync(join(dataDir, 'agent/online.yaml'), 'utf8')) as {
    keys: Record<string, { spki: string }>
  }
  const ctLogs = { ct: Buffer.from(config.keys['ct']?.spki ?? '', 'base64') }
  const certificates = outcomes
    .filter(({ use }) => use === 'ca')
    .map((each) => judgeCertificate(each, { chains: trust.chains, ctLogs }))
  const timestamps = outcomes.filter(({ use }) => use === 'tsa').map((each) => judgeTimestamp(each, trust.tsa))
  expect(new Set(certificates.map(({ chain }) => chain))).toEqual(new Set(['former', 'next']))
  expect(new Set(timestamps)).toEqual(new Set(['former', 'next']))
})
