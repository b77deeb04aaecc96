import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { TrustRootError } from '../errors.ts'
import type { Inventory } from '../items.ts'
import { publishedInventory } from '../published.ts'
import { SIGNING_CONFIG_REKOR_V2_TARGET, SIGNING_CONFIG_TARGET, TRUSTED_ROOT_TARGET } from '../release.ts'
import { readRepository, servedFolder, targetPath } from '../repository.ts'
import type { SigningConfigJson } from '../signing-config.ts'
import type { TrustedRootJson } from '../trusted-root.ts'

/** What clients see now, read from the signed metadata and the files that it names. */
export interface PublishedTrust {
  readonly inventory: Inventory
  readonly versions: Readonly<Record<'root' | 'targets' | 'snapshot' | 'timestamp', number>>
  /** The first root, from which a client starts: its bytes and their SHA-256, hex. */
  readonly firstRoot: { readonly bytes: Uint8Array; readonly sha256: string }
  readonly trustedRoot: TrustedRootJson
  readonly signingConfig: SigningConfigJson
  /** That of `cosign --with-default-rekor-v2`, if there is a v2 log. */
  readonly signingConfigRekorV2: SigningConfigJson | undefined
  /** Every target by name. */
  readonly targets: ReadonlyMap<string, Uint8Array>
}

/** Reads a trust-root folder; throws `missing`, or `damaged_repository` for a file that is not what was signed. */
export async function readPublished(folder: string): Promise<PublishedTrust> {
  const [state, inventory] = [await readRepository(folder), await publishedInventory(folder)]
  if (state === undefined || inventory === undefined) {
    throw new TrustRootError('missing', `nothing is published in ${folder}`)
  }
  const served = servedFolder(folder)
  const targets = new Map<string, Uint8Array>()
  for (const [name, { hashes, length }] of Object.entries(state.targets.signed.targets)) {
    const bytes = await readFile(join(served, targetPath(name, hashes.sha256))).catch((cause: unknown) => {
      throw new TrustRootError('damaged_repository', `target ${name} cannot be read`, { cause })
    })
    if (bytes.length !== length || sha256(bytes) !== hashes.sha256) {
      throw new TrustRootError('damaged_repository', `target ${name} is not what was signed`)
    }
    targets.set(name, bytes)
  }
  const firstRoot = await readFile(join(served, '1.root.json'))
  const json = (name: string): unknown => JSON.parse(Buffer.from(targets.get(name) ?? '').toString('utf8'))
  return {
    inventory,
    versions: {
      root: state.root.signed.version,
      targets: state.targets.signed.version,
      snapshot: state.snapshot.signed.version,
      timestamp: state.timestamp.signed.version,
    },
    firstRoot: { bytes: firstRoot, sha256: sha256(firstRoot) },
    // Rendered by us, linted and signed: their shapes are those of the renderers.
    trustedRoot: json(TRUSTED_ROOT_TARGET) as TrustedRootJson,
    signingConfig: json(SIGNING_CONFIG_TARGET) as SigningConfigJson,
    signingConfigRekorV2: targets.has(SIGNING_CONFIG_REKOR_V2_TARGET)
      ? (json(SIGNING_CONFIG_REKOR_V2_TARGET) as SigningConfigJson)
      : undefined,
    targets,
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
