import { type ClientTrustConfigJson, renderClientTrustConfig } from './client-trust-config.ts'
import type { Inventory } from './items.ts'
import { type LegacyTarget, renderLegacyTargets } from './legacy-targets.ts'
import { renderSigningConfig, type SigningConfigJson } from './signing-config.ts'
import { formatJson, renderTrustedRoot, type TrustedRootJson } from './trusted-root.ts'

/** Everything that is published of one inventory, before it is linted and signed. */
export interface Release {
  readonly inventory: Inventory
  readonly trustedRoot: TrustedRootJson
  /** By target name; the first is what clients take unasked. */
  readonly signingConfigs: readonly {
    readonly name: string
    readonly rekor: 1 | 2
    readonly config: SigningConfigJson
    readonly clientTrustConfig: { readonly name: string; readonly config: ClientTrustConfigJson }
  }[]
  readonly legacyTargets: readonly LegacyTarget[]
}

/** Target name that every client with trusted-root support fetches. */
export const TRUSTED_ROOT_TARGET = 'trusted_root.json'
/** Target name that cosign ≥ 2.6 and sigstore-python fetch; the latter refuses to verify without it. */
export const SIGNING_CONFIG_TARGET = 'signing_config.v0.2.json'
/** Target name of `cosign --with-default-rekor-v2`. */
export const SIGNING_CONFIG_REKOR_V2_TARGET = 'signing_config_rekor_v2.v0.2.json'

/** Renders every published file of an inventory. Pure: the same inventory gives the same bytes. */
export function renderRelease(inventory: Inventory): Release {
  const trustedRoot = renderTrustedRoot(inventory)
  const config = (name: string, rekor: 1 | 2, clientName: string) => {
    const rendered = renderSigningConfig(inventory, rekor)
    return {
      name,
      rekor,
      config: rendered,
      clientTrustConfig: { name: clientName, config: renderClientTrustConfig(trustedRoot, rendered) },
    }
  }
  const signingConfigs = [config(SIGNING_CONFIG_TARGET, inventory.defaultRekor, 'client_trust_config.json')]
  if (inventory.items.some((item) => item.kind === 'rekor-v2' && item.state === 'active')) {
    signingConfigs.push(config(SIGNING_CONFIG_REKOR_V2_TARGET, 2, 'client_trust_config_rekor_v2.json'))
  }
  return { inventory, trustedRoot, signingConfigs, legacyTargets: renderLegacyTargets(inventory) }
}

/** The TUF targets of a release: name → bytes, and the custom metadata of those that have some. */
export function releaseTargets(release: Release): Map<string, { bytes: Uint8Array; custom?: LegacyTarget['custom'] }> {
  const targets = new Map<string, { bytes: Uint8Array; custom?: LegacyTarget['custom'] }>()
  targets.set(TRUSTED_ROOT_TARGET, { bytes: Buffer.from(formatJson(release.trustedRoot)) })
  for (const { name, config } of release.signingConfigs) targets.set(name, { bytes: Buffer.from(formatJson(config)) })
  for (const { name, pem, custom } of release.legacyTargets) targets.set(name, { bytes: Buffer.from(pem), custom })
  return targets
}

/** Convenience copies that are served beside the metadata: unsigned, for people and for clients that take files. */
export function releaseCopies(release: Release): Map<string, Uint8Array> {
  const copies = new Map<string, Uint8Array>()
  copies.set(TRUSTED_ROOT_TARGET, Buffer.from(formatJson(release.trustedRoot)))
  for (const { name, config, clientTrustConfig } of release.signingConfigs) {
    copies.set(name, Buffer.from(formatJson(config)))
    copies.set(clientTrustConfig.name, Buffer.from(formatJson(clientTrustConfig.config)))
  }
  return copies
}
