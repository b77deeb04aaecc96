/** One suite on four modules: make keys, read them back, certify, sign for every purpose, find them again. */
import { execFileSync } from 'node:child_process'
import { createPublicKey, verify } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { verifyCheckpoint } from '#tlog'
import { assembleCertificate, encodePem, makeIssuer, sctSignatureInput, serializeSct } from '#x509'
import {
  startNss,
  startP11Kit,
  startSoftHsm,
  startTpm,
  startTpmAlone,
  type RunningModule,
} from '../test/support/modules/index.ts'
import {
  install,
  KEY_OF,
  need,
  ORIGIN,
  prepared,
  setRequest,
  timestampRequest,
  treeOf,
  tufPayload,
  type Installation,
} from './agent.fixture.ts'
import { issueIntermediateCertificate, issueRootCertificate } from './ceremony.ts'
import { HsmError, type KeyKind } from './signing.ts'
import { spawnAgent, type SpawnedAgent } from './spawn.ts'

const LONG = process.env['CHANCERY_LONG'] === '1'

interface Module {
  readonly name: string
  readonly start: () => Promise<RunningModule>
  readonly profile: string
  /** Kinds that it makes beside P-256 and P-384, the slow ones in the long run only. */
  readonly makes: readonly KeyKind[]
  readonly refuses: readonly KeyKind[]
  /** What cannot be read back of a fresh ECDSA key as it should be. */
  readonly unproven: readonly string[]
  /** What is not shown of a key's origin when it is found again. */
  readonly origin: readonly string[]
}

const slow = (...kinds: readonly KeyKind[]): readonly KeyKind[] => (LONG ? kinds : [])

const MODULES: readonly Module[] = [
  {
    name: 'SoftHSM',
    start: startSoftHsm,
    profile: 'SoftHSM 2',
    makes: ['rsa-2048', 'ed25519', ...slow('rsa-3072', 'rsa-4096')],
    refuses: [],
    unproven: [],
    origin: [],
  },
  {
    name: 'NSS softokn',
    start: startNss,
    profile: 'NSS softokn',
    makes: ['rsa-2048', ...slow('rsa-3072', 'rsa-4096')],
    refuses: ['ed25519'],
    unproven: ['LOCAL', 'ALLOWED_MECHANISMS'],
    origin: ['LOCAL'],
  },
  {
    name: 'a software TPM',
    start: startTpm,
    profile: 'software TPM 2.0 (tpm2-pkcs11)',
    makes: ['rsa-2048'],
    refuses: ['ed25519'],
    unproven: ['DECRYPT', 'ALLOWED_MECHANISMS'],
    origin: [],
  },
  {
    name: 'SoftHSM behind p11-kit',
    start: startP11Kit,
    profile: 'SoftHSM 2',
    makes: ['rsa-2048', ...slow('rsa-3072')],
    refuses: ['ed25519'],
    unproven: ['ALLOWED_MECHANISMS'],
    origin: [],
  },
]

describe.each(MODULES)('$name', ({ start, profile, makes, refuses, unproven, origin }) => {
  let running: RunningModule
  let installation: Installation
  let spawned: Required<SpawnedAgent>
  let folder: string
  const closers: (() => void | Promise<void>)[] = []

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'chancery-modules-'))
    closers.push(() => rmSync(folder, { recursive: true, force: true }))
    running = await start()
    closers.push(() => running.stop())
    const kinds = Object.fromEntries(makes.map((kind) => [`made-${kind}`, kind]))
    installation = await install(running, kinds)
    closers.push(() => installation.remove())
    spawned = await installation.start()
    closers.push(() => spawned.close())
  })

  // Also what was started before something failed.
  afterAll(async () => {
    for (const close of closers.toReversed()) await close()
  })

  test('is recognised, and known as software', async () => {
    const { ready, tokens } = await spawned.agent.status()
    expect(ready).toBe(true)
    expect(tokens).toMatchObject([{ profile, software: true, loggedIn: true, breaker: 'closed', fault: '' }])
  })

  test('makes keys whose attributes are read back, and tells what it does not show', () => {
    expect(need(installation.keys['ct']).unproven).toEqual(unproven)
    expect(Object.values(installation.keys).map(({ kind }) => kind)).toEqual(expect.arrayContaining([...makes]))
    for (const { kind, spkiDer } of Object.values(installation.keys)) {
      const text = openssl(folder, ['pkey', '-pubin', '-inform', 'DER', '-noout', '-text'], spkiDer)
      expect(text).toContain(OPENSSL_NAME[kind])
    }
  })

  test('finds its keys again, and records an origin that is not proved', async () => {
    const { keys } = await spawned.agent.status()
    for (const { places, latched } of keys) {
      expect(latched).toBe('')
      expect(places).toEqual([{ token: 'online', usable: true, fault: '', unproven: origin }])
    }
  })

  for (const kind of refuses) {
    test(`says that it makes no ${kind}`, async () => {
      const asked = spawned.admin.generateKey({ token: 'online', label: `no-${kind}`, kind })
      await expect(asked).rejects.toMatchObject({ code: 'refused', reason: 'kind_not_offered' })
      expect((await spawned.agent.status()).ready).toBe(true)
    })
  }

  test('issues root, intermediate and leaf that openssl accepts strictly', async () => {
    const leafDer = await leaf(spawned, installation, 'issuing-ca', installation.issuingDer)
    expect(strictly(folder, installation.rootDer, installation.issuingDer, leafDer)).toBe('leaf.pem: OK\n')
  })

  test('the same with RSA', async () => {
    const { uri, spkiDer, kind } = need(installation.keys['made-rsa-2048'])
    const key = {
      uri,
      token: 'online',
      spki: Buffer.from(spkiDer).toString('base64'),
      kind,
      purposes: ['caCertificate'],
    }
    const { keys } = installation.configuration as { keys: Record<string, object> } // written by install
    installation.configure({ keys: { ...keys, rsa: key } })
    await spawned.admin.reload()
    const ceremony = { agent: spawned.admin, key: 'rsa', now: new Date() }
    const name = (commonName: string) => ({ organization: 'Example', commonName })
    const rootDer = await issueRootCertificate({ ...ceremony, name: name('RSA Root') })
    const subject = need(installation.keys['issuing-ca'])
    const issuingDer = await issueIntermediateCertificate({
      ...ceremony,
      issuerDer: rootDer,
      subject,
      name: name('EC'),
    })
    expect(openssl(folder, ['x509', '-inform', 'DER', '-noout', '-text'], issuingDer)).toContain(
      'Signature Algorithm: sha256WithRSAEncryption',
    )
    await issueBelowRsa(spawned, installation, folder, { rootDer, rsaRoot: key, keys })
  })

  test('signs for every purpose', async () => {
    const { agent } = spawned
    const holds = async (name: string, message: Uint8Array, signature: Uint8Array) => {
      const { spkiDer } = await agent.key(name)
      return verify(
        'sha256',
        message,
        createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' }),
        signature,
      )
    }
    const set = setRequest()
    const { keyId } = await agent.key('rekor-v1')
    const body = set.body.toString('base64')
    const signed = {
      body,
      integratedTime: set.integratedTimeSeconds,
      logID: Buffer.from(keyId).toString('hex'),
      logIndex: 5,
    }
    expect(await holds('rekor-v1', Buffer.from(JSON.stringify(signed)), await agent.set(set))).toBe(true)

    const timestamp = timestampRequest()
    expect(await holds('tsa', timestamp.signedAttributesDer, await agent.timestamp(timestamp))).toBe(true)

    const payload = tufPayload()
    const tuf = await agent.tuf({ key: KEY_OF.tuf, role: 'timestamp', payload })
    expect(await holds(KEY_OF.tuf, payload, tuf)).toBe(true)

    const tree = treeOf(5)
    const head = {
      key: 'rekor-v2',
      origin: ORIGIN['rekor-v2'],
      size: 5,
      rootHash: tree.root(),
      timestampMs: Date.now(),
    }
    const { note } = await agent.treeHead({ ...head, consistencyProof: [] })
    const { spkiDer } = await agent.key('rekor-v2')
    expect(verifyCheckpoint(note, { origin: ORIGIN['rekor-v2'], spkiDer })).toMatchObject({ size: 5 })
  })

  const edwards = async () => {
    const { uri, spkiDer, kind } = need(installation.keys['made-ed25519'])
    const spki = Buffer.from(spkiDer)
    const key = {
      uri,
      token: 'online',
      spki: spki.toString('base64'),
      kind,
      purposes: ['tuf'],
      tufRoles: ['timestamp'],
    }
    const { keys } = installation.configuration as { keys: Record<string, object> } // written by install
    installation.configure({ keys: { ...keys, edwards: key } })
    await spawned.admin.reload()
    for (let version = 2; version < 30; version++) {
      const payload = tufPayload({ version })
      const signature = await spawned.agent.tuf({ key: 'edwards', role: 'timestamp', payload })
      expect(signature).toHaveLength(64)
      expect(verify(null, payload, createPublicKey({ key: spki, format: 'der', type: 'spki' }), signature)).toBe(true)
    }
  }
  // The other modules refuse to make such a key, which is a test above.
  if (makes.includes('ed25519')) test('signs TUF metadata with Ed25519', edwards)
})

const OPENSSL_NAME: Readonly<Record<KeyKind, string>> = {
  'P-256': 'NIST CURVE: P-256',
  'P-384': 'NIST CURVE: P-384',
  'rsa-2048': 'Public-Key: (2048 bit)',
  'rsa-3072': 'Public-Key: (3072 bit)',
  'rsa-4096': 'Public-Key: (4096 bit)',
  ed25519: 'ED25519 Public-Key',
}

/** A leaf with an SCT of the agent's log, under whichever of its authorities. */
async function leaf(
  { agent }: Pick<SpawnedAgent, 'agent'>,
  installation: Installation,
  key: string,
  issuingDer: Uint8Array,
): Promise<Uint8Array> {
  const issuer = makeIssuer(issuingDer)
  const wanted = prepared({ ...installation, issuingDer })
  const poisoned = wanted.precertificateTbs()
  await agent.certificate({ key, tbsDer: poisoned })
  const timestampMs = Date.now()
  const entry = wanted.sctInput()
  const signatureDer = await agent.sct({ key: 'ct', timestampMs, entry })
  const { keyId, spkiDer } = await agent.key('ct')
  const log = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  expect(verify('sha256', sctSignatureInput(entry, timestampMs, new Uint8Array(0)), log, signatureDer)).toBe(true)
  const sct = serializeSct({ logId: keyId, timestampMs, extensions: new Uint8Array(0), signatureDer })
  const tbsDer = wanted.certificateTbs([sct])
  return assembleCertificate(tbsDer, issuer.signatureAlgorithm, await agent.certificate({ key, tbsDer }))
}

/** A second RSA key as intermediate, with leaves of its own. */
async function issueBelowRsa(
  { agent, admin }: Required<SpawnedAgent>,
  installation: Installation,
  folder: string,
  { rootDer, rsaRoot, keys }: { rootDer: Uint8Array; rsaRoot: object; keys: Record<string, object> },
): Promise<void> {
  const made = await admin.generateKey({ token: 'online', label: 'rsa-issuing', kind: 'rsa-2048' })
  const issuingDer = await issueIntermediateCertificate({
    agent: admin,
    key: 'rsa',
    now: new Date(),
    issuerDer: rootDer,
    subject: made,
    name: { organization: 'Example', commonName: 'RSA Issuing' },
  })
  const issuerCertificate = join(folder, 'rsa-issuing.pem')
  writeFileSync(issuerCertificate, encodePem('CERTIFICATE', issuingDer))
  const spki = Buffer.from(made.spkiDer).toString('base64')
  const issuing = { uri: made.uri, token: 'online', spki, purposes: ['certificate'], issuerCertificate, ctKey: 'ct' }
  installation.configure({ keys: { ...keys, rsa: rsaRoot, 'rsa-issuing': issuing } })
  await admin.reload()
  const leafDer = await leaf({ agent }, installation, 'rsa-issuing', issuingDer)
  expect(strictly(folder, rootDer, issuingDer, leafDer)).toBe('leaf.pem: OK\n')
}

function strictly(folder: string, root: Uint8Array, issuing: Uint8Array, leafDer: Uint8Array): string {
  for (const [name, der] of Object.entries({ root, issuing, leaf: leafDer })) {
    writeFileSync(join(folder, `${name}.pem`), encodePem('CERTIFICATE', der))
  }
  const chain = ['-x509_strict', '-CAfile', 'root.pem', '-untrusted', 'issuing.pem', 'leaf.pem']
  return openssl(folder, ['verify', ...chain])
}

function openssl(folder: string, args: readonly string[], input?: Uint8Array): string {
  return execFileSync('openssl', args, { cwd: folder, encoding: 'utf8', ...(input === undefined ? {} : { input }) })
}

test('a TPM without its access broker has room for one key: the next is refused with what to do', async () => {
  const running = await startTpmAlone()
  onTestFinished(() => running.stop())
  const configPath = join(running.folder, 'agent.yaml')
  const configuration = { state: 'state', ...running.module, tokens: { online: running.token }, adminWhenSpawned: true }
  writeFileSync(configPath, JSON.stringify({ ...configuration, sessions: 1 }))
  const spawned = await spawnAgent({ configPath, admin: true })
  onTestFinished(() => spawned.close())
  const refusals: unknown[] = []
  for (let i = 0; i < 4 && refusals.length === 0; i++) {
    const asked = need(spawned.admin).generateKey({ token: 'online', label: `key-${i}`, kind: 'P-256' })
    await asked.catch((error: unknown) => refusals.push(error))
  }
  expect(refusals).toHaveLength(1)
  expect(refusals[0]).toBeInstanceOf(HsmError)
  expect(refusals[0]).toMatchObject({ code: 'refused', reason: 'token_full' })
})

test('the p11-kit server is killed under load and started again: no request fails', async () => {
  const running = await startP11Kit()
  onTestFinished(() => running.stop())
  const installation = await install(running)
  onTestFinished(() => installation.remove())
  const spawned = await installation.start()
  onTestFinished(() => spawned.close())
  const { agent } = spawned
  const { spkiDer } = await agent.key('tsa')
  const judge = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  const over = new AbortController()
  let signed = 0
  const load = Array.from({ length: 4 }, async () => {
    while (!over.signal.aborted) {
      const request = timestampRequest()
      expect(verify('sha256', request.signedAttributesDer, judge, await agent.timestamp(request))).toBe(true)
      signed++
    }
  })
  const more = async () => {
    const before = signed
    await Promise.race([vi.waitUntil(() => signed > before + 50, { timeout: 20_000 }), Promise.all(load)])
  }
  for (let round = 0; round < 2; round++) {
    await more()
    await running.restart()
  }
  await more()
  over.abort()
  await Promise.all(load)
  expect((await agent.status()).tokens).toMatchObject([{ breaker: 'closed', fault: '' }])
})
