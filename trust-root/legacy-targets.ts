import { createHash, X509Certificate } from 'node:crypto'
import { encodePem } from '#x509'
import type { Inventory, TrustItem, TrustItemKind } from './items.ts'
import { isPublished } from './trusted-root.ts'

/** `custom.sigstore` of a target: how clients without trusted_root.json (cosign < 2.5.1, gitsign, Kyverno) find keys. */
export interface LegacyCustom {
  readonly sigstore: {
    readonly usage: 'Fulcio' | 'Rekor' | 'CTFE' | 'TSA'
    readonly status: 'Active' | 'Expired'
    readonly uri: string
  }
}

/** One PEM file with its custom metadata. */
export interface LegacyTarget {
  readonly name: string
  readonly pem: string
  readonly custom: LegacyCustom
}

/**
 * The PEM targets of the years before trusted_root.json. Pure. The active item of a kind has the well-known name, older
 * ones the first eight hex digits of their SHA-256 in it.
 *
 * Only Rekor v1 keys get usage Rekor: a legacy client takes every key of that usage for a v1 log. Only the active TSA
 * is listed: cosign refuses a set of tsa_* targets with two leaves.
 */
export function renderLegacyTargets(inventory: Inventory): LegacyTarget[] {
  const newestFirst = (kind: TrustItemKind) =>
    inventory.items
      .filter((item) => item.kind === kind && isPublished(item))
      .toSorted((a, b) => rank(b) - rank(a) || b.window.start.getTime() - a.window.start.getTime())
  const targets = [
    ...newestFirst('certificate-authority').flatMap(fulcioCertificates),
    ...newestFirst('rekor-v1').flatMap((item) => logKey(item, 'rekor', 'Rekor')),
    ...newestFirst('ct-log').flatMap((item) => logKey(item, 'ctfe', 'CTFE')),
    ...newestFirst('timestamp-authority')
      .filter((item) => item.state === 'active')
      .flatMap(timestampCertificates),
  ]
  return withUniqueNames(targets)
}

/** The active item comes first and so gets the well-known name. */
function rank(item: TrustItem): number {
  return item.state === 'active' ? 1 : 0
}

function fulcioCertificates(item: TrustItem): LegacyTarget[] {
  return item.der.map((der) =>
    certificate(item, 'Fulcio', isSelfSigned(der) ? 'fulcio.crt.pem' : 'fulcio_intermediate_v1.crt.pem', der),
  )
}

function timestampCertificates(item: TrustItem): LegacyTarget[] {
  return item.der.map((der, place) => {
    if (place === 0) return certificate(item, 'TSA', 'tsa_leaf.crt.pem', der)
    const name = isSelfSigned(der) ? 'tsa_root.crt.pem' : `tsa_intermediate_${place - 1}.crt.pem`
    return certificate(item, 'TSA', name, der)
  })
}

function certificate(item: TrustItem, usage: 'Fulcio' | 'TSA', name: string, der: Uint8Array): LegacyTarget {
  return { name, pem: encodePem('CERTIFICATE', der), custom: custom(item, usage) }
}

function logKey(item: TrustItem, stem: string, usage: 'Rekor' | 'CTFE'): LegacyTarget[] {
  return item.der.map((der) => ({
    name: `${stem}.pub`,
    pem: encodePem('PUBLIC KEY', der),
    custom: custom(item, usage),
  }))
}

function custom(item: TrustItem, usage: LegacyCustom['sigstore']['usage']): LegacyCustom {
  return { sigstore: { usage, status: item.state === 'retired' ? 'Expired' : 'Active', uri: item.url } }
}

function isSelfSigned(der: Uint8Array): boolean {
  const certificate = new X509Certificate(der)
  return certificate.subject === certificate.issuer
}

/** The same root under two intermediates is one file; another certificate of the same name gets a digest in its name. */
function withUniqueNames(targets: readonly LegacyTarget[]): LegacyTarget[] {
  const byName = new Map<string, LegacyTarget>()
  for (const target of targets) {
    const holder = byName.get(target.name)
    if (!holder) byName.set(target.name, target)
    else if (holder.pem !== target.pem) {
      const name = target.name.replace('.', `_${createHash('sha256').update(target.pem).digest('hex').slice(0, 8)}.`)
      byName.set(name, { ...target, name })
    }
  }
  return [...byName.values()]
}
