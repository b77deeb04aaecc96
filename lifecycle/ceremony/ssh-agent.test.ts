/** An SSH key that only ssh-agent has, as a FIDO token's or a smart card's: it is named by its public half. */
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkStatement, signStatement } from './approval.ts'
import { personWithSsh } from './people.fixture.ts'
import { planText } from './plan.fixture.ts'
import { readPlan } from './plan.ts'

const folder = mkdtempSync(join(tmpdir(), 'chancery-ssh-'))
const socket = join(folder, 'agent.sock')
const agent = spawn('ssh-agent', ['-D', '-a', socket], { stdio: 'ignore' })
const before = process.env['SSH_AUTH_SOCK']

beforeAll(async () => {
  while (!existsSync(socket)) await delay(5)
  process.env['SSH_AUTH_SOCK'] = socket
})

afterAll(() => {
  agent.kill()
  if (before === undefined) delete process.env['SSH_AUTH_SOCK']
  else process.env['SSH_AUTH_SOCK'] = before
  rmSync(folder, { recursive: true, force: true })
})

test('signs through ssh-agent, and not once the agent has forgotten it', async () => {
  const alice = personWithSsh(folder, 'alice')
  const file = join(folder, 'alice')
  execFileSync('ssh-add', ['-q', file], { stdio: 'ignore' })
  rmSync(file)
  const uris = { root: 'pkcs11:token=r', online: 'pkcs11:token=o', standby: 'pkcs11:token=s' }
  const bob = personWithSsh(folder, 'bob')
  const read = readPlan(Buffer.from(planText({ operators: [alice, bob], uris })))
  const sign = async () =>
    await signStatement(read, 'alice', { act: 'approve' }, { key: { ssh: `${file}.pub` }, now: new Date() })
  const signed = await sign()
  expect(checkStatement(read, signed, 'approve')).toMatchObject({ name: 'alice', planSha256: read.sha256 })
  // Of the same key, for something else: git's namespace, for one.
  const other = { ...signed, signature: { by: 'ssh' as const, armored: armoredFor('git', file, signed.statement) } }
  expect(() => checkStatement(read, other, 'approve')).toThrow(/in the name of alice is refused: ssh-keygen/)
  execFileSync('ssh-add', ['-q', '-D'], { stdio: 'ignore' })
  await expect(sign()).rejects.toThrow(/ssh-keygen did not sign/)
})

function armoredFor(namespace: string, file: string, statement: string): string {
  const words = ['-Y', 'sign', '-q', '-n', namespace, '-f', `${file}.pub`]
  return execFileSync('ssh-keygen', words, { input: statement, encoding: 'utf8', stdio: ['pipe', 'pipe', 'ignore'] })
}
