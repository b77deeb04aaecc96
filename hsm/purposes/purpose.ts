/** What the purposes share: a request's fields, the context of a check, and what a check gives back. */
import { hash } from 'node:crypto'
import type { KeyConfig } from '../agent-config.ts'
import type { AgentState } from '../agent-state.ts'
import { HsmError } from '../signing.ts'
import type { WireValue } from '../wire.ts'
import type { WriterLeases } from '../writer-leases.ts'

/** What a check may look at. It writes to `state` only after the last check that can refuse. */
export interface CheckContext {
  readonly key: KeyConfig
  /** SHA-256 of the key's SPKI. */
  readonly keyId: Uint8Array
  readonly state: AgentState
  /** Who writes which log just now. */
  readonly leases: WriterLeases
  readonly nowMs: number
}

/** Bytes that the agent itself made or parsed, and nothing else, get to a key. */
export interface Statement {
  /** Hashed as the key's kind has it, and signed. */
  readonly message: Uint8Array
  /** What another key signs with it, if it can: the line for witnesses. */
  readonly second?: { readonly key: string; readonly message: Uint8Array }
  /** What the caller gets for a signature that verified, and for the second one. */
  readonly release: (signature: Uint8Array, second?: Uint8Array) => WireValue
}

/** A purpose: reads its request, checks it, and says what is to be signed. Throws `HsmError` to refuse. */
export type Check = (request: Fields, context: CheckContext) => Statement

/** Clocks of one machine drift by less; a time beyond it is a mistake or an attempt to date ahead. */
export const FUTURE_TOLERANCE_MS = 2000

/**
 * A batch whose signing failed half way is signed again from its start, so a time may lie this much before the last one
 * signed. Times far before it are an attempt to date back.
 */
const RESIGN_TOLERANCE_MS = 60_000

export function refuse(reason: string, message: string): never {
  throw new HsmError('refused', reason, message)
}

/**
 * Refuses a log's time in the future, older than the key's `maxEntryAgeSeconds` (24 hours unless configured: what an
 * outage left unsealed may be signed late), or before what was last signed under `clock`.
 */
export function checkLogTime(context: CheckContext, clock: string, timestampMs: number): void {
  const { state, nowMs, key } = context
  if (timestampMs > nowMs + FUTURE_TOLERANCE_MS) refuse('time_in_future', `time ${timestampMs} is in the future`)
  if (timestampMs < nowMs - key.maxEntryAgeSeconds * 1000) refuse('time_too_old', `time ${timestampMs} is too old`)
  if (timestampMs < state.clock(clock) - RESIGN_TOLERANCE_MS) {
    refuse('time_steps_back', `time ${timestampMs} is before what this key signed last`)
  }
}

/** Moves a clock on to `timestampMs`; never back. */
export function advanceClock(context: CheckContext, clock: string, timestampMs: number): void {
  if (timestampMs > context.state.clock(clock)) context.state.setClock(clock, timestampMs)
}

export function sha256(bytes: Uint8Array): Uint8Array {
  return hash('sha256', bytes, 'buffer')
}

export function equal(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a !== undefined && b !== undefined && Buffer.compare(a, b) === 0
}

/** The fields of one request, each asked for once by type; `end` refuses what nobody asked for. */
export class Fields {
  readonly #values: Map<string, WireValue>

  constructor(value: WireValue | undefined) {
    if (!isMap(value)) refuse('malformed', 'request is not a map')
    this.#values = new Map(Object.entries(value))
  }

  text(name: string): string {
    const value = this.#take(name)
    return typeof value === 'string' ? value : refuse('malformed', `${name} is not text`)
  }

  bytes(name: string): Uint8Array {
    const value = this.#take(name)
    return value instanceof Uint8Array ? value : refuse('malformed', `${name} is not a byte string`)
  }

  /** 32 bytes. */
  hash(name: string): Uint8Array {
    const bytes = this.bytes(name)
    return bytes.length === 32 ? bytes : refuse('malformed', `${name} is not 32 bytes`)
  }

  /** A count, an index or a time: not negative. */
  count(name: string): number {
    const value = this.#take(name)
    return typeof value === 'number' && value >= 0 ? value : refuse('malformed', `${name} is not a count`)
  }

  /** At most `limit` hashes of 32 bytes. */
  hashes(name: string, limit: number): Uint8Array[] {
    const value = this.#take(name)
    if (!Array.isArray(value) || value.length > limit) refuse('malformed', `${name} is not a list of hashes`)
    return value.map((item: WireValue) =>
      item instanceof Uint8Array && item.length === 32 ? item : refuse('malformed', `${name} has no hash in it`),
    )
  }

  /** False if it is not there. */
  flag(name: string): boolean {
    const value = this.#take(name) ?? false
    return typeof value === 'boolean' ? value : refuse('malformed', `${name} is not true or false`)
  }

  /** Text, empty if there is none. */
  optionalText(name: string): string {
    const value = this.#take(name) ?? ''
    return typeof value === 'string' ? value : refuse('malformed', `${name} is not text`)
  }

  fields(name: string): Fields {
    return new Fields(this.#take(name))
  }

  end(): void {
    const [left] = this.#values.keys()
    if (left !== undefined) refuse('malformed', `${left} is not part of this request`)
  }

  #take(name: string): WireValue | undefined {
    const value = this.#values.get(name)
    this.#values.delete(name)
    return value
  }
}

function isMap(value: WireValue | undefined): value is { readonly [key: string]: WireValue } {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)
}
