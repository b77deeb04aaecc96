/** An installation whose root and targets two of three custodians sign, for tests: each with an agent of their own. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Updater } from 'tuf-js'
import { afterEach, beforeEach } from 'vitest'
import { listen, type Listener } from '#http'
import { custodianRoles, exampleInventory, memoryAgent, spki } from '../test/support/trust-installation.ts'
import {
  checkPayload,
  initTrustRoot,
  type Inventory,
  openTrustRoot,
  type PayloadFile,
  type Publication,
  type Roles,
  servedFolder,
  type SignaturesFile,
  signPayload,
  type TrustRoot,
  type TrustRootOptions,
  trustRootSection,
} from './index.ts'

export const inventory = await exampleInventory()
export const NAMES = ['ada', 'bert', 'cleo'] as const
export let folder: string
let clientFolder: string
export let server: Listener
export let online: ReturnType<typeof memoryAgent>
export let custodians: Record<string, ReturnType<typeof memoryAgent>>
export let roles: Roles
export let trustRoot: TrustRoot

/**
 * Makes it: version 1 of everything, which a client of tuf-js holds. An agent of its own for each custodian, as it is:
 * none of them signs two contents of one version.
 */
export async function openCustody(): Promise<void> {
  folder = await mkdtemp(join(tmpdir(), 'chancery-pending-'))
  clientFolder = await mkdtemp(join(tmpdir(), 'chancery-pending-client-'))
  server = await listen({ host: '127.0.0.1', port: 0, sections: [{ section: trustRootSection({ folder }) }] })
  online = memoryAgent('tuf-online', 'tuf-online-2')
  custodians = Object.fromEntries([...NAMES, 'dora'].map((name) => [name, memoryAgent(name)]))
  roles = await custodianRoles(custodians, NAMES, 2)
  trustRoot = await initTrustRoot({ folder, agent: online }, inventory, roles)
  await sign(await trustRoot.payload(), 'ada', 'bert')
  await writeFile(
    join(clientFolder, 'root.json'),
    Buffer.from(await (await fetch(`${server.url}/1.root.json`)).arrayBuffer()),
  )
  await refresh()
}

/** Stops and removes it. */
export async function closeCustody(): Promise<void> {
  await server.close()
  for (const path of [folder, clientFolder]) await rm(path, { recursive: true })
}

export const reopened = async (change: Partial<TrustRootOptions> = {}) =>
  await openTrustRoot({ folder, agent: online, ...change })

export async function signatures(payload: PayloadFile, name: string): Promise<SignaturesFile> {
  const agent = custodians[name]
  if (agent === undefined) throw new Error(`no custodian ${name}`)
  return await signPayload(checkPayload(JSON.parse(JSON.stringify(payload)), new Date()), agent, name)
}

export async function sign(payload: PayloadFile, ...names: string[]): Promise<Publication> {
  return await trustRoot.merge(await Promise.all(names.map(async (name) => await signatures(payload, name))))
}

export async function refresh(): Promise<Record<string, number>> {
  const urls = { metadataBaseUrl: server.url, targetBaseUrl: `${server.url}/targets` }
  const updater = new Updater({
    metadataDir: clientFolder,
    targetDir: clientFolder,
    ...urls,
    config: { fetchRetries: 0 },
  })
  await updater.refresh()
  for (const name of ['trusted_root.json', 'signing_config.v0.2.json']) {
    const info = await updater.getTargetInfo(name)
    if (!info) throw new Error(`no target ${name}`)
    await updater.downloadTarget(info)
  }
  const version = async (role: string) => {
    const text = await readFile(join(clientFolder, `${role}.json`), 'utf8')
    return (JSON.parse(text) as { signed: { version: number } }).signed.version
  }
  return { root: await version('root'), targets: await version('targets'), snapshot: await version('snapshot') }
}

export const withKey =
  (id = 'rekor-v1-next', der = spki()) =>
  (before: Inventory): Inventory => {
    const [rekor] = before.items.filter(({ kind }) => kind === 'rekor-v1')
    if (!rekor) throw new Error('no rekor')
    return { ...before, items: [...before.items, { ...rekor, id, der: [der], state: 'trusted' }] }
  }

export const DAY = 86_400_000

export const served = async (name: string) => await readFile(join(servedFolder(folder), name), 'utf8')

/** A fresh installation before each test of the calling file, and none after it. */
export function eachWithCustody(): void {
  beforeEach(openCustody)
  afterEach(closeCustody)
}

/** As after a restart: what `trustRoot` is from now on. */
export function restartedWith(next: TrustRoot): void {
  trustRoot = next
}
