import { describeChange, type DiffSection } from './describe.ts'
import { previewed } from './draft.ts'
import { formatTime, type Inventory, readInventory, type TrustItem } from './items.ts'
import { lintRelease } from './linter.ts'
import type { PublishOptions } from './options.ts'
import { type Candidate, type Pending, readPending } from './pending.ts'
import type { PendingRole, PendingSummary } from './publication.ts'
import { namesOf, onlineSigners, pendingSummary } from './publish.ts'
import { publishedInventory, publishedRoles, wishedRoles } from './published.ts'
import { offlineParts, summaryOf } from './quorum.ts'
import { releaseTargets, renderRelease } from './release.ts'
import { readRepository, readTargets, type RepositoryState } from './repository.ts'

/** What lies between what clients see and what they shall see. */
export interface TrustDiff {
  /** What waits; else it is about items.json and roles.json as they are now. */
  readonly pending?: PendingSummary
  /** False if nothing changes. */
  readonly changes: boolean
  /** What the linter would refuse, `rule: message`. */
  readonly refused: readonly string[]
  readonly sections: readonly DiffSection[]
}

/** The difference in words; nothing is changed and nobody is asked to sign by asking. */
export async function trustDiff(options: PublishOptions): Promise<TrustDiff> {
  const { folder, now } = options
  const published = await readRepository(folder)
  const pending = await readPending(folder, published)
  const before = await publishedInventory(folder)
  const inventory = pending?.inventory ?? (await readInventory(folder))
  const { newRoots, targets } = pending ?? (await previewOf(options, inventory, published))
  const release = renderRelease(inventory)
  const files = new Map([...releaseTargets(release)].map(([name, { bytes }]) => [name, bytes]))
  const nameOf = await namesOf(options, pending)
  const content = describeChange(
    {
      root: published?.root.signed,
      targets: published?.targets.signed,
      files: published === undefined ? new Map() : await readTargets(folder, published.targets.signed),
    },
    { newRoots: newRoots.map(({ signed }) => signed), targets: targets?.signed, files: pending?.targetFiles ?? files },
    nameOf,
  )
  const items = itemLines(before, inventory)
  const who = offlineParts(published?.root, newRoots, targets).map((part) => signerLine(summaryOf(part, nameOf)))
  const isEmpty = items.length === 0 && newRoots.length === 0 && targets === undefined
  const refused = lintRelease(release, { now, ...(before ? { previous: renderRelease(before) } : {}) })
  return {
    ...(pending ? { pending: await pendingSummary(options, pending) } : {}),
    changes: !isEmpty,
    refused: refused.map(({ rule, message }) => `${rule}: ${message}`),
    sections: isEmpty ? [] : [...section('Items', items), ...content, ...section('Who signs', who)],
  }
}

function section(title: string, lines: readonly string[]): DiffSection[] {
  return lines.length === 0 ? [] : [{ title, lines }]
}

/** What would be drafted, with versions as they are likely to become. */
async function previewOf(
  options: PublishOptions,
  inventory: Inventory,
  previous: RepositoryState | undefined,
): Promise<Pick<Candidate | Pending, 'newRoots' | 'targets'>> {
  const { folder } = options
  const roles = await wishedRoles(folder)
  return await previewed(options, {
    inventory,
    release: renderRelease(inventory),
    roles,
    publishedRoles: await publishedRoles(folder),
    previous,
    online: await onlineSigners(options, roles),
    renew: false,
    above: 0,
    mustSuffice: false,
  })
}

function itemLines(before: Inventory | undefined, after: Inventory): string[] {
  const old = new Map(before?.items.map((item) => [item.id, item]))
  const lines = after.items.flatMap((item) => {
    const known = old.get(item.id)
    if (known === undefined) return [`+ ${item.id}: ${item.kind}, ${item.state}`]
    const changes = [
      known.state === item.state ? '' : `${item.state}, was ${known.state}`,
      endOf(known) === endOf(item) ? '' : `ends ${endOf(item) ?? 'never'}`,
      known.url === item.url ? '' : `${item.url}, was ${known.url}`,
      isSameKey(known, item) ? '' : 'ANOTHER KEY',
    ].filter((change) => change !== '')
    return changes.length === 0 ? [] : [`~ ${item.id}: ${changes.join('; ')}`]
  })
  const now = new Set(after.items.map(({ id }) => id))
  const gone = [...old.values()].filter(({ id }) => !now.has(id)).map(({ id, kind }) => `- ${id}: ${kind}`)
  const others = [
    before === undefined || before.operator === after.operator
      ? []
      : [`~ operator ${after.operator}, was ${before.operator}`],
    before === undefined || before.defaultRekor === after.defaultRekor
      ? []
      : [`~ signers are sent to Rekor v${after.defaultRekor}, was v${before.defaultRekor}`],
  ]
  return [...lines, ...gone, ...others.flat()]
}

function endOf({ window }: TrustItem): string | undefined {
  return window.end && formatTime(window.end)
}

function isSameKey(one: TrustItem, other: TrustItem): boolean {
  const bytes = ({ der }: TrustItem) => der.map((each) => Buffer.from(each).toString('base64')).join()
  return bytes(one) === bytes(other)
}

function signerLine({ role, version, have, need, missing }: PendingRole): string {
  const who = missing.map(({ name, holder }) => (holder === '' ? name : `${name} (${holder})`)).join(', ')
  if (missing.length === 0) return `${role} ${version}: ${have}/${need} signed`
  return `${role} ${version}: ${have}/${need} signed; may sign: ${who}`
}
