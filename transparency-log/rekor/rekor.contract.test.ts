/** Both faces behind the real listener, used by a client that this project did not write: sigstore-js. */
import { execFileSync } from 'node:child_process'
import { createHash, createPrivateKey, sign } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DSSEBundleBuilder, MessageSignatureBundleBuilder, RekorWitness, type Signer } from '@sigstore/sign'
import { type Listener, listen } from '#http'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { checkLog } from '../check-log.fixture.ts'
import { type EntryChecks, startEntryChecks } from './checks.ts'
import { ecKeyPair, hashedRekordV1 } from './material.fixture.ts'
import { openTestLog, type TestLog, TREE_ID } from './service.fixture.ts'
import { rekorV1Section } from './v1/http.ts'
import { RekorV1Shards } from './v1/shards.ts'
import { rekorV2Section } from './v2/http.ts'

let folder: string
let signer: Signer
let checks: EntryChecks
let v1: TestLog
let v2: TestLog
let listener: Listener

beforeAll(() => {
  checks = startEntryChecks()
  folder = mkdtempSync(join(tmpdir(), 'rekor-contract-'))
  const files = { key: join(folder, 'leaf.key'), pem: join(folder, 'leaf.pem') }
  const subject = ['-subj', '/', '-addext', 'subjectAltName=critical,email:Dev@Example.com']
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  execFileSync(
    'openssl',
    ['req', '-x509', ...curve, '-keyout', files.key, '-out', files.pem, '-days', '1', ...subject],
    {
      stdio: 'pipe',
    },
  )
  const privateKey = createPrivateKey(readFileSync(files.key))
  const certificate = readFileSync(files.pem, 'utf8')
  signer = {
    sign: async (data) => ({
      signature: sign('sha256', data, privateKey),
      key: { $case: 'x509Certificate', certificate },
    }),
  }
})
afterAll(async () => {
  await checks.close()
  rmSync(folder, { recursive: true })
})

beforeEach(async () => {
  v1 = await openTestLog('rekor-v1')
  v2 = await openTestLog('rekor-v2')
  listener = await listen({
    host: '127.0.0.1',
    port: 0,
    sections: [
      {
        section: rekorV1Section({ shards: new RekorV1Shards([{ log: v1.log, treeId: TREE_ID }]), checks }),
        hosts: ['127.0.0.1'],
      },
      { section: rekorV2Section({ log: v2.log, checks }) },
    ],
  })
})
afterEach(async () => {
  await listener.close()
  await v1.close()
  await v2.close()
})

type Version = 1 | 2
const witness = (version: Version, options: { entryType?: 'dsse' | 'intoto' } = {}): RekorWitness =>
  new RekorWitness({
    // By name the listener tells the two apart.
    rekorBaseURL: version === 1 ? listener.url : listener.url.replace('127.0.0.1', 'localhost'),
    majorApiVersion: version,
    ...options,
  })
const statement = { data: Buffer.from('{"subject":[]}'), type: 'application/vnd.in-toto+json' }

describe('sigstore-js', () => {
  test.each([
    ['hashedrekord on v1', 1, 'message', {}, 'hashedrekord 0.0.1'],
    ['dsse on v1', 1, 'envelope', { entryType: 'dsse' }, 'dsse 0.0.1'],
    ['intoto on v1', 1, 'envelope', { entryType: 'intoto' }, 'intoto 0.0.2'],
    ['hashedrekord on v2', 2, 'message', {}, 'hashedrekord 0.0.2'],
    ['dsse on v2', 2, 'envelope', {}, 'dsse 0.0.2'],
  ] as const)('logs %s and gets an entry with proof', async (_, version, content, options, kind) => {
    const witnesses = [witness(version, options)]
    const bundle =
      content === 'message'
        ? await new MessageSignatureBundleBuilder({ signer, witnesses }).create({ data: Buffer.from('artifact') })
        : await new DSSEBundleBuilder({ signer, witnesses }).create(statement)
    const [entry] = bundle.verificationMaterial.tlogEntries
    expect(`${entry?.kindVersion?.kind} ${entry?.kindVersion?.version}`).toBe(kind)
    expect(entry?.inclusionProof?.treeSize).toBe('1')
    const log = version === 1 ? v1.log : v2.log
    expect(entry?.inclusionProof?.checkpoint?.envelope).toBe(log.head().note)
    expect(Buffer.compare(entry?.logId?.keyId ?? Buffer.of(), log.logId)).toBe(0)
    await checkLog(log)
  })

  test('a repeated upload is a conflict that the client follows to the same entry', async () => {
    const signature = await signer.sign(Buffer.from('artifact'))
    const fixed: Signer = { sign: async () => signature }
    const upload = () =>
      new MessageSignatureBundleBuilder({ signer: fixed, witnesses: [witness(1)] }).create({
        data: Buffer.from('artifact'),
      })
    const first = (await upload()).verificationMaterial.tlogEntries
    const again = (await upload()).verificationMaterial.tlogEntries
    expect(again).toEqual(first)
    expect(v1.log.head().size).toBe(1)
  })
})

describe('through the listener', () => {
  const entries = (): string => `${listener.url}/api/v1/log/entries`
  const post = (url: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })

  test('headers go out as they were written: raw ETag, path in Location, nothing beside an empty 404', async () => {
    const created = await post(entries(), hashedRekordV1(ecKeyPair(), 'a'))
    const [id] = Object.keys((await created.json()) as object)
    expect(created.status).toBe(201)
    expect(created.headers.get('etag')).toBe(id)
    expect(created.headers.get('location')).toBe(`/api/v1/log/entries/${id}`)
    const missing = await fetch(`${entries()}/${'ab'.repeat(32)}`)
    expect(missing.status).toBe(404)
    expect(missing.headers.get('content-type')).toBeNull()
    expect(await missing.text()).toBe('')
  })

  test('doubled and trailing slashes are folded, as Python and JavaScript clients need', async () => {
    expect((await fetch(`${listener.url}//api/v1/log`)).status).toBe(200)
    expect((await post(`${entries()}/retrieve/`, { logIndexes: [0] })).status).toBe(200)
  })

  test('a reply that is cut off is not a delivered one: the retry is 201, the next one 409', async () => {
    const proposed = hashedRekordV1(ecKeyPair(), 'cut')
    await new Promise<void>((resolve) => {
      const cut = request(entries(), { method: 'POST', headers: { 'content-type': 'application/json' } })
      cut.on('error', () => resolve())
      cut.end(JSON.stringify(proposed), () => setImmediate(() => cut.destroy(new Error('cut'))))
    })
    await expect.poll(() => v1.log.head().size, { timeout: 5_000 }).toBe(1)
    const retry = await post(entries(), proposed)
    expect(retry.status).toBe(201)
    await retry.text()
    await expect.poll(async () => (await post(entries(), proposed)).status, { timeout: 5_000 }).toBe(409)
  })

  test('a body over the limit is refused before it is read', async () => {
    const reply = await post(entries(), 'x'.repeat(9 * 1024 * 1024)).catch((error: unknown) => error)
    if (reply instanceof Response) expect(reply.status).toBe(413)
    else expect(reply).toBeInstanceOf(TypeError)
    expect(v1.log.head().size).toBe(0)
  })

  test('v2 is read by tiles, whose hashes are those of the entries', async () => {
    const base = listener.url.replace('127.0.0.1', 'localhost')
    for (const text of ['a', 'b', 'c']) {
      await new MessageSignatureBundleBuilder({ signer, witnesses: [witness(2)] }).create({ data: Buffer.from(text) })
    }
    const tile = Buffer.from(await (await fetch(`${base}/tile/0/000.p/3`)).arrayBuffer())
    const bundle = Buffer.from(await (await fetch(`${base}/api/v2/tile/entries/000.p/3`)).arrayBuffer())
    const length = bundle.readUInt16BE(0)
    const first = createHash('sha256')
      .update(Buffer.of(0))
      .update(bundle.subarray(2, 2 + length))
      .digest()
    expect(tile.subarray(0, 32).equals(first)).toBe(true)
    expect((await fetch(`${base}/tile/0/000`)).status).toBe(404)
    expect(await (await fetch(`${base}/healthz`)).json()).toEqual({ status: 'SERVING' })
  })
})
