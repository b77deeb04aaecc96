/** Certificates with whatever faults a test needs, which a real CA would not make. */
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import {
  assembleCertificate,
  bitString,
  boolean,
  contextConstructed,
  encodeName,
  integer,
  nullValue,
  objectIdentifier,
  octetString,
  OID,
  sequence,
  time,
} from '#x509'

/** A name with its key, and the certificate if it has one. */
export interface Party {
  readonly name: string
  readonly privateKey: KeyObject
  readonly spkiDer: Uint8Array
}

export interface Authority extends Party {
  readonly der: Uint8Array
}

export function party(name: string): Party {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return { name, privateKey, spkiDer: new Uint8Array(publicKey.export({ type: 'spki', format: 'der' })) }
}

export function extension(oid: string, critical: boolean, value: Uint8Array): Uint8Array {
  return sequence(objectIdentifier(oid), ...(critical ? [boolean(true)] : []), octetString(value))
}

export const POISON = extension(OID.ctPoison, true, nullValue())
export const CODE_SIGNING = extension(OID.extKeyUsage, false, sequence(objectIdentifier(OID.codeSigning)))
export const CA = extension(OID.basicConstraints, true, sequence(boolean(true)))
/** keyCertSign and cRLSign. */
export const CERT_SIGN = extension(OID.keyUsage, true, bitString(Uint8Array.of(0x06), 1))

let serial = 1

/** A certificate for `subject`, signed with the issuer's key, or with `signedBy`'s while it names the issuer. */
export function certificate(
  subject: Party,
  issuer: Party,
  extensions: readonly Uint8Array[],
  signedBy: Party = issuer,
): Uint8Array {
  const tbs = sequence(
    contextConstructed(0, integer(2)),
    integer(++serial),
    sequence(objectIdentifier(OID.ecdsaWithSha256)),
    encodeName([{ type: 'CN', value: issuer.name }]),
    sequence(time(new Date('2026-01-01T00:00:00Z')), time(new Date('2036-01-01T00:00:00Z'))),
    encodeName([{ type: 'CN', value: subject.name }]),
    subject.spkiDer,
    contextConstructed(3, sequence(...extensions)),
  )
  return assembleCertificate(tbs, 'ecdsa-sha256', new Uint8Array(sign('sha256', tbs, signedBy.privateKey)))
}

export function authority(
  name: string,
  issuer?: Party,
  extensions: readonly Uint8Array[] = [CA, CERT_SIGN],
): Authority {
  const own = party(name)
  return { ...own, der: certificate(own, issuer ?? own, extensions) }
}
