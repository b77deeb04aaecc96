/**
 * `chancery rotate KIND --emergency`: the key is gone from its token, and what stands by signs with no new publication.
 * Clients that we did not write sign as they were configured before, and verify with the trust root of before.
 */
import { execFileSync, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { EXIT } from '#alarms'
import { parseKeyUri } from '#hsm'
import { findSoftHsm } from '#hsm/softhsm'
import { readStandbyPlan, STANDBY_KINDS, type StandbyKind } from '#lifecycle'
import { type LogVersion, type Material, signers, type VerifierName, verifiers } from '../e2e/clients.ts'
import { fetchMaterial, firstEntries } from '../e2e/global-setup.ts'
import { refusal, run, succeeded } from '../e2e/run.ts'
import { initialise, ownEnvironment, projectFolder, runChancery, serve, type Stack } from '../e2e/stack.ts'
import { type GitsignExport, GitsignRepository } from './gitsign-repository.ts'
import { badAnswers, LONG, type PatientLoad, startPatientLoad } from './loaded-stack.ts'
import { longTest } from '../support/long.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-emergency-'))
const EMAIL = 'operator@example.test'
/** From the command to a signature that a client with a cached root verifies. */
const MOST_SECONDS = 60
const VERIFIERS: readonly VerifierName[] = LONG
  ? ['cosign 3', 'cosign 2', 'sigstore-go', 'sigstore-js', 'sigstore-python']
  : ['cosign 3']

interface Installation {
  readonly dataDir: string
  /** As clients had it before anything was lost. */
  readonly material: Material
  stack: Stack
}

async function installation(name: string): Promise<Installation> {
  const folder = join(scratch, name)
  const dataDir = join(folder, 'data')
  await initialise(dataDir)
  const stack = await serve(dataDir)
  const material = await fetchMaterial(join(folder, 'material'), stack.endpoints)
  await firstEntries(material, folder, dataDir)
  return { dataDir, material, stack }
}

let shared: Installation

beforeAll(async () => {
  shared = await installation('one')
  if (!LONG) return
  repository = new GitsignRepository(shared.dataDir, join(scratch, 'gitsign'), EMAIL)
  gitsignBefore = await repository.export('before')
  await commit()
})

afterAll(async () => {
  await shared.stack.stop().catch(() => shared.stack.server.kill('SIGKILL'))
  rmSync(scratch, { recursive: true, force: true })
})

/** docs/operations.md, its commands on standby keys as they stand there. */
const documented = [
  ...readFileSync(join(projectFolder, 'docs/operations.md'), 'utf8').matchAll(
    /<!-- while: standby -->\n```sh\n([^]*?)^```$/gm,
  ),
].map(([, script = 'false']) => script)

async function shell({ dataDir }: Installation, script: string | undefined) {
  const environment = ownEnvironment()
  const PATH = `${join(projectFolder, 'scripts')}:${environment['PATH']}`
  return succeeded(
    await run('bash', ['-euc', script ?? 'false'], { env: { ...environment, PATH }, cwd: dirname(dataDir) }),
  )
}

const rotate = async ({ dataDir }: Installation, ...words: string[]) =>
  await runChancery(['rotate', ...words, '--data', dataDir])

/** The published TUF metadata, whole: a publication changes it. */
const published = ({ dataDir }: Installation) =>
  readFileSync(join(dataDir, 'trust-root/repository/timestamp.json'), 'utf8')

const KEYS: Readonly<Record<StandbyKind, string>> = {
  'issuing-ca': 'issuing-ca',
  'ct-log': 'ct',
  'rekor-v1': 'rekor-v1',
  'rekor-v2': 'rekor-v2',
  tsa: 'tsa',
}

/** Takes the private key from under the agent that signs with it. */
function destroy({ dataDir }: Installation, key: string): void {
  const { keys } = parse(readFileSync(join(dataDir, 'agent/online.yaml'), 'utf8')) as {
    keys: Record<string, { uri: string }>
  }
  const idHex = Buffer.from(parseKeyUri(keys[key]?.uri ?? '').id).toString('hex')
  const pin = readFileSync(join(dataDir, 'hsm/chancery-online.pin'), 'utf8').trim()
  const token = ['--module', findSoftHsm(), '--token-label', 'chancery-online', '--login', '--pin', pin]
  execFileSync('pkcs11-tool', [...token, '--delete-object', '--type', 'privkey', '--id', idHex], {
    env: { SOFTHSM2_CONF: join(dataDir, 'hsm/softhsm2.conf') },
    stdio: 'ignore',
  })
}

let counter = 0

interface Signed {
  readonly bundle: string
  readonly artifact: string
  readonly log: LogVersion
}

/** All that was signed with the shared installation. */
const signed: Signed[] = []

/** Signs as configured before; throws unless everyone verifies it with the trust root of before. */
async function signedAndVerified(from: Installation, logs: readonly LogVersion[] = ['v1', 'v2']): Promise<void> {
  const { dataDir, material } = from
  for (const log of logs) {
    counter += 1
    const file = (name: string) => join(scratch, `${counter}-${name}`)
    const [artifact, tokenFile, bundle] = [file('artifact'), file('token'), file('bundle.json')]
    writeFileSync(artifact, `artifact ${counter}, ${randomUUID()}`)
    writeFileSync(tokenFile, await identityToken(dataDir))
    const unused = { statement: artifact, predicate: artifact }
    succeeded(await signers['cosign 3']({ material, log, kind: 'blob', artifact, tokenFile, bundle, ...unused }))
    await verified(from, { bundle, artifact, log })
    if (dataDir === shared.dataDir) signed.push({ bundle, artifact, log })
  }
}

/** Without any network: no mirror is asked. */
async function verified({ material, stack }: Installation, { bundle, artifact, log }: Signed): Promise<void> {
  const identity = { identity: EMAIL, issuer: stack.endpoints.oidc }
  for (const verifier of VERIFIERS) {
    const request = { material, log, kind: 'blob', artifact, bundle, ...identity } as const
    succeeded(await verifiers[verifier]({ ...request, under: ['unshare', '-rn'] }))
  }
}

async function identityToken(dataDir: string): Promise<string> {
  return succeeded(await runChancery(['dev', 'token', '--data', dataDir, '--email', EMAIL])).stdout
}

/** gitsign, in the full set alone: its export of before anything was lost, and all commits of the shared installation. */
let repository: GitsignRepository
let gitsignBefore: GitsignExport
const commits: string[] = []

async function commit(with_ = gitsignBefore): Promise<string> {
  const name = await repository.commit(with_, await identityToken(shared.dataDir))
  commits.push(name)
  return name
}

/** One more commit, and all verify as gitsign was set up before; not for somebody else, nor without what stood by. */
async function commitsVerify(kind: StandbyKind): Promise<void> {
  const newest = await commit()
  for (const each of commits) {
    expect(succeeded(await repository.verify(gitsignBefore, each)).text).toContain('Validated Certificate claims: true')
  }
  const another = await repository.verify(gitsignBefore, newest, (line) => line.replace(EMAIL, 'other@example.test'))
  expect(refusal(another)).toMatch(/none of the expected identities/)
  if (kind !== 'ct-log') return
  const withOneKey = await repository.verify(gitsignBefore, newest, (line) => line.replace(/^sh \S+/, 'gitsign verify'))
  expect(refusal(withOneKey)).toMatch(/ctfe public key not found/)
}

test('what stands by is told, and what an emergency would do', async () => {
  expect(documented).toHaveLength(3)
  const said = await shell(shared, documented[0])
  expect(said.stdout).toContain('standby  issuing-ca-2, ct-2, rekor-v1-2, rekor-v2-2, tsa-2\n')
  expect(said.stdout).toContain('tsa-2 takes the place of tsa.\nNothing was done.')
  const unconfirmed = await rotate(shared, 'tsa', '--emergency')
  expect([unconfirmed.status, unconfirmed.text]).toEqual([
    EXIT.approval,
    expect.stringContaining('#confirmation_needed'),
  ])
  const other = await rotate(shared, 'tuf-online', '--emergency')
  expect([other.status, other.text]).toEqual([EXIT.usage, expect.stringContaining('--emergency')])
})

test.each(STANDBY_KINDS)(
  'the key of %s is gone: what stands by signs within a minute, and nothing was published',
  async (kind) => {
    const before = published(shared)
    const load = kind === 'tsa' ? await startPatientLoad(shared.stack, join(scratch, 'load')) : undefined
    await load?.progress(3)
    destroy(shared, KEYS[kind])
    const startedMs = performance.now()
    const said =
      kind === 'tsa'
        ? await shell(shared, documented[1])
        : succeeded(await rotate(shared, kind, '--emergency', '--confirm'))
    const commandMs = performance.now() - startedMs
    expect(said.stdout).toMatch(new RegExp(`^${KEYS[kind]}(?:-2)? signs in place of ${KEYS[kind]} since `))
    expect(said.stdout).toContain('verifies with the published trust root')
    await signedAndVerified(shared, LONG || kind === 'ct-log' ? ['v1', 'v2'] : [kind === 'rekor-v2' ? 'v2' : 'v1'])
    const seconds = (performance.now() - startedMs) / 1000
    console.log(
      `${kind}: command ${(commandMs / 1000).toFixed(1)} s, signed and verified after ${seconds.toFixed(1)} s`,
    )
    expect(seconds).toBeLessThan(MOST_SECONDS)
    if (LONG) await commitsVerify(kind)
    expect(published(shared)).toBe(before)
    await ends(load)
  },
)

/** What clients were told meanwhile was right, or when to come again; and each was served in the end. */
async function ends(load: PatientLoad | undefined): Promise<void> {
  if (load === undefined) return
  await load.progress(3)
  const { outcomes } = await load.finish()
  expect(badAnswers(outcomes)).toEqual([])
}

test('a second one finds nothing that stands by; status says what is to be done', async () => {
  const again = await rotate(shared, 'tsa', '--emergency', '--confirm')
  expect([again.status, again.text]).toEqual([EXIT.failed, expect.stringContaining('#standby_missing')])
  const { standby } = JSON.parse((await runChancery(['status', '--data', shared.dataDir, '--json'])).stdout) as {
    standby: { kind: string; state: string }[]
  }
  expect(standby.map(({ state }) => state)).toEqual(STANDBY_KINDS.map(() => 'in-service'))
})

longTest('after a restart it signs on', async () => {
  await shared.stack.stop()
  shared.stack = await serve(shared.dataDir)
  await signedAndVerified(shared)
})

test('the set is made whole on another token: the old and the new trust root verify, and it stands an emergency', async () => {
  await shell(shared, documented[2])
  const plan = readStandbyPlan(shared.dataDir)
  expect(plan?.members.map(({ kind }) => kind).toSorted()).toEqual([...STANDBY_KINDS].toSorted())
  expect([plan?.agent, plan?.inService]).toEqual(['agent/standby-2.yaml', []])
  const renewed = { ...shared, material: await fetchMaterial(join(scratch, 'renewed'), shared.stack.endpoints) }
  for (const before of LONG ? signed : signed.slice(-2)) await verified(renewed, before)
  await signedAndVerified(renewed, ['v2'])
  if (LONG) {
    const gitsignRenewed = await repository.export('renewed')
    succeeded(await rotate(renewed, 'issuing-ca', '--emergency', '--confirm'))
    await signedAndVerified(renewed, ['v1'])
    const newest = await commit(gitsignRenewed)
    for (const each of commits) succeeded(await repository.verify(gitsignRenewed, each))
    expect(refusal(await repository.verify(gitsignBefore, newest))).toMatch(/signed by unknown authority/)
  }
  const nothing = await rotate(shared, 'rekor-v1', '--emergency', '--dry-run')
  expect(succeeded(nothing).stdout).toContain('rekor-v1-3 takes the place of rekor-v1-2')
})

describe('killed at a step and called again', () => {
  const steps = LONG ? (['agent', 'switch', 'record', 'retire', 'prove'] as const) : (['switch'] as const)
  test.each(steps)('%s: one key signs, and nothing is left over', async (step) => {
    const kind = step === 'switch' || step === 'record' ? 'rekor-v1' : 'tsa'
    const [before] = readStandbyPlan(shared.dataDir)?.members.filter((member) => member.kind === kind) ?? []
    if (before === undefined) succeeded(await rotate(shared, 'standby'))
    await killedAt(step, kind)
    expect(existsSync(join(shared.dataDir, `lifecycle/emergency-${kind}.json`))).toBe(true)
    succeeded(await rotate(shared, kind, '--emergency'))
    expect(existsSync(join(shared.dataDir, `lifecycle/emergency-${kind}.json`))).toBe(false)
    const { inService, members } = readStandbyPlan(shared.dataDir) ?? { inService: [], members: [] }
    const [used] = inService.filter(({ member }) => member.kind === kind)
    expect(members.some((member) => member.kind === kind)).toBe(false)
    const config = parse(readFileSync(join(shared.dataDir, 'chancery.yaml'), 'utf8')) as {
      timestamp: { key: string }
      logs: { name: string; kind: string; succeeds?: string }[]
    }
    const active = config.logs.filter(
      ({ name, kind: of }) => of === kind && !config.logs.some(({ succeeds }) => succeeds === name),
    )
    expect(kind === 'tsa' ? [config.timestamp.key] : active.map(({ name }) => name)).toEqual([used?.member.name])
    await signedAndVerified({ ...shared, material: await fetchMaterial(join(scratch, step), shared.stack.endpoints) }, [
      'v1',
    ])
  })
})

/** Runs the command until it tells this step, and kills it there. */
async function killedAt(step: string, kind: StandbyKind): Promise<void> {
  const words = ['rotate', kind, '--emergency', '--confirm', '--data', shared.dataDir]
  const child = spawn(process.execPath, [join(projectFolder, 'cli/main.ts'), ...words], {
    env: ownEnvironment(),
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  for await (const line of createInterface({ input: child.stderr })) {
    if (line.trim() === step) child.kill('SIGKILL')
  }
}

longTest('the whole token of the services is gone: five emergencies, one after the other', async () => {
  const lost = await installation('two')
  try {
    const tokens = join(lost.dataDir, 'hsm/tokens')
    for (const name of readdirSync(tokens)) {
      const isOnline = readFileSync(join(tokens, name, 'token.object')).includes('chancery-online')
      if (isOnline) renameSync(join(tokens, name), join(scratch, 'lost-token'))
    }
    const before = published(lost)
    const startedMs = performance.now()
    // The logs first: a certificate needs the promise of one.
    for (const kind of ['ct-log', 'issuing-ca', 'rekor-v1', 'rekor-v2', 'tsa']) {
      const said = await rotate(lost, kind, '--emergency', '--confirm')
      expect([EXIT.done, EXIT.integrity], said.text).toContain(said.status)
    }
    await signedAndVerified(lost)
    const seconds = (performance.now() - startedMs) / 1000
    console.log(`all five: ${seconds.toFixed(1)} s`)
    expect(seconds).toBeLessThan(5 * MOST_SECONDS)
    expect(published(lost)).toBe(before)
  } finally {
    await lost.stack.stop().catch(() => lost.stack.server.kill('SIGKILL'))
  }
})
