/**
 * tuf-js as sigstore-js uses it, from the packages of the folder given: one request a line on standard input, one answer
 * a line on standard output. Each request is an Updater of its own that knows only what lies in its state folder. The
 * time is the machine's.
 *
 *   node tuf-js.ts FOLDER
 */
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Updater as TufUpdater } from 'tuf-js'

interface Request {
  readonly state: string
  readonly root: string
  readonly mirror: string
  readonly targets: readonly string[]
}

const [folder = ''] = process.argv.slice(2)
const { Updater } = createRequire(join(folder, 'package.json'))('tuf-js') as { Updater: typeof TufUpdater }

async function serve({ state, root, mirror, targets }: Request) {
  const targetDir = join(state, 'targets')
  mkdirSync(targetDir, { recursive: true })
  // @sigstore/tuf copies the root that it is given unless one is cached.
  if (!existsSync(join(state, 'root.json'))) copyFileSync(root, join(state, 'root.json'))
  const updater = new Updater({
    metadataDir: state,
    metadataBaseUrl: mirror,
    targetDir,
    targetBaseUrl: `${mirror}/targets`,
    config: { fetchRetries: 0 },
  })
  await updater.refresh()
  const digests: Record<string, string> = {}
  for (const name of targets) {
    const info = await updater.getTargetInfo(name)
    if (info === undefined) throw new Error(`no target ${name}`)
    const path = (await updater.findCachedTarget(info)) ?? (await updater.downloadTarget(info))
    digests[name] = createHash('sha256').update(readFileSync(path)).digest('hex')
  }
  const version = (role: string): number => {
    const { signed } = JSON.parse(readFileSync(join(state, `${role}.json`), 'utf8')) as { signed: { version: number } }
    return signed.version
  }
  const versions = {
    root: version('root'),
    timestamp: version('timestamp'),
    snapshot: version('snapshot'),
    targets: version('targets'),
  }
  return { versions, targets: digests }
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await serve(JSON.parse(line) as Request).catch((error: unknown) => ({ error: String(error) }))
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
