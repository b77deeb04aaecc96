/**
 * Emergencies where the agent of the services runs on its own. As our own user the command changes its configuration and
 * has it read again; as another user, which production wants, it says what is to be done there and goes on when it is.
 */
import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse, parseDocument, stringify } from 'yaml'
import { EXIT } from '#alarms'
import { createSoftTokens, parseKeyUri } from '#hsm'
import { findSoftHsm } from '#hsm/softhsm'
import { STANDBY_KINDS, type StandbyKind } from '#lifecycle'
import { type ExternalAgent, type OtherUser, outputAs, startExternal } from '../../hsm/external-agent.fixture.ts'
import { type LogVersion, type Material, signers, verifiers } from '../e2e/clients.ts'
import { fetchMaterial, firstEntries } from '../e2e/global-setup.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, runChancery, serve, type Stack } from '../e2e/stack.ts'
import { giveTo, moveAgentOut, type MovedAgent } from './moved-agent.ts'

const EMAIL = 'operator@example.test'
const OTHER: OtherUser = { uid: 64_011, gid: 64_011, groups: [] }
const KEYS: Readonly<Record<StandbyKind, string>> = {
  'issuing-ca': 'issuing-ca',
  'ct-log': 'ct',
  'rekor-v1': 'rekor-v1',
  'rekor-v2': 'rekor-v2',
  tsa: 'tsa',
}

interface Apart extends MovedAgent {
  readonly folder: string
  readonly dataDir: string
  readonly home: string
  readonly agent: ExternalAgent
  readonly stack: Stack
  /** As clients have it before anything is lost. */
  material: Material
}

async function apart(name: string, owner?: OtherUser): Promise<Apart> {
  const folder = mkdtempSync(join(tmpdir(), `chancery-${name}-`))
  const [dataDir, home] = [join(folder, 'data'), join(folder, 'agent')]
  await initialise(dataDir)
  const moved = moveAgentOut(dataDir, home, owner === undefined ? {} : { owner })
  chmodSync(folder, 0o711)
  const agent = await startExternal(moved.config, owner)
  const stack = await serve(dataDir)
  const material = await fetchMaterial(join(folder, 'material'), stack.endpoints)
  await firstEntries(material, folder, dataDir)
  return { ...moved, folder, dataDir, home, agent, stack, material }
}

async function ended(here: Apart | undefined): Promise<void> {
  await here?.stack.stop().catch(() => here.stack.server.kill('SIGKILL'))
  await here?.agent.stop()
  if (here !== undefined) rmSync(here.folder, { recursive: true, force: true })
}

let counter = 0

/** A signature made as it was configured before verifies with the trust root of before: cosign's and our own verifier. */
async function signedAndVerified({ folder, dataDir, material, stack }: Apart, log: LogVersion): Promise<void> {
  counter += 1
  const file = (name: string) => join(folder, `${counter}-${name}`)
  const [artifact, tokenFile, bundle] = [file('artifact'), file('token'), file('bundle.json')]
  writeFileSync(artifact, `artifact ${counter}, ${randomUUID()}`)
  writeFileSync(tokenFile, succeeded(await runChancery(['dev', 'token', '--data', dataDir, '--email', EMAIL])).stdout)
  const unused = { statement: artifact, predicate: artifact }
  succeeded(await signers['cosign 3']({ material, log, kind: 'blob', artifact, tokenFile, bundle, ...unused }))
  const identity = { identity: EMAIL, issuer: stack.endpoints.oidc }
  const request = { material, log, kind: 'blob', artifact, bundle, ...identity } as const
  succeeded(await verifiers['cosign 3']({ ...request, under: ['unshare', '-rn'] }))
  const who = ['--certificate-identity', EMAIL, '--certificate-oidc-issuer', stack.endpoints.oidc]
  succeeded(await runChancery(['verify', artifact, '--bundle', bundle, ...who, '--trusted-root', material.trustedRoot]))
}

const logOf = (kind: StandbyKind): LogVersion => (kind === 'rekor-v2' ? 'v2' : 'v1')
const rotate = async ({ dataDir }: Apart, ...words: string[]) =>
  await runChancery(['rotate', ...words, '--data', dataDir])
const published = ({ dataDir }: Apart) => readFileSync(join(dataDir, 'trust-root/repository/timestamp.json'), 'utf8')

async function json<T>(...words: string[]): Promise<T> {
  return JSON.parse((await runChancery([...words, '--json'])).stdout) as T
}

/** The account of the agent tells of nothing that nobody asked for, and the doctor of nothing but the emergencies. */
async function isSound({ dataDir }: Apart, expected: readonly string[]): Promise<void> {
  const found = await json<{ unknown: object[]; unaccounted: object[] }>('audit', 'reconcile', '--data', dataDir)
  expect({ unknown: found.unknown, unaccounted: found.unaccounted }).toEqual({ unknown: [], unaccounted: [] })
  const { findings } = await json<{ findings: { code: string; subject: string }[] }>('doctor', '--data', dataDir)
  const ours = findings.filter(({ code }) => !['backup_overdue', 'anchor_missing'].includes(code))
  expect([...new Set(ours.map(({ code }) => code))]).toEqual(expected)
}

describe('of our own user', () => {
  let here: Apart

  beforeAll(async () => {
    here = await apart('own')
  })

  afterAll(async () => await ended(here))

  const told = () => ['--agent', here.config]

  test('a normal rotation of the CT log, whose agent goes on', async () => {
    const shorten = '--shorten=i-accept-that-cached-clients-may-refuse'
    expect(succeeded(await rotate(here, 'ct-log', ...told(), shorten)).stdout).toMatch(/^Done /m)
    here.material = await fetchMaterial(join(here.folder, 'renewed'), here.stack.endpoints)
    await signedAndVerified(here, 'v1')
    KEYS_NOW['ct-log'] = (parse(readFileSync(join(here.dataDir, 'chancery.yaml'), 'utf8')) as Config).logs.find(
      ({ kind, name }, _at, all) => kind === 'ct' && !all.some(({ succeeds }) => succeeds === name),
    )?.key
  })

  interface Config {
    readonly logs: readonly {
      readonly name: string
      readonly kind: string
      readonly key: string
      readonly succeeds?: string
    }[]
  }

  const KEYS_NOW: Record<string, string | undefined> = { ...KEYS }

  test.each(STANDBY_KINDS)('%s: its key is gone, and what stands by signs', async (kind) => {
    const before = published(here)
    destroy(KEYS_NOW[kind] ?? '')
    const said = succeeded(await rotate(here, kind, '--emergency', '--confirm', ...told()))
    expect(said.stdout).toContain(` signs in place of ${KEYS_NOW[kind]} since `)
    expect(said.stdout).toContain('verifies with the published trust root')
    expect(said.stdout).not.toContain('Left to do')
    await signedAndVerified(here, logOf(kind))
    expect(published(here)).toBe(before)
    expect(process.kill(here.agent.pid, 0)).toBe(true)
    expect(here.agent.said.filter((line) => line.includes('state folder')).length).toBeLessThan(2)
  })

  test('afterwards all is accounted for, and the set is made whole', async () => {
    const { history } = await json<{ history: { kind: string }[] }>('rotate', 'status', '--data', here.dataDir)
    expect(history.map(({ kind }) => kind).toSorted()).toEqual(['ct-log', ...STANDBY_KINDS].toSorted())
    await isSound(here, ['standby_in_service'])
    succeeded(await rotate(here, 'standby', ...told()))
    await isSound(here, [])
  })

  /** Takes the private key from under the agent that signs with it. */
  function destroy(key: string): void {
    const { keys } = parse(readFileSync(here.config, 'utf8')) as { keys: Record<string, { uri: string }> }
    const idHex = Buffer.from(parseKeyUri(keys[key]?.uri ?? '').id).toString('hex')
    const pin = readFileSync(join(here.home, 'online.pin'), 'utf8').trim()
    const token = ['--module', findSoftHsm(), '--token-label', 'chancery-online', '--login', '--pin', pin]
    execFileSync('pkcs11-tool', [...token, '--delete-object', '--type', 'privkey', '--id', idHex], {
      env: { SOFTHSM2_CONF: join(here.dataDir, 'hsm/softhsm2.conf') },
      stdio: 'ignore',
    })
  }
})

describe('of another user', () => {
  let here: Apart

  beforeAll(async () => {
    if (process.getuid?.() !== 0) throw new Error('this test acts as several users, which takes root')
    here = await apart('other', OTHER)
  })

  afterAll(async () => await ended(here))

  interface Work {
    readonly name: string
    readonly work: { readonly why: string; readonly lines: readonly string[] }
  }

  test('nothing is begun, and nothing of theirs is touched', async () => {
    const [before, text, owner] = [published(here), readFileSync(here.config, 'utf8'), statSync(here.config).uid]
    const server = readFileSync(join(here.dataDir, 'chancery.yaml'), 'utf8')
    for (const named of [[], ['--agent', here.socketOf('admin')]]) {
      const said = await rotate(here, 'tsa', '--emergency', '--confirm', ...named)
      expect([said.status, said.text]).toEqual([EXIT.approval, expect.stringContaining('#emergency_awaits_agent')])
      expect(said.stdout).toMatch(
        /^ {2}tsa-2:\n[^]*chancery agent reload --agent [^]*rotate tsa --emergency --confirm/m,
      )
    }
    const dry = await rotate(here, 'tsa', '--emergency', '--dry-run')
    expect(succeeded(dry).stdout).toMatch(/tsa-2 takes the place of tsa\.[^]*pinFile: [^]*Nothing was done/)
    expect(existsSync(join(here.dataDir, 'lifecycle/emergency-tsa.json'))).toBe(false)
    expect([published(here), readFileSync(here.config, 'utf8'), statSync(here.config).uid]).toEqual([
      before,
      text,
      owner,
    ])
    expect(readFileSync(join(here.dataDir, 'chancery.yaml'), 'utf8')).toBe(server)
    const reload = await runChancery(['agent', 'reload', '--agent', here.socketOf('admin')])
    expect([reload.status, reload.text]).toEqual([EXIT.authentication, expect.stringContaining('#agent_not_allowed')])
  })

  test('a PIN that they cannot read is told them, and still nothing is begun', async () => {
    const [, { work }] = await asked('tsa')
    edited(work.lines, (pinFile) => pinFile)
    const reload = await reloaded()
    expect(reload).toMatch(/new keys: tsa-2[^]*cannot be used: [^]*exit status 8/)
    const [status] = await asked('tsa')
    expect(status).toBe(EXIT.approval)
  })

  test.each(['tsa', 'issuing-ca', 'rekor-v1', 'rekor-v2', 'ct-log'] as const)(
    '%s: they put in what was printed, and the same command goes on',
    async (kind) => {
      const before = published(here)
      const [status, { name, work }] = await asked(kind)
      expect(status).toBe(EXIT.approval)
      edited(work.lines, handedOver)
      expect(await reloaded()).not.toMatch(/exit status/)
      const said = succeeded(await rotate(here, kind, '--emergency', '--confirm'))
      expect(said.stdout).toMatch(new RegExp(`^${name} signs in place of ${KEYS[kind]} since `))
      expect(said.stdout).toContain('verifies with the published trust root')
      expect(said.stdout).toContain(`  take out the key ${KEYS[kind]}\n`)
      await signedAndVerified(here, logOf(kind))
      takenOut(said.stdout)
      expect(await reloaded()).toMatch(new RegExp(`keys that are gone: .*${KEYS[kind]}`))
      await signedAndVerified(here, logOf(kind))
      expect(published(here)).toBe(before)
      expect(process.kill(here.agent.pid, 0)).toBe(true)
    },
  )

  test('afterwards all is accounted for', async () => {
    await isSound(here, ['standby_in_service'])
    const { history } = await json<{ history: { kind: string }[] }>('rotate', 'status', '--data', here.dataDir)
    expect(history.map(({ kind }) => kind).toSorted()).toEqual([...STANDBY_KINDS].toSorted())
  })

  test('the set is made whole on a token that they never opened, and stands an emergency', async () => {
    const theirs = readFileSync(here.config, 'utf8')
    const first = await rotate(here, 'standby')
    expect([first.status, first.text]).toEqual([EXIT.failed, expect.stringContaining('#standby_missing')])
    const folder = join(here.dataDir, 'hsm')
    const made = await createSoftTokens({ folder, labels: ['chancery-standby-2'], modulePath: findSoftHsm() })
    const [token] = made.tokens
    const tokens = { 'standby-2': { uri: token?.uri, pinFile: token?.pinFile, softhsmConf: made.confPath } }
    const config = { state: 'standby-2', modulePath: made.modulePath, tokens, keys: {}, adminWhenSpawned: true }
    writeFileSync(join(here.dataDir, 'agent/standby-2.yaml'), stringify(config), { mode: 0o600 })
    succeeded(await rotate(here, 'resume'))
    await isSound(here, [])
    expect(readFileSync(here.config, 'utf8')).toBe(theirs)
    here.material = await fetchMaterial(join(here.folder, 'renewed'), here.stack.endpoints)

    const [status, { name, work }] = await asked('issuing-ca')
    expect([status, name]).toEqual([EXIT.approval, 'issuing-ca-3'])
    for (const token of readdirSync(join(folder, 'tokens'))) {
      const copy = join(here.home, 'tokens', token)
      if (existsSync(copy)) continue
      cpSync(join(folder, 'tokens', token), copy, { recursive: true })
      giveTo(copy, OTHER)
    }
    edited(work.lines, handedOver)
    await reloaded()
    // The module sees the new token once the agent has initialised it again.
    await expect.poll(async () => (await asked('issuing-ca'))[0], { timeout: 60_000, interval: 1000 }).toBe(EXIT.done)
    await signedAndVerified(here, 'v1')
  })

  async function asked(kind: StandbyKind): Promise<[number, Work]> {
    const said = await rotate(here, kind, '--emergency', '--confirm', '--json')
    return [said.status, JSON.parse(said.stdout) as Work]
  }

  /** As whoever may write it does with the lines that were printed. */
  function edited(lines: readonly string[], pinAt: (pinFile: string) => string): void {
    const added = parse(lines.join('\n')) as {
      tokens?: Record<string, { pinFile: string }>
      keys: Record<string, object>
    }
    const document = parseDocument(readFileSync(here.config, 'utf8'))
    for (const [name, token] of Object.entries(added.tokens ?? {})) {
      document.setIn(['tokens', name], { ...token, pinFile: pinAt(token.pinFile) })
    }
    for (const [name, key] of Object.entries(added.keys)) document.setIn(['keys', name], key)
    for (const line of lines) {
      const [, key, logs = ''] = /^# and in the key (\S+), which is there: ctKey: \[(.+)\]$/.exec(line) ?? []
      if (key !== undefined) document.setIn(['keys', key, 'ctKey'], logs.split(', '))
      const [, copy = '', from] = /^# (\S+): a copy of (\S+), beside that file$/.exec(line) ?? []
      if (from !== undefined) handedCopy(from, join(here.home, copy))
    }
    written(document.toJS())
  }

  function takenOut(said: string): void {
    const document = parseDocument(readFileSync(here.config, 'utf8'))
    for (const [, key = '', log] of said.matchAll(/^ {2}set ctKey of (\S+) to (\S+)$/gm)) {
      document.setIn(['keys', key, 'ctKey'], log)
    }
    for (const [, key = ''] of said.matchAll(/^ {2}take out the key (\S+)$/gm)) document.deleteIn(['keys', key])
    written(document.toJS())
  }

  function written(document: unknown): void {
    writeFileSync(here.config, stringify(document))
  }

  function handedOver(pinFile: string): string {
    const own = join(here.home, basename(pinFile))
    handedCopy(pinFile, own)
    return own
  }

  function handedCopy(from: string, to: string): void {
    cpSync(from, to)
    chownSync(to, OTHER.uid, OTHER.gid)
  }

  const reloaded = async () =>
    await outputAs(OTHER, ['cli/main.ts', 'agent', 'reload', '--agent', here.socketOf('admin')])
})
