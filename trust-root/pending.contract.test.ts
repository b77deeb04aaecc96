/** Publications wait for custodians, over kills and second thoughts; nothing under-signed is published, no version twice. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { custodianRoles, spki } from '../test/support/trust-installation.ts'
import {
  custodians,
  DAY,
  eachWithCustody,
  folder,
  inventory,
  NAMES,
  online,
  refresh,
  reopened,
  restartedWith,
  roles,
  served,
  sign,
  signatures,
  trustRoot,
  withKey,
} from './custody.fixture.ts'
import { type Inventory, type PublishStep, readInventory, type TufAgent, writeInventory, writeRoles } from './index.ts'

eachWithCustody()

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

  test.each([
    [['ada'], { state: 'awaiting-signatures', pending: { roles: [{ have: 1, need: 2 }] } }],
    [['ada', 'cleo'], { state: 'published', versions: { targets: 2 } }],
  ])('is signed at once with the keys at hand, of %j', async (names, expected) => {
    const at = (name: string) => (names.includes(name) ? (custodians[name] ?? online) : online)
    const hand: TufAgent = {
      key: (name) => at(name).key(name),
      tuf: (request) => at(request.key).tuf(request),
      tufVersions: (request) => at(request.key).tufVersions(request),
    }
    const withHand = await reopened({ withRootAgent: (use) => use(hand) })
    expect(await withHand.update(withKey())).toMatchObject(expected)
    // In nine months: what is at hand does not suffice, so that nothing is begun by itself.
    const later = await reopened({ withRootAgent: (use) => use(hand), now: () => new Date(Date.now() + 300 * DAY) })
    expect(await later.resign()).toMatchObject({ root: names.length, timestamp: names.length + 1 })
  })

  test('goes above what custodians signed before a restore, where it is told so', async () => {
    expect(await trustRoot.publish({ above: 6 })).toMatchObject({
      pending: { roles: [{ role: 'targets', version: 7 }] },
    })
    expect(await sign(await trustRoot.payload(), 'ada', 'bert')).toMatchObject({
      versions: { targets: 7, snapshot: 2 },
    })
    expect(await refresh()).toMatchObject({ targets: 7 })
  })

  test('is refused by the linter before anybody is asked', async () => {
    const spoil = (before: Inventory): Inventory => ({ ...before, operator: 'https://example.org' })
    await expect(trustRoot.update(spoil)).rejects.toMatchObject({ code: 'lint' })
    const canary = () => Promise.reject(new Error('an old bundle does not verify'))
    await expect((await reopened({ canary })).update(withKey())).rejects.toThrow('an old bundle')
    expect(await trustRoot.pending()).toBe(undefined)
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
      restartedWith(await reopened())
      expect(await trustRoot.update(change)).toMatchObject({ state: 'awaiting-signatures' })
      const payload = await trustRoot.payload()
      const files = [await signatures(payload, 'bert'), await signatures(payload, 'cleo')]
      await (await reopened({ onStep })).merge(files).catch(() => undefined)
      restartedWith(await reopened())
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
