import { formatTime, type Inventory, type TrustItem, type TrustItemKind } from './items.ts'
import type { TimeRange } from './trusted-root.ts'

/** SigningConfig v0.2 of protobuf-specs. */
export const SIGNING_CONFIG_MEDIA_TYPE = 'application/vnd.dev.sigstore.signingconfig.v0.2+json'

/** One endpoint that signers may use. */
export interface Service {
  /** Base URL without trailing slash; of a TSA the whole URL. */
  readonly url: string
  /** CA, OIDC and TSA 1 (the CA's API path is v2 nevertheless); Rekor 1 or 2. */
  readonly majorApiVersion: number
  readonly validFor: TimeRange
  /** Without scheme; sigstore-python refuses a service that has none. */
  readonly operator: string
}

/** signing_config*.v0.2.json. The selectors are there exactly if their URLs are: clients crash on either alone. */
export interface SigningConfigJson {
  readonly mediaType: typeof SIGNING_CONFIG_MEDIA_TYPE
  readonly caUrls: readonly Service[]
  readonly oidcUrls: readonly Service[]
  readonly rekorTlogUrls: readonly Service[]
  readonly rekorTlogConfig?: { readonly selector: 'ANY' }
  readonly tsaUrls: readonly Service[]
  readonly tsaConfig?: { readonly selector: 'ANY' }
}

/**
 * What signers use: the active items, with the one Rekor that is asked for. Pure. An ended or future service is never
 * listed: sigstore-js ignores starts, sigstore-java picks the version before the window, sigstore-python takes the
 * oldest of several. The selector is ANY since sigstore-js knows no other.
 */
export function renderSigningConfig(inventory: Inventory, rekor: 1 | 2): SigningConfigJson {
  const services = (kind: TrustItemKind, majorApiVersion: number) =>
    inventory.items
      .filter((item) => item.kind === kind && item.state === 'active')
      .map((item) => service(item, majorApiVersion, inventory.operator))
  const rekorTlogUrls = rekor === 1 ? services('rekor-v1', 1) : services('rekor-v2', 2)
  const tsaUrls = services('timestamp-authority', 1)
  return {
    mediaType: SIGNING_CONFIG_MEDIA_TYPE,
    caUrls: services('certificate-authority', 1),
    oidcUrls: services('oidc-issuer', 1),
    rekorTlogUrls,
    ...(rekorTlogUrls.length > 0 ? { rekorTlogConfig: { selector: 'ANY' } } : {}),
    tsaUrls,
    ...(tsaUrls.length > 0 ? { tsaConfig: { selector: 'ANY' } } : {}),
  }
}

function service(item: TrustItem, majorApiVersion: number, operator: string): Service {
  const { start, end } = item.window
  return {
    url: item.url,
    majorApiVersion,
    validFor: { start: formatTime(start), ...(end ? { end: formatTime(end) } : {}) },
    operator,
  }
}
