import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { syncPath } from './backup-manifest.ts'

/**
 * Makes a whole folder durable, files first: what libraries wrote that do not sync (SoftHSM's objects), and the names.
 * Sockets and symbolic links have no content of their own. Rejects for a file that cannot be read or synced.
 */
export async function syncTree(folder: string): Promise<void> {
  const entries = await readdir(folder, { withFileTypes: true })
  // Side by side: a journal takes many syncs in one write.
  await Promise.all(
    entries.map(async (entry) => {
      const path = join(folder, entry.name)
      if (entry.isDirectory()) await syncTree(path)
      else if (entry.isFile()) await syncPath(path)
    }),
  )
  await syncPath(folder)
}
