/**
 * The first half of `chancery log succeed`: the successor's key is published before it signs. May be asked again after a
 * kill of either side. The second half is `log-switch.ts`.
 */
import { z } from 'zod'
import { OperatorError } from '#alarms'
import type { Log } from '#transparency-log'
import { BACKDATE_SECONDS, type TrustItem } from '#trust-root'
import type { AdminRequest } from './admin.ts'
import type { LogConfig } from './config.ts'
import type { Mount } from './listeners.ts'
import type { LogServices } from './log-services.ts'
import { logNamed } from './log-verbs.ts'
import type { Parts } from './main.ts'

/** What the switch needs of the running server. */
export interface Succession {
  readonly parts: Parts
  readonly services: LogServices
  readonly open: (config: LogConfig) => Promise<Log>
  /** Serves it from now on. */
  readonly mount: (mount: Mount) => Promise<void>
  /** Called once the successor is in its place. */
  readonly changed: () => void
}

/** What the trust root calls each kind. */
export const KIND_OF_ITEM = { ct: 'ct-log', 'rekor-v1': 'rekor-v1', 'rekor-v2': 'rekor-v2' } as const

const stageArgument = z.strictObject({
  name: z.string(),
  id: z.string(),
  origin: z.string(),
  url: z.url(),
  spki: z.base64(),
})

/** Publishes the key of a successor as one that verifiers accept and signers do not use yet. */
export async function stageVerb({ parts }: Succession, { argument }: AdminRequest): Promise<unknown> {
  const { name, id, origin, url, spki } = stageArgument.parse(argument)
  const { config } = logNamed(parts, name)
  const der = new Uint8Array(Buffer.from(spki, 'base64'))
  const item: TrustItem = {
    id,
    kind: KIND_OF_ITEM[config.kind],
    der: [der],
    origin,
    url,
    window: { start: wholeSeconds(Date.now() - BACKDATE_SECONDS * 1000) },
    state: 'trusted',
  }
  return await parts.trustRoot?.update((inventory) => {
    const known = inventory.items.find((other) => other.id === id)
    if (known !== undefined && Buffer.compare(known.der[0] ?? new Uint8Array(0), der) !== 0) {
      throw new OperatorError('label_exists', `the trust root has another key under ${id}`)
    }
    return known === undefined ? { ...inventory, items: [...inventory.items, item] } : inventory
  })
}

function wholeSeconds(ms: number): Date {
  return new Date(Math.floor(ms / 1000) * 1000)
}
