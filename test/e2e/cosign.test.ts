/** cosign, both majors, as their users call them: blobs, images, attestations, static keys, both logs. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { type Arguments, client, predicateType } from './clients.ts'
import { freshFolder, identityToken, makeArtifact, makeStatement, sharedStack } from './context.ts'
import { pushImage } from './images.ts'
import { type Outcome, refusal, succeeded } from './run.ts'

const stack = sharedStack()
const { material, endpoints, registry } = stack
const identityFlags = ['--certificate-identity', stack.identity, '--certificate-oidc-issuer', endpoints.oidc]
const wrongIdentity = ['--certificate-identity', 'other@example.test', '--certificate-oidc-issuer', endpoints.oidc]
const wrongIssuer = ['--certificate-identity', stack.identity, '--certificate-oidc-issuer', 'https://issuer.example']
const folder = freshFolder('cosign')
const artifact = makeArtifact(folder)
const { predicate } = makeStatement(folder, artifact, readFileSync(artifact))
let token: string

beforeAll(async () => {
  token = await identityToken(stack.identity)
})

type Major = 'cosign3' | 'cosign2'

async function cosign(
  major: Major,
  args: Arguments,
  options: { env?: Record<string, string>; cwd?: string } = {},
): Promise<Outcome> {
  return client(major, args, { tufRoot: material.tufRoot[major], ...options })
}

describe.each(['cosign3', 'cosign2'] as const)('%s initialize', (major) => {
  const initialize = ['initialize', '--mirror', endpoints.tuf, '--root']

  test('takes the mirror with the right checksum, from a URL too', async () => {
    const first = `${endpoints.tuf}/1.root.json`
    const outcome = succeeded(await client(major, [initialize, first, '--root-checksum', endpoints.rootChecksum]))
    expect(outcome.text).not.toMatch(/error/i)
  })

  test('refuses a root with another checksum', async () => {
    const checksum = 'ab'.repeat(32)
    const said = refusal(await client(major, [initialize, material.rootJson, '--root-checksum', checksum]))
    expect(said).toMatch(/checksum/i)
  })

  test('refuses a mirror that does not belong to the root', async () => {
    const root = JSON.parse(readFileSync(material.rootJson, 'utf8')) as { signatures: { sig: string }[] }
    for (const signature of root.signatures)
      signature.sig = signature.sig.replace(/..$/, (end) => (end === '00' ? '01' : '00'))
    const forged = join(folder, `forged-root-${major}.json`)
    writeFileSync(forged, JSON.stringify(root))
    expect(refusal(await client(major, [initialize, forged]))).toMatch(/signature|threshold|verif/i)
  })
})

/** The ways to choose a log: what the mirror says, or a signing configuration. */
const ways = [
  { major: 'cosign3', log: 'v1', sign: [], attest: [], verify: [] },
  {
    major: 'cosign3',
    log: 'v2',
    sign: ['--signing-config', material.signingConfig.v2],
    attest: ['--signing-config', material.signingConfig.v2],
    verify: [],
  },
  {
    major: 'cosign2',
    log: 'v1',
    sign: ['--new-bundle-format', '--signing-config', material.signingConfig.v1],
    attest: ['--new-bundle-format', '--signing-config', material.signingConfig.v1],
    verify: ['--new-bundle-format'],
  },
  {
    major: 'cosign2',
    log: 'v2',
    sign: ['--new-bundle-format', '--signing-config', material.signingConfig.v2],
    attest: ['--new-bundle-format', '--signing-config', material.signingConfig.v2],
    verify: ['--new-bundle-format', '--use-signed-timestamps'],
  },
  {
    // Its default path: the old bundle, services named by flags, Fulcio's v1 route.
    major: 'cosign2',
    log: 'v1, old format',
    sign: ['--fulcio-url', endpoints.ca, '--rekor-url', endpoints.rekorV1],
    attest: ['--fulcio-url', endpoints.ca, '--rekor-url', endpoints.rekorV1],
    verify: ['--rekor-url', endpoints.rekorV1],
  },
  {
    major: 'cosign3',
    log: 'v1, old format',
    sign: [
      '--use-signing-config=false',
      '--new-bundle-format=false',
      '--fulcio-url',
      endpoints.ca,
      '--rekor-url',
      endpoints.rekorV1,
    ],
    attest: [
      '--use-signing-config=false',
      '--new-bundle-format=false',
      '--fulcio-url',
      endpoints.ca,
      '--rekor-url',
      endpoints.rekorV1,
    ],
    verify: ['--new-bundle-format=false'],
  },
] as const

describe.each(ways)('$major on Rekor $log', ({ major, log, sign, attest, verify }) => {
  const name = `${major}-${log}`.replaceAll(/[^a-z0-9]+/g, '-')
  const bundle = join(folder, `${name}.json`)
  const attestation = join(folder, `${name}.att.json`)
  let image: string

  beforeAll(async () => {
    image = await pushImage(registry, name)
  })

  test('a blob', async () => {
    succeeded(
      await cosign(major, ['sign-blob', '--yes', ...sign, '--identity-token', token, '--bundle', bundle, artifact]),
    )
    const check = ['verify-blob', ...verify, '--bundle', bundle]
    succeeded(await cosign(major, [check, identityFlags, artifact]))
    expect(refusal(await cosign(major, [check, identityFlags, material.rootJson]))).toMatch(
      /failed to verify signature|matching bundle to payload|invalid signature/i,
    )
    expect(refusal(await cosign(major, [check, wrongIdentity, artifact]))).toMatch(
      /none of the expected identities matched|no matching/i,
    )
    expect(refusal(await cosign(major, [check, wrongIssuer, artifact]))).toMatch(
      /none of the expected identities matched|no matching/i,
    )
  })

  test('a blob attestation', async () => {
    const what = ['--type', 'slsaprovenance1', '--predicate', predicate, '--bundle', attestation]
    succeeded(await cosign(major, ['attest-blob', '--yes', ...attest, '--identity-token', token, what, artifact]))
    const check = ['verify-blob-attestation', ...verify, '--type', 'slsaprovenance1', '--bundle', attestation]
    const outcome = await cosign(major, [check, identityFlags, artifact])
    succeeded(outcome)
    expect(refusal(await cosign(major, [check, identityFlags, material.rootJson]))).toMatch(/digest|subject/i)
    expect(refusal(await cosign(major, [check, wrongIdentity, artifact]))).toMatch(
      /none of the expected identities matched|no matching/i,
    )
  })

  test('an image', async () => {
    succeeded(await cosign(major, ['sign', '--yes', ...sign, '--identity-token', token, image]))
    const check = ['verify', ...verify]
    expect(succeeded(await cosign(major, [check, identityFlags, image])).text).toMatch(
      /The following checks were performed/,
    )
    expect(refusal(await cosign(major, [check, wrongIdentity, image]))).toMatch(
      /none of the expected identities matched|no matching/i,
    )
    expect(refusal(await cosign(major, [check, identityFlags, await pushImage(registry, `${name}-unsigned`)]))).toMatch(
      /no signatures found|no valid bundles exist/i,
    )
  })

  test('an attestation of an image', async () => {
    const what = ['--type', 'slsaprovenance1', '--predicate', predicate]
    succeeded(await cosign(major, ['attest', '--yes', ...attest, '--identity-token', token, what, image]))
    const check = ['verify-attestation', ...verify, '--type', 'slsaprovenance1']
    const envelope = JSON.parse(succeeded(await cosign(major, [check, identityFlags, image])).stdout) as {
      payload: string
    }
    expect(Buffer.from(envelope.payload, 'base64').toString('utf8')).toContain(predicateType)
    expect(refusal(await cosign(major, [check, wrongIdentity, image]))).toMatch(
      /none of the expected identities matched|no matching/i,
    )
  })
})

describe('static keys', () => {
  const keys = { env: { COSIGN_PASSWORD: 'for the tests' }, cwd: folder }

  beforeAll(async () => {
    for (const prefix of ['release', 'other']) {
      succeeded(await client('cosign3', ['generate-key-pair', '--output-key-prefix', prefix], keys))
    }
  })

  test.each([
    { major: 'cosign3', log: 'v1', sign: [], verify: [] },
    { major: 'cosign3', log: 'v2', sign: ['--signing-config', material.signingConfig.v2], verify: [] },
    {
      major: 'cosign2',
      log: 'v1, old format',
      sign: ['--rekor-url', endpoints.rekorV1],
      verify: ['--rekor-url', endpoints.rekorV1],
    },
    {
      major: 'cosign2',
      log: 'v2',
      sign: ['--new-bundle-format', '--signing-config', material.signingConfig.v2],
      verify: ['--new-bundle-format', '--use-signed-timestamps'],
    },
  ] as const)('$major signs and verifies a blob and an image on Rekor $log', async ({ major, log, sign, verify }) => {
    const bundle = join(folder, `key-${major}-${log}.json`.replaceAll(/[ ,]+/g, '-'))
    const signWith = ['--yes', ...sign, '--key', join(folder, 'release.key')]
    const key = ['--key', join(folder, 'release.pub')]
    const other = ['--key', join(folder, 'other.pub')]
    succeeded(await cosign(major, ['sign-blob', signWith, '--bundle', bundle, artifact], keys))
    succeeded(await cosign(major, ['verify-blob', ...verify, key, '--bundle', bundle, artifact]))
    refusal(await cosign(major, ['verify-blob', ...verify, other, '--bundle', bundle, artifact]))
    const image = await pushImage(registry, `key-${major}-${log}`.replaceAll(/[^a-z0-9]+/g, '-'))
    succeeded(await cosign(major, ['sign', signWith, image], keys))
    succeeded(await cosign(major, ['verify', ...verify, key, image]))
    refusal(await cosign(major, ['verify', ...verify, other, image]))
  })
})
