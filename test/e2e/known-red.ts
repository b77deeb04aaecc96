/**
 * Cells of the table signer × verifier × log that are refused today, each for a reason that lies in the clients. A cell
 * that is listed here and verifies is a failure too: then a client has changed, and the list with it.
 */
import type { Kind, LogVersion, SignerName, VerifierName } from './clients.ts'

export interface KnownRed {
  readonly signers: readonly (SignerName | 'sigstore-js intoto')[]
  readonly verifiers: readonly VerifierName[]
  readonly log: LogVersion
  readonly kind: Kind
  /** What the verifier says, in one line. */
  readonly refusal: RegExp
  /** Why, upstream. */
  readonly because: string
}

export const knownRed: readonly KnownRed[] = [
  {
    signers: ['cosign 2', 'sigstore-js'],
    verifiers: ['cosign 3', 'sigstore-go', 'sigstore-python'],
    log: 'v2',
    kind: 'attestation',
    // cosign 3 takes a bundle that it cannot read for one of the old format.
    refusal:
      /--trusted-root only supported with --new-bundle-format|dsse implementation for version '0\.0\.2' not found|Unsupported DSSE log entry type: dsse\/0\.0\.2/,
    because:
      'these signers log an attestation as dsse 0.0.2, which rekor-tiles deprecated; these verifiers know only ' +
      'hashedrekord 0.0.2 over the PAE (sigstore-go 1.2, sigstore-python 4.5)',
  },
  {
    signers: ['sigstore-js intoto'],
    verifiers: ['sigstore-python'],
    log: 'v1',
    kind: 'attestation',
    refusal: /Integrated time only supported for dsse\/hashedrekord 0\.0\.1 types/,
    because: 'sigstore-python knows hashedrekord and dsse entries only (sigstore/_internal/rekor/client.py)',
  },
]

export function expectedRed(
  signer: KnownRed['signers'][number],
  verifier: VerifierName,
  log: LogVersion,
  kind: Kind,
): KnownRed | undefined {
  return knownRed.find(
    (red) => red.log === log && red.kind === kind && red.signers.includes(signer) && red.verifiers.includes(verifier),
  )
}
