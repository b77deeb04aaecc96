import { z } from 'zod'
import { TrustRootError } from './errors.ts'
import { formatTime, type Inventory, itemOf, itemSchema, jsonOfItem, type TrustItem } from './items.ts'

/** What is asked of an inventory, one change after the other; in JSON as the admin socket takes it. */
export const changesSchema = z
  .array(
    z.discriminatedUnion('op', [
      /** Adds an item; one that is there already, exactly so, is no fault. */
      z.strictObject({ op: z.literal('add'), item: itemSchema }),
      /** Sets what is told of an item that is there. `end: null` takes the end away. */
      z.strictObject({
        op: z.literal('set'),
        id: z.string(),
        state: itemSchema.shape.state.optional(),
        end: itemSchema.shape.window.shape.end.or(z.null()),
        url: itemSchema.shape.url.optional(),
      }),
    ]),
  )
  .min(1)
  .max(100)

export type ItemChanges = z.infer<typeof changesSchema>

/**
 * The inventory with the changes in it. Done again it changes nothing. Throws `invalid_items` for an item that is not
 * there, or that is there under the same id with another key or window.
 */
export function changedInventory(inventory: Inventory, changes: ItemChanges): Inventory {
  return changes.reduce((before, change) => {
    if (change.op === 'add') return added(before, itemOf(change.item))
    const { id, state, end, url } = change
    if (!before.items.some((item) => item.id === id)) {
      throw new TrustRootError('invalid_items', `there is no item ${id}; there are ${ids(before)}`)
    }
    const set = (item: TrustItem): TrustItem => ({
      ...item,
      ...(state === undefined ? {} : { state }),
      ...(url === undefined ? {} : { url }),
      window: end === undefined ? item.window : { start: item.window.start, ...(end === null ? {} : { end }) },
    })
    return { ...before, items: before.items.map((item) => (item.id === id ? set(item) : item)) }
  }, inventory)
}

/** State, end and URL may have been set since it was added; the rest is what it is. */
function added(before: Inventory, item: TrustItem): Inventory {
  const known = before.items.find(({ id }) => id === item.id)
  if (known === undefined) return { ...before, items: [...before.items, item] }
  if (identity(known) === identity(item)) return before
  throw new TrustRootError('invalid_items', `there is another item ${item.id} already`)
}

function identity(item: TrustItem): string {
  const { id, kind, der, origin } = jsonOfItem(item)
  return JSON.stringify([id, kind, der, origin ?? '', formatTime(item.window.start)])
}

function ids({ items }: Inventory): string {
  return items.map(({ id }) => id).join(', ')
}
