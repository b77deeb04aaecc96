/**
 * The PKCS#11 module with its tokens and the configured keys: connects, signs, verifies what it signed, and finds its way
 * back after a loss. The only file that loads the module; only the agent process imports it.
 */
import { createHash, createPublicKey, randomBytes, type KeyObject } from 'node:crypto'
import pkcs11js from 'pkcs11js'
import type { AgentConfig, KeyConfig } from './agent-config.ts'
import type { GeneratedKey } from './administration.ts'
import type { AgentState } from './agent-state.ts'
import { destroyKeyPair, findSpki, generateKeyPair } from './key-generation.ts'
import { KIND_RULES, releasedSignature, signatureHolds, signatureHoldsLater, tokenInput } from './key-kinds.ts'
import type { AgentLog } from './log-line.ts'
import { calling, callingAsync, CKF, isAlreadyInitialized, isLost, type Cryptoki, type Handle } from './pkcs11.ts'
import { formatKeyUri } from './pkcs11-uri.ts'
import { HsmError, type KeyKind, type Purpose } from './signing.ts'
import { Token } from './token.ts'

/** One loss may follow another while a token comes back; a request that saw four is answered `unavailable`. */
const MAX_ATTEMPTS = 4

/** How long requests wait for a token that was lost; a network HSM's failover takes about a second. */
const PATIENCE_MS = 2000

/** Faults of a connection that the next attempt may not have. */
const PASSING: ReadonlySet<string> = new Set(['token_failed', 'token_absent'])

const BACKOFF_FIRST_MS = 20
const BACKOFF_LAST_MS = 5000

/** YubiHSM ends sessions after 30 s of silence. */
const KEEP_ALIVE_MS = 10_000

/**
 * Signing on the event loop costs 45 µs with SoftHSM and P-256; a pool thread costs 60 µs of it for the call alone. Slower
 * than this is better off the loop (docs: performance).
 */
const SYNCHRONOUS_BELOW_MS = 0.3

/** The first one loads code and key; the quickest of these tells what a call takes on a machine that is starting up. */
const SELF_TESTS = 3

/** After a first round that was slow and might be a cold start's: a second one, unless the HSM is far slower than that. */
const SELF_TESTS_WARM = 12
const COLD_BELOW_MS = 10 * SYNCHRONOUS_BELOW_MS

interface SigningKey {
  readonly config: KeyConfig
  readonly token: Token
  readonly verifier: KeyObject
  /** Undefined until found, and again after a loss. */
  handle: Handle | undefined
  synchronous: boolean
  /** Why it cannot be used although its token is there. */
  fault: HsmError | undefined
}

export class HsmModule {
  readonly #module: Cryptoki
  readonly #state: AgentState
  readonly #log: AgentLog
  readonly #tokens: ReadonlyMap<string, Token>
  #keys: ReadonlyMap<string, SigningKey> = new Map()
  #reconnecting: Promise<void> | undefined
  #lastFault: HsmError | undefined
  #outageSinceMs = 0
  #keepAlive: NodeJS.Timeout | undefined
  #closed = false
  /** Start of each call that is on a pool thread, for the watchdog. */
  readonly #calls = new Set<{ readonly startedMs: number }>()

  constructor(config: AgentConfig, state: AgentState, log: AgentLog) {
    this.#state = state
    this.#log = log
    this.#module = loadModule(config)
    this.#tokens = new Map(
      [...config.tokens.values()].map((token) => [
        token.name,
        new Token(token, this.#module, state, log, config.sessions),
      ]),
    )
    this.configure(config)
  }

  /** Takes over the keys of a configuration; those that stay keep their handles. */
  configure(config: AgentConfig): void {
    const keys = new Map<string, SigningKey>()
    for (const key of config.keys.values()) {
      const token = this.#tokens.get(key.token)
      if (token === undefined) throw new HsmError('refused', 'unknown_token', `key ${key.name} is on an unknown token`)
      const verifier = createPublicKey({ key: Buffer.from(key.spkiDer), format: 'der', type: 'spki' })
      keys.set(key.name, { config: key, token, verifier, handle: undefined, synchronous: false, fault: undefined })
    }
    this.#keys = keys
  }

  /** Begins to connect and keeps trying until `close`; requests meanwhile are answered `unavailable` or `latched`. */
  start(): void {
    this.#keepAlive = setInterval(() => this.#keepTokensAlive(), KEEP_ALIVE_MS)
    this.#reconnect()
  }

  /** Resolves once the first attempt to connect, or the one that is under way, has succeeded or given up. */
  async settled(): Promise<void> {
    await this.#reconnecting
  }

  /** Why nothing can be signed just now, or undefined. */
  fault(): HsmError | undefined {
    if (this.#lastFault !== undefined) return this.#lastFault
    return this.#reconnecting === undefined
      ? undefined
      : new HsmError('unavailable', 'token_connecting', 'the token is being connected to')
  }

  tokens(): readonly Token[] {
    return [...this.#tokens.values()]
  }

  keyFault(name: string): HsmError | undefined {
    return this.#keys.get(name)?.fault
  }

  /** How long the oldest call on a pool thread has been there, milliseconds. */
  oldestCallMs(): number {
    const [oldest] = this.#calls
    return oldest === undefined ? 0 : performance.now() - oldest.startedMs
  }

  /** The signature at once, for a key that is quick, or undefined: then `sign` is the way. Throws nothing. */
  signAtOnce(name: string, purpose: Purpose, message: Uint8Array): Uint8Array | undefined {
    const key = this.#keys.get(name)
    if (key?.handle === undefined || !key.synchronous || this.#reconnecting !== undefined) return undefined
    const session = key.token.take(purpose)
    if (session === undefined) return undefined
    try {
      const signature = this.#signSync(key, key.handle, session, message)
      key.token.giveBack(session, 'done')
      return signature
    } catch (error) {
      this.#failed(key, session, error)
      return undefined
    }
  }

  /** Signs, again after a loss, and releases only what verifies. Rejects with `HsmError`. */
  async sign(name: string, purpose: Purpose, message: Uint8Array, deadlineAtMs: number): Promise<Uint8Array> {
    for (let attempt = 1; ; attempt++) {
      const key = await this.#usable(name, deadlineAtMs)
      const session = await key.token.lease(purpose)
      const { handle } = key
      if (session !== undefined && performance.now() >= deadlineAtMs) {
        key.token.giveBack(session, 'done')
        throw new HsmError('unavailable', 'deadline', 'the request waited beyond its deadline')
      }
      if (session === undefined || handle === undefined || this.#reconnecting !== undefined) {
        if (session !== undefined) key.token.giveBack(session, 'done')
        if (attempt >= MAX_ATTEMPTS) throw new HsmError('unavailable', 'token_lost', 'the token was lost')
        continue
      }
      try {
        const signature = key.synchronous
          ? this.#signSync(key, handle, session, message)
          : await this.#signAsync(key, handle, session, message)
        key.token.giveBack(session, 'done')
        return signature
      } catch (error) {
        this.#failed(key, session, error)
        if (error instanceof HsmError && attempt < 2) continue
        if (!isLost(error) || attempt >= MAX_ATTEMPTS) throw unavailable(error)
      }
    }
  }

  generateKey(request: { token: string; label: string; kind: KeyKind; backup: boolean }): GeneratedKey {
    const token = this.#connectedToken(request.token)
    return token.withReadWriteSession((session) => {
      const fresh = generateKeyPair(this.#module, session, request)
      const tokenLabel = token.status().label
      return {
        idHex: Buffer.from(fresh.id).toString('hex'),
        spkiDer: fresh.spkiDer,
        kind: request.kind,
        token: request.token,
        uri: formatKeyUri({ token: tokenLabel, id: fresh.id, object: request.label }),
        unproven: fresh.unproven,
      }
    })
  }

  /** Runs `work` in a read-write session of its own on a token that is logged in; at once, so that no loss comes in between. */
  onToken<T>(name: string, work: (module: Cryptoki, session: Handle) => T): T {
    const token = this.#connectedToken(name)
    try {
      return token.withReadWriteSession((session) => work(this.#module, session))
    } catch (error) {
      if (isLost(error)) this.#reconnect()
      throw error
    }
  }

  /** Runs `work` with the module itself, for what needs no session; at once. */
  onModule<T>(work: (module: Cryptoki) => T): T {
    return work(this.#module)
  }

  destroyKey(tokenName: string, id: Uint8Array): void {
    for (const { config } of this.#keys.values()) {
      if (config.token === tokenName && Buffer.from(config.uri.id).equals(id)) {
        throw new HsmError('refused', 'key_configured', `key ${config.name} is in the configuration; take it out first`)
      }
    }
    const token = this.#connectedToken(tokenName)
    token.withReadWriteSession((session) => destroyKeyPair(this.#module, session, id))
  }

  /** Connects anew: new keys are looked up, and after a lifted latch the login is tried once. */
  async reconnect(): Promise<void> {
    await this.#reconnecting
    this.#reconnect()
    await this.#reconnecting
  }

  /** Waits for calls that are under way. The module is never closed: pkcs11js crashes if something is still in it. */
  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#keepAlive)
    await Promise.all(this.tokens().map((token) => token.drained()))
  }

  async #usable(name: string, deadlineAtMs: number): Promise<SigningKey> {
    for (;;) {
      const key = this.#keys.get(name)
      if (key === undefined) throw new HsmError('unknown_key', 'unknown_key', `agent has no key ${name}`)
      if (this.#reconnecting === undefined) {
        const fault = this.#lastFault ?? key.fault
        if (fault !== undefined) throw fault
        if (key.handle !== undefined) return key
        throw new HsmError('unavailable', 'key_not_found', `key ${name} is not connected`)
      }
      // A token that just went is waited for; one that stays away, or needs somebody's hand, is told at once.
      const untilMs = Math.min(deadlineAtMs, this.#outageSinceMs + PATIENCE_MS)
      const leftMs = untilMs - performance.now()
      const fault = this.#lastFault
      if (fault !== undefined && (leftMs <= 0 || !PASSING.has(fault.reason))) throw fault
      if (leftMs <= 0) throw new HsmError('unavailable', 'token_connecting', 'the token did not come back in time')
      await settledWithin(this.#reconnecting, leftMs)
    }
  }

  #connectedToken(name: string): Token {
    const token = this.#tokens.get(name)
    if (token === undefined) throw new HsmError('refused', 'unknown_token', `agent has no token ${name}`)
    if (!token.loggedIn) throw this.#lastFault ?? new HsmError('unavailable', 'token_absent', 'token is not connected')
    return token
  }

  #signSync(key: SigningKey, handle: Handle, session: Handle, message: Uint8Array): Uint8Array {
    const { kind } = key.config
    const { signing, signatureBytes } = KIND_RULES[kind]
    const input = tokenInput(kind, message)
    calling('C_SignInit', () => this.#module.C_SignInit(session, signing, handle))
    const raw = calling('C_Sign', () => this.#module.C_Sign(session, input, Buffer.alloc(signatureBytes)))
    const signature = releasedSignature(kind, raw)
    this.#check(signatureHolds(kind, message, key.verifier, signature), key)
    return signature
  }

  async #signAsync(key: SigningKey, handle: Handle, session: Handle, message: Uint8Array): Promise<Uint8Array> {
    const { kind } = key.config
    const { signing, signatureBytes } = KIND_RULES[kind]
    // The pool thread reads and writes these without holding them: they live in this frame until it is done.
    const input = tokenInput(kind, message)
    const output = Buffer.alloc(signatureBytes)
    const call = { startedMs: performance.now() }
    this.#calls.add(call)
    try {
      calling('C_SignInit', () => this.#module.C_SignInit(session, signing, handle))
      const raw = await callingAsync('C_Sign', () => this.#module.C_SignAsync(session, input, output))
      const signature = releasedSignature(kind, raw)
      this.#check(await signatureHoldsLater(kind, message, key.verifier, signature), key)
      return signature
    } finally {
      this.#calls.delete(call)
      void [input, output]
    }
  }

  /** A wrong signature tells of a fault in the HSM, and may tell the key to whoever sees it. */
  #check(valid: boolean, key: SigningKey): void {
    if (valid) return
    this.#log.error('ALARM: the HSM gave a signature that does not verify; it was withheld', { key: key.config.name })
    throw new HsmError('unavailable', 'signature_did_not_verify', `signature of key ${key.config.name} did not verify`)
  }

  #failed(key: SigningKey, session: Handle, error: unknown): void {
    const lost = isLost(error)
    key.token.giveBack(session, lost ? 'lost' : 'failed')
    this.#log.warn('signing failed', { key: key.config.name, lost, error: String(error) })
    if (lost) this.#reconnect()
  }

  /** One at a time: stop leasing, drain, connect anew; softly first, then with a fresh module, with growing pauses. */
  #reconnect(): void {
    if (this.#reconnecting !== undefined || this.#closed) return
    this.#outageSinceMs = performance.now()
    this.#reconnecting = this.#connectUntilDone().finally(() => {
      this.#reconnecting = undefined
      for (const token of this.tokens()) token.wake()
    })
  }

  async #connectUntilDone(): Promise<void> {
    for (const key of this.#keys.values()) key.handle = undefined
    await Promise.all(this.tokens().map((token) => token.drained()))
    for (let attempt = 0; !this.#closed; attempt++) {
      try {
        for (const token of this.tokens()) token.disconnect()
        if (attempt > 0) this.#initializeAgain()
        for (const token of this.tokens()) token.connect()
        this.#findKeys()
        this.#lastFault = undefined
        this.#log.info('tokens connected', { attempt, keys: [...this.#keys.keys()] })
        return
      } catch (error) {
        this.#lastFault = unavailable(error)
        this.#log.error('tokens could not be connected', { attempt, error: String(error) })
        // A latch is lifted by an operator, not by trying; so is a PIN file that others may read.
        if (this.#lastFault.code === 'latched') return
        await new Promise((resolve) => setTimeout(resolve, Math.min(BACKOFF_FIRST_MS * 2 ** attempt, BACKOFF_LAST_MS)))
      }
    }
  }

  #initializeAgain(): void {
    try {
      calling('C_Finalize', () => this.#module.C_Finalize())
    } catch (error) {
      this.#log.info('module was not initialised any more', { error: String(error) })
    }
    initialize(this.#module)
  }

  #findKeys(): void {
    for (const key of this.#keys.values()) {
      key.fault = undefined
      const session = key.token.take()
      if (session === undefined) throw new HsmError('unavailable', 'no_session', 'no session is free')
      try {
        const handle = key.token.findKey(session, key.config)
        this.#comparePin(key, session)
        key.synchronous = this.#selfTest(key, handle, session)
        key.handle = handle
        key.token.giveBack(session, 'done')
      } catch (error) {
        const lost = isLost(error)
        key.token.giveBack(session, lost ? 'lost' : 'failed')
        if (lost) throw error
        key.fault = unavailable(error)
        this.#log.error('key cannot be used', { key: key.config.name, error: String(error) })
      }
    }
  }

  /** The key must be the one that was pinned when it was made, not another one that took its id. */
  #comparePin(key: SigningKey, session: Handle): void {
    const { config } = key
    const found = findSpki(this.#module, session, config.uri.id, config.kind)
    if (found === undefined || Buffer.from(found).equals(config.spkiDer)) return
    throw new HsmError('unavailable', 'wrong_public_key', `key ${config.name} on the token is not the configured one`)
  }

  /**
   * Signs a text that no purpose can produce, with the pinned key as judge; true if it was quick enough for the loop.
   * Accounted for like every other use.
   */
  #selfTest(key: SigningKey, handle: Handle, session: Handle): boolean {
    const first = this.#quickestOf(SELF_TESTS, key, handle, session)
    if (first < SYNCHRONOUS_BELOW_MS || first >= COLD_BELOW_MS) return first < SYNCHRONOUS_BELOW_MS
    return this.#quickestOf(SELF_TESTS_WARM, key, handle, session) < SYNCHRONOUS_BELOW_MS
  }

  /** Milliseconds of the quickest of so many signatures, each verified. */
  #quickestOf(count: number, key: SigningKey, handle: Handle, session: Handle): number {
    const { name } = key.config
    const message = Buffer.from(`chancery agent self-test of ${name} ${randomBytes(16).toString('hex')}`)
    const digest = createHash('sha256').update(message).digest()
    const row = { atMs: Date.now(), key: name, act: 'selfTest', count, digest }
    this.#state.transaction(() => this.#state.account(row, count))
    let quickestMs = Number.POSITIVE_INFINITY
    for (let i = 0; i < count; i++) {
      const start = performance.now()
      this.#signSync(key, handle, session, message)
      quickestMs = Math.min(quickestMs, performance.now() - start)
    }
    return quickestMs
  }

  #keepTokensAlive(): void {
    if (this.#reconnecting !== undefined) return
    try {
      for (const token of this.tokens()) if (token.loggedIn) token.keepAlive()
    } catch (error) {
      this.#log.warn('token was lost', { error: String(error) })
      this.#reconnect()
    }
  }
}

function loadModule(config: AgentConfig): Cryptoki {
  // Read by the module when it is initialised; an inherited value could point it at other tokens.
  if (config.softhsmConf !== undefined) process.env['SOFTHSM2_CONF'] = config.softhsmConf
  const module = new pkcs11js.PKCS11()
  calling('dlopen', () => module.load(config.modulePath))
  initialize(module)
  return module
}

function initialize(module: Cryptoki): void {
  try {
    calling('C_Initialize', () => module.C_Initialize({ flags: CKF.OS_LOCKING_OK }))
  } catch (error) {
    if (!isAlreadyInitialized(error)) throw error
  }
}

function unavailable(error: unknown): HsmError {
  if (error instanceof HsmError) return error
  const message = error instanceof Error ? error.message : 'unknown failure'
  return new HsmError('unavailable', 'token_failed', message, { cause: error })
}

async function settledWithin(promise: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await Promise.race([
    promise,
    new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms)
    }),
  ])
  clearTimeout(timer)
}
