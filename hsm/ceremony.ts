/**
 * Certificates of the authorities, issued with @peculiar/x509 on a WebCrypto provider whose private keys are the HSM's:
 * `subtle.sign` sends the TBSCertificate to the agent's admin channel, which reads and checks it before it signs.
 * Runs in the CLI, for minutes a year; the agent and the hot paths load none of this.
 */
import { randomBytes, type webcrypto } from 'node:crypto'
// @peculiar/x509 needs it, and it must come first.
import 'reflect-metadata'
import { Crypto as NodeCrypto } from '@peculiar/webcrypto'
import * as x509 from '@peculiar/x509'
import { ecdsaDerToP1363 } from '#x509'
import type { AdminAgent } from './administration.ts'
import { KIND_RULES } from './key-kinds.ts'
import { HsmError, type KeyKind } from './signing.ts'

/** What WebCrypto calls a key of a kind. @peculiar/x509 takes SHA-256 for every curve unless the key says otherwise. */
export type SigningAlgorithm = {
  readonly name: 'ECDSA' | 'RSASSA-PKCS1-v1_5'
  readonly namedCurve?: 'P-256' | 'P-384'
  readonly hash: { readonly name: 'SHA-256' | 'SHA-384' }
}

const DAY_MS = 24 * 60 * 60 * 1000
const YEAR_MS = 365.25 * DAY_MS

/** A little in the past, for clients whose clocks are behind on the day of the ceremony. */
const NOT_BEFORE_MARGIN_MS = 60_000

/** The private half of a key on the HSM: a name, and what WebCrypto says of a key. */
export class HsmPrivateKey {
  readonly type = 'private'
  readonly extractable = false
  readonly algorithm: SigningAlgorithm
  readonly usages = ['sign'] as const
  /** The key's name in the agent's configuration. */
  readonly keyName: string
  readonly kind: KeyKind
  constructor(keyName: string, kind: KeyKind) {
    this.keyName = keyName
    this.kind = kind
    this.algorithm = algorithmOf(kind)
  }
}

/** A WebCrypto of Node's keys, except that `HsmPrivateKey`s sign on the HSM, through `agent`, and only certificates. */
export class CeremonyCrypto extends NodeCrypto {
  constructor(agent: Pick<AdminAgent, 'caCertificate'>) {
    super()
    const software: webcrypto.SubtleCrypto = this.subtle
    const sign = signer(agent)
    this.subtle = new Proxy(software, {
      get: (target, property) => {
        if (property === 'sign') return sign
        const value: unknown = Reflect.get(target, property, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  }
}

/** `subtle.sign` as @peculiar/x509 calls it: r‖s or PKCS#1 v1.5 over a TBSCertificate. */
function signer(agent: Pick<AdminAgent, 'caCertificate'>): webcrypto.SubtleCrypto['sign'] {
  return async (algorithm, key, data) => {
    if (!((key as unknown) instanceof HsmPrivateKey)) {
      throw new HsmError('refused', 'software_key', 'a ceremony signs with keys of the HSM alone')
    }
    const hsmKey = key as unknown as HsmPrivateKey // just checked
    const { kind } = hsmKey
    const asked = hashName(algorithm)
    if (asked !== undefined && asked !== hsmKey.algorithm.hash.name) {
      throw new HsmError('refused', 'wrong_hash', `hash ${asked} does not fit a key of kind ${kind}`)
    }
    const tbsDer = ArrayBuffer.isView(data)
      ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
      : new Uint8Array(data)
    const signature = await agent.caCertificate({ key: hsmKey.keyName, tbsDer })
    if (hsmKey.algorithm.name !== 'ECDSA') return Uint8Array.from(signature).buffer
    return Uint8Array.from(ecdsaDerToP1363(signature, KIND_RULES[kind].signatureBytes / 2)).buffer
  }
}

/** The hash that the caller names. */
function hashName(algorithm: webcrypto.AlgorithmIdentifier | webcrypto.EcdsaParams): string | undefined {
  if (typeof algorithm === 'string' || !('hash' in algorithm)) return undefined
  return typeof algorithm.hash === 'string' ? algorithm.hash : algorithm.hash.name
}

/** A name of an authority: organisation and common name, in this order. */
export interface AuthorityName {
  readonly organization: string
  readonly commonName: string
}

/** A key that gets a certificate; on whichever token. */
export interface SubjectKey {
  readonly spkiDer: Uint8Array
  readonly kind: KeyKind
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

/** The self-signed root: CA, path length 1. Returns the certificate, DER. */
export async function issueRootCertificate(request: RootRequest): Promise<Uint8Array> {
  const { agent, key, name, now } = request
  const crypto = new CeremonyCrypto(agent)
  const description = await agent.key(key)
  const publicKey = await importPublicKey(crypto, description)
  const signingKey = new HsmPrivateKey(key, description.kind)
  const certificate = await x509.X509CertificateGenerator.createSelfSigned(
    {
      serialNumber: serialNumber(),
      name: nameOf(name),
      ...validity(now, request.validityYears ?? 10),
      signingAlgorithm: signingKey.algorithm,
      keys: { publicKey, privateKey: signingKey as unknown as webcrypto.CryptoKey },
      extensions: [
        new x509.BasicConstraintsExtension(true, 1, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(publicKey, false, crypto),
      ],
    },
    crypto,
  )
  return new Uint8Array(certificate.rawData)
}

/** An intermediate that issues code-signing leaves and nothing below: path length 0. Valid for 5 years unless told. */
export async function issueIntermediateCertificate(request: IssuedRequest): Promise<Uint8Array> {
  return await issue(request, [
    new x509.BasicConstraintsExtension(true, 0, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.codeSigning], false),
  ])
}

/** A timestamp authority's leaf: RFC 3161 §2.3 wants its one extended key usage critical. Valid for 5 years unless told. */
export async function issueTimestampCertificate(request: IssuedRequest): Promise<Uint8Array> {
  return await issue(request, [
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.timeStamping], true),
  ])
}

async function issue(request: IssuedRequest, profile: readonly x509.Extension[]): Promise<Uint8Array> {
  const { agent, key, name, now, issuerDer, subject } = request
  const crypto = new CeremonyCrypto(agent)
  const description = await agent.key(key)
  const issuer = new x509.X509Certificate(Uint8Array.from(issuerDer))
  const publicKey = await importPublicKey(crypto, subject)
  const signingKey = new HsmPrivateKey(key, description.kind)
  const certificate = await x509.X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(),
      subject: nameOf(name),
      issuer: issuer.subjectName,
      ...validity(now, request.validityYears ?? 5),
      publicKey,
      signingKey,
      signingAlgorithm: signingKey.algorithm,
      extensions: [
        ...profile,
        await x509.SubjectKeyIdentifierExtension.create(publicKey, false, crypto),
        await x509.AuthorityKeyIdentifierExtension.create(await importPublicKey(crypto, description), false, crypto),
      ],
    },
    crypto,
  )
  return new Uint8Array(certificate.rawData)
}

async function importPublicKey(crypto: CeremonyCrypto, { spkiDer, kind }: SubjectKey): Promise<webcrypto.CryptoKey> {
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
