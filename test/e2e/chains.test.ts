/** Every certificate chain that the stack shows, as strictly as openssl reads X.509, each refused once it is changed. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { signers, system } from './clients.ts'
import { freshFolder, identityToken, makeArtifact, makeStatement, sharedStack } from './context.ts'
import { refusal, succeeded } from './run.ts'

const stack = sharedStack()
const { material, endpoints } = stack
const folder = freshFolder('chains')

interface Chain {
  /** PEM files: the certificate itself, what stands between, the root. */
  readonly leaf: string
  readonly between: string
  readonly root: string
}

const chains = new Map<string, Chain>()

beforeAll(async () => {
  const authority = pemBlocks((await fetched(`${endpoints.ca}/api/v1/rootCert`)).toString('utf8'))
  chains.set('the certificate authority', files('ca', authority))
  chains.set(
    'the timestamp authority',
    files(
      'tsa',
      pemBlocks((await fetched(`${new URL(material.timestamp).origin}/api/v1/timestamp/certchain`)).toString('utf8')),
    ),
  )
  const artifact = makeArtifact(folder)
  const bundle = join(folder, 'bundle.json')
  const tokenFile = await identityToken(stack.identity)
  const request = { material, log: 'v1', kind: 'blob', artifact, tokenFile, bundle } as const
  succeeded(await signers['sigstore-go']({ ...request, ...makeStatement(folder, artifact, readFileSync(artifact)) }))
  chains.set('a certificate for code signing', files('leaf', [leafOf(bundle), ...authority]))
  const trustedRoot = JSON.parse(readFileSync(material.trustedRoot, 'utf8')) as TrustedRoot
  chains.set('the authority in the trusted root', files('tr-ca', ofTrustedRoot(trustedRoot.certificateAuthorities)))
  chains.set(
    'the timestamp authority in the trusted root',
    files('tr-tsa', ofTrustedRoot(trustedRoot.timestampAuthorities)),
  )
})

describe.each([
  ['the certificate authority', []],
  ['the timestamp authority', ['-purpose', 'timestampsign']],
  ['a certificate for code signing', []],
  ['the authority in the trusted root', []],
  ['the timestamp authority in the trusted root', ['-purpose', 'timestampsign']],
] as const)('%s', (name, purpose) => {
  test('is a chain for openssl verify -x509_strict', async () => {
    expect(succeeded(await verify(chainOf(name), purpose)).stdout).toMatch(/: OK$/m)
  })

  test('is none with one bit changed in any of its certificates', async () => {
    const chain = chainOf(name)
    for (const part of ['leaf', 'between', 'root'] as const) {
      if (readFileSync(chain[part], 'utf8').trim() === '') continue
      const changed = `${chain[part]}.changed`
      writeFileSync(changed, flipSignature(readFileSync(chain[part], 'utf8')))
      expect(refusal(await verify({ ...chain, [part]: changed }, purpose)), part).toMatch(
        /error \d+ at|signature failure/,
      )
    }
  })

  test('is none under another root', async () => {
    const other = name.includes('timestamp') ? 'the certificate authority' : 'the timestamp authority'
    const chain = { ...chainOf(name), between: '/dev/null', root: chainOf(other).leaf }
    // With that leaf as the only anchor nothing of ours leads to it.
    expect(refusal(await verify(chain, purpose))).toMatch(/unable to get (local )?issuer certificate|error \d+ at/)
  })
})

test('the leaf is what the profile says', async () => {
  const { stdout } = succeeded(
    await system('openssl', ['x509', '-in', chainOf('a certificate for code signing').leaf, '-noout', '-text']),
  )
  expect(stdout).toMatch(/X509v3 Subject Alternative Name: critical\s+email:dev@example\.test/)
  expect(stdout).toMatch(/X509v3 Key Usage: critical\s+Digital Signature\n/)
  expect(stdout).toMatch(/X509v3 Extended Key Usage:\s+Code Signing\n/)
  expect(stdout).toMatch(/Subject:\s*\n/)
  expect(stdout).toMatch(/CT Precertificate SCTs:/)
  expect(stdout.match(/Signed Certificate Timestamp:/g)).toHaveLength(1)
  expect(stdout).not.toMatch(/Basic Constraints/)
  expect(stdout).toContain('1.3.6.1.4.1.57264.1.8')
})

async function verify(chain: Chain, purpose: readonly string[]) {
  const between = readFileSync(chain.between, 'utf8').trim() === '' ? [] : ['-untrusted', chain.between]
  return system('openssl', [
    'verify',
    '-x509_strict',
    '-check_ss_sig',
    ...purpose,
    '-CAfile',
    chain.root,
    ...between,
    chain.leaf,
  ])
}

interface TrustedRoot {
  certificateAuthorities: Authority[]
  timestampAuthorities: Authority[]
}
interface Authority {
  certChain: { certificates: { rawBytes: string }[] }
}

function ofTrustedRoot([authority]: readonly Authority[]): string[] {
  return (authority?.certChain.certificates ?? []).map(({ rawBytes }) => pem(rawBytes))
}

function leafOf(bundle: string): string {
  const parsed = JSON.parse(readFileSync(bundle, 'utf8')) as {
    verificationMaterial: { certificate: { rawBytes: string } }
  }
  return pem(parsed.verificationMaterial.certificate.rawBytes)
}

function pem(base64: string): string {
  return `-----BEGIN CERTIFICATE-----\n${(base64.match(/.{1,64}/g) ?? []).join('\n')}\n-----END CERTIFICATE-----\n`
}

function flipSignature(text: string): string {
  return pemBlocks(text)
    .map((block) => {
      const der = Buffer.from(block.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64')
      const last = der.length - 1
      der[last] = (der[last] ?? 0) ^ 1
      return pem(der.toString('base64'))
    })
    .join('')
}

function pemBlocks(text: string): string[] {
  return text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g) ?? []
}

function files(name: string, blocks: readonly string[]): Chain {
  const file = (part: string, content: string): string => {
    const path = join(folder, `${name}-${part}.pem`)
    writeFileSync(path, content)
    return path
  }
  return {
    leaf: file('leaf', blocks[0] ?? ''),
    between: file('between', blocks.slice(1, -1).join('')),
    root: file('root', blocks.at(-1) ?? ''),
  }
}

function chainOf(name: string): Chain {
  const chain = chains.get(name)
  if (chain === undefined) throw new Error(`no chain of ${name}`)
  return chain
}

async function fetched(url: string): Promise<Buffer> {
  const response = await fetch(url)
  if (!response.ok) throw new Error(`${url}: ${response.status}`)
  return Buffer.from(await response.arrayBuffer())
}
