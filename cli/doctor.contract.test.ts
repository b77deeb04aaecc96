/** `chancery doctor` on an installation with SoftHSM in which each trouble is planted by other hands. */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { findSoftHsm } from '#hsm'
import { createInstallation, freePorts, newTreeId, readStandbyPlan, STANDBY_FILE, STANDBY_KINDS } from '#lifecycle'
import { examine, loadConfig, serve, type Server } from '#server'
import { main } from './main.ts'

let folder: string
let data: string
let server: Server | undefined

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-doctor-'))
  data = join(folder, 'data')
  const choices = { profile: 'development', domain: 'doctor.test', host: '127.0.0.1', listenHost: '127.0.0.1' } as const
  const ports = await freePorts('127.0.0.1')
  await createInstallation(data, { ...choices, ports, treeId: newTreeId() }, () => undefined)
  lastBackup(0)
})

afterAll(async () => {
  await server?.close()
  rmSync(folder, { recursive: true })
})

function lastBackup(hoursAgo: number, target = folder): void {
  mkdirSync(join(data, 'run'), { recursive: true, mode: 0o700 })
  const finishedAt = new Date(Date.now() - hoursAgo * 3_600_000).toISOString()
  const last = { finishedAt, target, manifestSha256: '00', bytes: 1 }
  writeFileSync(join(data, 'run/last-backup.json'), JSON.stringify(last))
}

interface Found {
  readonly serverRuns: boolean
  readonly agents: readonly string[]
  readonly findings: readonly { code: string; subject: string; message: string; severity: string; runbook: string }[]
}

/** In this process: a command takes a second to start on a busy machine. */
async function doctor(...words: string[]): Promise<{ status: number; stdout: string }> {
  let stdout = ''
  const spy = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    stdout += String(chunk)
    return true
  })
  process.exitCode = undefined
  try {
    return { status: await main(['doctor', '--data', data, ...words]), stdout }
  } finally {
    spy.mockRestore()
    process.exitCode = undefined
  }
}

/** Status 1 if and only if there are findings. */
async function found(...words: string[]): Promise<Found> {
  const { status, stdout } = await doctor('--json', ...words)
  const said = JSON.parse(stdout) as Found // our own program prints it
  expect(status).toBe(said.findings.length === 0 ? 0 : 1)
  return said
}

async function codes(...words: string[]): Promise<string[]> {
  return (await found(...words)).findings.map(({ code }) => code)
}

const pinFile = () => join(data, 'hsm/chancery-online.pin')

function pkcs11Tool(...words: string[]): void {
  const pin = readFileSync(pinFile(), 'utf8').trim()
  execFileSync(
    'pkcs11-tool',
    ['--module', findSoftHsm(), '--token-label', 'chancery-online', '--login', '--pin', pin, ...words],
    { env: { SOFTHSM2_CONF: join(data, 'hsm/softhsm2.conf') }, stdio: 'ignore' },
  )
}

const ec = ['--keypairgen', '--key-type', 'EC:prime256v1', '--usage-sign'] as const

test('a sound installation has none, and all tokens are read', async () => {
  expect(await found()).toEqual({ serverRuns: false, agents: ['online', 'root', 'standby'], findings: [] })
  expect((await doctor('--agent', 'online')).stdout).toBe(
    'looked at a stopped installation, tokens of: online\nnothing found\n',
  )
})

test('what strangers left on a token', async () => {
  pkcs11Tool(...ec, '--id', 'a1', '--label', 'half')
  pkcs11Tool('--delete-object', '--type', 'pubkey', '--id', 'a1')
  pkcs11Tool(...ec, '--id', 'b1', '--label', 'twin')
  pkcs11Tool(...ec, '--id', 'b1', '--label', 'twin')
  pkcs11Tool('--keygen', '--key-type', 'AES:32', '--id', 'c1', '--label', 'stranger')
  pkcs11Tool('--write-object', join(data, 'chancery.yaml'), '--type', 'data', '--label', 'note')
  pkcs11Tool(...ec, '--id', 'd1', '--label', 'open', '--extractable')
  const { findings } = await found('--agent', 'online')
  const of = (code: string) => findings.filter((each) => each.code === code).map(({ subject }) => subject)
  expect(of('object_half_pair')).toEqual(['online: private key half, id a1'])
  // Both halves of both; each object of a class once.
  expect(of('object_duplicate').toSorted()).toEqual([
    'online: private key twin, id b1',
    'online: public key twin, id b1',
  ])
  expect(of('object_unknown').toSorted()).toEqual(['online: data note, id none', 'online: secret key stranger, id c1'])
  expect(of('key_extractable')).toEqual(['online: open, id d1'])
  expect(findings.find(({ code }) => code === 'key_extractable')).toMatchObject({
    severity: 'page',
    runbook: 'docs/runbook.md#key_extractable',
  })
  const { status, stdout } = await doctor('--agent', 'online')
  expect(status).toBe(1)
  for (const line of stdout.split('\n')) expect(line.length, line).toBeLessThanOrEqual(80)
  for (const id of ['a1', 'c1', 'd1']) {
    for (const type of ['privkey', 'pubkey', 'secrkey']) {
      try {
        pkcs11Tool('--delete-object', '--type', type, '--id', id)
      } catch {
        // Not of this class.
      }
    }
  }
  for (const type of ['privkey', 'pubkey', 'privkey', 'pubkey'])
    pkcs11Tool('--delete-object', '--type', type, '--id', 'b1')
  pkcs11Tool('--delete-object', '--type', 'data', '--label', 'note')
  expect(await codes('--agent', 'online')).toEqual([])
})

test('backups that are missing, old or gone', async () => {
  const inHours = async (hours: number) => (await examine(loadConfig(join(data, 'chancery.yaml')), at(hours))).findings
  const at = (hours: number) => ({ agents: [], now: new Date(Date.now() + hours * 3_600_000) })
  expect(await inHours(0)).toEqual([])
  lastBackup(24 * 8)
  expect(await inHours(0)).toMatchObject([
    { code: 'backup_overdue', message: expect.stringContaining('192 hours') as string },
  ])
  lastBackup(0, join(folder, 'nowhere'))
  expect(await inHours(0)).toMatchObject([{ message: expect.stringContaining('is not at') as string }])
  rmSync(join(data, 'run/last-backup.json'))
  expect(await inHours(0)).toMatchObject([{ message: expect.stringContaining('ever finished') as string }])
  lastBackup(0)
  expect(new Set((await inHours(24 * 366 * 11)).map(({ code }) => code))).toEqual(
    new Set(['backup_overdue', 'certificate_expired', 'trust_root_expired']),
  )
})

test('nothing that stands by: of old, unreadable, and not in the trust root', async () => {
  const file = join(data, STANDBY_FILE)
  const sound = readFileSync(file, 'utf8')
  const { members } = readStandbyPlan(data) ?? {}
  const subjects = async () => {
    const { findings } = await found('--agent', 'online')
    return findings.filter(({ code }) => code === 'standby_missing').map(({ subject }) => subject)
  }
  try {
    rmSync(file)
    expect(await subjects()).toEqual([...STANDBY_KINDS])
    writeFileSync(file, sound.replace('"schemaVersion": 1', '"schemaVersion": 2'))
    expect(await subjects()).toEqual([...STANDBY_KINDS])
    const changed = members?.filter(({ kind }) => kind !== 'tsa').map((each) => ({ ...each, name: `${each.name}-x` }))
    const published = JSON.stringify({ ...JSON.parse(sound), members: [changed?.[0], ...(members?.slice(1, 4) ?? [])] })
    writeFileSync(file, published)
    expect(await subjects()).toEqual(['issuing-ca', 'tsa'])
  } finally {
    writeFileSync(file, sound)
  }
})

test('modes of files, and PINs that lie about', async () => {
  chmodSync(data, 0o755)
  chmodSync(pinFile(), 0o644)
  const open = await found('--agent', 'online')
  expect(open.findings.map(({ code }) => code)).toContain('file_mode')
  expect(open.findings.find(({ code }) => code === 'pin_file_mode')).toMatchObject({ subject: pinFile() })
  chmodSync(data, 0o700)
  chmodSync(pinFile(), 0o600)
  copyFileSync(pinFile(), join(data, 'run/old.pin'))
  const yaml = join(data, 'chancery.yaml')
  const before = readFileSync(yaml, 'utf8')
  writeFileSync(yaml, `${before}# ${readFileSync(pinFile(), 'utf8').trim()}\n`)
  const lying = await found('--agent', 'online')
  expect(lying.findings.map(({ code, subject }) => [code, subject])).toEqual([
    ['pin_misplaced', join(data, 'run/old.pin')],
    ['pin_misplaced', yaml],
  ])
  // Never repeated.
  expect(JSON.stringify(lying)).not.toContain(readFileSync(pinFile(), 'utf8').trim())
  rmSync(join(data, 'run/old.pin'))
  writeFileSync(yaml, before.replace('run/admin.sock', `run/${'x'.repeat(110)}.sock`))
  expect(await codes('--agent', 'online')).toEqual(['socket_path'])
  writeFileSync(yaml, before)
})

test('a disk, a clock and time sources that are not right while no server runs', async () => {
  const yaml = join(data, 'chancery.yaml')
  const before = readFileSync(yaml, 'utf8')
  const database = join(data, 'logs/ct.db')
  mkdirSync(join(data, 'logs'), { recursive: true, mode: 0o700 })
  writeFileSync(database, '')
  utimesSync(database, new Date(), new Date(Date.now() + 60_000))
  writeFileSync(
    yaml,
    `${before}time:\n  sources:\n    - command: [echo, '5000000']\ndisk:\n  refuseUploadsBelow: 1000000GiB\n`,
  )
  expect((await codes('--agent', 'online')).toSorted()).toEqual(['clock_stepped', 'disk_low', 'time_sources_disagree'])
  rmSync(database)
  writeFileSync(yaml, before)
})

test('a running server and its agent are asked; what it has to say is there', async () => {
  server = await serve(loadConfig(join(data, 'chancery.yaml')), {
    logger: pino({ level: 'silent' }),
    startDevelopmentIssuer: async () => ({ close: async () => undefined }),
  })
  pkcs11Tool('--keygen', '--key-type', 'AES:32', '--id', 'c2', '--label', 'stranger')
  const said = await found()
  expect([said.serverRuns, said.agents]).toEqual([true, ['online', 'root', 'standby']])
  expect(said.findings.map(({ code }) => code)).toEqual(['object_unknown'])
  await server.close()
  server = undefined
  pkcs11Tool('--delete-object', '--type', 'secrkey', '--id', 'c2')
})

test('a latched token and its agent, and an agent that is not there', async () => {
  const right = readFileSync(pinFile(), 'utf8')
  writeFileSync(pinFile(), '00000000\n')
  await found('--agent', 'online')
  writeFileSync(pinFile(), right)
  const { findings } = await found('--agent', 'online', 'nobody')
  // And the token remembers the wrong one.
  expect(findings.map(({ code, subject }) => `${code} ${subject}`)).toEqual([
    'no_such_agent nobody',
    'token_latched online',
    'pin_count_low online',
  ])
})
