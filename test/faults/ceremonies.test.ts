/**
 * docs/ceremonies.md, its commands run as they stand there, each on its machine: three operators with a key of each kind, a
 * root token that is never on the server, and at the end an installation that signs for cosign.
 */
import { spawn } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { CATALOGUE } from '#alarms'
import { findSoftHsm } from '#hsm'
import { client } from '../e2e/clients.ts'
import { type Outcome, run, succeeded } from '../e2e/run.ts'
import { ownEnvironment, projectFolder, serve, type Stack } from '../e2e/stack.ts'
import { longDescribe } from '../support/long.ts'

const text = readFileSync(join(projectFolder, 'docs', 'ceremonies.md'), 'utf8')
const blocks = [...text.matchAll(/<!-- on: (.+) -->\n```sh\n([^]*?)^```$/gm)].map(([, where = '', script = '']) => {
  const [machine = '', state = ''] = where.split(', ')
  return { machine, state, script }
})
const scratch = mkdtempSync(join(tmpdir(), 'chancery-ceremony-'))
const stick = join(scratch, 'stick')
const transcript = join(stick, 'ceremony/transcript.jsonl')
const machines = { vault: ['root'], server: ['online', 'standby'], alice: [], bob: [], carol: [], desk: [] } as const
const outcomes: { readonly script: string; readonly outcome: Outcome }[] = []
let stack: Stack | undefined

beforeAll(async () => {
  const modulePath = findSoftHsm() ?? ''
  mkdirSync(stick)
  for (const [machine, agents] of Object.entries(machines)) {
    const folder = join(scratch, machine)
    mkdirSync(join(folder, 'data/agent'), { recursive: true, mode: 0o700 })
    mkdirSync(join(folder, 'tokens'))
    const conf = join(folder, 'softhsm2.conf')
    writeFileSync(
      conf,
      `directories.tokendir = ${join(folder, 'tokens')}\nobjectstore.backend = file\nlog.level = ERROR\n`,
    )
    const agent = (state: string) =>
      stringify({ state, modulePath, moduleEnvironment: { SOFTHSM2_CONF: conf }, tokens: {}, adminWhenSpawned: true })
    for (const name of agents) writeFileSync(join(folder, `data/agent/${name}.yaml`), agent(name), { mode: 0o600 })
    writeFileSync(join(folder, 'agent.yaml'), agent('own'), { mode: 0o600 })
  }
})

afterAll(async () => {
  await stack?.stop()
  rmSync(scratch, { recursive: true, force: true })
})

async function inBash(machine: string, script: string): Promise<Outcome> {
  const environment = ownEnvironment({ STICK: stick })
  const PATH = `${join(projectFolder, 'scripts')}:${environment['PATH']}`
  return await run('bash', ['--norc', '-euc', script], { env: { ...environment, PATH }, cwd: join(scratch, machine) })
}

async function runBlocks(chosen: typeof blocks): Promise<void> {
  for (const { machine, script } of chosen) {
    outcomes.push({ script, outcome: succeeded(await inBash(machine, script)) })
  }
}

const chancery = async (machine: string, ...words: string[]) => await inBash(machine, `chancery ${words.join(' ')}`)
const said = (words: string) => outcomes.find(({ script }) => script.includes(words))?.outcome.text ?? ''
const untilRequest = blocks.findIndex(({ state }) => state === 'with a request')

test('every block says on which machine it is run', () => {
  expect(blocks.length).toBe(text.match(/^```sh$/gm)?.length)
  expect(blocks.map(({ machine }) => machine).filter((machine) => !Object.hasOwn(machines, machine))).toEqual([])
  expect(untilRequest).toBeGreaterThan(15)
})

describe('the ceremony of docs/ceremonies.md', () => {
  test('from the tokens to an installation', async () => {
    const firstServing = blocks.findIndex(({ state }) => state === 'serving')
    await runBlocks(blocks.slice(0, firstServing))
    expect(said('first.alice.approval" --dry-run')).toMatch(/1 of 2 approvals: approved by alice; not by bob, carol/)
    expect(said('--plan "$STICK/first.yaml" --witnesses 1')).toMatch(/approved +by alice, carol[^]*witnessed +by bob/)
    expect(said('openssl req')).toMatch(/verify OK[^]*CN ?= ?sig\.example\.test issuing CA/)
    // Without this program: the hash of the last line.
    const { hash } = JSON.parse(readFileSync(transcript, 'utf8').trimEnd().split('\n').at(-1) ?? '{}') as {
      hash: string
    }
    expect(said('tail -n 1')).toContain(hash)
  })

  test('it serves; cosign signs and verifies; the log has the transcript', async () => {
    stack = await serve(join(scratch, 'server/data'))
    await runBlocks(blocks.filter(({ state }) => state === 'serving'))
    expect(said('ceremony log')).toMatch(/logged +index 1 of rekor-v1\.sig\.example\.test/)
    const folder = join(scratch, 'cosign')
    mkdirSync(folder)
    const env = { HOME: folder, TUF_ROOT: join(folder, 'tuf') }
    const artifact = join(folder, 'artifact')
    writeFileSync(artifact, 'signed by what a ceremony made\n')
    const { tuf, oidc } = stack.endpoints
    const root = join(folder, 'root.json')
    writeFileSync(root, Buffer.from(await (await fetch(`${tuf}/1.root.json`)).arrayBuffer()))
    const token = succeeded(
      await chancery('server', 'dev', 'token', '--data', 'data', '--email', 'dev@example.test'),
    ).stdout.trim()
    const bundle = join(folder, 'bundle.json')
    succeeded(await client('cosign3', ['initialize', '--mirror', tuf, '--root', root], { env }))
    succeeded(
      await client('cosign3', ['sign-blob', '--yes', '--identity-token', token, '--bundle', bundle, artifact], { env }),
    )
    const identity = ['--certificate-identity', 'dev@example.test', '--certificate-oidc-issuer', oidc]
    succeeded(await client('cosign3', ['verify-blob', '--bundle', bundle, ...identity, artifact], { env }))
  })

  test('a rotation without the root token: its request, signed in the vault, is taken', async () => {
    const asked = await chancery('server', 'rotate', 'issuing-ca', '--data', 'data')
    expect(asked.status, asked.text).toBe(7)
    const [, request = ''] = /(\S+\.csr\.pem)/.exec(asked.text) ?? []
    copyFileSync(join(scratch, 'server', 'data/lifecycle', basename(request)), join(stick, 'next-ca.csr.pem'))
    await runBlocks(blocks.slice(untilRequest))
    const chain = join(stick, 'next/certificates/next-ca.pem')
    const taken = await chancery('server', 'rotate', 'resume', '--data', 'data', '--certificate', chain)
    // What clients trust changes, and its keys are in the vault, too.
    expect(taken.text).toMatch(/certify[^]*publish/)
    expect(taken.status, taken.text).toBe(7)
    succeeded(await chancery('server', 'rotate', 'abort', '--data', 'data', '--confirm'))
  })
})

describe('what does not hold is refused', () => {
  test.each([
    ['one byte changed', (text: string) => text.replace('"vault"', '"vaulT"'), 8, /line 1 .* it was changed/],
    ['its end cut off', (text: string) => text.replace(/[^\n]*\n$/, ''), 7, /missing: its end/],
  ])('a transcript with %s', async (_what, change, status, words) => {
    const changed = join(scratch, 'changed.jsonl')
    writeFileSync(changed, change(readFileSync(transcript, 'utf8')))
    const refused = await chancery('desk', 'ceremony', 'verify', changed)
    expect(refused.stderr).toMatch(words)
    expect(refused.status).toBe(status)
  })

  test('a proof of another file, and too few witnesses', async () => {
    const other = join(stick, 'next/transcript.jsonl')
    const source = [
      '--mirror',
      stack?.endpoints.tuf ?? '',
      '--root',
      '../server/data/trust-root/repository/1.root.json',
    ]
    const proof = ['--log-proof', join(stick, 'ceremony/transcript.log.json'), ...source]
    expect((await chancery('desk', 'ceremony', 'verify', other, ...proof)).stderr).toMatch(/about another file/)
    expect((await chancery('desk', 'ceremony', 'verify', other, '--witnesses', '1')).stderr).toMatch(/0 witnesses/)
    const witness = join(stick, 'ceremony/transcript.bob.witness')
    expect((await chancery('desk', 'ceremony', 'verify', other, '--witness', witness)).stderr).toMatch(/another plan/)
  })
})

test('the codes that the document names are codes', () => {
  const named = [...text.matchAll(/`(ceremony_[a-z_]+)`/g)].map(([, code = '']) => code)
  expect(named.length).toBeGreaterThan(8)
  expect(named.filter((code) => !Object.hasOwn(CATALOGUE, code))).toEqual([])
})

longDescribe('CHANCERY_LONG=1: the power of the vault fails', () => {
  const where = join(scratch, 'bob')
  const log = join(where, 'short/transcript.jsonl')
  const linesNow = () => (existsSync(log) ? readFileSync(log, 'utf8').split('\n').length - 1 : 0)

  /** Runs it, and ends it with all that it started as soon as so many lines are there; true if it had ended by itself. */
  async function runUntil(lines: number): Promise<boolean> {
    const words = ['ceremony', 'run', 'short.yaml', '--dir', 'short', '--approval', 'short.bob.approval']
    const child = spawn(join(projectFolder, 'scripts/chancery'), words, {
      cwd: where,
      env: ownEnvironment(),
      detached: true,
    })
    const ended = new Promise<number | null>((done) => child.once('close', done))
    const runs = () => child.exitCode === null && child.signalCode === null
    while (runs() && linesNow() < lines) await delay(1)
    if (runs()) process.kill(-(child.pid ?? 0), 'SIGKILL')
    return (await ended) === 0
  }

  test('after each line, and it goes on: one key, one certificate', async () => {
    succeeded(await inBash('bob', 'chancery token init short --agent agent.yaml --name root --add'))
    const plan = ['--template', 'root', '--operator', 'bob=bob.pub', '--uri', 'root=pkcs11:token=short']
    succeeded(await chancery('bob', 'ceremony', 'plan', 'short.yaml', ...plan))
    const written = join(where, 'short.yaml')
    writeFileSync(written, readFileSync(written, 'utf8').replace('agent: root', 'agent: agent.yaml'))
    succeeded(await inBash('bob', 'chancery ceremony approve short.yaml --as bob --minisign-key bob.key --confirm'))
    // A run that goes on says so first: one line more than that is its progress.
    for (let lines = 1; !(await runUntil(lines)); lines = linesNow() + 2) expect(lines).toBeLessThan(40)
    succeeded(await inBash('bob', 'chancery ceremony verify short/transcript.jsonl'))
    const { stdout } = succeeded(await inBash('bob', 'chancery key ls --agent agent.yaml --json'))
    const { keys, spare, orphans } = JSON.parse(stdout) as Record<string, unknown[]>
    expect([keys?.length, spare?.length, orphans?.length]).toEqual([1, 0, 0])
  })
})
