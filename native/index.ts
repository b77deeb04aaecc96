/**
 * The one addon (`chancery.c`, built by `scripts/native`). Its known answers are computed when this module is loaded:
 * an addon that accepts what it must not never gets to see a real signature, the import throws instead.
 */
import { createRequire } from 'node:module'
import { checkKnownAnswers } from './known-answers.ts'

export type Curve = 'P-256' | 'P-384' | 'P-521'

/** An ECDSA signature over a digest; `size` is 32, 48 or 66 bytes by curve. */
export interface EcdsaDigestSignature {
  readonly curve: Curve
  /** Uncompressed point: 0x04, x, y; 1 + 2·size bytes. */
  readonly point: Uint8Array
  /** Big-endian, exactly `size` bytes each. */
  readonly r: Uint8Array
  readonly s: Uint8Array
  /** 28 to 64 bytes; one longer than the curve's order is cut as FIPS 186-4 §6.4 says. */
  readonly digest: Uint8Array
}

/** The process at the other end of a unix socket, as the kernel saw it connect. */
export interface PeerCredentials {
  /** 0 for a process of another pid namespace. */
  readonly pid: number
  readonly uid: number
  readonly gid: number
  /** Supplementary groups; empty if the kernel cannot tell them. */
  readonly groups: readonly number[]
}

export type NativeErrorCode =
  /** The addon is not built, or not for this Node.js. */
  | 'not_loaded'
  /** A known answer came out wrong. */
  | 'self_test'
  /** Arguments of lengths or kinds that cannot be. */
  | 'invalid_argument'
  /** The kernel refused. */
  | 'system'

export class NativeError extends Error {
  readonly code: NativeErrorCode
  constructor(code: NativeErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'NativeError'
    this.code = code
  }
}

/** What `chancery.c` exports; it checks its arguments again and throws plain errors. */
interface Addon {
  verifyEcdsaDigest(curve: number, point: Uint8Array, r: Uint8Array, s: Uint8Array, digest: Uint8Array): boolean
  peerCredentials(fd: number): [pid: number, uid: number, gid: number, ...groups: number[]]
  setNotDumpable(): void
  kernelClock(): [synchronised: 0 | 1, maxErrorMicroseconds: number]
}

const CURVE_NUMBER: Readonly<Record<Curve, number>> = { 'P-256': 0, 'P-384': 1, 'P-521': 2 }

const addon = loadAddon()
const failed = checkKnownAnswers(verifyEcdsaDigest)
if (failed !== undefined) throw new NativeError('self_test', `addon failed its known answer: ${failed}`)

/**
 * True if the signature holds for exactly this digest (60-70 µs for P-256); `node:crypto` can only hash again. A high s
 * holds, as everywhere in X.509; r or s outside of 1 to n-1 and a point off the curve do not. Throws `NativeError`
 * `invalid_argument` for lengths that are not the curve's.
 */
export function verifyEcdsaDigest({ curve, point, r, s, digest }: EcdsaDigestSignature): boolean {
  return calling('invalid_argument', () => addon.verifyEcdsaDigest(CURVE_NUMBER[curve], point, r, s, digest))
}

/** Credentials of the peer of a connected unix socket (SO_PEERCRED, SO_PEERGROUPS); throws `NativeError` `system` for anything else. */
export function peerCredentials(fd: number): PeerCredentials {
  // The addon would take NaN for 0, which is a descriptor.
  if (!Number.isSafeInteger(fd) || fd < 0) throw new NativeError('system', `${fd} is not a file descriptor`)
  const [pid, uid, gid, ...groups] = calling('system', () => addon.peerCredentials(fd))
  return { pid, uid, gid, groups }
}

/** Bars core files and debuggers of the same user from this process's memory (PR_SET_DUMPABLE 0, RLIMIT_CORE 0). */
export function setNotDumpable(): void {
  calling('system', () => addon.setNotDumpable())
}

/** What the kernel knows of its clock (adjtimex(2), read only). Throws `NativeError` `system` where it may not be asked. */
export function kernelClock(): { readonly synchronised: boolean; readonly maxErrorMs: number } {
  const [synchronised, maxErrorMicroseconds] = calling('system', () => addon.kernelClock())
  return { synchronised: synchronised === 1, maxErrorMs: maxErrorMicroseconds / 1000 }
}

function loadAddon(): Addon {
  try {
    return createRequire(import.meta.url)('./build/Release/chancery.node') as Addon // the interface above describes it
  } catch (error) {
    throw new NativeError('not_loaded', 'the addon cannot be loaded; build it with scripts/native', { cause: error })
  }
}

function calling<T>(code: NativeErrorCode, call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw new NativeError(code, error instanceof Error ? error.message : 'addon failed', { cause: error })
  }
}
