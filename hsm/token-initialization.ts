/** Making a token in a free slot; in a short-lived process only, since it logs in as the security officer. */
import { calling, CKF, CKU, unpadded, type Cryptoki, type Handle } from './pkcs11.ts'
import { HsmError } from './signing.ts'

const TOKEN_INITIALIZED = 0x400
const USER_PIN_INITIALIZED = 0x8

/**
 * The slot of the token with this label, made now. `pins` is called once the label and a slot are known to be free; both
 * PINs must be stored by then, since a token whose PIN was lost has lost its keys. A token without a user PIN was left by
 * a run that was interrupted, has no keys, and is made again. Throws `refused` `token_exists`, `unavailable` `no_slot`.
 */
export function initializeFreeSlot(
  module: Cryptoki,
  label: string,
  pins: () => { readonly pin: string; readonly soPin: string },
): Handle {
  const found = slotOf(module, label)
  if (found !== undefined && (flagsOf(module, found) & USER_PIN_INITIALIZED) !== 0) {
    throw new HsmError('refused', 'token_exists', `there is a token with the label ${label} already`)
  }
  const slots = calling('C_GetSlotList', () => module.C_GetSlotList(true))
  const slot = found ?? slots.find((each) => (flagsOf(module, each) & TOKEN_INITIALIZED) === 0)
  if (slot === undefined) throw new HsmError('unavailable', 'no_slot', 'the module offers no slot for a new token')
  const { pin, soPin } = pins()
  // The label is a field of 32 bytes that pkcs11js does not pad.
  calling('C_InitToken', () => module.C_InitToken(slot, soPin, label.padEnd(32, ' ')))
  // SoftHSM gives the token another slot.
  const made = slotOf(module, label)
  if (made === undefined) throw new HsmError('unavailable', 'no_slot', `token ${label} was made and is not found`)
  const session = calling('C_OpenSession', () => module.C_OpenSession(made, CKF.SERIAL_SESSION | CKF.RW_SESSION))
  calling('C_Login', () => module.C_Login(session, CKU.SO, soPin))
  calling('C_InitPIN', () => module.C_InitPIN(session, pin))
  calling('C_Logout', () => module.C_Logout(session))
  calling('C_CloseSession', () => module.C_CloseSession(session))
  return made
}

function slotOf(module: Cryptoki, label: string): Handle | undefined {
  const slots = calling('C_GetSlotList', () => module.C_GetSlotList(true)).map((slot) => Buffer.from(slot))
  return slots.find((slot) => unpadded(module.C_GetTokenInfo(slot).label) === label)
}

function flagsOf(module: Cryptoki, slot: Handle): number {
  return calling('C_GetTokenInfo', () => module.C_GetTokenInfo(slot)).flags
}
