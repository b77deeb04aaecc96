/** Certification requests, PKCS#10 (RFC 2986): only key and proof of possession count, names and attributes are ignored. */
import { readSequence } from './der.ts'
import { X509Error, readingAs } from './errors.ts'
import { SIGNATURE_ALGORITHMS, verifySignature } from './key-object.ts'
import { parseSpki, type PublicKey } from './spki.ts'

export interface ParsedCsr {
  readonly publicKey: PublicKey
  /** Name in DER; nobody has proved it. */
  readonly subjectDer: Uint8Array
  /** CertificationRequestInfo as it was signed. */
  readonly tbsDer: Uint8Array
  readonly signatureAlgorithmOid: string
  /** Hash of the signature algorithm; absent for Ed25519 and for algorithms that are not verified here. */
  readonly hash?: 'sha256' | 'sha384' | 'sha512'
  readonly signature: Uint8Array
}

/** Parses a CSR; throws `malformed_csr`, or `unsupported_key`. The signature is not checked (`verifyCsr`). */
export function parseCsr(der: Uint8Array): ParsedCsr {
  return readingAs('malformed_csr', 'csr', () => {
    const reader = readSequence(der)
    const tbsDer = reader.raw()
    const algorithm = reader.sequence()
    const signatureAlgorithmOid = algorithm.oid()
    const signature = reader.bitOctets()
    reader.end()

    const info = readSequence(tbsDer)
    if (info.integer() !== 0n) throw new X509Error('malformed_csr', 'csr: version is not 1')
    const subjectDer = info.raw()
    const publicKey = parseSpki(info.raw())
    info.read(0xa0)
    info.end()
    const hash = SIGNATURE_ALGORITHMS[signatureAlgorithmOid]?.hash
    return { publicKey, subjectDer, tbsDer, signatureAlgorithmOid, signature, ...(hash === undefined ? {} : { hash }) }
  })
}

/** Throws `unsupported_key` for a signature algorithm that is not spoken here, `bad_signature` if the key did not sign. */
export function verifyCsr(csr: ParsedCsr): void {
  if (SIGNATURE_ALGORITHMS[csr.signatureAlgorithmOid] === undefined) {
    throw new X509Error('unsupported_key', `csr: signature algorithm ${csr.signatureAlgorithmOid} is not supported`)
  }
  if (!verifySignature(csr.signatureAlgorithmOid, csr.publicKey, csr.tbsDer, csr.signature)) {
    throw new X509Error('bad_signature', 'csr: signature does not fit the key')
  }
}
