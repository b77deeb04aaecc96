/** Publications of a running stack on SoftHSM: what would lose a signature is refused, and nothing is switched. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type AdminError, askAdmin } from './admin.ts'
import type { CanaryReport } from './canary.ts'

const run = promisify(execFile)
const main = join(import.meta.dirname, '../cli/main.ts')
const folder = mkdtempSync(join(tmpdir(), 'chancery-canary-test-'))
const data = join(folder, 'data')
const canaries = join(data, 'trust-root', 'canaries')
let server: ChildProcess | undefined

const ask = async (verb: string, argument: unknown = {}): Promise<unknown> =>
  await askAdmin(join(data, 'run/admin.sock'), verb, { argument, timeoutMs: 60_000 })
const prove = async () => (await ask('canary')) as CanaryReport

/** What was said by a verb that had to be refused. */
async function refusal(verb: string, argument: unknown): Promise<{ code: string | undefined; message: string }> {
  const error = await ask(verb, argument).then(
    (answer) => new Error(`it was accepted: ${JSON.stringify(answer)}`),
    (reason: AdminError) => reason,
  )
  return { code: 'remoteCode' in error ? error.remoteCode : undefined, message: error.message }
}

const set = (id: string, change: object) => ({ op: 'set', id, ...change })
const served = (name: string) => readFileSync(join(data, 'trust-root/repository', name), 'utf8')
const seconds = (ms: number) => `${new Date(ms).toISOString().slice(0, 19)}Z`

interface Item {
  readonly id: string
  readonly state: string
  readonly kind: string
}

const published = (): readonly Item[] => (JSON.parse(served('.items.json')) as { items: Item[] }).items

beforeAll(async () => {
  await run(process.execPath, [main, 'init', '--data', data, '--ports', 'auto', '--domain', 'sig.example.test'])
  const child = spawn(process.execPath, [main, 'serve', '--data', data, '--log-level', 'error'], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, PATH: '/usr/bin:/bin' }, // a cosign of this machine would make the outcome depend on it
  })
  server = child
  while (!existsSync(join(data, 'run/endpoints.json'))) {
    if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
})

afterAll(async () => {
  if (server?.exitCode === null) {
    const ended = new Promise((resolve) => server?.once('exit', resolve))
    server.kill('SIGTERM')
    await ended
  }
  rmSync(folder, { recursive: true, force: true })
})

test('the first entry of each Rekor log is our own: no client is given the index 0, which Go leaves out of a bundle', async () => {
  const { rekorV1, rekorV2 } = JSON.parse(readFileSync(join(data, 'run/endpoints.json'), 'utf8')) as {
    rekorV1: string
    rekorV2: string
  }
  const answer = await fetch(`${rekorV1}/api/v1/log/entries?logIndex=0`)
  const [entry] = Object.values((await answer.json()) as Record<string, { body: string }>)
  const { spec } = JSON.parse(Buffer.from(entry?.body ?? '', 'base64').toString()) as {
    spec: { signature: { publicKey: { content: string } } }
  }
  const certificate = new X509Certificate(Buffer.from(spec.signature.publicKey.content, 'base64'))
  expect(certificate.subjectAltName).toBe('URI:https://sig.example.test/chancery/canary')
  const checkpoint = await (await fetch(`${rekorV2}/api/v2/checkpoint`)).text()
  expect(checkpoint.split('\n')[1]).toBe('1')
})

test('the first canary has no older one; the second has the first', async () => {
  const first = await prove()
  expect(first.old).toBeNull()
  expect(first.new.bundles).toEqual([
    {
      log: 'rekor-v1',
      identity: 'https://sig.example.test/chancery/canary',
      signedBy: ['certificate-authority', 'ct-log', 'timestamp-authority', 'rekor-v1'],
      verifiedBy: ['chancery'],
    },
    {
      log: 'rekor-v2',
      identity: 'https://sig.example.test/chancery/canary',
      signedBy: ['certificate-authority', 'ct-log', 'timestamp-authority', 'rekor-v2'],
      verifiedBy: ['chancery'],
    },
  ])
  const second = await prove()
  expect(second.old?.id).toBe(first.new.id)
  expect(readdirSync(canaries)).toEqual([`${first.new.id}.json`, `${second.new.id}.json`])
})

test('an operator has it made by a command', async () => {
  const { stdout } = await run(process.execPath, [main, 'trust', 'canary', '--data', data])
  expect(stdout.trim().split('\n')).toEqual([
    expect.stringMatching(/^MADE \(UTC\) +LOG +VERIFIED BY +SIGNED BY$/),
    ...['rekor-v1', 'rekor-v2', 'rekor-v1', 'rekor-v2'].map((log): unknown =>
      expect.stringMatching(
        new RegExp(`^20.* ${log} +chancery +certificate-authority, ct-log, timestamp-authority, ${log}$`),
      ),
    ),
  ])
})

describe('a publication is refused, and clients see what they saw,', () => {
  // A minute ago: inside the life of the installation, and before the signature that is made for the publication.
  const before = seconds(Date.now() - 60_000)
  const standby = (kind: string): string => {
    const found = published().find((item) => item.kind === kind && item.state === 'standby')
    if (found === undefined) throw new Error(`no standby ${kind}`)
    return found.id
  }

  test.each([
    ['the CT log', 'ct-log', 'ct-log', /in rekor-v1.*SCT verification failed/],
    ['the issuing CA', 'certificate-authority', 'certificate-authority', /in rekor-v1.*untrusted_certificate/],
    ['the Rekor v1 log', 'rekor-v1', 'rekor-v1', /in rekor-v1.*not_in_log/],
    ['the Rekor v2 log', 'rekor-v2', 'rekor-v2', /in rekor-v2.*leaves it out/],
    ['the timestamp authority', 'timestamp-authority', 'timestamp-authority', /in rekor-v1.*bad_timestamp/],
  ])('whose window of %s ends before what it signed', async (_, id, kind, why) => {
    const timestamp = served('timestamp.json')
    const said = await refusal('trust-change', {
      changes: [set(id, { state: 'retired', end: before }), set(standby(kind), { state: 'active' })],
    })
    restoreItems()
    expect(said.code).toBe('canary_failed')
    expect(said.message).toMatch(why)
    expect(said.message).toMatch(/does not verify with the trust root that was to be published/)
    expect(served('timestamp.json')).toBe(timestamp)
  })

  test('that drops an item which has signed', async () => {
    const timestamp = served('timestamp.json')
    const file = join(data, 'trust-root/items.json')
    const items = JSON.parse(readFileSync(file, 'utf8')) as { items: Item[] }
    const heir = standby('rekor-v1')
    const without = items.items.flatMap((item) =>
      item.id === 'rekor-v1' ? [] : [item.id === heir ? { ...item, state: 'active' } : item],
    )
    writeFileSync(file, JSON.stringify({ ...items, items: without }))
    const said = await refusal('trust-publish', {})
    restoreItems()
    // The linter compares with what was published, and comes first.
    expect([said.code, served('timestamp.json')]).toEqual(['lint', timestamp])
    expect(said.message).toMatch(/rekor-v1 was published and is gone/)
  })

  test('when one of the kept signatures was changed', async () => {
    const [name = ''] = readdirSync(canaries)
    const kept = readFileSync(join(canaries, name), 'utf8')
    const changed = kept.replace(/("signature": ")(...)/, (_, head: string, start: string) =>
      start === 'MEQ' ? `${head}MEU` : `${head}MEQ`,
    )
    expect(changed).not.toBe(kept)
    writeFileSync(join(canaries, name), changed)
    expect(await refusal('trust-publish', {})).toMatchObject({ code: 'canary_failed' })
    writeFileSync(join(canaries, name), kept)
    expect(await ask('trust-publish')).toMatchObject({ state: 'published' })
  })
})

test('a former log keeps its signatures; with the next one that is taken away, unless it is given up', async () => {
  await run(process.execPath, [main, 'log', 'succeed', 'rekor-v1', '--data', data, '--confirm', await originOf()])
  const { new: now, old } = await prove()
  const heir = now.bundles[0]?.signedBy.at(-1) ?? ''
  expect(heir).not.toBe('rekor-v1')
  expect(old?.bundles[0]?.signedBy).toContain('rekor-v1')

  const cut = { changes: [set('rekor-v1', { end: seconds(Date.parse(old?.madeAt ?? '') - 30_000) })] }
  expect(await refusal('trust-change', cut)).toMatchObject({ code: 'canary_failed' })
  await ask('canary-distrust', { item: 'rekor-v1', from: seconds(Date.parse(old?.madeAt ?? '') - 60_000) })
  expect(await ask('trust-change', cut)).toMatchObject({ state: 'published' })
  const after = await prove()
  expect(after.old?.bundles.flatMap(({ signedBy }) => signedBy)).not.toContain('rekor-v1')
  expect(await refusal('canary-distrust', { item: 'nobody', from: seconds(Date.now()) })).toMatchObject({
    code: 'canary_failed',
  })
})

test('they are in a backup, with what was given up', async () => {
  const target = join(folder, 'backup')
  await run(process.execPath, [main, 'backup', target, '--data', data])
  const { files } = JSON.parse(readFileSync(join(target, 'manifest.json'), 'utf8')) as { files: { path: string }[] }
  const kept = readdirSync(canaries).map((name) => `trust-root/canaries/${name}`)
  expect(kept).toContain('trust-root/canaries/distrusted.json')
  expect(kept.length).toBeGreaterThan(3)
  expect(files.map(({ path }) => path)).toEqual(expect.arrayContaining(kept))
})

test('a log that was ended for ever is left out; without any log the kept signatures decide alone', async () => {
  const freeze = async (kind: string) => {
    const logs = (await ask('logs')) as { name: string; kind: string; origin: string; frozen: boolean }[]
    const log = logs.findLast((one) => one.kind === kind)
    await ask('log-freeze', { name: log?.name, confirm: log?.origin })
  }
  await freeze('rekor-v2')
  expect((await prove()).new.bundles.map(({ log }) => log)).toEqual(['rekor-v1'])
  await freeze('rekor-v1')
  expect(await refusal('canary', {})).toMatchObject({
    code: 'canary_failed',
    message: 'no signature can be made: no log that it could enter runs here',
  })
  expect(await ask('trust-publish', { renew: true })).toMatchObject({ state: 'published' })
  const [name = ''] = readdirSync(canaries)
  const kept = readFileSync(join(canaries, name), 'utf8')
  writeFileSync(join(canaries, name), kept.replaceAll('"signature": "ME', '"signature": "MF'))
  expect(await refusal('trust-publish', { renew: true })).toMatchObject({ code: 'canary_failed' })
  writeFileSync(join(canaries, name), kept)
})

/** items.json as it is published: a refused change may stand in it. */
function restoreItems(): void {
  writeFileSync(join(data, 'trust-root/items.json'), served('.items.json'))
}

async function originOf(): Promise<string> {
  const logs = (await ask('logs')) as { name: string; origin: string }[]
  return logs.find(({ name }) => name === 'rekor-v1')?.origin ?? ''
}
