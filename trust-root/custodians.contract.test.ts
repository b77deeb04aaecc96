/** What custodians bring is verified, and who they are changes only by their own signatures. */
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { custodianRoles, memoryAgent } from '../test/support/trust-installation.ts'
import {
  custodians,
  DAY,
  eachWithCustody,
  folder,
  NAMES,
  online,
  refresh,
  reopened,
  roles,
  server,
  sign,
  signatures,
  trustRoot,
  withKey,
} from './custody.fixture.ts'
import { keyIdOf, type PayloadFile, type SignaturesFile, tufKeyOf } from './index.ts'

eachWithCustody()

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
    expect(await trustRoot.reassign(next), 'asked for again').toMatchObject({ versions: { root: 2, targets: 2 } })
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
})

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
