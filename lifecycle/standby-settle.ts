/** What a publication after an emergency says: who signs now, and when the former key last did. */
import { keyIn, reachOf } from './rotation/agent-file.ts'
import { OperatorError } from '#alarms'
import { publishedInventory, type TrustItem } from '#trust-root'
import { type Changes, inventoryOf, wholeSeconds } from './rotation/publication.ts'
import type { Installation } from './rotation/rotation.ts'
import { whyByHand } from './rotation/serving.ts'
import { readStandbyPlan } from './standby-plan.ts'

/** Unless the agent is told otherwise (agent.yaml, `maxValiditySeconds`), and at most where that is not ours to read. */
const CERTIFICATE_SECONDS = 3600

/**
 * Changes of the inventory, none where no emergency was. What is published already is not said again; what waits for
 * signatures is, in the same words.
 */
export async function settlement(installation: Installation): Promise<Changes> {
  const used = readStandbyPlan(installation.dataDir)?.inService ?? []
  if (used.length === 0) return []
  const folder = installation.trustRoot?.folder
  const published = folder === undefined ? undefined : await publishedInventory(folder)
  if (published === undefined) throw new OperatorError('rotation_impossible', 'nothing is published from here')
  const { items } = published
  const { items: wished } = await inventoryOf(installation)
  const signing = signingNow(installation)
  return used.flatMap(({ member, former, since }): Changes => {
    const item = items.find(({ id }) => id === member.name)
    const before = items.find(({ id }) => id === former.item)
    // A certificate of before may sign until it ends.
    const lasts = member.kind === 'issuing-ca' ? certificateSeconds(installation, member.name) : 1
    const end = wholeSeconds(new Date(Date.parse(since) + lasts * 1000))
    const isStill = signing.has(member.name)
    return [
      ...(before?.state === 'active' ? [{ op: 'set' as const, id: former.item, state: 'retired' as const, end }] : []),
      ...(item?.state === 'standby' && isStill
        ? [{ op: 'set' as const, id: member.name, state: 'active' as const, url: member.url }]
        : []),
      ...(item?.state === 'standby' && !isStill
        ? [{ op: 'set' as const, id: member.name, state: 'retired' as const, end: endIn(wished, member.name) }]
        : []),
    ]
  })
}

/** As it was asked for before, or now. */
function endIn(items: readonly TrustItem[], id: string): string {
  const before = items.find((item) => item.id === id)?.window.end
  return wholeSeconds(before ?? new Date())
}

/** Names of the keys that services sign with, by the configuration. */
function signingNow({ ca, timestamp, logs }: Installation): Set<string> {
  const active = logs.filter(({ name }) => !logs.some(({ succeeds }) => succeeds === name))
  return new Set([...active.map(({ key }) => key), ...(ca ? [ca.key] : []), ...(timestamp ? [timestamp.key] : [])])
}

function certificateSeconds(installation: Installation, key: string): number {
  if (whyByHand(installation) !== undefined) return CERTIFICATE_SECONDS
  const { maxValiditySeconds = CERTIFICATE_SECONDS } = keyIn(reachOf(installation, 'services'), key)
  return maxValiditySeconds
}
