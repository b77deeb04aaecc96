import type { SigningConfigJson } from './signing-config.ts'
import type { TrustedRootJson } from './trusted-root.ts'

/** What `sigstore --trust-config FILE` of sigstore-python reads. */
export const CLIENT_TRUST_CONFIG_MEDIA_TYPE = 'application/vnd.dev.sigstore.clienttrustconfig.v0.1+json'

/** Trusted root and signing configuration in one file, for clients that are given files instead of a TUF mirror. */
export interface ClientTrustConfigJson {
  readonly mediaType: typeof CLIENT_TRUST_CONFIG_MEDIA_TYPE
  readonly trustedRoot: TrustedRootJson
  readonly signingConfig: SigningConfigJson
}

/** Puts both into one file. Pure. */
export function renderClientTrustConfig(
  trustedRoot: TrustedRootJson,
  signingConfig: SigningConfigJson,
): ClientTrustConfigJson {
  return { mediaType: CLIENT_TRUST_CONFIG_MEDIA_TYPE, trustedRoot, signingConfig }
}
