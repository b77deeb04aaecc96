/**
 * The whole stack with its agent as production has it: another user, without a network, reached through a socket for each
 * role; the server's folder has neither PIN nor agent configuration. The agent is killed and started again meanwhile.
 */
import { chmodSync, chownSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ExternalAgent, type OtherUser, outputAs, startExternal } from '../../hsm/external-agent.fixture.ts'
import { certificateRequest, requestOf, timestampRequest } from '../crash/requests.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, runChancery, serve, type Stack } from '../e2e/stack.ts'
import { moveAgentOut } from './moved-agent.ts'

const EMAIL = 'apart@example.test'
const AGENT: OtherUser = { uid: 64_010, gid: 64_010, groups: [] }
/** Certificates a minute: more than the first tests want. */
const CAP = 10

const scratch = mkdtempSync(join(tmpdir(), 'chancery-apart-'))
const dataDir = join(scratch, 'data')
const home = join(scratch, 'agent')
const config = join(home, 'agent.yaml')
const socketOf = (name: string) => join(home, `${name}.sock`)
let agent: ExternalAgent
let stack: Stack
let token: string

beforeAll(async () => {
  if (process.getuid?.() !== 0)
    throw new Error('this test acts as several users, which takes root: sudo -E scripts/test faults')
  await initialise(dataDir)
  moveAgentOut(dataDir, home, { owner: AGENT, certificatesPerMinute: CAP })
  chmodSync(scratch, 0o711)
  agent = await startExternal(config, AGENT)
  stack = await serve(dataDir)
  token = succeeded(await runChancery(['dev', 'token', '--data', dataDir, '--email', EMAIL])).stdout.trim()
})

afterAll(async () => {
  await stack?.stop()
  await agent?.stop()
  rmSync(scratch, { recursive: true, force: true })
})

async function post(url: string, body: string): Promise<Response> {
  const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
  await response.arrayBuffer()
  return response
}

async function once(url: string, body: string): Promise<number> {
  return (await post(url, body)).status
}

/** Status of the answer, asked again as long as it is 503 with Retry-After. */
async function asked(url: string, body: string): Promise<number> {
  for (let attempt = 1; ; attempt++) {
    const response = await post(url, body)
    if (response.status !== 503 || attempt === 30) return response.status
    await delay(Number(response.headers.get('retry-after') ?? Number.NaN) * 1000)
  }
}

/** What each role signs for, once. */
async function everyService(name: string): Promise<number[]> {
  const { ca, rekorV1, rekorV2, tsa } = stack.endpoints
  return [
    await asked(`${ca}/api/v2/signingCert`, certificateRequest({ token, email: EMAIL }).sent),
    await asked(`${rekorV1}/api/v1/log/entries`, requestOf('v1', name).sent),
    await asked(`${rekorV2}/api/v2/log/entries`, requestOf('v2', name).sent),
    await asked(`${tsa}/api/v1/timestamp`, timestampRequest(name).sent),
  ]
}

const SIGNED = [200, 201, 201, 200]

test('every service signs through the socket of its role', async () => {
  expect(await everyService('first')).toEqual(SIGNED)
  expect(succeeded(await runChancery(['status', '--data', dataDir])).stdout).toMatch(/issuing-ca[\s\S]*tsa/)
})

test('the account is compared through a socket of its own, and its head is signed', async () => {
  const { stdout } = succeeded(await runChancery(['audit', 'reconcile', '--json', '--data', dataDir]))
  const found = JSON.parse(stdout) as { unknownTotal: number; unaccountedTotal: number; account: { lines: number } }
  expect(found).toMatchObject({ unknownTotal: 0, unaccountedTotal: 0 })
  expect(found.account.lines).toBeGreaterThan(4)
  expect(readdirSync(join(dataDir, 'anchors/account'))).toContain('account.pub')
})

test('the agent is killed and started again; the server finds it by itself', async () => {
  process.kill(agent.pid, 'SIGKILL')
  const [again, served] = await Promise.all([startExternal(config, AGENT), everyService('second')])
  agent = again
  expect(served).toEqual(SIGNED)
  expect(stack.server.exitCode).toBe(null)
})

test("the cap stops issuance with an alarm, and the agent's own user alone raises it", async () => {
  const issue = async () =>
    await once(`${stack.endpoints.ca}/api/v2/signingCert`, certificateRequest({ token, email: EMAIL }).sent)
  // Whatever is left of this minute, or of the next if it ends meanwhile.
  let status = 200
  for (let count = 0; status === 200 && count <= 2 * CAP; count++) status = await issue()
  expect(status).toBe(503)
  await expect
    .poll(() => readFileSync(join(dataDir, 'serve.log'), 'utf8'))
    .toMatch(/"alarm":"rate_capped","subject":"issuing-ca"/)

  const raise = (...numbers: readonly string[]) =>
    ['key', 'raise-cap', 'issuing-ca', '--agent', socketOf('admin'), ...numbers] as const
  expect(await outputAs(AGENT, ['cli/main.ts', ...raise('--per-minute', '5')])).toMatch(
    /configured cap[\s\S]*exit status 6/,
  )
  expect(await outputAs(AGENT, ['cli/main.ts', ...raise('--per-minute', '500', '--minutes', '61')])).toMatch(
    /1 to 60 minutes[\s\S]*exit status 6/,
  )
  expect((await runChancery(raise('--per-minute', '500'))).status).not.toBe(0)
  expect(await outputAs(AGENT, ['cli/main.ts', ...raise('--per-minute', '500', '--minutes', '5')])).toMatch(
    /^key issuing-ca: 500 certificates a minute until 20\d\d-/m,
  )
  for (let count = 0; count <= 2 * CAP; count++) expect(await issue()).toBe(200)
  expect(succeeded(await runChancery(['status', '--data', dataDir])).stdout).toMatch(
    /^issuing-ca .* 500 +certificate raised until \d\d:\d\dZ$/m,
  )
})

test("production wants the agent's sockets to be of another user than the server's", async () => {
  await stack.stop()
  const file = join(dataDir, 'chancery.yaml')
  writeFileSync(file, readFileSync(file, 'utf8').replace('profile: development', 'profile: production'))
  const refused = async () => (await runChancery(['serve', '--check', '--data', dataDir])).text
  expect(await refused()).not.toMatch(/our own user/)
  expect(await refused()).toMatch(/production profile refuses/)
  chownSync(socketOf('log'), process.getuid?.() ?? 0, AGENT.gid)
  expect(await refused()).toMatch(/log\.sock is of our own user/)
})
