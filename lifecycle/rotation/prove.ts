/** No rotation is finished before an old and a new signature verify with the published trust root. */
import { z } from 'zod'
import { OperatorError } from '#alarms'
import type { Facts } from './facts.ts'
import type { Step } from './rotation.ts'

const canary = z.object({ bundles: z.array(z.object({ signedBy: z.array(z.string()) })) })
const report = z.object({ new: canary, old: canary.nullable() })

/** Asks the server for a signature through all of its parts, and for one of before. Throws `rotation_unproven`. */
export const proveStep: Step = {
  name: 'prove',
  run: async ({ installation, facts, keep, now }) => {
    const proof = report.parse(await installation.ask('canary', {}))
    const missing = unproven(proof, facts)
    if (missing !== undefined) throw new OperatorError('rotation_unproven', missing)
    keep({ provedAt: now().toISOString() })
    return undefined
  },
}

/** The new signature must be the new key's; the old one needs only be there. */
function unproven(proof: z.infer<typeof report>, { item }: Facts): string | undefined {
  const signers = proof.new.bundles.flatMap(({ signedBy }) => signedBy)
  if (item !== undefined && !signers.includes(item)) {
    return `the new signature is by ${signers.join(', ')}, not by ${item}: the switch has not reached the service; see its log, then: chancery rotate resume`
  }
  if (proof.old === null)
    return 'there is no signature of before to verify; make one more canary: chancery rotate resume'
  return undefined
}
