/**
 * The issuing CA: another key and certificate below the same root. The CT log knows the root, so nothing changes for it.
 * The former one is trusted until the last certificate that it issued has ended.
 */
import { OperatorError } from '#alarms'
import { agentStep, type Authority, itemOf, planAuthority, switchStep } from './authority.ts'
import { keyIn, reachOf } from './agent-file.ts'
import { certifyStep } from './certificates.ts'
import { formerKey, known } from './facts.ts'
import { keyStep, retireStep, signerOf } from './keys.ts'
import { proveStep } from './prove.ts'
import { endStep, publishStep, waitStep } from './publication.ts'
import type { Installation, Rotation, RotationPlan } from './rotation.ts'

/** The CA of the configuration. Throws `rotation_impossible`. */
export function issuingCaOf({ ca, resolve }: Installation): Authority {
  if (ca === undefined) throw new OperatorError('rotation_impossible', 'this installation has no CA')
  const chain = resolve(ca.chain)
  return { key: ca.key, chain, profile: 'issuing', title: 'issuing CA', rootsOf: [chain] }
}

/** Unless the agent is told otherwise (agent.yaml, `maxValiditySeconds`). */
const CERTIFICATE_SECONDS = 3600

/** When the last certificate of the former CA has ended. */
export function lastCertificateEnds({ installation, facts }: Rotation): Date {
  const { maxValiditySeconds = CERTIFICATE_SECONDS } = keyIn(reachOf(installation, 'services'), formerKey(facts).name)
  return new Date(Date.parse(known(facts.switchedAt, 'time of the switch')) + maxValiditySeconds * 1000)
}

export const issuingCa: RotationPlan = {
  plan: async (installation, wishes, now) =>
    await planAuthority(installation, issuingCaOf(installation), { wishes, now }),
  steps: [
    keyStep,
    certifyStep,
    agentStep,
    publishStep(itemOf('certificate-authority')),
    waitStep,
    switchStep('ca-switch'),
    proveStep,
    endStep(lastCertificateEnds),
    retireStep,
  ],
  isSwitched: ({ installation, facts }) => installation.ca?.key === signerOf(facts).name,
}
