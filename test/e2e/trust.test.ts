/** The trust root as each client fetches it, and verification where there is no network at all. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { client, signers, sigstoreJs, system, type VerifierName, verifiers } from './clients.ts'
import { freshFolder, identityToken, makeArtifact, makeStatement, sharedStack } from './context.ts'
import { refusal, succeeded } from './run.ts'

const stack = sharedStack()
const { material, endpoints, identity } = stack
const folder = freshFolder('trust')
const artifact = makeArtifact(folder)
const bundles = { v1: join(folder, 'v1.json'), v2: join(folder, 'v2.json') }

beforeAll(async () => {
  const tokenFile = await identityToken(identity)
  const files = makeStatement(folder, artifact, readFileSync(artifact))
  for (const log of ['v1', 'v2'] as const) {
    const request = { material, log, kind: 'blob', artifact, tokenFile, bundle: bundles[log], ...files } as const
    succeeded(await signers['sigstore-go'](request))
  }
})

test('the mirror gives cosign and an independent TUF client the same trusted root', () => {
  const host = endpoints.tuf.replace(/^https?:\/\//, '').replaceAll(/[/:]/g, '-')
  const seen = readFileSync(join(material.tufRoot.cosign3, host, 'targets', 'trusted_root.json'), 'utf8')
  expect(seen).toBe(readFileSync(material.trustedRoot, 'utf8'))
})

test('sigstore-python trusts the instance, signs and verifies with it', async () => {
  const home = { env: { HOME: freshFolder('python-home') } }
  const instance = ['--instance', endpoints.tuf]
  const bundle = join(folder, 'python-instance.json')
  const token = readFileSync(await identityToken(identity), 'utf8').trim()
  succeeded(await client('sigstore-python', [instance, 'trust-instance', material.rootJson], home))
  succeeded(
    await client('sigstore-python', [instance, 'sign', '--identity-token', token, '--bundle', bundle, artifact], home),
  )
  const check = [instance, 'verify', 'identity', '--bundle', bundle, '--cert-oidc-issuer', endpoints.oidc].flat()
  succeeded(await client('sigstore-python', [check, '--cert-identity', identity, artifact], home))
  const said = refusal(
    await client('sigstore-python', [check, '--cert-identity', 'other@example.test', artifact], home),
  )
  expect(said).toMatch(/SANs do not match|identity/i)
})

test('sigstore-js verifies with what it fetches by TUF', async () => {
  const request = {
    mirror: endpoints.tuf,
    rootFile: material.rootJson,
    artifact,
    bundle: bundles.v1,
    issuer: endpoints.oidc,
  }
  succeeded(await sigstoreJs('verify-tuf', { ...request, cache: join(folder, 'js-cache'), identity }))
  const other = { ...request, cache: join(folder, 'js-cache-2'), identity: 'other@example.test' }
  expect(refusal(await sigstoreJs('verify-tuf', other))).toMatch(/certificate identity error|identity/i)
})

test('sigstore-go verifies with what it fetches by TUF', async () => {
  const check = ['-artifact', artifact, '-expectedIssuer', endpoints.oidc, '-tufRootURL', endpoints.tuf]
  const home = { cwd: freshFolder('go') }
  succeeded(
    await client(
      'sigstore-go-verify',
      [check, '-tufTrustedRoot', material.rootJson, '-expectedSAN', identity, bundles.v1],
      home,
    ),
  )
})

describe('with no network at all', () => {
  const under = ['unshare', '--map-root-user', '--net']

  test('a fetch fails there', async () => {
    succeeded(await system('curl', ['-sSf', `${endpoints.tuf}/1.root.json`]))
    const said = refusal(await system('curl', ['-sSf', `${endpoints.tuf}/1.root.json`], { under }))
    expect(said).toMatch(/Failed to connect|Couldn't connect|unreachable/i)
  })

  const cells = (Object.keys(verifiers) as VerifierName[]).flatMap((verifier) => [
    { verifier, log: 'v1' as const },
    { verifier, log: 'v2' as const },
  ])

  test.each(cells)('$verifier verifies from bundle and trusted root alone: Rekor $log', async ({ verifier, log }) => {
    const request = {
      material,
      log,
      kind: 'blob',
      artifact,
      bundle: bundles[log],
      issuer: endpoints.oidc,
      under,
    } as const
    succeeded(await verifiers[verifier]({ ...request, identity }))
    refusal(await verifiers[verifier]({ ...request, identity, artifact: material.rootJson }))
  })
})
