/**
 * A process of its own that makes a P-256 key which may be wrapped under any key: MODULE LABEL PIN_FILE ID_HEX. Prints
 * its SPKI, base64. The agent never makes such a key, and must not use one.
 */
import { readFileSync } from 'node:fs'
import pkcs11js from 'pkcs11js'
import { readSpki } from '../../../hsm/key-generation.ts'
import { KIND_RULES } from '../../../hsm/key-kinds.ts'
import { CKA, CKF, CKU, unpadded } from '../../../hsm/pkcs11.ts'

const [modulePath = '', label = '', pinFile = '', idHex = ''] = process.argv.slice(2)
const module = new pkcs11js.PKCS11()
module.load(modulePath)
module.C_Initialize({ flags: CKF.OS_LOCKING_OK })
const slot = module.C_GetSlotList(true).find((each) => unpadded(module.C_GetTokenInfo(each).label) === label)
if (slot === undefined) throw new Error('no such token')
const session = module.C_OpenSession(slot, CKF.SERIAL_SESSION | CKF.RW_SESSION)
module.C_Login(session, CKU.USER, readFileSync(pinFile, 'utf8').trim())
const id = Buffer.from(idHex, 'hex')
const { generation, parameters } = KIND_RULES['P-256']
const pair = module.C_GenerateKeyPair(
  session,
  generation,
  [{ type: CKA.TOKEN, value: true }, { type: CKA.ID, value: id }, ...(parameters[0] ?? [])],
  [
    { type: CKA.TOKEN, value: true },
    { type: CKA.PRIVATE, value: true },
    { type: CKA.SENSITIVE, value: true },
    { type: CKA.EXTRACTABLE, value: true },
    { type: CKA.SIGN, value: true },
    { type: CKA.ID, value: id },
  ],
)
process.stdout.write(Buffer.from(readSpki(module, session, pair.publicKey, 'P-256')).toString('base64'))
module.C_Finalize()
