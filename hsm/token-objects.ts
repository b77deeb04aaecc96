/**
 * What lies on a token: every object with what it tells of itself, read in pages so that signing goes on in between. The
 * token is asked, not the configuration: what nobody configured shows too.
 */
import { readSpki } from './key-generation.ts'
import { isKeyKind } from './key-kinds.ts'
import type { ObjectAttribute, TokenObject } from './administration.ts'
import {
  CKA,
  CKK,
  CKO,
  findObjects,
  isLost,
  Pkcs11Failure,
  readAttribute,
  unpadded,
  type Cryptoki,
  type Handle,
} from './pkcs11.ts'
import { HsmError, type KeyKind } from './signing.ts'

/** About a millisecond of SoftHSM, during which nothing else is signed. */
const PAGE_OBJECTS = 32

/** YubiHSM holds 255 keys, a network HSM's partition some thousands. */
const MAX_OBJECTS = 8192

const CLASS_NAMES: Readonly<Record<number, TokenObject['class']>> = {
  [CKO.DATA]: 'data',
  [CKO.CERTIFICATE]: 'certificate',
  [CKO.PUBLIC_KEY]: 'public key',
  [CKO.PRIVATE_KEY]: 'private key',
  [CKO.SECRET_KEY]: 'secret key',
}

const BOOLEANS = {
  PRIVATE: CKA.PRIVATE,
  SENSITIVE: CKA.SENSITIVE,
  ALWAYS_SENSITIVE: CKA.ALWAYS_SENSITIVE,
  EXTRACTABLE: CKA.EXTRACTABLE,
  NEVER_EXTRACTABLE: CKA.NEVER_EXTRACTABLE,
  WRAP_WITH_TRUSTED: CKA.WRAP_WITH_TRUSTED,
  LOCAL: CKA.LOCAL,
  SIGN: CKA.SIGN,
  SIGN_RECOVER: CKA.SIGN_RECOVER,
  ENCRYPT: CKA.ENCRYPT,
  DECRYPT: CKA.DECRYPT,
  DERIVE: CKA.DERIVE,
  WRAP: CKA.WRAP,
  UNWRAP: CKA.UNWRAP,
  TRUSTED: CKA.TRUSTED,
  MODIFIABLE: CKA.MODIFIABLE,
} as const

type BooleanName = keyof typeof BOOLEANS

const ATTRIBUTES: Readonly<Record<TokenObject['class'], readonly BooleanName[]>> = {
  'private key': [
    'PRIVATE',
    'SENSITIVE',
    'ALWAYS_SENSITIVE',
    'EXTRACTABLE',
    'NEVER_EXTRACTABLE',
    'WRAP_WITH_TRUSTED',
    'LOCAL',
    'SIGN',
    'SIGN_RECOVER',
    'DECRYPT',
    'DERIVE',
    'UNWRAP',
    'MODIFIABLE',
  ],
  'secret key': [
    'PRIVATE',
    'SENSITIVE',
    'EXTRACTABLE',
    'WRAP_WITH_TRUSTED',
    'TRUSTED',
    'WRAP',
    'UNWRAP',
    'ENCRYPT',
    'DECRYPT',
    'MODIFIABLE',
  ],
  'public key': ['PRIVATE', 'TRUSTED', 'WRAP', 'ENCRYPT', 'MODIFIABLE'],
  certificate: ['PRIVATE', 'TRUSTED', 'MODIFIABLE'],
  data: ['PRIVATE', 'MODIFIABLE'],
  other: ['PRIVATE'],
}

/** One page of a token's objects from `offset`; `total` is how many there are. Throws what the module throws. */
export function listObjects(
  module: Cryptoki,
  session: Handle,
  offset: number,
): { readonly total: number; readonly objects: readonly TokenObject[] } {
  const handles = findObjects(module, session, [{ type: CKA.TOKEN, value: true }], MAX_OBJECTS)
  const page = handles.slice(offset, offset + PAGE_OBJECTS)
  return { total: handles.length, objects: page.map((handle) => describeObject(module, session, handle)) }
}

export function describeObject(module: Cryptoki, session: Handle, handle: Handle): TokenObject {
  const number = (type: number) => optional(() => ulongOf(readAttribute(module, session, handle, type)))
  const objectClass = CLASS_NAMES[number(CKA.CLASS) ?? -1] ?? 'other'
  const isKey = objectClass.endsWith('key')
  return {
    class: objectClass,
    keyType: isKey ? keyTypeName(number(CKA.KEY_TYPE)) : '',
    label: unpadded(textOf(optional(() => readAttribute(module, session, handle, CKA.LABEL)))),
    idHex: hex(optional(() => readAttribute(module, session, handle, CKA.ID))),
    spkiDer:
      (objectClass === 'public key' ? readPublicKey(module, session, handle)?.spkiDer : undefined) ?? new Uint8Array(0),
    attributes: Object.fromEntries(
      ATTRIBUTES[objectClass].map((name) => [name, booleanOf(module, session, handle, BOOLEANS[name])]),
    ),
  }
}

/** A boolean attribute; `unknown` where the token does not tell, since an optional read is never a lost token. */
function booleanOf(module: Cryptoki, session: Handle, handle: Handle, type: number): ObjectAttribute {
  const value = optional(() => readAttribute(module, session, handle, type))
  if (value?.length !== 1) return 'unknown'
  return value[0] === 0 ? 'no' : 'yes'
}

/** A public key object, or undefined if it is of a kind that is not ours. */
export function readPublicKey(
  module: Cryptoki,
  session: Handle,
  handle: Handle,
): { readonly kind: KeyKind; readonly spkiDer: Uint8Array } | undefined {
  const kind = kindOf(module, session, handle)
  if (kind === undefined) return undefined
  try {
    return { kind, spkiDer: readSpki(module, session, handle, kind) }
  } catch (error) {
    if (error instanceof HsmError || (error instanceof Pkcs11Failure && !isLost(error))) return undefined
    throw error
  }
}

/** DER of the named curve, or Ed25519's two forms, by their last octets; RSA by the modulus' length. */
function kindOf(module: Cryptoki, session: Handle, handle: Handle): KeyKind | undefined {
  const read = (type: number) => optional(() => readAttribute(module, session, handle, type))
  const keyType = ulongOf(read(CKA.KEY_TYPE) ?? new Uint8Array(0))
  if (keyType === CKK.EC_EDWARDS) return 'ed25519'
  if (keyType === CKK.EC) {
    const curve = hex(read(CKA.EC_PARAMS))
    return curve === '06082a8648ce3d030107' ? 'P-256' : curve === '06052b81040022' ? 'P-384' : undefined
  }
  const name = `rsa-${(read(CKA.MODULUS)?.length ?? 0) * 8}`
  return keyType === CKK.RSA && isKeyKind(name) ? name : undefined
}

function keyTypeName(keyType: number | undefined): string {
  if (keyType === CKK.RSA) return 'RSA'
  if (keyType === CKK.EC) return 'EC'
  if (keyType === CKK.EC_EDWARDS) return 'Edwards'
  if (keyType === CKK.AES) return 'AES'
  return keyType === undefined ? 'unknown' : `0x${keyType.toString(16)}`
}

function optional<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    if (error instanceof Pkcs11Failure) return undefined
    throw error
  }
}

/** CK_ULONG as the module has it in memory: little-endian, of 8 or 4 bytes. */
function ulongOf(bytes: Uint8Array): number {
  return bytes.length === 0 ? -1 : Number(bytes.reduceRight((sum, octet) => sum * 256n + BigInt(octet), 0n))
}

function textOf(bytes: Uint8Array | undefined): string {
  return Buffer.from(bytes ?? []).toString('utf8')
}

function hex(bytes: Uint8Array | undefined): string {
  return Buffer.from(bytes ?? []).toString('hex')
}
