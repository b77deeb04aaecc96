/** The certificate transparency log as the CA needs it; our own in-process log and a client of a remote one satisfy it. */
export interface CtLog {
  /**
   * Adds a precertificate and returns the serialised SCT (RFC 6962 §3.2). When it resolves the entry is durable and
   * covered by a signed tree head of our own log; a remote log promises no more than its maximum merge delay. A
   * rejection says nothing about whether the entry is in the log.
   */
  addPreCertificate(entry: PreCertificateEntry): Promise<Uint8Array>
}

export interface PreCertificateEntry {
  /** DER: the precertificate, its issuer, and so on up to the root. */
  readonly chain: readonly Uint8Array[]
  /** SHA-256 of the issuer's SPKI, 32 bytes. */
  readonly issuerKeyHash: Uint8Array
  /** TBSCertificate without the poison. */
  readonly tbsDer: Uint8Array
}
