/**
 * The RFC 3161 timestamp authority: a request becomes TSTInfo and signed attributes, the HSM's agent signs them, and
 * the token goes out. There are no rejections in RFC 3161 form: a refusal is a `TimestampError`, never a response.
 */
import { randomBytes, verify, type KeyObject } from 'node:crypto'
import type { Logger } from 'pino'
import { HsmError, type SigningAgent } from '#hsm'
import { equalBytes, objectIdentifier, toKeyObject, type ParsedCertificate } from '#x509'
import { checkChain } from './chain.ts'
import { TimestampClock, type TimeSource } from './clock.ts'
import { TimestampError } from './error.ts'
import { inspectTimestampResponse } from './inspect.ts'
import { validDaysRemaining } from './metrics.ts'
import type { TimestampRequest } from './request.ts'
import { encodeResponse, encodeSignedAttributes, encodeTstInfo, tokenParts, type TokenParts } from './token.ts'

export interface TimestampAuthorityOptions {
  readonly agent: Pick<SigningAgent, 'key' | 'timestamp'>
  /** The key's name at the agent. */
  readonly key: string
  /** Certificates in DER, the key's own first, self-signed root last; two at least. */
  readonly chain: readonly Uint8Array[]
  /** The one accepted policy; sigstore's 1.3.6.1.4.1.57264.2 unless told. */
  readonly policyOid?: string
  /** Milliseconds since 1970. */
  readonly now: () => number
  /** Why the clock is not to be trusted just now; then nothing is signed. */
  readonly clockFault?: () => string | undefined
  /** Required in production. */
  readonly timeSource?: TimeSource
  /** In production nothing is signed while the clock is not known to be right within the stated accuracy. */
  readonly production: boolean
  /** Signatures under way at most; beyond that `busy`. 64 unless told: some 10 ms of work for an HSM. */
  readonly maxConcurrent?: number
  readonly randomBytes?: (length: number) => Uint8Array
  readonly logger?: Pick<Logger, 'info' | 'warn' | 'error'>
}

/** What a running authority may go over to. */
export type TimestampChange = Pick<TimestampAuthorityOptions, 'key' | 'chain'>

export interface TimestampChangeover {
  /** As `TimestampAuthority.timestamp`, by what is not in force yet. */
  timestamp(request: TimestampRequest): Promise<Uint8Array>
  /**
   * Puts it in force before it returns: requests that begin later are answered by it. Resolves when the last one that
   * began before is answered.
   */
  take(): Promise<void>
}

export interface TimestampAuthority {
  /** Certificates in DER, leaf first. */
  readonly chain: readonly Uint8Array[]
  /** A granted TimeStampResp in DER; rejects with `TimestampError`. */
  timestamp(request: TimestampRequest): Promise<Uint8Array>
  /** Another key and chain, checked as at the start and not in force yet. Rejects like `createTimestampAuthority`. */
  prepare(change: TimestampChange): Promise<TimestampChangeover>
}

const DEFAULT_POLICY = '1.3.6.1.4.1.57264.2'
const DEFAULT_MAX_CONCURRENT = 64
/** 159 random bits: as many as fit 20 octets of a positive INTEGER. */
const SERIAL_BYTES = 20
const DAY_MS = 86_400_000

/**
 * Checks key, chain and options; rejects with `TimestampError` `configuration`, or with `HsmError` if the agent does not
 * know the key or cannot be reached.
 */
export async function createTimestampAuthority(options: TimestampAuthorityOptions): Promise<TimestampAuthority> {
  if (options.production && options.timeSource === undefined) {
    throw new TimestampError('configuration', 'production needs a time source to check the clock against')
  }
  let current = await openAuthority(options)
  return {
    get chain() {
      return current.chain
    },
    timestamp: async (request) => await current.timestamp(request),
    async prepare(change) {
      const next = await openAuthority({ ...options, ...change })
      return {
        timestamp: async (request) => await next.timestamp(request),
        async take() {
          const former = current
          current = next
          if (former !== next) await former.idle()
        },
      }
    },
  }
}

async function openAuthority(options: TimestampAuthorityOptions): Promise<Authority> {
  const key = await options.agent.key(options.key)
  if (!key.purposes.includes('timestamp'))
    throw new TimestampError('configuration', `key ${options.key} is not for timestamps`)
  return new Authority(options, checkChain(options.chain, key.spkiDer, new Date(options.now())))
}

/** With one key and one chain. */
class Authority {
  readonly chain: readonly Uint8Array[]
  readonly #options: TimestampAuthorityOptions
  readonly #leaf: ParsedCertificate
  readonly #parts: TokenParts
  readonly #policyOid: string
  readonly #policyDer: Uint8Array
  readonly #clock: TimestampClock
  readonly #signerKey: KeyObject
  /** The end of the first certificate of the chain to expire. */
  readonly #validUntilMs: number
  #underWay = 0
  #idle: () => void = () => undefined
  #readByOther = false

  constructor(options: TimestampAuthorityOptions, chain: readonly ParsedCertificate[]) {
    const [leaf] = chain
    if (leaf === undefined) throw new TimestampError('configuration', 'timestamp chain is empty')
    this.chain = options.chain
    this.#options = options
    this.#leaf = leaf
    this.#parts = tokenParts(leaf)
    this.#policyOid = options.policyOid ?? DEFAULT_POLICY
    this.#policyDer = objectIdentifier(this.#policyOid)
    this.#signerKey = toKeyObject(leaf.publicKey)
    this.#clock = new TimestampClock({
      now: options.now,
      fault: options.clockFault,
      timeSource: options.timeSource,
      strict: options.production,
      logger: options.logger,
    })
    this.#validUntilMs = Math.min(...chain.map(({ notAfter }) => notAfter.getTime()))
    validDaysRemaining.set((this.#validUntilMs - options.now()) / DAY_MS)
  }

  async timestamp(request: TimestampRequest): Promise<Uint8Array> {
    if (request.policyOid !== undefined && request.policyOid !== this.#policyOid) {
      throw new TimestampError('unaccepted_policy', 'requested policy is not accepted')
    }
    if (this.#underWay >= (this.#options.maxConcurrent ?? DEFAULT_MAX_CONCURRENT)) {
      throw new TimestampError('busy', 'too many timestamps are under way')
    }
    this.#underWay++
    try {
      const genTime = await this.#clock.read()
      this.#checkValidity(genTime)
      const tstInfoDer = encodeTstInfo(this.#parts, request, {
        policyDer: this.#policyDer,
        serial: this.#serial(),
        genTime,
      })
      const signedAttributesDer = encodeSignedAttributes(this.#parts, tstInfoDer, genTime)
      const signatureDer = await this.#sign(tstInfoDer, signedAttributesDer)
      const response = encodeResponse(this.#parts, {
        tstInfoDer,
        signedAttributesDer,
        signatureDer,
        withCertificate: request.certReq,
      })
      if (!this.#readByOther) this.#checkByOther(response, request, genTime)
      return response
    } finally {
      this.#underWay--
      if (this.#underWay === 0) this.#idle()
    }
  }

  /** Resolves when nothing is under way; nothing may be asked for any more. */
  async idle(): Promise<void> {
    if (this.#underWay === 0) return
    await new Promise<void>((resolve) => {
      this.#idle = resolve
    })
  }

  /** A token from outside of the leaf's validity verifies nowhere; the whole chain's counts. */
  #checkValidity(genTime: Date): void {
    validDaysRemaining.set((this.#validUntilMs - genTime.getTime()) / DAY_MS)
    if (genTime.getTime() >= this.#validUntilMs || genTime < this.#leaf.notBefore) {
      throw new TimestampError('unavailable', 'certificate of the authority is not valid now')
    }
  }

  #serial(): Uint8Array {
    const serial = Uint8Array.from((this.#options.randomBytes ?? randomBytes)(SERIAL_BYTES))
    serial[0] = (serial[0] ?? 0) & 0x7f
    return serial
  }

  async #sign(tstInfoDer: Uint8Array, signedAttributesDer: Uint8Array): Promise<Uint8Array> {
    try {
      return await this.#options.agent.timestamp({ key: this.#options.key, tstInfoDer, signedAttributesDer })
    } catch (error) {
      if (!(error instanceof HsmError)) throw error
      this.#options.logger?.error(
        { err: error, code: error.code, reason: error.reason },
        'agent did not sign a timestamp',
      )
      throw new TimestampError(error.code === 'busy' ? 'busy' : 'unavailable', 'timestamp cannot be signed just now', {
        cause: error,
      })
    }
  }

  /**
   * Until one response has passed, every response is read by another parser and its signature verified before it goes
   * out: a wrong key, chain or encoding is found by the first request after a start, not by clients months later.
   */
  #checkByOther(response: Uint8Array, request: TimestampRequest, genTime: Date): void {
    const found = inspectTimestampResponse(response)
    const holds =
      found.status === 0 &&
      found.policyOid === this.#policyOid &&
      equalBytes(found.digest, request.digest) &&
      found.genTime.getTime() === genTime.getTime() &&
      (found.nonce === undefined) === (request.nonce === undefined) &&
      found.certificates.length === (request.certReq ? 1 : 0) &&
      verify('sha256', found.signedAttributesDer, this.#signerKey, found.signatureDer)
    if (!holds) throw new TimestampError('internal', 'first timestamp does not read back as it was meant')
    this.#readByOther = true
  }
}
