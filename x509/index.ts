export { X509Error, type X509ErrorCode } from './errors.ts'
export * from './der.ts'
export { decodePem, encodePem, type PemBlock, type PemOptions } from './pem.ts'
export {
  CURVE_BYTES,
  ecdsaDerToP1363,
  ecdsaP1363ToDer,
  keyBits,
  parseEcdsaSignature,
  parsePkcs1PublicKey,
  parsePublicKeyPem,
  parseSpki,
} from './spki.ts'
export type { EcdsaPublicKey, Ed25519PublicKey, NamedCurve, PublicKey, RsaPublicKey } from './spki.ts'
export { checkKeyStrength } from './key-strength.ts'
export {
  SIGNATURE_ALGORITHMS,
  keyIdentifier,
  toKeyObject,
  verifySignature,
  type SignatureAlgorithm,
} from './key-object.ts'
export { parseCertificate, parseTbsCertificate, replaceExtension, withoutExtension } from './certificate-parser.ts'
export type {
  Extension,
  KeyUsage,
  ParsedCertificate,
  ParsedTbsCertificate,
  SubjectAltName,
} from './certificate-parser.ts'
export {
  assembleCertificate,
  lintIssuedLeaf,
  makeIssuer,
  prepareCertificate,
  verifyCertificateSignature,
} from './certificate.ts'
export type {
  CertificateIssuer,
  CertificateProfile,
  IssuerSignatureAlgorithm,
  PreparedCertificate,
} from './certificate.ts'
export { parseCsr, verifyCsr, type ParsedCsr } from './csr.ts'
export {
  decodeSctList,
  digitallySigned,
  encodeSctList,
  merkleTreeLeaf,
  parseDigitallySigned,
  parseSct,
  sctSignatureInput,
  serializeSct,
  treeHeadSignatureInput,
  type Sct,
  type SctEntry,
} from './sct.ts'
export { decodeFulcioExtensions, encodeFulcioExtensions, type FulcioExtensions } from './fulcio-extensions.ts'
export { encodeName, parseName, type NameAttribute } from './names.ts'
export { OID } from './oids.ts'
