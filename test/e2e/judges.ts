/** Everyone who verifies: the foreign clients, and our own command beside them. */
import { type VerifyRequest, type VerifierName, verifiers } from './clients.ts'
import { oneLine } from './named-refusals.ts'
import type { Outcome } from './run.ts'
import { runChancery } from './stack.ts'

export type JudgeName = VerifierName | 'chancery'

export const judges: Readonly<Record<JudgeName, (request: VerifyRequest) => Promise<Outcome>>> = {
  ...verifiers,
  chancery: async ({ material, artifact, bundle, identity, issuer }) =>
    runChancery(
      [
        ['verify', artifact, '--bundle', bundle, '--trusted-root', material.trustedRoot],
        ['--certificate-identity', identity, '--certificate-oidc-issuer', issuer],
      ].flat(),
    ),
}

/** What was said in one line, without the times that sigstore-python puts before it. */
export function judgement({ text }: Outcome): string {
  return oneLine(text.replaceAll(/\[\d\d:\d\d:\d\d\]/g, ' '))
}
