/** The life of a repository in steps, each made by the real publisher with keys in real agents. */
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  checkPayload,
  type CustodianKey,
  DEFAULT_TUF_POLICY,
  initTrustRoot,
  type Inventory,
  openTrustRoot,
  type Publication,
  type Roles,
  signPayload,
  type TrustItem,
  type TrustRoot,
  type TrustRootOptions,
  tufKeyOf,
} from '#trust-root'
import { exampleInventory, spki } from '../support/trust-installation.ts'
import { CUSTODIANS, makeTufKeys, type TufKeys } from '../support/tuf-keys.ts'
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

type Custodian = (typeof CUSTODIANS)[number]

const DAY = 86_400

/** Another log of the first one's kind. */
export function withLog(inventory: Inventory, id: string, state: TrustItem['state']): Inventory {
  const [rekor] = inventory.items.filter(({ kind }) => kind === 'rekor-v1')
  if (rekor === undefined) throw new TypeError('no Rekor in the inventory')
  return { ...inventory, items: [...inventory.items, { ...rekor, id, der: [spki()], state }] }
}

/** Root and targets by so many of these custodians, whose keys no server has. */
export async function rolesOf(
  keys: TufKeys,
  threshold: number,
  names: readonly Custodian[],
  online: string,
): Promise<Roles> {
  const custodians: CustodianKey[] = []
  for (const name of names) {
    const { spkiDer } = await keys.custodians.key(name)
    custodians.push({ name, holder: `${name}'s safe`, key: tufKeyOf({ kind: 'P-256', spkiDer }) })
  }
  const offline = { threshold, custodians: names }
  return { custodians, root: offline, targets: offline, online: [online] }
}

/** What waits is signed by these custodians, one after the other, each from the file that was carried to them. */
export async function signedBy(
  trustRoot: TrustRoot,
  keys: TufKeys,
  names: readonly Custodian[],
  now: Date = new Date(),
): Promise<Publication> {
  let publication: Publication | undefined
  for (const name of names) {
    const carried: unknown = JSON.parse(JSON.stringify(await trustRoot.payload()))
    publication = await trustRoot.merge([await signPayload(checkPayload(carried, now), keys.custodians, name)])
  }
  if (publication === undefined) throw new TypeError('nobody signed')
  return publication
}

/** A moment in which one publisher is open. */
interface Moment {
  /** Opens the folder as the server has it in production, or with these changes. */
  readonly open: (changed?: Partial<TrustRootOptions>) => Promise<TrustRoot>
  readonly folder: string
  /** A copy of `folder` that a step made, and a later one brings back. */
  readonly backup: string
  readonly keys: TufKeys
}

/** The same, with one key that signs alone and is at hand, as in development. */
function alone(keys: TufKeys, root: Custodian, online: string, formerRoot?: Custodian): Partial<TrustRootOptions> {
  const former = formerRoot === undefined ? {} : { formerRoot: [formerRoot] }
  return { withRootAgent: (use) => use(keys.custodians), keys: { root, online, ...former } }
}

const due = (role: 'root' | 'targets' | 'snapshot' | 'timestamp') => ({
  policy: {
    ...DEFAULT_TUF_POLICY,
    [role]: { ...DEFAULT_TUF_POLICY[role], renewSeconds: DEFAULT_TUF_POLICY[role].validSeconds + DAY },
  },
})

async function published(publication: Promise<Publication>): Promise<void> {
  const { state } = await publication
  if (state !== 'published') throw new Error(`it is ${state}`)
}

/** It waits, and waits still with one signature of the two, and is published with the second. */
async function byTwo(
  trustRoot: TrustRoot,
  { keys }: Moment,
  publication: Promise<Publication>,
  [first, second]: readonly [Custodian, Custodian],
): Promise<void> {
  for (const state of [(await publication).state, (await signedBy(trustRoot, keys, [first])).state]) {
    if (state !== 'awaiting-signatures') throw new Error(`it is ${state} without the second signature`)
  }
  await published(signedBy(trustRoot, keys, [second]))
}

const changes: Readonly<Record<string, (moment: Moment) => Promise<unknown>>> = {
  'first publication': async () => {},
  'timestamp signed again': async ({ open }) => (await open(due('timestamp'))).resign(),
  'snapshot signed again': async ({ open }) => (await open(due('snapshot'))).resign(),
  'targets changed': async ({ open, keys }) =>
    published((await open(alone(keys, 'alice', 'tuf-online'))).update((old) => withLog(old, 'rekor-2', 'trusted'))),
  'root renewed': async ({ open, keys }) =>
    published((await open({ ...alone(keys, 'alice', 'tuf-online'), ...due('root') })).publish()),
  'online key rotated': async ({ open, keys }) =>
    published((await open(alone(keys, 'alice', 'tuf-online-2'))).publish()),
  'root key rotated': async ({ open, keys }) =>
    published((await open(alone(keys, 'bob', 'tuf-online-2', 'alice'))).publish()),
  'threshold raised to 2 of 3': async (moment) => {
    const trustRoot = await moment.open({ keys: { root: 'bob', online: 'tuf-online-2' } })
    const roles = await rolesOf(moment.keys, 2, ['alice', 'bob', 'carol'], 'tuf-online-2')
    await byTwo(trustRoot, moment, trustRoot.reassign(roles), ['bob', 'carol'])
  },
  'targets changed by two': async (moment) => {
    const trustRoot = await moment.open()
    const added = trustRoot.update((old) => withLog(old, 'rekor-3', 'trusted'))
    await byTwo(trustRoot, moment, added, ['carol', 'alice'])
  },
  'custodian replaced': async (moment) => {
    const trustRoot = await moment.open()
    const roles = await rolesOf(moment.keys, 2, ['alice', 'bob', 'dave'], 'tuf-online-2')
    await byTwo(trustRoot, moment, trustRoot.reassign(roles), ['bob', 'alice'])
  },
  // A root that one has signed must be published before any other; the next one takes back what it says.
  'root withdrawn': async ({ open, keys }) => {
    const trustRoot = await open()
    const names = ['alice', 'bob', 'dave'] as const
    await trustRoot.reassign(await rolesOf(keys, 3, names, 'tuf-online-2'))
    await signedBy(trustRoot, keys, ['dave'])
    const { keptRoots } = await trustRoot.withdraw()
    if (keptRoots.length !== 1) throw new Error(`kept: ${keptRoots.join()}`)
    await trustRoot.update((old) => withLog(old, 'rekor-7', 'trusted'))
    await published(signedBy(trustRoot, keys, names))
  },
  'standby added': async (moment) => {
    const trustRoot = await moment.open()
    await byTwo(
      trustRoot,
      moment,
      trustRoot.update((old) => withLog(old, 'rekor-4', 'standby')),
      ['dave', 'bob'],
    )
  },
  'targets by another custodian than root': async ({ open, keys }) => {
    const trustRoot = await open()
    const roles = await rolesOf(keys, 2, ['alice', 'bob', 'dave'], 'tuf-online-2')
    const { custodians, targets } = await rolesOf(keys, 1, ['carol'], 'tuf-online-2')
    await trustRoot.reassign({ ...roles, custodians: [...roles.custodians, ...custodians], targets })
    await published(signedBy(trustRoot, keys, ['alice', 'carol', 'bob']))
  },
  'root renewed by two, and targets theirs again': async (moment) => {
    const trustRoot = await moment.open(due('root'))
    const roles = await rolesOf(moment.keys, 2, ['alice', 'bob', 'dave'], 'tuf-online-2')
    await byTwo(trustRoot, moment, trustRoot.reassign(roles), ['alice', 'dave'])
  },
  'backup outlived': async (moment) => {
    const { open, folder, backup } = moment
    cpSync(folder, backup, { recursive: true, verbatimSymlinks: true })
    const trustRoot = await open()
    await byTwo(
      trustRoot,
      moment,
      trustRoot.update((old) => withLog(old, 'rekor-5', 'trusted')),
      ['alice', 'bob'],
    )
  },
  // Other custodians than those who signed what the backup does not know.
  'backup brought back': async (moment) => {
    const { open, folder, backup } = moment
    rmSync(folder, { recursive: true })
    cpSync(backup, folder, { recursive: true, verbatimSymlinks: true })
    const trustRoot = await open()
    await trustRoot.resign()
    await byTwo(
      trustRoot,
      moment,
      trustRoot.update((old) => withLog(old, 'rekor-6', 'trusted')),
      ['dave', 'bob'],
    )
  },
}

export const stepNames: readonly string[] = Object.keys(changes)

/** Makes all steps below `scratch` and keeps each in `mirror`. */
export async function makeSteps(scratch: string, mirror?: Keeper): Promise<MadeSteps> {
  const keys = await makeTufKeys(join(scratch, 'keys'))
  try {
    return await makeStepsWith(keys, scratch, mirror)
  } catch (error) {
    // Whoever called has nothing to close.
    await keys.close()
    throw error
  }
}

interface Keeper {
  keep(trustRoot: string, as: string): void
}

async function makeStepsWith(keys: TufKeys, scratch: string, mirror: Keeper | undefined): Promise<MadeSteps> {
  const folder = join(scratch, 'trust-root')
  mkdirSync(folder)
  const options: TrustRootOptions = { folder, agent: keys.online, keys: { root: 'none', online: 'tuf-online' } }
  const open = (changed?: Partial<TrustRootOptions>) => openTrustRoot({ ...options, ...changed })
  const moment = { open, folder, backup: join(scratch, 'backup'), keys }
  await initTrustRoot({ ...options, ...alone(keys, 'alice', 'tuf-online') }, await exampleInventory())
  const steps: Step[] = []
  for (const [name, change] of Object.entries(changes)) {
    await change(moment)
    mirror?.keep(folder, name)
    steps.push(readStep(name, folder))
  }
  const firstRoot = join(scratch, '1.root.json')
  writeFileSync(firstRoot, steps[0]?.files.get('1.root.json') ?? '')
  const rotateOnlineKey = async () => {
    const trustRoot = await open()
    const roles = await rolesOf(keys, 2, ['alice', 'bob', 'dave'], 'tuf-online')
    await byTwo(trustRoot, moment, trustRoot.reassign(roles), ['bob', 'dave'])
    return readStep('online key rotated once more', folder)
  }
  return { keys, steps, firstRoot, rotateOnlineKey, close: () => keys.close() }
}
