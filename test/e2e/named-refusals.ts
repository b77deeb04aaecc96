/** What each verifier says to each thing that is not as it should be: a refusal for another reason proves nothing. */
import type { VerifierName } from './clients.ts'
import type { Mutation } from './mutate-bundle.ts'

export type Fault = Mutation | 'artifact' | 'identity' | 'issuer'

/** cosign verifies bundles by sigstore-go. */
const sigstoreGo: Readonly<Record<Fault, RegExp>> = {
  SET: /not enough verified log entries from transparency log/,
  proof: /does not match expected root/,
  checkpoint: /signature on checkpoint did not verify|invalid signature for key rekor-v2/,
  // On v1 the SET covers the index and is looked at first; another place may want a proof of another length.
  index: /not enough verified log entries from transparency log|does not match expected root|wrong proof size/,
  timestamp: /unable to verify signed timestamps.*ECDSA verification failure/,
  // On v2 the entry is rebuilt from the bundle, with the changed signature in it.
  signature: /transparency log signature does not match|does not match expected root/,
  artifact: /invalid signature when validating|provided artifact digests? do(es)? not match/,
  identity: /no matching CertificateIdentity found.*expected SAN value "other@example\.test"/,
  issuer: /no matching CertificateIdentity found.*expected issuer value "https:\/\/issuer\.example"/,
}

export const namedRefusals: Readonly<Record<VerifierName, Readonly<Record<Fault, RegExp>>>> = {
  'cosign 3': sigstoreGo,
  'cosign 2': sigstoreGo,
  'sigstore-go': sigstoreGo,
  'sigstore-js': {
    SET: /TLOG_INCLUSION_PROMISE_ERROR/,
    proof: /TLOG_INCLUSION_PROOF_ERROR/,
    checkpoint: /TLOG_INCLUSION_PROOF_ERROR/,
    index: /TLOG_INCLUSION_(PROMISE|PROOF)_ERROR/,
    timestamp: /TIMESTAMP_ERROR/,
    // The timestamp is over the signature and is looked at first.
    signature: /TIMESTAMP_ERROR/,
    artifact: /SIGNATURE_ERROR|no subject of the statement has the digest/,
    identity: /UNTRUSTED_SIGNER_ERROR/,
    issuer: /UNTRUSTED_SIGNER_ERROR/,
  },
  'sigstore-python': {
    SET: /SET: invalid inclusion promise/,
    proof: /inclusion proof contains invalid root hash/,
    checkpoint: /checkpoint: invalid signature/,
    index: /SET: invalid inclusion promise|inclusion proof (contains invalid root hash|has wrong size)/,
    timestamp: /not enough sources of verified time/,
    signature: /[Ss]ignature is invalid for input|invalid signature|not enough sources of verified time/,
    artifact: /Bundle message digest mismatch|in-toto statement has no subject for digest/,
    identity: /Certificate's SANs do not match other@example\.test/,
    issuer: /OIDCIssuer does not match/,
  },
}

/** What was said on one line, without the marks that sigstore-python's log puts between the words. */
export function oneLine(text: string): string {
  return text
    .replaceAll(/\b[\w.]+\.py:\d+/g, ' ')
    .split(/\s+/)
    .join(' ')
}
