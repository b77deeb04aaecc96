/** `chancery rotate` on a whole stack: every kind, killed around its durable writes and gone on with, two at once, undone. */
import { generateKeyPairSync } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse, parseDocument } from 'yaml'
import { EXIT } from '#alarms'
import { withAdminAgent } from '#lifecycle'
import { decodePem } from '#x509'
import { answerRequest, readRequest } from '../../lifecycle/ceremony/certificate-request.ts'
import { certificateRequest, requestOf, timestampRequest } from '../crash/requests.ts'
import { type Outcome, run, succeeded } from '../e2e/run.ts'
import { initialise, ownEnvironment, projectFolder, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { LONG, longTest } from '../support/long.ts'

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
  for (const purpose of ['certificate', 'timestamp', 'sct', 'set', 'tuf snapshot'])
    expect(keysFor('online', purpose)).toHaveLength(1)
  for (const purpose of ['caCertificate', 'tuf targets']) expect(keysFor('root', purpose)).toHaveLength(1)
  for (const purpose of ['treeHead', 'witnessHead']) expect(keysFor('online', purpose)).toHaveLength(3)
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

const KINDS = ['tuf-root', 'tuf-online', 'ct-log', 'rekor-v2', 'tsa', 'rekor-v1', 'issuing-ca', 'root-ca'] as const

/** Lines that a terminal would wrap, with the data folder where it usually is. */
function tooLong(screen: string): string[] {
  return screen.split('\n').filter((line) => line.replaceAll(dataDir, './data').length > 80)
}

test('says that a key of several tokens is made on one', async () => {
  const file = join(dataDir, 'agent/online.yaml')
  const before = readFileSync(file, 'utf8')
  const document = parseDocument(before)
  const [uri, token] = ['uri', 'token'].map((field) => document.getIn(['keys', 'tsa', field]))
  for (const field of ['uri', 'token']) document.deleteIn(['keys', 'tsa', field])
  const places = [
    { token, uri },
    { token: 'second', uri },
  ]
  document.setIn(['keys', 'tsa', 'uris'], document.createNode(places))
  try {
    // The running agent has not read it: only what the plan says is looked at.
    writeFileSync(file, document.toString())
    const { stdout } = succeeded(await rotate('tsa', '--dry-run'))
    expect(stdout.replaceAll(/\s+/g, ' ')).toMatch(/on second too; tsa-\d is made on online alone/)
    expect(tooLong(stdout)).toEqual([])
  } finally {
    writeFileSync(file, before)
  }
})

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
  expect(tooLong(screen)).toEqual([])
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
  // Killed when it is withdrawn and the agent still has the key.
  const killed = await watched(['abort', '--confirm'], { CHANCERY_KILL_AT: 'before:wait:2' })
  expect([killed.status, (await status()).current?.state]).toEqual([128, 'aborting'])
  expect(succeeded(await rotate('resume')).stdout).toContain('Undone')
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
  const hold = join(scratch, 'hold')
  const first = watched(['tsa', NOW, '--destroy-old-key'], { CHANCERY_HOLD: hold })
  await expect.poll(() => existsSync(hold), { timeout: 60_000 }).toBe(true)
  const second = await rotate('tuf-online')
  expect([second.status, second.text]).toEqual([EXIT.locked, expect.stringContaining('#rotation_underway')])
  rmSync(hold)
  expect(succeeded(await first).stdout).toContain('Done')
})

longTest('a root that was to come is taken by no CT log any more when that is undone', async () => {
  const accepted = () => {
    const { logs } = parse(read('chancery.yaml')) as { logs: { kind: string; roots?: string }[] }
    return logs.flatMap(({ roots }) => (roots === undefined ? [] : [read(roots).match(/BEGIN/g)?.length]))
  }
  const before = accepted()
  expect((await rotate('root-ca')).status).toBe(EXIT.approval)
  expect(accepted()).toEqual(before.map((count) => (count ?? 0) + 1))
  expect(succeeded(await rotate('abort', '--confirm')).stdout).toContain('Undone')
  expect(accepted()).toEqual(before)
  await expectSound()
})

/** Of the usual run: made and not noted, switched and not noted, ended and not noted. */
const SAMPLE = { 'issuing-ca': ['key:1', 'end:3'], 'rekor-v1': ['switch:1'] } as const

describe.each(LONG ? KINDS : (['issuing-ca', 'rekor-v1'] as const))('%s', (kind) => {
  if (LONG) {
    test('killed in each of its steps, goes on to a sound end', { timeout: 3_600_000 }, async () => {
      const list = join(scratch, `${kind}.points`)
      succeeded(await watched([kind, NOW], { CHANCERY_WRITES: list }))
      const points = inEachStep(readFileSync(list, 'utf8').trim().split('\n'))
      expect(points.length).toBeGreaterThan(7)
      for (const point of points) await killedAndResumed(kind, point)
      await expectSound()
    })
    return
  }

  test('killed with something done and not noted, goes on to a sound end', async () => {
    if (kind !== 'issuing-ca' && kind !== 'rekor-v1') throw new TypeError(`${kind} is for the long run`)
    for (const point of SAMPLE[kind]) await killedAndResumed(kind, point)
    if (kind === 'rekor-v1') await expectSound()
  })
})

/** Of each step the first thing done and not noted, and all of it done and not noted: the last write begins the next step. */
function inEachStep(points: readonly string[]): string[] {
  const steps = Map.groupBy(points, (point) => point.split(':')[0])
  return [...steps.values()].flatMap((of) => [...new Set([of.at(0), of.at(-2)])].flatMap((point) => point ?? []))
}

/** After the switch it cannot be undone; before and after, it goes on. */
async function killedAndResumed(kind: (typeof KINDS)[number], point: string): Promise<void> {
  const killed = await watched([kind, NOW], { CHANCERY_KILL_AT: `before:${point}` })
  expect(killed.status, `${kind} ${point}: ${killed.text}`).toBe(128)
  const { current } = await status()
  // Nothing was noted yet: nothing was done.
  if (current === undefined) return
  expect(['interrupted', ...(point.startsWith('wait') ? ['waiting'] : [])]).toContain(current.state)
  const isSwitched = ['switch', 'prove', 'end', 'retire'].includes(point.split(':')[0] ?? '')
  if (isSwitched && !kind.startsWith('tuf')) {
    expect((await rotate('abort', '--confirm')).text).toContain('#rotation_switched')
  }
  const resumed = await rotate('resume', NOW)
  expect(resumed.text, `${kind} ${point}`).toContain('Done')
}

describe('distrust', () => {
  const distrust = (...words: string[]) => runChancery(['distrust', ...words, '--data', dataDir])
  const post = async (url: string, body: string) =>
    await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
  const active = (kind: string): string => items(kind).find(({ state }) => state === 'active')?.id ?? ''
  const seconds = (time: Date): string => `${time.toISOString().slice(0, 19)}Z`

  test('says how many signatures are affected, by what was made in that time', async () => {
    // Given up is also what was made in the second before, since windows have whole seconds.
    await delay(1000)
    await untilNextSecond()
    const from = seconds(new Date())
    const { rekorV1, tsa, ca } = stack.endpoints
    const said = await runChancery(['dev', 'token', '--data', dataDir, '--email', 'who@example.test'])
    const token = succeeded(said).stdout.trim()
    for (let n = 0; n < 3; n++) {
      const { sent } = requestOf('v1', `distrust ${n}`)
      expect((await post(`${rekorV1}/api/v1/log/entries`, sent)).status).toBe(201)
    }
    for (let n = 0; n < 2; n++) {
      const { sent } = certificateRequest({ token, email: 'who@example.test' })
      expect((await post(`${ca}/api/v2/signingCert`, sent)).status).toBe(200)
      const stamp = await post(`${tsa}/api/v1/timestamp`, timestampRequest(`distrust ${n}`).sent)
      expect(stamp.status).toBe(200)
      await stamp.arrayBuffer()
    }
    const counts = async (id: string) => {
      const { stdout } = succeeded(await distrust(id, '--from', from, '--dry-run', '--json'))
      const { affected } = JSON.parse(stdout) as { affected: { counts: { count: number }[]; unknown: string } }
      expect(affected.unknown).toBe('')
      return affected.counts.reduce((sum, { count }) => sum + count, 0)
    }
    expect(await counts(active('rekor-v1'))).toBe(3)
    expect(await counts(active('certificate-authority'))).toBe(2)
    expect(await counts(active('timestamp-authority'))).toBe(2)
    expect(await counts(active('ct-log'))).toBe(2)
  })

  test.each([
    ['an item that is not there', ['nobody', '--entirely']],
    ['neither a time nor all', ['rekor-v1']],
    ['a time that is none', ['rekor-v1', '--from', 'yesterday']],
  ])('refuses %s, and changes nothing', async (_what, words) => {
    const before = read('trust-root/items.json')
    const said = await distrust(...words, '--confirm', words[0] ?? '')
    expect([said.status, said.text]).toEqual([EXIT.policy, expect.stringContaining('#distrust_impossible')])
    expect(read('trust-root/items.json')).toBe(before)
  })

  test('cuts what a former key signed after a time, once somebody has said so', async () => {
    const former = items('certificate-authority').find(({ state }) => state === 'retired')
    const from = new Date(Date.parse(former?.window.start ?? '') + 305_000)
    const words = [former?.id ?? '', '--from', seconds(from)]
    expect((await distrust(...words)).status).toBe(EXIT.approval)
    expect(succeeded(await distrust(...words, '--confirm', words[0] ?? '')).stdout).toContain('published: root')
    const now = items('certificate-authority').find(({ id }) => id === former?.id)
    expect(now).toMatchObject({ state: 'retired', window: { end: seconds(new Date(from.getTime() - 1000)) } })
  })
})

async function untilNextSecond(): Promise<void> {
  await delay(1000 - (Date.now() % 1000))
}

describe('with the root token on another machine', () => {
  const at = (name: string) => join(scratch, name)

  beforeAll(async () => {
    await stack.stop()
    const file = join(dataDir, 'chancery.yaml')
    const document = parseDocument(readFileSync(file, 'utf8'))
    document.deleteIn(['trustRoot', 'rootAgent'])
    writeFileSync(file, document.toString())
    stack = await serve(dataDir)
  })

  /** As its custodian does, on another machine: payload, signature, merged by key. */
  async function signed(): Promise<void> {
    const trust = (...words: string[]) => runChancery(['trust', ...words])
    succeeded(await trust('payload', '-o', at('payload.json'), '--data', dataDir))
    const [custodian = ''] = keysFor('root', 'tuf targets')
    const agent = join(dataDir, 'agent/root.yaml')
    const words = ['--agent', agent, '--key', custodian, '-o', at('signature.json'), '--confirm']
    succeeded(await trust('sign', at('payload.json'), ...words))
    succeeded(await trust('merge', at('signature.json'), '--data', dataDir))
  }

  /** As a ceremony answers a request, with the root key or with what is not it. */
  async function answered(request: string, profile: 'issuing' | 'timestamp', spkiDer?: Uint8Array): Promise<string> {
    const { name, spkiDer: own, kind } = readRequest(request)
    const [key = ''] = keysFor('root', 'caCertificate')
    const chain = decodePem(read(activeChain()), { labels: ['CERTIFICATE'] }).map(({ der }) => der)
    return await withAdminAgent({ dataDir, agent: 'root' }, (agent) =>
      answerRequest(
        {
          agent,
          issuerKey: key,
          issuerChain: chain.slice(-1),
          subject: { spkiDer: spkiDer ?? own, kind },
          profile,
          name,
          validityYears: 2,
        },
        new Date(),
      ),
    )
  }

  const activeChain = (): string => (parse(read('chancery.yaml')) as { ca: { chain: string } }).ca.chain

  test('a certificate is asked for by file, taken only if it is the one, and each publication waits for its custodian', async () => {
    const asked = await rotate('issuing-ca')
    expect([asked.status, asked.text]).toEqual([
      EXIT.approval,
      expect.stringContaining('#rotation_awaiting_certificate'),
    ])
    const [, file = ''] = /^ {2}(\S+\.csr\.pem)$/m.exec(asked.stdout) ?? []
    const request = readFileSync(file, 'utf8')
    const good = await answered(request, 'issuing')
    const otherKey = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const refused = {
      'of another key': await answered(
        request,
        'issuing',
        new Uint8Array(otherKey.publicKey.export({ type: 'spki', format: 'der' })),
      ),
      'a timestamp authority': await answered(request, 'timestamp'),
      'the former chain': read(activeChain()),
    }
    for (const [what, pem] of Object.entries(refused)) {
      writeFileSync(at('answer.pem'), pem)
      const said = await rotate('resume', '--certificate', at('answer.pem'))
      expect([said.status, said.text], what).toEqual([
        EXIT.integrity,
        expect.stringContaining('#ceremony_certificate_refused'),
      ])
    }
    writeFileSync(at('answer.pem'), good)
    const waits = await rotate('resume', '--certificate', at('answer.pem'))
    expect([waits.status, waits.text]).toEqual([
      EXIT.approval,
      expect.stringContaining('awaiting-signatures targets 0/1'),
    ])
    expect((await rotate('resume')).text).toContain('#awaiting_signatures')
    expect(items('certificate-authority').some(({ state }) => state === 'trusted')).toBe(true)
    await signed()
    expect((await rotate('resume')).text).toContain('#rotation_waiting')
    const ends = await rotate('resume', NOW)
    expect([ends.status, ends.text]).toEqual([EXIT.approval, expect.stringContaining('#awaiting_signatures')])
    const screen = succeeded(await rotate('status')).stdout
    expect(screen).toContain('awaits signatures')
    expect(tooLong(screen)).toEqual([])
    await signed()
    expect(succeeded(await rotate('resume')).stdout).toContain('Done')
  })

  longTest('what waits for signatures is withdrawn when it is undone, and nobody has to sign that', async () => {
    expect((await rotate('rekor-v2')).text).toContain('#awaiting_signatures')
    expect(succeeded(await rotate('abort', '--confirm')).stdout).toContain('Undone')
    expect(items('rekor-v2').map(({ state }) => state)).not.toContain('trusted')
    await expectSound()
  })
})

test('what was rotated is kept: when, what, by whom', async () => {
  const { history } = await status()
  expect(history.length).toBeGreaterThan(2)
  expect(history.filter(({ ended }) => ended.outcome === 'aborted')).toHaveLength(LONG ? 3 : 1)
  const screen = succeeded(await rotate('status')).stdout
  expect(screen).toMatch(/\d{4}-\d\d-\d\d \d\d:\d\d UTC {2}tsa +aborted/)
})
