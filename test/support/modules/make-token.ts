/**
 * A process of its own that makes a token in the first free slot of a module: MODULE LABEL PIN SO_PIN. What the module
 * needs in its environment it has from whoever starts it.
 */
import pkcs11js from 'pkcs11js'
import { CKF, CKU, unpadded } from '../../../hsm/pkcs11.ts'

const INITIALIZED = 0x400

const [modulePath = '', label = '', pin = '', soPin = ''] = process.argv.slice(2)
const module = new pkcs11js.PKCS11()
module.load(modulePath)
module.C_Initialize({ flags: CKF.OS_LOCKING_OK })
const slots = () => module.C_GetSlotList(true).map((slot) => ({ slot, told: module.C_GetTokenInfo(slot) }))
const free = slots().find(({ told }) => (told.flags & INITIALIZED) === 0)
if (free === undefined) throw new Error('no slot is free')
module.C_InitToken(free.slot, soPin, label.padEnd(32, ' '))
const made = slots().find(({ told }) => unpadded(told.label) === label)
if (made === undefined) throw new Error('the token was made and is not found')
const session = module.C_OpenSession(made.slot, CKF.SERIAL_SESSION | CKF.RW_SESSION)
module.C_Login(session, CKU.SO, soPin)
module.C_InitPIN(session, pin)
module.C_Logout(session)
module.C_Finalize()
