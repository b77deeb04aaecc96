/** What is no certificate of an authority is not taken; of another key, profile or root: test/faults/rotate.test.ts. */
import { generateKeyPairSync } from 'node:crypto'
import { expect, test } from 'vitest'
import { checkedAnswer } from './certificates.ts'
import type { Facts } from './facts.ts'

const spki = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ type: 'spki', format: 'der' })
const facts: Facts = {
  destroyOldKey: false,
  former: { keys: [{ name: 'issuing-ca', side: 'services' }] },
  start: '2026-11-21T08:00:00Z',
  keys: {
    signer: {
      name: 'issuing-ca-2',
      side: 'services',
      token: 'online',
      kind: 'P-256',
      idHex: '00',
      backup: false,
      made: { uri: 'pkcs11:', spki: spki.toString('base64') },
    },
  },
  certificate: { profile: 'issuing', organization: 'example.test', commonName: 'example.test issuing CA 2' },
}

const REQUEST = '-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n'

test.each([
  ['nothing', ''],
  ['no PEM', 'a certificate, honestly'],
  ['a request', REQUEST],
  ['a certificate that is none', '-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n'],
  ['half a block', '-----BEGIN CERTIFICATE-----\nMIIB'],
])('refuses %s', (_what, text) => {
  expect(() => checkedAnswer(facts, text, new Date())).toThrow(
    expect.objectContaining({ code: 'ceremony_certificate_refused' }),
  )
})
