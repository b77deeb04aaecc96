/** An authority that goes over to another key, chain or log while certificates are under way. */
import 'reflect-metadata'
import { generateKeyPairSync, sign } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { parseFulcioConfig } from '#policy'
import { decodeSctList, OID, parseCertificate, parseSct, parseSpki } from '#x509'
import { startIssuer, type TestIssuer } from '../test/support/oidc-issuer.ts'
import { type SoftwareCa, type SoftwareLog, softwareCa, softwareLog } from '../test/support/software-ca.ts'
import { type Authority, createAuthority, type CtLog, type Issued } from './index.ts'

const NOW_MS = 1_760_000_000_123
const now = () => NOW_MS
let issuer: TestIssuer
let former: SoftwareCa
let next: SoftwareCa
let formerLog: SoftwareLog
let nextLog: SoftwareLog
let authority: Authority
/** Releases the precertificates that wait at the log. */
let release: () => void
let waiting: () => number

beforeAll(async () => {
  issuer = await startIssuer({ nowSeconds: () => Math.floor(NOW_MS / 1000) })
  former = await softwareCa(NOW_MS)
  next = await softwareCa(NOW_MS)
})
afterAll(async () => await issuer.close())

beforeEach(async () => {
  formerLog = softwareLog(now)
  nextLog = softwareLog(now)
  const gate = Promise.withResolvers<void>()
  let held = 0
  release = gate.resolve
  waiting = () => held
  const slowLog: CtLog = {
    addPreCertificate: async (entry) => {
      held++
      await gate.promise
      return await formerLog.addPreCertificate(entry)
    },
  }
  const of = (name: string) => (name === 'next' ? next : former).agent
  authority = await createAuthority({
    agent: {
      key: async (name) => await of(name).key('issuing-ca'),
      certificate: async ({ key, tbsDer }) => await of(key).certificate({ key: 'issuing-ca', tbsDer }),
    },
    key: 'former',
    chain: former.chain,
    ctLog: slowLog,
    ctLogSpkiDer: formerLog.spkiDer,
    issuers: parseFulcioConfig(
      JSON.stringify({ OIDCIssuers: { [issuer.url]: { IssuerURL: issuer.url, ClientID: 'sigstore', Type: 'email' } } }),
    ),
    clock: now,
    canaryIdentity: 'https://example.test/canary',
  })
})

async function issue(): Promise<Issued> {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return await authority.issue({
    token: await issuer.token({}),
    key: {
      kind: 'publicKey',
      encoded: Buffer.from(publicKey.export({ format: 'pem', type: 'spki' })),
      proof: sign('sha256', Buffer.from('jo@example.com'), privateKey),
    },
  })
}

const logOf = ({ certificate }: Issued): string => {
  const [sct] = decodeSctList(parseCertificate(certificate).extension(OID.sctList)?.value ?? new Uint8Array())
  return Buffer.from(parseSct(sct ?? new Uint8Array()).logId).toString('hex')
}
const settled = async (promise: Promise<unknown>): Promise<boolean> =>
  await Promise.race([promise.then(() => true), new Promise<boolean>((resolve) => setImmediate(resolve, false))])

test('what began before is issued as it began, what begins later by the new key; it is over with the last of the former', async () => {
  const early = [issue(), issue()]
  while (waiting() < early.length) await new Promise((resolve) => setImmediate(resolve))
  const changeover = await authority.prepare({
    key: 'next',
    chain: next.chain,
    ctLog: nextLog,
    ctLogSpkiDer: nextLog.spkiDer,
  })
  expect(authority.chain).toEqual(former.chain)
  const trial = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ type: 'spki', format: 'der' })
  expect((await changeover.issueCanary(parseSpki(trial))).chain.slice(1)).toEqual([...next.chain])

  const over = changeover.take()
  expect(authority.chain).toEqual(next.chain)
  const late = await issue()
  expect(late.chain.slice(1)).toEqual([...next.chain])
  expect(await settled(over)).toBe(false)
  release()
  for (const issued of await Promise.all(early)) {
    expect(issued.chain.slice(1)).toEqual([...former.chain])
    expect(logOf(issued)).not.toBe(logOf(late))
  }
  await over
})

test('with nothing under way it is over at once', async () => {
  await (await authority.prepare({ key: 'next', chain: next.chain })).take()
  expect(authority.chain).toEqual(next.chain)
})

test.each<[string, () => Parameters<Authority['prepare']>[0]]>([
  ['the chain of another key', () => ({ chain: next.chain })],
  ['a key under the chain of another one', () => ({ key: 'next' })],
  ['a chain without its root', () => ({ key: 'next', chain: next.chain.slice(0, 1) })],
  ['no chain', () => ({ key: 'next', chain: [] })],
  ['a log whose key nobody can verify', () => ({ ctLog: nextLog, ctLogSpkiDer: new Uint8Array(3) })],
])('%s is not prepared, and the former signs on', async (_, change) => {
  await expect(authority.prepare(change())).rejects.toThrow()
  release()
  expect((await issue()).chain.slice(1)).toEqual([...former.chain])
})
