/** docs/backup.md, its commands run as they stand there, in the state that each is written for. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CATALOGUE } from '#alarms'
import { requestOf } from '../crash/requests.ts'
import { run, succeeded } from '../e2e/run.ts'
import { initialise, ownEnvironment, projectFolder, type Stack, serve } from '../e2e/stack.ts'
import { copyPublished, type PublishedCopy } from './published-copy.ts'

const text = readFileSync(join(projectFolder, 'docs', 'backup.md'), 'utf8')
const blocks = [...text.matchAll(/<!-- while: (.+) -->\n```sh\n([^]*?)^```$/gm)].map(([, state, script]) => ({
  state,
  script: script ?? '',
}))
const scratch = mkdtempSync(join(tmpdir(), 'chancery-docs-'))
const dataDir = join(scratch, 'data')
let stack: Stack
let copy: PublishedCopy | undefined

beforeAll(async () => {
  await initialise(dataDir)
  stack = await serve(dataDir)
  await upload('backed up')
})

afterAll(async () => {
  await copy?.close()
  try {
    await stack.stop()
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
})

test('every block says when it is run', () => {
  expect(blocks.length).toBe(text.match(/^```sh$/gm)?.length)
  expect(blocks.map(({ state }) => state)).toEqual(['running', 'running', 'lost', 'lost, with copies', 'restored'])
})

test('the commands of a loss, one after the other', async () => {
  for (const { script } of blocks.filter(({ state }) => state === 'running')) await shell(script)
  await upload('after the backup')
  copy = await copyPublished(stack.endpoints)
  await stack.stop()
  mkdirSync(join(scratch, 'lost'))
  for (const name of readdirSync(dataDir)) {
    if (name !== 'agent' && name !== 'hsm') renameSync(join(dataDir, name), join(scratch, 'lost', name))
  }
  const [dry, restore, status] = blocks.slice(2).map(({ script }) => script)
  expect((await shell(dry ?? 'false')).stderr).toMatch(/restore_behind_guard/)
  expect((await shell(restore ?? 'false', { COPY: copy.url })).stdout).toMatch(/rekor-v2 +3 entries, 1 of them/)
  stack = await serve(dataDir)
  expect((await shell(status ?? 'false')).stdout).toMatch(/^ready: .*\brekor-v2\b/m)
})

test('the codes that it names are codes', () => {
  const named = [...text.matchAll(/`((?:restore|backup)_[a-z_]+)`/g)].map(([, code = '']) => code)
  expect(named.length).toBeGreaterThan(2)
  expect(named.filter((code) => !Object.hasOwn(CATALOGUE, code))).toEqual([])
})

async function shell(script: string, extra: Readonly<Record<string, string>> = {}) {
  const environment = ownEnvironment(extra)
  const PATH = `${join(projectFolder, 'scripts')}:${environment['PATH']}`
  return succeeded(await run('bash', ['-euc', script], { env: { ...environment, PATH }, cwd: scratch }))
}

async function upload(message: string): Promise<void> {
  const { sent } = requestOf('v2', message)
  const headers = { 'content-type': 'application/json' }
  const url = `${stack.endpoints.rekorV2}/api/v2/log/entries`
  expect((await fetch(url, { method: 'POST', headers, body: sent })).status).toBe(201)
}
