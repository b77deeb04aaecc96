/**
 * Who gets into a cluster: the policies of docs/kubernetes.md, judged by Kyverno and by policy-controller, with the trust
 * of our TUF mirror. A refusal counts only with its own words.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  blockFile,
  type Images,
  kyverno,
  policyTester,
  runCommands,
  type Values,
  valuesOf,
  yamlFile,
} from './admission.ts'
import { freshFolder, identityToken, sharedStack } from './context.ts'
import { hostileAuthority, hostileCtLog } from './hostile-authority.ts'
import { moveSignature, pushImage, signAsForeigner, signKeyless } from './images.ts'

const { endpoints, material, registry, identity, dataDir } = sharedStack()
const issuer = endpoints.oidc
/** The TUF folder of a controller that was told of our mirror; all others start from nothing. */
const toldOfUs = freshFolder('told-of-us')
const images: Record<string, string> = {}
let values: Values
/** The folder with what `chancery trust export` wrote. */
let exports: string

beforeAll(async () => {
  const token = await identityToken(identity)
  const other = await identityToken('other@example.test')
  const push = async (name: string): Promise<string> => (images[name] = await pushImage(registry, `admission-${name}`))
  const foreign = {
    authority: await hostileAuthority(),
    ctLog: hostileCtLog(),
    identity,
    issuer,
    trustedRoot: readFileSync(material.trustedRoot, 'utf8'),
  }
  for (const form of ['legacy', 'bundle'] as const) {
    await signKeyless(material, await push(`signed-${form}`), form, token)
    await signKeyless(material, await push(`other-${form}`), form, other)
    await signAsForeigner(material, await push(`foreign-${form}`), form, foreign)
  }
  await signKeyless(material, await push('signed-rekor-v2'), 'bundle', token, [
    '--signing-config',
    material.signingConfig.v2,
  ])
  await push('unsigned')
  await moveSignature(images['signed-legacy'] ?? '', await push('signature-of-another'))
  values = await valuesOf(endpoints, material, { registry, subject: identity, issuer })
  exports = await runCommands(dataDir, values)
  // What a controller does at its start with --enableTuf, or policy-controller's webhook with --tuf-root.
  await kyverno(blockFile('kyverno-image-validating-policy', values), some('unsigned'), toldOfUs)
})

function some(...names: readonly string[]): Images {
  return Object.fromEntries(names.map((name) => [name, images[name] ?? '']))
}

/** What cosign says of signatures of the older form, in whatever program it is. */
const legacy = {
  'signed-legacy': undefined,
  'other-legacy': /none of the expected identities matched.*other@example\.test/s,
  'foreign-legacy': /certificate signed by unknown authority/,
  'signature-of-another': /invalid or missing digest in claim/,
  unsigned: /no signatures found/,
  'signed-bundle': /no signatures found/,
}
const mismatch = /subject mismatch: expected dev@example\.test, received other@example\.test/
const bundles = {
  'signed-bundle': undefined,
  'signed-rekor-v2': undefined,
  'other-bundle': /expected SAN value \\?"dev@example\.test\\?", got \\?"other@example\.test\\?"/,
  'foreign-bundle': /leaf certificate verification failed/,
}

interface Row {
  /** A block of the document, or a file of an export. */
  readonly policy: string
  readonly trustRoot?: string
  /** Where trust comes from the program's own TUF folder: that which was told of our mirror. */
  readonly tufRoot?: string
  /** The image, and what is said when it stays out; undefined for one that is let in. */
  readonly verdicts: Readonly<Record<string, RegExp | undefined>>
}

function fileOf(name: string): string {
  return name.includes('/') ? join(exports, name) : blockFile(name, values)
}

const imageValidating = { ...legacy, ...bundles, 'foreign-legacy': /leaf certificate verification failed/ }
const noBundle = /no matching signatures found/
const kyvernoRows: Row[] = [
  { policy: 'kyverno-image-validating-policy', verdicts: imageValidating },
  { policy: 'for-kyverno/image-validating-policy.yaml', verdicts: imageValidating },
  { policy: 'kyverno-cluster-policy', tufRoot: toldOfUs, verdicts: { ...legacy, 'other-legacy': mismatch } },
  { policy: 'for-kyverno/cluster-policy.yaml', verdicts: { ...legacy, 'other-legacy': mismatch } },
  {
    policy: 'kyverno-cluster-policy-bundle',
    tufRoot: toldOfUs,
    verdicts: { ...bundles, unsigned: noBundle, 'signed-legacy': noBundle },
  },
]

const bundlesAlone = { ...bundles, unsigned: /no valid bundles exist/, 'signed-legacy': /no valid bundles exist/ }
const testerRows: Row[] = [
  { policy: 'cluster-image-policy', trustRoot: 'trust-root-remote', verdicts: legacy },
  { policy: 'cluster-image-policy-bundle', tufRoot: toldOfUs, verdicts: bundlesAlone },
  ...['remote', 'repository', 'keys'].map((form) => ({
    policy: 'for-policy-controller/cluster-image-policy.yaml',
    trustRoot: `for-policy-controller/trust-root-${form}.yaml`,
    verdicts: legacy,
  })),
  { policy: 'for-policy-controller/cluster-image-policy-bundle.yaml', tufRoot: toldOfUs, verdicts: bundlesAlone },
]

describe('Kyverno', () => {
  test.each(kyvernoRows)('$policy lets in what it must, and nothing else', async ({ policy, tufRoot, verdicts }) => {
    const said = await kyverno(fileOf(policy), some(...Object.keys(verdicts)), tufRoot ?? freshFolder('no-tuf'))
    for (const [name, words] of Object.entries(verdicts)) {
      expect.soft({ name, ...said[name] }).toMatchObject(expected(words))
    }
  })

  test('without our TUF root nothing gets in by keys that do not stand in the policy', async () => {
    const unknown = { ...values, TUF_ROOT: Buffer.from('{}').toString('base64') }
    const file = blockFile('kyverno-image-validating-policy', unknown)
    const verdict = (await kyverno(file, some('signed-legacy'), freshFolder('empty-tuf')))['signed-legacy']
    expect(verdict).toMatchObject({ admitted: false, words: expect.stringMatching(/failed to initialize TUF client/) })
  })
})

describe('policy-controller', () => {
  test.each(testerRows)('$policy with $trustRoot lets in what it must, and nothing else', async (row) => {
    const trustRoot = row.trustRoot === undefined ? {} : { trustRoot: fileOf(row.trustRoot) }
    const said = await policyTester(
      { policy: fileOf(row.policy), ...trustRoot },
      some(...Object.keys(row.verdicts)),
      row.tufRoot ?? freshFolder('no-tuf'),
    )
    for (const [name, words] of Object.entries(row.verdicts)) {
      expect.soft({ name, ...said[name] }).toMatchObject(expected(words))
    }
  })

  test.each([
    ['remote', /unsupported TrustedRoot media type/],
    ['keys', /not enough verified log entries/],
  ])('bundles under a TrustRoot (%s) are refused still: docs/kubernetes.md says so', async (form, words) => {
    const written = readFileSync(fileOf('for-policy-controller/cluster-image-policy-bundle.yaml'), 'utf8')
    const policy = JSON.parse(written) as {
      spec: { authorities: { keyless: { trustRootRef?: string }; ctlog: { trustRootRef?: string } }[] }
    }
    for (const { keyless, ctlog } of policy.spec.authorities) {
      keyless.trustRootRef = 'chancery'
      ctlog.trustRootRef = 'chancery'
    }
    const said = await policyTester(
      {
        policy: yamlFile('under-a-trust-root', JSON.stringify(policy)),
        trustRoot: fileOf(`for-policy-controller/trust-root-${form}.yaml`),
      },
      some('signed-bundle'),
      freshFolder('no-tuf'),
    )
    expect(said['signed-bundle']).toMatchObject(expected(words))
  })
})

function expected(words: RegExp | undefined): object {
  return words === undefined ? { admitted: true } : { admitted: false, words: expect.stringMatching(words) as unknown }
}
