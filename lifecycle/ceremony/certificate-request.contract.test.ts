/** A key on one token, its certificate from another: only two files are carried. */
import { readFileSync, writeFileSync } from 'node:fs'
import { parseDocument } from 'yaml'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type AdminAgent, type GeneratedKey, type KeyPurpose, spawnAgent, type SpawnedAgent } from '#hsm'
import { decodePem, encodePem, parseCertificate } from '#x509'
import {
  answerRequest,
  type CertificateOrder,
  encodeChain,
  prepareCertificate,
  readAnswer,
  readRequest,
  requestCertificate,
  signCertificate,
} from './certificate-request.ts'
import { type Machine, makeMachine } from './machine.fixture.ts'

let vault: Machine
let server: Machine
const spawned: SpawnedAgent[] = []
let vaultAgent: AdminAgent
let serverAgent: AdminAgent
let rootDer: Uint8Array
let request: string
let timestampRequest: string

const rootName = { organization: 'Example', commonName: 'Example root' }
const name = { organization: 'Example', commonName: 'Example issuing CA' }

beforeAll(async () => {
  ;[vault, server] = await Promise.all([makeMachine(['root']), makeMachine(['online'])])
  ;[vaultAgent, serverAgent] = await Promise.all([start(vault, 'root'), start(server, 'online')])
  const own = await makeKey(vault, vaultAgent, 'root', 'root-ca', 'caCertificate')
  await makeKey(server, serverAgent, 'online', 'issuing-ca', 'certificateRequest')
  await makeKey(server, serverAgent, 'online', 'tsa', 'certificateRequest')
  const root = { issuerKey: 'root-ca', issuerChain: [], subject: own, profile: 'root', name: rootName } as const
  const order = { ...root, agent: vaultAgent, validityYears: 10 }
  const [der] = await signCertificate(order, await prepareCertificate(order, new Date()))
  rootDer = der ?? new Uint8Array(0)
  request = await requestCertificate(serverAgent, { key: 'issuing-ca', name })
  timestampRequest = await requestCertificate(serverAgent, { key: 'tsa', name })
})

afterAll(async () => {
  await Promise.all(spawned.map((agent) => agent.close()))
  await vault.remove()
  await server.remove()
})

async function start(machine: Machine, token: string): Promise<AdminAgent> {
  const started = await spawnAgent({ configPath: machine.agentPath(token), admin: true })
  spawned.push(started)
  if (started.admin === undefined) throw new TypeError('the agent gave no admin channel')
  return started.admin
}

async function makeKey(
  machine: Machine,
  agent: AdminAgent,
  token: string,
  label: string,
  purpose: KeyPurpose,
): Promise<GeneratedKey> {
  const made = await agent.generateKey({ token, label, kind: 'P-256' })
  const { uri, kind, spkiDer } = made
  const document = parseDocument(readFileSync(machine.agentPath(token), 'utf8'))
  const entry = { uri, token, kind, spki: Buffer.from(spkiDer).toString('base64'), purposes: [purpose] }
  document.setIn(['keys', label], document.createNode(entry))
  writeFileSync(machine.agentPath(token), document.toString())
  await agent.reload()
  return made
}

function orderFor(text: string): CertificateOrder {
  const subject = readRequest(text)
  return {
    agent: vaultAgent,
    issuerKey: 'root-ca',
    issuerChain: [rootDer],
    subject,
    profile: 'issuing',
    name,
    validityYears: 5,
  }
}

describe('a request and its answer', () => {
  test('carry the certificate of a key from one token to another', async () => {
    const answer = await answerRequest(orderFor(request), new Date())
    const { spkiDer } = readRequest(request)
    const [leaf] = readAnswer(answer, { profile: 'issuing', spkiDer, name, validityYears: 5 })
    expect(parseCertificate(leaf ?? rootDer).basicConstraints).toEqual({ ca: true, pathLength: 0 })
  })

  test('of a timestamp authority', async () => {
    const answer = await answerRequest({ ...orderFor(timestampRequest), profile: 'timestamp' }, new Date())
    const { spkiDer } = readRequest(timestampRequest)
    expect(readAnswer(answer, { profile: 'timestamp', spkiDer })).toHaveLength(2)
    expect(() => readAnswer(answer, { profile: 'issuing', spkiDer })).toThrow(/basic constraints .* profile/)
  })

  test('a root of its own making stands alone', () => {
    const { publicKey } = parseCertificate(rootDer)
    const wanted = { profile: 'root', spkiDer: publicKey.spkiDer, name: rootName, validityYears: 10 } as const
    expect(readAnswer(encodePem('CERTIFICATE', rootDer), wanted)).toHaveLength(1)
    expect(() => readAnswer(encodeChain([rootDer, rootDer]), wanted)).toThrow(/a root stands alone/)
  })
})

describe('a request is refused', () => {
  const der = () => Uint8Array.from(decodePem(request, { labels: ['CERTIFICATE REQUEST'] })[0]?.der ?? [])

  test('with one bit changed, wherever it is', () => {
    for (let at = 4; at < der().length; at += 7) {
      const changed = der()
      changed[at] = (changed[at] ?? 0) ^ 1
      expect(() => readRequest(encodePem('CERTIFICATE REQUEST', changed)), `octet ${at}`).toThrow(/refused/)
    }
  })

  test.each([
    ['nothing', () => ''],
    ['a certificate', () => encodePem('CERTIFICATE', rootDer)],
    ['two at once', () => request + timestampRequest],
    ['half of one', () => encodePem('CERTIFICATE REQUEST', der().subarray(0, 90))],
  ])('%s', (_what, text) => {
    expect(() => readRequest(text())).toThrow(expect.objectContaining({ code: 'ceremony_request_refused' }))
  })

  test('by the agent, for a key that is another purpose’s, and for a name that could be read as anything else', async () => {
    await expect(requestCertificate(vaultAgent, { key: 'root-ca', name })).rejects.toMatchObject({
      reason: 'wrong_purpose',
    })
    for (const commonName of ['', '{"_type":"root"}', 'a\nb', 'x'.repeat(65), ' leading']) {
      const asked = requestCertificate(serverAgent, { key: 'issuing-ca', name: { ...name, commonName } })
      await expect(asked, commonName).rejects.toMatchObject({ reason: 'bad_name' })
    }
  })
})

describe('nothing is signed', () => {
  const wishes: readonly [string, Partial<CertificateOrder>, RegExp][] = [
    ['that is prepared for fewer years', { validityYears: 4 }, /validity is not 4 years/],
    ['that is prepared for another name', { name: rootName }, /subject is not the name/],
    ['that is prepared for another profile', { profile: 'timestamp' }, /basic constraints/],
    ['that is prepared for more years', { validityYears: 6 }, /validity is not 6 years/],
  ]
  test.each(wishes)('%s', async (_what, changes, words) => {
    const uses = async () => (await vaultAgent.status()).keys.find((key) => key.name === 'root-ca')?.uses
    const before = await uses()
    const order = orderFor(request)
    const tbsDer = await prepareCertificate(order, new Date())
    await expect(signCertificate({ ...order, ...changes }, tbsDer)).rejects.toThrow(words)
    expect(await uses()).toBe(before)
  })

  test('that outlives its issuer', async () => {
    const order = { ...orderFor(request), validityYears: 11 }
    await expect(prepareCertificate(order, new Date())).rejects.toThrow(/validity ends after that of the issuer/)
  })

  test('for another key than it was prepared for', async () => {
    const tbsDer = await prepareCertificate(orderFor(request), new Date())
    await expect(signCertificate(orderFor(timestampRequest), tbsDer)).rejects.toThrow(/public key is not/)
  })
})

describe('an answer is refused', () => {
  test('for another key, from another root, without its root, and with one bit changed', async () => {
    const answer = await answerRequest(orderFor(request), new Date())
    const { spkiDer } = readRequest(request)
    const [leaf = rootDer] = readAnswer(answer, { profile: 'issuing', spkiDer })
    const wanted = { profile: 'issuing', spkiDer } as const
    const other = readRequest(timestampRequest).spkiDer
    expect(() => readAnswer(answer, { ...wanted, spkiDer: other })).toThrow(/public key is not/)
    expect(() => readAnswer(encodeChain([leaf]), wanted)).toThrow(/and the root/)
    expect(() => readAnswer(encodeChain([leaf, leaf]), wanted)).toThrow(/root/)
    expect(() => readAnswer('', wanted)).toThrow(/refused/)
    for (const at of [leaf.length - 5, 60, leaf.length - 90]) {
      const changed = Uint8Array.from(leaf)
      changed[at] = (changed[at] ?? 0) ^ 1
      expect(() => readAnswer(encodeChain([changed, rootDer]), wanted), `octet ${at}`).toThrow(/refused/)
    }
  })
})
