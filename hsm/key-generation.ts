/** Making and destroying key pairs, with a template that leaves signing as the only use and is read back afterwards. */
import { randomBytes } from 'node:crypto'
import { bitString, CURVE_BYTES, integer, objectIdentifier, OID, parsePkcs1PublicKey, sequence } from '#x509'
import { KIND_RULES, kindOfSpki } from './key-kinds.ts'
import {
  calling,
  CKA,
  CKO,
  findObjects,
  isKindRefusal,
  isLost,
  isNoRoom,
  Pkcs11Failure,
  readAttribute,
  type Attribute,
  type Cryptoki,
  type Handle,
} from './pkcs11.ts'
import type { OptionalAttribute, Profile } from './quirks.ts'
import { HsmError, type KeyKind } from './signing.ts'
import { withPatience } from './watchdog-beats.ts'

/** Attributes that some tokens refuse to be given; dropped one after the other, then looked at. */
export const optionalFor = (
  kind: KeyKind,
): readonly { readonly name: OptionalAttribute; readonly attribute: Attribute }[] => [
  { name: 'DERIVE', attribute: { type: CKA.DERIVE, value: false } },
  { name: 'SIGN_RECOVER', attribute: { type: CKA.SIGN_RECOVER, value: false } },
  { name: 'UNWRAP', attribute: { type: CKA.UNWRAP, value: false } },
  { name: 'DECRYPT', attribute: { type: CKA.DECRYPT, value: false } },
  {
    name: 'ALLOWED_MECHANISMS',
    attribute: { type: CKA.ALLOWED_MECHANISMS, value: ulong(KIND_RULES[kind].signing.mechanism) },
  },
]

interface BooleanAttribute {
  readonly name: string
  readonly type: number
  readonly value: boolean
}

/** Out of the token never; or, for a key that is to be backed up, under a trusted key-encryption key alone. */
const extraction = (backup: boolean): readonly BooleanAttribute[] =>
  backup
    ? [
        { name: 'EXTRACTABLE', type: CKA.EXTRACTABLE, value: true },
        { name: 'WRAP_WITH_TRUSTED', type: CKA.WRAP_WITH_TRUSTED, value: true },
      ]
    : [{ name: 'EXTRACTABLE', type: CKA.EXTRACTABLE, value: false }]

/** What a private key must be; a key that is not is destroyed at once. */
const hardFor = (backup: boolean): readonly BooleanAttribute[] => [
  { name: 'SENSITIVE', type: CKA.SENSITIVE, value: true },
  { name: 'ALWAYS_SENSITIVE', type: CKA.ALWAYS_SENSITIVE, value: true },
  ...extraction(backup),
  ...(backup ? [] : [{ name: 'NEVER_EXTRACTABLE', type: CKA.NEVER_EXTRACTABLE, value: true }]),
  { name: 'LOCAL', type: CKA.LOCAL, value: true },
  { name: 'SIGN', type: CKA.SIGN, value: true },
]

export interface FreshKey {
  readonly id: Uint8Array
  readonly spkiDer: Uint8Array
  readonly handle: Handle
  readonly unproven: readonly string[]
}

export interface KeyWish {
  readonly label: string
  readonly kind: KeyKind
  readonly backup?: boolean
  /** CKA_ID; random unless told. */
  readonly id?: Uint8Array
}

/**
 * Generates a pair in a read-write session. Throws `refused` if id (`id_exists`) or label (`label_exists`) is taken or the
 * key is not what it must be.
 */
export function generateKeyPair(
  module: Cryptoki,
  session: Handle,
  { label, kind, backup = false, id: wished }: KeyWish,
  profile: Profile,
): FreshKey {
  if (wished !== undefined) requireFree(module, session, wished, profile)
  if (findObjects(module, session, [{ type: CKA.LABEL, value: label }], 1).length > 0) {
    throw new HsmError('refused', 'label_exists', `token already has an object with the label ${label}`)
  }
  const id = wished === undefined ? freshId(module, session, profile.idBytes) : Buffer.from(wished)
  const { publicKey, privateKey } = generate(module, session, { id, label, kind, backup }, profile)
  try {
    const unproven = readBack(module, session, privateKey, { kind, backup, profile })
    const spkiDer = readSpki(module, session, publicKey, kind)
    if (kindOfSpki(spkiDer) !== kind) throw new HsmError('refused', 'wrong_kind', `token did not make a key of ${kind}`)
    return { id, spkiDer, handle: privateKey, unproven }
  } catch (error) {
    for (const half of [privateKey, publicKey]) calling('C_DestroyObject', () => module.C_DestroyObject(session, half))
    throw error
  }
}

/**
 * The caller's own id: free on this token, or left over from a generation that was interrupted before the private half was
 * there, which nobody can have used and which is taken away.
 */
function requireFree(module: Cryptoki, session: Handle, id: Uint8Array, profile: Profile): void {
  if (id.length !== profile.idBytes) {
    throw new HsmError('refused', 'bad_id', `token takes ids of ${profile.idBytes} bytes, not of ${id.length}`)
  }
  const byId = { type: CKA.ID, value: Buffer.from(id) }
  const privateKey = [{ type: CKA.CLASS, value: CKO.PRIVATE_KEY }, byId]
  if (findObjects(module, session, privateKey, 1).length > 0) {
    throw new HsmError('refused', 'id_exists', `token already has a key with the id ${Buffer.from(id).toString('hex')}`)
  }
  const publicKey = [{ type: CKA.CLASS, value: CKO.PUBLIC_KEY }, byId]
  for (const half of findObjects(module, session, publicKey, 16))
    calling('C_DestroyObject', () => module.C_DestroyObject(session, half))
}

/** Never used before: in NSS a second key of the same id replaces the first, and an id of 2 bytes comes twice by chance. */
function freshId(module: Cryptoki, session: Handle, bytes: number): Buffer {
  for (let attempt = 0; attempt < 100; attempt++) {
    const id = randomBytes(bytes)
    if (findObjects(module, session, [{ type: CKA.ID, value: id }], 1).length === 0) return id
  }
  throw new HsmError('refused', 'token_full', 'token has no id left for another key')
}

/** Destroys every object with this CKA_ID, in a read-write session; throws `refused` if there is none. */
export function destroyKeyPair(module: Cryptoki, session: Handle, id: Uint8Array): void {
  const objects = findObjects(module, session, [{ type: CKA.ID, value: Buffer.from(id) }], 16)
  if (objects.length === 0) throw new HsmError('refused', 'no_such_key', 'token has no key with this id')
  for (const object of objects) calling('C_DestroyObject', () => module.C_DestroyObject(session, object))
}

/** The public key object with this id as SPKI; undefined if the token keeps none; throws `refused` for several. */
export function findSpki(module: Cryptoki, session: Handle, id: Uint8Array, kind: KeyKind): Uint8Array | undefined {
  const template = [
    { type: CKA.CLASS, value: CKO.PUBLIC_KEY },
    { type: CKA.ID, value: Buffer.from(id) },
  ]
  const [found, second] = findObjects(module, session, template, 2)
  if (second !== undefined)
    throw new HsmError('refused', 'key_not_unique', 'token has several public keys with this id')
  return found === undefined ? undefined : readSpki(module, session, found, kind)
}

function generate(
  module: Cryptoki,
  session: Handle,
  { id, label, kind, backup }: { id: Buffer; label: string; kind: KeyKind; backup: boolean },
  profile: Profile,
): { publicKey: Handle; privateKey: Handle } {
  const { keyType, generation, parameters } = KIND_RULES[kind]
  const optional = optionalFor(kind).filter(({ name }) => !profile.notAsked.includes(name))
  const publicTemplate: Attribute[] = [
    { type: CKA.CLASS, value: CKO.PUBLIC_KEY },
    { type: CKA.KEY_TYPE, value: keyType },
    { type: CKA.TOKEN, value: true },
    { type: CKA.VERIFY, value: true },
    { type: CKA.ID, value: id },
    { type: CKA.LABEL, value: label },
  ]
  const privateTemplate: Attribute[] = [
    { type: CKA.CLASS, value: CKO.PRIVATE_KEY },
    { type: CKA.KEY_TYPE, value: keyType },
    { type: CKA.TOKEN, value: true },
    { type: CKA.PRIVATE, value: true },
    { type: CKA.SENSITIVE, value: true },
    ...extraction(backup).map(({ type, value }) => ({ type, value })),
    { type: CKA.SIGN, value: true },
    { type: CKA.ID, value: id },
    { type: CKA.LABEL, value: label },
  ]
  let refusal: unknown
  for (const named of parameters) {
    for (let kept = optional.length; kept >= 0; kept--) {
      const template = [...privateTemplate, ...optional.slice(0, kept).map(({ attribute }) => attribute)]
      try {
        const pair = calling('C_GenerateKeyPair', () =>
          withPatience(() => module.C_GenerateKeyPair(session, generation, [...publicTemplate, ...named], template)),
        )
        return { publicKey: Buffer.from(pair.publicKey), privateKey: Buffer.from(pair.privateKey) }
      } catch (error) {
        if (isLost(error)) throw error
        if (isKindRefusal(error))
          throw new HsmError('refused', 'kind_not_offered', `token makes no keys of kind ${kind}`)
        refusal = error
      }
    }
  }
  // A token that is full refuses the shortest template too; the last error is then the one to tell.
  if (refusal instanceof Pkcs11Failure && (isNoRoom(refusal) || profile.fullErrors.includes(refusal.rv))) {
    const what = 'token has no room for another key, or cannot make this one; destroy a key that nobody uses (key ls)'
    throw new HsmError('refused', 'token_full', `${what}: ${refusal.message}`, { cause: refusal })
  }
  throw refusal
}

/** Throws `refused` for a hard violation; returns what the token does not tell or does otherwise among the optional ones. */
function readBack(
  module: Cryptoki,
  session: Handle,
  key: Handle,
  { kind, backup, profile }: { kind: KeyKind; backup: boolean; profile: Profile },
): string[] {
  const unproven: string[] = []
  for (const { name, type, value } of hardFor(backup)) {
    const [octet] = readAttribute(module, session, key, type)
    if ((octet === 1) !== value) {
      if (name === 'LOCAL' && profile.quirks.includes('origin_unproven')) {
        unproven.push(name)
        continue
      }
      throw new HsmError('refused', 'attribute_violated', `token made a key with ${name} = ${String(octet)}; destroyed`)
    }
  }
  return [...unproven, ...unheldOf(module, session, key, kind)]
}

/** Attributes by which a token shows that a key was made on it and never left. */
const ORIGIN = {
  LOCAL: CKA.LOCAL,
  ALWAYS_SENSITIVE: CKA.ALWAYS_SENSITIVE,
  NEVER_EXTRACTABLE: CKA.NEVER_EXTRACTABLE,
} as const

/**
 * Those of `ORIGIN` that the token does not show of a key that it has, such as one that was imported or restored. Throws
 * `unavailable` if the key can be taken out of the token in clear, or wrapped under a key of whoever logs in. What cannot
 * be read is unknown, and no loss.
 */
export function originOf(module: Cryptoki, session: Handle, key: Handle): string[] {
  const read = (type: number) => optionalFlag(module, session, key, type)
  if (read(CKA.SENSITIVE) === false) throw new HsmError('unavailable', 'key_not_sensitive', 'the key can be read')
  if (read(CKA.EXTRACTABLE) === true && read(CKA.WRAP_WITH_TRUSTED) !== true) {
    throw new HsmError('unavailable', 'key_extractable', 'the key can be taken out of its token by whoever logs in')
  }
  return Object.entries(ORIGIN).flatMap(([name, type]) => (read(type) === true ? [] : [name]))
}

function optionalFlag(module: Cryptoki, session: Handle, key: Handle, type: number): boolean | undefined {
  try {
    const [octet] = readAttribute(module, session, key, type)
    return octet === 1
  } catch (error) {
    if (error instanceof Pkcs11Failure) return undefined
    throw error
  }
}

/** Names of the optional attributes that the token does not tell of this key, or has otherwise. */
export function unheldOf(module: Cryptoki, session: Handle, key: Handle, kind: KeyKind): string[] {
  return optionalFor(kind)
    .filter(({ attribute }) => !holds(module, session, key, attribute))
    .map(({ name }) => name)
}

function holds(module: Cryptoki, session: Handle, key: Handle, { type, value }: Attribute): boolean {
  try {
    const found = readAttribute(module, session, key, type)
    return value instanceof Buffer ? value.equals(found) : found[0] === 0
  } catch (error) {
    // Not a lost token, whatever the code: p11-kit 0.24 answers DEVICE_ERROR for ALLOWED_MECHANISMS.
    if (error instanceof Pkcs11Failure) return false
    throw error
  }
}

/** A public key object as SPKI; throws `refused` where its content is not of this kind. */
export function readSpki(module: Cryptoki, session: Handle, publicKey: Handle, kind: KeyKind): Uint8Array {
  const read = (type: number) => readAttribute(module, session, publicKey, type)
  if (kind === 'ed25519') {
    return sequence(sequence(objectIdentifier(OID.ed25519)), bitString(unwrapPoint(read(CKA.EC_POINT), 32)))
  }
  if (kind === 'P-256' || kind === 'P-384') {
    const point = unwrapPoint(read(CKA.EC_POINT), 1 + 2 * CURVE_BYTES[kind])
    if (point[0] !== 0x04) throw new HsmError('refused', 'bad_point', 'public key on the token is not uncompressed')
    return sequence(sequence(objectIdentifier('1.2.840.10045.2.1'), read(CKA.EC_PARAMS)), bitString(point))
  }
  return parsePkcs1PublicKey(sequence(integer(read(CKA.MODULUS)), integer(read(CKA.PUBLIC_EXPONENT)))).spkiDer
}

/**
 * The point, of `pointBytes`, in a CKA_EC_POINT; throws `refused` for any other length. PKCS#11 2.40 wraps it in an OCTET
 * STRING, 3.1 has it raw, some write a BIT STRING: told apart by length, since a raw point of Ed25519 may begin with the
 * very octets of a wrapping.
 */
export function unwrapPoint(value: Uint8Array, pointBytes: number): Uint8Array {
  const start = value.length - pointBytes
  const wrapped = start === 0 || (start === 2 && value[0] === 0x04) || (start === 3 && value[0] === 0x03)
  if (!wrapped) throw new HsmError('refused', 'bad_point', 'public key on the token is not a point of its curve')
  return value.subarray(start)
}

/** One CK_ULONG as the module has it in memory: 8 bytes, little-endian on every machine that this runs on. */
function ulong(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}
