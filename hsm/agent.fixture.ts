/** An agent on SoftHSM with one key for each purpose and sound requests for all of them, for the tests of this folder. */
import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { MerkleTree } from '#tlog'
import {
  encodeFulcioExtensions,
  encodePem,
  generalizedTime,
  integer,
  makeIssuer,
  objectIdentifier,
  octetString,
  parseSpki,
  prepareCertificate,
  sequence,
  serializeSct,
  setOf,
  type PreparedCertificate,
} from '#x509'
import type { AdminAgent, GeneratedKey } from './administration.ts'
import { issueIntermediateCertificate, issueRootCertificate } from './ceremony.ts'
import { buildFaultShimIn, type FaultShim } from './fault-shim.fixture.ts'
import type { KeyKind, Purpose } from './signing.ts'
import type { RunningModule } from '../test/support/modules/index.ts'
import { createSoftTokens, type SoftTokens } from './softhsm.ts'
import { spawnAgent, type SpawnedAgent, type SpawnOptions } from './spawn.ts'

export const KEY_OF: Readonly<Record<Purpose, string>> = {
  certificate: 'issuing-ca',
  treeHead: 'rekor-v2',
  sct: 'ct',
  set: 'rekor-v1',
  timestamp: 'tsa',
  tuf: 'tuf-online',
  caCertificate: 'root-ca',
  certificateRequest: 'new-ca',
  ceremonyStatement: 'operator',
}

export const ORIGIN = { ct: 'ct.test', 'rekor-v1': 'rekor-v1.test - 7', 'rekor-v2': 'rekor-v2.test' } as const

export interface Installation {
  readonly folder: string
  readonly configPath: string
  readonly stateFolder: string
  readonly pinFile: string
  readonly tokens: SoftTokens
  readonly keys: Readonly<Record<string, GeneratedKey>>
  readonly rootDer: Uint8Array
  readonly issuingDer: Uint8Array
  readonly configuration: object
  /** Writes the configuration again with these top-level fields changed. */
  configure(changes: Readonly<Record<string, unknown>>): void
  start(options?: Partial<SpawnOptions>): Promise<Required<SpawnedAgent>>
  remove(): void
}

const KIND_OF: Readonly<Record<string, KeyKind>> = {
  'root-ca': 'P-384',
  'issuing-ca': 'P-256',
  ct: 'P-256',
  'rekor-v1': 'P-256',
  'rekor-v2': 'P-256',
  tsa: 'P-256',
  'tuf-online': 'P-256',
  'new-ca': 'P-256',
  operator: 'P-256',
}

/** A token of SoftHSM in `folder`, as an agent's configuration names it. */
async function softhsmIn(folder: string): Promise<{ tokens: SoftTokens; base: object }> {
  const tokens = await createSoftTokens({ folder: join(folder, 'hsm'), labels: ['online'] })
  const base = {
    modulePath: tokens.modulePath,
    // Relative to the configuration's folder, so that a copy of the installation has tokens of its own.
    tokens: {
      online: { uri: 'pkcs11:token=online', pinFile: '../hsm/online.pin', softhsmConf: '../hsm/softhsm2.conf' },
    },
  }
  return { tokens, base }
}

/** Keys, root and intermediate, all made by the agent itself: on a module that runs already, or on SoftHSM. */
export async function install(
  on?: Pick<RunningModule, 'module' | 'token'>,
  kinds: Readonly<Record<string, KeyKind>> = {},
): Promise<Installation> {
  const folder = mkdtempSync(join(tmpdir(), 'chancery-hsm-'))
  mkdirSync(join(folder, 'agent'))
  const configPath = join(folder, 'agent/agent.yaml')
  const { tokens, base: where } =
    on === undefined
      ? await softhsmIn(folder)
      : {
          tokens: { modulePath: on.module.modulePath, confPath: '', tokens: [] },
          base: { ...on.module, tokens: { online: on.token } },
        }
  const base = { state: 'state', ...where, adminWhenSpawned: true }
  writeFileSync(configPath, stringify(base))
  const first = await started({ configPath })
  const keys: Record<string, GeneratedKey> = {}
  for (const [label, kind] of Object.entries({ ...KIND_OF, ...kinds })) {
    keys[label] = await first.admin.generateKey({ token: 'online', label, kind })
  }
  const key = (name: string, purposes: readonly Purpose[], more: object = {}) => {
    const { uri, spkiDer, kind } = need(keys[name])
    return { uri, token: 'online', spki: Buffer.from(spkiDer).toString('base64'), kind, purposes, ...more }
  }
  const rootKey = { 'root-ca': key('root-ca', ['caCertificate']) }
  writeFileSync(configPath, stringify({ ...base, keys: rootKey }))
  await first.admin.reload()
  // Old enough for leaves that date back by hours, to be refused by the agent rather than by the linter.
  const ceremony = { agent: first.admin, key: 'root-ca', now: new Date(Date.now() - 20 * 3_600_000) }
  const name = (commonName: string) => ({ organization: 'Example', commonName })
  const rootDer = await issueRootCertificate({ ...ceremony, name: name('Root') })
  const subject = need(keys['issuing-ca'])
  const issuingDer = await issueIntermediateCertificate({
    ...ceremony,
    issuerDer: rootDer,
    subject,
    name: name('Issuing'),
  })
  writeFileSync(join(folder, 'issuing.pem'), encodePem('CERTIFICATE', issuingDer))
  await first.close()
  const whole = {
    ...base,
    keys: {
      ...rootKey,
      'issuing-ca': key('issuing-ca', ['certificate'], { issuerCertificate: '../issuing.pem', ctKey: 'ct' }),
      ct: key('ct', ['sct', 'treeHead'], { origin: ORIGIN.ct, style: 'ct' }),
      'rekor-v1': key('rekor-v1', ['set', 'treeHead'], { origin: ORIGIN['rekor-v1'], style: 'rekor-v1' }),
      'rekor-v2': key('rekor-v2', ['treeHead'], { origin: ORIGIN['rekor-v2'], style: 'tlog' }),
      tsa: key('tsa', ['timestamp']),
      'tuf-online': key('tuf-online', ['tuf'], { tufRoles: ['snapshot', 'timestamp'] }),
      'new-ca': key('new-ca', ['certificateRequest']),
      operator: key('operator', ['ceremonyStatement']),
    },
  }
  writeFileSync(configPath, stringify(whole))
  return installationIn(folder, { tokens, keys, rootDer, issuingDer, configuration: whole })
}

type Made = Pick<Installation, 'tokens' | 'keys' | 'rootDer' | 'issuingDer' | 'configuration'>

/** A copy with the same keys, in tokens and a state of its own; making them anew takes a second. */
export function copyOf(installation: Installation): Installation {
  const folder = mkdtempSync(join(tmpdir(), 'chancery-hsm-'))
  // A copy of the state with a place of its own: no two agents of these tests share an origin's life.
  cpSync(installation.folder, folder, { recursive: true, filter: (path) => !path.endsWith('place.json') })
  const conf = join(folder, 'hsm/softhsm2.conf')
  writeFileSync(conf, readFileSync(conf, 'utf8').replaceAll(installation.folder, folder))
  return installationIn(folder, installation)
}

function installationIn(folder: string, made: Made): Installation {
  const configPath = join(folder, 'agent/agent.yaml')
  return {
    ...made,
    folder,
    configPath,
    stateFolder: join(folder, 'agent/state'),
    pinFile: join(folder, 'hsm/online.pin'),
    configure: (changes) => writeFileSync(configPath, stringify({ ...made.configuration, ...changes })),
    start: (options) => started({ configPath, ...options }),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  }
}

async function started(options: SpawnOptions): Promise<Required<SpawnedAgent>> {
  const { admin, ...rest } = await spawnAgent({ ...options, admin: true })
  return { ...rest, admin: need(admin) }
}

/** Builds a module that passes everything on to SoftHSM but for the faults that it is told. */
export function buildFaultShim(installation: Installation): FaultShim {
  return buildFaultShimIn(installation.folder, installation.tokens.modulePath)
}

/** A leaf certificate, prepared as the CA does. */
export function prepared(
  installation: Installation,
  changes: { notBefore?: Date; minutes?: number } = {},
): PreparedCertificate {
  const notBefore = changes.notBefore ?? new Date(Math.floor(Date.now() / 1000) * 1000)
  const serial = randomBytes(20)
  serial[0] = 0x40
  return prepareCertificate({
    issuer: makeIssuer(installation.issuingDer),
    serial,
    notBefore,
    notAfter: new Date(notBefore.getTime() + (changes.minutes ?? 10) * 60_000),
    publicKey: parseSpki(freshSpki()),
    subjectAltName: { type: 'email', value: 'dev@example.com' },
    fulcioExtensions: encodeFulcioExtensions({ issuer: 'https://issuer.example' }),
  })
}

/** A final certificate's TBS with an SCT of the agent's own CT key over it. */
export async function certificateTbs(installation: Installation, agent: AdminAgent): Promise<Uint8Array> {
  const leaf = prepared(installation)
  const timestampMs = Date.now()
  const signatureDer = await agent.sct({ key: 'ct', timestampMs, entry: leaf.sctInput() })
  const { keyId } = await agent.key('ct')
  return leaf.certificateTbs([serializeSct({ logId: keyId, timestampMs, extensions: new Uint8Array(0), signatureDer })])
}

export function freshSpki(): Uint8Array {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return new Uint8Array(publicKey.export({ type: 'spki', format: 'der' }))
}

/** A tree whose leaves hold their own index. */
export function treeOf(size: number): MerkleTree {
  const tree = new MerkleTree()
  for (let i = 0; i < size; i++) tree.append(sha256(Buffer.from(`leaf ${i}`)))
  return tree
}

export function setRequest(changes: { integratedTimeSeconds?: number; body?: Uint8Array } = {}) {
  const body = Buffer.from('{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{}}')
  return { key: 'rekor-v1', body, integratedTimeSeconds: Math.floor(Date.now() / 1000), logIndex: 5, ...changes }
}

/** TSTInfo and the attributes around its digest. */
export function timestampRequest(changes: { genTime?: Date; digestOf?: Uint8Array } = {}) {
  const tstInfoDer = sequence(
    integer(1),
    objectIdentifier('1.3.6.1.4.1.57264.2'),
    sequence(sequence(objectIdentifier('2.16.840.1.101.3.4.2.1')), octetString(randomBytes(32))),
    integer(randomBytes(8)),
    generalizedTime(changes.genTime ?? new Date()),
  )
  const attribute = (oid: string, value: Uint8Array) => sequence(objectIdentifier(oid), setOf(value))
  const certificateHash = sequence(sequence(sequence(octetString(randomBytes(32)))))
  const signedAttributesDer = setOf(
    attribute('1.2.840.113549.1.9.3', objectIdentifier('1.2.840.113549.1.9.16.1.4')),
    attribute('1.2.840.113549.1.9.4', octetString(sha256(changes.digestOf ?? tstInfoDer))),
    attribute('1.2.840.113549.1.9.16.2.47', certificateHash),
  )
  return { key: 'tsa', tstInfoDer, signedAttributesDer }
}

export function tufPayload(changes: Readonly<Record<string, string | number>> = {}): Uint8Array {
  const signed: Record<string, string | number> = {
    _type: 'timestamp',
    expires: new Date(Date.now() + 7 * 86_400_000).toISOString().replace(/\.\d+Z$/, 'Z'),
    spec_version: '1.0.31',
    version: 1,
    ...changes,
  }
  const members = Object.keys(signed)
    .toSorted()
    .map((name) => `${JSON.stringify(name)}:${JSON.stringify(signed[name])}`)
  return Buffer.from(`{${members.join(',')}}`)
}

export function sha256(bytes: Uint8Array): Uint8Array {
  return createHash('sha256').update(bytes).digest()
}

export function need<T>(value: T | undefined): T {
  if (value === undefined) throw new TypeError('a value is missing')
  return value
}
