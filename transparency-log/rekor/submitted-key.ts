/** The keys and certificates that come with an entry: PEM in v1, DER in v2. Nobody is trusted for being here. */
import {
  decodePem,
  encodePem,
  parseCertificate,
  parseSpki,
  type ParsedCertificate,
  type PublicKey,
  verifyCertificateSignature,
  X509Error,
} from '#x509'
import { invalid } from './errors.ts'
import { type CheckBudget, MAX_CHAIN } from './limits.ts'

/** A verifier of a signature, with the names that it can be found by. */
export interface SubmittedKey {
  readonly publicKey: PublicKey
  /** Subject alternative names of the certificate, DNS names first as in rekor; empty for a bare key. */
  readonly subjects: readonly Subject[]
  /** PEM as rekor writes it again: one LF after each block and nothing between them. */
  readonly canonicalPem: string
}

export interface Subject {
  readonly type: ParsedCertificate['subjectAltNames'][number]['type']
  readonly value: string
}

/** Type-id of Fulcio's UTF-8 otherName, the only one that rekor reads. */
const FULCIO_OTHER_NAME = '1.3.6.1.4.1.57264.1.7'

/**
 * Reads the `publicKey` or `verifier` of a v1 entry: one `PUBLIC KEY`, one `CERTIFICATE`, or a chain of at most ten
 * certificates, leaf first. Text before a block is skipped, as Go's pem package does. Throws `invalid`.
 */
export function readPemKey(pem: Uint8Array): SubmittedKey & { readonly chain: readonly ParsedCertificate[] } {
  const blocks = pemBlocks(Buffer.from(pem.buffer, pem.byteOffset, pem.byteLength).toString('latin1').trim())
  const [first] = blocks
  if (first === undefined) throw invalid('invalid public key: failure decoding PEM')
  if (blocks.length === 1 && first.label === 'PUBLIC KEY') return { ...bareKey(first.der), chain: [] }
  if (blocks.length === 1 && first.label !== 'CERTIFICATE') {
    throw invalid(`invalid public key: cannot handle type ${first.label}`)
  }
  const chain = blocks.map(({ der }) => certificateOf(der))
  const canonicalPem = chain.map(({ der }) => encodePem('CERTIFICATE', der)).join('')
  const [leaf] = chain
  if (leaf === undefined) throw invalid('invalid public key: no certificate')
  return { publicKey: leaf.publicKey, subjects: subjectsOf(leaf), canonicalPem, chain }
}

/** A SubjectPublicKeyInfo, DER (v2). Throws `invalid`. */
export function readSpkiKey(der: Uint8Array): SubmittedKey {
  return bareKey(der)
}

/** A certificate, DER (v2); no chain is built for it, as in rekor-tiles. Throws `invalid`. */
export function readCertificateKey(der: Uint8Array): SubmittedKey {
  const certificate = certificateOf(der)
  return {
    publicKey: certificate.publicKey,
    subjects: subjectsOf(certificate),
    canonicalPem: encodePem('CERTIFICATE', certificate.der),
  }
}

/**
 * Checks a submitted chain as rekor does: from the leaf to the last certificate as root, at the leaf's notBefore (so
 * that an expired chain can still be logged). A single certificate is not checked. Throws `invalid`, `too_many`.
 */
export function checkChain(chain: readonly ParsedCertificate[], budget: CheckBudget): void {
  const [leaf] = chain
  const root = chain.at(-1)
  if (leaf === undefined || root === undefined || chain.length === 1) return
  for (const certificate of chain) refuseUnknownCriticalExtensions(certificate)
  if (!reaches(leaf, root, chain.slice(1, -1), leaf.notBefore, budget)) {
    throw invalid('certificate chain does not lead from its first to its last certificate')
  }
}

/** Depth-first over the certificates that were not used yet; the budget ends what a crafted chain could blow up. */
function reaches(
  certificate: ParsedCertificate,
  root: ParsedCertificate,
  intermediates: readonly ParsedCertificate[],
  at: Date,
  budget: CheckBudget,
  below = 0,
): boolean {
  if (Buffer.compare(certificate.der, root.der) === 0) return true
  if (isIssuer(root, certificate, at, below, budget)) return true
  return intermediates.some(
    (candidate) =>
      isIssuer(candidate, certificate, at, below, budget) &&
      reaches(
        candidate,
        root,
        intermediates.filter((other) => other !== candidate),
        at,
        budget,
        below + 1,
      ),
  )
}

/** `below`: how many intermediates stand between the leaf and this issuer (pathLenConstraint, RFC 5280 §4.2.1.9). */
function isIssuer(
  issuer: ParsedCertificate,
  certificate: ParsedCertificate,
  at: Date,
  below: number,
  budget: CheckBudget,
): boolean {
  if (Buffer.compare(issuer.subjectDer, certificate.issuerDer) !== 0) return false
  if (at < issuer.notBefore || at > issuer.notAfter) return false
  if (issuer.basicConstraints?.ca !== true) return false
  const { pathLength } = issuer.basicConstraints
  if (pathLength !== undefined && below > pathLength) return false
  budget.spend()
  return verifyCertificateSignature(certificate, issuer.publicKey)
}

/** Critical extensions that a chain check may pass over: those it reads, and the ones that only narrow a use. */
const KNOWN_CRITICAL = new Set([
  '2.5.29.15', // key usage
  '2.5.29.17', // subject alternative name
  '2.5.29.19', // basic constraints
  '2.5.29.37', // extended key usage: rekor asks for any
])

/** RFC 5280 §4.2: what is critical and not understood (name constraints among them) must be refused. */
function refuseUnknownCriticalExtensions(certificate: ParsedCertificate): void {
  const unknown = certificate.extensions.find(({ critical, oid }) => critical && !KNOWN_CRITICAL.has(oid))
  if (unknown !== undefined) throw invalid(`certificate chain has an unhandled critical extension ${unknown.oid}`)
}

function bareKey(der: Uint8Array): SubmittedKey {
  const publicKey = reading('public key', () => parseSpki(der))
  return { publicKey, subjects: [], canonicalPem: encodePem('PUBLIC KEY', publicKey.spkiDer) }
}

function certificateOf(der: Uint8Array): ParsedCertificate {
  return reading('certificate', () => parseCertificate(der))
}

function subjectsOf({ subjectAltNames }: ParsedCertificate): Subject[] {
  const others = subjectAltNames.filter(({ type }) => type === 'otherName')
  const readable = others.length === 1 && others[0]?.oid === FULCIO_OTHER_NAME
  return subjectAltNames
    .filter(({ type }) => type !== 'otherName' || readable)
    .map(({ type, value }) => ({ type, value }))
}

function reading<T>(what: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof X509Error) throw invalid(`parsing ${what}: ${error.message}`, error)
    throw error
  }
}

interface PemBlock {
  readonly label: string
  readonly der: Uint8Array
}

/** All blocks; text between them is skipped, text after the last one is refused. */
function pemBlocks(text: string): PemBlock[] {
  const blocks: PemBlock[] = []
  let rest = text
  while (rest !== '') {
    if (blocks.length === MAX_CHAIN) throw invalid('too many certificates specified in PEM block')
    const begin = rest.startsWith('-----BEGIN ') ? 0 : rest.indexOf('\n-----BEGIN ') + 1
    const endLine = rest.indexOf('\n-----END ', begin)
    if ((begin === 0 && !rest.startsWith('-----BEGIN ')) || endLine < 0) throw invalid('error during PEM decoding')
    const lineEnd = rest.indexOf('\n', endLine + 1)
    const end = lineEnd < 0 ? rest.length : lineEnd
    const [block] = reading('PEM', () => decodePem(rest.slice(begin, end), { max: 1 }))
    if (block !== undefined) blocks.push(block)
    rest = rest.slice(end).trim()
  }
  return blocks
}
