/** The life of a repository in steps, each made by the real publisher with keys in real agents. */
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  DEFAULT_TUF_POLICY,
  initTrustRoot,
  type Inventory,
  openTrustRoot,
  type TrustItem,
  type TrustRoot,
  type TrustRootOptions,
} from '#trust-root'
import { exampleInventory, spki } from '../support/trust-installation.ts'
import { makeTufKeys, type TufKeys } from '../support/tuf-keys.ts'
import { readStep, type Step } from './tuf-repository.ts'

export interface MadeSteps {
  readonly keys: TufKeys
  /** One for each of `stepNames`. */
  readonly steps: readonly Step[]
  /** File with the root that every client begins with. */
  readonly firstRoot: string
  /** One more step: the online key that was the first one is in service again. */
  rotateOnlineKey(): Promise<Step>
  close(): Promise<void>
}

const DAY = 86_400
const soon = { validSeconds: 200 * DAY, renewSeconds: 300 * DAY }

/** Another log of the first one's kind. */
export function withLog(inventory: Inventory, id: string, state: TrustItem['state']): Inventory {
  const [rekor] = inventory.items.filter(({ kind }) => kind === 'rekor-v1')
  if (rekor === undefined) throw new TypeError('no Rekor in the inventory')
  return { ...inventory, items: [...inventory.items, { ...rekor, id, der: [spki()], state }] }
}

interface Place {
  readonly folder: string
  /** A copy of `folder` that a step made, and a later one brings back. */
  readonly backup: string
  readonly keys: TufKeys
}

type Change = (open: (change?: Partial<TrustRootOptions>) => Promise<TrustRoot>, place: Place) => Promise<unknown>

const renamed: Partial<TrustRootOptions> = { keys: { root: 'alice', online: 'tuf-online-2' } }
const rotated: Partial<TrustRootOptions> = { keys: { root: 'bob', formerRoot: ['alice'], online: 'tuf-online-2' } }
const later: Partial<TrustRootOptions> = { keys: { root: 'bob', online: 'tuf-online-2' } }

const changes: Readonly<Record<string, Change>> = {
  'first publication': async () => {},
  'timestamp signed again': async (open) =>
    (
      await open({ policy: { ...DEFAULT_TUF_POLICY, timestamp: { validSeconds: 3 * DAY, renewSeconds: 4 * DAY } } })
    ).resign(),
  'snapshot signed again': async (open) =>
    (
      await open({ policy: { ...DEFAULT_TUF_POLICY, snapshot: { validSeconds: 30 * DAY, renewSeconds: 31 * DAY } } })
    ).resign(),
  'targets changed': async (open) => (await open()).update((old) => withLog(old, 'rekor-v1-2', 'trusted')),
  'root renewed': async (open) => (await open({ policy: { ...DEFAULT_TUF_POLICY, root: soon } })).publish(),
  'online key rotated': async (open) => (await open(renamed)).publish(),
  'root key rotated': async (open) => (await open(rotated)).publish(),
  'root key and targets later': async (open) =>
    (await open(later)).update((old) => withLog(old, 'rekor-v1-3', 'trusted')),
  'backup made': async (open, { folder, backup }) => {
    await (await open(later)).publish()
    cpSync(folder, backup, { recursive: true, verbatimSymlinks: true })
    return await (await open(later)).publish()
  },
  'backup brought back': async (open, { folder, backup }) => {
    rmSync(folder, { recursive: true })
    cpSync(backup, folder, { recursive: true, verbatimSymlinks: true })
    return await (await open(later)).resign()
  },
}

export const stepNames: readonly string[] = Object.keys(changes)

/** Makes all steps below `scratch` and keeps each in `mirror`. */
export async function makeSteps(
  scratch: string,
  mirror?: { keep(trustRoot: string, as: string): void },
): Promise<MadeSteps> {
  const keys = await makeTufKeys(join(scratch, 'keys'))
  const folder = join(scratch, 'trust-root')
  mkdirSync(folder)
  const options: TrustRootOptions = {
    folder,
    agent: keys.online,
    withRootAgent: (use) => use(keys.custodians),
    keys: { root: 'alice', online: 'tuf-online' },
  }
  await initTrustRoot(options, await exampleInventory())
  const steps: Step[] = []
  for (const [name, change] of Object.entries(changes)) {
    await change((changed) => openTrustRoot({ ...options, ...changed }), {
      folder,
      backup: join(scratch, 'backup'),
      keys,
    })
    mirror?.keep(folder, name)
    steps.push(readStep(name, folder))
  }
  const firstRoot = join(scratch, '1.root.json')
  writeFileSync(firstRoot, steps[0]?.files.get('1.root.json') ?? '')
  const rotateOnlineKey = async () => {
    const trustRoot = await openTrustRoot({ ...options, keys: { root: 'bob', online: 'tuf-online' } })
    await trustRoot.publish()
    return readStep('online key rotated once more', folder)
  }
  return { keys, steps, firstRoot, rotateOnlineKey, close: () => keys.close() }
}
