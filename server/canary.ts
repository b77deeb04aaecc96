/**
 * The canary: one signature through all parts of the installation, tried on a trust root before clients see it. Old ones
 * stay, so that a publication that would lose the signatures of former keys is refused as well.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Logger } from 'pino'
import { OperatorError } from '#alarms'
import { readInventory, type Release } from '#trust-root'
import { type CanaryBundle, type CanaryParts, makeCanary } from './canary-bundle.ts'
import { findCosign, verifyWithCosign } from './canary-cosign.ts'
import { type Distrusted, DistrustedList } from './canary-distrust.ts'
import { type Canary, CanaryStore, keysOf } from './canary-store.ts'
import { type CanaryTrust, hexDigest, nameAt, publishedTrust, requireWindows, trustOf } from './canary-trust.ts'

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
  /** `digestOf` what verified with the trusted root that was tried last. */
  #verifiedBefore: ReadonlySet<string> = new Set()

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
    const { id } = this.#store.keep(fresh)
    return { ...report, new: { ...report.new, id } }
  }

  /**
   * The last question before a publication: does everything that was ever signed here, and what is signed now, verify
   * with it? Rejects `canary_failed`.
   */
  async demand(candidate: Release): Promise<void> {
    const trust = await trustOf('the trust root that was to be published', candidate.inventory, candidate.trustedRoot)
    const kept = this.#store.all()
    const made = await this.#make()
    if (typeof made === 'string') {
      this.#options.logger.warn({ reason: made, kept: kept.length }, 'no canary was made for the publication')
    }
    const fresh = typeof made === 'string' ? kept.at(-1) : made
    const old = fresh && this.#chooseOld(kept, fresh, trust)
    const verified = new Set<string>()
    for (const canary of new Set([...kept, ...(fresh === undefined ? [] : [fresh])])) {
      await this.#verified(canary, trust, { byCosign: canary === fresh || canary === old, verified })
    }
    this.#verifiedBefore = verified
    if (typeof made !== 'string') this.#store.keep(made)
  }

  /** Signatures of this item made in this time are given up: no publication is refused for them any more. */
  async distrust(id: string, { from, until }: Pick<Distrusted, 'from' | 'until'>): Promise<Distrusted> {
    const { items } = await readInventory(this.#options.folder)
    const item = items.find((one) => one.id === id)
    if (item?.der[0] === undefined) throw new OperatorError('canary_failed', `there is no item ${id} with a key`)
    return this.#distrusted.add({ item: id, key: hexDigest(item.der[0]), from, ...(until && { until }) })
  }

  /** A new one, not yet kept; or why there is none. */
  async #make(): Promise<Canary | string> {
    const parts = this.#parts?.() ?? 'the services do not run yet'
    if (typeof parts === 'string') return parts
    const madeAt = new Date()
    try {
      const bundles = await makeCanary(parts)
      return { id: 'new', madeAt, endedAt: new Date(), identity: this.#options.identity, bundles }
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
  }

  /** The newest of other keys; without one, the first. Given up ones are none. */
  #chooseOld(kept: readonly Canary[], fresh: Canary, trust: CanaryTrust): Canary | undefined {
    const demanded = kept.filter((canary) => canary !== fresh && this.#demandedOf(canary, trust).length > 0)
    return demanded.findLast((canary) => keysOf(canary) !== keysOf(fresh)) ?? demanded[0]
  }

  /** The bundles that must verify: of no key that is revoked or distrusted. */
  #demandedOf({ madeAt, endedAt, bundles }: Canary, { byKey }: CanaryTrust): readonly CanaryBundle[] {
    const given = this.#distrusted.keysBetween(madeAt, endedAt)
    return bundles.filter(({ signedBy }) =>
      Object.values(signedBy).every(
        (key) => byKey.get(key)?.every(({ state }) => state === 'revoked') !== true && !given.has(key),
      ),
    )
  }

  /**
   * One whose bundle, and what the trusted root says of its keys, are those of the last publication is not computed
   * again: after a hundred rotations a publication verifies what it changes.
   */
  async #verified(
    canary: Canary,
    trust: CanaryTrust,
    { byCosign, verified }: { readonly byCosign: boolean; readonly verified?: Set<string> },
  ): Promise<VerifiedCanary> {
    const bundles: VerifiedCanary['bundles'][number][] = []
    for (const demanded of this.#demandedOf(canary, trust)) {
      const { log, signedBy, bundle } = demanded
      const { identity } = canary
      const names = Object.entries(signedBy).map(
        ([kind, key]) => nameAt(trust.byKey.get(key), canary.madeAt) ?? `a dropped ${kind}`,
      )
      const verifiedBy: ('chancery' | 'cosign')[] = ['chancery']
      try {
        const digest = trust.digestOf(demanded, identity)
        if (verified === undefined || !this.#verifiedBefore.has(digest)) {
          await nextTurn() // some milliseconds each: requests are answered between them
          trust.verify(bundle, identity)
        }
        verified?.add(digest)
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
  async #byCosign(bundle: unknown, { trustedRoot }: CanaryTrust, identity: string): Promise<boolean> {
    const { cosign: configured, logger } = this.#options
    const cosign = await findCosign(configured)
    if (cosign === undefined) return false
    if (await verifyWithCosign(cosign, { bundle, trustedRoot, identity })) return true
    if (configured !== undefined) throw new Error(`trustRoot.cosign: ${configured} is too old to be asked`)
    logger.warn({ cosign }, 'the cosign in PATH is too old to verify the canary')
    return false
  }
}
