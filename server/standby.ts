/** What stands by for an emergency, and what is missing: for status, alarms and the doctor. Reads files, opens no token. */
import { OperatorError } from '#alarms'
import { ITEM_KINDS, readStandbyPlan, STANDBY_KINDS, type StandbyKind, type StandbyPlan } from '#lifecycle'
import { type Inventory, publishedInventory } from '#trust-root'
import type { AgeFinding } from './age-alarms.ts'
import type { LoadedConfig } from './config.ts'

/** One kind of this installation. */
export interface StandbyState {
  readonly kind: StandbyKind
  /** `in-service`: brought into service for a lost key; nothing more stands by then. */
  readonly state: 'ready' | 'missing' | 'in-service'
  /** Of the member, or empty. */
  readonly name: string
  /** Why it is missing, or since when it is in service; empty if all is well. */
  readonly reason: string
}

/** Every kind that this installation has a service of. Without a trust root of ours there is nothing to publish it in. */
export async function standbyStates(loaded: LoadedConfig): Promise<StandbyState[]> {
  const { config, dataDir, resolve } = loaded
  if (config.trustRoot === undefined) return []
  const inventory = await publishedInventory(resolve(config.trustRoot.folder)).catch(() => undefined)
  const plan = planOf(dataDir)
  return STANDBY_KINDS.filter((kind) => isServed(loaded, kind)).map((kind) => stateOf(kind, plan, inventory))
}

/** What somebody has to do about it. Pure. */
export function standbyFindings(states: readonly StandbyState[]): AgeFinding[] {
  return states.flatMap(({ kind, state, reason }): AgeFinding[] => {
    if (state === 'ready') return []
    if (state === 'missing') {
      return [{ code: 'standby_missing', subject: kind, message: `${reason}; make one with: chancery rotate standby` }]
    }
    const message = `${reason}; tell clients and make another standby with: chancery rotate standby; if the key was stolen, then cut it off with: chancery distrust`
    return [{ code: 'standby_in_service', subject: kind, message }]
  })
}

/** Chains of the authorities that stand by: they end one day as all do. */
export function standbyChains(dataDir: string): { readonly name: string; readonly chain: string }[] {
  return (readableStandbyPlan(dataDir)?.members ?? []).flatMap((member) =>
    'chain' in member ? [{ name: `standby ${member.name}`, chain: member.chain }] : [],
  )
}

/** The plan, or undefined where there is none or it cannot be read, which `standbyStates` tells. */
export function readableStandbyPlan(dataDir: string): StandbyPlan | undefined {
  const plan = planOf(dataDir)
  return typeof plan === 'string' ? undefined : plan
}

/** Text where it cannot be read. */
function planOf(dataDir: string): StandbyPlan | string | undefined {
  try {
    return readStandbyPlan(dataDir)
  } catch (error) {
    if (error instanceof OperatorError) return error.message
    throw error
  }
}

function isServed({ config }: LoadedConfig, kind: StandbyKind): boolean {
  if (kind === 'issuing-ca') return config.ca !== undefined
  if (kind === 'tsa') return config.timestamp !== undefined
  return config.logs.some((log) => log.kind === (kind === 'ct-log' ? 'ct' : kind))
}

function stateOf(
  kind: StandbyKind,
  plan: StandbyPlan | string | undefined,
  inventory: Inventory | undefined,
): StandbyState {
  const missing = (reason: string, name = ''): StandbyState => ({ kind, state: 'missing', name, reason })
  if (plan === undefined) return missing('this installation is older than standby keys')
  if (typeof plan === 'string') return missing(plan)
  const used = plan.inService.find(({ member }) => member.kind === kind)
  if (used !== undefined) {
    const { member, former, since } = used
    const reason = `${member.name} took the place of ${former.name} at ${since}`
    return { kind, state: 'in-service', name: member.name, reason }
  }
  const member = plan.members.find((each) => each.kind === kind)
  if (member === undefined) return missing('no key stands by')
  const item = inventory?.items.find(({ id }) => id === member.name)
  if (item?.state !== 'standby' || item.kind !== ITEM_KINDS[kind]) {
    return missing(`the trust root does not carry ${member.name} as standby`, member.name)
  }
  return { kind, state: 'ready', name: member.name, reason: '' }
}
