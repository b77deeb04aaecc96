/** What the authority's own chain must be, so that every client takes its tokens (tsa profile of RFC 3161 §2.3). */
import { OID, X509Error, equalBytes, parseCertificate, verifyCertificateSignature, type ParsedCertificate } from '#x509'
import { TimestampError } from './error.ts'

/** An empty Name. */
const EMPTY_NAME_BYTES = 2

/**
 * Parses a chain, leaf first and self-signed root last; throws `configuration` unless `openssl ts`, sigstore-go, -js
 * and -python would all take the leaf as the signer of timestamps at `now`.
 */
export function checkChain(
  chainDer: readonly Uint8Array[],
  spkiDer: Uint8Array,
  now: Date,
): readonly ParsedCertificate[] {
  const chain = chainDer.map(parse)
  const [leaf, ...authorities] = chain
  const root = authorities.at(-1)
  // sigstore-python wants two certificates at least, and no client takes a token whose signer is its own root.
  if (leaf === undefined || root === undefined) throw wrong('chain has fewer than two certificates')
  checkLeaf(leaf, spkiDer)
  for (const [at, authority] of authorities.entries()) checkAuthority(authority, chain[at], at)
  if (!equalBytes(root.issuerDer, root.subjectDer) || !verifyCertificateSignature(root, root.publicKey)) {
    throw wrong('chain does not end in a self-signed root')
  }
  for (const certificate of chain) {
    if (now < certificate.notBefore || now > certificate.notAfter)
      throw wrong('a certificate of the chain is not valid now')
  }
  return chain
}

function checkLeaf(leaf: ParsedCertificate, spkiDer: Uint8Array): void {
  if (!equalBytes(leaf.publicKey.spkiDer, spkiDer)) throw wrong('leaf is not for the signing key')
  // sigstore-js knows no other signature than ECDSA; the token writer says SHA-256.
  if (leaf.publicKey.kind !== 'ecdsa' || leaf.publicKey.curve !== 'P-256') throw wrong('signing key is not ECDSA P-256')
  if (leaf.basicConstraints?.ca === true) throw wrong('leaf is a CA')
  if (leaf.subjectDer.length <= EMPTY_NAME_BYTES)
    throw wrong('leaf has no subject, which the token names as its authority')
  const usages = leaf.extension(OID.extKeyUsage)
  if (usages?.critical !== true || leaf.extKeyUsage?.length !== 1 || leaf.extKeyUsage[0] !== OID.timeStamping) {
    throw wrong('leaf does not have timeStamping as its only extended key usage, critical')
  }
  const keyUsage = [...(leaf.keyUsage ?? [])]
  const fits =
    keyUsage.includes('digitalSignature') &&
    keyUsage.every((usage) => usage === 'digitalSignature' || usage === 'nonRepudiation')
  if (!fits) throw wrong('key usage of the leaf is not digitalSignature, with or without nonRepudiation')
}

function checkAuthority(authority: ParsedCertificate, below: ParsedCertificate | undefined, at: number): void {
  if (authority.basicConstraints?.ca !== true) throw wrong(`certificate ${at + 1} of the chain is not a CA`)
  if (authority.keyUsage?.has('keyCertSign') === false)
    throw wrong(`certificate ${at + 1} of the chain must not sign certificates`)
  const usages = authority.extKeyUsage
  if (usages !== undefined && !usages.includes(OID.timeStamping) && !usages.includes(OID.anyExtendedKeyUsage)) {
    throw wrong(`certificate ${at + 1} of the chain shuts out timestamping`)
  }
  if (
    below === undefined ||
    !equalBytes(below.issuerDer, authority.subjectDer) ||
    !verifyCertificateSignature(below, authority.publicKey)
  ) {
    throw wrong(`certificate ${at} of the chain is not signed by the next one`)
  }
}

function parse(der: Uint8Array): ParsedCertificate {
  try {
    return parseCertificate(der)
  } catch (error) {
    if (error instanceof X509Error)
      throw new TimestampError('configuration', `timestamp chain: ${error.message}`, { cause: error })
    throw error
  }
}

function wrong(message: string): TimestampError {
  return new TimestampError('configuration', `timestamp chain: ${message}`)
}
