/**
 * What the admin socket does with the trust root: `chancery trust`, and every rotation, asks here. Each verb may be asked
 * again after a kill of either side. Times and items are in the JSON form of items.json.
 */
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { changedInventory, changesSchema, parseRoles, type Publication, type Roles, type TrustRoot } from '#trust-root'
import type { AdminRequest, AdminVerbs } from './admin.ts'
import type { Parts } from './main.ts'

/** The verbs by name. */
export function trustVerbs(parts: Pick<Parts, 'trustRoot'>): AdminVerbs {
  const served = (): TrustRoot => {
    if (parts.trustRoot !== undefined) return parts.trustRoot
    throw new OperatorError('no_trust_root', 'this server has no trustRoot in its configuration')
  }
  return {
    'trust-status': async () => {
      const trustRoot = served()
      const { changes, pending } = await trustRoot.diff()
      return { ...(await trustRoot.status()), unpublished: changes && pending === undefined }
    },
    'trust-diff': async () => await served().diff(),
    'trust-publish': async ({ argument }) => await served().publish(read(publishArgument, argument)),
    'trust-change': async (request) => await changeVerb(served(), request),
    'trust-roles': async (request) => await rolesVerb(served(), request),
    'trust-pending': async () => ({ pending: await served().pending() }),
    'trust-payload': async () => await served().payload(),
    'trust-merge': async ({ argument }) => await served().merge(read(mergeArgument, argument).signatures),
    'trust-withdraw': async ({ argument }) => await served().withdraw(read(withdrawArgument, argument)),
  }
}

const publishArgument = z.strictObject({ renew: z.boolean().default(false), above: z.int().nonnegative().default(0) })
const changeArgument = z.strictObject({ changes: changesSchema })
/** Without `roles` it only tells; with it, the members of roles.json. */
const rolesArgument = z.strictObject({ roles: z.unknown().optional() })
const mergeArgument = z.strictObject({ signatures: z.array(z.unknown()).min(1).max(16) })
const withdrawArgument = z.strictObject({ discardRoots: z.boolean().default(false) })

/** Changes items.json and publishes it; asked again it changes nothing. */
async function changeVerb(trustRoot: TrustRoot, { argument }: AdminRequest): Promise<Publication> {
  const { changes } = read(changeArgument, argument)
  return await trustRoot.update((inventory) => changedInventory(inventory, changes))
}

/** Who signs now; with `roles`, replaces roles.json by them and publishes what follows. */
async function rolesVerb(
  trustRoot: TrustRoot,
  { argument }: AdminRequest,
): Promise<Publication | { readonly roles: Roles | undefined }> {
  const { roles } = read(rolesArgument, argument)
  if (roles === undefined) return { roles: await trustRoot.roles() }
  const text = JSON.stringify(roles)
  return await trustRoot.reassign(parseRoles(text))
}

function read<T>(schema: z.ZodType<T>, argument: unknown): T {
  const parsed = schema.safeParse(argument)
  if (parsed.success) return parsed.data
  throw Object.assign(new Error(`not understood: ${z.prettifyError(parsed.error)}`), { code: 'failed' })
}
