/**
 * What the admin socket does with the trust root: `chancery trust`, and every rotation, asks here. Each verb may be asked
 * again after a kill of either side.
 */
import { z } from 'zod'
import { changedInventory, changesSchema, type Publication, type TrustRoot, type TrustRootStatus } from '#trust-root'
import { OperatorError } from '#alarms'
import type { AdminRequest, AdminVerbs } from './admin.ts'
import type { Parts } from './main.ts'

/** The verbs by name. */
export function trustVerbs(parts: Pick<Parts, 'trustRoot'>): AdminVerbs {
  const served = (): TrustRoot => {
    if (parts.trustRoot !== undefined) return parts.trustRoot
    throw new OperatorError('no_trust_root', 'this server has no trustRoot in its configuration')
  }
  return {
    'trust-status': async (): Promise<TrustRootStatus> => await served().status(),
    'trust-publish': async (): Promise<Publication> => await served().publish(),
    'trust-change': async (request) => await changeVerb(served(), request),
  }
}

const changeArgument = z.strictObject({ changes: changesSchema })

/** Changes items.json and publishes it; asked again it changes nothing. */
async function changeVerb(trustRoot: TrustRoot, { argument }: AdminRequest): Promise<Publication> {
  const { changes } = changeArgument.parse(argument)
  return await trustRoot.update((inventory) => changedInventory(inventory, changes))
}
