/** The air-gap kit: nothing in it can be changed, nothing older is taken, and what is laid out is what was published. */
import { execFileSync } from 'node:child_process'
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { daysLater, exampleInventory, memoryAgent, NOW, spki } from '../../test/support/trust-installation.ts'
import {
  initTrustRoot,
  type Inventory,
  openTrustRoot,
  servedFolder,
  type TrustRoot,
  type TrustRootOptions,
} from '../index.ts'
import type { TufAgent } from '../metadata.ts'
import { importKit, type ImportOptions, openKit, packKit } from './index.ts'
import { tar } from './tar.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-kit-'))
afterAll(() => rmSync(scratch, { recursive: true }))

let made = 0
const fresh = (name: string) => join(scratch, `${name}-${(made += 1)}`)
const sha256 = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex')

interface Installation {
  readonly folder: string
  readonly trustRoot: TrustRoot
  readonly rootSha256: string
}

/** Signs whatever it is asked to: unlike ours, which keeps to one content for each version. */
function carelessAgent(): TufAgent {
  const pairs = new Map(
    ['tuf-root', 'tuf-online'].map((name) => [name, generateKeyPairSync('ec', { namedCurve: 'P-256' })]),
  )
  const pair = (name: string) => {
    const found = pairs.get(name)
    if (found === undefined) throw new Error(`no key ${name}`)
    return found
  }
  return {
    key: async (name) => {
      const spkiDer = new Uint8Array(pair(name).publicKey.export({ type: 'spki', format: 'der' }))
      return { name, kind: 'P-256', spkiDer, keyId: new Uint8Array(32), purposes: ['tuf'] }
    },
    tuf: async ({ key, payload }) => new Uint8Array(sign('sha256', payload, pair(key).privateKey)),
    tufVersions: async () => ({}),
  }
}

const trustRootOptions = (folder: string, agent: TufAgent): TrustRootOptions => ({
  folder,
  agent,
  withRootAgent: (use) => use(agent),
  now: () => NOW,
})

async function installation(agent: TufAgent = memoryAgent('tuf-root', 'tuf-online')): Promise<Installation> {
  const folder = fresh('trust-root')
  const trustRoot = await initTrustRoot(trustRootOptions(folder, agent), await exampleInventory())
  return { folder, trustRoot, rootSha256: sha256(readFileSync(join(servedFolder(folder), '1.root.json'))) }
}

let ours: Installation
let older: string
let kit: string
beforeAll(async () => {
  ours = await installation()
  older = await packKit(ours.folder)
  await ours.trustRoot.update((inventory) => ({
    ...inventory,
    items: [
      ...inventory.items,
      {
        id: 'ct-2',
        kind: 'ct-log',
        der: [spki()],
        origin: 'ct-2.example.org',
        url: 'http://127.0.0.1:6963',
        window: { start: NOW },
        state: 'trusted',
      },
    ],
  }))
  kit = await packKit(ours.folder)
})

const options = (folder: string, change: Partial<ImportOptions> = {}): ImportOptions => ({
  folder,
  rootSha256: ours.rootSha256,
  now: daysLater(1),
  ...change,
})

/** Every file below a folder, with its SHA-256; links are followed. */
function contents(folder: string): Record<string, string> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  return Object.fromEntries(
    files.map((entry) => {
      const path = join(entry.parentPath, entry.name)
      return [path.slice(folder.length + 1), sha256(readFileSync(path))]
    }),
  )
}

describe('a kit', () => {
  test('holds what is published, and nothing of it has a place outside', async () => {
    const opened = openKit(kit, ours.rootSha256)
    expect(opened.versions).toEqual({ root: 1, targets: 2, snapshot: 2, timestamp: 2 })
    const served = servedFolder(ours.folder)
    for (const [name, bytes] of opened.files) expect(sha256(bytes)).toBe(sha256(readFileSync(join(served, name))))
    expect(sha256(opened.targets.get('trusted_root.json') ?? '')).toBe(
      sha256(readFileSync(join(served, 'trusted_root.json'))),
    )
    expect(await packKit(ours.folder)).toBe(kit)
  })

  test('of which one byte was changed is refused, whichever it is', () => {
    const bytes = Buffer.from(kit)
    const refused: string[] = []
    // Every 97th byte, in a different way each: some hundred places over all files and between them.
    for (let at = 0; at < bytes.length; at += 97) {
      const changed = Buffer.from(bytes)
      changed[at] = (changed[at] ?? 0) ^ (1 << (at % 7))
      try {
        openKit(changed.toString('utf8'), ours.rootSha256)
        expect.fail(`byte ${at} may be changed`)
      } catch (error) {
        refused.push(String((error as { code?: string }).code))
      }
    }
    expect(new Set(refused)).toEqual(new Set(['kit_damaged', 'kit_other_root']))
    expect(refused.length).toBeGreaterThan(100)
  })

  const edit = (change: (files: Record<string, string>) => void): string => {
    const document = JSON.parse(kit) as { files: Record<string, string> }
    change(document.files)
    const files = Object.fromEntries(Object.entries(document.files).toSorted(([a], [b]) => (a < b ? -1 : 1)))
    return `${JSON.stringify({ ...document, files }, undefined, 1)}\n`
  }
  const recode = (text: string | undefined, change: (text: string) => string) =>
    Buffer.from(change(Buffer.from(text ?? '', 'base64').toString('utf8'))).toString('base64')
  const old = () => (JSON.parse(older) as { files: Record<string, string> }).files

  test.each<[string, () => string, RegExp]>([
    [
      'white space inside metadata',
      () => edit((f) => (f['timestamp.json'] = recode(f['timestamp.json'], (t) => `${t} `))),
      /timestamp\.json is not as it was written/,
    ],
    [
      'a file that nothing names',
      () => edit((f) => (f['targets/extra'] = 'AAAA')),
      /nothing in it names targets\/extra/,
    ],
    [
      'the metadata of an older kit beside the new',
      () => edit((f) => (f['1.targets.json'] = old()['1.targets.json'] ?? '')),
      /nothing in it names 1\.targets\.json/,
    ],
    [
      'an older timestamp',
      () => edit((f) => (f['timestamp.json'] = old()['timestamp.json'] ?? '')),
      /it has no 1\.snapshot\.json/,
    ],
    [
      'a target that is not there',
      () => edit((f) => delete f[Object.keys(f).find((n) => n.endsWith('ctfe.pub')) ?? '']),
      /it has no targets\/.*ctfe\.pub/,
    ],
    [
      'a second signature of nobody',
      () =>
        edit(
          (f) =>
            (f['timestamp.json'] = recode(f['timestamp.json'], (t) => {
              const m = JSON.parse(t) as { signatures: object[] }
              return `${JSON.stringify({ ...m, signatures: [...m.signatures, { keyid: 'ab', sig: '00' }] }, null, 1)}\n`
            })),
        ),
      /has a signature that does not verify/,
    ],
    ['a name that leaves its folder', () => edit((f) => (f['../../evil'] = 'AAAA')), /a file with the name/],
    ['another format', () => kit.replace('chancery-air-gap/1', 'chancery-air-gap/9'), /it is no chancery-air-gap\/1/],
    ['nothing', () => '', /not JSON/],
  ])('with %s is refused', (_, text, why) => {
    expect(() => openKit(text(), ours.rootSha256)).toThrow(why)
  })

  test('of another installation is refused, also if all of it holds', async () => {
    const other = await installation()
    await expect(importKit(await packKit(other.folder), options(fresh('import')))).rejects.toMatchObject({
      code: 'kit_other_root',
    })
    const folder = fresh('import')
    await expect(importKit(kit, { folder, now: NOW })).rejects.toMatchObject({ code: 'kit_other_root' })
    expect(existsSync(folder)).toBe(false)
  })
})

describe('an import', () => {
  test('lays out mirror and files, and a newer kit takes the place of both at once', async () => {
    const folder = fresh('import')
    const first = await importKit(older, options(folder))
    expect(first).toMatchObject({ before: undefined, changed: true, expired: [], versions: { timestamp: 1 } })
    const before = realpathSync(join(folder, 'repository'))
    // The first time tells the root; later it is known.
    const second = await importKit(kit, { folder, now: daysLater(1) })
    expect(second).toMatchObject({ before: { timestamp: 1 }, changed: true, versions: { timestamp: 2, targets: 2 } })
    expect(existsSync(before)).toBe(false)
    const served = contents(realpathSync(servedFolder(ours.folder)))
    const mirror = contents(realpathSync(join(folder, 'repository')))
    for (const [name, hash] of Object.entries(mirror)) expect([name, served[name]]).toEqual([name, hash])
    expect(Object.keys(mirror)).toEqual(
      expect.arrayContaining(['1.root.json', 'root.json', 'timestamp.json', '2.snapshot.json', '2.targets.json']),
    )
    const clients = readdirSync(join(folder, 'clients'))
    expect(clients.toSorted()).toEqual([
      'cosign',
      'gitsign',
      'kyverno',
      'policy-controller',
      'sigstore-js',
      'sigstore-python',
    ])
    expect(sha256(readFileSync(join(folder, 'clients/cosign/trusted_root.json')))).toBe(served['trusted_root.json'])
    expect(readFileSync(join(folder, 'clients/cosign/use.sh'), 'utf8')).toContain(
      `--trusted-root ${join(folder, 'clients/cosign/trusted_root.json')}`,
    )
  })

  test('of an older kit is refused and changes nothing; the same again is no fault', async () => {
    const folder = fresh('import')
    await importKit(kit, options(folder))
    const state = contents(realpathSync(join(folder, 'current')))
    await expect(importKit(older, options(folder))).rejects.toMatchObject({ code: 'kit_rollback' })
    await expect(importKit(older, options(folder, { acceptExpired: true }))).rejects.toMatchObject({
      code: 'kit_rollback',
    })
    expect(await importKit(kit, options(folder))).toMatchObject({ changed: false })
    expect(contents(realpathSync(join(folder, 'current')))).toEqual(state)
    await expect(importKit(kit, options(folder, { rootSha256: sha256('other') }))).rejects.toMatchObject({
      code: 'kit_other_root',
    })
  })

  test('of a version that has two contents is refused', async () => {
    // The folder is brought back from before and goes on elsewhere: what a stolen online key can make.
    const twin = { ...ours, folder: fresh('twin') }
    const agents = carelessAgent()
    const first = await installation(agents)
    cpSync(first.folder, twin.folder, { recursive: true, verbatimSymlinks: true })
    const renamed = (name: string) => (inventory: Inventory) => ({ ...inventory, operator: name })
    await first.trustRoot.update(renamed('one.example'))
    const other = await openTrustRoot(trustRootOptions(twin.folder, agents))
    await other.update(renamed('other.example'))
    const folder = fresh('import')
    await importKit(await packKit(first.folder), options(folder, { rootSha256: first.rootSha256 }))
    await expect(importKit(await packKit(twin.folder), options(folder))).rejects.toMatchObject({
      code: 'kit_other_root',
    })
    await expect(
      importKit(await packKit(twin.folder), options(folder, { rootSha256: first.rootSha256 })),
    ).rejects.toMatchObject({
      code: 'kit_rollback',
      message: expect.stringMatching(/timestamp 2 is another one than was imported before/) as string,
    })
  })

  test('into a folder that has lost what it knew, or where that was changed, is refused', async () => {
    const folder = fresh('import')
    await importKit(kit, options(folder))
    const known = join(folder, 'current', 'kit.json')
    writeFileSync(known, readFileSync(known, 'utf8').replace('"files"', '"files" '))
    await expect(importKit(kit, options(folder))).rejects.toMatchObject({ code: 'kit_damaged' })
    rmSync(known)
    await expect(importKit(older, options(folder))).rejects.toMatchObject({ code: 'kit_damaged' })
  })

  test('of a kit that has ended is refused, unless it is accepted as the newest there is', async () => {
    const folder = fresh('import')
    const late = daysLater(4)
    await expect(importKit(kit, options(folder, { now: late }))).rejects.toMatchObject({
      code: 'kit_expired',
      message: expect.stringMatching(/^timestamp ended 2026-08-04/) as string,
    })
    expect(existsSync(join(folder, 'current'))).toBe(false)
    expect(await importKit(kit, options(folder, { now: late, acceptExpired: true }))).toMatchObject({
      expired: ['timestamp'],
    })
    const ages = await importKit(kit, options(folder, { now: daysLater(400), acceptExpired: true }))
    expect(ages.expired).toEqual(['root', 'targets', 'snapshot', 'timestamp'])
  })
})

test('tar makes what tar reads, long names too', () => {
  const long = `targets/${'ab'.repeat(32)}.a-name-that-does-not-fit-into-its-field.crt.pem`
  const files = new Map([
    ['1.root.json', Buffer.from('{}')],
    [long, Buffer.from('x'.repeat(600))],
    ['targets/empty', new Uint8Array()],
  ])
  const folder = mkdtempSync(join(scratch, 'tar-'))
  execFileSync('tar', ['xf', '-', '-C', folder], { input: tar(files) })
  expect(contents(folder)).toEqual(Object.fromEntries([...files].map(([name, bytes]) => [name, sha256(bytes)])))
})
