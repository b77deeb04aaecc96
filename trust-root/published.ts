/** What of an inventory and of its custodians clients see: copies inside the generation, whose names keep them out of HTTP. */
import { lstat } from 'node:fs/promises'
import { join } from 'node:path'
import { type Inventory, readInventory } from './items.ts'
import type { PublishedVersions } from './publication.ts'
import { type RepositoryState, servedFolder } from './repository.ts'
import { readRoles, type Roles } from './roles.ts'

/** Copy of items.json as it was published. */
export const PUBLISHED_ITEMS = '.items.json'
/** Copy of roles.json as it was published; empty if there was none. */
export const PUBLISHED_ROLES = '.roles.json'

/** The inventory that clients see now; undefined before the first publication. */
export async function publishedInventory(folder: string): Promise<Inventory | undefined> {
  const served = servedFolder(folder)
  return (await size(join(served, PUBLISHED_ITEMS))) > 0 ? readInventory(served, PUBLISHED_ITEMS) : undefined
}

/** Who was named in roles.json at the newest publication; undefined if there was none. */
export async function publishedRoles(folder: string): Promise<Roles | undefined> {
  const served = servedFolder(folder)
  return (await size(join(served, PUBLISHED_ROLES))) > 0 ? readRoles(served, PUBLISHED_ROLES) : undefined
}

/** The custodians as they shall be: of roles.json, and where it is missing as they were published. */
export async function wishedRoles(folder: string): Promise<Roles | undefined> {
  return (await readRoles(folder)) ?? (await publishedRoles(folder))
}

/** The versions of a repository. */
export function versionsOf({ root, targets, snapshot, timestamp }: RepositoryState): PublishedVersions {
  return {
    root: root.signed.version,
    targets: targets.signed.version,
    snapshot: snapshot.signed.version,
    timestamp: timestamp.signed.version,
  }
}

async function size(path: string): Promise<number> {
  return lstat(path).then(
    (found) => found.size,
    () => 0,
  )
}
