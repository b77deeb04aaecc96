/** One token of the module: found by its URI, logged in to once, with a pool of sessions that each do one thing at a time. */
import { readFileSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { KeyConfig, TokenConfig } from './agent-config.ts'
import type { AgentState } from './agent-state.ts'
import type { AgentLog } from './log-line.ts'
import {
  calling,
  CKA,
  CKF,
  CKO,
  CKU,
  findObjects,
  isAlreadyLoggedIn,
  isPinFailure,
  readAttribute,
  unpadded,
  type Cryptoki,
  type Handle,
} from './pkcs11.ts'
import type { TokenUri } from './pkcs11-uri.ts'
import { PinRotation } from './pin-rotation.ts'
import { GENERIC, profileOf, type Identity, type Profile } from './quirks.ts'
import { SessionPool } from './session-pool.ts'
import { HsmError, type AgentStatus, type SignedPurpose } from './signing.ts'

/** What C_GetTokenInfo says of a token. */
export interface TokenFacts {
  readonly label: string
  readonly serial: string
  readonly model: string
  readonly manufacturer: string
  readonly flags: number
}

export class Token {
  readonly name: string
  /** The change of its PIN, if one is under way. */
  readonly pinRotation: PinRotation
  readonly #config: TokenConfig
  readonly #module: Cryptoki
  readonly #state: AgentState
  readonly #log: AgentLog
  readonly #sessionCount: number
  #slot: Handle | undefined
  #facts: TokenFacts | undefined
  #profile: Profile = GENERIC
  #loggedIn = false
  readonly #pool: SessionPool
  /** After an operator has lifted the latch one login is tried although the token remembers a wrong PIN. */
  #operatorSaidSo = false

  constructor(config: TokenConfig, module: Cryptoki, state: AgentState, log: AgentLog, sessionCount: number) {
    this.name = config.name
    this.#config = config
    this.#module = module
    this.#state = state
    this.pinRotation = new PinRotation(state, config.name, config.pinFile)
    this.#log = log
    this.#sessionCount = sessionCount
    this.#pool = new SessionPool(sessionCount)
  }

  /** Whether this is the token as `config` has it. */
  is({ uri, pinFile }: TokenConfig): boolean {
    return isDeepStrictEqual(uri, this.#config.uri) && pinFile === this.#config.pinFile
  }

  get latchName(): string {
    return `token:${this.name}`
  }

  get loggedIn(): boolean {
    return this.#loggedIn
  }

  /** What is known of its kind; of nothing in particular before it was seen. */
  get profile(): Profile {
    return this.#profile
  }

  status(): Omit<AgentStatus['tokens'][number], 'breaker' | 'fault' | 'latched'> {
    const facts = this.#facts ?? { label: this.#config.uri.token ?? '', serial: '', model: '', manufacturer: '' }
    const { label, serial, model, manufacturer } = facts
    const { name: profile, software } = this.#profile
    return { name: this.name, label, serial, model, manufacturer, software, loggedIn: this.#loggedIn, profile }
  }

  /** Finds the token, logs in and fills the pool. Throws `latched`, or what the module throws. */
  connect(): void {
    const latched = this.#state.latch(this.latchName)
    if (latched !== undefined) throw new HsmError('latched', 'token_latched', latched)
    const { slot, facts } = findToken(this.#module, this.#config.uri)
    this.#slot = slot
    this.#facts = facts
    this.#profile = profileOf({ ...facts, ...readLibrary(this.#module) })
    const session = this.#open()
    this.#login(session, facts.flags)
    const sessions = [session]
    while (sessions.length < this.#sessionCount) sessions.push(this.#open())
    this.#pool.restock(sessions)
  }

  /** Lets go of everything after a loss; all sessions must be drained, since handle numbers are given out again. */
  disconnect(): void {
    const slot = this.#slot
    this.#pool.restock([])
    this.#loggedIn = false
    this.#slot = undefined
    if (slot === undefined) return
    try {
      calling('C_CloseAllSessions', () => this.#module.C_CloseAllSessions(slot))
    } catch (error) {
      this.#log.info('sessions of a lost token could not be closed', { token: this.name, error: String(error) })
    }
  }

  /** Resolves when no session is at work; nothing may be leased meanwhile. */
  async drained(): Promise<void> {
    await this.#pool.drained()
  }

  /**
   * A free session for a call that ends at once, or undefined; give it back with `giveBack`. Without a purpose it is a
   * call of the agent's own.
   */
  take(purpose?: SignedPurpose): Handle | undefined {
    return this.#pool.take(purpose)
  }

  /** A session as soon as it is this purpose's turn; undefined if the token went away meanwhile. */
  async lease(purpose: SignedPurpose): Promise<Handle | undefined> {
    return await this.#pool.lease(purpose)
  }

  /** Wakes everybody who waits for a session of before a loss. */
  wake(): void {
    this.#pool.wake()
  }

  /** After any error a session may still have its operation active: it is closed and another one takes its place. */
  giveBack(session: Handle, outcome: 'done' | 'failed' | 'lost'): void {
    let next: Handle | undefined = session
    if (outcome === 'failed') next = this.#replace(session)
    else if (outcome === 'lost') next = undefined
    this.#pool.giveBack(session, next)
  }

  /** False if every session failed and none could be opened in its place: only connecting anew helps. */
  get hasSessions(): boolean {
    return this.#pool.size > 0
  }

  /** Runs `work` with a read-write session of its own. */
  withReadWriteSession<T>(work: (session: Handle) => T): T {
    const session = this.#open(CKF.RW_SESSION)
    try {
      return work(session)
    } finally {
      calling('C_CloseSession', () => this.#module.C_CloseSession(session))
    }
  }

  /** The private key with this CKA_ID; exactly one, and with the label if the URI has one. */
  findKey(session: Handle, key: Pick<KeyConfig, 'name' | 'uri'>): Handle {
    const template = [
      { type: CKA.CLASS, value: CKO.PRIVATE_KEY },
      { type: CKA.ID, value: Buffer.from(key.uri.id) },
    ]
    const [found, second] = findObjects(this.#module, session, template, 2)
    if (found === undefined) throw new HsmError('unavailable', 'key_not_found', `token has no key ${key.name}`)
    if (second !== undefined) throw new HsmError('unavailable', 'key_not_unique', `token has several keys ${key.name}`)
    if (key.uri.object !== undefined) {
      const label = unpadded(Buffer.from(readAttribute(this.#module, session, found, CKA.LABEL)).toString('utf8'))
      if (label !== key.uri.object)
        throw new HsmError('unavailable', 'wrong_label', `key ${key.name} has another label`)
    }
    return found
  }

  /** Throws as the module does if the token is gone. */
  keepAlive(): void {
    this.#refill()
    const session = this.take()
    if (session === undefined) return
    try {
      calling('C_GetSessionInfo', () => this.#module.C_GetSessionInfo(session))
      this.giveBack(session, 'done')
    } catch (error) {
      this.giveBack(session, 'lost')
      throw error
    }
  }

  allowOneLogin(): void {
    this.#operatorSaidSo = true
  }

  /** One attempt ever: a wrong PIN is latched durably before anything else can ask for another one. */
  #login(session: Handle, flags: number): void {
    const operatorSaidSo = this.#operatorSaidSo
    this.#operatorSaidSo = false
    if ((flags & (CKF.USER_PIN_LOCKED | CKF.USER_PIN_FINAL_TRY)) !== 0) {
      throw this.#latch('PIN is locked or one attempt away from it; log in by hand first')
    }
    if ((flags & CKF.USER_PIN_COUNT_LOW) !== 0 && !operatorSaidSo) {
      throw this.#latch('somebody has given a wrong PIN since the last login; check the PIN file, then unlatch')
    }
    const pin = readPin(this.pinRotation.loginFile)
    const row = { atMs: Date.now(), key: this.latchName, act: 'login', count: 1, digest: new Uint8Array(32) }
    this.#state.transaction(() => this.#state.account(row, 0))
    try {
      calling('C_Login', () => this.#module.C_Login(session, CKU.USER, pin))
      this.pinRotation.accepted()
    } catch (error) {
      if (isPinFailure(error)) {
        throw this.#latch(`token refused the PIN (${String(error)})`, () => this.pinRotation.refused())
      }
      // Login is of the process, not of the session.
      if (!isAlreadyLoggedIn(error)) throw error
    }
    this.#loggedIn = true
  }

  /** `more` adds to the reason, in the transaction that latches. */
  #latch(cause: string, more: () => string = () => ''): HsmError {
    const reason = this.#state.transaction(() => {
      const whole = `${cause}${more()}`
      this.#state.setLatch(this.latchName, whole, Date.now())
      return whole
    })
    this.#log.error('token latched', { token: this.name, reason })
    return new HsmError('latched', 'token_latched', reason)
  }

  #open(flags = 0): Handle {
    const slot = this.#slot
    if (slot === undefined) throw new HsmError('unavailable', 'token_absent', `token ${this.name} is not connected`)
    const always = this.#profile.quirks.includes('read_write_sessions_only') ? CKF.RW_SESSION : 0
    const all = CKF.SERIAL_SESSION | flags | always
    return Buffer.from(calling('C_OpenSession', () => this.#module.C_OpenSession(slot, all)))
  }

  /** Opens what could not be opened when other sessions failed, as far as the token has room by now. */
  #refill(): void {
    try {
      while (this.#pool.size < this.#sessionCount) this.#pool.add(this.#open())
    } catch (error) {
      this.#log.warn('session could not be opened', { token: this.name, error: String(error) })
    }
  }

  #replace(session: Handle): Handle | undefined {
    try {
      calling('C_CloseSession', () => this.#module.C_CloseSession(session))
      return this.#open()
    } catch (error) {
      this.#log.warn('session could not be replaced', { token: this.name, error: String(error) })
      return undefined
    }
  }
}

/** The one token that has every attribute of the URI: neither serial nor label is unique by itself. */
export function findToken(module: Cryptoki, uri: TokenUri): { slot: Handle; facts: TokenFacts } {
  const failures: unknown[] = []
  const matching = calling('C_GetSlotList', () => module.C_GetSlotList(true))
    .flatMap((slot) => {
      try {
        return [{ slot: Buffer.from(slot), facts: readFacts(module, slot) }]
      } catch (error) {
        // A token that is away must not keep us from finding another one.
        failures.push(error)
        return []
      }
    })
    .filter(
      ({ facts }) =>
        (uri.token ?? facts.label) === facts.label &&
        (uri.serial ?? facts.serial) === facts.serial &&
        (uri.model ?? facts.model) === facts.model &&
        (uri.manufacturer ?? facts.manufacturer) === facts.manufacturer,
    )
  const [found, second] = matching
  if (second !== undefined) throw new HsmError('unavailable', 'token_not_unique', 'several tokens match the URI')
  if (found !== undefined) return found
  const [cause] = failures
  if (cause !== undefined) throw cause
  throw new HsmError('unavailable', 'token_absent', 'no token matches its URI')
}

/** What the library says of itself. */
export function readLibrary(module: Cryptoki): Pick<Identity, 'libraryManufacturer' | 'libraryDescription'> {
  const { manufacturerID, libraryDescription } = calling('C_GetInfo', () => module.C_GetInfo())
  return { libraryManufacturer: unpadded(manufacturerID), libraryDescription: unpadded(libraryDescription) }
}

export function readFacts(module: Cryptoki, slot: Handle): TokenFacts {
  const read = calling('C_GetTokenInfo', () => module.C_GetTokenInfo(slot))
  return {
    label: unpadded(read.label),
    serial: unpadded(read.serialNumber),
    model: unpadded(read.model),
    manufacturer: unpadded(read.manufacturerID),
    flags: read.flags,
  }
}

/** The PIN as its file has it, without a final newline; a file that others can read is refused. */
export function readPin(path: string): string {
  const { mode, uid } = stat(path)
  // systemd gives its credentials by an ACL, whose mask shows as the group's right to read.
  const barred = dirname(path) === process.env['CREDENTIALS_DIRECTORY'] ? 0o037 : 0o077
  if ((mode & barred) !== 0) {
    throw new HsmError('unavailable', 'pin_file_mode', `PIN file ${path} may be read by others; chmod 600`)
  }
  if (uid !== process.getuid?.() && uid !== 0) {
    throw new HsmError('unavailable', 'pin_file_owner', `PIN file ${path} belongs to another user`)
  }
  const pin = readFileSync(path, 'utf8').replace(/\r?\n$/, '')
  if (pin === '' || pin.includes('\n')) {
    throw new HsmError('unavailable', 'pin_file_empty', `PIN file ${path} does not hold one line`)
  }
  return pin
}

function stat(path: string): { mode: number; uid: number } {
  try {
    return statSync(path)
  } catch (error) {
    throw new HsmError('unavailable', 'pin_file_missing', `PIN file ${path} cannot be read`, { cause: error })
  }
}
