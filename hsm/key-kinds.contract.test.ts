/** RSA and Ed25519 on an HSM that turns a bit over: what does not verify is not released. */
import { createPublicKey, verify } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parseCertificate } from '#x509'
import { buildFaultShim, install, need, tufPayload, type Installation } from './agent.fixture.ts'
import { issueRootCertificate } from './ceremony.ts'
import type { FaultShim } from './fault-shim.fixture.ts'
import type { KeyPurpose } from './signing.ts'
import type { SpawnedAgent } from './spawn.ts'

let installation: Installation
let shim: FaultShim
let spawned: Required<SpawnedAgent>

beforeAll(async () => {
  installation = await install(undefined, { edwards: 'ed25519', rsa: 'rsa-2048' })
  shim = buildFaultShim(installation)
  const key = (name: string, purposes: readonly KeyPurpose[], more: object = {}) => {
    const { uri, spkiDer, kind } = need(installation.keys[name])
    return { uri, token: 'online', spki: Buffer.from(spkiDer).toString('base64'), kind, purposes, ...more }
  }
  const keys = {
    edwards: key('edwards', ['tuf'], { tufRoles: ['timestamp'], tufMaxValidityDays: { timestamp: 31 } }),
    rsa: key('rsa', ['caCertificate']),
  }
  installation.configure({ modulePath: shim.modulePath, keys })
  spawned = await installation.start()
})

afterAll(async () => {
  await spawned.close()
  installation.remove()
})

/** Bits at the beginning, in the middle and at the end of the shorter one, which has 64 octets. */
const BITS = [0, 300, 511]

test('Ed25519: a signature with one wrong bit is withheld, and the next one holds', async () => {
  const { spkiDer } = need(installation.keys['edwards'])
  const publicKey = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  const payload = tufPayload({ version: 7 })
  const ask = async () => await spawned.agent.tuf({ key: 'edwards', role: 'timestamp', payload })
  for (const value of BITS) {
    shim.set({ call: 'C_Sign', action: 'flip', times: 1000, value })
    await expect(ask()).rejects.toMatchObject({ code: 'unavailable', reason: 'signature_did_not_verify' })
    shim.set()
    expect(verify(null, payload, publicKey, await ask())).toBe(true)
  }
})

test('RSA: a signature with one wrong bit is withheld, and the next one holds', async () => {
  const ceremony = { agent: spawned.admin, key: 'rsa', name: { organization: 'Example', commonName: 'Root' } }
  const ask = async () => parseCertificate(await issueRootCertificate({ ...ceremony, now: new Date() }))
  const { spkiDer } = need(installation.keys['rsa'])
  const publicKey = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  for (const value of BITS) {
    shim.set({ call: 'C_Sign', action: 'flip', times: 1000, value })
    await expect(ask()).rejects.toMatchObject({ code: 'unavailable', reason: 'signature_did_not_verify' })
    shim.set()
    const { tbsDer, signature } = await ask()
    expect(verify('sha256', tbsDer, publicKey, signature)).toBe(true)
  }
})
