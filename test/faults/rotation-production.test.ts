/**
 * Keys rotated as production has them: the agent, the server and the operator are three users, and nobody but root may write
 * the agent's configuration. One command of root's, which works towards each as that user, and leaves nothing of its own.
 */
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { EXIT } from '#alarms'
import {
  asUser,
  type ExternalAgent,
  type OtherUser,
  outputAs,
  startExternal,
  until,
} from '../../hsm/external-agent.fixture.ts'
import { certificateRequest, requestOf, timestampRequest } from '../crash/requests.ts'
import { initialise, runChancery } from '../e2e/stack.ts'
import { LONG } from '../support/long.ts'
import { giveTo, moveAgentOut } from './moved-agent.ts'

const NOW = '--shorten=i-accept-that-cached-clients-may-refuse'
const EMAIL = 'release@example.test'
const AGENT: OtherUser = { uid: 64_030, gid: 64_030, groups: [] }
const SERVER: OtherUser = { uid: 64_031, gid: 64_031, groups: [] }

const scratch = mkdtempSync(join(tmpdir(), 'chancery-production-'))
const [dataDir, home] = [join(scratch, 'data'), join(scratch, 'agent')]
const config = join(home, 'agent.yaml')
let agent: ExternalAgent
let server: ReturnType<typeof asUser>

interface Endpoints {
  readonly ca: string
  readonly tsa: string
  readonly rekorV1: string
}

beforeAll(async () => {
  if (process.getuid?.() !== 0)
    throw new Error('this test acts as several users, which takes root: sudo -E scripts/test faults')
  await initialise(dataDir)
  moveAgentOut(dataDir, home, { owner: AGENT, server: SERVER })
  giveTo(dataDir, SERVER)
  chmodSync(scratch, 0o711)
  agent = await startExternal(config, AGENT)
  server = asUser(SERVER, ['cli/main.ts', 'serve', '--data', dataDir, '--log-level', 'warn'], { namespaces: [] })
  server.stderr?.pipe(process.stderr)
  await until(() => statSync(join(dataDir, 'run/endpoints.json'), { throwIfNoEntry: false }) !== undefined)
})

afterAll(async () => {
  const ended = new Promise((done) => server.once('close', done))
  server.kill('SIGTERM')
  await ended
  await agent?.stop()
  rmSync(scratch, { recursive: true, force: true })
})

const as = async (user: OtherUser | 'root', ...words: string[]) =>
  await outputAs(user, ['cli/main.ts', ...words, '--data', dataDir], { namespaces: [] })
const rotate = async (...words: string[]) => await as('root', 'rotate', ...words, '--agent', config)
const read = (file: string) => readFileSync(join(dataDir, file), 'utf8')
const keys = () => Object.keys((parse(readFileSync(config, 'utf8')) as { keys: object }).keys)

/** Paths of a folder that are not of this user. */
function strange(folder: string, { uid }: OtherUser): string[] {
  return execFileSync('find', [folder, '!', '-uid', String(uid)], { encoding: 'utf8' })
    .split('\n')
    .filter(Boolean)
}

/** What each service answers to a client. */
async function served(name: string): Promise<number[]> {
  const { ca, tsa, rekorV1 } = JSON.parse(read('run/endpoints.json')) as Endpoints
  const token = (await as(SERVER, 'dev', 'token', '--email', EMAIL)).trim()
  const sent = [
    [`${ca}/api/v2/signingCert`, certificateRequest({ token, email: EMAIL }).sent],
    [`${rekorV1}/api/v1/log/entries`, requestOf('v1', name).sent],
    [`${tsa}/api/v1/timestamp`, timestampRequest(name).sent],
  ] as const
  const answers = sent.map(async ([url, body]) => {
    const answer = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
    await answer.arrayBuffer()
    return answer.status
  })
  return await Promise.all(answers)
}

test.each([
  ["the server's user", SERVER],
  ["the agent's user", AGENT],
])('%s alone begins nothing', async (_who, user) => {
  const before = readFileSync(config, 'utf8')
  expect(await as(user, 'rotate', 'tsa', NOW, '--agent', config)).toMatch(/\(exit status \d+\)$/)
  expect([readFileSync(config, 'utf8'), strange(dataDir, SERVER)]).toEqual([before, []])
  expect(statSync(join(dataDir, 'lifecycle/rotation.json'), { throwIfNoEntry: false })).toBeUndefined()
})

const KINDS = LONG ? ['issuing-ca', 'ct-log', 'rekor-v1', 'rekor-v2', 'tsa', 'tuf-online'] : ['issuing-ca', 'rekor-v1']

test.each(KINDS)('root rotates %s in one command', async (kind) => {
  const said = await rotate(kind, NOW)
  expect(said).toMatch(/^Done /m)
  expect(strange(dataDir, SERVER)).toEqual([])
  expect(strange(home, AGENT)).toEqual([])
  expect(await served(kind)).toEqual([200, 201, 200])
})

test('root undoes one before its switch: agent, folders and clients are as before', async () => {
  const before = keys()
  expect(await rotate('issuing-ca')).toMatch(new RegExp(`\\(exit status ${EXIT.approval}\\)$`))
  expect(keys()).not.toEqual(before)
  expect(await rotate('abort', '--confirm')).toContain('Undone')
  expect(keys()).toEqual(before)
  expect([...strange(dataDir, SERVER), ...strange(home, AGENT)]).toEqual([])
  expect(await served('undone')).toEqual([200, 201, 200])
})

test('root puts into service what stands by, in one command: the agent has its PIN, and nobody else', async () => {
  const said = await rotate('issuing-ca', '--emergency', '--confirm')
  expect(said).toMatch(/ signs in place of issuing-ca-\d since /)
  expect(said).toContain('verifies with the published trust root')
  expect([...strange(dataDir, SERVER), ...strange(home, AGENT)]).toEqual([])
  expect(statSync(join(home, 'standby.pin')).mode & 0o777).toBe(0o600)
  expect(await served('emergency')).toEqual([200, 201, 200])
})

test('afterwards all is accounted for, and root is still no user of the agent for anything else', async () => {
  const { status, stdout, text } = await runChancery(['audit', 'reconcile', '--json', '--data', dataDir])
  expect(status, text).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({ unknown: [], unaccounted: [] })
  const listed = await runChancery(['key', 'ls', '--agent', config, '--data', dataDir])
  expect([listed.status, listed.text]).toEqual([EXIT.authentication, expect.stringContaining('#agent_not_allowed')])
})
