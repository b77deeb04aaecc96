/**
 * Certificates of the authorities. @peculiar/x509 writes what is to be signed and signs nothing: its signer only takes the
 * TBSCertificate down (`prepareAuthority`). Whoever wants to looks at those bytes; then the agent's admin channel reads,
 * checks and signs exactly them (`signAuthority`), and what comes back is verified. Runs in the CLI, for minutes a year;
 * the agent and the hot paths load none of this.
 */
import { randomBytes, type webcrypto } from 'node:crypto'
// @peculiar/x509 needs it, and it must come first.
import 'reflect-metadata'
import { Crypto as NodeCrypto } from '@peculiar/webcrypto'
import * as x509 from '@peculiar/x509'
import { bitString, parseCertificate, parseSpki, readSequence, sequence, verifyCertificateSignature } from '#x509'
import type { AdminAgent } from './administration.ts'
import { KIND_RULES } from './key-kinds.ts'
import { HsmError, type KeyKind } from './signing.ts'

/** What WebCrypto calls a key of a kind. @peculiar/x509 takes SHA-256 for every curve unless the key says otherwise. */
type SigningAlgorithm = {
  readonly name: 'ECDSA' | 'RSASSA-PKCS1-v1_5'
  readonly namedCurve?: 'P-256' | 'P-384'
  readonly hash: { readonly name: 'SHA-256' | 'SHA-384' }
}

const DAY_MS = 24 * 60 * 60 * 1000
const YEAR_MS = 365.25 * DAY_MS

/** A little in the past, for clients whose clocks are behind on the day of the ceremony. */
const NOT_BEFORE_MARGIN_MS = 60_000

/** A name of an authority: organisation and common name, in this order. */
export interface AuthorityName {
  readonly organization: string
  readonly commonName: string
}

/** A key that gets a certificate or signs one; on whichever token. */
export interface SubjectKey {
  readonly spkiDer: Uint8Array
  readonly kind: KeyKind
}

/**
 * `root`: signs itself, CA, path length 1. `issuing`: signs code-signing leaves and nothing below, path length 0.
 * `timestamp`: a timestamp authority's leaf.
 */
export type AuthorityProfile = 'root' | 'issuing' | 'timestamp'

export interface AuthorityWish {
  readonly profile: AuthorityProfile
  readonly name: AuthorityName
  readonly subject: SubjectKey
  /** The key that will sign and its certificate, DER; of a root the subject's own key, and no certificate. */
  readonly issuer: SubjectKey & { readonly certificateDer?: Uint8Array }
  readonly now: Date
  readonly validityYears: number
}

/** The TBSCertificate, DER, of an authority's certificate, with a random serial number. Nothing is signed. */
export async function prepareAuthority(wish: AuthorityWish): Promise<Uint8Array> {
  const { profile, name, subject, issuer, now, validityYears } = wish
  const crypto = new CapturingCrypto(issuer.kind)
  const publicKey = await importPublicKey(crypto, subject)
  const signingAlgorithm = algorithmOf(issuer.kind)
  const issuerName =
    profile === 'root' || issuer.certificateDer === undefined
      ? nameOf(name)
      : new x509.X509Certificate(Uint8Array.from(issuer.certificateDer)).subjectName
  const ownIdentifier = await x509.SubjectKeyIdentifierExtension.create(publicKey, false, crypto)
  const issuerKey = await importPublicKey(crypto, issuer)
  const issuerIdentifier = await x509.AuthorityKeyIdentifierExtension.create(issuerKey, false, crypto)
  await x509.X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(),
      subject: nameOf(name),
      issuer: issuerName,
      ...validity(now, validityYears),
      publicKey,
      signingKey: new CapturedKey(signingAlgorithm),
      signingAlgorithm,
      extensions: [...PROFILES[profile](), ownIdentifier, ...(profile === 'root' ? [] : [issuerIdentifier])],
    },
    crypto,
  )
  if (crypto.captured === undefined) throw new TypeError('nothing was to be signed')
  return crypto.captured
}

const PROFILES: Readonly<Record<AuthorityProfile, () => readonly x509.Extension[]>> = {
  root: () => [
    new x509.BasicConstraintsExtension(true, 1, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
  ],
  issuing: () => [
    new x509.BasicConstraintsExtension(true, 0, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.codeSigning], false),
  ],
  // RFC 3161 §2.3 wants its one extended key usage critical.
  timestamp: () => [
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.timeStamping], true),
  ],
}

export interface SigningRequest {
  /** The admin channel of the agent of the issuer's token. */
  readonly agent: Pick<AdminAgent, 'caCertificate' | 'key'>
  /** The issuer's name there. */
  readonly key: string
  /** As `prepareAuthority` gave it. */
  readonly tbsDer: Uint8Array
}

/** Has exactly `tbsDer` signed. Returns the certificate, DER, whose signature was verified; throws `HsmError`. */
export async function signAuthority({ agent, key, tbsDer }: SigningRequest): Promise<Uint8Array> {
  const { spkiDer } = await agent.key(key)
  const signature = await agent.caCertificate({ key, tbsDer })
  const der = sequence(tbsDer, signatureAlgorithmOf(tbsDer), bitString(signature))
  if (!verifyCertificateSignature(parseCertificate(der), parseSpki(spkiDer))) {
    throw new HsmError('unavailable', 'signature_did_not_verify', 'the certificate does not verify under its issuer')
  }
  return der
}

/** The AlgorithmIdentifier inside (RFC 5280 §4.1.2.3), which must stand outside again. */
function signatureAlgorithmOf(tbsDer: Uint8Array): Uint8Array {
  const reader = readSequence(tbsDer)
  reader.optional(0xa0)
  reader.integerBytes()
  return reader.raw()
}

export interface RootRequest {
  /** The admin channel of the agent of the root token. */
  readonly agent: AdminAgent
  /** The root key's name there. */
  readonly key: string
  readonly name: AuthorityName
  readonly now: Date
  /** 10 unless told. */
  readonly validityYears?: number
}

export interface IssuedRequest extends RootRequest {
  /** Certificate of `key`, DER. */
  readonly issuerDer: Uint8Array
  readonly subject: SubjectKey
}

/** The self-signed root. Returns the certificate, DER. */
export async function issueRootCertificate(request: RootRequest): Promise<Uint8Array> {
  const { agent, key, name, now, validityYears = 10 } = request
  const own = await agent.key(key)
  const tbsDer = await prepareAuthority({ profile: 'root', name, subject: own, issuer: own, now, validityYears })
  return await signAuthority({ agent, key, tbsDer })
}

/** An intermediate; valid for 5 years unless told. */
export async function issueIntermediateCertificate(request: IssuedRequest): Promise<Uint8Array> {
  return await issue('issuing', request)
}

/** A timestamp authority's leaf; valid for 5 years unless told. */
export async function issueTimestampCertificate(request: IssuedRequest): Promise<Uint8Array> {
  return await issue('timestamp', request)
}

async function issue(profile: AuthorityProfile, request: IssuedRequest): Promise<Uint8Array> {
  const { agent, key, name, now, issuerDer, subject, validityYears = 5 } = request
  const issuer = { ...(await agent.key(key)), certificateDer: issuerDer }
  const tbsDer = await prepareAuthority({ profile, name, subject, issuer, now, validityYears })
  return await signAuthority({ agent, key, tbsDer })
}

/** The private half of a key that lies elsewhere: what WebCrypto says of a key, and no more. */
class CapturedKey {
  readonly type = 'private'
  readonly extractable = false
  readonly algorithm: SigningAlgorithm
  readonly usages = ['sign'] as const
  constructor(algorithm: SigningAlgorithm) {
    this.algorithm = algorithm
  }
}

/** A WebCrypto of Node's, whose `subtle.sign` keeps what it is given, and gives octets of a signature's length back. */
class CapturingCrypto extends NodeCrypto {
  captured: Uint8Array | undefined

  constructor(kind: KeyKind) {
    super()
    const software: webcrypto.SubtleCrypto = this.subtle
    const sign: webcrypto.SubtleCrypto['sign'] = async (algorithm, key, data) => {
      if (!((key as unknown) instanceof CapturedKey)) {
        throw new HsmError('refused', 'software_key', 'a ceremony signs with keys of the HSM alone')
      }
      const asked = hashName(algorithm)
      if (asked !== undefined && asked !== algorithmOf(kind).hash.name) {
        throw new HsmError('refused', 'wrong_hash', `hash ${asked} does not fit a key of kind ${kind}`)
      }
      this.captured = ArrayBuffer.isView(data)
        ? Uint8Array.from(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
        : Uint8Array.from(new Uint8Array(data))
      return new Uint8Array(KIND_RULES[kind].signatureBytes).fill(1).buffer
    }
    this.subtle = new Proxy(software, {
      get: (target, property) => {
        if (property === 'sign') return sign
        const value: unknown = Reflect.get(target, property, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  }
}

/** The hash that the caller names. */
function hashName(algorithm: webcrypto.AlgorithmIdentifier | webcrypto.EcdsaParams): string | undefined {
  if (typeof algorithm === 'string' || !('hash' in algorithm)) return undefined
  return typeof algorithm.hash === 'string' ? algorithm.hash : algorithm.hash.name
}

async function importPublicKey(crypto: NodeCrypto, { spkiDer, kind }: SubjectKey): Promise<webcrypto.CryptoKey> {
  return await crypto.subtle.importKey('spki', Uint8Array.from(spkiDer), algorithmOf(kind), true, ['verify'])
}

/** Throws `refused` for Ed25519: sigstore-python refuses it in a certificate chain. */
function algorithmOf(kind: KeyKind): SigningAlgorithm {
  if (kind === 'ed25519') throw new HsmError('refused', 'bad_kind', 'authorities have ECDSA or RSA keys')
  if (kind === 'P-256') return { name: 'ECDSA', namedCurve: kind, hash: { name: 'SHA-256' } }
  if (kind === 'P-384') return { name: 'ECDSA', namedCurve: kind, hash: { name: 'SHA-384' } }
  return { name: 'RSASSA-PKCS1-v1_5', hash: { name: 'SHA-256' } }
}

function nameOf({ organization, commonName }: AuthorityName): x509.Name {
  return new x509.Name([{ O: [organization] }, { CN: [commonName] }])
}

function validity(now: Date, years: number): { notBefore: Date; notAfter: Date } {
  // Certificates have whole seconds.
  const start = Math.floor((now.getTime() - NOT_BEFORE_MARGIN_MS) / 1000) * 1000
  return { notBefore: new Date(start), notAfter: new Date(start + Math.floor(years * YEAR_MS)) }
}

/** 20 octets, positive: 159 random bits but for the first, which makes the length certain. */
function serialNumber(): string {
  const serial = randomBytes(20)
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40
  return serial.toString('hex')
}
