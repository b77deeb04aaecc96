import { OperatorError } from '#alarms'
import { formatInventory, type Inventory, readInventory, writeInventory } from './items.ts'
import { lintRelease, refuseFindings } from './linter.ts'
import type { PublishOptions } from './options.ts'
import { readPending } from './pending.ts'
import type { PendingSummary, Publication } from './publication.ts'
import { pendingSummary, publish, publishPending, requireSame } from './publish.ts'
import { publishedInventory, publishedRoles, versionsOf, wishedRoles } from './published.ts'
import { renderRelease } from './release.ts'
import { readRepository } from './repository.ts'
import { formatRoles, type Roles, writeRoles } from './roles.ts'

/**
 * Replaces items.json and publishes it. If the linter or the canary refuses, or if another publication waits, items.json
 * stays as it was. A change that is in what waits already goes on with that; one that clients see already does nothing.
 */
export async function updateInventory(
  options: PublishOptions,
  change: (inventory: Inventory) => Inventory,
): Promise<Publication> {
  const { folder, now } = options
  const published = await readRepository(folder)
  const pending = await readPending(folder, published)
  const roles = await wishedRoles(folder)
  if (pending !== undefined) {
    const again = change(pending.inventory)
    // A change that tells its own time (an end that is now) is in it already, and says the same only of what has it.
    requireSame(pending, { inventory: again, roles })
    return (await publishPending(options)) ?? (await publish(options))
  }
  const inventory = change(await readInventory(folder))
  const before = await publishedInventory(folder)
  const previous = before ? { previous: renderRelease(before) } : {}
  refuseFindings(lintRelease(renderRelease(inventory), { now, ...previous }))
  const former = await readInventory(folder)
  await writeInventory(folder, inventory)
  const seen = await seenAlready(folder, inventory, roles)
  if (seen !== undefined) return seen
  return await publish(options).catch(async (error: unknown) => {
    // As with the linter: what was refused is not what the next change builds on.
    if (error instanceof OperatorError && error.code === 'canary_failed') await writeInventory(folder, former)
    throw error
  })
}

/** Replaces roles.json and publishes what follows from it; what is published already, or waits, is not made again. */
export async function reassign(options: PublishOptions, roles: Roles): Promise<Publication> {
  const { folder } = options
  const published = await readRepository(folder)
  const pending = await readPending(folder, published)
  const inventory = await readInventory(folder)
  if (pending !== undefined) requireSame(pending, { inventory, roles })
  await writeRoles(folder, roles)
  return (await seenAlready(folder, inventory, roles)) ?? (await publish(options))
}

/** What clients see, if it is just this; a wish that is asked for again is not published again. */
async function seenAlready(
  folder: string,
  inventory: Inventory,
  roles: Roles | undefined,
): Promise<Publication | undefined> {
  const [published, before] = [await readRepository(folder), await publishedInventory(folder)]
  const isSeen =
    before !== undefined &&
    formatInventory(before) === formatInventory(inventory) &&
    isSameRoles(await publishedRoles(folder), roles)
  return published !== undefined && isSeen ? { state: 'published', versions: versionsOf(published) } : undefined
}

/** What waits for signatures; undefined if nothing does. */
export async function whatWaits(options: PublishOptions): Promise<PendingSummary | undefined> {
  const pending = await readPending(options.folder, await readRepository(options.folder))
  return pending && (await pendingSummary(options, pending))
}

function isSameRoles(one: Roles | undefined, other: Roles | undefined): boolean {
  const text = (roles: Roles | undefined) => (roles === undefined ? '' : formatRoles(roles))
  return text(one) === text(other)
}
