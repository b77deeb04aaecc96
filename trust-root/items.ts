import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { TrustRootError } from './errors.ts'
import { writeDurably } from './durable-file.ts'

/** What clients are told to trust or to use. `oidc-issuer` is only used; the others are trusted. */
export type TrustItemKind =
  | 'certificate-authority'
  | 'ct-log'
  | 'rekor-v1'
  | 'rekor-v2'
  | 'timestamp-authority'
  | 'oidc-issuer'

/**
 * Where an item stands in its life.
 * `staged`: known, not published. `trusted`: verifiers accept it, signers do not use it yet. `standby`: the same to
 * verifiers, and meant to stay so; its key lies on a token that no serving agent opens, until an emergency. `active`:
 * signers use it. `retired`: verifiers accept what it signed inside its window. `revoked`: nobody accepts it; published
 * nowhere.
 */
export type TrustItemState = (typeof TRUST_ITEM_STATES)[number]

/** In the order of a life. */
export const TRUST_ITEM_STATES = ['staged', 'trusted', 'standby', 'active', 'retired', 'revoked'] as const

/** One key or chain that clients shall know, with its place and time: the unit of every rotation. */
export interface TrustItem {
  /** Stable name for operators, unique in the inventory: `rekor-v1`, `certificate-authority-2027`. */
  readonly id: string
  readonly kind: TrustItemKind
  /** Logs: one SubjectPublicKeyInfo. CA: [issuing CA, …, root]. TSA: [leaf, …, root]. Issuer: empty. All DER. */
  readonly der: readonly Uint8Array[]
  /** Logs: the first line of their checkpoints, e.g. `rekor-v1.example.org - 4711`; what is signed, never dialled. */
  readonly origin?: string
  /** What clients dial, without trailing slash; for a TSA the whole URL up to `/api/v1/timestamp`. */
  readonly url: string
  /** When it may have signed; both ends inclusive, whole seconds. */
  readonly window: { readonly start: Date; readonly end?: Date }
  readonly state: TrustItemState
}

/** `trust-root/items.json`: the only source of every published file. */
export interface Inventory {
  /** Scheme-less name of who runs the services, in every entry of a signing configuration; usually the domain. */
  readonly operator: string
  /** Which Rekor `signing_config.v0.2.json` lists. */
  readonly defaultRekor: 1 | 2
  readonly items: readonly TrustItem[]
}

/** The parts of a new installation; `url`s are base URLs without trailing slash. */
export interface InstallationParts {
  readonly operator: string
  readonly defaultRekor: 1 | 2
  /** Windows start `BACKDATE_SECONDS` before it. */
  readonly now: Date
  /** Issuing CA first, root last; DER. */
  readonly certificateAuthority: { readonly url: string; readonly chain: readonly Uint8Array[] }
  readonly ctLog: { readonly url: string; readonly origin: string; readonly spkiDer: Uint8Array }
  readonly rekorV1?: { readonly url: string; readonly origin: string; readonly spkiDer: Uint8Array }
  readonly rekorV2?: { readonly url: string; readonly origin: string; readonly spkiDer: Uint8Array }
  /** Leaf first, root last; DER. */
  readonly timestampAuthority?: { readonly url: string; readonly chain: readonly Uint8Array[] }
  readonly oidcIssuer?: { readonly url: string }
}

/**
 * sigstore-python hides an entry whose window starts in its future, so a client whose clock is slightly behind would
 * not see a new installation; five minutes is the skew that the agent allows as well.
 */
export const BACKDATE_SECONDS = 300

/** The inventory of an installation whose every part is active from its first day. Pure. */
export function initialInventory(parts: InstallationParts): Inventory {
  const window = { start: new Date((Math.floor(parts.now.getTime() / 1000) - BACKDATE_SECONDS) * 1000) }
  const item = (kind: TrustItemKind, url: string, der: readonly Uint8Array[], origin?: string): TrustItem => ({
    id: kind,
    kind,
    der,
    url: url.replace(/\/+$/, ''),
    window,
    state: 'active',
    ...(origin === undefined ? {} : { origin }),
  })
  const { certificateAuthority, ctLog, rekorV1, rekorV2, timestampAuthority, oidcIssuer } = parts
  const items = [
    item('certificate-authority', certificateAuthority.url, certificateAuthority.chain),
    item('ct-log', ctLog.url, [ctLog.spkiDer], ctLog.origin),
  ]
  if (rekorV1) items.push(item('rekor-v1', rekorV1.url, [rekorV1.spkiDer], rekorV1.origin))
  if (rekorV2) items.push(item('rekor-v2', rekorV2.url, [rekorV2.spkiDer], rekorV2.origin))
  if (timestampAuthority) {
    const url = `${timestampAuthority.url.replace(/\/+$/, '')}${TIMESTAMP_PATH}`
    items.push(item('timestamp-authority', url, timestampAuthority.chain))
  }
  if (oidcIssuer) items.push(item('oidc-issuer', oidcIssuer.url, []))
  return { operator: parts.operator, defaultRekor: parts.defaultRekor, items }
}

/** Signing configurations carry the whole URL of a TSA, unlike every other service. */
export const TIMESTAMP_PATH = '/api/v1/timestamp'

const seconds = z
  .string()
  .regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'a time like 2026-01-31T12:00:00Z')
  .transform((text) => new Date(text))
const der = z.base64().transform((text) => new Uint8Array(Buffer.from(text, 'base64')))

/** One item as items.json has it: `der` in base64, times like 2026-01-31T12:00:00Z. */
export const itemSchema = z.strictObject({
  id: z.string().regex(/^[a-z0-9][a-z0-9.-]{0,62}$/),
  kind: z.enum(['certificate-authority', 'ct-log', 'rekor-v1', 'rekor-v2', 'timestamp-authority', 'oidc-issuer']),
  der: z.array(der).max(8),
  origin: z.string().min(1).max(255).optional(),
  url: z.url({ protocol: /^https?$/ }),
  window: z.strictObject({ start: seconds, end: seconds.optional() }),
  state: z.enum(TRUST_ITEM_STATES),
})

const inventorySchema = z.strictObject({
  schemaVersion: z.literal(1),
  operator: z.string().min(1).max(255),
  defaultRekor: z.union([z.literal(1), z.literal(2)]),
  items: z.array(itemSchema).max(1000),
})

/** Reads the text of items.json; throws `invalid_items` with the place of each fault. Unknown fields are faults. */
export function parseInventory(text: string): Inventory {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw new TrustRootError('invalid_items', 'items.json is not JSON', { cause: error })
  }
  const parsed = inventorySchema.safeParse(json)
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'top'}: ${issue.message}`)
    throw new TrustRootError('invalid_items', `items.json: ${faults.join('; ')}`)
  }
  const { operator, defaultRekor } = parsed.data
  const items = parsed.data.items.map(itemOf)
  const ids = new Set(items.map((item) => item.id))
  if (ids.size !== items.length) throw new TrustRootError('invalid_items', 'items.json: two items have the same id')
  return { operator, defaultRekor, items }
}

/** A parsed item without members that are undefined. */
export function itemOf({ origin, window, ...rest }: z.infer<typeof itemSchema>): TrustItem {
  return {
    ...rest,
    ...(origin === undefined ? {} : { origin }),
    window: window.end ? { start: window.start, end: window.end } : { start: window.start },
  }
}

/** The reverse of `itemSchema` and `itemOf`. */
export function jsonOfItem({ id, kind, state, origin, url, window, der }: TrustItem): z.input<typeof itemSchema> {
  return {
    id,
    kind,
    state,
    ...(origin === undefined ? {} : { origin }),
    url,
    window: { start: formatTime(window.start), ...(window.end ? { end: formatTime(window.end) } : {}) },
    der: der.map((bytes) => Buffer.from(bytes).toString('base64')),
  }
}

/** The text of items.json: `parseInventory` gives the same inventory back. */
export function formatInventory(inventory: Inventory): string {
  const items = inventory.items.map(jsonOfItem)
  const { operator, defaultRekor } = inventory
  return `${JSON.stringify({ schemaVersion: 1, operator, defaultRekor, items }, null, 2)}\n`
}

/** `YYYY-MM-DDTHH:MM:SSZ`: milliseconds crash python-tuf and change the signed bytes in go-tuf. */
export function formatTime(time: Date): string {
  return `${time.toISOString().slice(0, 19)}Z`
}

/** Reads `items.json` of a trust-root folder; throws `missing` or `invalid_items`. */
export async function readInventory(folder: string, name: string = ITEMS_FILE): Promise<Inventory> {
  const path = join(folder, name)
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw new TrustRootError('missing', `${path} cannot be read; make the trust root with: chancery init`, {
      cause: error,
    })
  })
  return parseInventory(text)
}

/** Replaces `items.json`, atomically and durably. Publishing is a step of its own. */
export async function writeInventory(folder: string, inventory: Inventory): Promise<void> {
  const text = formatInventory(inventory)
  parseInventory(text)
  await writeDurably(join(folder, ITEMS_FILE), Buffer.from(text))
}

/** Name of the inventory inside the trust-root folder. */
export const ITEMS_FILE = 'items.json'
