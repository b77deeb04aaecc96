/**
 * Every use of every key is known after a load of all kinds, and after the server was killed in the middle of one; a
 * signature that was made beside the server is named with key, act and digest. And the account that this rests on cannot
 * be changed unseen.
 */
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connectAdminAgent } from '#hsm'
import type { Reconciled } from '#lifecycle'
import { succeeded } from '../e2e/run.ts'
import { initialise, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { configure, startPatientLoad } from './loaded-stack.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-reconcile-'))
const dataDir = join(scratch, 'data')
const anchor = join(scratch, 'anchor')
const exported = join(scratch, 'account.jsonl')
/** As `agent.yaml` has it unless told. */
const SESSIONS = 4
let stack: Stack

beforeAll(async () => {
  await initialise(dataDir)
  mkdirSync(anchor)
  writeFileSync(join(anchor, '.chancery-anchor'), '')
  configure(dataDir, 'chancery.yaml', { anchors: [{ name: 'other', kind: 'file', path: anchor, everySeconds: 1 }] })
  stack = await serve(dataDir)
})

afterAll(async () => {
  try {
    await stack.stop()
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
})

describe('the account of key uses', () => {
  test('is explained use by use after a load of all kinds', async () => {
    const load = await startPatientLoad(stack, join(scratch, 'load-1'))
    await load.progress(15)
    // In the middle of it, too: what is being signed just now is no gap.
    const during = await reconcile()
    expect(during).toMatchObject({ status: 0, found: { unknownTotal: 0, unaccountedTotal: 0 } })
    await load.finish()
    const { status, found } = await reconcile()
    expect(found.unknown).toEqual([])
    expect(found.unaccounted).toEqual([])
    expect(status).toBe(0)
    const known = (key: string, act: string) =>
      found.keys.find((one) => one.key === key && one.act === act)?.known ?? {}
    const { certificate = 0, precertificate = 0, noted = 0 } = known('issuing-ca', 'certificate')
    expect(certificate).toBeGreaterThan(14)
    expect([precertificate, noted]).toEqual([certificate, 0])
    expect(known('ct', 'sct').sct).toBe(certificate)
    expect(known('rekor-v1', 'set').set).toBeGreaterThan(14)
    expect(known('tsa', 'timestamp').noted).toBeGreaterThan(14)
    for (const key of ['ct', 'rekor-v1', 'rekor-v2']) expect(known(key, 'treeHead').noted).toBeGreaterThan(0)
    expect(known('tuf-online', 'tuf').noted).toBeGreaterThan(1)
  })

  test('leaves at most as many uses unknown as there are sessions when the server is killed under load', async () => {
    const load = await startPatientLoad(stack, join(scratch, 'load-2'))
    await load.progress(10)
    stack.server.kill('SIGKILL')
    await stack.ended
    stack = await serve(dataDir)
    await load.finish()
    const { found } = await reconcile()
    expect(found.unknownTotal).toBeLessThanOrEqual(SESSIONS)
    expect(found.unknown).toHaveLength(found.unknownTotal)
    expect(found.unaccounted).toEqual([])
    if (found.unknownTotal > 0) await runChancery(['audit', 'reconcile', '--data', dataDir, '--accept', 'all'])
  })

  test('names what was signed beside the server, until somebody has looked into it', async () => {
    const agent = await connectAdminAgent({ socketPath: join(dataDir, 'run/agent.sock') })
    const body = Buffer.from('{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{}}')
    const integratedTimeSeconds = Math.floor(Date.now() / 1000)
    const { keyId } = await agent.key('rekor-v1')
    await Promise.all(
      [0, 1].map(async (n) => await agent.set({ key: 'rekor-v1', body, integratedTimeSeconds, logIndex: 9_000 + n })),
    )
    await agent.close()
    const digestOf = (logIndex: number) =>
      createHash('sha256')
        .update(
          JSON.stringify({
            body: body.toString('base64'),
            integratedTime: integratedTimeSeconds,
            logID: Buffer.from(keyId).toString('hex'),
            logIndex,
          }),
        )
        .digest('hex')
    const digests = [digestOf(9_000), digestOf(9_001)]
    const { status, found, stderr } = await reconcile()
    expect(status).toBe(8)
    expect(stderr).toContain('docs/runbook.md#reconcile_gap')
    expect(new Set(found.unknown.map(({ key, act, digest }) => `${key} ${act} ${digest}`))).toEqual(
      new Set(digests.map((digest) => `rekor-v1 set ${digest}`)),
    )
    expect(found.unknownTotal).toBe(2)
    const metrics = await (await fetch(`${stack.endpoints.metrics}/metrics`)).text()
    expect(metrics).toContain('chancery_reconcile_gap{key="rekor-v1"} 2')
    expect(readFileSync(join(dataDir, 'serve.log'), 'utf8')).toMatch(/"alarm":"reconcile_gap"/)
    expect((await reconcile('--accept', digests[0] ?? '')).found.unknown.map(({ digest }) => digest)).toEqual([
      digests[1],
    ])
    expect(await reconcile('--accept', 'all')).toMatchObject({ status: 0, found: { unknownTotal: 0 } })
  })

  test('can be compared without a server', async () => {
    await stack.stop()
    expect(await reconcile()).toMatchObject({ status: 0, found: { unknownTotal: 0 } })
    stack = await serve(dataDir)
  })
})

describe('an exported account', () => {
  const note = join(anchor, 'account.chancery.internal.note')

  test('holds, with its own head and the one that the anchor has', async () => {
    const told = succeeded(await chancery('audit', 'export', '--data', dataDir, '-o', exported))
    expect(told.stdout).toContain(`${exported}.note`)
    const said = succeeded(await chancery('audit', 'verify', exported, '--head', note, '--json'))
    expect(JSON.parse(said.stdout)).toMatchObject({ verified: true, heads: 2 })
  })

  test('is refused with the line that was changed, left out or added', async () => {
    const lines = readFileSync(exported, 'utf8').trimEnd().split('\n')
    const text = (changed: readonly string[]) => `${changed.join('\n')}\n`
    const at = 20
    const cases: [string, string[], RegExp][] = [
      ['count', lines.with(at, (lines[at] ?? '').replace(/"count":\d+/, '"count":77')), /line 21 does not follow/],
      ['left out', lines.toSpliced(at, 1), /line 21 has the number 22/],
      ['twice', lines.toSpliced(at, 0, lines[at] ?? ''), /line 22 has the number 21/],
      ['no JSON', lines.with(at, '{'), /line 21 is not JSON/],
      ['cut', lines.slice(0, at), /was signed at line \d+, and this account ends at line 20/],
      ['rewritten', rewritten(lines, at), /was signed over another line/],
    ]
    for (const [name, changed, words] of cases) {
      const file = join(scratch, 'changed.jsonl')
      writeFileSync(file, text(changed))
      const said = await chancery(
        'audit',
        'verify',
        file,
        '--head',
        `${exported}.note`,
        '--public-key',
        `${exported}.pub`,
      )
      expect(said, name).toMatchObject({ status: 8, stderr: expect.stringMatching(words) })
    }
  })

  test('is refused with a head of another key', async () => {
    const other = join(scratch, 'other.pub')
    writeFileSync(other, readFileSync(join(dataDir, 'ca/root.pem')))
    const said = await chancery('audit', 'verify', exported, '--head', note, '--public-key', other)
    expect(said).toMatchObject({ status: 8, stderr: expect.stringContaining('account_damaged') })
  })
})

test('an account that is shorter than what the anchor holds is an alarm', async () => {
  await stack.stop()
  const held = readFileSync(join(anchor, 'account.chancery.internal.note'), 'utf8')
  const size = Number(held.split('\n')[1])
  expect(size).toBeGreaterThan(50)
  // The agent begins a new account: its state is gone, and with it what it guarded.
  rmSync(join(dataDir, 'agent/online'), { recursive: true })
  stack = await serve(dataDir)
  const log = () => readFileSync(join(dataDir, 'serve.log'), 'utf8')
  const alarm = new RegExp(`"alarm":"account_rolled_back".*holds size ${size} of account.chancery.internal`)
  await expect.poll(log, { timeout: 30_000 }).toMatch(alarm)
})

async function chancery(...args: string[]) {
  return await runChancery(args)
}

async function reconcile(...args: string[]): Promise<{ status: number | null; stderr: string; found: Reconciled }> {
  const { status, stdout, stderr } = await chancery('audit', 'reconcile', '--data', dataDir, '--json', ...args)
  if (stdout === '') throw new Error(`no answer (${status}): ${stderr}`)
  return { status, stderr, found: JSON.parse(stdout) as Reconciled }
}

/** One line changed, and every hash after it made anew: what only a signed head shows. */
function rewritten(lines: readonly string[], at: number): string[] {
  let before = '0'.repeat(64)
  return lines.map((text, n) => {
    const { sequence, atMs, key, act, count, digest } = JSON.parse(text) as Record<string, unknown>
    const line = { sequence, atMs, key, act, count: n === at ? 77 : count, digest }
    const content = JSON.stringify([sequence, atMs, key, act, line.count, digest])
    before = createHash('sha256').update(Buffer.from(before, 'hex')).update(content).digest('hex')
    return JSON.stringify({ ...line, hash: before })
  })
}
