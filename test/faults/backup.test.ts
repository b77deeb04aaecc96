/**
 * A backup of a running installation, and what a restore must refuse and must bring back: everything that clients were
 * promised, at exactly the heads that the agent remembers, with TUF versions that never go back. The load and the checks
 * are the crash tier's; what others keep of the logs is a copy read over HTTP.
 */
import { createHash, X509Certificate } from 'node:crypto'
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { restore, verifyBackup } from '#lifecycle'
import { askAdmin } from '#server'
import type { Ledger } from '../crash/ledger.ts'
import { client } from '../e2e/clients.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { checkEverything, configure, startPatientLoad } from './loaded-stack.ts'
import { copyPublished, type PublishedCopy } from './published-copy.ts'

const EMAIL = 'signer@example.test'
const LOGS = ['ct', 'rekor-v1', 'rekor-v2'] as const
const scratch = mkdtempSync(join(tmpdir(), 'chancery-backup-'))
const dataDir = join(scratch, 'data')
const first = join(scratch, 'first')
let stack: Stack
/** What clients know that must hold for ever. */
const ledgers: Ledger[] = []
let copy: PublishedCopy | undefined

beforeAll(async () => {
  await initialise(dataDir)
  configure(dataDir, 'chancery.yaml', { backup: { maxAgeHours: 1 } })
  stack = await serve(dataDir)
})

afterAll(async () => {
  await copy?.close()
  try {
    await stack.stop()
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
})

describe('a backup of a running server', () => {
  test('is whole and consistent under load from all services', async () => {
    const log = () => readFileSync(join(dataDir, 'serve.log'), 'utf8')
    await expect.poll(log, { timeout: 30_000 }).toMatch(/"alarm":"backup_overdue"/)
    await signArtifact('before')
    const load = await startPatientLoad(stack, join(scratch, 'load-1'))
    await load.progress(15)
    const said = succeeded(await chancery('backup', '--data', dataDir, first, '--json'))
    const made = JSON.parse(said.stdout) as { manifestSha256: string; notBackedUp: string[]; logs: { size: number }[] }
    await load.progress(5)
    const { ledger } = await load.finish()
    ledgers.push(ledger)
    expect(ledger.unanswered).toEqual([])
    for (const { size } of made.logs) expect(size).toBeGreaterThan(10)
    expect(made.notBackedUp.join()).toMatch(/guards.*PINs.*key rekor-v1 was made without --backup/s)
    const { manifest } = await verifyBackup(first, { manifestSha256: made.manifestSha256 })
    for (const log of manifest.logs) {
      const guard = manifest.guards.find(({ origin }) => origin === log.origin)
      expect(guard?.size, log.name).toBeGreaterThanOrEqual(log.size)
    }
    // The alarm that there is none is over, and a status can say when it was made.
    await expect.poll(log, { timeout: 30_000 }).toMatch(/"alarm":"backup_overdue".*alarm is over/)
    expect(JSON.parse(readFileSync(join(dataDir, 'run/last-backup.json'), 'utf8'))).toMatchObject({ target: first })
  })

  test('holds no secret: no PIN, no private key, nothing of the tokens or of the agent state', () => {
    const names = filesOf(first)
    expect(names.filter((name) => /pin|token|state\.db|\.key$/i.test(name))).toEqual([])
    const pins = filesOf(join(dataDir, 'hsm')).filter((name) => /pin/i.test(name))
    expect(pins.length).toBeGreaterThan(0)
    const everything = names.map((name) => readFileSync(join(first, name)))
    for (const name of pins) {
      const pin = readFileSync(join(dataDir, 'hsm', name), 'utf8').trim()
      expect(
        everything.some((bytes) => bytes.includes(pin)),
        name,
      ).toBe(false)
    }
    expect(everything.some((bytes) => bytes.includes('PRIVATE KEY'))).toBe(false)
  })

  test('is refused into a folder that is not empty', async () => {
    const said = await chancery('backup', '--data', dataDir, first)
    expect(said).toMatchObject({ status: 6, stderr: expect.stringContaining('docs/runbook.md#backup_target_exists') })
  })

  test('of an agent alone has its account, and nothing that it guards with', async () => {
    const target = join(scratch, 'agent')
    succeeded(await chancery('backup', 'agent', target, '--data', dataDir))
    const { manifest } = await verifyBackup(target)
    expect(manifest.account?.lines).toBeGreaterThan(50)
    expect(filesOf(target).filter((name) => !name.startsWith('account/'))).toEqual(['manifest.json'])
  })

  test('is no backup when it was killed in the middle', async () => {
    const target = join(scratch, 'killed')
    const asked = askAdmin(join(dataDir, 'run/admin.sock'), 'backup', {
      argument: { target },
      onProgress: () => stack.server.kill('SIGKILL'),
    })
    await expect(asked).rejects.toThrow()
    await stack.ended
    expect(existsSync(join(target, 'logs'))).toBe(true)
    expect(await chancery('backup', 'verify', target)).toMatchObject({
      status: 8,
      stderr: expect.stringContaining('docs/runbook.md#backup_incomplete'),
    })
    await expect(restoreInto(join(scratch, 'nowhere'), target)).rejects.toMatchObject({ code: 'backup_incomplete' })
    stack = await serve(dataDir)
  })
})

describe('a damaged backup is refused', () => {
  test.each<[string, (name: string) => boolean]>([
    ['entries of a log', (name) => name.startsWith('logs/rekor-v1/')],
    ['the account', (name) => name.startsWith('account/')],
    ['the inventory', (name) => name === 'trust-root/items.json'],
    ['version counters', (name) => name === 'trust-root/versions.json'],
    ['TUF metadata', (name) => name.endsWith('timestamp.json')],
    ['configuration', (name) => name === 'data/chancery.yaml'],
    ['certificates', (name) => name === 'data/ca/chain.pem'],
  ])('with one changed byte in %s', async (_, pick) => {
    const broken = copyOf(first)
    const name = filesOf(broken).find(pick) ?? 'missing'
    const bytes = readFileSync(join(broken, name))
    const middle = Math.floor(bytes.length / 2)
    bytes[middle] = (bytes[middle] ?? 0) ^ 1
    writeFileSync(join(broken, name), bytes)
    await expectDamaged(broken, new RegExp(`${name.replaceAll('.', '\\.')} is not what was backed up`))
  })

  test('with a file that is missing, or one more than it names', async () => {
    const lacking = copyOf(first)
    rmSync(join(lacking, filesOf(lacking).find((name) => name.startsWith('logs/ct/')) ?? ''))
    await expectDamaged(lacking, /is missing/)
    const more = copyOf(first)
    writeFileSync(join(more, 'logs/ct/more'), '')
    await expectDamaged(more, /logs\/ct\/more is not in the manifest/)
  })

  test('with a manifest that was altered, even one that fits its files', async () => {
    const altered = copyOf(first)
    const manifest = JSON.parse(readFileSync(join(altered, 'manifest.json'), 'utf8'))
    const { sha256 } = {
      sha256: createHash('sha256')
        .update(readFileSync(join(altered, 'manifest.json')))
        .digest('hex'),
    }
    manifest.account.headHash = '0'.repeat(64)
    writeFileSync(join(altered, 'manifest.json'), JSON.stringify(manifest))
    await expect(verifyBackup(altered)).rejects.toThrow(/account of key uses .* another head/)
    manifest.logs[1].rootHash = '0'.repeat(64)
    writeFileSync(join(altered, 'manifest.json'), JSON.stringify(manifest))
    await expectDamaged(altered, /do not lead to the root/)
    await expect(verifyBackup(altered, { manifestSha256: sha256 })).rejects.toMatchObject({ code: 'backup_damaged' })
    manifest.files[0].path = '../outside'
    writeFileSync(join(altered, 'manifest.json'), JSON.stringify(manifest))
    await expectDamaged(altered, /manifest\.json: files\.0\.path/)
  })

  test('with a checkpoint that its log did not sign', async () => {
    const forged = copyOf(first)
    const manifest = JSON.parse(readFileSync(join(forged, 'manifest.json'), 'utf8'))
    const log = manifest.logs.find((one: { kind: string }) => one.kind === 'rekor-v2')
    log.note = log.note.replace(/.{4}=*\n$/, 'AAAA\n')
    writeFileSync(join(forged, 'manifest.json'), JSON.stringify(manifest))
    await expectDamaged(forged, /not signed by its key/)
  })
})

describe('the disk is lost and the agent is alive', () => {
  const lost = join(scratch, 'lost')

  test('a restore over a running server is refused', async () => {
    const said = await chancery('restore', first, '--data', dataDir)
    expect(said).toMatchObject({ status: 3, stderr: expect.stringContaining('docs/runbook.md#restore_over_running') })
  })

  test('a backup below the guard is refused, and nothing is put in place', async () => {
    const load = await startPatientLoad(stack, join(scratch, 'load-2'))
    await load.progress(12)
    ledgers.push((await load.finish()).ledger)
    await askAdmin(join(dataDir, 'run/admin.sock'), 'publish-trust', { timeoutMs: 30_000 })
    await signArtifact('after')
    await rekorCliSeesGrowth()
    copy = await copyPublished(stack.endpoints)
    await stack.stop()
    loseDisk(lost)
    const said = await chancery('restore', first, '--data', dataDir)
    expect(said).toMatchObject({ status: 8, stderr: expect.stringContaining('docs/runbook.md#restore_behind_guard') })
    expect(said.stderr).toMatch(/the backup ends at \d+, but \d+ entries were signed/)
    expect(placed()).toEqual([])
  })

  test('a source that ends too early, or tells of other entries, is refused', async () => {
    const { pages } = published()
    const last = [...pages.keys()].filter((path) => path.startsWith('/tile/entries/')).at(-1) ?? ''
    const bundle = pages.get(last) ?? Buffer.alloc(0)
    pages.delete(last)
    const short = await chancery('restore', first, '--data', dataDir, ...tiles())
    expect(short).toMatchObject({ status: 8, stderr: expect.stringMatching(/cannot be had.*restore_behind_guard/s) })
    const forged = Buffer.from(bundle)
    forged[forged.length - 20] = (forged[forged.length - 20] ?? 0) ^ 1
    pages.set(last, forged)
    const other = await chancery('restore', first, '--data', dataDir, ...tiles())
    expect(other).toMatchObject({
      status: 8,
      stderr: expect.stringMatching(/restore_other_history|restore_behind_guard/),
    })
    pages.set(last, bundle)
    const entry = [...pages.keys()].filter((path) => path.startsWith('/api/v1/log/entries')).at(-1) ?? ''
    const reply = pages.get(entry) ?? Buffer.alloc(0)
    pages.set(entry, Buffer.from(reply.toString().replace(/"integratedTime":\d/, '"integratedTime":9')))
    const dated = await chancery('restore', first, '--data', dataDir, ...tiles())
    expect(dated).toMatchObject({
      status: 8,
      stderr: expect.stringMatching(/signed entry timestamp .* is not the log's/),
    })
    pages.set(entry, reply)
    expect(placed()).toEqual([])
  })

  test('a dry run tells what would be, and changes nothing', async () => {
    const said = succeeded(await chancery('restore', first, '--data', dataDir, '--dry-run', ...tiles()))
    expect(said.stdout).toMatch(/nothing changed/)
    expect(placed()).toEqual([])
  })

  test('with copies of what was published it comes back at exactly the guarded heads', async () => {
    const said = succeeded(
      await chancery('restore', first, '--data', dataDir, '--mirror', published().url, '--json', ...tiles()),
    )
    const restored = JSON.parse(said.stdout) as Restored
    for (const log of restored.logs) {
      expect(log).toMatchObject({ state: 'whole', size: log.guardedSize })
      expect(log.size, log.name).toBeGreaterThan(log.backupSize)
    }
    // The publication after the backup is there too.
    expect(restored.trustRoot).toMatchObject({ changed: true, newerTargets: [] })
    stack = await serve(dataDir)
  })

  test('everything that clients hold still verifies, and the server goes on', async () => {
    await checkEverything(stack, ledgers, { acknowledged: [], unanswered: [], heads: [], timestamps: [] }, 1)
    for (const name of ['before', 'after']) await verifyArtifact(name)
    await rekorCliSeesGrowth()
    await signArtifact('restored')
    for (const name of ['before', 'after', 'restored']) await cosignVerifies(name)
    const load = await startPatientLoad(stack, join(scratch, 'load-3'))
    await load.progress(5)
    const { ledger } = await load.finish()
    ledgers.push(ledger)
    await checkEverything(stack, ledgers, ledger)
    const status = succeeded(await chancery('status', '--data', dataDir, '--json'))
    expect(JSON.parse(status.stdout).services.every(({ state }: { state: string }) => state === 'ready')).toBe(true)
  })
})

describe('a second loss, without any mirror', () => {
  const second = join(scratch, 'second')
  const lost = join(scratch, 'lost-again')

  test('TUF versions continue above what clients have seen; a log without copies is readable alone', async () => {
    succeeded(await chancery('backup', '--data', dataDir, second, '--since', first))
    const seen = await tufVersions()
    await askAdmin(join(dataDir, 'run/admin.sock'), 'publish-trust', { timeoutMs: 30_000 })
    await signArtifact('unsaved')
    const newest = await tufVersions()
    expect(newest.timestamp).toBeGreaterThan(seen.timestamp)
    await stack.stop()
    loseDisk(lost)
    // A publication enters its canary in each log.
    const behind = ['--behind', 'rekor-v1', '--behind', 'rekor-v2', '--behind', 'ct']
    const said = succeeded(await chancery('restore', second, '--data', dataDir, ...behind))
    expect(said.stdout).toMatch(/rekor-v1 .*BEHIND its guard/)
    expect(said.stdout).toMatch(/chancery log succeed rekor-v1/)
    stack = await serve(dataDir)
    await expect.poll(tufVersions, { timeout: 20_000 }).toMatchObject({ targets: newest.targets + 1 })
    expect((await tufVersions()).timestamp).toBeGreaterThan(newest.timestamp)
    // The client's own memory of the mirror is the judge: a version that went back is a rollback to it.
    await verifyArtifact('restored')
    const text = (await chancery('status', '--data', dataDir)).text
    expect(text).toMatch(/^ALARM fork_refused  rekor-v1 .*^DEGRADED rekor-v1:/ms)
    expect(text).toMatch(/^ready: .*timestamp/m)
    const { rekorV1 } = stack.endpoints
    expect((await fetch(`${rekorV1}/api/v1/log/entries?logIndex=0`)).status).toBe(200)
  })

  test('with the right database everything is back; what was in the way lies aside', async () => {
    await stack.stop()
    for (const log of LOGS) {
      for (const name of readdirSync(join(dataDir, 'logs')).filter((one) => one.startsWith(`${log}.db`))) {
        rmSync(join(dataDir, 'logs', name))
      }
      for (const name of readdirSync(join(lost, 'logs')).filter((one) => one.startsWith(`${log}.db`))) {
        cpSync(join(lost, 'logs', name), join(dataDir, 'logs', name))
      }
    }
    stack = await serve(dataDir)
    await checkEverything(stack, ledgers, { acknowledged: [], unanswered: [], heads: [], timestamps: [] })
    for (const name of ['before', 'after', 'restored', 'unsaved']) await verifyArtifact(name)
  })

  test('an agent that remembers nothing is no reason to believe a backup', async () => {
    await stack.stop()
    renameSync(join(dataDir, 'agent/online'), join(scratch, 'agent-state'))
    const said = await chancery('restore', second, '--data', dataDir)
    expect(said).toMatchObject({ status: 8, stderr: expect.stringContaining('docs/runbook.md#restore_without_guard') })
    rmSync(join(dataDir, 'agent/online'), { recursive: true, force: true })
    renameSync(join(scratch, 'agent-state'), join(dataDir, 'agent/online'))
    stack = await serve(dataDir)
  })
})

describe('a third loss, and nobody has the last entries', () => {
  const third = join(scratch, 'third')

  test('each log that ended below its guard gets a successor: signing goes on, and what was signed verifies', async () => {
    succeeded(await chancery('backup', '--data', dataDir, third))
    await signArtifact('forgotten')
    await stack.stop()
    loseDisk(join(scratch, 'lost-at-last'))
    const behind = LOGS.flatMap((log) => ['--behind', log])
    const said = succeeded(await chancery('restore', third, '--data', dataDir, ...behind))
    stack = await serve(dataDir)
    const { logs } = parse(readFileSync(join(dataDir, 'chancery.yaml'), 'utf8')) as {
      logs: { name: string; origin: string }[]
    }
    // As the restore says.
    const ended = [...said.stdout.matchAll(/chancery log succeed (\S+)/g)].map(([, name]) => name)
    expect(ended.length).toBeGreaterThan(0)
    for (const { name, origin } of logs.filter((log) => ended.includes(log.name))) {
      succeeded(await chancery('log', 'succeed', name, '--confirm', origin, '--data', dataDir))
    }
    await signArtifact('succeeded')
    for (const name of ['before', 'after', 'restored', 'succeeded']) await verifyArtifact(name)
    for (const name of ['before', 'succeeded']) await cosignVerifies(name)
  })
})

interface Restored {
  readonly logs: readonly {
    readonly name: string
    readonly size: number
    readonly backupSize: number
    readonly guardedSize: number
    readonly state: string
  }[]
  readonly trustRoot: unknown
}

/** What outlives the disk here: in production another user's folders, or another machine. */
const LEFT = ['agent', 'hsm']

/** What a restore put in place; `run` holds sockets alone. */
function placed(): string[] {
  return readdirSync(dataDir).filter((name) => !LEFT.includes(name) && name !== 'run')
}

/** Everything of the data folder goes but what belongs to the agent: its configuration, state and tokens. */
function loseDisk(to: string): void {
  mkdirSync(to)
  for (const name of readdirSync(dataDir)) if (!LEFT.includes(name)) renameSync(join(dataDir, name), join(to, name))
}

async function chancery(...args: readonly string[]) {
  return await runChancery(args)
}

function published(): PublishedCopy {
  if (copy === undefined) throw new Error('nothing was copied')
  return copy
}

function tiles(): string[] {
  return LOGS.flatMap((log) => ['--tiles', `${log}=${published().url}`])
}

function filesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
}

let copies = 0

function copyOf(backup: string): string {
  const to = join(scratch, `copy-${++copies}`)
  cpSync(backup, to, { recursive: true })
  return to
}

/** As the command does it, with an agent that is never asked. */
async function restoreInto(folder: string, backup: string) {
  return await restore({
    backup,
    dataDir: folder,
    keys: new Map(),
    openAgent: () => Promise.reject(new Error('the agent was asked about a backup that was not checked')),
    tiles: new Map(),
    behind: new Set(),
    withoutGuard: new Set(),
    dryRun: false,
    now: new Date(),
  })
}

async function expectDamaged(backup: string, message: RegExp): Promise<void> {
  const refused = { code: 'backup_damaged', message: expect.stringMatching(message) }
  await expect(verifyBackup(backup)).rejects.toMatchObject(refused)
  if (!/root|signed/.test(message.source)) {
    const empty = join(scratch, `empty-${++copies}`)
    await expect(restoreInto(empty, backup)).rejects.toMatchObject(refused)
    expect(existsSync(empty)).toBe(false)
  }
}

/** Signs as a client that remembers the mirror, and notes what the logs hold because of it. */
async function signArtifact(name: string): Promise<void> {
  const token = join(scratch, 'token')
  writeFileSync(token, succeeded(await chancery('dev', 'token', '--data', dataDir, '--email', EMAIL)).stdout)
  const file = join(scratch, `${name}.txt`)
  appendFileSync(file, name)
  const bundle = `${file}.sigstore.json`
  succeeded(await chancery('sign', file, '--bundle', bundle, '--identity-token', token, ...mirror()))
  const { verificationMaterial } = JSON.parse(readFileSync(bundle, 'utf8'))
  const certificate = new X509Certificate(Buffer.from(verificationMaterial.certificate.rawBytes, 'base64'))
  const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
  const known = { sentMs: 0, endedMs: 0, sent: '', status: 503, reply: '' }
  const spki = certificate.publicKey.export({ type: 'spki', format: 'der' })
  // Neither acknowledged to the loader nor unknown to it.
  ledgers.push({
    acknowledged: [],
    unanswered: [
      { ...known, use: 'v1', digest: digest(readFileSync(file)) },
      { ...known, use: 'ca', digest: digest(spki) },
    ],
    heads: [],
    timestamps: [],
  })
}

/** rekor-cli remembers the last checkpoint that it saw and asks for a proof of growth from it. */
async function rekorCliSeesGrowth(): Promise<void> {
  const HOME = join(scratch, 'rekor-home')
  mkdirSync(HOME, { recursive: true })
  const { rekorV1 } = stack.endpoints
  succeeded(await client('rekor-cli', ['--rekor_server', rekorV1, '--format', 'json', 'loginfo'], { env: { HOME } }))
}

/** cosign, from files alone: what it was given once stays good. */
async function cosignVerifies(name: string): Promise<void> {
  const trustedRoot = join(scratch, 'trusted_root.json')
  writeFileSync(trustedRoot, await (await fetch(`${stack.endpoints.tuf}/trusted_root.json`)).text())
  const file = join(scratch, `${name}.txt`)
  const who = ['--certificate-identity', EMAIL, '--certificate-oidc-issuer', stack.endpoints.oidc]
  succeeded(
    await client('cosign3', [
      'verify-blob',
      ['--bundle', `${file}.sigstore.json`, '--trusted-root', trustedRoot, '--use-signed-timestamps'],
      [...who, file],
    ]),
  )
}

async function verifyArtifact(name: string): Promise<void> {
  const file = join(scratch, `${name}.txt`)
  const who = ['--certificate-identity', EMAIL, '--certificate-oidc-issuer', stack.endpoints.oidc]
  succeeded(await chancery('verify', file, '--bundle', `${file}.sigstore.json`, ...who, ...mirror()))
}

function mirror(): string[] {
  const known = ['--trust-dir', join(scratch, 'trust')]
  return ['--mirror', stack.endpoints.tuf, '--root-checksum', stack.endpoints.rootChecksum, ...known]
}

async function tufVersions(): Promise<{ targets: number; timestamp: number }> {
  const read = async (name: string) => (await (await fetch(`${stack.endpoints.tuf}/${name}`)).json()) as Metadata
  const timestamp = await read('timestamp.json')
  const snapshot = await read(`${timestamp.signed.meta['snapshot.json']?.version}.snapshot.json`)
  return { targets: snapshot.signed.meta['targets.json']?.version ?? 0, timestamp: timestamp.signed.version }
}

interface Metadata {
  readonly signed: { readonly version: number; readonly meta: Readonly<Record<string, { readonly version: number }>> }
}
