/** Windows of the trust root, cut in an emergency: pure, but for reading which item is meant. */
import { OperatorError } from '#alarms'
import { type Inventory, jsonOfItem, readInventory, type TrustItem } from '#trust-root'
import type { Changes } from './rotation/publication.ts'
import type { Installation } from './rotation/rotation.ts'

/** What is given up: from a time on, between two, or all. */
export interface Cut {
  readonly from?: Date
  readonly until?: Date
  readonly entirely: boolean
}

/** What has to change for it. */
export interface PlannedCut {
  readonly changes: Changes
  /** The first millisecond that is given up. */
  readonly from: Date
  /** And the last, where what is later stays. */
  readonly until?: Date
  readonly words: string
}

/** The item of this id. Throws `distrust_impossible`. */
export async function itemNamed({ trustRoot }: Pick<Installation, 'trustRoot'>, id: string): Promise<TrustItem> {
  if (trustRoot === undefined)
    throw new OperatorError('distrust_impossible', 'there is no trustRoot in the configuration')
  const { items }: Inventory = await readInventory(trustRoot.folder)
  const item = items.find((each) => each.id === id)
  if (item !== undefined) return item
  const ids = items.filter(({ der }) => der.length > 0).map((each) => each.id)
  throw new OperatorError('distrust_impossible', `there is no item ${id}; there are: ${ids.join(', ')}`)
}

/** A window is one piece; behind a hole an authority goes on as an item of its own. Throws `distrust_impossible`. */
export function changesFor(item: TrustItem, { from, until, entirely }: Cut, now: Date): PlannedCut {
  const { id, state, window } = item
  if (item.der.length === 0) throw impossible(`${id} has no key`)
  if (state === 'revoked') throw impossible(`${id} is revoked: nobody accepts anything of it`)
  if (entirely || from === undefined) {
    const words = `${id}: every signature of its key is given up`
    return { changes: [{ op: 'set', id, state: 'revoked' }], from: window.start, words }
  }
  if (from <= window.start) throw impossible(`${id} begins at ${formatTime(window.start)}: say --entirely`)
  if (window.end !== undefined && from > window.end) {
    throw impossible(`${id} ended at ${formatTime(window.end)}: nothing from ${formatTime(from)} on is accepted anyway`)
  }
  if (from > now) throw impossible('what will be signed later is given up when it has been')
  // The last second that is accepted: clients take an end as inside of the window.
  const last = new Date(Math.ceil(from.getTime() / 1000) * 1000 - 1000)
  const end = formatTime(last)
  if (end <= formatTime(window.start)) throw impossible(`nothing would be left of ${id}: say --entirely`)
  const retired = { op: 'set', id, state: 'retired', end } as const
  const refusedFrom = new Date(last.getTime() + 1)
  if (until === undefined || (window.end !== undefined && until >= window.end)) {
    return { changes: [retired], from: refusedFrom, words: `${id}: what its key signed after ${end} is given up` }
  }
  if (until <= from) throw impossible('--until is not after --from')
  return holed(item, { retired, from: refusedFrom, until, now })
}

function holed(
  item: TrustItem,
  { retired, from, until, now }: { retired: Changes[number] & { end: string }; from: Date; until: Date; now: Date },
): PlannedCut {
  const { id, kind, state, window } = item
  if (kind !== 'certificate-authority' && kind !== 'timestamp-authority') {
    throw impossible(`clients know a log by one window: leave --until away, or say --entirely`)
  }
  if (until >= now) throw impossible('--until is not over yet: leave it away')
  const start = new Date((Math.floor(until.getTime() / 1000) + 1) * 1000)
  const rest = {
    ...item,
    id: `${id}-after-${formatTime(start).replaceAll(/[-:TZ]/g, '')}`,
    window: { ...window, start },
  }
  return {
    // Ended first: two of the same service would be a service too many.
    changes: [retired, { op: 'add', item: jsonOfItem({ ...rest, state }) }],
    from,
    until: new Date(start.getTime() - 1),
    words: `${id}: what its key signed after ${retired.end} and before ${formatTime(start)} is given up; what is later stays, as ${rest.id}`,
  }
}

/** Whole seconds, as the trust root has them. */
function formatTime(time: Date): string {
  return `${time.toISOString().slice(0, 19)}Z`
}

function impossible(why: string): OperatorError {
  return new OperatorError('distrust_impossible', why)
}
