/**
 * docs/operations.md on rotations and distrust, its commands run as they stand there, with custodians of whom two of three
 * sign. CHANCERY_LONG=1: the steps are tested one by one in rotate.test.ts.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse, parseDocument } from 'yaml'
import { run, succeeded } from '../e2e/run.ts'
import { initialise, ownEnvironment, projectFolder, runChancery, type Stack, serve } from '../e2e/stack.ts'

const text = readFileSync(join(projectFolder, 'docs', 'operations.md'), 'utf8')
const blocksOf = (name: string) =>
  [...text.matchAll(/<!-- while: ([a-z]+) -->\n```sh\n([^]*?)^```$/gm)].flatMap(([, of, script = '']) =>
    of === name ? [script] : [],
  )

describe('the commands of rotations', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'chancery-rotate-docs-'))
  const dataDir = join(scratch, 'data')
  let stack: Stack

  beforeAll(async () => {
    await initialise(dataDir, ['--tuf-quorum', '2/3'])
    stack = await serve(dataDir)
  })

  afterAll(async () => {
    try {
      await stack.stop()
    } finally {
      rmSync(scratch, { recursive: true, force: true })
    }
  })

  async function shell(script: string | undefined, extra: Readonly<Record<string, string>> = {}): Promise<string> {
    const environment = ownEnvironment(extra)
    const PATH = `${join(projectFolder, 'scripts')}:${environment['PATH']}`
    const words = ['-euc', script ?? 'false']
    return succeeded(await run('bash', words, { env: { ...environment, PATH }, cwd: scratch, timeoutMs: 300_000 }))
      .stdout
  }

  const custodians = (): string[] =>
    (
      JSON.parse(readFileSync(join(dataDir, 'trust-root/roles.json'), 'utf8')) as { custodians: { name: string }[] }
    ).custodians.map(({ name }) => name)

  test('one after the other', async () => {
    const [look, begin, sign, shorten, undo, custodian] = blocksOf('rotation')
    expect(blocksOf('rotation')).toHaveLength(6)
    expect(await shell(look)).toMatch(/Would rotate rekor-v1[^]*No rotation is under way/)
    expect(await shell(begin)).toMatch(/\n {2}> publish [^]*awaits signatures[^]*targets +2 +0\/2/)
    expect(await shell(sign)).toMatch(/^published: root 1, targets 2,[^]*Waits for clients' caches/m)
    expect(await shell(shorten)).toMatch(/cut short by[^]*\n {2}\+ switch [^]*\n {2}\+ prove [^]*targets +3 +0\/2/)
    expect(await shell(sign)).toMatch(/^published: root 1, targets 3,[^]*^Done /m)
    expect(await shell(undo)).toMatch(/^Undone /m)
    await ownKey()
    expect(await shell(custodian)).toMatch(/awaits signatures[^]*root +2 +0\/\d/)
    expect(custodians()).toEqual(['custodian-1', 'custodian-2', 'custodian-3-2'])
    // Before the next root: those of before and of now.
    expect(await shell(sign)).toMatch(/^published: root 2, targets \d+,[^]*^Done /m)
    const { root } = JSON.parse(readFileSync(join(dataDir, 'trust-root/roles.json'), 'utf8')) as {
      root: { threshold: number }
    }
    expect(root.threshold).toBe(2)
    const [cut] = blocksOf('distrust')
    const since = new Date(Date.now() - 5000).toISOString()
    await delay(1000)
    // Custodians sign this as well.
    expect(await shell(cut, { SINCE: since })).toMatch(
      /\d+ certificates in ct are given up\nNothing was done[^]*awaits signatures/,
    )
  })

  /** Of custodian-3, on a machine of their own. */
  async function ownKey(): Promise<void> {
    const file = join(dataDir, 'agent/custodian-3.yaml')
    const [token = ''] = Object.keys((parse(readFileSync(file, 'utf8')) as { tokens: object }).tokens)
    const words = [
      'key',
      'gen',
      'custodian-3-2',
      '--token',
      token,
      '--agent',
      'custodian-3',
      '--data',
      dataDir,
      '--json',
    ]
    const { uri, spki, kind } = JSON.parse(succeeded(await runChancery(words)).stdout) as Record<string, string>
    const document = parseDocument(readFileSync(file, 'utf8'))
    const entry = { uri, token, spki, kind, purposes: ['tuf'], tufRoles: ['root', 'targets'] }
    document.setIn(['keys', 'custodian-3-2'], document.createNode(entry))
    writeFileSync(file, document.toString())
  }
})
