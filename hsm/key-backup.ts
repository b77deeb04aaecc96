/**
 * Backup of private keys under a key-encryption key (KEK): RFC 5649 within the token, so that no private key is ever
 * outside one in the clear. The KEK is one that the token's security officer has declared trusted, and a key that may be
 * wrapped says of itself that it may under such a one alone (CKA_WRAP_WITH_TRUSTED): without both, whoever has the PIN
 * could wrap the key under one of his own. docs/decisions/0020-wrapped-backup.md.
 */
import { createPublicKey, randomBytes } from 'node:crypto'
import { parseSpki } from '#x509'
import type { WrappedKey } from './administration.ts'
import { findSpki, optionalFor, unheldOf } from './key-generation.ts'
import { KIND_RULES, releasedSignature, signatureHolds, tokenInput } from './key-kinds.ts'
import {
  calling,
  CKA,
  CKM,
  CKO,
  findObjects,
  isLost,
  Pkcs11Failure,
  readAttribute,
  unpadded,
  type Attribute,
  type Cryptoki,
  type Handle,
  type Mechanism,
} from './pkcs11.ts'
import { HsmError, type KeyKind } from './signing.ts'
import { readPublicKey } from './token-objects.ts'

/** CKA_LABEL of every KEK that this project makes; one made with a vendor's tool needs the same. */
export const KEK_LABEL = 'chancery-kek'

/** PKCS#8 of RSA-4096 takes 2.4 KB. */
const MAX_WRAPPED_BYTES = 8192

/** Two numbers for one mechanism: SoftHSM has the older. */
const KEY_WRAP: readonly Mechanism[] = [{ mechanism: CKM.AES_KEY_WRAP_PAD }, { mechanism: CKM.AES_KEY_WRAP_KWP }]

const MECHANISM_INVALID = 0x70

/** What an operator may change about a KEK without its being refused here. */
const KEK_MUST: readonly { readonly name: string; readonly type: number; readonly value: boolean }[] = [
  { name: 'TRUSTED', type: CKA.TRUSTED, value: true },
  { name: 'SENSITIVE', type: CKA.SENSITIVE, value: true },
  { name: 'PRIVATE', type: CKA.PRIVATE, value: true },
  // A KEK that decrypts gives every key that it wraps in the clear.
  { name: 'DECRYPT', type: CKA.DECRYPT, value: false },
]

/** Wraps the private key with this CKA_ID. Throws `refused` where the key or the KEK is not made for it. */
export function wrapKey(module: Cryptoki, session: Handle, id: Uint8Array): WrappedKey {
  const key = privateKeyWith(module, session, id)
  if (key === undefined) throw new HsmError('refused', 'no_such_key', 'token has no private key with this id')
  const label = unpadded(Buffer.from(readAttribute(module, session, key, CKA.LABEL)).toString('utf8'))
  if (!isSet(module, session, key, CKA.EXTRACTABLE)) {
    throw new HsmError(
      'refused',
      'not_extractable',
      `key ${label} was made without --backup: it never leaves its token`,
    )
  }
  if (!isSet(module, session, key, CKA.WRAP_WITH_TRUSTED)) {
    throw new HsmError('refused', 'wrap_without_trusted', `key ${label} may be wrapped under any key; it is not ours`)
  }
  const kek = findKek(module, session, [{ type: CKA.WRAP, value: true }])
  for (const { name, type, value } of KEK_MUST) {
    if (isSet(module, session, kek.handle, type) !== value) {
      throw new HsmError('refused', 'bad_kek', `the key-encryption key has ${name} = ${value ? 'no' : 'yes'}`)
    }
  }
  const { kind, spkiDer } = publicHalf(module, session, id)
  const wrapped = wrapUnder(module, session, kek.handle, key, kind)
  return {
    label,
    idHex: Buffer.from(id).toString('hex'),
    kind,
    spkiDer,
    mechanism: 'AES-KWP',
    kekIdHex: kek.idHex,
    wrapped: Uint8Array.from(wrapped),
  }
}

export interface UnwrappedKey {
  readonly unproven: readonly string[]
  readonly already: boolean
}

/**
 * Puts a wrapped key on the token, with its id and label, and has it sign; `refused` and no new object unless the
 * signature verifies under the public key that came with it. Run again after an interruption it completes.
 */
export function unwrapKey(module: Cryptoki, session: Handle, backup: WrappedKey): UnwrappedKey {
  const id = Buffer.from(backup.idHex, 'hex')
  const present = privateKeyWith(module, session, id)
  if (present !== undefined) {
    proveKey(module, session, present, backup)
    ensurePublicHalf(module, session, backup, id)
    return { unproven: unprovenOf(module, session, present, backup.kind), already: true }
  }
  const label = [
    { type: CKA.CLASS, value: CKO.PRIVATE_KEY },
    { type: CKA.LABEL, value: backup.label },
  ]
  if (findObjects(module, session, label, 1).length > 0) {
    throw new HsmError('refused', 'label_exists', `token already has another key with the label ${backup.label}`)
  }
  const kek = findKek(module, session, [
    { type: CKA.UNWRAP, value: true },
    { type: CKA.ID, value: Buffer.from(backup.kekIdHex, 'hex') },
  ])
  const handle = unwrap(module, session, kek.handle, backup)
  try {
    for (const [name, type] of [
      ['SENSITIVE', CKA.SENSITIVE],
      ['WRAP_WITH_TRUSTED', CKA.WRAP_WITH_TRUSTED],
    ] as const) {
      if (!isSet(module, session, handle, type)) {
        throw new HsmError('refused', 'attribute_violated', `token restored a key with ${name} = no; destroyed`)
      }
    }
    proveKey(module, session, handle, backup)
    ensurePublicHalf(module, session, backup, id)
  } catch (error) {
    calling('C_DestroyObject', () => module.C_DestroyObject(session, handle))
    throw error
  }
  return { unproven: unprovenOf(module, session, handle, backup.kind), already: false }
}

/** The one KEK with these attributes. Throws `refused` `no_kek` or `kek_not_unique`. */
export function findKek(
  module: Cryptoki,
  session: Handle,
  more: readonly Attribute[],
): { readonly handle: Handle; readonly idHex: string } {
  const template = [
    { type: CKA.CLASS, value: CKO.SECRET_KEY },
    { type: CKA.TOKEN, value: true },
    { type: CKA.LABEL, value: KEK_LABEL },
    ...more,
  ]
  const [handle, second] = findObjects(module, session, template, 2)
  if (handle === undefined) {
    throw new HsmError('refused', 'no_kek', 'token has no key-encryption key for this; see: chancery key kek --help')
  }
  if (second !== undefined) throw new HsmError('refused', 'kek_not_unique', 'token has several key-encryption keys')
  return { handle, idHex: Buffer.from(readAttribute(module, session, handle, CKA.ID)).toString('hex') }
}

/** Runs `work` with RFC 5649 under the first of its numbers that the token knows. */
export function withKeyWrap<T>(call: string, work: (mechanism: Mechanism) => T): T {
  for (const [index, mechanism] of KEY_WRAP.entries()) {
    try {
      return calling(call, () => work(mechanism))
    } catch (error) {
      if (!(error instanceof Pkcs11Failure) || error.rv !== MECHANISM_INVALID || index === KEY_WRAP.length - 1)
        throw error
    }
  }
  throw new TypeError('no mechanism is listed')
}

function wrapUnder(module: Cryptoki, session: Handle, kek: Handle, key: Handle, kind: KeyKind): Uint8Array {
  try {
    return withKeyWrap('C_WrapKey', (mechanism) =>
      module.C_WrapKey(session, mechanism, kek, key, Buffer.alloc(MAX_WRAPPED_BYTES)),
    )
  } catch (error) {
    if (!(error instanceof Pkcs11Failure) || isLost(error)) throw error
    throw new HsmError('refused', 'not_wrappable', `token does not wrap this key of kind ${kind} (${error.message})`, {
      cause: error,
    })
  }
}

function unwrap(module: Cryptoki, session: Handle, kek: Handle, backup: WrappedKey): Handle {
  const template: Attribute[] = [
    { type: CKA.CLASS, value: CKO.PRIVATE_KEY },
    { type: CKA.KEY_TYPE, value: KIND_RULES[backup.kind].keyType },
    { type: CKA.TOKEN, value: true },
    { type: CKA.PRIVATE, value: true },
    { type: CKA.SENSITIVE, value: true },
    { type: CKA.EXTRACTABLE, value: true },
    { type: CKA.WRAP_WITH_TRUSTED, value: true },
    { type: CKA.SIGN, value: true },
    { type: CKA.ID, value: Buffer.from(backup.idHex, 'hex') },
    { type: CKA.LABEL, value: backup.label },
  ]
  const optional = optionalFor(backup.kind)
  for (let kept = optional.length; ; kept--) {
    const whole = [...template, ...optional.slice(0, kept).map(({ attribute }) => attribute)]
    try {
      const handle = withKeyWrap('C_UnwrapKey', (mechanism) =>
        module.C_UnwrapKey(session, mechanism, kek, Buffer.from(backup.wrapped), whole),
      )
      return Buffer.from(handle)
    } catch (error) {
      if (isLost(error)) throw error
      // Damaged bytes fail with every template, and SoftHSM says GENERAL_ERROR of them.
      if (kept === 0) {
        const message = `token does not unwrap the backup of ${backup.label}: damaged, or under another key`
        throw new HsmError('refused', 'unwrap_refused', `${message} (${String(error)})`, { cause: error })
      }
    }
  }
}

/** A signature that verifies under the backup's public key, or `refused`. */
function proveKey(module: Cryptoki, session: Handle, handle: Handle, { kind, spkiDer, label }: WrappedKey): void {
  const message = Buffer.from(`chancery restored key ${randomBytes(16).toString('hex')}`)
  const { signing, signatureBytes } = KIND_RULES[kind]
  calling('C_SignInit', () => module.C_SignInit(session, signing, handle))
  const raw = calling('C_Sign', () => module.C_Sign(session, tokenInput(kind, message), Buffer.alloc(signatureBytes)))
  const verifier = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  if (signatureHolds(kind, message, verifier, releasedSignature(kind, raw))) return
  throw new HsmError(
    'refused',
    'wrong_key',
    `what the backup of ${label} holds is not the private key of its public key`,
  )
}

function ensurePublicHalf(module: Cryptoki, session: Handle, backup: WrappedKey, id: Buffer): void {
  if (findSpki(module, session, id, backup.kind) !== undefined) return
  calling('C_CreateObject', () =>
    module.C_CreateObject(session, [
      { type: CKA.CLASS, value: CKO.PUBLIC_KEY },
      { type: CKA.KEY_TYPE, value: KIND_RULES[backup.kind].keyType },
      { type: CKA.TOKEN, value: true },
      { type: CKA.VERIFY, value: true },
      { type: CKA.ID, value: id },
      { type: CKA.LABEL, value: backup.label },
      ...publicAttributes(backup),
    ]),
  )
}

function publicAttributes({ kind, spkiDer }: WrappedKey): Attribute[] {
  const key = parseSpki(spkiDer)
  if (key.kind === 'rsa') {
    return [
      { type: CKA.MODULUS, value: unsigned(key.modulus) },
      { type: CKA.PUBLIC_EXPONENT, value: unsigned(key.exponent) },
    ]
  }
  const point = Buffer.from(key.kind === 'ecdsa' ? key.point : key.raw)
  const parameters = KIND_RULES[kind].parameters[0] ?? []
  // OCTET STRING, as PKCS#11 2.40 wants it; 3.1 takes both.
  return [...parameters, { type: CKA.EC_POINT, value: Buffer.concat([Buffer.from([0x04, point.length]), point]) }]
}

function unsigned(value: bigint): Buffer {
  const digits = value.toString(16)
  return Buffer.from(digits.length % 2 === 0 ? digits : `0${digits}`, 'hex')
}

function privateKeyWith(module: Cryptoki, session: Handle, id: Uint8Array): Handle | undefined {
  const template = [
    { type: CKA.CLASS, value: CKO.PRIVATE_KEY },
    { type: CKA.ID, value: Buffer.from(id) },
  ]
  const [found, second] = findObjects(module, session, template, 2)
  if (second !== undefined)
    throw new HsmError('refused', 'key_not_unique', 'token has several private keys with this id')
  return found
}

function publicHalf(module: Cryptoki, session: Handle, id: Uint8Array): { kind: KeyKind; spkiDer: Uint8Array } {
  const template = [
    { type: CKA.CLASS, value: CKO.PUBLIC_KEY },
    { type: CKA.ID, value: Buffer.from(id) },
  ]
  const [found] = findObjects(module, session, template, 1)
  const half = found === undefined ? undefined : readPublicKey(module, session, found)
  if (half !== undefined) return half
  throw new HsmError(
    'refused',
    'no_public_half',
    'token has no public key with this id, so a backup could not be proved',
  )
}

/** True only if the token says so. */
function isSet(module: Cryptoki, session: Handle, handle: Handle, type: number): boolean {
  return readAttribute(module, session, handle, type)[0] === 1
}

/** What a restored key cannot prove of itself: it came from outside this token. */
function unprovenOf(module: Cryptoki, session: Handle, handle: Handle, kind: KeyKind): string[] {
  const origin = ['LOCAL', 'ALWAYS_SENSITIVE', 'NEVER_EXTRACTABLE']
  return [...origin, ...unheldOf(module, session, handle, kind)]
}
