/** Custodians sign on machines of their own: publications wait, and nothing that they did not all see is ever published. */
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Updater } from 'tuf-js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { listen, type Listener } from '#http'
import { custodianRoles, exampleInventory, memoryAgent, spki } from '../test/support/trust-installation.ts'
import {
  checkPayload,
  initTrustRoot,
  type Inventory,
  openTrustRoot,
  type PayloadFile,
  type Publication,
  type PublishStep,
  readInventory,
  type Roles,
  servedFolder,
  type SignaturesFile,
  signPayload,
  type TrustRoot,
  type TrustRootOptions,
  trustRootSection,
  writeInventory,
} from './index.ts'

const inventory = await exampleInventory()
const NAMES = ['ada', 'bert', 'cleo'] as const
let folder: string
let clientFolder: string
let server: Listener
let online: ReturnType<typeof memoryAgent>
let custodians: Record<string, ReturnType<typeof memoryAgent>>
let roles: Roles
let trustRoot: TrustRoot

/** An agent of its own for each custodian, as it is: none of them signs two contents of one version. */
beforeEach(async () => {
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
})

afterEach(async () => {
  await server.close()
  for (const path of [folder, clientFolder]) await rm(path, { recursive: true })
})

const reopened = async (change: Partial<TrustRootOptions> = {}) =>
  await openTrustRoot({ folder, agent: online, ...change })

async function signatures(payload: PayloadFile, name: string): Promise<SignaturesFile> {
  const agent = custodians[name]
  if (agent === undefined) throw new Error(`no custodian ${name}`)
  return await signPayload(checkPayload(JSON.parse(JSON.stringify(payload)), new Date()), agent, name)
}

async function sign(payload: PayloadFile, ...names: string[]): Promise<Publication> {
  return await trustRoot.merge(await Promise.all(names.map(async (name) => await signatures(payload, name))))
}

async function refresh(): Promise<Record<string, number>> {
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

const withKey =
  (id = 'rekor-v1-next', der = spki()) =>
  (before: Inventory): Inventory => {
    const [rekor] = before.items.filter(({ kind }) => kind === 'rekor-v1')
    if (!rekor) throw new Error('no rekor')
    return { ...before, items: [...before.items, { ...rekor, id, der: [der], state: 'trusted' }] }
  }

const served = async (name: string) => await readFile(join(servedFolder(folder), name), 'utf8')

describe('a change that custodians must sign', () => {
  test('waits, is seen by nobody, and completes with the second signature', async () => {
    expect(await trustRoot.update(withKey())).toMatchObject({
      state: 'awaiting-signatures',
      pending: { roles: [{ role: 'targets', version: 2, have: 0, need: 2, missing: NAMES.map((name) => ({ name })) }] },
    })
    expect(await refresh()).toEqual({ root: 1, targets: 1, snapshot: 1 })
    const payload = await trustRoot.payload()
    expect(await sign(payload, 'cleo')).toMatchObject({
      pending: { roles: [{ have: 1, need: 2, missing: [{ name: 'ada' }, { name: 'bert' }] }] },
    })
    expect(await refresh()).toEqual({ root: 1, targets: 1, snapshot: 1 })
    expect(await sign(payload, 'ada')).toMatchObject({ state: 'published', versions: { root: 1, targets: 2 } })
    expect(await refresh()).toEqual({ root: 1, targets: 2, snapshot: 2 })
    expect(await trustRoot.pending()).toBe(undefined)
    expect((await readdir(folder)).filter((name) => /pending|staged/.test(name))).toEqual([])
  })
})
