/** What a token says of itself just now (C_GetTokenInfo): flags of its PINs, sessions, memory. No login is needed. */
import type { TokenDetails } from './administration.ts'
import { calling, CKF, type Cryptoki } from './pkcs11.ts'
import type { TokenUri } from './pkcs11-uri.ts'
import { findToken } from './token.ts'

type Told = Pick<TokenDetails, 'flags' | 'sessions' | 'memory' | 'pinLength'>

/** In the order of how soon somebody must act. */
const FLAGS: readonly (readonly [number, string])[] = [
  [CKF.USER_PIN_LOCKED, 'PIN locked'],
  [CKF.USER_PIN_FINAL_TRY, 'PIN: one try left'],
  [CKF.USER_PIN_COUNT_LOW, 'PIN: a wrong one was given'],
  [CKF.SO_PIN_LOCKED, 'SO PIN locked'],
  [CKF.SO_PIN_FINAL_TRY, 'SO PIN: one try left'],
  [CKF.SO_PIN_COUNT_LOW, 'SO PIN: a wrong one was given'],
]

/** Throws `unavailable` if no token, or more than one, matches. */
export function readTokenDetails(module: Cryptoki, uri: TokenUri): Told {
  const { slot } = findToken(module, uri)
  const told = calling('C_GetTokenInfo', () => module.C_GetTokenInfo(slot))
  return {
    flags: pinWarnings(told.flags),
    sessions: { open: amount(told.sessionCount), max: limit(told.maxSessionCount) },
    memory: {
      publicFree: amount(told.freePublicMemory),
      privateFree: amount(told.freePrivateMemory),
      privateTotal: amount(told.totalPrivateMemory),
    },
    pinLength: { min: told.minPinLen, max: told.maxPinLen },
  }
}

/** What the flags of a token say of its PINs, in words. */
export function pinWarnings(flags: number): string[] {
  return FLAGS.filter(([bit]) => (flags & bit) !== 0).map(([, name]) => name)
}

type TokenInfo = ReturnType<Cryptoki['C_GetTokenInfo']>

/** What a token has room for; -1 where there is no limit or it is not told. */
export function tokenLimits(told: TokenInfo): {
  sessions: number
  pinLengthMin: number
  pinLengthMax: number
  freeMemory: number
} {
  return {
    sessions: limit(told.maxSessionCount),
    pinLengthMin: told.minPinLen,
    pinLengthMax: told.maxPinLen,
    freeMemory: amount(told.freePrivateMemory),
  }
}

/** CK_UNAVAILABLE_INFORMATION is all ones, of 64 bits or, through pkcs11js, of 32. */
function amount(value: number | bigint): number {
  const wide = BigInt(value)
  return wide === 0xffff_ffff_ffff_ffffn || wide === 0xffff_ffffn || wide > BigInt(Number.MAX_SAFE_INTEGER)
    ? -1
    : Number(wide)
}

/** CK_EFFECTIVELY_INFINITE is zero. */
function limit(value: number | bigint): number {
  return BigInt(value) === 0n ? -1 : amount(value)
}
