/** Requests and answers of the agent's protocol, as values of `wire.ts`. */
import { HsmError, type HsmErrorCode } from './signing.ts'
import { WireError, type WireValue } from './wire.ts'

/** Methods of both channels; each is a method of `SigningAgent` of the same name. */
export const SIGNING_METHODS = [
  'key',
  'status',
  'guardedHead',
  'reportHead',
  'tufVersions',
  'account',
  'useDigests',
  'accountHead',
  'certificate',
  'treeHead',
  'sct',
  'set',
  'timestamp',
  'tuf',
] as const

/** Methods of the admin channel alone; each is one of `AdminAgent`. */
export const ADMIN_METHODS = [
  'tokens',
  'latches',
  'keyRecords',
  'objects',
  'rotatePin',
  'wrapKey',
  'unwrapKey',
  'caCertificate',
  'certificateRequest',
  'ceremonyStatement',
  'generateKey',
  'destroyKey',
  'unlatch',
  'adoptHead',
  'raiseCap',
  'reload',
] as const

export type Method = (typeof SIGNING_METHODS)[number] | (typeof ADMIN_METHODS)[number]

export interface AgentRequest {
  /** Chosen by the client; unique among its requests under way. */
  readonly id: number
  readonly method: string
  /** How long the client will wait from now on. A duration, so that no two clocks are compared. */
  readonly timeoutMs: number
  readonly argument: WireValue
}

export type AgentAnswer =
  | { readonly id: number; readonly result: WireValue }
  | { readonly id: number; readonly error: HsmError }

const ERROR_CODES: readonly string[] = [
  'busy',
  'unavailable',
  'refused',
  'latched',
  'unknown_key',
] satisfies readonly HsmErrorCode[]

export function requestValue(request: AgentRequest): WireValue {
  return [request.id, request.method, request.timeoutMs, request.argument]
}

/** Throws `WireError`. */
export function readRequest(value: WireValue): AgentRequest {
  if (!Array.isArray(value) || value.length !== 4) throw new WireError('request is not a list of four')
  const [id, method, timeoutMs, argument]: readonly WireValue[] = value
  if (typeof id !== 'number' || typeof method !== 'string' || typeof timeoutMs !== 'number' || argument === undefined) {
    throw new WireError('request is not id, method, timeout and argument')
  }
  return { id, method, timeoutMs, argument }
}

export function answerValue(answer: AgentAnswer): WireValue {
  if ('result' in answer) return [answer.id, true, answer.result]
  const { code, reason, message } = answer.error
  return [answer.id, false, [code, reason, message]]
}

/** Throws `WireError`. */
export function readAnswer(value: WireValue): AgentAnswer {
  if (!Array.isArray(value) || value.length !== 3) throw new WireError('answer is not a list of three')
  const [id, succeeded, content]: readonly WireValue[] = value
  if (typeof id !== 'number' || content === undefined) throw new WireError('answer has no id')
  if (succeeded === true) return { id, result: content }
  const [code, reason, message]: readonly WireValue[] = Array.isArray(content) ? content : []
  if (typeof code !== 'string' || !ERROR_CODES.includes(code)) throw new WireError('answer has no known error code')
  if (typeof reason !== 'string' || typeof message !== 'string') throw new WireError('answer has no error')
  return { id, error: new HsmError(code as HsmErrorCode, reason, message) } // just checked
}
