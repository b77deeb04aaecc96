/**
 * Where requests become signatures. All that arrived in one turn of the event loop is checked together; guards, clocks
 * and the account of it are made durable with one fsync; then it is signed, verified and released. Nothing is signed
 * before it is accounted for, so the account may hold a signature too many (`withheld` corrects it), never one too few.
 */
import { hash } from 'node:crypto'
import { TlogError } from '#tlog'
import { X509Error } from '#x509'
import type { KeyConfig } from './agent-config.ts'
import { type AgentState, AgentStateError } from './agent-state.ts'
import { Capacity, RankedQueue } from './capacity.ts'
import type { AgentLog } from './log-line.ts'
import type { HsmModule } from './module.ts'
import { checkAccountHead } from './purposes/account-head.ts'
import { checkCaCertificate } from './purposes/ca-certificate.ts'
import { checkCertificate } from './purposes/certificate.ts'
import { checkCertificateRequest } from './purposes/certificate-request.ts'
import { checkCeremonyStatement } from './purposes/ceremony-statement.ts'
import { sha256, type Check, type CheckContext, type Fields, type Statement } from './purposes/purpose.ts'
import { checkSct } from './purposes/sct.ts'
import { checkSet } from './purposes/set.ts'
import { checkTimestamp } from './purposes/timestamp.ts'
import { checkTreeHead } from './purposes/tree-head.ts'
import { checkTuf } from './purposes/tuf.ts'
import { HsmError, type KeyPurpose, type SignedPurpose } from './signing.ts'
import type { WireValue } from './wire.ts'
import { WriterLeases } from './writer-leases.ts'

const CHECKS: Readonly<Record<SignedPurpose, Check>> = {
  certificate: checkCertificate,
  treeHead: checkTreeHead,
  sct: checkSct,
  set: checkSet,
  timestamp: checkTimestamp,
  tuf: checkTuf,
  caCertificate: checkCaCertificate,
  certificateRequest: checkCertificateRequest,
  ceremonyStatement: checkCeremonyStatement,
  accountHead: checkAccountHead,
}

/** Accounted for by count and digest: they come by the hundred, and each is public in its log anyway. */
const BATCHED: ReadonlySet<SignedPurpose> = new Set(['sct', 'set', 'treeHead', 'timestamp'])

/** What waits for a tree head does not wait longer than this for the line of a witness key that is in trouble. */
const SECOND_LINE_MS = 500

/** Bounds how long the event loop is held, and what is urgent waits: about 30 ms of signing and verifying. */
const BATCH = 256

/** The keys of one reading of the configuration, for all that arrived under it. */
interface Term {
  readonly keys: ReadonlyMap<string, KeyConfig>
  readonly keyIds: Map<string, Uint8Array>
  underWay: number
  /** Called each time when nothing of it is under way. */
  ended: () => void
}

function termOf(keys: ReadonlyMap<string, KeyConfig>): Term {
  return { keys, keyIds: new Map(), underWay: 0, ended: () => undefined }
}

interface Waiting {
  readonly purpose: SignedPurpose
  readonly request: Fields
  readonly term: Term
  readonly deadlineAtMs: number
  readonly resolve: (reply: WireValue) => void
  readonly reject: (error: unknown) => void
}

interface Approved {
  readonly waiting: Waiting
  readonly key: KeyConfig
  readonly statement: Statement
}

export interface DeskOptions {
  readonly state: AgentState
  readonly module: HsmModule
  readonly keys: ReadonlyMap<string, KeyConfig>
  readonly log: AgentLog
  /** Waiting and under way together, shared out by purpose (`capacity.ts`); more is `busy`. */
  readonly inFlight: number
  readonly now: () => number
  /** Why no time may be signed just now. */
  readonly clockFault: () => string | undefined
}

export class SigningDesk {
  readonly #options: DeskOptions
  readonly #leases = new WriterLeases()
  #term: Term
  readonly #queue = new RankedQueue<Waiting>()
  readonly #capacity: Capacity
  #scheduled = false
  /** Accounted for and not released; told with the next batch. */
  #withheld = new Map<string, number>()

  constructor(options: DeskOptions) {
    this.#options = options
    this.#capacity = new Capacity(options.inFlight)
    this.#term = termOf(options.keys)
  }

  /** Those configured just now. */
  get keys(): ReadonlyMap<string, KeyConfig> {
    return this.#term.keys
  }

  /** For status. */
  queue(): { readonly underWay: number; readonly most: number } {
    return this.#capacity.state()
  }

  /**
   * Judges what arrives from now on by these keys. Resolves when everything that came before is answered, by the keys of
   * then.
   */
  async configure(keys: ReadonlyMap<string, KeyConfig>): Promise<void> {
    const former = this.#term
    this.#term = termOf(keys)
    if (former.underWay === 0) return
    await new Promise<void>((resolve) => {
      former.ended = resolve
    })
  }

  /** Resolves with the reply once its signature was verified; rejects with `HsmError`. */
  async submit(purpose: SignedPurpose, request: Fields, deadlineAtMs: number): Promise<WireValue> {
    if (!this.#capacity.take(purpose)) {
      throw new HsmError('busy', 'too_many_requests', `too many requests are under way for ${purpose}`)
    }
    const term = this.#term
    term.underWay++
    try {
      return await new Promise<WireValue>((resolve, reject) => {
        this.#queue.push(purpose, { purpose, request, term, deadlineAtMs, resolve, reject })
        this.#schedule()
      })
    } finally {
      this.#capacity.giveBack(purpose)
      term.underWay--
      if (term.underWay === 0) term.ended()
    }
  }

  /** What a check may look at for this key; throws `unknown_key`. */
  context(keyName: string, { keys, keyIds } = this.#term): CheckContext {
    const key = keys.get(keyName)
    if (key === undefined) throw new HsmError('unknown_key', 'unknown_key', `agent has no key ${keyName}`)
    let keyId = keyIds.get(keyName)
    if (keyId === undefined) {
      keyId = sha256(key.spkiDer)
      keyIds.set(keyName, keyId)
    }
    return { key, keyId, state: this.#options.state, leases: this.#leases, nowMs: this.#options.now() }
  }

  /** Writes what is still to be told to the account; after it nothing may be submitted. */
  close(): void {
    if (this.#withheld.size > 0) this.#options.state.transaction(() => this.#accountWithheld())
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#serve(this.#queue.take(BATCH))
      if (this.#queue.length > 0) this.#schedule()
    })
  }

  /** Check, make durable, sign, release. */
  #serve(batch: readonly Waiting[]): void {
    const approved: Approved[] = []
    const refused: { waiting: Waiting; error: unknown }[] = []
    try {
      this.#options.state.transaction(() => {
        for (const waiting of batch) {
          try {
            approved.push(this.#check(waiting))
          } catch (error) {
            refused.push({ waiting, error: refusalOf(error) })
          }
        }
        this.#accountFor(approved)
      })
    } catch (error) {
      this.#options.log.error('agent state could not be written', { error: String(error) })
      const fault =
        error instanceof AgentStateError && error.code === 'state_replaced'
          ? new HsmError('latched', 'state_replaced', error.message)
          : new HsmError('unavailable', 'state_not_durable', 'the agent could not write its state')
      for (const waiting of batch) waiting.reject(fault)
      return
    }
    for (const { waiting, error } of refused) waiting.reject(error)
    for (const one of approved) this.#sign(one)
  }

  #check(waiting: Waiting): Approved {
    const { purpose, request } = waiting
    if (performance.now() >= waiting.deadlineAtMs) {
      throw new HsmError('unavailable', 'deadline', 'the request waited beyond its deadline')
    }
    const context = this.context(request.text('key'), waiting.term)
    const { key, state } = context
    if (!key.purposes.has(purpose)) {
      throw new HsmError('refused', 'wrong_purpose', `key ${key.name} is not for the purpose ${purpose}`)
    }
    const latched = state.latch(`key:${key.name}`)
    if (latched !== undefined) throw new HsmError('latched', 'key_latched', latched)
    const stepped = statesTime(purpose, key) ? this.#options.clockFault() : undefined
    if (stepped !== undefined) throw new HsmError('unavailable', 'clock_stepped', stepped)
    // Before the check: it takes versions and quotas, which a token that is away would waste.
    const fault = this.#options.module.fault(key.name)
    if (fault?.code === 'latched') throw fault
    return { waiting, key, statement: this.#signable(CHECKS[purpose](request, context)) }
  }

  /** Without its second signature, if the key for that cannot sign: a log does not stop for its witnesses' sake. */
  #signable(statement: Statement): Statement {
    const { second, ...rest } = statement
    if (second === undefined) return statement
    const { state, module } = this.#options
    const usable = state.latch(`key:${second.key}`) === undefined && module.keyFault(second.key) === undefined
    return usable ? statement : rest
  }

  #accountFor(approved: readonly Approved[]): void {
    const { state } = this.#options
    const atMs = this.#options.now()
    if (this.#withheld.size > 0) this.#accountWithheld()
    const batches = new Map<string, { key: string; act: KeyPurpose; digests: Uint8Array[] }>()
    const addTo = (name: string, act: KeyPurpose, digest: Uint8Array): void => {
      const batch = batches.get(`${name} ${act}`)
      if (batch === undefined) batches.set(`${name} ${act}`, { key: name, act, digests: [digest] })
      else batch.digests.push(digest)
    }
    for (const { waiting, key, statement } of approved) {
      const digest = sha256(statement.message)
      if (!BATCHED.has(waiting.purpose)) {
        state.account({ atMs, key: key.name, act: waiting.purpose, count: 1, digest }, 1)
        continue
      }
      addTo(key.name, waiting.purpose, digest)
      const { second } = statement
      if (second !== undefined) addTo(second.key, 'witnessHead', sha256(second.message))
    }
    for (const { key, act, digests } of batches.values()) {
      const [only] = digests
      const digest =
        digests.length === 1 && only !== undefined ? only : hash('sha256', Buffer.concat(digests), 'buffer')
      const each = digests.length > 1 ? digests : undefined
      state.account({ atMs, key, act, count: digests.length, digest }, digests.length, each)
    }
  }

  #accountWithheld(): void {
    const atMs = this.#options.now()
    const digest = new Uint8Array(32)
    for (const [key, count] of this.#withheld) {
      this.#options.state.account({ atMs, key, act: 'withheld', count, digest }, -count)
    }
    this.#withheld = new Map()
  }

  /** At once where the keys are quick, so that a batch is released in one turn; otherwise on pool threads. */
  #sign(approved: Approved): void {
    const { waiting, key, statement } = approved
    const { module } = this.#options
    const { second } = statement
    const signature = module.signAtOnce(key.name, waiting.purpose, statement.message)
    if (signature !== undefined && second === undefined) {
      waiting.resolve(statement.release(signature))
      return
    }
    const other = signature && second && module.signAtOnce(second.key, waiting.purpose, second.message)
    if (signature !== undefined && other !== undefined) waiting.resolve(statement.release(signature, other))
    else void this.#signLater(approved, signature)
  }

  async #signLater({ waiting, key, statement }: Approved, begun: Uint8Array | undefined): Promise<void> {
    const { module } = this.#options
    const { second } = statement
    const { purpose, deadlineAtMs } = waiting
    try {
      const signature = begun ?? (await module.sign(key.name, purpose, statement.message, deadlineAtMs))
      waiting.resolve(statement.release(signature, second && (await this.#signSecond(second, waiting))))
    } catch (error) {
      this.#withhold(key.name)
      if (second !== undefined) this.#withhold(second.key)
      waiting.reject(error)
    }
  }

  /** Undefined if it cannot be had soon: the first signature is released without it. */
  async #signSecond(
    { key, message }: NonNullable<Statement['second']>,
    { purpose, deadlineAtMs }: Waiting,
  ): Promise<Uint8Array | undefined> {
    try {
      const soon = Math.min(deadlineAtMs, performance.now() + SECOND_LINE_MS)
      return await this.#options.module.sign(key, purpose, message, soon)
    } catch (error) {
      this.#withhold(key)
      this.#options.log.warn('a tree head goes without the line for witnesses', { key, error: String(error) })
      return undefined
    }
  }

  #withhold(key: string): void {
    this.#withheld.set(key, (this.#withheld.get(key) ?? 0) + 1)
  }
}

/** What is evidence of when it was made. A checkpoint is not, and a log may go on sealing; TUF's times are days. */
function statesTime(purpose: SignedPurpose, key: KeyConfig): boolean {
  if (purpose === 'treeHead') return key.style === 'ct'
  return purpose === 'certificate' || purpose === 'sct' || purpose === 'set' || purpose === 'timestamp'
}

/** What the parsers below throw is the request's fault; anything else is ours and rises. */
function refusalOf(error: unknown): unknown {
  if (error instanceof X509Error || error instanceof TlogError) {
    return new HsmError('refused', 'malformed', error.message, { cause: error })
  }
  if (error instanceof HsmError) return error
  throw error
}
