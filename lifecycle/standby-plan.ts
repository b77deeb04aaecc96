/**
 * `lifecycle/standby.json`: what stands by for an emergency, one member a kind, with all that bringing it into service
 * needs to know beside the agent's own file. It names no PIN. Its keys lie on a token that the serving agent does not
 * open, and the trust root carries them from the day they were made.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import type { TrustItem, TrustItemKind } from '#trust-root'
import { decodePem } from '#x509'
import { replaceDurably } from './durable-file.ts'
import { successorName } from './log-names.ts'

/** Kinds of which one stands by, as `chancery rotate` calls them. */
export const STANDBY_KINDS = ['issuing-ca', 'ct-log', 'rekor-v1', 'rekor-v2', 'tsa'] as const
export type StandbyKind = (typeof STANDBY_KINDS)[number]

/** What the trust root calls each kind. */
export const ITEM_KINDS = {
  'issuing-ca': 'certificate-authority',
  'ct-log': 'ct-log',
  'rekor-v1': 'rekor-v1',
  'rekor-v2': 'rekor-v2',
  tsa: 'timestamp-authority',
} as const satisfies Readonly<Record<StandbyKind, TrustItemKind>>

const name = z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/)
/** Below the data folder, or absolute. */
const path = z.string().min(1)
const madeKey = z.strictObject({ uri: z.string(), token: name, spki: z.base64(), kind: z.string() })

const authority = {
  /** Of the key, the item in the trust root and the files. */
  name,
  url: z.url(),
  key: madeKey,
  /** PEM of the certificate of the key. */
  certificate: path,
  /** PEM, the certificate of the key first, the root last. */
  chain: path,
}
const log = {
  name,
  origin: z.string(),
  listen: z.string(),
  url: z.url(),
  database: path,
  key: madeKey,
  witnessKey: madeKey.optional(),
}

export const standbyMember = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('issuing-ca'), ...authority }),
  z.strictObject({ kind: z.literal('tsa'), ...authority }),
  z.strictObject({ kind: z.literal('ct-log'), ...log }),
  z.strictObject({ kind: z.literal('rekor-v1'), ...log, treeId: z.string().regex(/^[1-9][0-9]{0,18}$/) }),
  z.strictObject({ kind: z.literal('rekor-v2'), ...log }),
])

const plan = z.strictObject({
  schemaVersion: z.literal(1),
  /** Configuration of the agent that opens the standby token; its keys have the members' names. */
  agent: path,
  members: z.array(standbyMember),
  /** Brought into service and not yet said so in the trust root: `chancery rotate standby` does it, and ends this. */
  inService: z.array(
    z.strictObject({
      member: standbyMember,
      /** The item in the trust root, and the key or log, whose place it took. */
      former: z.strictObject({ item: z.string(), name }),
      since: z.iso.datetime(),
    }),
  ),
})

export type StandbyMember = z.infer<typeof standbyMember>
export type StandbyLog = Extract<StandbyMember, { origin: string }>
export type StandbyAuthority = Extract<StandbyMember, { chain: string }>
export type StandbyPlan = z.infer<typeof plan>
export type StandbyKey = z.infer<typeof madeKey>

export const STANDBY_FILE = 'lifecycle/standby.json'

/** The agent of what stands by, unless the plan says otherwise; below the data folder. */
export const STANDBY_AGENT = 'agent/standby.yaml'

/** The plan of an installation, or undefined where nothing was ever made to stand by. Throws `standby_missing` for one that cannot be read. */
export function readStandbyPlan(dataDir: string): StandbyPlan | undefined {
  const file = join(dataDir, STANDBY_FILE)
  if (!existsSync(file)) return undefined
  try {
    return plan.parse(JSON.parse(readFileSync(file, 'utf8')))
  } catch (error) {
    const said = error instanceof z.ZodError ? z.prettifyError(error) : String(error)
    throw new OperatorError('standby_missing', `${file} cannot be read: ${said}`, { cause: error })
  }
}

/** Replaces the plan, atomically and durably. */
export function writeStandbyPlan(dataDir: string, changed: StandbyPlan): void {
  replaceDurably(join(dataDir, STANDBY_FILE), `${JSON.stringify(plan.parse(changed), undefined, 2)}\n`)
}

/** The name of what comes after `name`, past those that stand by. */
export function nextName(dataDir: string, former: string): string {
  const known = readStandbyPlan(dataDir)
  const members = [...(known?.members ?? []), ...(known?.inService ?? []).map((each) => each.member)]
  return successorName(former, new Set(members.map((each) => each.name)))
}

/** The members as the trust root publishes them; reads their chains. */
export function standbyItems(dataDir: string, members: readonly StandbyMember[], start: Date): TrustItem[] {
  return members.map((each) => ({
    id: each.name,
    kind: ITEM_KINDS[each.kind],
    der: 'chain' in each ? chainOf(dataDir, each) : [Uint8Array.from(Buffer.from(each.key.spki, 'base64'))],
    ...('origin' in each ? { origin: each.origin } : {}),
    url: each.url,
    window: { start },
    state: 'standby' as const,
  }))
}

/** DER, the certificate of the member's key first, the root last. */
export function chainOf(dataDir: string, { chain }: Pick<StandbyAuthority, 'chain'>): Uint8Array[] {
  return decodePem(readFileSync(join(dataDir, chain), 'utf8'), { labels: ['CERTIFICATE'] }).map(({ der }) => der)
}
