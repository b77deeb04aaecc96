import type { LegacyTarget } from '../legacy-targets.ts'
import { SIGNING_CONFIG_REKOR_V2_TARGET, SIGNING_CONFIG_TARGET, TRUSTED_ROOT_TARGET } from '../release.ts'
import type { SigningConfigJson } from '../signing-config.ts'
import type { TrustedRootJson } from '../trusted-root.ts'
import type { OpenedKit } from './kit.ts'

/** What exports are made of: verified, and the same wherever it came from. */
export interface TrustMaterial {
  readonly firstRoot: Uint8Array
  readonly firstRootSha256: string
  readonly trustedRoot: TrustedRootJson
  readonly signingConfig: SigningConfigJson
  /** That of `cosign --with-default-rekor-v2`, if there is a v2 log. */
  readonly signingConfigRekorV2: SigningConfigJson | undefined
  /** Keys and certificates for clients that do not read trusted_root.json; what signs now comes first. */
  readonly legacy: readonly LegacyTarget[]
  /** The repository by paths, `root.json` included. */
  readonly repository: ReadonlyMap<string, Uint8Array>
}

export function materialOf(kit: OpenedKit): TrustMaterial {
  const { targets, files, versions } = kit
  const json = (name: string): unknown => JSON.parse(Buffer.from(targets.get(name) ?? '').toString('utf8'))
  const empty = new Uint8Array()
  return {
    firstRoot: files.get('1.root.json') ?? empty,
    firstRootSha256: kit.firstRootSha256,
    // Rendered by us, linted and signed: their shapes are those of the renderers.
    trustedRoot: json(TRUSTED_ROOT_TARGET) as TrustedRootJson,
    signingConfig: json(SIGNING_CONFIG_TARGET) as SigningConfigJson,
    signingConfigRekorV2: targets.has(SIGNING_CONFIG_REKOR_V2_TARGET)
      ? (json(SIGNING_CONFIG_REKOR_V2_TARGET) as SigningConfigJson)
      : undefined,
    legacy: legacyOf(kit),
    repository: new Map([...files, ['root.json', files.get(`${versions.root}.root.json`) ?? empty]]),
  }
}

function legacyOf({ targets, targetEntries }: OpenedKit): LegacyTarget[] {
  const found = [...targets].flatMap(([name, bytes]): LegacyTarget[] => {
    const custom = targetEntries[name]?.custom as LegacyTarget['custom'] | undefined // as it was rendered and signed
    return custom === undefined ? [] : [{ name, pem: Buffer.from(bytes).toString('utf8'), custom }]
  })
  const rank = ({ name }: LegacyTarget) => (/_[0-9a-f]{8}\./.test(name) ? 1 : 0)
  return found.toSorted((one, other) => rank(one) - rank(other))
}
