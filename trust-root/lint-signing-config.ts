import { createPublicKey, X509Certificate } from 'node:crypto'
import { TIMESTAMP_PATH } from './items.ts'
import type { ReleaseRule } from './linter.ts'
import type { Release } from './release.ts'
import { type Service, SIGNING_CONFIG_MEDIA_TYPE } from './signing-config.ts'

/** Rules on the signing configurations and the legacy targets; each comment names the client that would fail. */
export const signingConfigRules = {
  /** Every client refuses another media type. */
  *'signing-config-media-type'({ signingConfigs }) {
    for (const { name, config } of signingConfigs) {
      const mediaType: string = config.mediaType
      if (mediaType !== SIGNING_CONFIG_MEDIA_TYPE) yield `${name}: ${mediaType}`
    }
  },

  /** sigstore-python fetches the default one even to verify. */
  *'signing-config-present'({ signingConfigs }) {
    if (signingConfigs[0]?.name !== 'signing_config.v0.2.json') yield 'there is no signing_config.v0.2.json'
  },

  /** Ties are broken differently by each client (newest, oldest, highest version), so there must be none. */
  *'one-live-service'({ signingConfigs }) {
    for (const { name, config } of signingConfigs) {
      for (const list of ['caUrls', 'oidcUrls', 'rekorTlogUrls', 'tsaUrls'] as const) {
        if (config[list].length > 1) yield `${name}: ${config[list].length} entries in ${list}`
      }
      if (config.caUrls.length === 0) yield `${name}: no certificate authority`
    }
  },

  /** A file that is asked for by version must hold that version only; sigstore-js never looks at it. */
  *'rekor-version'({ signingConfigs }) {
    for (const { name, rekor, config } of signingConfigs) {
      if (config.rekorTlogUrls.length === 0) yield `${name}: no Rekor v${rekor} is active`
      for (const { majorApiVersion } of config.rekorTlogUrls) {
        if (majorApiVersion !== rekor) yield `${name}: Rekor v${majorApiVersion} where v${rekor} is meant`
      }
    }
  },

  /** Other major versions are not known to any client. */
  *'service-version'({ signingConfigs }) {
    for (const { name, config } of signingConfigs) {
      for (const service of [...config.caUrls, ...config.oidcUrls, ...config.tsaUrls]) {
        if (service.majorApiVersion !== 1) yield `${name}: version ${service.majorApiVersion} of ${service.url}`
      }
    }
  },

  /** sigstore-js throws for every selector but ANY; sigstore-go panics on URLs without config, sigstore-js on the reverse. */
  *selector({ signingConfigs }) {
    for (const { name, config } of signingConfigs) {
      for (const [urls, selected] of [
        [config.rekorTlogUrls, config.rekorTlogConfig],
        [config.tsaUrls, config.tsaConfig],
      ] as const) {
        if (urls.length > 0 !== (selected !== undefined)) yield `${name}: URLs and selector must come together`
        if (selected && selected.selector !== 'ANY') yield `${name}: selector ${String(selected.selector)}`
      }
    }
  },

  /** sigstore-go and sigstore-js concatenate paths; sigstore-python drops a CA's path prefix. */
  *'service-url'({ signingConfigs }) {
    for (const [where, { url }] of services(signingConfigs)) {
      const parsed = new URL(url)
      if (!/^https?:$/.test(parsed.protocol)) yield `${where}: scheme of ${url}`
      if (url.endsWith('/')) yield `${where}: ${url} ends in a slash`
      if (parsed.search !== '' || parsed.hash !== '') yield `${where}: ${url} has a query or fragment`
      if (parsed.username !== '' || parsed.password !== '') yield `${where}: the URL holds credentials`
      if (where.includes('caUrls') && parsed.pathname !== '/') yield `${where}: ${url} has a path`
    }
  },

  /** Signers post to a TSA's URL as it stands. */
  *'timestamp-url'({ signingConfigs }) {
    for (const { name, config } of signingConfigs) {
      for (const { url } of config.tsaUrls) if (!url.endsWith(TIMESTAMP_PATH)) yield `${name}: ${url}`
    }
  },

  /** Mandatory in sigstore-python, and the unit of selection everywhere. */
  *'service-operator'({ signingConfigs }) {
    for (const [where, { operator }] of services(signingConfigs)) {
      if (!operator || operator.includes('://')) yield `${where}: operator "${operator}"`
    }
  },

  /** sigstore-js uses a service before its start; sigstore-java picks an ended one of a higher version. */
  *'service-window'({ signingConfigs }, { now }) {
    for (const [where, { validFor }] of services(signingConfigs)) {
      if (Number.isNaN(Date.parse(validFor.start)) || new Date(validFor.start) > now)
        yield `${where}: starts ${validFor.start}`
      if (validFor.end !== undefined && new Date(validFor.end) <= now) yield `${where}: ended ${validFor.end}`
    }
  },

  /** A Rekor v2 entry has no time of its own, so a ten-minute certificate cannot be verified without a timestamp. */
  *'rekor-v2-needs-timestamps'({ signingConfigs }) {
    for (const { name, config } of signingConfigs) {
      const isV2 = config.rekorTlogUrls.some(({ majorApiVersion }) => majorApiVersion === 2)
      if (isV2 && config.tsaUrls.length === 0) yield `${name}: Rekor v2 without a timestamp authority`
    }
  },

  /** cosign verifies what it has signed at once: a service that no verifier trusts breaks signing. */
  *'service-is-trusted'({ inventory, trustedRoot }) {
    const trusted = new Set([
      ...[...trustedRoot.tlogs, ...trustedRoot.ctlogs].map(({ publicKey }) => publicKey.rawBytes),
      ...[...trustedRoot.certificateAuthorities, ...trustedRoot.timestampAuthorities].map(
        ({ certChain }) => certChain.certificates[0]?.rawBytes,
      ),
    ])
    for (const { id, kind, state, der } of inventory.items) {
      const first = Buffer.from(der[0] ?? []).toString('base64')
      if (state === 'active' && kind !== 'oidc-issuer' && !trusted.has(first)) yield `${id} is active and not trusted`
    }
  },

  /** Its key lies in a safe: a signer that was sent there would find nobody. */
  *'standby-is-not-used'({ inventory, signingConfigs }) {
    const active = new Set(inventory.items.filter(({ state }) => state === 'active').map(({ url }) => url))
    for (const { id, kind, state, url } of inventory.items) {
      if (state !== 'standby') continue
      if (kind === 'oidc-issuer') yield `${id}: an issuer has no key of ours that could stand by`
      // In its place it will be dialled where the active one is now, which tells nothing.
      if (active.has(url)) continue
      for (const [where, service] of services(signingConfigs)) if (service.url === url) yield `${where} is ${id}`
    }
    for (const { name, rekor, config } of signingConfigs) {
      const lists = [
        ['certificate-authority', config.caUrls],
        ['timestamp-authority', config.tsaUrls],
        [`rekor-v${rekor}`, config.rekorTlogUrls],
      ] as const
      for (const [kind, list] of lists) {
        const count = inventory.items.filter((item) => item.kind === kind && item.state === 'active').length
        if (list.length > count) yield `${name}: ${list.length} services where ${count} ${kind} are active`
      }
    }
  },

  /** A legacy client takes each key of usage Rekor for a v1 log; a v2 key there would fail its every verification. */
  *'legacy-rekor-usage'({ inventory, legacyTargets }) {
    const v1 = new Set(inventory.items.filter(({ kind }) => kind === 'rekor-v1').map(({ der }) => base64(der[0])))
    for (const { name, pem, custom } of legacyTargets) {
      if (custom.sigstore.usage !== 'Rekor') continue
      const spki = createPublicKey(pem).export({ type: 'spki', format: 'der' })
      if (!v1.has(spki.toString('base64'))) yield `${name} is not the key of a Rekor v1 log`
    }
  },

  /** cosign's legacy path wants exactly one TSA leaf and a self-signed root; Kyverno a Fulcio root. */
  *'legacy-complete'({ inventory, legacyTargets }) {
    const count = (predicate: (target: Release['legacyTargets'][number]) => boolean) =>
      legacyTargets.filter(predicate).length
    const isRoot = (pem: string) => {
      const certificate = new X509Certificate(pem)
      return certificate.subject === certificate.issuer
    }
    if (count(({ custom, pem }) => custom.sigstore.usage === 'Fulcio' && isRoot(pem)) === 0) yield 'no Fulcio root'
    if (count(({ custom }) => custom.sigstore.usage === 'CTFE') === 0) yield 'no CT log key'
    if (inventory.items.some(({ kind, state }) => kind === 'timestamp-authority' && state === 'active')) {
      if (count(({ name }) => name.startsWith('tsa_leaf')) !== 1) yield 'not exactly one tsa_leaf'
      if (count(({ custom, pem }) => custom.sigstore.usage === 'TSA' && isRoot(pem)) === 0) yield 'no TSA root'
    }
  },
} satisfies Record<string, ReleaseRule>

function services(signingConfigs: Release['signingConfigs']): (readonly [string, Service])[] {
  return signingConfigs.flatMap(({ name, config }) =>
    (['caUrls', 'oidcUrls', 'rekorTlogUrls', 'tsaUrls'] as const).flatMap((list) =>
      config[list].map((service, at) => [`${name} ${list}[${at}]`, service] as const),
    ),
  )
}

function base64(der: Uint8Array | undefined): string {
  return Buffer.from(der ?? []).toString('base64')
}
