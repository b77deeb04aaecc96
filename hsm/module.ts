/**
 * The PKCS#11 module with its tokens and the configured keys: connects, signs, verifies what it signed, and finds its way
 * back after a loss. Each token has a connection of its own (`link.ts`); a key may lie on several. Only the agent process
 * imports this.
 */
import { createHash, createPublicKey, randomBytes, type KeyObject } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { AgentConfig, KeyConfig } from './agent-config.ts'
import type { GeneratedKey } from './administration.ts'
import type { AgentState } from './agent-state.ts'
import { destroyKeyPair, findSpki, generateKeyPair, originOf, type KeyWish } from './key-generation.ts'
import { KIND_RULES, releasedSignature, signatureHolds, signatureHoldsLater, tokenInput } from './key-kinds.ts'
import { Link } from './link.ts'
import type { AgentLog } from './log-line.ts'
import { initialize, loadModule } from './module-loader.ts'
import type { ModuleSettings } from './module-settings.ts'
import { calling, callingAsync, isLost, type Cryptoki, type Handle } from './pkcs11.ts'
import { formatKeyUri, type KeyUri } from './pkcs11-uri.ts'
import { HsmError, type AgentStatus, type SignedPurpose } from './signing.ts'
import { Token } from './token.ts'

/** One loss may follow another while a token comes back; a request that saw four is answered `unavailable`. */
const MAX_ATTEMPTS = 4

/** How long requests wait for a token that was lost; a network HSM's failover takes about a second. */
const PATIENCE_MS = 2000

/** Faults of a connection that the next attempt may not have. */
const PASSING: ReadonlySet<string> = new Set(['token_failed', 'token_absent'])

/** Faults of a key that are the token's answer of one moment; others are verdicts on the key. */
const PASSING_KEY_FAULTS: ReadonlySet<string> = new Set([
  'token_failed',
  'signature_did_not_verify',
  'bad_signature_length',
])
const FIND_AGAIN_FIRST_MS = 100

const BACKOFF_FIRST_MS = 20
const BACKOFF_LAST_MS = 5000

/**
 * When a token is away and others work, how long after its loss the module is initialised again for its sake: SoftHSM
 * and p11-kit see it again only then. All others stop for it, for milliseconds with SoftHSM and a second with a network
 * HSM, so it becomes rare.
 */
const RENEWALS_MS: readonly number[] = [1000, 10_000, 60_000]
const RENEW_EVERY_MS = 300_000

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

/** A key on one of its tokens. */
interface Place {
  readonly link: Link
  readonly uri: KeyUri
  /** Undefined until found, and again after a loss. */
  handle: Handle | undefined
  synchronous: boolean
  /** Why it cannot be used although its token is there. */
  fault: HsmError | undefined
  /** Attributes by which the token does not show that the key was made on it and never left. */
  unproven: readonly string[]
}

interface SigningKey {
  readonly config: KeyConfig
  readonly verifier: KeyObject
  /** In the order of the configuration: the first that works signs. */
  readonly places: readonly Place[]
}

/** What the status tells of a key on each of its tokens. */
export type PlaceStatus = AgentStatus['keys'][number]['places'][number]

function mayPass({ fault }: Place): boolean {
  return fault !== undefined && PASSING_KEY_FAULTS.has(fault.reason)
}

export class HsmModule {
  readonly #module: Cryptoki
  readonly #settings: ModuleSettings
  readonly #state: AgentState
  readonly #log: AgentLog
  readonly #links = new Map<string, Link>()
  readonly #sessions: number
  #keys: ReadonlyMap<string, SigningKey> = new Map()
  #keepAlive: NodeJS.Timeout | undefined
  #closed = false
  /** While the module is initialised again: nobody connects. */
  #renewal: Promise<void> | undefined
  /** Start of each call that is on a pool thread, for the watchdog. */
  readonly #calls = new Set<{ readonly startedMs: number }>()

  constructor(config: AgentConfig, state: AgentState, log: AgentLog) {
    this.#state = state
    this.#log = log
    this.#settings = config.module
    this.#module = loadModule(config.module)
    this.#sessions = config.sessions
    this.#takeOver(config)
  }

  /**
   * Takes over the keys and tokens of another configuration beside those that there are, which go on signing. Resolves
   * when each was connected to and looked for, or could not be. A token that is not logged in to may be described anew: its
   * PIN file was named wrongly. Throws `refused` where a name stands for something else now; nothing has changed then.
   */
  async extend(config: AgentConfig): Promise<void> {
    const changed = [...config.tokens.values()].flatMap((token) => {
      const link = this.#links.get(token.name)
      return link?.token.is(token) === false ? [link] : []
    })
    const used = changed.find(({ token }) => token.loggedIn)
    if (used !== undefined) {
      throw new HsmError(
        'refused',
        'token_changed',
        `token ${used.token.name} is another one now: that needs a restart`,
      )
    }
    for (const { name, spkiDer } of config.keys.values()) {
      const former = this.#keys.get(name)
      // Whoever asked for it by this name would sign with the other key, under a certificate of this one.
      if (former === undefined || Buffer.from(former.config.spkiDer).equals(spkiDer) || !hasHandle(former)) continue
      throw new HsmError('refused', 'key_changed', `key ${name} is another one now: give it a name of its own`)
    }
    for (const link of changed) {
      link.dropped = true
      this.#links.delete(link.token.name)
    }
    const fresh = this.#takeOver(config)
    for (const link of fresh) this.#reconnect(link)
    await Promise.all([...this.#links.values()].map(async (link) => await this.#lookFor(link)))
  }

  /** Forgets the keys and tokens that this configuration does not have; nothing may be asked for with them any more. */
  async retire(config: AgentConfig): Promise<void> {
    this.#keys = new Map([...this.#keys].filter(([name]) => config.keys.has(name)))
    const gone = [...this.#links.values()].filter(({ token }) => !config.tokens.has(token.name))
    for (const link of gone) {
      this.#links.delete(link.token.name)
      link.dropped = true
    }
    await Promise.all(gone.map(async (link) => await this.#letGo(link)))
  }

  /** Returns the tokens that were not there before. */
  #takeOver(config: AgentConfig): Link[] {
    const fresh: Link[] = []
    for (const token of config.tokens.values()) {
      if (this.#links.has(token.name)) continue
      const link = new Link(new Token(token, this.#module, this.#state, this.#log, this.#sessions))
      this.#links.set(token.name, link)
      fresh.push(link)
    }
    const keys = new Map(this.#keys)
    for (const key of config.keys.values()) keys.set(key.name, this.#signingKey(key, this.#keys.get(key.name)))
    this.#keys = keys
    return fresh
  }

  /** A place that stays is not looked up again. */
  #signingKey(config: KeyConfig, former: SigningKey | undefined): SigningKey {
    const places = config.places.map(({ token, uri }): Place => {
      const link = this.#links.get(token)
      if (link === undefined)
        throw new HsmError('refused', 'unknown_token', `key ${config.name} is on an unknown token`)
      const same = former?.places.find((place) => place.link === link && isDeepStrictEqual(place.uri, uri))
      return same ?? { link, uri, handle: undefined, synchronous: false, fault: undefined, unproven: [] }
    })
    const verifier = createPublicKey({ key: Buffer.from(config.spkiDer), format: 'der', type: 'spki' })
    return { config, verifier, places }
  }

  /** Finds what is not found yet, on a token that signs meanwhile. One that is away finds its keys when it comes back. */
  async #lookFor(link: Link): Promise<void> {
    await link.attempted
    for (const key of this.#keys.values()) {
      const place = key.places.find((each) => each.link === link)
      if (place === undefined || place.handle !== undefined || !link.usable) continue
      const session = link.token.take() ?? (await link.token.lease('treeHead'))
      if (session === undefined) return
      try {
        if (link.usable && place.handle === undefined) this.#find(key, place, session)
        else link.token.giveBack(session, 'done')
      } catch (error) {
        this.#log.warn('token was lost', { token: link.token.name, error: String(error) })
        this.#reconnect(link)
        return
      }
    }
    this.#findAgain(link)
  }

  async #letGo(link: Link): Promise<void> {
    await link.token.drained()
    link.token.disconnect()
    link.connected = false
    link.token.wake()
    this.#log.warn('token let go of', { token: link.token.name })
  }

  /** Begins to connect and keeps trying until `close`; requests meanwhile are answered `unavailable` or `latched`. */
  start(): void {
    this.#keepAlive = setInterval(() => this.#keepTokensAlive(), KEEP_ALIVE_MS)
    for (const link of this.#links.values()) this.#reconnect(link)
  }

  /** Resolves once the first attempt to connect, or the one that is under way, has succeeded or given up, on each token. */
  async settled(): Promise<void> {
    await Promise.all([...this.#links.values()].map((link) => link.attempted))
  }

  /** Why a key cannot sign just now for its tokens' sake, or undefined; without a name the first such reason of any key or unused token. */
  fault(keyName?: string): HsmError | undefined {
    const keys = [...this.#keys.values()].filter(({ config }) => keyName === undefined || config.name === keyName)
    for (const { places } of keys) {
      if (!places.some(({ link }) => link.usable)) return connectionFault(places[0]?.link)
    }
    if (keyName !== undefined) return undefined
    const inUse = new Set(keys.flatMap(({ places }) => places.map(({ link }) => link)))
    const idle = [...this.#links.values()].find((link) => !inUse.has(link) && !link.usable)
    return idle === undefined ? undefined : connectionFault(idle)
  }

  tokens(): readonly Token[] {
    return [...this.#links.values()].map(({ token }) => token)
  }

  /** Each token with its breaker. */
  tokenStatus(): AgentStatus['tokens'] {
    return [...this.#links.values()].map(({ token, breaker, fault }) => ({
      ...token.status(),
      breaker,
      fault: fault?.message ?? '',
      latched: fault?.code === 'latched' ? fault.message : '',
    }))
  }

  /** Why the key cannot be used on any of its tokens although one at least is there. */
  keyFault(name: string): HsmError | undefined {
    const places = this.#keys.get(name)?.places ?? []
    if (places.some(({ link, fault }) => link.usable && fault === undefined)) return undefined
    return places.find(({ fault }) => fault !== undefined)?.fault
  }

  places(name: string): readonly PlaceStatus[] {
    return (this.#keys.get(name)?.places ?? []).map(({ link, handle, fault, unproven }) => ({
      token: link.token.name,
      usable: link.usable && handle !== undefined,
      fault: fault?.message ?? '',
      unproven,
    }))
  }

  /** How long the oldest call on a pool thread has been there, milliseconds. */
  oldestCallMs(): number {
    const [oldest] = this.#calls
    return oldest === undefined ? 0 : performance.now() - oldest.startedMs
  }

  /** The signature at once, for a key that is quick, or undefined: then `sign` is the way. Throws nothing. */
  signAtOnce(name: string, purpose: SignedPurpose, message: Uint8Array): Uint8Array | undefined {
    const key = this.#keys.get(name)
    const place = key === undefined ? undefined : readyPlace(key)
    if (key === undefined || place?.handle === undefined || !place.synchronous) return undefined
    const { token } = place.link
    const session = token.take(purpose)
    if (session === undefined) return undefined
    try {
      const signature = this.#signSync(key, place.handle, session, message)
      token.giveBack(session, 'done')
      place.link.succeeded()
      return signature
    } catch (error) {
      this.#failed(key, place.link, session, error)
      return undefined
    }
  }

  /** Signs, again after a loss and elsewhere if the key has other tokens, and releases only what verifies. Rejects with `HsmError`. */
  async sign(name: string, purpose: SignedPurpose, message: Uint8Array, deadlineAtMs: number): Promise<Uint8Array> {
    const avoided = new Set<Link>()
    for (let attempt = 1; ; attempt++) {
      const { key, place } = await this.#usable(name, deadlineAtMs, avoided)
      const { link } = place
      const session = await link.token.lease(purpose)
      const { handle } = place
      if (session !== undefined && performance.now() >= deadlineAtMs) {
        link.token.giveBack(session, 'done')
        throw new HsmError('unavailable', 'deadline', 'the request waited beyond its deadline')
      }
      if (session === undefined || handle === undefined || !link.usable) {
        if (session !== undefined) link.token.giveBack(session, 'done')
        if (attempt >= MAX_ATTEMPTS) throw new HsmError('unavailable', 'token_lost', 'the token was lost')
        continue
      }
      try {
        const signature = place.synchronous
          ? this.#signSync(key, handle, session, message)
          : await this.#signAsync(key, handle, session, message)
        link.token.giveBack(session, 'done')
        link.succeeded()
        return signature
      } catch (error) {
        this.#failed(key, link, session, error)
        avoided.add(link)
        const elsewhere = readyPlace(key, avoided) !== undefined && attempt <= key.places.length
        const again = elsewhere || (isLost(error) ? attempt < MAX_ATTEMPTS : error instanceof HsmError && attempt < 2)
        if (!again) throw unavailable(error)
      }
    }
  }

  generateKey(request: KeyWish & { readonly token: string }): GeneratedKey {
    const { token } = this.#connected(request.token)
    return token.withReadWriteSession((session) => {
      const fresh = generateKeyPair(this.#module, session, request, token.profile)
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
    const link = this.#connected(name)
    try {
      return link.token.withReadWriteSession((session) => work(this.#module, session))
    } catch (error) {
      if (isLost(error)) this.#reconnect(link)
      throw error
    }
  }

  /** Runs `work` with the module itself, for what needs no session; at once. */
  onModule<T>(work: (module: Cryptoki) => T): T {
    return work(this.#module)
  }

  destroyKey(tokenName: string, id: Uint8Array): void {
    for (const { config } of this.#keys.values()) {
      const configured = config.places.some(
        ({ token, uri }) => token === tokenName && Buffer.from(uri.id).equals(Buffer.from(id)),
      )
      if (configured) {
        throw new HsmError('refused', 'key_configured', `key ${config.name} is in the configuration; take it out first`)
      }
    }
    const { token } = this.#connected(tokenName)
    token.withReadWriteSession((session) => destroyKeyPair(this.#module, session, id))
  }

  /** Connects anew: after a lifted latch the login is tried once. */
  async reconnect(tokenName: string): Promise<void> {
    const link = this.#links.get(tokenName)
    if (link === undefined) return
    // One that is away is tried on by itself, with the keys of the moment.
    if (link.fault === undefined || link.fault.code === 'latched') {
      await link.reconnecting
      this.#reconnect(link)
    }
    await link.attempted
  }

  /** Waits for calls that are under way. The module is never closed: pkcs11js crashes if something is still in it. */
  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#keepAlive)
    await Promise.all(this.tokens().map((token) => token.drained()))
  }

  async #usable(
    name: string,
    deadlineAtMs: number,
    avoided: ReadonlySet<Link>,
  ): Promise<{ key: SigningKey; place: Place }> {
    for (;;) {
      const key = this.#keys.get(name)
      if (key === undefined) throw new HsmError('unknown_key', 'unknown_key', `agent has no key ${name}`)
      const place = readyPlace(key, avoided) ?? readyPlace(key)
      if (place !== undefined) return { key, place }
      const links = key.places.map(({ link }) => link)
      const waitedFor = links.filter((link) => link.reconnecting !== undefined)
      const fault = key.places.find((each) => each.fault !== undefined)?.fault ?? connectionFault(links[0])
      if (waitedFor.length === 0) {
        throw fault ?? new HsmError('unavailable', 'key_not_found', `key ${name} is not connected`)
      }
      // A token that just went is waited for; one that stays away, or needs somebody's hand, is told at once.
      const untilMs = Math.min(
        deadlineAtMs,
        Math.max(...waitedFor.map(({ outageSinceMs }) => outageSinceMs + PATIENCE_MS)),
      )
      const leftMs = untilMs - performance.now()
      const passing = waitedFor.some((link) => link.fault === undefined || PASSING.has(link.fault.reason))
      if (leftMs <= 0 || !passing) {
        throw waitedFor.find((link) => link.fault !== undefined)?.fault ?? connecting('did not come back in time')
      }
      await settledWithin(Promise.race(waitedFor.map(async ({ reconnecting }) => await reconnecting)), leftMs)
    }
  }

  #connected(name: string): Link {
    const link = this.#links.get(name)
    if (link === undefined) throw new HsmError('refused', 'unknown_token', `agent has no token ${name}`)
    if (!link.token.loggedIn) throw link.fault ?? new HsmError('unavailable', 'token_absent', 'token is not connected')
    return link
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

  #failed(key: SigningKey, link: Link, session: Handle, error: unknown): void {
    const lost = isLost(error)
    link.token.giveBack(session, lost ? 'lost' : 'failed')
    this.#log.warn('signing failed', { key: key.config.name, token: link.token.name, lost, error: String(error) })
    // With nowhere else to go the token is tried on: what fails may be one key alone.
    if (lost || !link.token.hasSessions || (link.failedTooOften() && readyPlace(key, new Set([link])) !== undefined))
      this.#reconnect(link)
  }

  /** One run of attempts a token: stop leasing, drain, connect anew, with growing pauses. */
  #reconnect(link: Link): void {
    if (link.reconnecting !== undefined || this.#closed || link.dropped) return
    link.outageSinceMs = performance.now()
    let attempted: () => void = () => undefined
    link.attempted = new Promise((resolve) => {
      attempted = resolve
    })
    link.reconnecting = this.#connectUntilDone(link, attempted).finally(() => {
      link.reconnecting = undefined
      link.trying = false
      attempted()
      link.token.wake()
      if ([...this.#links.values()].every(({ usable }) => usable)) {
        this.#log.info('tokens connected', { keys: [...this.#keys.keys()] })
      }
    })
  }

  async #connectUntilDone(link: Link, attempted: () => void): Promise<void> {
    const { token } = link
    for (const place of this.#placesOn(link)) place.handle = undefined
    await token.drained()
    let renewals = 0
    for (let attempt = 0; !this.#closed && !link.dropped; attempt++) {
      try {
        while (this.#renewal !== undefined) await this.#renewal
        token.disconnect()
        link.connected = false
        const awayMs = performance.now() - link.outageSinceMs
        if (attempt > 0 && this.#isAlone()) this.#initializeAgain()
        else if (attempt > 0 && awayMs > (RENEWALS_MS[renewals] ?? renewals * RENEW_EVERY_MS)) {
          renewals++
          await this.#renew(link)
        }
        if (link.dropped) return
        link.trying = true
        link.connected = true
        token.connect()
        this.#findKeys(link)
        link.fault = undefined
        this.#log.info('token connected', { token: token.name, attempt, profile: token.profile.name })
        this.#findAgain(link)
        return
      } catch (error) {
        link.trying = false
        link.fault = unavailable(error)
        this.#log.error('token could not be connected', { token: token.name, attempt, error: String(error) })
        // A latch is lifted by an operator, not by trying; so is a PIN file that others may read.
        token.disconnect()
        link.connected = false
        if (link.fault.code === 'latched') return
        attempted()
        await new Promise((resolve) => setTimeout(resolve, Math.min(BACKOFF_FIRST_MS * 2 ** attempt, BACKOFF_LAST_MS)))
      }
    }
  }

  #isAlone(): boolean {
    return ![...this.#links.values()].some(({ connected }) => connected)
  }

  /** Takes every other token down for a moment; requests wait for them as after a loss. */
  async #renew(link: Link): Promise<void> {
    const others = [...this.#links.values()].filter((other) => other !== link && other.connected)
    this.#log.warn('module is initialised again for a token that is away', { token: link.token.name })
    let done: () => void = () => undefined
    this.#renewal = new Promise((resolve) => {
      done = resolve
    })
    try {
      for (const other of others) this.#reconnect(other)
      await Promise.all(others.map(async ({ token }) => await token.drained()))
      for (const other of others) {
        other.token.disconnect()
        other.connected = false
      }
      this.#initializeAgain()
    } finally {
      this.#renewal = undefined
      done()
    }
  }

  /** Only while no token is connected: it ends the sessions of them all. */
  #initializeAgain(): void {
    try {
      calling('C_Finalize', () => this.#module.C_Finalize())
    } catch (error) {
      this.#log.info('module was not initialised any more', { error: String(error) })
    }
    initialize(this.#module, this.#settings)
  }

  #placesOn(link: Link): readonly Place[] {
    return [...this.#keys.values()].flatMap(({ places }) => places.filter((place) => place.link === link))
  }

  /** One error while a key is looked for, or tried, says little: it is tried again while its token stays connected. */
  #findAgain(link: Link, attempt = 0): void {
    const { outageSinceMs } = link
    if (!this.#placesOn(link).some(mayPass)) return
    const pauseMs = Math.min(FIND_AGAIN_FIRST_MS * 2 ** attempt, BACKOFF_LAST_MS)
    setTimeout(() => {
      if (this.#closed || !link.usable || link.outageSinceMs !== outageSinceMs) return
      try {
        this.#findKeys(link, mayPass)
        this.#findAgain(link, attempt + 1)
      } catch (error) {
        this.#log.warn('token was lost', { token: link.token.name, error: String(error) })
        this.#reconnect(link)
      }
    }, pauseMs).unref()
  }

  #findKeys(link: Link, wanted: (place: Place) => boolean = () => true): void {
    for (const key of this.#keys.values()) {
      const place = key.places.find((each) => each.link === link)
      if (place === undefined || !wanted(place)) continue
      const session = link.token.take()
      // All at work, and the next time is soon; after connecting none is.
      if (session === undefined && place.fault !== undefined) continue
      if (session === undefined) throw new HsmError('unavailable', 'no_session', 'no session is free')
      this.#find(key, place, session)
    }
  }

  /** One key on one token; gives the session back. Throws if the token was lost; any other fault is the place's. */
  #find(key: SigningKey, place: Place, session: Handle): void {
    const { token } = place.link
    try {
      const handle = token.findKey(session, { name: key.config.name, uri: place.uri })
      this.#comparePin(key, place, session)
      place.unproven = this.#attributes(key, place, session, handle)
      place.synchronous = this.#selfTest(key, handle, session)
      place.fault = undefined
      place.handle = handle
      token.giveBack(session, 'done')
    } catch (error) {
      const lost = isLost(error)
      token.giveBack(session, lost ? 'lost' : 'failed')
      if (lost) throw error
      place.fault = unavailable(error)
      this.#log.error('key cannot be used', { key: key.config.name, token: token.name, error: String(error) })
    }
  }

  /** The key must be the one that was pinned when it was made, not another one that took its id: on every token. */
  #comparePin({ config }: SigningKey, { uri, link }: Place, session: Handle): void {
    const found = findSpki(this.#module, session, uri.id, config.kind)
    if (found === undefined || Buffer.from(found).equals(config.spkiDer)) return
    const where = `key ${config.name} on the token ${link.token.name}`
    throw new HsmError('unavailable', 'wrong_public_key', `${where} is not the configured one`)
  }

  /** Imported keys may sign, and are told; a key that can be taken out of its token may not. */
  #attributes({ config }: SigningKey, { link }: Place, session: Handle, handle: Handle): readonly string[] {
    const unproven = originOf(this.#module, session, handle)
    if (unproven.length > 0) {
      this.#log.warn('origin unproven', { key: config.name, token: link.token.name, attributes: unproven })
    }
    return unproven
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
    for (const link of this.#links.values()) {
      if (!link.usable) continue
      try {
        link.token.keepAlive()
      } catch (error) {
        this.#log.warn('token was lost', { token: link.token.name, error: String(error) })
        this.#reconnect(link)
      }
    }
  }
}

/** The preferred token of those that work, but for `avoided`. */
function readyPlace(key: SigningKey, avoided?: ReadonlySet<Link>): Place | undefined {
  return key.places.find(
    (place) => place.handle !== undefined && place.link.usable && avoided?.has(place.link) !== true,
  )
}

/** It was found on one of its tokens, and may have signed. */
function hasHandle({ places }: SigningKey): boolean {
  return places.some(({ handle }) => handle !== undefined)
}

function connectionFault(link: Link | undefined): HsmError | undefined {
  if (link === undefined || link.usable) return undefined
  return link.fault ?? connecting('is being connected to')
}

function connecting(what: string): HsmError {
  return new HsmError('unavailable', 'token_connecting', `the token ${what}`)
}

function unavailable(error: unknown): HsmError {
  if (error instanceof HsmError) return error
  const message = error instanceof Error ? error.message : 'unknown failure'
  return new HsmError('unavailable', 'token_failed', message, { cause: error })
}

async function settledWithin(promise: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await Promise.race([
    promise,
    new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms)
    }),
  ])
  clearTimeout(timer)
}
