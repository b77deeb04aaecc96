/** The timestamp authority as timestamp-cli and openssl see it. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { client, system } from './clients.ts'
import { freshFolder, makeArtifact, sharedStack } from './context.ts'
import { refusal, succeeded } from './run.ts'

const { material } = sharedStack()
const server = new URL(material.timestamp).origin
const folder = freshFolder('timestamp')
const artifact = makeArtifact(folder)
const other = makeArtifact(folder, 'other.txt')
const chain = { leaf: join(folder, 'leaf.pem'), rest: join(folder, 'rest.pem'), root: join(folder, 'root.pem') }

beforeAll(async () => {
  const pem = succeeded(await system('curl', ['-sSf', `${server}/api/v1/timestamp/certchain`])).stdout
  const certificates = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g) ?? []
  expect(certificates.length).toBeGreaterThanOrEqual(2)
  writeFileSync(chain.leaf, certificates[0] ?? '')
  writeFileSync(chain.rest, certificates.slice(1).join('\n'))
  writeFileSync(chain.root, certificates.at(-1) ?? '')
})

describe('timestamp-cli', () => {
  const cases = ['sha256', 'sha384', 'sha512'].flatMap((hash) =>
    [true, false].flatMap((nonce) => [true, false].map((certificate) => ({ hash, nonce, certificate }))),
  )

  test.each(cases)('$hash, nonce $nonce, certificate $certificate', async ({ hash, nonce, certificate }) => {
    const out = join(folder, `${hash}-${nonce}-${certificate}.tsr`)
    const flags = [
      '--hash',
      hash,
      `--nonce=${nonce}`,
      `--certificate=${certificate}`,
      '--artifact',
      artifact,
      '--out',
      out,
    ]
    succeeded(await client('timestamp-cli', ['--timestamp_server', server, 'timestamp', flags]))
    const check = ['verify', '--timestamp', out, '--certificate-chain', chain.rest, '--certificate', chain.leaf]
    succeeded(await client('timestamp-cli', [check, '--artifact', artifact]))
    expect(refusal(await client('timestamp-cli', [check, '--artifact', other]))).toMatch(
      /hash|message imprint|mismatch/i,
    )
  })

  test('a policy that is not ours is refused', async () => {
    const flags = ['--tsa-policy', '1.2.3.4', '--artifact', artifact, '--out', join(folder, 'never.tsr')]
    expect(refusal(await client('timestamp-cli', ['--timestamp_server', server, 'timestamp', flags]))).toMatch(
      /400|policy/i,
    )
  })
})

describe('openssl ts', () => {
  test.each([
    { name: 'certificate asked for', flags: ['-cert'] },
    { name: 'no certificate', flags: [] },
    { name: 'no nonce', flags: ['-cert', '-no_nonce'] },
  ])('$name', async ({ flags }) => {
    const query = join(folder, `query-${flags.join('')}`)
    const reply = `${query}.tsr`
    succeeded(await system('openssl', ['ts', '-query', '-data', artifact, '-sha256', flags, '-out', query]))
    await post(query, reply)
    const check = ['ts', '-verify', '-in', reply, '-CAfile', chain.root, '-untrusted', chain.leaf]
    expect(succeeded(await system('openssl', [check, '-queryfile', query])).text).toContain('Verification: OK')
    expect(succeeded(await system('openssl', [check, '-data', artifact])).text).toContain('Verification: OK')
    expect(refusal(await system('openssl', [check, '-data', other]))).toMatch(/message imprint mismatch/)
    const bytes = readFileSync(reply)
    const last = bytes.length - 1
    bytes[last] = (bytes[last] ?? 0) ^ 1
    writeFileSync(`${reply}.bad`, bytes)
    const bad = [
      'ts',
      '-verify',
      '-in',
      `${reply}.bad`,
      '-CAfile',
      chain.root,
      '-untrusted',
      chain.leaf,
      '-data',
      artifact,
    ]
    expect(refusal(await system('openssl', bad))).toMatch(/signature failure|bad signature/i)
  })

  test('another nonce than the one that was sent is noticed', async () => {
    const queries = [join(folder, 'q1'), join(folder, 'q2')] as const
    for (const query of queries)
      succeeded(await system('openssl', ['ts', '-query', '-data', artifact, '-sha256', '-cert', '-out', query]))
    await post(queries[0], join(folder, 'r1'))
    const check = ['ts', '-verify', '-in', join(folder, 'r1'), '-CAfile', chain.root, '-untrusted', chain.leaf]
    expect(refusal(await system('openssl', [check, '-queryfile', queries[1]]))).toMatch(/nonce mismatch/)
  })
})

async function post(query: string, reply: string): Promise<void> {
  const header = ['-H', 'content-type: application/timestamp-query']
  succeeded(await system('curl', ['-sSf', header, '--data-binary', `@${query}`, '-o', reply, material.timestamp]))
}
