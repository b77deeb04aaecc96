/**
 * What may enter the CT log: a code-signing certificate or precertificate whose chain, in the order submitted, leads to
 * an accepted root (RFC 6962 §3.1). Without this anybody could fill the log; with it only our CA, or whoever holds one
 * of the accepted roots, can.
 */
import { createHash, hash } from 'node:crypto'
import {
  OID,
  type ParsedCertificate,
  parseCertificate,
  type SctEntry,
  verifyCertificateSignature,
  withoutExtension,
  X509Error,
} from '#x509'
import { CtError } from './errors.ts'

/** Longest chain that is looked at, leaf included; ours has three. Each costs a signature check. */
const MAX_CHAIN_LENGTH = 8

/** DER of NULL, the value of the poison extension (RFC 6962 §3.1). */
const DER_NULL = Uint8Array.of(0x05, 0x00)

/** A submission that passed every check. */
export interface CheckedChain {
  readonly entry: SctEntry
  /** DER of the leaf as submitted: certificate or precertificate. */
  readonly submitted: Uint8Array
  /** DER of its issuers, the accepted root last, whether it was submitted or not. */
  readonly issuers: readonly Uint8Array[]
}

/** Issuers' parts of chains that were found good and are kept: as many as there will ever be issuing CAs, and more. */
const MAX_KNOWN_CHAINS = 64

/** The accepted roots of a log, parsed once, and the issuers that were verified under them. They may become more. */
export class AcceptedRoots {
  #certificates: readonly ParsedCertificate[]
  /**
   * By digest of the DER. Every submission of a CA brings the same issuers; verifying a P-384 root's signature each
   * time would cost more than all the rest.
   */
  readonly #known = new Map<string, readonly ParsedCertificate[]>()

  /** `roots`: DER of CA certificates; throws `X509Error` for what is not a certificate, RangeError for none. */
  constructor(roots: readonly Uint8Array[]) {
    if (roots.length === 0) throw new RangeError('a CT log without accepted roots takes nothing')
    this.#certificates = roots.map((der) => parseCertificate(der))
  }

  get certificates(): readonly ParsedCertificate[] {
    return this.#certificates
  }

  /** Takes chains to these (DER) and no others from now on. Throws `X509Error`; RangeError for none. */
  replace(roots: readonly Uint8Array[]): void {
    this.#certificates = new AcceptedRoots(roots).certificates
    this.#known.clear()
  }

  /** Whether a chain (DER, its root last) ends in one of them. */
  accepts(chain: readonly Uint8Array[]): boolean {
    const root = chain.at(-1)
    return root !== undefined && this.#certificates.some(({ der }) => equal(der, root))
  }

  /** The verified issuers of a leaf, nearest first, up to and with an accepted root. Throws `CtError`. */
  issuersOf(leaf: ParsedCertificate, submitted: readonly Uint8Array[]): readonly ParsedCertificate[] {
    if (submitted.length === 0) return [this.#rootAbove(leaf)]
    const digest = createHash('sha256')
    for (const der of submitted) digest.update(`${der.length}:`).update(der)
    const key = digest.digest('hex')
    const issuers = this.#known.get(key) ?? this.#verify(submitted)
    this.#known.set(key, issuers)
    const [oldest] = this.#known.keys()
    if (this.#known.size > MAX_KNOWN_CHAINS && oldest !== undefined) this.#known.delete(oldest)
    return issuers
  }

  #verify(submitted: readonly Uint8Array[]): readonly ParsedCertificate[] {
    const issuers = submitted.map((der, place) => parseSubmitted(der, place + 1))
    for (const [place, issuer] of issuers.entries()) {
      checkAuthority(issuer, place)
      const above = issuers[place + 1]
      if (above !== undefined && !isIssuedBy(issuer, above)) throw notIssued(place + 1)
    }
    const last = issuers.at(-1)
    if (last === undefined || this.#certificates.some((root) => equal(root.der, last.der))) return issuers
    const root = this.#rootAbove(last)
    checkAuthority(root, issuers.length)
    return [...issuers, root]
  }

  #rootAbove(subject: ParsedCertificate): ParsedCertificate {
    const root = this.#certificates.find((candidate) => isIssuedBy(subject, candidate))
    if (root === undefined) throw new CtError('bad_chain', 'the chain does not lead to an accepted root')
    return root
  }
}

/**
 * Checks a chain (DER, leaf first, root optional) for `add-pre-chain` (`precert`) or `add-chain` (`x509`): structure,
 * order, signatures of every certificate, CA properties of every issuer, EKU code signing of the leaf, the poison.
 * Throws `CtError`.
 */
export function checkChain(chain: readonly Uint8Array[], type: SctEntry['type'], roots: AcceptedRoots): CheckedChain {
  if (chain.length > MAX_CHAIN_LENGTH)
    throw new CtError('bad_chain', `a chain of more than ${MAX_CHAIN_LENGTH} certificates`)
  const [leafDer, ...above] = chain
  if (leafDer === undefined) throw new CtError('bad_chain', 'the chain is empty')
  const leaf = parseSubmitted(leafDer, 0)
  checkLeaf(leaf, type)
  const issuers = roots.issuersOf(leaf, above)
  const [issuer] = issuers
  if (issuer === undefined || !isIssuedBy(leaf, issuer)) throw notIssued(0)
  return {
    entry: type === 'x509' ? { type, certificateDer: leaf.der } : precertEntry(leaf, issuer),
    submitted: leaf.der,
    issuers: issuers.map(({ der }) => der),
  }
}

/** Whether the entry, as a CA computed it, is the one of this precertificate: a mismatch would promise another certificate. */
export function isSameEntry(a: SctEntry, b: SctEntry): boolean {
  return a.type === 'precert' && b.type === 'precert'
    ? equal(a.issuerKeyHash, b.issuerKeyHash) && equal(a.tbsDer, b.tbsDer)
    : a.type === 'x509' && b.type === 'x509' && equal(a.certificateDer, b.certificateDer)
}

function parseSubmitted(der: Uint8Array, place: number): ParsedCertificate {
  try {
    return parseCertificate(der)
  } catch (cause) {
    if (!(cause instanceof X509Error)) throw cause
    throw new CtError('bad_certificate', `certificate ${place + 1} of the chain: ${cause.message}`, { cause })
  }
}

function checkLeaf(leaf: ParsedCertificate, type: SctEntry['type']): void {
  const poison = leaf.extension(OID.ctPoison)
  if (type === 'x509' && poison !== undefined) {
    throw new CtError('wrong_endpoint', 'a precertificate belongs to add-pre-chain')
  }
  if (type === 'precert') {
    if (poison === undefined) throw new CtError('wrong_endpoint', 'a certificate without poison belongs to add-chain')
    if (!poison.critical || !equal(poison.value, DER_NULL)) {
      throw new CtError('bad_certificate', 'the poison extension must be critical with the value NULL')
    }
    if (leaf.extension(OID.sctList) !== undefined) {
      throw new CtError('bad_certificate', 'a precertificate cannot hold timestamps yet')
    }
  }
  if (leaf.basicConstraints?.ca === true) throw new CtError('bad_certificate', 'the certificate is a CA certificate')
  if (leaf.extKeyUsage?.includes(OID.codeSigning) !== true) {
    throw new CtError('bad_certificate', 'the extended key usage has no code signing')
  }
}

/** `casBelow`: CA certificates between this one and the leaf. */
function checkAuthority(certificate: ParsedCertificate, casBelow: number): void {
  const { basicConstraints, keyUsage } = certificate
  if (basicConstraints?.ca !== true || (keyUsage !== undefined && !keyUsage.has('keyCertSign'))) {
    throw new CtError('bad_chain', `certificate ${casBelow + 2} may not issue certificates`)
  }
  if (basicConstraints.pathLength !== undefined && basicConstraints.pathLength < casBelow) {
    throw new CtError('bad_chain', `certificate ${casBelow + 2} may not have ${casBelow} CAs below it`)
  }
}

function notIssued(place: number): CtError {
  return new CtError('bad_chain', `certificate ${place + 1} is not issued by the next one`)
}

function isIssuedBy(subject: ParsedCertificate, issuer: ParsedCertificate): boolean {
  if (!equal(subject.issuerDer, issuer.subjectDer)) return false
  try {
    return verifyCertificateSignature(subject, issuer.publicKey)
  } catch (error) {
    // An algorithm or key that we do not know.
    if (error instanceof X509Error) return false
    throw error
  }
}

/** RFC 6962 §3.2. A precertificate signing certificate of its own is not accepted: no CA of ours has one. */
function precertEntry(leaf: ParsedCertificate, issuer: ParsedCertificate): SctEntry {
  return {
    type: 'precert',
    issuerKeyHash: new Uint8Array(hash('sha256', issuer.publicKey.spkiDer, 'buffer')),
    tbsDer: withoutExtension(leaf.tbsDer, OID.ctPoison),
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}
