/** What the admin socket does with the canary. */
import { z } from 'zod'
import { OperatorError } from '#alarms'
import type { AdminVerbs } from './admin.ts'
import type { Canaries, CanaryReport } from './canary.ts'
import type { Parts } from './main.ts'

const nothing = z.strictObject({})
const time = z.iso.datetime().transform((text) => new Date(text))
const distrustArgument = z.strictObject({ item: z.string(), from: time, until: time.optional() })

/** The verbs by name. */
export function canaryVerbs(parts: Pick<Parts, 'canaries'>): AdminVerbs {
  const served = (): Canaries => {
    if (parts.canaries !== undefined) return parts.canaries
    throw new OperatorError('canary_failed', 'this server has no trustRoot in its configuration')
  }
  return {
    /** Signs, and verifies that and an old signature with the published trust root. */
    canary: async ({ argument }): Promise<CanaryReport> => {
      nothing.parse(argument)
      return await served().prove()
    },
    /** Before a publication that gives signatures up: those of an item, made from `from` (RFC 3339) on, or up to `until`. */
    'canary-distrust': async ({ argument }) => {
      const { item, ...span } = distrustArgument.parse(argument)
      return await served().distrust(item, span)
    },
  }
}
