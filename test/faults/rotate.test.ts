/** `chancery rotate` on a whole stack: every kind, killed around its durable writes and gone on with, two at once, undone. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { EXIT } from '#alarms'
import { type Outcome, run, succeeded } from '../e2e/run.ts'
import { initialise, ownEnvironment, projectFolder, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { LONG } from './loaded-stack.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-rotate-'))
const dataDir = join(scratch, 'data')
const NOW = '--shorten=i-accept-that-cached-clients-may-refuse'
let stack: Stack

beforeAll(async () => {
  await initialise(dataDir)
  stack = await serve(dataDir)
})

afterAll(async () => {
  await stack.stop().catch(() => stack.server.kill('SIGKILL'))
  rmSync(scratch, { recursive: true, force: true })
})

const rotate = (...words: string[]) => runChancery(['rotate', ...words, '--data', dataDir])

interface Item {
  readonly id: string
  readonly kind: string
  readonly state: string
  readonly window: { readonly start: string; readonly end?: string }
}

interface Ended {
  readonly id: string
  readonly kind: string
  readonly ended: { readonly outcome: string }
  readonly facts: {
    readonly retired?: Readonly<Record<string, { readonly idHex: string; readonly destroyed: boolean }>>
  }
}

const read = (file: string): string => readFileSync(join(dataDir, file), 'utf8')
const items = (kind: string): Item[] =>
  (JSON.parse(read('trust-root/items.json')) as { items: Item[] }).items.filter((item) => item.kind === kind)

/** Names of an agent's keys with this purpose, or this role in TUF. */
function keysFor(agent: string, purpose: string): string[] {
  const { keys } = parse(read(`agent/${agent}.yaml`)) as {
    keys: Record<string, { purposes: string[]; tufRoles?: string[] }>
  }
  return Object.entries(keys).flatMap(([name, { purposes, tufRoles = [] }]) =>
    [...purposes, ...tufRoles.map((role) => `tuf ${role}`)].includes(purpose) ? [name] : [],
  )
}

async function status(): Promise<{ current?: { state: string; next: string }; history: Ended[] }> {
  return JSON.parse(succeeded(await rotate('status', '--json')).stdout) as { history: Ended[] }
}

const ITEM: Readonly<Record<string, string>> = {
  'issuing-ca': 'certificate-authority',
  'root-ca': 'certificate-authority',
  'ct-log': 'ct-log',
  'rekor-v1': 'rekor-v1',
  'rekor-v2': 'rekor-v2',
  tsa: 'timestamp-authority',
}

/** One key of each kind signs, nothing on a token is nobody's, and the server and the doctor find nothing. */
async function expectSound(): Promise<void> {
  const { current, history } = await status()
  expect(current).toBeUndefined()
  for (const kind of new Set(Object.values(ITEM))) {
    expect(
      items(kind).filter(({ state }) => state === 'active'),
      kind,
    ).toHaveLength(1)
    expect(
      items(kind).filter(({ state }) => state === 'trusted'),
      kind,
    ).toEqual([])
  }
  for (const purpose of ['certificate', 'timestamp', 'tuf snapshot']) expect(keysFor('online', purpose)).toHaveLength(1)
  for (const purpose of ['caCertificate', 'tuf targets']) expect(keysFor('root', purpose)).toHaveLength(1)
  expect(keysFor('online', 'certificateRequest')).toEqual([])
  const retired = new Map(
    history.flatMap(({ facts }) =>
      Object.values(facts.retired ?? {}).map(({ idHex, destroyed }) => [idHex, destroyed]),
    ),
  )
  for (const agent of ['online', 'root']) {
    const { spare, orphans } = JSON.parse(
      succeeded(await runChancery(['key', 'ls', '--json', '--agent', agent, '--data', dataDir])).stdout,
    ) as { spare: { label: string; idHex: string }[]; orphans: unknown[] }
    expect(orphans).toEqual([])
    // What is in no configuration was put away by a rotation that says so, and was not to be destroyed.
    expect(spare.filter(({ idHex }) => retired.get(idHex) !== false)).toEqual([])
  }
  const { findings } = JSON.parse((await runChancery(['doctor', '--json', '--data', dataDir])).stdout) as {
    findings: { code: string }[]
  }
  expect(findings.filter(({ code }) => code !== 'backup_overdue')).toEqual([])
}

/** Runs the command and kills it at a point of `killed-at-write.ts`; without a point it only lists them. */
async function watched(words: readonly string[], env: Readonly<Record<string, string>>): Promise<Outcome> {
  const preload = join(projectFolder, 'test/faults/killed-at-write.ts')
  const main = join(projectFolder, 'cli/main.ts')
  return await run(process.execPath, ['--import', preload, main, 'rotate', ...words, '--data', dataDir], {
    env: ownEnvironment(env),
  })
}

const KINDS = ['issuing-ca', 'root-ca', 'rekor-v1', 'rekor-v2', 'tsa', 'tuf-online', 'tuf-root'] as const

test('waits out the caches of clients, says until when, and takes no second rotation meanwhile', async () => {
  expect(succeeded(await rotate('tsa', '--dry-run')).stdout).toContain('Nothing was done')
  const begun = await rotate('tsa')
  expect([begun.status, begun.text]).toEqual([EXIT.approval, expect.stringContaining('#rotation_waiting')])
  const again = await rotate('resume')
  expect([again.status, again.text]).toEqual([EXIT.approval, expect.stringContaining('(3 d 0 h)')])
  const second = await rotate('issuing-ca', NOW)
  expect([second.status, second.text]).toEqual([EXIT.locked, expect.stringContaining('#rotation_underway')])
  expect((await rotate('resume', '--shorten')).text).toContain('the wait was not cut short')
  expect((await rotate('resume', '--shorten=yes')).status).toBe(EXIT.approval)
  const screen = succeeded(await rotate('status')).stdout
  expect(screen.split('\n').filter((line) => line.length > 80)).toEqual([])
  expect(screen).toContain(`chancery rotate resume --data ${dataDir} --wait`)
  // The new item is published for verifiers, and the former one signs.
  expect(
    items('timestamp-authority')
      .map(({ state }) => state)
      .toSorted(),
  ).toEqual(['active', 'standby', 'trusted'])
})

test('is undone before the switch: revoked, configuration as before, key destroyed; then there is nothing to undo', async () => {
  const before = keysFor('online', 'timestamp')
  expect(before).toHaveLength(2)
  expect((await rotate('abort')).status).toBe(EXIT.approval)
  expect(succeeded(await rotate('abort', '--confirm')).stdout).toContain('Undone')
  expect(keysFor('online', 'timestamp')).toEqual(['tsa'])
  expect(
    items('timestamp-authority')
      .map(({ state }) => state)
      .toSorted(),
  ).toEqual(['active', 'revoked', 'standby'])
  await expectSound()
  expect((await rotate('abort', '--confirm')).text).toContain('#rotation_none')
  expect((await rotate('resume')).text).toContain('#rotation_none')
})

test('of two that begin at once one is refused', async () => {
  const both = await Promise.all([rotate('tsa', NOW, '--destroy-old-key'), rotate('tuf-online')])
  expect(both.map((one) => one.status).toSorted((a, b) => a - b)).toEqual([EXIT.done, EXIT.locked])
  expect(both.map((one) => one.text).join()).toContain('#rotation_underway')
  await expectSound()
})

const POINTS = ['key:1', 'switch:1', 'end:3'] as const

describe.each(LONG ? KINDS : (['issuing-ca', 'rekor-v1'] as const))('%s', (kind) => {
  if (LONG) {
    test('killed before each of its durable writes, goes on to a sound end', { timeout: 3_600_000 }, async () => {
      const list = join(scratch, `${kind}.points`)
      succeeded(await watched([kind, NOW], { CHANCERY_WRITES: list }))
      const points = readFileSync(list, 'utf8').trim().split('\n')
      expect(points.length).toBeGreaterThan(10)
      for (const point of points) await killedAndResumed(kind, point)
      await expectSound()
    })
    return
  }

  test('killed with something done and not noted, goes on to a sound end', async () => {
    for (const point of POINTS) await killedAndResumed(kind, point)
    await expectSound()
  })
})

/** After the switch it cannot be undone; before and after, it goes on. */
async function killedAndResumed(kind: (typeof KINDS)[number], point: string): Promise<void> {
  const killed = await watched([kind, NOW], { CHANCERY_KILL_AT: `before:${point}` })
  expect(killed.status, `${kind} ${point}: ${killed.text}`).toBe(128)
  const { current } = await status()
  // Nothing was noted yet: nothing was done.
  if (current === undefined) return
  expect(current.state).toBe('interrupted')
  const isSwitched = ['switch', 'prove', 'end', 'retire'].includes(point.split(':')[0] ?? '')
  if (isSwitched && !kind.startsWith('tuf')) {
    expect((await rotate('abort', '--confirm')).text).toContain('#rotation_switched')
  }
  const resumed = await rotate('resume', NOW)
  expect(resumed.text, `${kind} ${point}`).toContain('Done')
}

test('what was rotated is kept: when, what, by whom', async () => {
  const { history } = await status()
  expect(history.length).toBeGreaterThan(3)
  expect(history.filter(({ ended }) => ended.outcome === 'aborted')).toHaveLength(1)
  const screen = succeeded(await rotate('status')).stdout
  expect(screen).toMatch(/\d{4}-\d\d-\d\d \d\d:\d\d UTC {2}tsa +aborted/)
})
