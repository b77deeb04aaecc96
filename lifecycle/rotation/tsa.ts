/**
 * The timestamp authority: another key and leaf certificate, at the same address. Its window ends with the second of the
 * switch, since a timestamp says itself when it was made. sigstore-python takes the end as outside of the window, so it is
 * a second later.
 */
import { OperatorError } from '#alarms'
import { agentStep, itemOf, planAuthority, switchStep } from './authority.ts'
import { certifyStep } from './certificates.ts'
import { known } from './facts.ts'
import { keyStep, retireStep, signerOf } from './keys.ts'
import { proveStep } from './prove.ts'
import { endStep, publishStep, waitStep } from './publication.ts'
import type { RotationPlan } from './rotation.ts'

export const tsa: RotationPlan = {
  plan: async (installation, wishes, now) => {
    const { timestamp, ca, resolve } = installation
    if (timestamp === undefined) {
      throw new OperatorError('rotation_impossible', 'this installation has no timestamp authority')
    }
    const chain = resolve(timestamp.chain)
    // After a rotation of the root the new leaf goes below the new root.
    const rootsOf = [...(ca === undefined ? [] : [resolve(ca.chain)]), chain]
    const authority = {
      key: timestamp.key,
      chain,
      profile: 'timestamp',
      title: 'timestamp authority',
      rootsOf,
    } as const
    return await planAuthority(installation, authority, { wishes, now })
  },
  steps: [
    keyStep,
    certifyStep,
    agentStep,
    publishStep(itemOf('timestamp-authority')),
    waitStep,
    switchStep('tsa-switch'),
    proveStep,
    endStep(({ facts }) => new Date(Date.parse(known(facts.switchedAt, 'time of the switch')) + 1000)),
    retireStep,
  ],
  isSwitched: ({ installation, facts }) => installation.timestamp?.key === signerOf(facts).name,
}
