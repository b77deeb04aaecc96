import 'reflect-metadata'
import { webcrypto } from 'node:crypto'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import * as x509 from '@peculiar/x509'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fetchDocument, type OidcError } from './index.ts'

/** An issuer behind TLS whose certificate comes from the organisation's own authority, as `ca-cert` is for. */
let server: Server
let caCertPem: string
let otherCaPem: string

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const

async function authority(name: string) {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: '01',
    name: `CN=${name}`,
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
    ],
  })
  return { keys, certificate }
}

beforeAll(async () => {
  const ca = await authority('Own authority')
  caCertPem = ca.certificate.toString('pem')
  otherCaPem = (await authority('Another authority')).certificate.toString('pem')
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])
  const leaf = await x509.X509CertificateGenerator.create({
    serialNumber: '02',
    subject: 'CN=issuer',
    issuer: ca.certificate.subject,
    publicKey: keys.publicKey,
    signingKey: ca.keys.privateKey,
    signingAlgorithm: ALGORITHM,
    extensions: [new x509.SubjectAlternativeNameExtension([{ type: 'ip', value: '127.0.0.1' }])],
  })
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64')
  const key = `-----BEGIN PRIVATE KEY-----\n${pkcs8}\n-----END PRIVATE KEY-----\n`
  server = createServer({ key, cert: leaf.toString('pem') }, (request, response) => {
    // `/slow` never answers.
    if (request.url === '/slow') return
    if (request.url === '/endless') {
      response.writeHead(200)
      const write = (): void => {
        while (!response.destroyed && response.write(' '.repeat(16_384)));
        if (!response.destroyed) response.once('drain', write)
      }
      write()
      return
    }
    if (request.url === '/cut') {
      response.writeHead(200, { 'content-length': '100' }).write('{')
      setImmediate(() => response.destroy())
      return
    }
    if (request.url === '/away') response.writeHead(302, { location: 'https://issuer.example/x' }).end()
    else response.writeHead(200).end('{"ok":true}')
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
})

afterAll(() => {
  server.closeAllConnections()
  server.close()
})

const at = (path: string, host = '127.0.0.1') =>
  new URL(`https://${host}:${(server.address() as AddressInfo).port}${path}`)
const soon = () => AbortSignal.timeout(5000)

describe('an issuer with a certificate of its own authority', () => {
  test('is read when that authority is configured', async () => {
    await expect(fetchDocument(at('/'), { caCertPem, signal: soon() })).resolves.toEqual({ ok: true })
  })

  test.each<[string, () => Promise<unknown>, OidcError['code']]>([
    ['without the authority', () => fetchDocument(at('/'), { signal: soon() }), 'issuer_unreachable'],
    [
      'with another authority',
      () => fetchDocument(at('/'), { caCertPem: otherCaPem, signal: soon() }),
      'issuer_unreachable',
    ],
    [
      'under another name',
      () => fetchDocument(at('/', 'localhost'), { caCertPem, signal: soon() }),
      'issuer_unreachable',
    ],
    ['that sends elsewhere', () => fetchDocument(at('/away'), { caCertPem, signal: soon() }), 'issuer_invalid'],
    ['that never ends', () => fetchDocument(at('/endless'), { caCertPem, signal: soon() }), 'issuer_invalid'],
    ['that is cut off', () => fetchDocument(at('/cut'), { caCertPem, signal: soon() }), 'issuer_unreachable'],
    [
      'that takes too long',
      () => fetchDocument(at('/slow'), { caCertPem, signal: AbortSignal.timeout(100) }),
      'issuer_unreachable',
    ],
  ])('is refused %s', async (_, get, code) => {
    await expect(get()).rejects.toMatchObject({ name: 'OidcError', code })
  })
})
