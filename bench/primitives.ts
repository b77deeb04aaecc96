/**
 * What no design can leave out of a request, each timed alone on this machine: the cryptography in this process, the
 * disk, and the agent's signatures through a real agent on the installation's own token.
 */
import { createPublicKey, generateKeyPairSync, hash, randomBytes, sign, verify } from 'node:crypto'
import { closeSync, fdatasyncSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { spawnAgent, type SigningAgent, type TimestampRequest } from '#hsm'
import { verifyEcdsaDigest } from '#native'
import { createTokenVerifier } from '#oidc'
import { createTimestampAuthority } from '#timestamp'
import {
  encodeFulcioExtensions,
  makeIssuer,
  parseCertificate,
  parseEcdsaSignature,
  parseSpki,
  prepareCertificate,
  serializeSct,
} from '#x509'
import { cpuSeconds } from './processes.ts'
import type { Material } from './requests.ts'
import { type Spread, spread } from './statistics.ts'

/** Microseconds for one of it: elapsed, and CPU of all processes that take part. */
export interface Timing {
  readonly elapsed: Spread
  readonly cpu: Spread
}

/** Signatures that requests under way ask for together. */
export const AGENT_SIGNATURES = ['precertificate', 'sct', 'certificate', 'set', 'timestamp'] as const
export type AgentSignature = (typeof AGENT_SIGNATURES)[number]

/** By name; microseconds each. */
export interface Primitives {
  /** createPublicKey of a P-256 SPKI. */
  readonly keyImport: Timing
  /** ECDSA P-256 with SHA-256 over an identity, key imported. */
  readonly possession: Timing
  /** RS256 ID token, its issuer's keys at hand. */
  readonly token: Timing
  /** ECDSA P-256 over a digest. */
  readonly digestVerify: Timing
  /** A signing certificate read, as verifier of an entry. */
  readonly certificateRead: Timing
  /** 8 KiB at the end of a file, and fdatasync. */
  readonly fsync: Timing
  /** Through the agent: a head of a note-signing log and of the CT log, one at a time, as a log asks. */
  readonly treeHead: Timing
  readonly ctTreeHead: Timing
  /** Through the agent (checked, accounted for durably, signed, verified): `<AgentSignature>@<under way at once>`. */
  readonly [signature: `${AgentSignature}@${number}`]: Timing
}

/** What an issuer publishes, fetched while it ran. */
export interface IssuerDocuments {
  readonly issuerUrl: string
  readonly discovery: unknown
  readonly keySet: unknown
}

export interface PrimitiveOptions {
  /** An installation that is not being served: its agent is started here. */
  readonly dataDir: string
  readonly material: Material
  readonly issuer: IssuerDocuments
  readonly concurrency: readonly number[]
  /** Of one slice; the median of `ROUNDS` is told. */
  readonly sliceMs: number
}

const ROUNDS = 7
/** Different inputs, so that no cache of one value is measured. */
const VARIETY = 64

export async function timePrimitives(options: PrimitiveOptions): Promise<Primitives> {
  const { dataDir, sliceMs } = options
  const pairs = Array.from({ length: VARIETY }, () => generateKeyPairSync('ec', { namedCurve: 'P-256' }))
  const message = Buffer.from(options.material.email)
  const proofs = pairs.map(({ privateKey, publicKey }) => {
    const spkiDer = publicKey.export({ type: 'spki', format: 'der' })
    const parsed = parseSpki(spkiDer)
    const signature = sign('sha256', message, privateKey)
    const point = parsed.kind === 'ecdsa' ? parsed.point : new Uint8Array()
    return { spkiDer, publicKey, point, signature, ...parseEcdsaSignature(signature, 'P-256') }
  })
  const digest = hash('sha256', message, 'buffer')
  const [signer] = options.material.signers
  if (signer === undefined) throw new Error('no certificate was issued')

  const verifier = tokenVerifier(options.issuer)
  const disk = appendingFile(dataDir)
  const spawned = await spawnAgent({ configPath: join(dataDir, 'agent/online.yaml') })
  try {
    const agent = await agentTrials(spawned.agent, options)
    const cpuUs = () => ownCpuUs() + (spawned.child.pid === undefined ? 0 : cpuSeconds(spawned.child.pid) * 1e6)
    return await timeInTurns(sliceMs, cpuUs, {
      keyImport: sync(proofs, ({ spkiDer }) => createPublicKey({ key: spkiDer, format: 'der', type: 'spki' })),
      possession: sync(proofs, ({ publicKey, signature }) =>
        requireTrue(verify('sha256', message, publicKey, signature)),
      ),
      token: { lanes: 1, call: async () => await verifier.verify(options.material.token) },
      digestVerify: sync(proofs, ({ point, r, s }) =>
        requireTrue(verifyEcdsaDigest({ curve: 'P-256', point, r, s, digest })),
      ),
      certificateRead: sync([signer], ({ certificate }) => parseCertificate(certificate)),
      fsync: sync([undefined], () => disk.append()),
      ...agent,
    })
  } finally {
    await spawned.close()
    disk.close()
  }
}

function tokenVerifier({ issuerUrl, discovery, keySet }: IssuerDocuments) {
  return createTokenVerifier({
    issuers: [{ issuerUrl, audience: 'sigstore', allowHttp: true }],
    clock: Date.now,
    fetch: async (url) => (url.pathname.includes('/.well-known/') ? discovery : keySet),
  })
}

function appendingFile(folder: string): { append(): void; close(): void } {
  const path = join(folder, 'bench-fsync')
  const file = openSync(path, 'w')
  const pages = randomBytes(8192)
  return {
    append: () => {
      writeSync(file, pages)
      fdatasyncSync(file)
    },
    close: () => {
      closeSync(file)
      rmSync(path)
    },
  }
}

/** Each kind of signature as `kind@lanes`. */
async function agentTrials(agent: SigningAgent, options: PrimitiveOptions) {
  const { dataDir, material, concurrency } = options
  const key = 'issuing-ca'
  const { precertificateTbs, certificateTbs, sctEntry } = await certificates(agent, material)
  const timestamp = await timestampRequest(agent, dataDir, material)
  const set = {
    key: 'rekor-v1',
    body: Buffer.from(JSON.stringify({ apiVersion: '0.0.1', kind: 'hashedrekord', spec: { pad: 'x'.repeat(1900) } })),
    integratedTimeSeconds: Math.floor(Date.now() / 1000),
    logIndex: 1,
  }
  const [noteHead, ctHead] = await guardedHeads(agent, material)
  const calls: Readonly<Record<AgentSignature, () => Promise<unknown>>> = {
    precertificate: () => agent.certificate({ key, tbsDer: precertificateTbs }),
    sct: () => agent.sct({ key: 'ct', timestampMs: Date.now(), entry: sctEntry }),
    certificate: () => agent.certificate({ key, tbsDer: certificateTbs }),
    set: () => agent.set(set),
    timestamp: async () => await agent.timestamp(await timestamp()),
  }
  const head = (of: GuardedOrigin, key: string) => async () =>
    await agent.treeHead({ key, ...of, timestampMs: Date.now(), consistencyProof: [] })
  const shared: Record<`${AgentSignature}@${number}`, Trial> = {}
  for (const kind of AGENT_SIGNATURES) {
    for (const lanes of concurrency) shared[`${kind}@${lanes}`] = { lanes, call: calls[kind] }
  }
  return {
    ...shared,
    treeHead: { lanes: 1, call: head(noteHead, 'rekor-v1') },
    ctTreeHead: { lanes: 1, call: head(ctHead, 'ct') },
  }
}

/** One certificate on its way, as the agent is asked for it; it signs the same again as often as it is asked. */
async function certificates(agent: SigningAgent, { caChain, email, endpoints, logKeys }: Material) {
  const [issuingDer] = caChain
  if (issuingDer === undefined) throw new Error('the authority has no chain')
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const notBefore = new Date(Math.floor(Date.now() / 1000) * 1000)
  const serial = randomBytes(20)
  serial[0] = (serial[0] ?? 0) & 0x7f
  const prepared = prepareCertificate({
    issuer: makeIssuer(issuingDer),
    serial,
    notBefore,
    notAfter: new Date(notBefore.getTime() + 600_000),
    publicKey: parseSpki(publicKey.export({ type: 'spki', format: 'der' })),
    subjectAltName: { type: 'email', value: email },
    fulcioExtensions: encodeFulcioExtensions({ issuer: endpoints.oidc }),
  })
  const precertificateTbs = prepared.precertificateTbs()
  const sctEntry = prepared.sctInput()
  const timestampMs = Date.now()
  const signatureDer = await agent.sct({ key: 'ct', timestampMs, entry: sctEntry })
  const logId = hash('sha256', logKeys.ct, 'buffer')
  const sct = serializeSct({ logId, timestampMs, extensions: new Uint8Array(), signatureDer })
  return { precertificateTbs, certificateTbs: prepared.certificateTbs([sct]), sctEntry }
}

/** Gives what the timestamp authority asks of the agent; a new one each few seconds, since the agent knows the time. */
async function timestampRequest(agent: SigningAgent, dataDir: string, material: Material) {
  let asked: TimestampRequest | undefined
  let askedAtMs = 0
  const authority = await createTimestampAuthority({
    agent: {
      key: async (name) => await agent.key(name),
      timestamp: async (request) => {
        asked = request
        return await agent.timestamp(request)
      },
    },
    key: 'tsa',
    chain: [material.timestampCertificate, ...material.caChain.slice(-1)],
    now: Date.now,
    production: false,
  })
  return async (): Promise<TimestampRequest> => {
    if (asked === undefined || Date.now() - askedAtMs > 5000) {
      askedAtMs = Date.now()
      await authority.timestamp({ hash: 'sha256', digest: randomBytes(32), certReq: true })
    }
    if (asked === undefined) throw new Error(`no timestamp was asked for in ${dataDir}`)
    return asked
  }
}

interface GuardedOrigin {
  readonly origin: string
  readonly size: number
  readonly rootHash: Uint8Array
}

/** The heads that the agent guards: it signs the same one again. */
async function guardedHeads(
  agent: SigningAgent,
  { origins }: Material,
): Promise<readonly [GuardedOrigin, GuardedOrigin]> {
  const { guards } = await agent.status()
  const guarded = (origin: string) => {
    const guard = guards.find((known) => known.origin === origin)
    if (guard === undefined) throw new Error(`the agent guards no ${origin}`)
    return { origin, size: guard.size, rootHash: Uint8Array.from(Buffer.from(guard.rootHashHex, 'hex')) }
  }
  return [guarded(origins.rekorV1), guarded(origins.ct)]
}

/** Something to be timed, so many at once. */
interface Trial {
  readonly lanes: number
  readonly call: () => unknown
}

/** A call over inputs that take turns. */
function sync<T>(inputs: readonly T[], call: (input: T) => unknown): Trial {
  let next = 0
  return { lanes: 1, call: () => call(inputs[next++ % inputs.length] as T) } // within bounds, and there is one at least
}

/**
 * Slices of each in turn, so that whatever else the machine does disturbs all alike. The first round warms up. `cpuUs`
 * tells the CPU time so far.
 */
async function timeInTurns<K extends string>(
  sliceMs: number,
  cpuUs: () => number,
  trials: Readonly<Record<K, Trial>>,
): Promise<Record<K, Timing>> {
  const names = Object.keys(trials) as K[] // the keys of the very record
  const slices = new Map<K, Slice[]>(names.map((name) => [name, []]))
  for (let round = 0; round <= ROUNDS; round++) {
    for (const name of names) {
      const slice = await timeSlice(sliceMs, cpuUs, trials[name])
      if (round > 0) slices.get(name)?.push(slice)
    }
  }
  const timings = names.map((name) => {
    const all = slices.get(name) ?? []
    const timing = { elapsed: spread(all.map(({ elapsed }) => elapsed)), cpu: spread(all.map(({ cpu }) => cpu)) }
    return [name, timing] as const
  })
  return Object.fromEntries(timings) as Record<K, Timing>
}

interface Slice {
  readonly elapsed: number
  readonly cpu: number
}

async function timeSlice(sliceMs: number, cpuUs: () => number, { lanes, call }: Trial): Promise<Slice> {
  const cpuBefore = cpuUs()
  const start = performance.now()
  let count = 0
  const lane = async (): Promise<void> => {
    while (performance.now() - start < sliceMs) {
      const result = call()
      // A turn of the event loop for each call would be timed with the quick ones.
      if (result instanceof Promise) await result
      count++
    }
  }
  await Promise.all(Array.from({ length: lanes }, lane))
  return { elapsed: ((performance.now() - start) * 1000) / count, cpu: (cpuUs() - cpuBefore) / count }
}

function ownCpuUs(): number {
  const { user, system } = process.cpuUsage()
  return user + system
}

function requireTrue(holds: boolean): void {
  if (!holds) throw new Error('a valid signature did not verify')
}
