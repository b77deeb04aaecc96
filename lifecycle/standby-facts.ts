/** What an emergency keeps in its journal. */
import { z } from 'zod'
import { standbyMember } from './standby-plan.ts'

/** What an emergency knows and has made, as the journal keeps it. */
export const emergencyFacts = z.strictObject({
  emergency: z.literal(true),
  member: standbyMember,
  /** Item and key as a rotation's journal has them. */
  item: z.string(),
  keys: z.strictObject({ signer: z.strictObject({ name: z.string() }) }),
  /** Whose place it takes: item of the trust root, name of the log or key, and its keys in the serving agent, the signing one first. */
  former: z.strictObject({
    item: z.string(),
    name: z.string(),
    keys: z.array(z.strictObject({ name: z.string() })).min(1),
    /** Fields of the log, as they were configured. */
    log: z.looseObject({ name: z.string() }).optional(),
  }),
  switchedAt: z.iso.datetime().optional(),
})
export type EmergencyFacts = Readonly<z.infer<typeof emergencyFacts>>

/** The key that signed before. */
export function formerSigner({ keys }: EmergencyFacts['former']): string {
  const [signer] = keys
  if (signer === undefined) throw new TypeError('the journal has no former key')
  return signer.name
}
