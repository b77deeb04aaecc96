/**
 * PKCS#11 as this project uses it: our own constants, errors with one shape, and attributes read one at a time.
 * pkcs11js has the constants only on its default export, and some not at all; `undefined` in a mechanism ends the process.
 */
import type { Attribute, Handle, Mechanism, PKCS11, Template } from 'pkcs11js'

export type { Attribute, Handle, Mechanism, Template }
export type Cryptoki = PKCS11

export const CKF = {
  /** Without it the module may assume one thread, and pkcs11js's asynchronous calls run on four: crashes within seconds. */
  OS_LOCKING_OK: 0x2,
  RW_SESSION: 0x2,
  SERIAL_SESSION: 0x4,
  USER_PIN_COUNT_LOW: 0x10000,
  USER_PIN_FINAL_TRY: 0x20000,
  USER_PIN_LOCKED: 0x40000,
  SO_PIN_COUNT_LOW: 0x100000,
  SO_PIN_FINAL_TRY: 0x200000,
  SO_PIN_LOCKED: 0x400000,
} as const

export const CKU = { SO: 0, USER: 1 } as const
export const CKO = { DATA: 0, CERTIFICATE: 1, PUBLIC_KEY: 2, PRIVATE_KEY: 3, SECRET_KEY: 4 } as const
export const CKK = { RSA: 0, EC: 3, AES: 0x1f, EC_EDWARDS: 0x40 } as const
export const CKM = {
  RSA_PKCS_KEY_PAIR_GEN: 0x0,
  RSA_PKCS: 0x1,
  RSA_PKCS_OAEP: 0x9,
  SHA_1: 0x220,
  EC_KEY_PAIR_GEN: 0x1040,
  ECDSA: 0x1041,
  EC_EDWARDS_KEY_PAIR_GEN: 0x1055,
  EDDSA: 0x1057,
  AES_KEY_GEN: 0x1080,
  AES_KEY_WRAP_PAD: 0x210a,
  /** The same (RFC 5649) under the number that PKCS#11 3.0 gave it. */
  AES_KEY_WRAP_KWP: 0x210b,
} as const

export const CKA = {
  CLASS: 0x0,
  TOKEN: 0x1,
  PRIVATE: 0x2,
  LABEL: 0x3,
  TRUSTED: 0x86,
  KEY_TYPE: 0x100,
  ID: 0x102,
  SENSITIVE: 0x103,
  ENCRYPT: 0x104,
  DECRYPT: 0x105,
  WRAP: 0x106,
  UNWRAP: 0x107,
  SIGN: 0x108,
  SIGN_RECOVER: 0x109,
  VERIFY: 0x10a,
  DERIVE: 0x10c,
  MODULUS: 0x120,
  MODULUS_BITS: 0x121,
  PUBLIC_EXPONENT: 0x122,
  VALUE_LEN: 0x161,
  EXTRACTABLE: 0x162,
  LOCAL: 0x163,
  NEVER_EXTRACTABLE: 0x164,
  ALWAYS_SENSITIVE: 0x165,
  MODIFIABLE: 0x170,
  COPYABLE: 0x171,
  EC_PARAMS: 0x180,
  EC_POINT: 0x181,
  WRAP_WITH_TRUSTED: 0x210,
  ALLOWED_MECHANISMS: 0x40000600,
} as const

/** A call into the module that failed; `rv` is the CK_RV, or 0 where pkcs11js does not tell it. */
export class Pkcs11Failure extends Error {
  readonly rv: number
  readonly call: string
  constructor(rv: number, name: string, call: string, cause: unknown) {
    super(`${call}: ${name}`, { cause })
    this.name = 'Pkcs11Failure'
    this.rv = rv
    this.call = call
  }
}

/** Runs one call into the module and gives its errors one shape: pkcs11js has three. */
export function calling<T>(call: string, run: () => T): T {
  try {
    return run()
  } catch (error) {
    throw failureOf(call, error)
  }
}

/** The same for a call that runs on the thread pool. */
export async function callingAsync<T>(call: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    throw failureOf(call, error)
  }
}

function failureOf(call: string, error: unknown): Pkcs11Failure {
  if (error instanceof Pkcs11Failure) return error
  const message = error instanceof Error ? error.message : String(error)
  const found = /(CKR_\w+):(\d+)/.exec(message) ?? /(CKR_\w+)/.exec(message)
  const code = error instanceof Error && 'code' in error && typeof error.code === 'number' ? error.code : 0
  return new Pkcs11Failure(found?.[2] === undefined ? code : Number(found[2]), found?.[1] ?? message, call, error)
}

const CKR = {
  FUNCTION_NOT_SUPPORTED: 0x54,
  HOST_MEMORY: 0x2,
  DEVICE_ERROR: 0x30,
  DEVICE_MEMORY: 0x31,
  DEVICE_REMOVED: 0x32,
  KEY_HANDLE_INVALID: 0x60,
  KEY_SIZE_RANGE: 0x62,
  MECHANISM_INVALID: 0x70,
  OBJECT_HANDLE_INVALID: 0x82,
  PIN_INCORRECT: 0xa0,
  PIN_INVALID: 0xa1,
  PIN_LEN_RANGE: 0xa2,
  PIN_EXPIRED: 0xa3,
  PIN_LOCKED: 0xa4,
  SESSION_CLOSED: 0xb0,
  SESSION_HANDLE_INVALID: 0xb3,
  SESSION_READ_ONLY: 0xb5,
  SLOT_ID_INVALID: 0x3,
  TOKEN_NOT_PRESENT: 0xe0,
  TOKEN_NOT_RECOGNIZED: 0xe1,
  TOKEN_WRITE_PROTECTED: 0xe2,
  USER_ALREADY_LOGGED_IN: 0x100,
  USER_NOT_LOGGED_IN: 0x101,
  CURVE_NOT_SUPPORTED: 0x140,
  CRYPTOKI_NOT_INITIALIZED: 0x190,
  CRYPTOKI_ALREADY_INITIALIZED: 0x191,
} as const

/**
 * Failures after which every handle is worthless. A token that was logged out shows as an invalid object handle, not as
 * USER_NOT_LOGGED_IN; p11-kit answers DEVICE_ERROR for ever once its peer is gone.
 */
const LOST: ReadonlySet<number> = new Set([
  CKR.DEVICE_ERROR,
  CKR.DEVICE_REMOVED,
  CKR.KEY_HANDLE_INVALID,
  CKR.OBJECT_HANDLE_INVALID,
  CKR.SESSION_CLOSED,
  CKR.SESSION_HANDLE_INVALID,
  CKR.SLOT_ID_INVALID,
  CKR.TOKEN_NOT_PRESENT,
  CKR.TOKEN_NOT_RECOGNIZED,
  CKR.USER_NOT_LOGGED_IN,
  CKR.CRYPTOKI_NOT_INITIALIZED,
])

const PIN_FAILURES: ReadonlySet<number> = new Set([
  CKR.PIN_INCORRECT,
  CKR.PIN_INVALID,
  CKR.PIN_LEN_RANGE,
  CKR.PIN_EXPIRED,
  CKR.PIN_LOCKED,
])

/** True if the token makes no keys of the kind that was asked for. */
export function isKindRefusal(error: unknown): boolean {
  const kinds: readonly number[] = [CKR.KEY_SIZE_RANGE, CKR.MECHANISM_INVALID, CKR.CURVE_NOT_SUPPORTED]
  return error instanceof Pkcs11Failure && kinds.includes(error.rv)
}

/** True if there is no room for another object. */
export function isNoRoom(error: unknown): boolean {
  return error instanceof Pkcs11Failure && (error.rv === CKR.DEVICE_MEMORY || error.rv === CKR.HOST_MEMORY)
}

/** True if the token must be connected to anew. */
export function isLost(error: unknown): boolean {
  return error instanceof Pkcs11Failure && LOST.has(error.rv)
}

/** The ones that cost an attempt, or say that none is left. */
const WRONG_PIN: ReadonlySet<number> = new Set([CKR.PIN_INCORRECT, CKR.PIN_EXPIRED, CKR.PIN_LOCKED])

/** Of C_SetPIN: the token says why it did nothing. */
const PIN_UNCHANGED: ReadonlySet<number> = new Set([
  ...PIN_FAILURES,
  CKR.USER_NOT_LOGGED_IN,
  CKR.FUNCTION_NOT_SUPPORTED,
  CKR.SESSION_READ_ONLY,
  CKR.TOKEN_WRITE_PROTECTED,
])

/** True if a PIN that was given to C_SetPIN or C_Login as the present one is not. */
export function isWrongPin(error: unknown): boolean {
  return error instanceof Pkcs11Failure && WRONG_PIN.has(error.rv)
}

/** True if C_SetPIN certainly changed nothing. */
export function isPinUnchanged(error: unknown): boolean {
  return error instanceof Pkcs11Failure && PIN_UNCHANGED.has(error.rv)
}

/** True if the token refused the PIN: never tried again without an operator. */
export function isPinFailure(error: unknown): boolean {
  return error instanceof Pkcs11Failure && PIN_FAILURES.has(error.rv)
}

export function isAlreadyLoggedIn(error: unknown): boolean {
  return error instanceof Pkcs11Failure && error.rv === CKR.USER_ALREADY_LOGGED_IN
}

export function isAlreadyInitialized(error: unknown): boolean {
  return error instanceof Pkcs11Failure && error.rv === CKR.CRYPTOKI_ALREADY_INITIALIZED
}

/** One attribute's value, copied; asked for alone, since one unknown attribute fails a whole C_GetAttributeValue. */
export function readAttribute(module: Cryptoki, session: Handle, object: Handle, type: number): Uint8Array {
  const [found] = calling('C_GetAttributeValue', () => module.C_GetAttributeValue(session, object, [{ type }]))
  const value: unknown = found?.value
  if (!(value instanceof Uint8Array)) {
    throw new Pkcs11Failure(0, `attribute 0x${type.toString(16)} has no value`, 'C_GetAttributeValue', undefined)
  }
  return Uint8Array.from(value)
}

/** Every object that matches, at most `limit`; the search is always ended. */
export function findObjects(module: Cryptoki, session: Handle, template: Template, limit: number): Handle[] {
  calling('C_FindObjectsInit', () => module.C_FindObjectsInit(session, template))
  try {
    return calling('C_FindObjects', () => module.C_FindObjects(session, limit)).map((handle) => Buffer.from(handle))
  } finally {
    calling('C_FindObjectsFinal', () => module.C_FindObjectsFinal(session))
  }
}

/** Text of a fixed-length field: padded with spaces, or with NULs by modules that were given a short label. */
export function unpadded(text: string): string {
  return text.replace(/[\0 ]+$/, '')
}
