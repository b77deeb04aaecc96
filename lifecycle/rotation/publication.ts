/** What a rotation says to clients: the new item before its key signs, the end of the former one after that. */
import { z } from 'zod'
import { OperatorError } from '#alarms'
import {
  type changesSchema,
  type Inventory,
  jsonOfItem,
  type Publication,
  readInventory,
  type TrustItem,
} from '#trust-root'
import { whoAmI } from '../journal.ts'
import { known } from './facts.ts'
import type { Installation, Pause, Rotation, Step, WaitReason } from './rotation.ts'

/** `items.json` as it is now. Throws `rotation_impossible` where nothing is published from here. */
export async function inventoryOf({ trustRoot }: Pick<Installation, 'trustRoot'>): Promise<Inventory> {
  if (trustRoot !== undefined) return await readInventory(trustRoot.folder)
  throw new OperatorError(
    'rotation_impossible',
    'this installation has no trustRoot in its configuration: clients could not be told of a new key',
  )
}

/** The item that verifiers know a key or certificate by, unless it was withdrawn. */
export async function itemOfDer(installation: Installation, der: Uint8Array): Promise<TrustItem> {
  const { items } = await inventoryOf(installation)
  const same = items.filter(
    ({ der: [first], state }) => state !== 'revoked' && first !== undefined && isSame(first, der),
  )
  // A window that was cut in two is two items.
  const found = same.find(({ state }) => state === 'active') ?? same[0]
  if (found !== undefined) return found
  throw new OperatorError(
    'rotation_impossible',
    'the trust root does not have the key that signs now; look at it with: chancery trust status',
  )
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0
}

const statusAnswer = z.object({
  roles: z.array(z.object({ role: z.string(), version: z.int(), expires: z.iso.datetime() })),
})

/** As the admin socket takes it: JSON, times as text. */
export type Changes = z.input<typeof changesSchema>

/** Asks the server for a change; where custodians have to sign, says so. */
export async function change(rotation: Rotation, changes: Changes): Promise<Pause | undefined> {
  const { ask } = rotation.installation
  return told(rotation, (await ask('trust-change', { changes })) as Publication) // our own server answers
}

/** Keeps the versions of a publication, or says what it waits for. */
export function told({ keep }: Rotation, publication: Publication): Pause | undefined {
  if (publication.state === 'awaiting-signatures') {
    keep({ pendingId: publication.pending.id })
    return { state: publication.state, pending: publication.pending }
  }
  keep({ versions: { ...publication.versions } })
  return undefined
}

/** When the timestamp that clients may hold now ends. */
export async function timestampExpires({ installation: { ask } }: Rotation): Promise<string> {
  const { roles } = statusAnswer.parse(await ask('trust-status', {}))
  const found = roles.find(({ role }) => role === 'timestamp')
  return known(found, 'timestamp of the trust root').expires
}

/** Tells verifiers of the new item: they accept it, and signers do not use it yet. */
export function publishStep(itemOf: (rotation: Rotation) => TrustItem | Promise<TrustItem>): Step {
  return {
    name: 'publish',
    run: async (rotation) => {
      if (rotation.installation.trustRoot === undefined) return undefined
      const item = await itemOf(rotation)
      const before = await timestampExpires(rotation)
      const pause = await change(rotation, [{ op: 'add', item: jsonOfItem({ ...item, state: 'trusted' }) }])
      if (pause !== undefined) return pause
      const after = await timestampExpires(rotation)
      // Timestamps of before live on in caches, and those of now were signed with what they end at.
      rotation.keep({
        published: { at: rotation.now().toISOString(), timestampExpires: before > after ? before : after },
      })
      return undefined
    },
  }
}

/** policy-controller and live trusted roots of sigstore-go look once a day. */
const LIVE_ROOTS_MS = 24 * 60 * 60 * 1000

/** Until when which clients may not know what was published. */
export function waitReasons({ at, timestampExpires: expires }: { at: string; timestampExpires: string }): WaitReason[] {
  return [
    {
      who: 'clients that look again when their timestamp has ended (cosign before 2.5, gitsign, Kyverno)',
      until: expires,
    },
    {
      who: 'clients that look once a day (policy-controller, live roots of sigstore-go)',
      until: new Date(Date.parse(at) + LIVE_ROOTS_MS).toISOString(),
    },
  ]
}

/** Every client has had the time to notice, or somebody has said that it need not. */
export const waitStep: Step = {
  name: 'wait',
  run: async ({ installation, facts, resuming, keep, now }) => {
    if (installation.trustRoot === undefined) return undefined
    const reasons = waitReasons(known(facts.published, 'publication'))
    const until = reasons.map((each) => each.until).reduce((one, other) => (one > other ? one : other))
    keep({ waitUntil: until })
    const nowMs = now().getTime()
    if (nowMs >= Date.parse(until)) return undefined
    if (resuming.shorten !== true) return { state: 'waiting', until, reasons }
    keep({ shortened: { at: now().toISOString(), by: whoAmI(), insteadOf: until } })
    return undefined
  },
}

/** Ends the former item and sends signers to the new one, in one release. */
export function endStep(endOf: (rotation: Rotation) => Date): Step {
  return {
    name: 'end',
    run: async (rotation) => {
      if (rotation.installation.trustRoot === undefined) return undefined
      const { former, item } = rotation.facts
      const end = rotation.facts.formerEnd ?? wholeSeconds(endOf(rotation))
      rotation.keep({ formerEnd: end })
      return await change(rotation, [
        { op: 'set', id: known(former.item, 'former item'), state: 'retired', end },
        { op: 'set', id: known(item, 'item'), state: 'active' },
      ])
    },
  }
}

/** Rounded up: the second in which the last signature was made is inside. `YYYY-MM-DDTHH:MM:SSZ`. */
export function wholeSeconds(time: Date): string {
  return `${new Date(Math.ceil(time.getTime() / 1000) * 1000).toISOString().slice(0, 19)}Z`
}
