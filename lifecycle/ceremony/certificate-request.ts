/**
 * Requests and certificates as they are carried between the machine that holds a key and the one that holds the root.
 *
 * A request is one PEM block CERTIFICATE REQUEST (PKCS#10, RFC 2986): the key, the name that it would like, and a signature
 * by which the key's HSM shows that it has the key. An answer is PEM blocks CERTIFICATE: that of the key first, the root
 * last, as in `ca/chain.pem`. Neither is a secret, and neither is believed: both ends read and check all of it.
 */
import { OperatorError } from '#alarms'
import { type AdminAgent, type KeyKind, isKeyKind } from '#hsm'
import { type AuthorityName, type AuthorityProfile, prepareAuthority, signAuthority } from '#hsm/ceremony'
import {
  decodePem,
  encodePem,
  parseCertificate,
  type ParsedTbsCertificate,
  parseTbsCertificate,
  type ParsedCertificate,
  parseCsr,
  parseName,
  type PublicKey,
  verifyCertificateSignature,
  verifyCsr,
  X509Error,
} from '#x509'
import { lintAuthority } from './lint-authority.ts'
import { judgeByOpenssl } from './openssl-judge.ts'

/** A request whose proof of possession holds. */
export interface CertificateRequest {
  readonly der: Uint8Array
  readonly spkiDer: Uint8Array
  readonly kind: KeyKind
  /** What it would like to be called: an authority names it as its own plan says. */
  readonly name: AuthorityName
}

/**
 * The text of a request, signed on the token. `key`: name of a key of the agent with the purpose `certificateRequest` and
 * no other; it gets `certificate` or `timestamp` instead once the answer is there.
 */
export async function requestCertificate(
  agent: Pick<AdminAgent, 'certificateRequest'>,
  { key, name }: { readonly key: string; readonly name: AuthorityName },
): Promise<string> {
  const text = encodePem('CERTIFICATE REQUEST', await agent.certificateRequest({ key, ...name }))
  readRequest(text)
  return text
}

/** Reads and checks a request. Throws `ceremony_request_refused`. */
export function readRequest(text: string): CertificateRequest {
  try {
    const blocks = decodePem(text, { labels: ['CERTIFICATE REQUEST'] })
    const [block] = blocks
    if (block === undefined || blocks.length !== 1) throw badRequest('it is not one block CERTIFICATE REQUEST')
    const csr = parseCsr(block.der)
    verifyCsr(csr)
    const [organization, commonName, ...more] = parseName(csr.subjectDer)
    if (organization?.type !== 'O' || commonName?.type !== 'CN' || more.length > 0) {
      throw badRequest('its name is not an organisation and a common name')
    }
    return {
      der: block.der,
      spkiDer: csr.publicKey.spkiDer,
      kind: kindOf(csr.publicKey),
      name: { organization: organization.value, commonName: commonName.value },
    }
  } catch (error) {
    if (error instanceof X509Error) throw badRequest(error.message, error)
    throw error
  }
}

function kindOf(key: PublicKey): KeyKind {
  const name = key.kind === 'ecdsa' ? key.curve : key.kind === 'rsa' ? `rsa-${key.bits}` : key.kind
  if (!isKeyKind(name) || name === 'ed25519') throw badRequest(`authorities have no keys of kind ${name}`)
  return name
}

/** What an authority makes of a request, or of its own key for a root. */
export interface CertificateOrder {
  /** The admin channel of the agent of the issuer's token. */
  readonly agent: Pick<AdminAgent, 'caCertificate' | 'key'>
  /** The issuer's name there. */
  readonly issuerKey: string
  /** DER, the issuer's certificate first and the root last; empty for a root, which signs itself. */
  readonly issuerChain: readonly Uint8Array[]
  readonly subject: { readonly spkiDer: Uint8Array; readonly kind: KeyKind }
  readonly profile: AuthorityProfile
  readonly name: AuthorityName
  readonly validityYears: number
}

/** The TBSCertificate, DER, of a certificate, linted: only what this gave may be signed. Throws `ceremony_certificate_refused`. */
export async function prepareCertificate(order: CertificateOrder, now: Date): Promise<Uint8Array> {
  const { agent, issuerKey, issuerChain, subject, profile, name, validityYears } = order
  const [certificateDer] = issuerChain
  const { spkiDer, kind } = await agent.key(issuerKey)
  const issuer = { spkiDer, kind, ...(certificateDer === undefined ? {} : { certificateDer }) }
  const tbsDer = await prepareAuthority({ profile, name, subject, issuer, now, validityYears })
  lintPrepared(order, tbsDer)
  return tbsDer
}

/** Has prepared bytes signed, and verifies what came. Returns the chain, DER, the new certificate first, the root last. */
export async function signCertificate(order: CertificateOrder, tbsDer: Uint8Array): Promise<Uint8Array[]> {
  // They may have been prepared by another run, and read from a file since.
  lintPrepared(order, tbsDer)
  const der = await signAuthority({ agent: order.agent, key: order.issuerKey, tbsDer })
  const chain = [der, ...order.issuerChain]
  checkChain(chain, { ...order, spkiDer: order.subject.spkiDer })
  return chain
}

/** A request's answer in one step, for a rotation whose root token is at hand. Returns the chain as PEM. */
export async function answerRequest(order: CertificateOrder, now: Date): Promise<string> {
  return encodeChain(await signCertificate(order, await prepareCertificate(order, now)))
}

/** DER to PEM, in the same order. */
export function encodeChain(chain: readonly Uint8Array[]): string {
  return chain.map((der) => encodePem('CERTIFICATE', der)).join('')
}

/** What a chain must be for. A rotation that did not say names and years takes those of the authority. */
export interface ChainExpectation {
  readonly profile: AuthorityProfile
  /** Of the key that has the certificate. */
  readonly spkiDer: Uint8Array
  readonly name?: AuthorityName
  readonly validityYears?: number
}

/** Reads an answer and checks it against what was requested. Returns the chain, DER. Throws `ceremony_certificate_refused`. */
export function readAnswer(text: string, wanted: ChainExpectation): Uint8Array[] {
  let chain: Uint8Array[]
  try {
    chain = decodePem(text, { labels: ['CERTIFICATE'] }).map(({ der }) => der)
  } catch (error) {
    if (error instanceof X509Error) throw badCertificate('it is no PEM', error)
    throw error
  }
  checkChain(chain, wanted)
  return chain
}

/** Throws `ceremony_certificate_refused` unless the chain is what was asked for, for our own parser and for OpenSSL. */
export function checkChain(chain: readonly Uint8Array[], wanted: ChainExpectation): void {
  const parsed = chain.map(parse)
  const [subject, issuer = subject] = parsed
  const isRoot = wanted.profile === 'root'
  if (subject === undefined || issuer === undefined || parsed.length !== (isRoot ? 1 : 2)) {
    throw badCertificate(isRoot ? 'a root stands alone' : 'it is not a certificate and the root that issued it')
  }
  const faults = lintAuthority(subject, {
    ...wanted,
    name: wanted.name ?? nameOf(subject),
    validityYears: wanted.validityYears ?? yearsOf(subject),
    ...(isRoot ? {} : { issuer }),
  })
  if (!isRoot) faults.push(...lintRoot(issuer))
  if (!verifyCertificateSignature(subject, issuer.publicKey)) faults.push('the signature is not by the issuer')
  if (!verifyCertificateSignature(issuer, issuer.publicKey)) faults.push('the root did not sign itself')
  const [first] = faults
  if (first !== undefined) throw badCertificate(faults.join('; '))
  const judged = judgeByOpenssl(chain, wanted.profile)
  if (judged.verdict === 'refused') throw badCertificate(`openssl verify -x509_strict: ${judged.words}`)
}

/** The root above, as far as it matters to what it issued: its own making was another ceremony's. */
function lintRoot(root: ParsedCertificate): string[] {
  return lintAuthority(root, {
    profile: 'root',
    name: nameOf(root),
    spkiDer: root.publicKey.spkiDer,
    validityYears: yearsOf(root),
  }).map((fault) => `of the root: ${fault}`)
}

function nameOf({ subjectDer }: ParsedCertificate): AuthorityName {
  const attributes = parseName(subjectDer)
  const valueOf = (wanted: string) => attributes.find(({ type }) => type === wanted)?.value ?? ''
  return { organization: valueOf('O'), commonName: valueOf('CN') }
}

function yearsOf({ notBefore, notAfter }: ParsedCertificate): number {
  return (notAfter.getTime() - notBefore.getTime()) / (365.25 * 24 * 60 * 60 * 1000)
}

function lintPrepared(order: CertificateOrder, tbsDer: Uint8Array): void {
  const { profile, name, validityYears, subject, issuerChain } = order
  const [issuerDer] = issuerChain
  const expected = { profile, name, validityYears, spkiDer: subject.spkiDer }
  const issuer = issuerDer === undefined ? {} : { issuer: parse(issuerDer) }
  const faults = lintAuthority(parseTbs(tbsDer), { ...expected, ...issuer })
  if (faults.length > 0) throw badCertificate(`nothing was signed: ${faults.join('; ')}`)
}

function parse(der: Uint8Array): ParsedCertificate {
  try {
    return parseCertificate(der)
  } catch (error) {
    if (error instanceof X509Error) throw badCertificate(error.message, error)
    throw error
  }
}

function parseTbs(tbsDer: Uint8Array): ParsedTbsCertificate {
  try {
    return parseTbsCertificate(tbsDer)
  } catch (error) {
    if (error instanceof X509Error) throw badCertificate(error.message, error)
    throw error
  }
}

function badRequest(how: string, cause?: unknown): OperatorError {
  return new OperatorError('ceremony_request_refused', `the certificate request is refused: ${how}`, { cause })
}

function badCertificate(how: string, cause?: unknown): OperatorError {
  return new OperatorError('ceremony_certificate_refused', `the certificate is refused: ${how}`, { cause })
}
