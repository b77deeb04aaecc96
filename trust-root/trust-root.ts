import { mkdir } from 'node:fs/promises'
import type { Logger } from 'pino'
import { TrustRootError } from './errors.ts'
import { type Inventory, writeInventory } from './items.ts'
import { lintRelease, refuseFindings } from './linter.ts'
import { type TrustDiff, trustDiff } from './diff.ts'
import { handOut, mergeSignatures, withdrawPending, type Withdrawn } from './merge.ts'
import type { PayloadFile } from './payload.ts'
import type { PendingSummary, Publication, PublishedVersions } from './publication.ts'
import { publish, type PublishWish } from './publish.ts'
import { wishedRoles } from './published.ts'
import { type Roles, writeRoles } from './roles.ts'
import { reassign, updateInventory, whatWaits } from './update.ts'
import type { TufAgent } from './metadata.ts'
import type { Canary, PublishOptions, PublishStep, TufKeyNames, WithRootAgent } from './options.ts'
import type { TufPolicy } from './policy.ts'
import { renderRelease } from './release.ts'
import { readRepository } from './repository.ts'
import { resignDue, type TrustRootStatus, trustRootStatus } from './resign.ts'

/** Where the trust root lies and who signs for it. */
export interface TrustRootOptions {
  /** `<data>/trust-root`. One process at a time owns it. */
  readonly folder: string
  /** Holds the online key. */
  readonly agent: TufAgent
  /** Given in development and in ceremonies; without it root and targets raise an alarm when they near their end. */
  readonly withRootAgent?: WithRootAgent | undefined
  readonly keys?: TufKeyNames | undefined
  readonly policy?: TufPolicy | undefined
  readonly now?: (() => Date) | undefined
  readonly logger?: Pick<Logger, 'info' | 'warn' | 'error'> | undefined
  readonly onStep?: ((step: PublishStep) => void) | undefined
  readonly canary?: Canary | undefined
}

/** The publisher of one installation. Its calls run one after the other. */
export interface TrustRoot {
  /** Publishes items.json and roles.json as they are now. */
  publish(options?: PublishWish): Promise<Publication>
  /** Replaces items.json and publishes it, unless clients see it already; if the linter refuses, it stays as it was. */
  update(change: (inventory: Inventory) => Inventory): Promise<Publication>
  /** Who signs by roles.json; undefined where it names nobody. */
  roles(): Promise<Roles | undefined>
  /** Replaces roles.json and publishes what follows: custodians, thresholds, online keys. */
  reassign(roles: Roles): Promise<Publication>
  /** What waits for custodians; undefined if nothing does. */
  pending(): Promise<PendingSummary | undefined>
  /** What custodians sign, as a file for them. Throws `no_pending_publication`. */
  payload(): Promise<PayloadFile>
  /** Takes files of signatures and completes what waits if they suffice; a single fault refuses all. */
  merge(files: readonly unknown[]): Promise<Publication>
  /** Gives up what waits. */
  withdraw(options?: { readonly discardRoots?: boolean }): Promise<Withdrawn>
  /** What a publication would change, or what waits changes. */
  diff(): Promise<TrustDiff>
  /** Signs again what is due; undefined if nothing was. */
  resign(): Promise<PublishedVersions | undefined>
  status(): Promise<TrustRootStatus>
  /** Keeps the metadata fresh until `close`: at once, then every `intervalSeconds` (default an hour). */
  start(intervalSeconds?: number): void
  /** Stops the clock and waits for what is under way. */
  close(): Promise<void>
}

/** Opens the publisher of a trust root that `initTrustRoot` made; throws `missing` or `damaged_repository`. */
export async function openTrustRoot(options: TrustRootOptions): Promise<TrustRoot> {
  const { folder } = options
  if (!(await readRepository(folder))) {
    throw new TrustRootError('missing', `no repository in ${folder}; make one with: chancery init`)
  }
  return publisher(options)
}

/**
 * Makes items.json and publishes the first version. After a crash in the middle it may be called again with the same
 * keys and continues. Throws `exists` if something was published already: a repository that starts again at version 1
 * is a rollback attack to every client that knew the old one. With `roles`, and without the keys of its custodians at
 * hand, the first version waits for their signatures.
 */
export async function initTrustRoot(
  options: TrustRootOptions,
  inventory: Inventory,
  roles?: Roles,
): Promise<TrustRoot> {
  const { folder, now = () => new Date() } = options
  if (await readRepository(folder)) throw new TrustRootError('exists', `${folder} holds a published repository`)
  refuseFindings(lintRelease(renderRelease(inventory), { now: now() }))
  await mkdir(folder, { recursive: true, mode: 0o755 })
  await writeInventory(folder, inventory)
  if (roles !== undefined) await writeRoles(folder, roles)
  const trustRoot = publisher(options)
  await trustRoot.publish()
  return trustRoot
}

/** Often enough that one failed run of many does not matter for a timestamp of three days. */
const RESIGN_INTERVAL_SECONDS = 3600

function publisher(options: TrustRootOptions): TrustRoot {
  const { folder, logger, now = () => new Date() } = options
  const inTurn = oneAtATime()
  const current = (): PublishOptions => ({ ...options, now: now() })
  let timer: NodeJS.Timeout | undefined

  const status = async (): Promise<TrustRootStatus> => {
    const found = await trustRootStatus(folder, { now: now(), policy: options.policy })
    // A folder of what waits that cannot be read says nothing of what clients see.
    const pending = await whatWaits(current()).catch(() => undefined)
    return pending === undefined ? found : { ...found, pending }
  }
  const resign = () => inTurn(() => resignDue(current()))
  const keepFresh = async () => {
    try {
      const versions = await resign()
      if (versions) logger?.info({ ...versions }, 'TUF metadata signed again')
      for (const role of (await status()).roles) {
        if (role.state === 'alarm' || role.state === 'expired') {
          logger?.error(
            { role: role.role, expires: role.expires, nearEnd: role.nearEnd },
            'TUF role nears its end and was not signed again',
          )
        }
      }
    } catch (error) {
      logger?.error({ err: error }, 'TUF metadata could not be signed again; trying again at the next interval')
    }
  }
  return {
    publish: (how) =>
      inTurn(async () => {
        const publication = await publish(current(), how)
        // Where nothing changed, what is overdue may still be signed.
        const versions = publication.state === 'published' ? await resignDue(current()) : undefined
        return versions === undefined ? publication : { state: 'published', versions }
      }),
    update: (change) => inTurn(() => updateInventory(current(), change)),
    roles: () => wishedRoles(folder),
    reassign: (roles) => inTurn(() => reassign(current(), roles)),
    pending: () => inTurn(() => whatWaits(current())),
    payload: () => inTurn(() => handOut(current())),
    merge: (files) => inTurn(() => mergeSignatures(current(), files)),
    withdraw: (how) => inTurn(() => withdrawPending(current(), how)),
    diff: () => inTurn(() => trustDiff(current())),
    resign,
    status,
    start(intervalSeconds = RESIGN_INTERVAL_SECONDS) {
      if (timer) return
      timer = setInterval(() => void keepFresh(), intervalSeconds * 1000)
      // The listeners keep the process alive; this must not.
      timer.unref()
      void keepFresh()
    },
    async close() {
      clearInterval(timer)
      await inTurn(() => Promise.resolve())
    },
  }
}

/** A failed task does not stop the ones behind it. */
function oneAtATime(): <T>(task: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve()
  return (task) => {
    const result = last.then(task, task)
    last = result.catch(() => {})
    return result
  }
}
