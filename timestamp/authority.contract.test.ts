import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { encodePem } from '#x509'
import { createTimestampAuthority, inspectTimestampResponse, parseRequest } from '#timestamp'
import { makeSigner } from './test-chain.ts'

const folder = mkdtempSync(join(tmpdir(), 'timestamp-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
function openssl(...args: readonly string[]): string {
  return execFileSync('openssl', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

const signer = await makeSigner(new Date())
const [leaf = new Uint8Array(0), root = new Uint8Array(0)] = signer.chain
writeFileSync(join(folder, 'leaf.pem'), encodePem('CERTIFICATE', leaf))
writeFileSync(join(folder, 'root.pem'), encodePem('CERTIFICATE', root))
writeFileSync(join(folder, 'artifact'), 'what is signed')
const authority = await createTimestampAuthority({
  agent: signer,
  key: 'tsa',
  chain: signer.chain,
  now: () => Date.now(),
  production: false,
})

async function stamp(...queryArguments: readonly string[]): Promise<Uint8Array> {
  openssl('ts', '-query', '-data', 'artifact', ...queryArguments, '-out', 'query.tsq')
  const response = await authority.timestamp(parseRequest(readFileSync(join(folder, 'query.tsq'))))
  writeFileSync(join(folder, 'response.tsr'), response)
  return response
}

describe('openssl ts -verify', () => {
  test.each([
    ['nonce and certificate', ['-sha256', '-cert']],
    ['no nonce, certificate', ['-sha256', '-no_nonce', '-cert']],
    ['SHA-384', ['-sha384', '-cert']],
    ['SHA-512 and a policy', ['-sha512', '-cert', '-tspolicy', '1.3.6.1.4.1.57264.2']],
  ])('takes a token with %s', async (_, queryArguments) => {
    await stamp(...queryArguments)
    expect(openssl('ts', '-verify', '-queryfile', 'query.tsq', '-in', 'response.tsr', '-CAfile', 'root.pem')).toContain(
      'Verification: OK',
    )
    const text = openssl('ts', '-reply', '-in', 'response.tsr', '-text')
    expect(text).toContain('Accuracy: 0x01 seconds, unspecified millis, unspecified micros')
    expect(text).toContain('TSA: DirName:/O=Chancery/CN=timestamp authority')
  })

  test('takes a token without certificate when it is given one', async () => {
    await stamp('-sha256', '-no_nonce')
    const verify = ['ts', '-verify', '-data', 'artifact', '-in', 'response.tsr', '-CAfile', 'root.pem']
    expect(openssl(...verify, '-untrusted', 'leaf.pem')).toContain('Verification: OK')
    expect(() => openssl(...verify)).toThrow()
  })

  test('refuses a token with a byte changed in whatever its signature covers', async () => {
    const response = await stamp('-sha256', '-cert')
    const { tstInfoDer, signedAttributesDer, signatureDer } = inspectTimestampResponse(response)
    const verify = ['ts', '-verify', '-queryfile', 'query.tsq', '-in', 'response.tsr', '-CAfile', 'root.pem']
    // The attributes stand in the token under another identifier octet than the one that is signed.
    for (const part of [tstInfoDer, signedAttributesDer.subarray(1), signatureDer]) {
      const start = Buffer.from(response).indexOf(part)
      expect(start).toBeGreaterThan(0)
      // Every 15th byte: each is a process. The lowest bit, since OpenSSL does not look at 0x20 in the identifier octet of
      // an attribute's SET: it writes the attributes anew, as DER, before it verifies them.
      for (let at = start; at < start + part.length; at += 15) {
        writeFileSync(
          join(folder, 'response.tsr'),
          response.map((octet, index) => (index === at ? octet ^ 0x01 : octet)),
        )
        expect(() => openssl(...verify), `byte ${at - start}`).toThrow()
      }
    }
  })
})
