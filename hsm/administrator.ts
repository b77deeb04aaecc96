/**
 * What the agent does beside signing: tells of its keys and tokens, and, for the admin channel alone, makes and destroys
 * keys, lifts latches and reads its configuration again. Each act that changes something is a line of the account.
 */
import { isDeepStrictEqual } from 'node:util'
import type { KeyRecord, Reloaded, TokenDetails, WrappedKey } from './administration.ts'
import { loadAgentConfig, AgentConfigError, type AgentConfig, type TokenConfig } from './agent-config.ts'
import type { AccountRow, AgentState } from './agent-state.ts'
import { unwrapKey, wrapKey } from './key-backup.ts'
import { isKeyKind, kindOfSpki } from './key-kinds.ts'
import { agentLog as log } from './log-line.ts'
import type { HsmModule } from './module.ts'
import { checkPin, randomPin, type PinRotation } from './pin-rotation.ts'
import { calling, isLost, isNoRoom, isPinUnchanged, isWrongPin, Pkcs11Failure } from './pkcs11.ts'
import { formatKeyUri } from './pkcs11-uri.ts'
import { type Fields, refuse } from './purposes/purpose.ts'
import { adoptedHead, guardedHead, reportedHead } from './purposes/tree-head.ts'
import { tufVersions } from './purposes/tuf.ts'
import { capOf, raiseCap } from './raise-cap.ts'
import type { SigningDesk } from './signing-desk.ts'
import { HsmError, type AgentStatus } from './signing.ts'
import { readPin } from './token.ts'
import { readTokenDetails } from './token-details.ts'
import { listObjects } from './token-objects.ts'
import type { WireValue } from './wire.ts'

/** What the administrator works on; the process owns it all. */
export interface AdministratorParts {
  readonly configPath: string
  readonly config: AgentConfig
  readonly state: AgentState
  readonly module: HsmModule
  readonly desk: SigningDesk
  /** Why no time may be signed just now. */
  readonly clockFault: () => string | undefined
}

/** Some 150 bytes each: a reply stays far below the longest frame. */
const MAX_ACCOUNT_LINES = 1000

/** A frame is a MiB at most. */
const MAX_DIGEST_BYTES = 512 * 1024

export class Administrator {
  readonly #configPath: string
  readonly #state: AgentState
  readonly #module: HsmModule
  readonly #desk: SigningDesk
  readonly #clockFault: () => string | undefined
  #config: AgentConfig
  /** Changes of tokens, one after the other. */
  #turn: Promise<void> = Promise.resolve()

  constructor(parts: AdministratorParts) {
    this.#configPath = parts.configPath
    this.#config = parts.config
    this.#state = parts.state
    this.#module = parts.module
    this.#desk = parts.desk
    this.#clockFault = parts.clockFault
  }

  /** As it is in force just now. */
  get config(): AgentConfig {
    return this.#config
  }

  /** Whether the channel may ask for `method` is the caller's check. Throws `HsmError`. */
  async administer(method: string, request: Fields): Promise<WireValue> {
    try {
      return await this.#act(method, request)
    } catch (error) {
      throw error instanceof Pkcs11Failure ? inWords(error) : error
    }
  }

  async #act(method: string, request: Fields): Promise<WireValue> {
    switch (method) {
      case 'key':
        return this.#describe(request)
      case 'guardedHead':
        return { ...guardedHead(request, this.#desk.context(request.text('key'))) }
      case 'reportHead':
        return this.#reportHead(request)
      case 'adoptHead':
        return this.#adoptHead(request)
      case 'tufVersions':
        return tufVersions(request, this.#desk.context(request.text('key')))
      case 'account':
        return this.#accountLines(request)
      case 'useDigests':
        return this.#useDigests(request)
      case 'status':
        return await this.#status()
      case 'tokens':
        return this.#tokens(request)
      case 'latches':
        return this.#latches(request)
      case 'keyRecords':
        return this.#keyRecords(request)
      case 'objects':
        return this.#objects(request)
      case 'rotatePin':
        return await this.#rotatePin(request)
      case 'wrapKey':
        return this.#wrapKey(request)
      case 'unwrapKey':
        return this.#unwrapKey(request)
      case 'generateKey':
        return this.#generateKey(request)
      case 'destroyKey':
        return this.#destroyKey(request)
      case 'raiseCap':
        return this.#raiseCap(request)
      case 'unlatch':
        return await this.#unlatch(request)
      default:
        return await this.#inTurn(async () => await this.#reload())
    }
  }

  #reportHead(request: Fields): WireValue {
    const key = request.text('key')
    const context = this.#desk.context(key)
    this.#state.transaction(() => reportedHead(request, context))
    this.#account(key, 'reportHead', context.keyId)
    log.error('an origin is latched: its guard was rolled back', { key })
    return null
  }

  #adoptHead(request: Fields): WireValue {
    const key = request.text('key')
    const context = this.#desk.context(key)
    const head = this.#state.transaction(() => adoptedHead(request, context))
    this.#account(key, 'adoptHead', head.rootHash)
    log.warn('a head was adopted', { key, origin: head.origin, size: head.size })
    return null
  }

  #describe(request: Fields): WireValue {
    const { key, keyId } = this.#desk.context(request.text('name'))
    request.end()
    return { name: key.name, kind: key.kind, spkiDer: key.spkiDer, keyId, purposes: [...key.purposes] }
  }

  /** A part of the account, for backups and for whoever reconciles: digests and counts, nothing that a key could be used with. */
  #accountLines(request: Fields): WireValue {
    const from = request.count('from')
    const limit = request.count('limit')
    request.end()
    return this.#state.accountLines(Math.max(1, from), Math.min(limit, MAX_ACCOUNT_LINES)).map((line) => ({ ...line }))
  }

  /** What stands behind the lines for several uses, so that each can be looked for. */
  #useDigests(request: Fields): WireValue {
    const from = request.count('from')
    request.end()
    return this.#state.useDigests(from, MAX_DIGEST_BYTES).map((line) => ({ ...line }))
  }

  async #status(): Promise<WireValue> {
    // At the start the answer waits for the first attempt to connect, which takes milliseconds if it succeeds.
    await Promise.race([this.#module.settled(), new Promise((resolve) => setTimeout(resolve, 500))])
    const replaced = this.#state.replaced()
    const fault = replaced === undefined ? this.#module.fault() : { message: `state_replaced: ${replaced}` }
    const { confirmedBy } = this.#config.clock
    const latchOf = (name: string) => this.#state.latch(name) ?? ''
    const status: AgentStatus = {
      ready: fault === undefined,
      reason: fault?.message ?? '',
      startedAtMs: Math.round(performance.timeOrigin),
      queue: this.#desk.queue(),
      clock: {
        confirmedBy: typeof confirmedBy === 'string' ? confirmedBy : 'command',
        fault: this.#clockFault() ?? '',
      },
      tokens: this.#module.tokenStatus(),
      keys: [...this.#config.keys.values()].map(({ name, kind, purposes }) => ({
        name,
        kind,
        purposes: [...purposes],
        uses: this.#state.uses(name),
        latched: latchOf(`key:${name}`) || (this.#module.keyFault(name)?.message ?? ''),
        ...this.#capOf(name),
        places: this.#module.places(name),
      })),
      guards: this.#state.guards().map(({ origin, size, rootHash }) => ({
        origin,
        size,
        rootHashHex: Buffer.from(rootHash).toString('hex'),
        latched: latchOf(`origin:${origin}`),
      })),
    }
    return status as unknown as WireValue // plain data of text, numbers and booleans
  }

  #tokens(request: Fields): WireValue {
    request.end()
    const details = this.#module.tokens().map((token): TokenDetails => {
      const { uri } = this.#tokenConfig(token.name)
      const latched = this.#state.latch(token.latchName) ?? ''
      const { pinRotation, profile } = token
      const { idBytes } = profile
      const common = { ...token.status(), latched, pinRotation: pinRotation.phase ?? ('' as const), idBytes }
      try {
        return { ...common, fault: '', ...this.#module.onModule((module) => readTokenDetails(module, uri)) }
      } catch (error) {
        return { ...common, fault: error instanceof Error ? error.message : 'unknown', ...NOTHING_TOLD }
      }
    })
    return details as unknown as WireValue // plain data of text, numbers and booleans
  }

  #latches(request: Fields): WireValue {
    request.end()
    return this.#state.latches().map((latch) => ({ ...latch }))
  }

  #keyRecords(request: Fields): WireValue {
    request.end()
    const latchOf = (name: string) => this.#state.latch(name) ?? ''
    const inPlaces = [...this.#config.keys.values()].flatMap((key) => key.places.map((place) => ({ key, place })))
    const records = inPlaces.map(
      ({ key: { name, kind, spkiDer, purposes, origin }, place }): KeyRecord => ({
        name,
        token: place.token,
        idHex: Buffer.from(place.uri.id).toString('hex'),
        kind,
        spkiDer,
        purposes: [...purposes],
        origin: origin ?? '',
        uses: this.#state.uses(name),
        latched: latchOf(`key:${name}`) || (origin === undefined ? '' : latchOf(`origin:${origin}`)),
        fault: this.#module.keyFault(name)?.message ?? '',
      }),
    )
    return records as unknown as WireValue // plain data of text, numbers and bytes
  }

  #objects(request: Fields): WireValue {
    const token = request.text('token')
    const offset = request.count('offset')
    request.end()
    const page = this.#module.onToken(token, (module, session) => listObjects(module, session, offset))
    return page as unknown as WireValue // plain data of text, numbers and bytes
  }

  async #rotatePin(request: Fields): Promise<WireValue> {
    const name = request.text('token')
    const given = request.text('newPin')
    request.end()
    return await this.#inTurn(async () => await this.#rotate(name, given))
  }

  /** A second change of a PIN would take the first one's file for its own; a reload might drop the token meanwhile. */
  async #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(change)
    this.#turn = turn.then(
      () => undefined,
      () => undefined,
    )
    return await turn
  }

  async #rotate(name: string, given: string): Promise<WireValue> {
    const { uri, pinFile } = this.#tokenConfig(name)
    const token = this.#module.tokens().find((each) => each.name === name)
    if (token === undefined) return refuse('unknown_token', `agent has no token ${name}`)
    const rotation = token.pinRotation
    // One that is not settled yet must not be overwritten: its new PIN may be the token's only one.
    if (rotation.phase !== undefined && this.#state.latch(token.latchName) === undefined) {
      await this.#module.reconnect(name)
    }
    const account = () => this.#state.account(rowOf(`token:${name}`, 'rotatePin', new Uint8Array(0)), 0)
    const latched = this.#state.latch(token.latchName)
    if (latched !== undefined) {
      if (!rotation.interrupted) throw new HsmError('latched', 'token_latched', latched)
      rotation.changed(() => {
        account()
        this.#state.liftLatch(token.latchName)
      })
      token.allowOneLogin()
    } else {
      if (rotation.phase !== undefined) return waitForToken(name)
      const { pinLength } = this.#module.onModule((module) => readTokenDetails(module, uri))
      if (given !== '') checkPin(given, pinLength)
      const newPin = given === '' ? randomPin(pinLength) : given
      const oldPin = readPin(pinFile)
      rotation.begin(newPin, account)
      this.#setPin(name, oldPin, newPin, rotation)
      rotation.changed()
    }
    await this.#module.reconnect(name)
    const again = this.#state.latch(token.latchName)
    if (again !== undefined) throw new HsmError('latched', 'token_latched', again)
    if (rotation.phase !== undefined) return waitForToken(name)
    log.warn('PIN changed', { token: name, resumed: latched !== undefined })
    return { resumed: latched !== undefined }
  }

  /** C_SetPIN, whose failure leaves it open whether the PIN was changed, but for those that tell. */
  #setPin(name: string, oldPin: string, newPin: string, rotation: PinRotation): void {
    try {
      this.#module.onToken(name, (module, session) =>
        calling('C_SetPIN', () => module.C_SetPIN(session, oldPin, newPin)),
      )
    } catch (error) {
      if (isPinUnchanged(error)) rotation.abandon()
      if (isWrongPin(error)) {
        const reason = `token refused the old PIN when it was to be changed (${String(error)}); check the PIN file`
        this.#state.transaction(() => this.#state.setLatch(`token:${name}`, reason, Date.now()))
        throw new HsmError('latched', 'token_latched', reason, { cause: error })
      }
      if (isPinUnchanged(error)) return refuse('pin_not_changed', `token does not take the new PIN (${String(error)})`)
      const message = `it is not known whether token ${name} took the new PIN (${String(error)}); run the command again`
      throw new HsmError('unavailable', 'pin_rotation_interrupted', message, { cause: error })
    }
  }

  #wrapKey(request: Fields): WireValue {
    const token = request.text('token')
    const id = idOf(request.text('idHex'))
    request.end()
    this.#account(`token:${token}`, 'wrapKey', id)
    const key = this.#module.onToken(token, (module, session) => wrapKey(module, session, id))
    log.warn('key wrapped for a backup', { token, id: key.idHex, kek: key.kekIdHex })
    return { ...key }
  }

  #unwrapKey(request: Fields): WireValue {
    const token = request.text('token')
    const key = wrappedKeyIn(request.fields('key'))
    request.end()
    this.#account(`token:${token}`, 'unwrapKey', key.spkiDer)
    const { unproven, already } = this.#module.onToken(token, (module, session) => unwrapKey(module, session, key))
    log.warn('key restored from a backup', { token, id: key.idHex, label: key.label, already })
    const { idHex, spkiDer, kind, label } = key
    const tokenLabel =
      this.#module
        .tokens()
        .find(({ name }) => name === token)
        ?.status().label ?? ''
    const uri = formatKeyUri({ token: tokenLabel, id: idOf(idHex), object: label })
    return { idHex, spkiDer, kind, token, uri, unproven, already }
  }

  #tokenConfig(name: string): TokenConfig {
    return this.#config.tokens.get(name) ?? refuse('unknown_token', `agent has no token ${name}`)
  }

  #generateKey(request: Fields): WireValue {
    const token = request.text('token')
    const label = request.text('label')
    const kind = request.text('kind')
    const backup = request.flag('backup')
    const idHex = request.optionalText('idHex')
    request.end()
    if (!/^[a-zA-Z0-9_-]{1,63}$/.test(label)) refuse('bad_label', 'label is not 1 to 63 of a-z A-Z 0-9 _ -')
    if (!isKeyKind(kind)) refuse('bad_kind', `keys of kind ${JSON.stringify(kind)} are not made here`)
    const key = this.#module.generateKey({ token, label, kind, backup, ...(idHex !== '' && { id: idOf(idHex) }) })
    this.#account(`token:${token}`, 'generateKey', key.spkiDer)
    log.info('key generated', { token, label, kind, backup, id: key.idHex, unproven: key.unproven })
    return { ...key }
  }

  #destroyKey(request: Fields): WireValue {
    const token = request.text('token')
    const idHex = request.text('idHex')
    request.end()
    const id = idOf(idHex)
    this.#account(`token:${token}`, 'destroyKey', id)
    this.#module.destroyKey(token, id)
    log.warn('key destroyed', { token, id: idHex })
    return null
  }

  #capOf(name: string): Partial<Pick<AgentStatus['keys'][number], 'cap'>> {
    const key = this.#config.keys.get(name)
    return key?.purposes.has('certificate') === true ? { cap: capOf(key, this.#state, Date.now()) } : {}
  }

  #raiseCap(request: Fields): WireValue {
    const { key } = this.#desk.context(request.text('key'))
    const cap = raiseCap(request, key, this.#state, Date.now())
    log.warn('cap raised', { key: key.name, ...cap })
    return { ...cap }
  }

  async #unlatch(request: Fields): Promise<WireValue> {
    const latch = request.text('latch')
    request.end()
    const lifted = this.#state.transaction(() => this.#state.liftLatch(latch))
    if (!lifted) refuse('no_such_latch', `nothing is latched under ${latch}`)
    this.#account(latch, 'unlatch', new Uint8Array(0))
    log.warn('latch lifted', { latch })
    const token = this.#module.tokens().find(({ latchName }) => latchName === latch)
    if (token !== undefined) {
      token.allowOneLogin()
      await this.#module.reconnect(token.name)
    }
    return null
  }

  async #reload(): Promise<WireValue> {
    let config: AgentConfig
    try {
      config = loadAgentConfig(this.#configPath)
    } catch (error) {
      if (error instanceof AgentConfigError) return refuse('bad_configuration', error.message)
      throw error
    }
    const former = this.#config
    const { keys, tokens, roleSockets } = config
    // What is new is there before anybody may ask for it, and what is gone until the last who may has been answered.
    await this.#module.extend(config)
    this.#config = { ...former, keys, tokens, roleSockets }
    await this.#desk.configure(keys)
    await this.#module.retire(config)
    const reloaded: Reloaded = {
      keys: changed(former.keys, keys),
      tokens: changed(former.tokens, tokens),
      faults: this.#faults(),
      needsRestart: STARTED_WITH.filter((setting) => !isDeepStrictEqual(former[setting], config[setting])),
    }
    log.info('configuration read again', { ...reloaded })
    return reloaded as unknown as WireValue // plain data of text
  }

  #faults(): Reloaded['faults'] {
    const ofTokens = this.#module.tokenStatus().map(({ name, fault }) => ({ name: `token:${name}`, message: fault }))
    const ofKeys = [...this.#config.keys.keys()].map((name) => {
      const fault = this.#module.keyFault(name) ?? this.#module.fault(name)
      return { name: `key:${name}`, message: fault?.message ?? '' }
    })
    return [...ofTokens, ...ofKeys].filter(({ message }) => message !== '')
  }

  #account(key: string, act: string, subject: Uint8Array): void {
    this.#state.transaction(() => this.#state.account(rowOf(key, act, subject), 0))
  }
}

/** Settings that no reload changes. */
const STARTED_WITH = [
  'stateFolder',
  'module',
  'signingSocket',
  'adminSocket',
  'allowedUids',
  'adminWhenSpawned',
  'sessions',
  'inFlight',
  'watchdogSeconds',
  'clock',
] as const satisfies readonly (keyof AgentConfig)[]

function changed(former: ReadonlyMap<string, unknown>, now: ReadonlyMap<string, unknown>): Reloaded['keys'] {
  return {
    added: [...now.keys()].filter((name) => !former.has(name)),
    dropped: [...former.keys()].filter((name) => !now.has(name)),
  }
}

const NOTHING_TOLD = {
  flags: [],
  sessions: { open: -1, max: -1 },
  memory: { publicFree: -1, privateFree: -1, privateTotal: -1 },
  pinLength: { min: -1, max: -1 },
} as const

function waitForToken(name: string): never {
  const message = `a change of the PIN of token ${name} is not complete; run the command again when the token is back`
  throw new HsmError('unavailable', 'pin_rotation_interrupted', message)
}

/** What an operator gets of a call that the token refused; a lost token is tried again by whoever asks again. */
function inWords(error: Pkcs11Failure): HsmError {
  if (isNoRoom(error)) {
    return new HsmError('refused', 'token_full', `token has no room for another object (${error.message})`, {
      cause: error,
    })
  }
  if (isLost(error))
    return new HsmError('unavailable', 'token_lost', `token was lost (${error.message})`, { cause: error })
  return new HsmError('refused', 'token_refused', `token refused it (${error.message})`, { cause: error })
}

/** A line of the account about an act that is no use of a key. */
function rowOf(key: string, act: string, subject: Uint8Array): Omit<AccountRow, 'sequence'> {
  const digest = new Uint8Array(32)
  digest.set(subject.subarray(-32), 0)
  return { atMs: Date.now(), key, act, count: 1, digest }
}

function idOf(idHex: string): Uint8Array {
  if (!/^(?:[0-9a-f]{2}){1,255}$/.test(idHex)) refuse('bad_id', 'id is not hex')
  return Uint8Array.from(Buffer.from(idHex, 'hex'))
}

function wrappedKeyIn(fields: Fields): WrappedKey {
  const label = fields.text('label')
  const idHex = fields.text('idHex')
  const kind = fields.text('kind')
  const spkiDer = fields.bytes('spkiDer')
  const mechanism = fields.text('mechanism')
  const kekIdHex = fields.text('kekIdHex')
  const wrapped = fields.bytes('wrapped')
  fields.end()
  if (!/^[a-zA-Z0-9_-]{1,63}$/.test(label)) refuse('bad_label', 'label is not 1 to 63 of a-z A-Z 0-9 _ -')
  if (!isKeyKind(kind) || kindOfSpki(spkiDer) !== kind) return refuse('bad_kind', 'kind and public key do not agree')
  if (mechanism !== 'AES-KWP') return refuse('bad_mechanism', `${JSON.stringify(mechanism)} is no mechanism of ours`)
  idOf(idHex)
  idOf(kekIdHex)
  return { label, idHex, kind, spkiDer, mechanism, kekIdHex, wrapped }
}
