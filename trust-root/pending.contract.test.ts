/** Custodians sign on machines of their own: publications wait, and nothing that they did not all see is ever published. */
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
  keyIdOf,
  type Inventory,
  openTrustRoot,
  parseRoles,
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
  tufKeyOf,
  writeInventory,
  writeRoles,
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

const DAY = 86_400_000

/** What a thief of the online key can bring. */
async function onlineSignature(payload: PayloadFile) {
  const bytes = Buffer.from(payload.parts[0]?.bytes ?? '', 'base64')
  const sig = Buffer.from(await online.tuf({ key: 'tuf-online', role: 'targets', payload: bytes })).toString('hex')
  const { spkiDer } = await online.key('tuf-online')
  return { keyid: keyIdOf(tufKeyOf({ kind: 'P-256', spkiDer })), sig }
}

/** Another r of an ECDSA signature in DER. */
function flipped(sig: string): string {
  const bytes = Buffer.from(sig, 'hex')
  bytes[10] = (bytes[10] ?? 0) ^ 1
  return bytes.toString('hex')
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

  test('is not asked for where nothing changes, or only what our own copies tell', async () => {
    expect(await trustRoot.publish()).toMatchObject({ versions: { root: 1, targets: 1, snapshot: 1, timestamp: 1 } })
    const der = spki()
    await trustRoot.update(withKey('b', der))
    await sign(await trustRoot.payload(), 'ada', 'bert')
    // A standby key is to verifiers what a trusted one is.
    const standby = (before: Inventory): Inventory => ({
      ...before,
      items: before.items.map((item) => (item.id === 'b' ? { ...item, state: 'standby' } : item)),
    })
    expect(await trustRoot.update(standby)).toMatchObject({ state: 'published', versions: { targets: 2, snapshot: 3 } })
    expect(await served('.items.json')).toContain('"standby"')
    expect(await trustRoot.publish({ renew: true })).toMatchObject({ pending: { roles: [{ role: 'targets' }] } })
  })

  test('keeps another one waiting, and is itself asked for again and again', async () => {
    const der = spki()
    const first = await trustRoot.update(withKey('b', der))
    const items = await readFile(join(folder, 'items.json'), 'utf8')
    await expect(trustRoot.update(withKey('c'))).rejects.toMatchObject({ code: 'publication_pending' })
    await expect(trustRoot.reassign({ ...roles, online: ['tuf-online-2'] })).rejects.toMatchObject({
      code: 'publication_pending',
    })
    expect(await readFile(join(folder, 'items.json'), 'utf8')).toBe(items)
    expect((await readdir(folder)).includes('roles.withdrawn.json')).toBe(false)
    const same = (before: Inventory) => (before.items.some(({ id }) => id === 'b') ? before : withKey('b', der)(before))
    expect(await trustRoot.update(same)).toEqual(first)
    expect(await trustRoot.publish()).toEqual(first)
    await writeInventory(folder, inventory)
    await expect(trustRoot.publish()).rejects.toMatchObject({ code: 'publication_pending' })
  })

  test('lets timestamps be signed meanwhile, also while root and targets near their end', async () => {
    const later = await reopened({ now: () => new Date(Date.now() + 2 * DAY) })
    await trustRoot.update(withKey())
    expect(await later.resign()).toMatchObject({ targets: 1, timestamp: 2 })
    await later.merge([await signatures(await trustRoot.payload(), 'bert')])
    expect(await later.merge([await signatures(await trustRoot.payload(), 'cleo')])).toMatchObject({
      versions: { targets: 2, timestamp: 3 },
    })
  })

  test('of roles that near their end renews them both', async () => {
    const later = await reopened({ now: () => new Date(Date.now() + 300 * DAY) })
    expect(await later.publish()).toMatchObject({
      pending: {
        roles: [
          { role: 'root', version: 2, need: 2 },
          { role: 'targets', version: 2, need: 2 },
        ],
      },
    })
  })

  test('is refused by the linter before anybody is asked', async () => {
    const spoil = (before: Inventory): Inventory => ({ ...before, operator: 'https://example.org' })
    await expect(trustRoot.update(spoil)).rejects.toMatchObject({ code: 'lint' })
    const canary = () => Promise.reject(new Error('an old bundle does not verify'))
    await expect((await reopened({ canary })).update(withKey())).rejects.toThrow('an old bundle')
    expect(await trustRoot.pending()).toBe(undefined)
  })
})

describe('signatures that are brought', () => {
  let payload: PayloadFile
  let good: SignaturesFile

  beforeEach(async () => {
    await trustRoot.update(withKey())
    payload = await trustRoot.payload()
    good = await signatures(payload, 'ada')
  })

  type Change = (signature: SignaturesFile['signatures'][number]) => Partial<SignaturesFile['signatures'][number]>
  const changed = (change: Change): SignaturesFile => ({
    ...good,
    signatures: good.signatures.map((signature) => ({ ...signature, ...change(signature) })),
  })
  const keyidOf = async (name: string) => (await signatures(payload, name)).signatures[0]?.keyid ?? ''

  const faults: [string, string, () => unknown][] = [
    ['of another publication', 'signature_refused', () => ({ ...good, publication: '0123456789abcdef' })],
    ['of other bytes', 'signature_refused', () => changed(() => ({ sha256: '0'.repeat(64) }))],
    ['of another role', 'signature_refused', () => changed(() => ({ role: 'root' }))],
    ['of another version', 'signature_refused', () => changed(({ version }) => ({ version: version + 1 }))],
    ['of a stranger', 'signature_refused', () => changed(() => ({ keyid: 'a'.repeat(64) }))],
    ['with one bit changed', 'signature_refused', () => changed(({ sig }) => ({ sig: flipped(sig) }))],
    ['that is empty', 'signature_refused', () => changed(() => ({ sig: '' }))],
    ['twice in one file', 'signature_known', () => ({ ...good, signatures: [...good.signatures, ...good.signatures] })],
    ['with an unknown field', 'signature_refused', () => ({ ...good, more: 1 })],
    ['in no file at all', 'signature_refused', () => 'ada agrees'],
  ]
  test.each(faults)('are refused %s, and the good ones with them', async (_, code, spoiled) => {
    const other = await signatures(payload, 'bert')
    await expect(trustRoot.merge([other, spoiled()])).rejects.toMatchObject({ code })
    expect(await trustRoot.pending()).toMatchObject({ roles: [{ have: 0, need: 2 }] })
    expect(await refresh()).toEqual({ root: 1, targets: 1, snapshot: 1 })
    expect(await trustRoot.merge([good, other])).toMatchObject({ state: 'published' })
  })

  test("are refused under another custodian's name, and of the online key", async () => {
    const keyid = await keyidOf('bert')
    await expect(trustRoot.merge([changed(() => ({ keyid }))])).rejects.toMatchObject({ code: 'signature_refused' })
    const stolen = await onlineSignature(payload)
    await expect(trustRoot.merge([changed(() => stolen)])).rejects.toMatchObject({ code: 'signature_refused' })
  })

  test('count once a custodian: the same again does not make two of three', async () => {
    await trustRoot.merge([good])
    await expect(trustRoot.merge([good])).rejects.toMatchObject({ code: 'signature_known' })
    const again = await signatures(payload, 'ada')
    await expect(trustRoot.merge([again])).rejects.toMatchObject({ code: 'signature_known' })
    expect(await trustRoot.pending()).toMatchObject({ roles: [{ have: 1, need: 2 }] })
    expect(await refresh()).toEqual({ root: 1, targets: 1, snapshot: 1 })
  })

  test('are refused once what they are of has ended', async () => {
    const late = await reopened({ now: () => new Date(Date.now() + 366 * DAY) })
    await expect(late.merge([good])).rejects.toMatchObject({ code: 'candidate_expired' })
  })

  test('are refused where nothing waits', async () => {
    await trustRoot.withdraw()
    await expect(trustRoot.merge([good])).rejects.toMatchObject({ code: 'no_pending_publication' })
    await expect(trustRoot.payload()).rejects.toMatchObject({ code: 'no_pending_publication' })
    await expect(trustRoot.withdraw()).rejects.toMatchObject({ code: 'no_pending_publication' })
  })

  test('do not count when they were put into the folder, and a changed candidate is none', async () => {
    const path = join(folder, 'pending', 'signatures.json')
    const [own] = good.signatures
    const forged = ['ada', 'bert'].map(async (name) => ({ ...own, keyid: await keyidOf(name), sha256: undefined }))
    await writeFile(path, JSON.stringify({ publication: payload.publication, signatures: await Promise.all(forged) }))
    expect(await trustRoot.pending()).toMatchObject({ roles: [{ have: 1, need: 2 }] })
    const text = await readFile(join(folder, 'pending', 'publication.json'), 'utf8')
    await writeFile(join(folder, 'pending', 'publication.json'), text.replace('"length":', '"length":1'))
    await expect(trustRoot.publish()).rejects.toMatchObject({ code: 'damaged_repository' })
  })
})

describe('a withdrawal', () => {
  test('takes items.json back and never gives out the version again', async () => {
    await trustRoot.update(withKey('b'))
    const payload = await trustRoot.payload()
    await sign(payload, 'ada')
    expect(await trustRoot.withdraw()).toEqual({ id: payload.publication, keptRoots: [] })
    expect(await readInventory(folder)).toEqual(inventory)
    expect(await readFile(join(folder, 'items.withdrawn.json'), 'utf8')).toContain('"b"')
    expect(await trustRoot.update(withKey('c'))).toMatchObject({
      pending: { roles: [{ role: 'targets', version: 3 }] },
    })
    // Ada's agent has signed version 2 with other content, and refuses nothing here.
    expect(await sign(await trustRoot.payload(), 'ada', 'bert')).toMatchObject({
      versions: { targets: 3, snapshot: 2 },
    })
    expect(await refresh()).toEqual({ root: 1, targets: 3, snapshot: 2 })
    await expect(signatures(payload, 'bert'), 'nor does an agent go back').rejects.toMatchObject({ code: 'refused' })
  })

  test('of a root that nobody has seen leaves no trace', async () => {
    await trustRoot.reassign(await custodianRoles(custodians, ['ada', 'dora'], 2))
    expect(await trustRoot.withdraw()).toMatchObject({ keptRoots: [] })
    expect(await trustRoot.roles()).toEqual(roles)
    expect(await trustRoot.publish()).toMatchObject({ state: 'published', versions: { root: 1 } })
  })

  test('of a root that was handed out keeps it: the next publication begins with the very same', async () => {
    await trustRoot.reassign(await custodianRoles(custodians, ['ada', 'bert', 'dora'], 2))
    const withdrawn = await trustRoot.payload()
    await sign(withdrawn, 'cleo')
    await expect(trustRoot.withdraw({ discardRoots: true })).rejects.toMatchObject({ code: 'root_signed' })
    expect(await trustRoot.withdraw()).toMatchObject({ keptRoots: [2] })
    expect(await trustRoot.roles()).toEqual(roles)
    await trustRoot.update(withKey())
    const payload = await trustRoot.payload()
    expect(payload.parts.map(({ role, version }) => `${role} ${version}`)).toEqual(['root 2', 'root 3', 'targets 2'])
    expect(payload.parts[0]?.sha256).toBe(withdrawn.parts[0]?.sha256)
    expect(await trustRoot.pending(), 'with what was signed').toMatchObject({ roles: [{ have: 1 }, {}, {}] })
    expect(await sign(payload, 'ada', 'bert')).toMatchObject({ state: 'published', versions: { root: 3 } })
    expect(await refresh()).toMatchObject({ root: 3 })
  })

  test('forgets a root that was handed out only if it is told so, and nobody signed', async () => {
    await trustRoot.reassign(await custodianRoles(custodians, ['dora', 'cleo'], 1))
    const bad = await trustRoot.payload()
    expect(await trustRoot.withdraw({ discardRoots: true })).toMatchObject({ keptRoots: [] })
    const wanted = await custodianRoles(custodians, ['ada', 'bert', 'dora'], 2)
    await trustRoot.reassign(wanted)
    const payload = await trustRoot.payload()
    expect(payload.parts[0]).toMatchObject({ role: 'root', version: 2 })
    expect(payload.parts[0]?.sha256).not.toBe(bad.parts[0]?.sha256)
    // An agent that signed the one in secret does not sign the other.
    await signatures(bad, 'dora')
    await expect(signatures(payload, 'dora')).rejects.toMatchObject({ code: 'refused' })
    expect(await sign(payload, 'ada', 'bert')).toMatchObject({ state: 'published' })
  })
})

describe('a change of custodians', () => {
  test('needs the threshold of before and the new one; all roots stay, and the next is a 404', async () => {
    custodians['emil'] = memoryAgent('emil')
    const next = await custodianRoles(custodians, ['dora', 'emil'], 2)
    expect(await trustRoot.reassign(next)).toMatchObject({
      pending: {
        roles: [
          { role: 'root', version: 2, have: 0, need: 4 },
          { role: 'targets', version: 2, need: 2, missing: [{ name: 'dora' }, { name: 'emil' }] },
        ],
      },
    })
    const payload = await trustRoot.payload()
    expect(await sign(payload, 'dora', 'emil')).toMatchObject({
      pending: {
        roles: [
          { have: 2, need: 4, missing: NAMES.map((name) => ({ name })) },
          { have: 2, need: 2 },
        ],
      },
    })
    expect(await sign(payload, 'ada')).toMatchObject({ state: 'awaiting-signatures' })
    expect(await refresh()).toMatchObject({ root: 1 })
    expect(await sign(payload, 'cleo')).toMatchObject({ state: 'published', versions: { root: 2 } })
    expect(await refresh()).toMatchObject({ root: 2, targets: 2 })
    const statuses = ['1.root.json', '2.root.json', '3.root.json'].map(
      async (name) => (await fetch(`${server.url}/${name}`)).status,
    )
    expect(await Promise.all(statuses)).toEqual([200, 200, 404])
    await trustRoot.update(withKey())
    await expect(signatures(await trustRoot.payload(), 'ada')).rejects.toMatchObject({ code: 'payload_refused' })
  })

  test('counts one signature for both where somebody stays', async () => {
    expect(await trustRoot.reassign(await custodianRoles(custodians, ['bert', 'cleo', 'dora'], 2))).toMatchObject({
      pending: { roles: [{ need: 2 }, { need: 2 }] },
    })
    // Enough for the root of before, not for the new one.
    expect(await sign(await trustRoot.payload(), 'ada', 'bert')).toMatchObject({
      pending: {
        roles: [
          { have: 2, need: 3 },
          { have: 1, need: 2 },
        ],
      },
    })
    expect(await refresh()).toMatchObject({ root: 1 })
    expect(await sign(await trustRoot.payload(), 'dora')).toMatchObject({ state: 'published' })
  })

  test('of the online key is a root, and the old one signs until then', async () => {
    await trustRoot.reassign({ ...roles, online: ['tuf-online-2'] })
    const later = await reopened({ now: () => new Date(Date.now() + 2 * DAY) })
    expect(await later.resign()).toMatchObject({ root: 1, timestamp: 2 })
    const payload = await trustRoot.payload()
    expect(payload.parts.map(({ role }) => role)).toEqual(['root'])
    expect(await sign(payload, 'ada', 'bert')).toMatchObject({ versions: { root: 2, targets: 1 } })
    expect(await refresh()).toMatchObject({ root: 2, targets: 1 })
    expect(online.requests.slice(-2).map(({ key, role }) => `${key} ${role}`)).toEqual([
      'tuf-online-2 snapshot',
      'tuf-online-2 timestamp',
    ])
  })

  const faults: [string, (given: Roles) => unknown][] = [
    ['a threshold that can never be met', (given) => ({ ...given, root: { ...given.root, threshold: 4 } })],
    ['no threshold', (given) => ({ ...given, targets: { ...given.targets, threshold: 0 } })],
    ['a custodian that is not there', (given) => ({ ...given, root: { threshold: 1, custodians: ['zoe'] } })],
    ['one custodian twice', (given) => ({ ...given, root: { threshold: 2, custodians: ['ada', 'ada', 'bert'] } })],
    [
      'one key under two names',
      (given) => ({ ...given, custodians: given.custodians.map((one) => ({ ...one, key: given.custodians[0]?.key })) }),
    ],
    [
      'a custodian without a role',
      (given) => ({
        ...given,
        root: { threshold: 1, custodians: ['ada'] },
        targets: { threshold: 1, custodians: ['ada'] },
      }),
    ],
    ['an unknown field', (given) => ({ ...given, quorum: 1 })],
  ]
  test.each(faults)('is refused with %s', (_, spoil) => {
    const text = JSON.stringify({ schemaVersion: 1, ...(spoil(roles) as object) })
    expect(() => parseRoles(text)).toThrow(expect.objectContaining({ code: 'invalid_roles' }))
  })
})

describe('a kill', () => {
  const steps: PublishStep[] = [
    'lint',
    'root',
    'targets',
    'freeze',
    'merge',
    'snapshot',
    'timestamp',
    'check',
    'canary',
    'write',
    'switch',
    'tidy',
    'clear',
  ]

  test.each(steps)(
    'before "%s" is followed by the same publication, and no version has two contents',
    async (killed) => {
      const onStep = (step: PublishStep) => {
        if (step === killed) throw new Error('killed')
      }
      const der = spki()
      const change = (before: Inventory) =>
        before.items.some(({ id }) => id === 'b') ? before : withKey('b', der)(before)
      const next = await custodianRoles(custodians, ['bert', 'cleo', 'dora'], 2)
      await writeRoles(folder, next)
      await (await reopened({ onStep })).update(change).catch(() => undefined)
      trustRoot = await reopened()
      expect(await trustRoot.update(change)).toMatchObject({ state: 'awaiting-signatures' })
      const payload = await trustRoot.payload()
      const files = [await signatures(payload, 'bert'), await signatures(payload, 'cleo')]
      await (await reopened({ onStep })).merge(files).catch(() => undefined)
      trustRoot = await reopened()
      // As a started server does by itself.
      await trustRoot.resign()
      if ((await trustRoot.pending()) !== undefined) await trustRoot.merge(files)
      expect(await trustRoot.pending()).toBe(undefined)
      expect(await refresh()).toMatchObject({ root: 2 })
      expect(await served('.items.json')).toContain(Buffer.from(der).toString('base64'))
      expect((await readdir(folder)).filter((name) => /pending|staged|part/.test(name))).toEqual([])
      for (const [who, agent] of Object.entries({ ...custodians, online })) {
        const contents = new Map<string, string>()
        for (const { role, payload: bytes } of agent.requests) {
          const text = Buffer.from(bytes).toString()
          const name = `${who} ${role} ${String(/"version":(\d+)\}?$/.exec(text)?.[1])}`
          expect(contents.get(name) ?? text).toBe(text)
          contents.set(name, text)
        }
      }
    },
  )
})

describe('a payload', () => {
  let payload: PayloadFile

  beforeEach(async () => {
    await writeRoles(folder, await custodianRoles(custodians, ['bert', 'cleo', 'dora'], 2))
    await trustRoot.update(withKey())
    payload = JSON.parse(JSON.stringify(await trustRoot.payload())) as PayloadFile
  })

  test('tells what is signed, in words that follow from it', () => {
    const { diff, parts, publishedRoot } = checkPayload(payload, new Date())
    expect(parts.map(({ metadata: { signed } }) => `${signed._type} ${signed.version}`)).toEqual([
      'root 2',
      'targets 2',
    ])
    expect(publishedRoot?.version).toBe(1)
    const lines = diff.flatMap((section) => section.lines)
    expect(lines.filter((line) => /^[+-] root: key/.test(line))).toEqual([
      expect.stringMatching(/^\+ root: key [0-9a-f]{16} \(dora, dora's safe\)$/),
      expect.stringMatching(/^- root: key [0-9a-f]{16} \(ada, ada's safe\)$/),
    ])
    expect(lines).toContainEqual(expect.stringMatching(/^\+ Rekor log http:\/\/rekor-v1.example.org, key /))
  })

  const rows: [string, (file: PayloadFile) => void][] = [
    ['bytes that it does not show', (file) => Object.assign(file.parts[1] ?? {}, { bytes: file.parts[0]?.bytes })],
    ['another digest', (file) => Object.assign(file.parts[0] ?? {}, { sha256: '0'.repeat(64) })],
    ['another version beside its bytes', (file) => Object.assign(file.parts[1] ?? {}, { version: 9 })],
    ['a later end beside its bytes', (file) => Object.assign(file.parts[1] ?? {}, { expires: '2030-01-01T00:00:00Z' })],
    ['a part less', (file) => file.parts.pop()],
    ['a root left out', (file) => file.parts.shift()],
    [
      'the content of a target changed',
      (file) => (file.files['rekor.pub'] = Buffer.from('another key').toString('base64')),
    ],
    ['a file that is no target', (file) => (file.files['more'] = '')],
    ['a published target changed', (file) => (file.published.files['rekor.pub'] = '')],
    ['nothing published', (file) => Object.assign(file, { published: { files: {} } })],
    ['a line of the difference left out', (file) => file.diff[0]?.lines.pop()],
    ['another custodian named', (file) => Object.assign(file.custodians[0] ?? {}, { name: 'ada-2' })],
    ['an unknown field', (file) => Object.assign(file, { trustMe: true })],
  ]
  test.each(rows)('with %s is not signed', (_, spoil) => {
    spoil(payload)
    expect(() => checkPayload(payload, new Date())).toThrow(expect.objectContaining({ code: 'payload_refused' }))
  })

  test('that has ended is not signed, nor one with a root that does not sign what is published', () => {
    const late = new Date(Date.now() + 366 * DAY)
    expect(() => checkPayload(payload, late)).toThrow(expect.objectContaining({ code: 'payload_refused' }))
    const root = payload.published.root as { signatures: unknown[] }
    root.signatures.pop()
    expect(() => checkPayload(payload, new Date())).toThrow(expect.objectContaining({ code: 'payload_refused' }))
  })
})
