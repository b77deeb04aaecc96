/** A trust-root folder that comes from a backup: what clients have seen since must never be taken back. */
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Updater } from 'tuf-js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { listen, type Listener } from '#http'
import { exampleInventory, memoryAgent } from '../test/support/trust-installation.ts'
import {
  catchUpWithMirror,
  checkPayload,
  initTrustRoot,
  openTrustRoot,
  publish,
  type PublishOptions,
  resignDue,
  servedFolder,
  signPayload,
  trustRootSection,
  tufKeyOf,
} from './index.ts'

const inventory = await exampleInventory()
let scratch: string
let folder: string
let old: string
let server: Listener
let agents: ReturnType<typeof memoryAgent>

beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'chancery-restored-'))
  folder = join(scratch, 'trust-root')
  old = join(scratch, 'old')
  agents = memoryAgent('tuf-root', 'tuf-online', 'tuf-online-2')
  server = await listen({ host: '127.0.0.1', port: 0, sections: [{ section: trustRootSection({ folder }) }] })
  await initTrustRoot({ folder, agent: agents, withRootAgent: (use) => use(agents) }, inventory)
  await cp(folder, old, { recursive: true, verbatimSymlinks: true })
})

afterEach(async () => {
  await server.close()
  await rm(scratch, { recursive: true })
})

const options = (change: Partial<PublishOptions> = {}): PublishOptions => ({
  folder,
  agent: agents,
  withRootAgent: (use) => use(agents),
  // tuf-js compares with the clock of the machine.
  now: new Date(),
  ...change,
})

/** What a client that remembers accepts; it rejects a version that went back. */
async function refresh(): Promise<void> {
  const state = join(scratch, 'client')
  const root = await readFile(join(old, 'repository', '1.root.json'))
  await cp(join(old, 'repository', 'targets'), state, { recursive: true })
  await writeFile(join(state, 'root.json'), root, { flag: 'wx' }).catch(() => undefined)
  const urls = { metadataBaseUrl: server.url, targetBaseUrl: `${server.url}/targets` }
  await new Updater({ metadataDir: state, targetDir: state, ...urls, config: { fetchRetries: 0 } }).refresh()
}

async function bringBackOld(): Promise<void> {
  await rm(folder, { recursive: true })
  await cp(old, folder, { recursive: true, verbatimSymlinks: true })
}

describe('an old copy of the folder', () => {
  test('is a rollback to clients, and is signed again above everything that the agent signed', async () => {
    await publish(options())
    await publish(options())
    await refresh()
    await bringBackOld()
    await expect(refresh()).rejects.toThrow(/rollback|less than|version/i)
    expect(await resignDue(options())).toMatchObject({ targets: 4, snapshot: 4, timestamp: 4 })
    await refresh()
    expect(await resignDue(options()), 'and then it is fresh').toBe(undefined)
  })

  test('is signed above by the online key alone, as far as that key may', async () => {
    await publish(options())
    await bringBackOld()
    const trustRoot = await openTrustRoot({ folder, agent: agents })
    expect(await trustRoot.resign()).toMatchObject({ targets: 1, snapshot: 3, timestamp: 3 })
  })
})

describe('an old copy of a folder whose custodians are elsewhere', () => {
  test('asks them for targets of a version that no client has seen, whoever of them signed the last ones', async () => {
    const trustRoot = await openTrustRoot({ folder, agent: agents })
    const { spkiDer } = await agents.key('tuf-root')
    const custodians = [{ name: 'tuf-root', holder: '', key: tufKeyOf({ kind: 'P-256', spkiDer }) }]
    const offline = { threshold: 1, custodians: ['tuf-root'] }
    await trustRoot.reassign({ custodians, root: offline, targets: offline })
    const change = async (operator: string) => {
      const { state } = await trustRoot.update((before) => ({ ...before, operator }))
      expect(state).toBe('awaiting-signatures')
      return (await trustRoot.pending())?.roles.find(({ role }) => role === 'targets')?.version
    }
    const sign = async () =>
      await trustRoot.merge([
        await signPayload(checkPayload(await trustRoot.payload(), new Date()), agents, 'tuf-root'),
      ])
    expect(await change('first.example')).toBe(2)
    expect(await sign()).toMatchObject({ state: 'published', versions: { targets: 2 } })
    await bringBackOld()
    expect(await trustRoot.resign()).toMatchObject({ targets: 1 })
    // Whoever has not signed version 2 would sign another one.
    expect(await change('second.example')).toBeGreaterThan(2)
    expect(await sign()).toMatchObject({ state: 'published' })
  })
})

describe('with a mirror', () => {
  test('an old copy becomes what clients have seen, new root included', async () => {
    await publish(options({ keys: { root: 'tuf-root', online: 'tuf-online-2' } }))
    await publish(options({ keys: { root: 'tuf-root', online: 'tuf-online-2' } }))
    await refresh()
    const caught = await catchUpWithMirror(old, server.url)
    expect(caught).toEqual({
      versions: { root: 2, targets: 3, snapshot: 3, timestamp: 3 },
      changed: true,
      newerTargets: [],
    })
    const newest = await readFile(join(servedFolder(folder), 'timestamp.json'))
    expect(await readFile(join(servedFolder(old), 'timestamp.json'))).toEqual(newest)
    // Nothing newer is there any more.
    expect(await catchUpWithMirror(old, server.url)).toMatchObject({ changed: false })
  })

  test('that publishes another inventory, the difference is told', async () => {
    const trustRoot = await openTrustRoot({ folder, agent: agents, withRootAgent: (use) => use(agents) })
    await trustRoot.update((before) => ({ ...before, operator: 'other.example' }))
    const { newerTargets } = await catchUpWithMirror(old, server.url)
    expect(newerTargets.length).toBeGreaterThan(0)
  })

  test.each<[string, string, (text: string) => string]>([
    ['a timestamp that nobody signed', 'timestamp.json', (text) => text.replace(/"version": 2/, '"version": 9')],
    ['a root that does not follow', '2.root.json', (text) => text.replace(/"sig": "30../, '"sig": "3000')],
    ['no metadata at all', 'timestamp.json', () => '<html>'],
  ])('with %s, nothing is taken over', async (_, name, change) => {
    await publish(options({ keys: { root: 'tuf-root', online: 'tuf-online-2' } }))
    const path = join(servedFolder(folder), name)
    await writeFile(path, change(await readFile(path, 'utf8')))
    const before = await readFile(join(servedFolder(old), 'timestamp.json'))
    await expect(catchUpWithMirror(old, server.url)).rejects.toMatchObject({ code: 'damaged_repository' })
    expect(await readFile(join(servedFolder(old), 'timestamp.json'))).toEqual(before)
  })

  test('with a target of other bytes, nothing is taken over', async () => {
    await publish(options())
    const targets = await readdir(join(servedFolder(folder), 'targets'))
    const path = join(servedFolder(folder), 'targets', targets.find((name) => name.endsWith('rekor.pub')) ?? '')
    await rm(path)
    await writeFile(path, 'x'.repeat(178))
    await expect(catchUpWithMirror(old, server.url)).rejects.toMatchObject({ code: 'damaged_repository' })
  })
})
