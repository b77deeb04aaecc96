/**
 * What the socket of each role offers. A service's process gets the socket of its own role alone, so whoever takes it
 * over cannot speak for the others (docs/security.md, "What each captured process can and cannot sign").
 */
import { HsmError, type AgentStatus, type KeyPurpose } from './signing.ts'
import type { WireValue } from './wire.ts'

export type Role = 'ca' | 'log' | 'timestamp' | 'trust' | 'audit'

/** No role signs CA certificates or administers: that is the admin socket's. */
export const PURPOSES_OF_ROLE: Readonly<Record<Role, readonly KeyPurpose[]>> = {
  ca: ['certificate'],
  log: ['treeHead', 'witnessHead', 'sct', 'set'],
  timestamp: ['timestamp'],
  trust: ['tuf'],
  audit: ['accountHead'],
}

/** What a role may ask of its keys beside signatures. */
const QUESTIONS_OF_ROLE: Readonly<Record<Role, readonly string[]>> = {
  ca: [],
  log: ['guardedHead', 'reportHead'],
  timestamp: [],
  trust: ['tufVersions'],
  audit: [],
}

/** What a role may ask that names no key. */
const ACCOUNTS_OF_ROLE: Partial<Readonly<Record<Role, readonly string[]>>> = {
  audit: ['account', 'useDigests'],
}

export const ROLES = Object.keys(PURPOSES_OF_ROLE) as readonly Role[] // the keys of the record above

/** What a check needs of a configured key. */
interface RoleKey {
  readonly name: string
  readonly purposes: ReadonlySet<KeyPurpose>
  readonly origin: string | undefined
}

/** The part of the agent that one role may reach. */
export class RoleScope {
  readonly #role: Role
  readonly #named: () => readonly string[] | undefined
  readonly #keys: () => ReadonlyMap<string, RoleKey>

  /**
   * `named`: keys of the role that this socket is for; all of them unless told. Both give what is configured just now.
   */
  constructor(role: Role, named: () => readonly string[] | undefined, keys: () => ReadonlyMap<string, RoleKey>) {
    this.#role = role
    this.#named = named
    this.#keys = keys
  }

  /** Throws `refused` unless the role has this method and the key that `argument` names; another role's is `unknown_key`. */
  check(method: string, argument: WireValue): void {
    if (method === 'status' || ACCOUNTS_OF_ROLE[this.#role]?.includes(method) === true) return
    const offered = ['key', ...PURPOSES_OF_ROLE[this.#role], ...QUESTIONS_OF_ROLE[this.#role]]
    if (!offered.includes(method)) {
      throw new HsmError('refused', 'wrong_socket', `${method} is not for the socket of the role ${this.#role}`)
    }
    const key = this.#keys().get(textIn(argument, method === 'key' ? 'name' : 'key'))
    if (key === undefined || !this.#has(key)) {
      throw new HsmError('unknown_key', 'wrong_socket', `the socket of the role ${this.#role} has no such key`)
    }
  }

  /** The status without other roles' keys and logs. */
  narrow(status: AgentStatus): AgentStatus {
    const own = [...this.#keys().values()].filter((key) => this.#has(key))
    const names = new Set(own.map(({ name }) => name))
    const origins = new Set(own.map(({ origin }) => origin))
    return {
      ...status,
      keys: status.keys.filter(({ name }) => names.has(name)),
      guards: status.guards.filter(({ origin }) => origins.has(origin)),
    }
  }

  #has(key: RoleKey): boolean {
    if (this.#named()?.includes(key.name) === false) return false
    return PURPOSES_OF_ROLE[this.#role].some((purpose) => key.purposes.has(purpose))
  }
}

/** The field of a request that has not been read yet; what is no text names no key. */
function textIn(argument: WireValue, field: string): string {
  if (typeof argument !== 'object' || argument === null || Array.isArray(argument)) return ''
  const value = (argument as Readonly<Record<string, WireValue | undefined>>)[field] // a map, or bytes without fields
  return typeof value === 'string' ? value : ''
}
