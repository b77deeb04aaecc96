import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { TrustedRoot } from '@sigstore/protobuf-specs'
import { toTrustMaterial } from '@sigstore/verify'
import { Updater } from 'tuf-js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { listen, type Listener } from '#http'
import { daysLater, exampleInventory, memoryAgent, NOW, spki } from '../test/support/trust-installation.ts'
import {
  initTrustRoot,
  type Inventory,
  openTrustRoot,
  publish,
  type PublishOptions,
  type PublishStep,
  readInventory,
  resignDue,
  servedFolder,
  trustRootSection,
  trustRootStatus,
  writeInventory,
} from './index.ts'

const inventory = await exampleInventory()
let folder: string
let clientFolder: string
let server: Listener
let agents: ReturnType<typeof memoryAgent>

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chancery-trust-'))
  clientFolder = await mkdtemp(join(tmpdir(), 'chancery-tuf-client-'))
  server = await listen({ host: '127.0.0.1', port: 0, sections: [{ section: trustRootSection({ folder }) }] })
  agents = memoryAgent('tuf-root', 'tuf-online', 'tuf-root-2', 'tuf-online-2')
})

afterEach(async () => {
  await server.close()
  for (const path of [folder, clientFolder]) await rm(path, { recursive: true })
})

const options = (change: Partial<PublishOptions> = {}): PublishOptions => ({
  folder,
  agent: agents,
  withRootAgent: (use) => use(agents),
  // tuf-js compares with the clock of the machine.
  now: new Date(),
  ...change,
})

const published = (versions: object) => ({ state: 'published', versions })

async function init(): Promise<void> {
  await initTrustRoot({ folder, agent: agents, withRootAgent: (use) => use(agents) }, inventory)
}

/** A client of its own kind, that keeps its state between the calls of one test. */
function client(state = clientFolder) {
  return {
    async trust() {
      const root = await fetch(`${server.url}/1.root.json`)
      await writeFile(join(state, 'root.json'), Buffer.from(await root.arrayBuffer()))
    },
    async fetchTarget(name: string): Promise<Uint8Array> {
      const updater = new Updater({
        metadataDir: state,
        metadataBaseUrl: server.url,
        targetDir: state,
        targetBaseUrl: `${server.url}/targets`,
        config: { fetchRetries: 0 },
      })
      await updater.refresh()
      const info = await updater.getTargetInfo(name)
      if (!info) throw new Error(`no target ${name}`)
      return readFile(await updater.downloadTarget(info))
    },
    /** Versions that the client holds after its last refresh. */
    async versions(): Promise<Record<string, number>> {
      const entries = ['root', 'targets', 'snapshot', 'timestamp'].map(async (role) => {
        const { signed } = JSON.parse(await readFile(join(state, `${role}.json`), 'utf8')) as {
          signed: { version: number }
        }
        return [role, signed.version] as const
      })
      return Object.fromEntries(await Promise.all(entries))
    },
  }
}

const withKey = (id: string, der: Uint8Array): Inventory => {
  const [rekor] = inventory.items.filter(({ kind }) => kind === 'rekor-v1')
  if (!rekor) throw new Error('no rekor')
  return { ...inventory, items: [...inventory.items, { ...rekor, id, der: [der], state: 'trusted' }] }
}

describe('a foreign TUF client (tuf-js)', () => {
  test('initialises from 1.root.json and gets every target', async () => {
    await init()
    await client().trust()
    const trusted = await client().fetchTarget('trusted_root.json')
    const material = toTrustMaterial(TrustedRoot.fromJSON(JSON.parse(Buffer.from(trusted).toString())))
    expect(material.tlogs).toHaveLength(2)
    for (const name of [
      'signing_config.v0.2.json',
      'signing_config_rekor_v2.v0.2.json',
      'fulcio.crt.pem',
      'rekor.pub',
      'ctfe.pub',
      'tsa_leaf.crt.pem',
    ]) {
      expect((await client().fetchTarget(name)).length).toBeGreaterThan(100)
    }
    expect(await client().versions()).toEqual({ root: 1, targets: 1, snapshot: 1, timestamp: 1 })
  })

  test('follows a timestamp that was signed again, and a change of items.json', async () => {
    await init()
    await client().trust()
    await client().fetchTarget('trusted_root.json')
    const policy = { validSeconds: 86_400, renewSeconds: 5 * 86_400 }
    const year = { validSeconds: 31_536_000, renewSeconds: 1 }
    const due = { root: year, targets: year, snapshot: year, timestamp: policy }
    expect(await resignDue(options({ policy: due }))).toEqual({ root: 1, targets: 1, snapshot: 1, timestamp: 2 })
    await client().fetchTarget('trusted_root.json')
    expect(await client().versions()).toMatchObject({ timestamp: 2, snapshot: 1 })
    await writeInventory(folder, withKey('rekor-v1-next', spki()))
    expect(await publish(options())).toEqual(published({ root: 1, targets: 2, snapshot: 2, timestamp: 3 }))
    const trusted = JSON.parse(Buffer.from(await client().fetchTarget('trusted_root.json')).toString()) as { tlogs: [] }
    expect(trusted.tlogs).toHaveLength(3)
  })

  test('follows a rotation of the root key and the online key at once, also from version 1', async () => {
    await init()
    await client().trust()
    await client().fetchTarget('trusted_root.json')
    const keys = { root: 'tuf-root-2', formerRoot: ['tuf-root'], online: 'tuf-online-2' }
    expect(await publish(options({ keys }))).toMatchObject(published({ root: 2 }))
    await client().fetchTarget('trusted_root.json')
    expect(await client().versions()).toMatchObject({ root: 2, timestamp: 2 })
    // Then without the former key; a client that only ever saw version 1 walks over both.
    expect(await publish(options({ keys: { root: 'tuf-root-2', online: 'tuf-online' } }))).toMatchObject(
      published({ root: 3 }),
    )
    await client().trust()
    await client().fetchTarget('trusted_root.json')
    expect(await client().versions()).toMatchObject({ root: 3 })
  })

  test('is not given a root that the old key did not sign', async () => {
    await init()
    const rotation = publish(options({ keys: { root: 'tuf-root-2', online: 'tuf-online' } }))
    expect(await rotation).toMatchObject({
      state: 'awaiting-signatures',
      pending: {
        roles: [
          { role: 'root', version: 2, have: 1, need: 2 },
          { role: 'targets', have: 1, need: 1 },
        ],
      },
    })
    await client().trust()
    await client().fetchTarget('trusted_root.json')
    expect(await client().versions()).toMatchObject({ root: 1, timestamp: 1 })
  })
})

describe('a publication that stops anywhere', () => {
  const steps: PublishStep[] = [
    'render',
    'lint',
    'root',
    'targets',
    'snapshot',
    'timestamp',
    'check',
    'canary',
    'write',
    'switch',
    'tidy',
  ]
  const stopAt = (step: PublishStep) => (reached: PublishStep) => {
    if (reached === step) throw new Error(`stopped at ${step}`)
  }

  test.each(steps)('before "%s" leaves a valid repository, and the next one continues', async (step) => {
    await init()
    await client().trust()
    await client().fetchTarget('trusted_root.json')
    const der = spki()
    await writeInventory(folder, withKey('rekor-v1-next', der))
    // A new online key as well, so that the root changes too.
    const keys = { root: 'tuf-root', online: 'tuf-online-2' }
    await expect(publish(options({ keys, onStep: stopAt(step) }))).rejects.toThrow(`stopped at ${step}`)
    const held = Buffer.from(await client().fetchTarget('trusted_root.json')).toString()
    expect(held.includes(Buffer.from(der).toString('base64'))).toBe(step === 'tidy')

    const publication = await publish(options({ keys }))
    expect(publication).toMatchObject(published({ root: 2 }))
    const after = Buffer.from(await client().fetchTarget('trusted_root.json')).toString()
    expect(after).toContain(Buffer.from(der).toString('base64'))
    expect(publication).toEqual(published(await client().versions()))
    expect((await readdir(folder)).filter((name) => /staged|part|next/.test(name))).toEqual([])
  })

  test('whose signature was given and lost publishes the same root, and no version twice', async () => {
    await init()
    let calls = 0
    const losing = {
      ...agents,
      tuf: async (request: Parameters<typeof agents.tuf>[0]) => {
        const signature = await agents.tuf(request)
        if (request.role === 'root' && ++calls === 1) throw new Error('connection lost')
        return signature
      },
    }
    const keys = { root: 'tuf-root', online: 'tuf-online-2' }
    await expect(publish(options({ keys, withRootAgent: (use) => use(losing) }))).rejects.toThrow('connection lost')
    // The clock goes on, so a root made anew would have other bytes and be refused by the agent.
    expect(await publish(options({ keys, now: new Date(Date.now() + 5000) }))).toMatchObject(published({ root: 2 }))
    const signed = agents.requests
      .filter(({ role }) => role !== 'root')
      .map(({ role, payload }) => `${role}${String(payload)}`)
    expect(new Set(signed).size).toBe(signed.length)
  })

  test('during the very first publication is continued by init', async () => {
    const trustRoot = {
      folder,
      agent: agents,
      withRootAgent: <T>(use: (agent: typeof agents) => Promise<T>) => use(agents),
    }
    for (const step of ['root', 'snapshot', 'write', 'switch'] as const) {
      await expect(initTrustRoot({ ...trustRoot, onStep: stopAt(step) }, inventory)).rejects.toThrow('stopped')
    }
    await initTrustRoot(trustRoot, inventory)
    await client().trust()
    await client().fetchTarget('trusted_root.json')
    expect(await client().versions()).toMatchObject({ root: 1 })
  })
})

describe('the publisher refuses', () => {
  test('to start again over a published repository', async () => {
    await init()
    await expect(init()).rejects.toMatchObject({ code: 'exists' })
  })

  test('what the linter refuses, before anything is signed', async () => {
    await init()
    const signed = agents.requests.length
    const { items } = inventory
    await writeInventory(folder, { ...inventory, items: items.filter(({ kind }) => kind !== 'ct-log') })
    await expect(publish(options())).rejects.toMatchObject({ code: 'lint' })
    expect(agents.requests).toHaveLength(signed)
  })

  test('an update that the linter refuses, and keeps items.json', async () => {
    await init()
    const trustRoot = await openTrustRoot({ folder, agent: agents, withRootAgent: (use) => use(agents) })
    const spoil = (old: Inventory): Inventory => ({ ...old, operator: 'https://example.org' })
    await expect(trustRoot.update(spoil)).rejects.toMatchObject({ code: 'lint' })
    expect((await readInventory(folder)).operator).toBe('example.org')
  })

  test('to publish without the root signer: it waits for it', async () => {
    await init()
    await writeInventory(folder, withKey('rekor-v1-next', spki()))
    expect(await publish(options({ withRootAgent: undefined }))).toMatchObject({
      state: 'awaiting-signatures',
      pending: { roles: [{ role: 'targets', version: 2, have: 0, need: 1, missing: [{ name: 'tuf-root' }] }] },
    })
    expect(await publish(options()), 'and is not signed behind its back').toMatchObject({
      state: 'awaiting-signatures',
    })
  })

  test('a repository whose timestamp was altered', async () => {
    await init()
    const path = join(servedFolder(folder), 'timestamp.json')
    const text = await readFile(path, 'utf8')
    await writeFile(path, text.replace(/"version": 1/, '"version": 9'))
    await expect(publish(options())).rejects.toMatchObject({ code: 'damaged_repository' })
  })

  test('a signature that does not verify', async () => {
    await init()
    const lying = { ...agents, tuf: () => Promise.resolve(new Uint8Array(70)) }
    await expect(publish(options({ agent: lying }))).rejects.toMatchObject({ code: 'unsigned' })
  })

  test('to take versions back when the counters were lost', async () => {
    await init()
    await rm(join(folder, 'versions.json'))
    expect(await publish(options())).toEqual(published({ root: 1, targets: 2, snapshot: 2, timestamp: 2 }))
  })
})

describe('keeping fresh', () => {
  const at = (days: number, change: Partial<PublishOptions> = {}) => options({ now: daysLater(days), ...change })

  beforeEach(async () => {
    const trustRoot = {
      folder,
      agent: agents,
      withRootAgent: <T>(use: (agent: typeof agents) => Promise<T>) => use(agents),
    }
    await initTrustRoot({ ...trustRoot, now: () => NOW }, inventory)
  })

  test.each([
    ['nothing at once', 0.5, undefined],
    ['the timestamp after a day', 1.1, { root: 1, targets: 1, snapshot: 1, timestamp: 2 }],
    ['the snapshot after half a month', 16, { root: 1, targets: 1, snapshot: 2, timestamp: 2 }],
    ['root and targets after nine months', 280, { root: 2, targets: 2, snapshot: 2, timestamp: 2 }],
  ])('signs %s', async (_, days, expected) => expect(await resignDue(at(days))).toEqual(expected))

  test('without the root signer raises an alarm for root and targets and still signs the timestamp', async () => {
    expect(await resignDue(at(306, { withRootAgent: undefined }))).toMatchObject({ root: 1, timestamp: 2 })
    const status = await trustRootStatus(folder, { now: daysLater(306) })
    expect(status.state).toBe('alarm')
    expect(status.roles.slice(0, 2).map(({ role, state, nearEnd }) => [role, state, nearEnd])).toEqual([
      ['root', 'alarm', 'ending'],
      ['targets', 'alarm', 'ending'],
    ])
  })

  test('goes on with the timestamp when root and targets have expired', async () => {
    expect(await resignDue(at(400, { withRootAgent: undefined }))).toMatchObject({ root: 1, timestamp: 2 })
    const status = await trustRootStatus(folder, { now: daysLater(400) })
    expect(status.state).toBe('expired')
  })

  test('does not publish what an operator has only staged in items.json', async () => {
    await writeInventory(folder, withKey('rekor-v1-next', spki()))
    await resignDue(at(280))
    const published = await readFile(join(servedFolder(folder), 'trusted_root.json'), 'utf8')
    expect((JSON.parse(published) as { tlogs: unknown[] }).tlogs).toHaveLength(2)
  })

  test('never writes a time with milliseconds', async () => {
    for (const name of await readdir(servedFolder(folder))) {
      if (!/^(?:\d+\.)?(?:root|targets|snapshot|timestamp)\.json$/.test(name)) continue
      const { signed } = JSON.parse(await readFile(join(servedFolder(folder), name), 'utf8')) as {
        signed: { expires: string }
      }
      expect(signed.expires).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/)
    }
  })
})

describe('the mirror', () => {
  beforeEach(init)
  const get = (path: string, init?: RequestInit) => fetch(`${server.url}${path}`, init)

  test.each(['/2.root.json', '/targets/nothing', '/nothing', '/targets', '/', '/.items.json'])(
    'answers 404 without caching for %s',
    async (path) => {
      const answer = await get(path)
      expect([answer.status, answer.headers.get('cache-control')]).toEqual([404, 'no-store'])
    },
  )

  test.each([
    ['/timestamp.json', 'public, max-age=10, must-revalidate'],
    ['/root.json', 'public, max-age=10, must-revalidate'],
    ['/trusted_root.json', 'public, max-age=10, must-revalidate'],
    ['/signing_config.v0.2.json', 'public, max-age=10, must-revalidate'],
    ['/client_trust_config.json', 'public, max-age=10, must-revalidate'],
    ['/1.root.json', 'public, max-age=31536000, immutable'],
    ['/1.snapshot.json', 'public, max-age=31536000, immutable'],
    ['/1.targets.json', 'public, max-age=31536000, immutable'],
  ])('serves %s', async (path, cache) => {
    const answer = await get(path)
    expect([answer.status, answer.headers.get('cache-control'), answer.headers.get('content-type')]).toEqual([
      200,
      cache,
      'application/json',
    ])
    const head = await get(path, { method: 'HEAD' })
    expect([head.status, await head.text()]).toEqual([200, ''])
    const again = await get(path, { headers: { 'if-none-match': answer.headers.get('etag') ?? '' } })
    expect(again.status).toBe(304)
  })

  test('serves targets under the SHA-256 of their content', async () => {
    for (const name of await readdir(join(servedFolder(folder), 'targets'))) {
      const bytes = Buffer.from(await (await get(`/targets/${name}`)).arrayBuffer())
      expect(name.startsWith(`${createHash('sha256').update(bytes).digest('hex')}.`)).toBe(true)
    }
  })

  test.each(['/..%2fitems.json', '/targets/..%2f..%2fitems.json', '/targets/..%5c..%5citems.json'])(
    'does not leave its folder for %s',
    async (path) => {
      const answer = await get(path)
      expect([400, 404]).toContain(answer.status)
      expect(await answer.text()).not.toContain('schemaVersion')
    },
  )

  test('refuses other methods', async () => {
    expect((await get('/root.json', { method: 'POST', body: 'x' })).status).toBeGreaterThanOrEqual(400)
  })
})
