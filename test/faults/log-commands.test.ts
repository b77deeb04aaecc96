/** `chancery log`: checks of running and stopped logs, heads that are adopted and those that never are, logs that end. */
import { spawn } from 'node:child_process'
import { verify } from 'node:crypto'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { EXIT } from '#alarms'
import { pinnedKeys } from '../crash/pinned-logs.ts'
import { certificateRequest, requestOf } from '../crash/requests.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, ownEnvironment, projectFolder, runChancery, type Stack, serve } from '../e2e/stack.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-log-commands-'))
const dataDir = join(scratch, 'data')
const EMAIL = 'operator@example.test'
let stack: Stack
let token = ''

beforeAll(async () => {
  await initialise(dataDir)
  stack = await serve(dataDir)
  token = succeeded(await runChancery(['dev', 'token', '--data', dataDir, '--email', EMAIL])).stdout.trim()
  // Beside the first one of each, which is the server's own.
  for (let n = 0; n < 5; n++) expect([await post('v1'), await post('v2'), await issue()]).toEqual([201, 201, 201])
})

afterAll(async () => {
  await stack.stop().catch(() => stack.server.kill('SIGKILL'))
  rmSync(scratch, { recursive: true, force: true })
})

const log = (...words: string[]) => runChancery(['log', ...words, '--data', dataDir])

interface Report {
  readonly name: string
  readonly size: number
  readonly damaged: number
  readonly findings: readonly { readonly kind: string; readonly index?: number }[]
}

describe('fsck', () => {
  test('finds every log of a running server sound, while it goes on serving', async () => {
    const checking = log('fsck', '--all', '--signatures', 'all', '--json')
    expect(await post('v1')).toBe(201)
    const reports = JSON.parse(succeeded(await checking).stdout) as Report[]
    expect(reports.map(({ name, damaged }) => [name, damaged])).toEqual([
      ['ct', 0],
      ['rekor-v1', 0],
      ['rekor-v2', 0],
    ])
    expect(succeeded(await log('fsck', 'ct')).stdout).toMatch(/^ct: sound, 6 entries/)
    expect((await log('fsck', 'nobody')).status).toBe(EXIT.usage)
  })

  test('disturbs nothing when the one who asked is killed', async () => {
    const file = join(dataDir, 'run/fsck-rekor-v1.json')
    const asking = spawn(join(projectFolder, 'scripts/chancery'), ['log', 'fsck', 'rekor-v1', '--data', dataDir], {
      env: ownEnvironment(),
      stdio: 'ignore',
    })
    await delay(300)
    asking.kill('SIGKILL')
    await delay(500)
    expect(existsSync(file)).toBe(false)
    succeeded(await log('fsck', 'rekor-v1'))
    expect(await post('v1')).toBe(201)
  })

  test('finds damage in a stopped log and in a running one, which is told as an alarm until it is repaired', async () => {
    await stack.stop()
    const database = join(dataDir, 'logs/rekor-v1.db')
    cpSync(database, join(scratch, 'sound.db'))
    const db = new Database(database)
    db.exec('DELETE FROM by_search_key WHERE idx = 2')
    db.close()
    const stopped = await log('fsck', 'rekor-v1', '--json')
    expect(stopped.status).toBe(EXIT.integrity)
    const [report] = JSON.parse(stopped.stdout) as Report[]
    expect(report?.findings).toMatchObject([{ kind: 'index_missing', index: 2 }])
    stack = await serve(dataDir)
    const running = await log('fsck', 'rekor-v1')
    expect([running.status, running.text]).toEqual([
      EXIT.integrity,
      expect.stringMatching(/docs\/runbook\.md#log_damaged/),
    ])
    await told('"alarm":"log_damaged"')
    await stack.stop()
    cpSync(join(scratch, 'sound.db'), database)
    stack = await serve(dataDir)
    succeeded(await log('fsck', 'rekor-v1'))
  })

  test('holds a checkpoint that somebody kept against the log', async () => {
    const kept = join(scratch, 'kept.txt')
    writeFileSync(kept, await (await fetch(`${stack.endpoints.rekorV2}/checkpoint`)).text())
    succeeded(await log('fsck', 'rekor-v2', '--checkpoint', kept))
    const forged = join(scratch, 'forged.txt')
    writeFileSync(forged, readFileSync(kept, 'utf8').replace('\n6\n', '\n5\n'))
    expect(await log('fsck', 'rekor-v2', '--checkpoint', forged)).toMatchObject({
      status: EXIT.integrity,
      text: expect.stringContaining('docs/runbook.md#log_evidence'),
    })
  })
})

describe('adopt', () => {
  const agentState = join(dataDir, 'agent/online')
  const v2Origin = 'rekor-v2.chancery.internal'

  test('refuses a log that is well', async () => {
    expect(await log('adopt', 'rekor-v2', '--confirm', v2Origin)).toMatchObject({
      status: EXIT.integrity,
      text: expect.stringContaining('nothing to adopt'),
    })
  })

  test('refuses an older database, whatever is confirmed; a client’s checkpoint shows that it is older', async () => {
    await stack.stop()
    for (const suffix of ['', '-wal']) {
      const file = join(dataDir, `logs/rekor-v2.db${suffix}`)
      if (existsSync(file)) cpSync(file, join(scratch, `older-v2.db${suffix}`))
    }
    stack = await serve(dataDir)
    expect(await post('v2')).toBe(201)
    const newest = join(scratch, 'newest.txt')
    writeFileSync(newest, await (await fetch(`${stack.endpoints.rekorV2}/checkpoint`)).text())
    await stack.stop()
    cpSync(join(dataDir, 'logs/rekor-v2.db'), join(scratch, 'newest-v2.db'))
    rmSync(join(dataDir, 'logs/rekor-v2.db-wal'), { force: true })
    cpSync(join(scratch, 'older-v2.db'), join(dataDir, 'logs/rekor-v2.db'))
    stack = await serve(dataDir)
    // With its guard the agent says so itself.
    const guarded = await log('adopt', 'rekor-v2', '--confirm', v2Origin)
    expect([guarded.status, guarded.text]).toEqual([EXIT.integrity, expect.stringMatching(/A guard is never lowered/)])
    await stack.stop()
    cpSync(agentState, join(scratch, 'agent-state'), { recursive: true })
    rmSync(agentState, { recursive: true })
    stack = await serve(dataDir)
    // Without it only what others kept can.
    const evident = await log('adopt', 'rekor-v2', '--confirm', v2Origin, '--checkpoint', newest)
    expect([evident.status, evident.text]).toEqual([EXIT.integrity, expect.stringMatching(/log_evidence/)])
    await told('"alarm":"guard_behind"')
    await stack.stop()
    cpSync(join(scratch, 'newest-v2.db'), join(dataDir, 'logs/rekor-v2.db'))
    rmSync(join(dataDir, 'logs/rekor-v2.db-wal'), { force: true })
    stack = await serve(dataDir)
  })

  test('with the state of the agent lost: after a check and a confirmation every log writes again', async () => {
    expect(await Promise.all([post('v1'), post('v2'), issue()])).toEqual([503, 503, 503])
    const newest = join(scratch, 'newest.txt')
    const dry = succeeded(await log('adopt', 'rekor-v2', '--dry-run', '--checkpoint', newest))
    expect(dry.stdout).toMatch(
      /remembers 0 entries .* holds 7, all sound, and 1 checkpoint.* agree.*Nothing was changed/s,
    )
    const origins = Object.fromEntries(Object.entries(pinnedKeys(dataDir)).map(([name, { origin }]) => [name, origin]))
    for (const name of ['rekor-v1', 'rekor-v2', 'ct']) {
      expect((await log('adopt', name)).status).toBe(EXIT.approval)
      expect((await log('adopt', name, '--confirm', 'somebody else')).status).toBe(EXIT.approval)
      succeeded(await log('adopt', name, '--confirm', origins[name] ?? ''))
    }
    expect(await Promise.all([post('v1'), post('v2'), issue()])).toEqual([201, 201, 201])
    succeeded(await log('fsck', '--all'))
    const again = await log('adopt', 'rekor-v2', '--confirm', v2Origin)
    expect(again.text).toContain('nothing to adopt')
  })
})

describe('freeze', () => {
  test('ends a Rekor v2 log with upstream’s words, for ever; a restart keeps it, and other logs go on', async () => {
    const unconfirmed = await log('freeze', 'rekor-v2')
    expect(unconfirmed.status).toBe(EXIT.approval)
    const posts = Array.from({ length: 8 }, () => post('v2'))
    const frozen = log('freeze', 'rekor-v2', '--confirm', 'rekor-v2.chancery.internal')
    // Each was taken and is in the log, or was told that it is frozen.
    const statuses = await Promise.all(posts)
    expect(statuses.every((status) => status === 201 || status === 405)).toBe(true)
    expect(succeeded(await frozen).stdout).toMatch(/^log rekor-v2 is frozen at \d+ entries/)
    const checkpoint = await (await fetch(`${stack.endpoints.rekorV2}/checkpoint`)).text()
    expect(checkpoint).toMatch(/\nLog frozen — \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d UTC 20\d\d\n\n— /)
    const [text = '', lines = ''] = checkpoint.split('\n\n')
    const signature = Buffer.from(lines.split('\n')[0]?.split(' ')[2] ?? '', 'base64').subarray(4)
    const { spkiDer = Buffer.alloc(0) } = pinnedKeys(dataDir)['rekor-v2'] ?? {}
    expect(verify('sha256', Buffer.from(`${text}\n`), { key: spkiDer, format: 'der', type: 'spki' }, signature)).toBe(
      true,
    )
    expect(Number(text.split('\n')[1])).toBe(8 + statuses.filter((status) => status === 201).length)

    const answer = await send('v2')
    expect([answer.status, await answer.text()]).toEqual([
      405,
      'This log has been frozen, please switch to the latest log.\n',
    ])
    expect(await post('v1')).toBe(201)
    await stack.stop()
    stack = await serve(dataDir)
    expect((await send('v2')).status).toBe(405)
    expect((await (await fetch(`${stack.endpoints.rekorV2}/checkpoint`)).text()).split('\n\n')[0]).toBe(text)
    succeeded(await log('freeze', 'rekor-v2', '--confirm', 'rekor-v2.chancery.internal'))
    succeeded(await log('fsck', 'rekor-v2'))
    expect(JSON.parse(succeeded(await log('show', 'rekor-v2', '--json')).stdout)).toMatchObject({ state: 'frozen' })
  })

  test('the agent signs no further head of it', async () => {
    await stack.stop()
    // As if the server had forgotten: the database alone says nothing that the agent does not know.
    const db = new Database(join(dataDir, 'logs/rekor-v2.db'))
    db.exec('DELETE FROM frozen')
    db.close()
    stack = await serve(dataDir)
    expect([405, 503]).toContain((await send('v2')).status)
    expect(await (await fetch(`${stack.endpoints.rekorV2}/checkpoint`)).text()).toContain('Log frozen')
  })
})

async function send(use: 'v1' | 'v2'): Promise<Response> {
  const { rekorV1, rekorV2 } = stack.endpoints
  const url = use === 'v1' ? `${rekorV1}/api/v1/log/entries` : `${rekorV2}/api/v2/log/entries`
  const { sent } = requestOf(use, `${Math.random()}`)
  return await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: sent })
}

async function post(use: 'v1' | 'v2'): Promise<number> {
  return (await send(use)).status
}

async function issue(): Promise<number> {
  const { sent } = certificateRequest({ token, email: EMAIL })
  const url = `${stack.endpoints.ca}/api/v2/signingCert`
  const answer = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: sent })
  return answer.status === 200 ? 201 : answer.status
}

async function told(words: string): Promise<void> {
  const file = join(dataDir, 'serve.log')
  const untilMs = performance.now() + 10_000
  while (!readFileSync(file, 'utf8').includes(words)) {
    if (performance.now() > untilMs) throw new Error(`the server did not say ${words}`)
    await delay(20)
  }
}
