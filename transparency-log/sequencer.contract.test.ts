/** The same engine on the real agent with keys in SoftHSM: what the unit tests' double promises must be true. */
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSoftTokens, spawnAgent, type SpawnedAgent } from '#hsm'
import { verifyCheckpoint } from '#tlog'
import { OID, parseCertificate, parseSct, sctSignatureInput, withoutExtension } from '#x509'
import { createHash, createPublicKey, hash, verify } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkLog } from './check-log.fixture.ts'
import { authority, certificate, CODE_SIGNING, party, POISON } from './ct/certificates.fixture.ts'
import { AcceptedRoots } from './ct/chain.ts'
import { ctLogOf, ctSignEntry } from './ct/submission.ts'
import type { Log, PendingEntry } from './log.ts'
import { openLog, type OpenLogOptions } from './open.ts'
import { rekorV1SignEntry } from './rekor/index.ts'

const ORIGIN_V1 = 'rekor-v1.chancery.internal - 4711'
const ORIGIN_CT = 'ct.chancery.internal'

let folder: string
let configPath: string
let spawned: SpawnedAgent

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-log-'))
  const { modulePath, confPath, tokens } = await createSoftTokens({ folder: join(folder, 'hsm'), labels: ['online'] })
  const [token] = tokens
  if (token === undefined) throw new Error('no token was made')
  const common = {
    state: join(folder, 'agent'),
    modulePath,
    tokens: { online: { uri: token.uri, pinFile: token.pinFile, softhsmConf: confPath } },
    adminWhenSpawned: true,
  }
  mkdirSync(join(folder, 'agent'), { mode: 0o700 })
  configPath = join(folder, 'agent.yaml')
  writeFileSync(configPath, JSON.stringify(common))
  const maker = await spawnAgent({ configPath, admin: true })
  if (maker.admin === undefined) throw new Error('no admin channel')
  const v1 = await maker.admin.generateKey({ token: 'online', label: 'rekor-v1', kind: 'P-256' })
  const ct = await maker.admin.generateKey({ token: 'online', label: 'ct', kind: 'P-256' })
  await maker.close()
  const key = (made: typeof v1) => ({
    uri: made.uri,
    token: 'online',
    spki: Buffer.from(made.spkiDer).toString('base64'),
    kind: 'P-256',
  })
  const keys = {
    'rekor-v1': { ...key(v1), purposes: ['treeHead', 'set'], origin: ORIGIN_V1, style: 'rekor-v1' },
    ct: { ...key(ct), purposes: ['treeHead', 'sct'], origin: ORIGIN_CT, style: 'ct' },
  }
  writeFileSync(configPath, JSON.stringify({ ...common, keys }))
  spawned = await spawnAgent({ configPath })
})
afterAll(async () => {
  await spawned.close()
  rmSync(folder, { recursive: true })
})

function openV1(options: Partial<OpenLogOptions> = {}): Promise<Log> {
  const { agent } = spawned
  return openLog({
    name: 'rekor-v1',
    kind: 'rekor-v1',
    origin: ORIGIN_V1,
    databasePath: join(folder, 'v1.db'),
    agent,
    key: 'rekor-v1',
    signEntry: rekorV1SignEntry(agent, 'rekor-v1'),
    ...options,
  })
}

/** The agent signs SETs only over what looks like an entry of Rekor. */
function entry(name: string): PendingEntry {
  const leaf = new TextEncoder().encode(JSON.stringify({ apiVersion: '0.0.1', kind: 'hashedrekord', spec: { name } }))
  const content = { leaf, tileData: leaf, searchKeys: [`name:${name}`] }
  return { dedupeKey: new Uint8Array(hash('sha256', leaf, 'buffer')), at: () => content }
}

test('a Rekor v1 log grows on the real agent: checkpoints, SETs, guard', async () => {
  const log = await openV1()
  const added = await Promise.all(Array.from({ length: 300 }, (_, i) => log.add(entry(`entry ${i}`))))
  const head = log.head()
  expect(verifyCheckpoint(head.note, { origin: ORIGIN_V1, spkiDer: log.spkiDer }).size).toBe(300)
  expect(await spawned.agent.guardedHead({ key: 'rekor-v1', origin: ORIGIN_V1 })).toMatchObject({ size: 300 })
  const stored = await log.entry(added[17]?.index ?? 0)
  const set = JSON.stringify({
    body: Buffer.from(stored?.leaf ?? []).toString('base64'),
    integratedTime: Math.floor((stored?.timestampMs ?? 0) / 1000),
    logID: Buffer.from(log.logId).toString('hex'),
    logIndex: stored?.index,
  })
  const key = createPublicKey({ key: Buffer.from(log.spkiDer), type: 'spki', format: 'der' })
  expect(verify('sha256', Buffer.from(set), key, stored?.entrySignature ?? new Uint8Array(0))).toBe(true)
  await checkLog(log)
  await log.close()
  const again = await openV1()
  expect((await again.add(entry('entry 5'))).duplicate).toBe(true)
  await again.add(entry('one more'))
  await checkLog(again, [head])
  await again.close()
})

test('killing the agent under load loses nothing and needs nobody', async () => {
  const log = await openV1()
  const before = log.head()
  const adding = Promise.allSettled(Array.from({ length: 400 }, (_, i) => log.add(entry(`under load ${i}`))))
  await expect.poll(() => log.head().size, { interval: 1, timeout: 20_000 }).toBeGreaterThan(before.size)
  const { pid } = spawned.child
  if (pid !== undefined) process.kill(pid, 'SIGKILL')
  await adding
  const added = await Promise.all(Array.from({ length: 400 }, (_, i) => log.add(entry(`under load ${i}`))))
  expect(new Set(added.map(({ index }) => index)).size).toBe(400)
  expect(log.head().size).toBe(before.size + 400)
  expect(log.fault()).toBeUndefined()
  await checkLog(log, [before])
  await log.close()
})

test('a CT log answers SCTs that verify, also when the agent died between commit and seal', async () => {
  const { agent } = spawned
  const options: OpenLogOptions = {
    name: 'ct',
    kind: 'ct',
    origin: ORIGIN_CT,
    databasePath: join(folder, 'ct.db'),
    agent,
    key: 'ct',
    signEntry: ctSignEntry(agent, 'ct'),
    faultPoint: (point) => {
      const { pid } = spawned.child
      if (point === 'after-commit' && pid !== undefined) process.kill(pid, 'SIGKILL')
    },
  }
  const log = await openLog(options)
  const root = authority('root')
  const der = certificate(party('leaf'), root, [CODE_SIGNING, POISON])
  const tbsDer = withoutExtension(parseCertificate(der).tbsDer, OID.ctPoison)
  const issuerKeyHash = new Uint8Array(createHash('sha256').update(root.spkiDer).digest())
  const request = { chain: [der], issuerKeyHash, tbsDer }
  const sct = parseSct(await ctLogOf({ log, roots: new AcceptedRoots([root.der]) }).addPreCertificate(request))
  const key = createPublicKey({ key: Buffer.from(log.spkiDer), type: 'spki', format: 'der' })
  const input = sctSignatureInput({ type: 'precert', issuerKeyHash, tbsDer }, sct.timestampMs, sct.extensions)
  expect(verify('sha256', input, key, sct.signatureDer)).toBe(true)
  await checkLog(log)
  await log.close()
})

test('an old database under a newer guard is refused, readable, and says what to do', async () => {
  const log = await openV1()
  await log.close()
  copyFileSync(join(folder, 'v1.db'), join(folder, 'backup.db'))
  const grown = await openV1()
  await grown.add(entry('after the backup'))
  await grown.close()

  const restored = await openV1({ databasePath: join(folder, 'backup.db') })
  expect(restored.fault()).toMatchObject({ code: 'fork_refused', message: expect.stringContaining('docs/runbook.md') })
  await expect(restored.add(entry('a fork'))).rejects.toMatchObject({ code: 'fork_refused' })
  await checkLog(restored)
  await restored.close()
  // The newest database goes on: looking at an old one latched nothing.
  const newest = await openV1()
  await newest.add(entry('no fork'))
  await checkLog(newest)
  await newest.close()
})
