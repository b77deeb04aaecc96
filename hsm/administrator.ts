/**
 * What the agent does beside signing: tells of its keys and tokens, and, for the admin channel alone, makes and destroys
 * keys, lifts latches and reads its configuration again. Each act is a line of the account before it is done.
 */
import { loadAgentConfig, AgentConfigError, type AgentConfig } from './agent-config.ts'
import type { AgentState } from './agent-state.ts'
import { isKeyKind } from './key-kinds.ts'
import { agentLog as log } from './log-line.ts'
import type { HsmModule } from './module.ts'
import { type Fields, refuse } from './purposes/purpose.ts'
import { guardedHead } from './purposes/tree-head.ts'
import { tufVersions } from './purposes/tuf.ts'
import { capOf, raiseCap } from './raise-cap.ts'
import type { SigningDesk } from './signing-desk.ts'
import type { AgentStatus } from './signing.ts'
import type { WireValue } from './wire.ts'

/** What the administrator works on; the process owns it all. */
export interface AdministratorParts {
  readonly configPath: string
  readonly config: AgentConfig
  readonly state: AgentState
  readonly module: HsmModule
  readonly desk: SigningDesk
}

/** Some 150 bytes each: a reply stays far below the longest frame. */
const MAX_ACCOUNT_LINES = 1000

export class Administrator {
  readonly #configPath: string
  readonly #state: AgentState
  readonly #module: HsmModule
  readonly #desk: SigningDesk
  #config: AgentConfig

  constructor(parts: AdministratorParts) {
    this.#configPath = parts.configPath
    this.#config = parts.config
    this.#state = parts.state
    this.#module = parts.module
    this.#desk = parts.desk
  }

  /** Whether the channel may ask for `method` is the caller's check. Throws `HsmError`. */
  async administer(method: string, request: Fields): Promise<WireValue> {
    switch (method) {
      case 'key':
        return this.#describe(request)
      case 'guardedHead':
        return { ...guardedHead(request, this.#desk.context(request.text('key'))) }
      case 'tufVersions':
        return tufVersions(request, this.#desk.context(request.text('key')))
      case 'account':
        return this.#accountLines(request)
      case 'status':
        return await this.#status()
      case 'generateKey':
        return this.#generateKey(request)
      case 'destroyKey':
        return this.#destroyKey(request)
      case 'raiseCap':
        return this.#raiseCap(request)
      case 'unlatch':
        return await this.#unlatch(request)
      default:
        return await this.#reload()
    }
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

  async #status(): Promise<WireValue> {
    // At the start the answer waits for the first attempt to connect, which takes milliseconds if it succeeds.
    await Promise.race([this.#module.settled(), new Promise((resolve) => setTimeout(resolve, 500))])
    const fault = this.#module.fault()
    const latchOf = (name: string) => this.#state.latch(name) ?? ''
    const status: AgentStatus = {
      ready: fault === undefined,
      reason: fault?.message ?? '',
      tokens: this.#module.tokens().map((token) => token.status()),
      keys: [...this.#config.keys.values()].map(({ name, kind, purposes }) => ({
        name,
        kind,
        purposes: [...purposes],
        uses: this.#state.uses(name),
        latched: latchOf(`key:${name}`) || (this.#module.keyFault(name)?.message ?? ''),
        ...this.#capOf(name),
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

  #generateKey(request: Fields): WireValue {
    const token = request.text('token')
    const label = request.text('label')
    const kind = request.text('kind')
    request.end()
    if (!/^[a-zA-Z0-9_-]{1,63}$/.test(label)) refuse('bad_label', 'label is not 1 to 63 of a-z A-Z 0-9 _ -')
    if (!isKeyKind(kind)) refuse('bad_kind', `keys of kind ${JSON.stringify(kind)} are not made here`)
    const key = this.#module.generateKey({ token, label, kind })
    this.#account(`token:${token}`, 'generateKey', key.spkiDer)
    log.info('key generated', { token, label, kind, id: key.idHex, unproven: key.unproven })
    return { ...key }
  }

  #destroyKey(request: Fields): WireValue {
    const token = request.text('token')
    const idHex = request.text('idHex')
    request.end()
    if (!/^(?:[0-9a-f]{2}){1,255}$/.test(idHex)) refuse('bad_id', 'id is not hex')
    const id = Uint8Array.from(Buffer.from(idHex, 'hex'))
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
      await this.#module.reconnect()
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
    const { keys } = config
    for (const key of keys.values()) {
      if (!this.#config.tokens.has(key.token)) refuse('unknown_token', `a new token (${key.token}) needs a restart`)
    }
    this.#config = { ...this.#config, keys }
    this.#module.configure(this.#config)
    this.#desk.configure(keys)
    await this.#module.reconnect()
    log.info('configuration read again', { keys: [...keys.keys()] })
    return null
  }

  #account(key: string, act: string, subject: Uint8Array): void {
    const digest = new Uint8Array(32)
    digest.set(subject.subarray(-32), 0)
    this.#state.transaction(() => this.#state.account({ atMs: Date.now(), key, act, count: 1, digest }, 0))
  }
}
