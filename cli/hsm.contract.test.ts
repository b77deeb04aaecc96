import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startNss, startP11Kit, startSoftHsm, type RunningModule } from '../test/support/modules/index.ts'

interface Outcome {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

async function probe(running: RunningModule | undefined, ...words: readonly string[]): Promise<Outcome> {
  const where: string[] = []
  if (running !== undefined) {
    const { modulePath, moduleParameters, moduleEnvironment = {} } = running.module
    where.push('--module', modulePath, ...(moduleParameters === undefined ? [] : ['--parameters', moduleParameters]))
    for (const [name, value] of Object.entries(moduleEnvironment)) where.push('--environment', `${name}=${value}`)
  }
  const args = [join(import.meta.dirname, 'main.ts'), 'hsm', 'probe', ...words, ...where]
  return await new Promise((resolve) => {
    execFile(process.execPath, args, { cwd: '/tmp', env: { PATH: process.env['PATH'] } }, (error, stdout, stderr) => {
      resolve({ status: typeof error?.code === 'number' ? error.code : 0, stdout, stderr })
    })
  })
}

interface Found {
  readonly tokens: readonly {
    readonly profile: { readonly name: string }
    readonly software: boolean
    readonly quirks: readonly { readonly quirk: string; readonly seen: boolean }[]
    readonly kinds: readonly { readonly kind: string; readonly offered: boolean }[]
    readonly objects?: number
    readonly trials: readonly { readonly kind: string; readonly fault: string; readonly unproven: readonly string[] }[]
  }[]
}

const found = ({ stdout }: Outcome) => JSON.parse(stdout) as Found

describe('chancery hsm probe', () => {
  let softhsm: RunningModule
  let nss: RunningModule
  let p11kit: RunningModule

  beforeAll(async () => {
    softhsm = await startSoftHsm()
    nss = await startNss()
    p11kit = await startP11Kit()
  })
  afterAll(async () => {
    for (const running of [softhsm, nss, p11kit]) await running.stop()
  })

  test('fits 80 columns, and tells public facts alone without a PIN', async () => {
    const { status, stdout, stderr } = await probe(softhsm, softhsm.token.uri)
    expect([status, stderr]).toEqual([0, ''])
    for (const line of stdout.split('\n')) expect(line.length, line).toBeLessThanOrEqual(80)
    expect(stdout).toMatch(/profile +SoftHSM 2\n/)
    expect(stdout).toMatch(/keys +P-256, P-384, rsa-2048, rsa-3072, rsa-4096, ed25519\n/)
    expect(stdout).not.toMatch(/objects|MADE IN/)
  })

  test('knows SoftHSM behind p11-kit, and what does not come through', async () => {
    const [token] = found(await probe(p11kit, p11kit.token.uri, '--json')).tokens
    expect(token).toMatchObject({ profile: { name: 'SoftHSM 2' }, software: true })
    expect(token?.kinds.filter(({ offered }) => !offered).map(({ kind }) => kind)).toEqual(['ed25519'])
    expect(token?.quirks.map(({ quirk }) => quirk)).toEqual(['reads_fail', 'mechanisms_hidden'])
  })

  test('a trial makes a key, signs, leaves nothing behind, and sees what the module does otherwise', async () => {
    const words = [
      nss.token.uri,
      '--pin-file',
      nss.token.pinFile,
      '--trial',
      '--kind',
      'P-256',
      '--kind',
      'ed25519',
      '--json',
    ]
    const [token] = found(await probe(nss, ...words)).tokens
    expect(token?.trials).toMatchObject([
      { kind: 'P-256', fault: '', unproven: ['LOCAL', 'ALLOWED_MECHANISMS'] },
      { kind: 'ed25519', fault: 'token makes no keys of kind ed25519' },
    ])
    expect(token?.quirks).toContainEqual(expect.objectContaining({ quirk: 'origin_unproven', seen: true }))
    const [after] = found(await probe(nss, nss.token.uri, '--pin-file', nss.token.pinFile, '--json')).tokens
    expect(after?.objects).toBe(token?.objects)
  })

  test('a wrong PIN is tried once, and then no more while the token remembers it', async () => {
    const pinFile = join(softhsm.folder, 'wrong.pin')
    writeFileSync(pinFile, 'not-the-pin\n', { mode: 0o600 })
    const words = [softhsm.token.uri, '--pin-file', pinFile]
    const first = await probe(softhsm, ...words)
    expect(first).toMatchObject({ status: 4, stdout: '' })
    expect(first.stderr).toContain('the token refused the PIN; it was tried once')
    expect((await probe(softhsm, ...words)).stderr).toContain('remembers a wrong PIN')
    expect((await probe(softhsm, softhsm.token.uri)).stdout).toMatch(/warning +PIN: a wrong one was given/)
  })

  test.each([
    ['a module that is not there', 5, 'cannot open', ['--module', '/nowhere.so']],
    [
      'a variable that could load other code',
      2,
      'LD_PRELOAD',
      ['--module', '/x.so', '--environment', 'LD_PRELOAD=/y.so'],
    ],
    ['a trial without a PIN', 2, '--trial needs --pin-file', ['pkcs11:token=x', '--module', '/x.so', '--trial']],
    ['a kind that is none', 2, 'kinds are P-256', ['--module', '/x.so', '--kind', 'dsa']],
    ['a folder without an agent', 2, 'name the module with --module', ['--data', '/nowhere']],
  ] as const)('%s: exit status %i', async (_, status, said, words) => {
    const outcome = await probe(undefined, ...words)
    expect(outcome).toMatchObject({ status, stdout: '' })
    expect(outcome.stderr).toContain(said)
  })

  test('a token that is not there: exit status 5', async () => {
    expect(await probe(softhsm, 'pkcs11:token=nobody')).toMatchObject({ status: 5, stdout: '' })
  })
})
