/** A trusted root as the canary tries it: what is published, or what is about to be. */
import { createHash } from 'node:crypto'
import { type Inventory, type Release, type TrustItem } from '#trust-root'
import { readPublished } from '#trust-root/export'
import { CANARY_ARTIFACT, type CanaryBundle } from './canary-bundle.ts'

export interface CanaryTrust {
  /** As messages name it. */
  readonly what: string
  readonly trustedRoot: Release['trustedRoot']
  /** Items by the SHA-256, hex, of their first `der`; several where a window was cut in two. */
  readonly byKey: ReadonlyMap<string, readonly TrustItem[]>
  /** Throws unless the bundle verifies and is signed by this identity. */
  readonly verify: (bundle: unknown, identity: string) => void
  /** The same for all bundles of one content and one state of all that the trusted root says of the keys in them. */
  readonly digestOf: (bundle: CanaryBundle, identity: string) => string
}

/** What clients see now. */
export async function publishedTrust(folder: string): Promise<CanaryTrust> {
  const { inventory, trustedRoot } = await readPublished(folder)
  return await trustOf('the published trust root', inventory, trustedRoot)
}

export async function trustOf(
  what: string,
  { items }: Inventory,
  trustedRoot: Release['trustedRoot'],
): Promise<CanaryTrust> {
  const byKey = Map.groupBy(items, ({ der: [first] }) => (first === undefined ? '' : hexDigest(first)))
  const entries = entriesByKey(trustedRoot)
  return {
    what,
    trustedRoot,
    byKey,
    verify: await verification(trustedRoot),
    digestOf({ signedBy, bundle }, identity) {
      const said = Object.values(signedBy).map((key) => [key, entries.get(key) ?? []])
      return hexDigest(Buffer.from(JSON.stringify([identity, bundle, said])))
    },
  }
}

/** The item whose window a time is in, else any of them. */
export function nameAt(items: readonly TrustItem[] | undefined, time: Date): string | undefined {
  return (items?.find((item) => isOpen(item, time)) ?? items?.[0])?.id
}

/** Few verifiers look at the window of a Rekor v2 log; an item that leaves out what it signed is wrong for all. */
export function requireWindows(signedBy: CanaryBundle['signedBy'], madeAt: Date, { byKey }: CanaryTrust): void {
  for (const [kind, key] of Object.entries(signedBy)) {
    const items = byKey.get(key)
    if (items === undefined) throw new Error(`its ${kind} is no item`)
    if (items.some((item) => isOpen(item, madeAt))) continue
    const windows = items.map(
      ({ id, window: { start, end } }) => `${id}: ${start.toISOString()} to ${end?.toISOString() ?? 'ever'}`,
    )
    throw new Error(`the window leaves it out (${windows.join('; ')})`)
  }
}

export function hexDigest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function isOpen({ state, window: { start, end } }: TrustItem, time: Date): boolean {
  return state !== 'revoked' && start <= time && (end === undefined || end >= time)
}

/** By the SHA-256 of a log's key, or of the first certificate of a chain. */
function entriesByKey(root: Release['trustedRoot']): ReadonlyMap<string, readonly unknown[]> {
  const logs = [...root.tlogs, ...root.ctlogs].map((log) => ({ der: log.publicKey.rawBytes, entry: log }))
  const authorities = [...root.certificateAuthorities, ...root.timestampAuthorities].map((authority) => ({
    der: authority.certChain.certificates[0]?.rawBytes ?? '',
    entry: authority,
  }))
  const all = [...logs, ...authorities].map(({ der, entry }) => ({ key: hexDigest(Buffer.from(der, 'base64')), entry }))
  return Map.groupBy(all, ({ key }) => key)
}

/** Loaded when first needed: it comes with the @sigstore packages. Reads the keys of the trusted root once. */
async function verification(trustedRoot: unknown): Promise<CanaryTrust['verify']> {
  const { bundleVerifier, parseBundle, parseTrustedRoot, requireSigner } = await import('#bundle')
  const verify = bundleVerifier(parseTrustedRoot(trustedRoot))
  const artifact = Buffer.from(CANARY_ARTIFACT)
  return (bundle, identity) => {
    requireSigner(verify(parseBundle(JSON.stringify(bundle)), artifact), { identity, issuer: identity })
  }
}
