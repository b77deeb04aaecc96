/** Object identifiers of certificates; those of Fulcio are in `docs/oid-info.md` of sigstore/fulcio. */
export const OID = {
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
  extKeyUsage: '2.5.29.37',
  codeSigning: '1.3.6.1.5.5.7.3.3',
  timeStamping: '1.3.6.1.5.5.7.3.8',
  anyExtendedKeyUsage: '2.5.29.37.0',
  /** RFC 6962 §3.1 and §3.3. */
  ctPoison: '1.3.6.1.4.1.11129.2.4.3',
  sctList: '1.3.6.1.4.1.11129.2.4.2',
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  ecdsaWithSha384: '1.2.840.10045.4.3.3',
  sha256WithRsaEncryption: '1.2.840.113549.1.1.11',
  ed25519: '1.3.101.112',
  /** The otherName of Fulcio's `username` identities. */
  fulcioUsername: '1.3.6.1.4.1.57264.1.7',
  /** Every Fulcio extension is an arc below this. */
  fulcio: '1.3.6.1.4.1.57264.1',
} as const
