import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Makes the copied agent states of a data folder look like the originals, as the image of a whole volume or a volume that
 * lost power does: the files that say which inode they belong to are taken away.
 */
export function keepPlaces(dataDir: string): void {
  const agents = join(dataDir, 'agent')
  if (!existsSync(agents)) return
  for (const entry of readdirSync(agents, { withFileTypes: true })) {
    if (entry.isDirectory()) rmSync(join(agents, entry.name, 'place.json'), { force: true })
  }
}
