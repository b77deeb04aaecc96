/** An installation with RSA authorities and Ed25519 TUF keys, before every client. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Material, signers, system, type VerifierName, verifiers } from './clients.ts'
import { freshFolder, makeArtifact, makeStatement } from './context.ts'
import { fetchMaterial, firstEntries } from './global-setup.ts'
import { succeeded } from './run.ts'
import { initialise, runChancery, serve, type Stack } from './stack.ts'

const folder = freshFolder('key-kinds')
const identity = 'dev@example.test'
let stack: Stack
let material: Material
let request: Parameters<(typeof signers)['cosign 3']>[0]

beforeAll(async () => {
  const dataDir = join(folder, 'data')
  const kinds = ['root-ca=rsa-4096', 'issuing-ca=rsa-3072', 'tuf-root=ed25519', 'tuf-online=ed25519']
  await initialise(
    dataDir,
    kinds.flatMap((kind) => ['--kind', kind]),
  )
  stack = await serve(dataDir)
  // tuf-js and go-tuf read the repository here, in both cosigns.
  material = await fetchMaterial(join(folder, 'material'), stack.endpoints)
  await firstEntries(material, folder, dataDir)
  const artifact = makeArtifact(folder)
  const { stdout } = succeeded(await runChancery(['dev', 'token', '--data', dataDir, '--email', identity]))
  const tokenFile = join(folder, 'token')
  await system('sh', ['-c', 'printf %s "$1" >"$2"', 'sh', stdout.trim(), tokenFile])
  const files = makeStatement(folder, artifact, readFileSync(artifact))
  const bundle = join(folder, 'bundle.json')
  request = { material, log: 'v1', kind: 'blob', artifact, tokenFile, bundle, ...files }
  succeeded(await signers['cosign 3'](request))
})

afterAll(async () => await stack.stop())

test('the chain is RSA and the TUF keys are Ed25519', async () => {
  const authorities = await fetch(`${stack.endpoints.ca}/api/v1/rootCert`)
  const chain = join(folder, 'chain.pem')
  await system('sh', ['-c', 'printf %s "$1" >"$2"', 'sh', await authorities.text(), chain])
  const { stdout } = succeeded(await system('openssl', ['x509', '-in', chain, '-noout', '-text']))
  expect(stdout).toContain('Public-Key: (3072 bit)')
  expect(stdout).toContain('Signature Algorithm: sha256WithRSAEncryption')
  const root = JSON.parse(readFileSync(material.rootJson, 'utf8')) as {
    signed: { keys: Record<string, { keytype: string }> }
  }
  expect(new Set(Object.values(root.signed.keys).map(({ keytype }) => keytype))).toEqual(new Set(['ed25519']))
})

test.each(Object.keys(verifiers) as VerifierName[])('%s verifies', async (name) => {
  succeeded(await verifiers[name]({ ...request, identity, issuer: stack.endpoints.oidc }))
})
