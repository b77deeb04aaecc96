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
import type { Material } from './requests.ts'
import { type Spread, spread } from './statistics.ts'

/** Microseconds for one of it. */
export type Timing = Spread

/** Of one kind of signature: by how many are asked for at a time. */
export type ByConcurrency = Readonly<Record<number, Timing>>

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
  /** Through the agent: checked, accounted for durably, signed, verified. */
  readonly agent: {
    readonly precertificate: ByConcurrency
    readonly sct: ByConcurrency
    readonly certificate: ByConcurrency
    readonly set: ByConcurrency
    readonly timestamp: ByConcurrency
    /** A head of a note-signing log and of the CT log; one at a time, as a log asks. */
    readonly treeHead: Timing
    readonly ctTreeHead: Timing
  }
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
  /** Of one slice; the median of `SLICES` is told. */
  readonly sliceMs: number
}

const SLICES = 5
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
  return {
    keyImport: timeSync(sliceMs, proofs, ({ spkiDer }) =>
      createPublicKey({ key: spkiDer, format: 'der', type: 'spki' }),
    ),
    possession: timeSync(sliceMs, proofs, ({ publicKey, signature }) =>
      requireTrue(verify('sha256', message, publicKey, signature)),
    ),
    token: await timeAsync(sliceMs, 1, async () => await verifier.verify(options.material.token)),
    digestVerify: timeSync(sliceMs, proofs, ({ point, r, s }) =>
      requireTrue(verifyEcdsaDigest({ curve: 'P-256', point, r, s, digest })),
    ),
    certificateRead: timeSync(sliceMs, [signer], ({ certificate }) => parseCertificate(certificate)),
    fsync: timeFsync(dataDir, sliceMs),
    agent: await timeAgent(options),
  }
}

function tokenVerifier({ issuerUrl, discovery, keySet }: IssuerDocuments) {
  return createTokenVerifier({
    issuers: [{ issuerUrl, audience: 'sigstore', allowHttp: true }],
    clock: Date.now,
    fetch: async (url) => (url.pathname.includes('/.well-known/') ? discovery : keySet),
  })
}

function timeFsync(folder: string, sliceMs: number): Timing {
  const path = join(folder, 'bench-fsync')
  const file = openSync(path, 'w')
  const page = randomBytes(8192)
  try {
    return timeSync(sliceMs, [page], (bytes) => {
      writeSync(file, bytes)
      fdatasyncSync(file)
    })
  } finally {
    closeSync(file)
    rmSync(path)
  }
}

async function timeAgent(options: PrimitiveOptions): Promise<Primitives['agent']> {
  const { dataDir, material, concurrency, sliceMs } = options
  const spawned = await spawnAgent({ configPath: join(dataDir, 'agent/online.yaml') })
  const { agent } = spawned
  try {
    const over = async (ask: (place: number) => Promise<unknown>): Promise<ByConcurrency> => {
      const timings: [number, Timing][] = []
      for (const lanes of concurrency) timings.push([lanes, await timeAsync(sliceMs, lanes, ask)])
      return Object.fromEntries(timings)
    }
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
    return {
      precertificate: await over(() => agent.certificate({ key, tbsDer: precertificateTbs })),
      sct: await over(() => agent.sct({ key: 'ct', timestampMs: Date.now(), entry: sctEntry })),
      certificate: await over(() => agent.certificate({ key, tbsDer: certificateTbs })),
      set: await over(() => agent.set(set)),
      timestamp: await over(async () => await agent.timestamp(await timestamp())),
      treeHead: await timeAsync(sliceMs, 1, () =>
        agent.treeHead({ key: 'rekor-v1', ...noteHead, timestampMs: Date.now(), consistencyProof: [] }),
      ),
      ctTreeHead: await timeAsync(sliceMs, 1, () =>
        agent.treeHead({ key: 'ct', ...ctHead, timestampMs: Date.now(), consistencyProof: [] }),
      ),
    }
  } finally {
    await spawned.close()
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

/** The heads that the agent guards: it signs the same one again. */
async function guardedHeads(agent: SigningAgent, { origins }: Material) {
  const { guards } = await agent.status()
  const guarded = (origin: string) => {
    const guard = guards.find((known) => known.origin === origin)
    if (guard === undefined) throw new Error(`the agent guards no ${origin}`)
    return { origin, size: guard.size, rootHash: Uint8Array.from(Buffer.from(guard.rootHashHex, 'hex')) }
  }
  return [guarded(origins.rekorV1), guarded(origins.ct)] as const
}

/** Runs `call` over the inputs, again and again. */
function timeSync<T>(sliceMs: number, inputs: readonly T[], call: (input: T) => unknown): Timing {
  const slice = (): number => {
    const start = performance.now()
    let count = 0
    let now = start
    for (; now - start < sliceMs; now = performance.now()) {
      for (const input of inputs) call(input)
      count += inputs.length
    }
    return ((now - start) * 1000) / count
  }
  slice()
  return spread(Array.from({ length: SLICES }, slice))
}

/** So many under way at once; the time of one is the elapsed time divided by how many were done. */
async function timeAsync(sliceMs: number, lanes: number, call: (place: number) => Promise<unknown>): Promise<Timing> {
  const slice = async (): Promise<number> => {
    const start = performance.now()
    let count = 0
    const lane = async (place: number): Promise<void> => {
      while (performance.now() - start < sliceMs) {
        await call(place)
        count++
      }
    }
    await Promise.all(Array.from({ length: lanes }, (_, place) => lane(place)))
    return ((performance.now() - start) * 1000) / count
  }
  await slice()
  const slices: number[] = []
  for (let i = 0; i < SLICES; i++) slices.push(await slice())
  return spread(slices)
}

function requireTrue(holds: boolean): void {
  if (!holds) throw new Error('a valid signature did not verify')
}
