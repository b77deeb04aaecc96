/** The second line of a checkpoint: signed under the guard of the first, accounted for, and never alone. */
import { generateKeyPairSync, sign } from 'node:crypto'
import { cpSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  emptyRoot,
  type MerkleTree,
  parseCheckpoint,
  parseNote,
  verifyCheckpoint,
  vkeyEd25519,
  witnessOrigin,
} from '#tlog'
import { type Installation, install, need, ORIGIN, treeOf } from './agent.fixture.ts'
import type { GeneratedKey } from './administration.ts'
import type { SpawnedAgent } from './spawn.ts'

type Style = keyof typeof ORIGIN
const STYLES = ['ct', 'rekor-v1', 'rekor-v2'] as const satisfies readonly Style[]

let installation: Installation
let agent: Required<SpawnedAgent>
const second = new Map<Style, GeneratedKey>()

beforeAll(async () => {
  installation = await install()
  agent = await installation.start()
  for (const style of STYLES) {
    const label = `${style}-witness`
    second.set(style, await agent.admin.generateKey({ token: 'online', label, kind: 'ed25519' }))
  }
  await agent.close()
  installation.configure({ keys: withWitnessKeys() })
  agent = await installation.start()
})

afterAll(async () => {
  await agent.close()
  installation.remove()
})

function withWitnessKeys(): Record<string, object> {
  const keys = { ...(installation.configuration as { keys: Record<string, object> }).keys }
  for (const style of STYLES) {
    const { uri, spkiDer } = need(second.get(style))
    const spki = Buffer.from(spkiDer).toString('base64')
    const origin = witnessOrigin(ORIGIN[style])
    keys[`${style}-witness`] = { uri, token: 'online', spki, kind: 'ed25519', purposes: ['witnessHead'], origin }
    keys[style] = { ...keys[style], witnessKey: `${style}-witness` }
  }
  return keys
}

async function head(style: Style, tree: MerkleTree, from: number, changes: object = {}) {
  return await agent.agent.treeHead({
    key: style,
    origin: ORIGIN[style],
    size: tree.size,
    rootHash: tree.root(),
    timestampMs: Date.now(),
    consistencyProof: tree.consistencyProof(from, tree.size),
    witnessed: true,
    ...changes,
  })
}

const usesOf = async (name: string) => need((await agent.agent.status()).keys.find((key) => key.name === name)).uses

describe('the line for witnesses', () => {
  test.each(STYLES)('%s: an Ed25519 line of C2SP over the same size and root', async (style) => {
    const tree = treeOf(5)
    const { note, witnessNote = '', signature } = await head(style, tree, 0)
    const { text, signatures } = parseNote(witnessNote)
    expect(parseCheckpoint(text)).toMatchObject({
      origin: witnessOrigin(ORIGIN[style]),
      size: 5,
      rootHash: tree.root(),
    })
    const { spkiDer } = need(second.get(style))
    verifyCheckpoint(witnessNote, { origin: witnessOrigin(ORIGIN[style]), spkiDer })
    expect(vkeyEd25519(witnessOrigin(ORIGIN[style]), spkiDer.slice(-32))).toMatch(/^[^ +]+\+[0-9a-f]{8}\+A/)
    if (style === 'rekor-v2') {
      expect(note).toBe(witnessNote)
      expect(Buffer.from(need(signatures[0]).signature)).toEqual(Buffer.from(signature))
      expect(signatures).toHaveLength(2)
    } else {
      // Verifiers of Rekor v1 give up at a second line, and RFC 6962 has no note.
      expect(style === 'ct' ? note : parseNote(note).signatures.length).toBe(style === 'ct' ? '' : 1)
      expect(signatures).toHaveLength(1)
    }
  })

  test('is not made, nor accounted for, where it was not asked for', async () => {
    const before = await usesOf('rekor-v2-witness')
    const answer = await head('rekor-v2', treeOf(6), 5, { witnessed: false })
    expect(parseNote(answer.note).signatures).toHaveLength(1)
    expect([answer.witnessNote, await usesOf('rekor-v2-witness')]).toEqual(['', before])
  })

  test('is accounted for under its own key', async () => {
    const before = await usesOf('rekor-v2-witness')
    await head('rekor-v2', treeOf(7), 6)
    expect(await usesOf('rekor-v2-witness')).toBe(before + 1)
  })

  test('cannot be asked for alone, by whatever method', async () => {
    const tree = treeOf(8)
    const change = { key: 'rekor-v2-witness', origin: ORIGIN['rekor-v2'] }
    await expect(head('rekor-v2', tree, 7, change)).rejects.toMatchObject({ code: 'refused', reason: 'wrong_purpose' })
    const raw = Buffer.from('rekor-v2.test\n9\n')
    const set = { key: 'rekor-v2-witness', body: raw, integratedTimeSeconds: 1, logIndex: 1 }
    await expect(agent.agent.set(set)).rejects.toMatchObject({ reason: 'wrong_purpose' })
  })

  test('is not signed for what the guard refuses', async () => {
    const before = await usesOf('rekor-v1-witness')
    const other = treeOf(4)
    const refused = { code: 'latched', reason: 'fork_refused' }
    await expect(head('rekor-v1', other, 4)).rejects.toMatchObject(refused)
    await expect(head('rekor-v1', treeOf(9), 5)).rejects.toMatchObject(refused)
    expect(await usesOf('rekor-v1-witness')).toBe(before)
    await agent.admin.unlatch({ latch: `origin:${ORIGIN['rekor-v1']}` })
  })

  test('is left out, and the head is signed, while its key is latched or not on the token', async () => {
    const keys = withWitnessKeys()
    keys['ct-witness'] = { ...keys['ct-witness'], uri: 'pkcs11:token=online;id=%77' }
    installation.configure({ keys })
    await agent.admin.reload()
    const answer = await head('ct', treeOf(6), 5)
    expect(answer.signature.length).toBeGreaterThan(60)
    expect(answer.witnessNote).toBe('')
    installation.configure({ keys: withWitnessKeys() })
    await agent.admin.reload()
    expect((await head('ct', treeOf(7), 6)).witnessNote).toContain('— ct.test ')
  })

  test.each([
    ['a key of another purpose', { witnessKey: 'tsa' }, /no key here with the purpose witnessHead/],
    ["another log's", { witnessKey: 'ct-witness' }, /needs the origin "rekor-v2.test"/],
    ['none that is configured', { witnessKey: 'nobody' }, /no key here/],
  ])('%s is no witness key', async (_, change, words) => {
    const keys = withWitnessKeys()
    keys['rekor-v2'] = { ...keys['rekor-v2'], ...change }
    installation.configure({ keys })
    await expect(agent.admin.reload()).rejects.toMatchObject({ message: expect.stringMatching(words) })
    installation.configure({ keys: withWitnessKeys() })
  })
})

describe('a head that comes back from an anchor', () => {
  const report = (size: number, changes: object = {}) => ({
    key: 'rekor-v2',
    origin: ORIGIN['rekor-v2'],
    size,
    rootHash: treeOf(size).root(),
    timestampMs: 0,
    signature: new Uint8Array(70),
    ...changes,
  })

  test('stops nobody without the signature of the key itself', async () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const forged = new Uint8Array(sign('sha256', Buffer.from('rekor-v2.test\n99\n'), privateKey))
    for (const signature of [new Uint8Array(70), forged, new Uint8Array(0)]) {
      const asked = agent.agent.reportHead(report(99, { signature }))
      await expect(asked).rejects.toMatchObject({ code: 'refused', reason: 'bad_signature' })
    }
    const old = await head('rekor-v2', treeOf(7), 7)
    const known = agent.agent.reportHead(report(7, { signature: old.signature }))
    await expect(known).rejects.toMatchObject({ code: 'refused', reason: 'no_contradiction' })
    const elsewhere = report(7, { signature: old.signature, origin: ORIGIN.ct })
    await expect(agent.agent.reportHead(elsewhere)).rejects.toMatchObject({ reason: 'wrong_origin' })
    const empty = report(0, { rootHash: emptyRoot(), signature: old.signature })
    await expect(agent.agent.reportHead(empty)).rejects.toMatchObject({ reason: 'bad_signature' })
    await head('rekor-v2', treeOf(8), 7)
  })

  test('latches an agent that was rolled back, for good', async () => {
    const stateFolder = installation.stateFolder
    await agent.close()
    cpSync(stateFolder, `${stateFolder}.old`, { recursive: true })
    agent = await installation.start()
    const ahead = await head('rekor-v2', treeOf(12), 8)
    await agent.close()
    rmSync(stateFolder, { recursive: true })
    renameSync(`${stateFolder}.old`, stateFolder)
    // As the image of a whole volume would be; a copied file alone is refused before.
    rmSync(join(stateFolder, 'place.json'))
    agent = await installation.start()
    expect(await agent.agent.guardedHead({ key: 'rekor-v2', origin: ORIGIN['rekor-v2'] })).toMatchObject({ size: 8 })
    await agent.agent.reportHead(report(12, { signature: ahead.signature }))
    await agent.close()
    agent = await installation.start()
    const asked = head('rekor-v2', treeOf(9), 8)
    await expect(asked).rejects.toMatchObject({ code: 'latched', message: expect.stringMatching(/rolled back/) })
  })
})
