/**
 * The canary: one signature through all parts of the installation, tried on a trust root before clients see it. Old ones
 * stay, so that a publication that would lose the signatures of former keys is refused as well.
 */
import { createHash } from 'node:crypto'
import type { Logger } from 'pino'
import { OperatorError } from '#alarms'
import { type Inventory, readInventory, type Release, type TrustItem } from '#trust-root'
import { readPublished } from '#trust-root/export'
import { CANARY_ARTIFACT, type CanaryBundle, type CanaryParts, makeCanary } from './canary-bundle.ts'
import { findCosign, verifyWithCosign } from './canary-cosign.ts'
import { type Distrusted, DistrustedList } from './canary-distrust.ts'
import { type Canary, CanaryStore, keysOf } from './canary-store.ts'

export interface CanaryOptions {
  /** The trust-root folder. */
  readonly folder: string
  /** Of `canaryIdentity`. */
  readonly identity: string
  /** Where cosign is, if not in PATH. */
  readonly cosign?: string | undefined
  readonly logger: Pick<Logger, 'info' | 'warn'>
}

/** A canary that verified. */
export interface VerifiedCanary {
  readonly id: string
  readonly madeAt: string
  readonly bundles: readonly {
    readonly log: CanaryBundle['log']
    readonly identity: string
    /** Ids of the trust items whose keys signed. */
    readonly signedBy: readonly string[]
    readonly verifiedBy: readonly ('chancery' | 'cosign')[]
  }[]
}

export interface CanaryReport {
  readonly new: VerifiedCanary
  /** Of former keys; without a former one, the first of these; null if the new one is the first of all. */
  readonly old: VerifiedCanary | null
}

export class Canaries {
  readonly #options: CanaryOptions
  readonly #store: CanaryStore
  readonly #distrusted: DistrustedList
  #parts: (() => CanaryParts | string) | undefined

  constructor(options: CanaryOptions) {
    this.#options = options
    this.#store = new CanaryStore(options.folder)
    this.#distrusted = new DistrustedList(options.folder)
  }

  /** Called once the services run; `parts` are those of the moment, or why there is none to sign with. */
  connect(parts: () => CanaryParts | string): void {
    this.#parts = parts
  }

  /** Makes one and verifies it and an old one with the published trusted root. Rejects `canary_failed`. */
  async prove(): Promise<CanaryReport> {
    const { folder } = this.#options
    const trust = await publishedTrust(folder)
    const before = this.#store.all()
    const fresh = await this.#make()
    if (typeof fresh === 'string') throw new OperatorError('canary_failed', `no signature can be made: ${fresh}`)
    const old = this.#chooseOld(before, fresh, trust)
    const report = {
      new: await this.#verified(fresh, trust, { byCosign: true }),
      old: old === undefined ? null : await this.#verified(old, trust, { byCosign: true }),
    }
    const { id } = this.#store.keep(fresh.madeAt, fresh.identity, fresh.bundles)
    return { ...report, new: { ...report.new, id } }
  }

  /**
   * The last question before a publication: does everything that was ever signed here, and what is signed now, verify
   * with it? Rejects `canary_failed`.
   */
  async demand(candidate: Release): Promise<void> {
    const trust = trustOf('the trust root that was to be published', candidate.inventory, candidate.trustedRoot)
    const kept = this.#store.all()
    const made = await this.#make()
    if (typeof made === 'string') {
      this.#options.logger.warn({ reason: made, kept: kept.length }, 'no canary was made for the publication')
    }
    const fresh = typeof made === 'string' ? kept.at(-1) : made
    const old = fresh && this.#chooseOld(kept, fresh, trust)
    for (const canary of new Set([...kept, ...(fresh === undefined ? [] : [fresh])])) {
      await this.#verified(canary, trust, { byCosign: canary === fresh || canary === old })
    }
    if (typeof made !== 'string') this.#store.keep(made.madeAt, made.identity, made.bundles)
  }

  /** Signatures of this item made in this time are given up: no publication is refused for them any more. */
  async distrust(id: string, { from, until }: Pick<Distrusted, 'from' | 'until'>): Promise<Distrusted> {
    const { items } = await readInventory(this.#options.folder)
    const item = items.find((one) => one.id === id)
    if (item?.der[0] === undefined) throw new OperatorError('canary_failed', `there is no item ${id} with a key`)
    return this.#distrusted.add({ item: id, key: digest(item.der[0]), from, ...(until && { until }) })
  }

  /** A new one, not yet kept; or why there is none. */
  async #make(): Promise<Canary | string> {
    const parts = this.#parts?.() ?? 'the services do not run yet'
    if (typeof parts === 'string') return parts
    const madeAt = new Date()
    try {
      const bundles = await makeCanary(parts)
      return { id: 'new', madeAt, identity: this.#options.identity, bundles }
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
  }

  /** The newest of other keys; without one, the first. Given up ones are none. */
  #chooseOld(kept: readonly Canary[], fresh: Canary, trust: Trust): Canary | undefined {
    const demanded = kept.filter((canary) => canary !== fresh && this.#demandedOf(canary, trust).length > 0)
    return demanded.findLast((canary) => keysOf(canary) !== keysOf(fresh)) ?? demanded[0]
  }

  /** The bundles that must verify: of no key that is revoked or distrusted. */
  #demandedOf({ madeAt, bundles }: Canary, { byKey }: Trust): readonly CanaryBundle[] {
    const given = this.#distrusted.keysAt(madeAt)
    return bundles.filter(({ signedBy }) =>
      Object.values(signedBy).every(
        (key) => byKey.get(key)?.every(({ state }) => state === 'revoked') !== true && !given.has(key),
      ),
    )
  }

  async #verified(canary: Canary, trust: Trust, { byCosign }: { byCosign: boolean }): Promise<VerifiedCanary> {
    const bundles: VerifiedCanary['bundles'][number][] = []
    for (const { log, signedBy, bundle } of this.#demandedOf(canary, trust)) {
      const { identity } = canary
      const names = Object.entries(signedBy).map(
        ([kind, key]) => nameAt(trust.byKey.get(key), canary.madeAt) ?? `a dropped ${kind}`,
      )
      const verifiedBy: ('chancery' | 'cosign')[] = ['chancery']
      try {
        await verifyOurselves(bundle, trust.trustedRoot, identity)
        if (byCosign && (await this.#byCosign(bundle, trust, identity))) verifiedBy.push('cosign')
        requireWindows(signedBy, canary.madeAt, trust)
      } catch (cause) {
        const why = cause instanceof Error ? cause.message : String(cause)
        const when = canary.id === 'new' ? 'made just now' : `of ${canary.madeAt.toISOString()} (${canary.id})`
        throw new OperatorError(
          'canary_failed',
          `a signature ${when} in ${log}, signed for by ${names.join(', ')}, does not verify with ${trust.what}: ${why}`,
          { cause },
        )
      }
      bundles.push({ log, identity, signedBy: names, verifiedBy })
    }
    return { id: canary.id, madeAt: canary.madeAt.toISOString(), bundles }
  }

  /** False where there is no cosign that could be asked. */
  async #byCosign(bundle: unknown, { trustedRoot }: Trust, identity: string): Promise<boolean> {
    const { cosign: configured, logger } = this.#options
    const cosign = await findCosign(configured)
    if (cosign === undefined) return false
    if (await verifyWithCosign(cosign, { bundle, trustedRoot, identity })) return true
    if (configured !== undefined) throw new Error(`trustRoot.cosign: ${configured} is too old to be asked`)
    logger.warn({ cosign }, 'the cosign in PATH is too old to verify the canary')
    return false
  }
}

/** A trusted root, with the inventory that it was made of. */
interface Trust {
  /** As messages name it. */
  readonly what: string
  readonly trustedRoot: unknown
  /** Items by the SHA-256, hex, of their first `der`; several where a window was cut in two. */
  readonly byKey: ReadonlyMap<string, readonly TrustItem[]>
}

function trustOf(what: string, { items }: Inventory, trustedRoot: unknown): Trust {
  const byKey = Map.groupBy(items, ({ der: [first] }) => (first === undefined ? '' : digest(first)))
  return { what, trustedRoot, byKey }
}

/** The item whose window a time is in, else any of them. */
function nameAt(items: readonly TrustItem[] | undefined, time: Date): string | undefined {
  return (items?.find((item) => isOpen(item, time)) ?? items?.[0])?.id
}

function isOpen({ state, window: { start, end } }: TrustItem, time: Date): boolean {
  return state !== 'revoked' && start <= time && (end === undefined || end >= time)
}

/** Few verifiers look at the window of a Rekor v2 log; an item that leaves out what it signed is wrong for all. */
function requireWindows(signedBy: CanaryBundle['signedBy'], madeAt: Date, { byKey }: Trust): void {
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

/** What clients see now. */
async function publishedTrust(folder: string): Promise<Trust> {
  const { inventory, trustedRoot } = await readPublished(folder)
  return trustOf('the published trust root', inventory, trustedRoot)
}

/** Loaded when first needed: it comes with the @sigstore packages. */
async function verifyOurselves(bundle: unknown, trustedRoot: unknown, identity: string): Promise<void> {
  const { parseBundle, parseTrustedRoot, requireSigner, verifyBundle } = await import('#bundle')
  const artifact = Buffer.from(CANARY_ARTIFACT)
  const signer = verifyBundle(parseBundle(JSON.stringify(bundle)), artifact, parseTrustedRoot(trustedRoot))
  requireSigner(signer, { identity, issuer: identity })
}

function digest(der: Uint8Array): string {
  return createHash('sha256').update(der).digest('hex')
}
