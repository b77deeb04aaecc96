/**
 * Admission over rotations: policies that were written before them let in what was signed before and after, where trust
 * comes from our mirror; where it does not, docs/kubernetes.md says what has to be done, and when.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  blockFile,
  type Images,
  kyverno,
  policyTester,
  runCommands,
  type Values,
  type Verdict,
  valuesOf,
  yamlFile,
} from './admission.ts'
import type { Arguments, Material } from './clients.ts'
import { freshFolder, sharedStack } from './context.ts'
import { fetchMaterial } from './global-setup.ts'
import { pushImage, type SignatureForm, signKeyless } from './images.ts'
import { succeeded } from './run.ts'
import { initialise, runChancery, type Stack, serve } from './stack.ts'
import { LONG, longDescribe } from '../support/long.ts'

const { registry, identity } = sharedStack()
const OTHER = 'other@example.test'
const folder = freshFolder('admission-rotation')
const dataDir = join(folder, 'data')
let stack: Stack
let material: Material
let tokenFile: string
/** Of somebody whom no policy names. */
let otherTokenFile: string
/** As they were when the policies were written. */
let values: Values
/** What was exported when they were written, and while the rotation of the log waited. */
let exports: string
let exportedInTheWait: string
const images: Record<string, string> = {}
/** The TUF folder of a controller that has run since before the rotations, and of one that looked in between. */
const runsSince = join(folder, 'tuf-runs-since')
const looksAgain = join(folder, 'tuf-looks-again')

beforeAll(async () => {
  await initialise(dataDir)
  stack = await serve(dataDir)
  material = await fetchMaterial(join(folder, 'material'), stack.endpoints)
  tokenFile = await tokenOf(identity)
  otherTokenFile = await tokenOf(OTHER)
  const { endpoints } = stack
  values = await valuesOf(endpoints, material, { registry, subject: identity, issuer: endpoints.oidc })
  exports = await runCommands(dataDir, values)
  await sign('before')
  images['unsigned'] = await pushImage(registry, 'rotation-unsigned')
  for (const tufRoot of [runsSince, looksAgain]) await look(tufRoot)
})

afterAll(async () => {
  await stack?.stop()
})

async function tokenOf(email: string): Promise<string> {
  const said = await runChancery(['dev', 'token', '--data', dataDir, '--email', email, '--expires', '3h'])
  const file = join(folder, `token-of-${email}`)
  writeFileSync(file, succeeded(said).stdout.trim())
  return file
}

/** Two images, `<when>-legacy` and `<when>-bundle`. */
async function sign(when: string, token = tokenFile): Promise<void> {
  for (const form of ['legacy', 'bundle'] as const) await signImage(`${when}-${form}`, form, token)
}

async function signImage(name: string, form: SignatureForm, token: string, more: Arguments = []): Promise<void> {
  images[name] = await pushImage(registry, `rotation-${name}`)
  await signKeyless(material, images[name], form, token, more)
}

/** The TUF client of a controller asks the mirror, as it does at its start and when its timestamp has ended. */
async function look(tufRoot: string): Promise<void> {
  await kyverno(blockFile('kyverno-image-validating-policy', values), { unsigned: images['unsigned'] ?? '' }, tufRoot)
}

async function rotate(...words: readonly string[]): Promise<number> {
  const outcome = await runChancery(['rotate', ...words, '--data', dataDir])
  if (outcome.status !== 0 && outcome.status !== 7) succeeded(outcome)
  return outcome.status
}

/** What clients are told of keys, by the names of its files: each publication that changes it adds one. */
function publications(): string[] {
  return readdirSync(join(dataDir, 'trust-root/repository')).filter((name) => name.endsWith('.targets.json'))
}

/** How a policy of before is set up, and what it says of these images, signed in this form. */
const setups = {
  'Kyverno, ImageValidatingPolicy': (_, these) =>
    kyverno(blockFile('kyverno-image-validating-policy', values), these, freshFolder('tuf')),
  'Kyverno, keys from TUF': (form, these) =>
    kyverno(blockFile(`kyverno-cluster-policy${form === 'bundle' ? '-bundle' : ''}`, values), these, looksAgain),
  'Kyverno, keys from a TUF client that has not looked': (form, these) =>
    kyverno(blockFile(`kyverno-cluster-policy${form === 'bundle' ? '-bundle' : ''}`, values), these, runsSince),
  'Kyverno, keys in the policy': (_, these) =>
    kyverno(join(exports, 'for-kyverno/cluster-policy.yaml'), these, freshFolder('tuf')),
  'policy-controller': (form, these) =>
    form === 'bundle'
      ? policyTester({ policy: blockFile('cluster-image-policy-bundle', values) }, these, looksAgain)
      : policyTester(
          {
            policy: blockFile('cluster-image-policy', values),
            trustRoot: blockFile('trust-root-remote', values),
          },
          these,
          freshFolder('tuf'),
        ),
  'policy-controller, keys in the TrustRoot': (_, these) =>
    policyTester(exportedTrustRoot('keys'), these, freshFolder('tuf')),
  'policy-controller, repository in the TrustRoot': (_, these) =>
    policyTester(exportedTrustRoot('repository'), these, freshFolder('tuf')),
} satisfies Record<string, (form: SignatureForm, these: Images) => Promise<Record<string, Verdict>>>

type Setup = keyof typeof setups
const readsTuf = ['Kyverno, ImageValidatingPolicy', 'Kyverno, keys from TUF', 'policy-controller'] as const

function exportedTrustRoot(form: 'keys' | 'repository'): { policy: string; trustRoot: string } {
  const file = (name: string) => join(exports, 'for-policy-controller', `${name}.yaml`)
  return { policy: file('cluster-image-policy'), trustRoot: file(`trust-root-${form}`) }
}

/** What was signed in this form by whom the policies name, and the unsigned image. */
function of(form: string): Record<string, string> {
  const isMeant = (name: string) => (name.endsWith(form) && !name.startsWith('other')) || name === 'unsigned'
  return Object.fromEntries(Object.entries(images).filter(([name]) => isMeant(name)))
}

async function judge(setup: Setup, form: SignatureForm): Promise<Record<string, boolean>> {
  const said = await setups[setup](form, of(form))
  return Object.fromEntries(Object.entries(said).map(([name, { admitted }]) => [name, admitted]))
}

/** Everything signed gets in, and nothing else. */
function allSigned(form: string): Record<string, boolean> {
  return Object.fromEntries(Object.keys(of(form)).map((name) => [name, name !== 'unsigned']))
}

interface Rotating {
  /** More words for the command. */
  readonly words?: readonly string[]
  /** What the images are called; `after-<kind>` unless told. */
  readonly name?: string
  /** Done when the new key is published and clients' caches are waited for. */
  readonly inTheWait?: () => Promise<void>
}

/** Rotates, and signs with what is new. */
async function rotateAndSign(kind: string, { words = [], name, inTheWait }: Rotating = {}): Promise<void> {
  if ((await rotate(kind, ...words)) === 7) {
    await look(looksAgain)
    await inTheWait?.()
    expect(await rotate('resume', '--shorten=i-accept-that-cached-clients-may-refuse')).toBe(0)
  }
  await sign(name ?? `after-${kind}`)
}

function whoReadsTufLetsInAll(): void {
  test.each(readsTuf.flatMap((setup) => (['legacy', 'bundle'] as const).map((form) => ({ setup, form }))))(
    '$setup: what was signed before and after gets in, as a $form signature',
    async ({ setup, form }) => {
      expect(await judge(setup, form)).toEqual(allSigned(form))
    },
  )
}

describe('rotate rekor-v1', () => {
  beforeAll(() =>
    rotateAndSign('rekor-v1', {
      inTheWait: async () => {
        exportedInTheWait = await runCommands(dataDir, values)
      },
    }),
  )
  whoReadsTufLetsInAll()
})

/** The usual run has the first. */
describe.each(['issuing-ca', ...(LONG ? ['tuf-online', 'tuf-root', 'tsa', 'rekor-v2'] : [])])('rotate %s', (kind) => {
  beforeAll(() => rotateAndSign(kind))
  whoReadsTufLetsInAll()
})

describe('a policy that does not know the new key of the log', () => {
  const unknownKey = /rekor log public key not found for payload/

  test.each(['Kyverno, keys in the policy', 'Kyverno, keys from a TUF client that has not looked'] as const)(
    '%s: lets in what was signed before, and says why not what was signed after',
    async (setup) => {
      const said = await setups[setup]('legacy', of('legacy'))
      expect(said).toMatchObject({
        'before-legacy': { admitted: true },
        'after-rekor-v1-legacy': { admitted: false, words: expect.stringMatching(unknownKey) as unknown },
        'after-issuing-ca-legacy': { admitted: false, words: expect.stringMatching(unknownKey) as unknown },
      })
    },
  )

  test('exported while the rotation waited it lets in all', async () => {
    exports = exportedInTheWait
    expect(await judge('Kyverno, keys in the policy', 'legacy')).toEqual(allSigned('legacy'))
  })

  test('after its next look it lets in all', async () => {
    await look(runsSince)
    expect(await judge('Kyverno, keys from a TUF client that has not looked', 'legacy')).toEqual(allSigned('legacy'))
  })
})

/** The usual run has the first four. */
const everySetup: readonly { setup: Setup; form: SignatureForm }[] = [
  { setup: 'Kyverno, keys in the policy', form: 'legacy' },
  { setup: 'Kyverno, keys from a TUF client that has not looked', form: 'legacy' },
  { setup: 'Kyverno, keys from a TUF client that has not looked', form: 'bundle' },
  { setup: 'policy-controller', form: 'legacy' },
  { setup: 'policy-controller', form: 'bundle' },
  { setup: 'policy-controller, keys in the TrustRoot', form: 'legacy' },
  { setup: 'policy-controller, repository in the TrustRoot', form: 'legacy' },
  { setup: 'Kyverno, ImageValidatingPolicy', form: 'legacy' },
  { setup: 'Kyverno, ImageValidatingPolicy', form: 'bundle' },
]

describe('rotate rekor-v1 --emergency: every policy of before knows the key that stood by', () => {
  beforeAll(async () => {
    // In the full set all that is exported is tried, and some of it has to be made anew after each rotation.
    if (LONG) exports = await runCommands(dataDir, values)
    await rotateAndSign('rekor-v1', { words: ['--emergency', '--confirm'], name: 'emergency' })
  })

  test.each(LONG ? everySetup : everySetup.slice(0, 4))('$setup, $form signature', async ({ setup, form }) => {
    expect(await judge(setup, form)).toEqual(allSigned(form))
  })
})

/** `only`: the other form has nothing of what changes. */
const emergencies: readonly { kind: string; only?: SignatureForm }[] = [
  { kind: 'issuing-ca' },
  { kind: 'ct-log' },
  { kind: 'tsa', only: 'bundle' },
  { kind: 'rekor-v2', only: 'bundle' },
]

longDescribe('emergencies, one after the other, with what was exported before them', () => {
  let published: string[]

  beforeAll(() => {
    published = publications()
  })

  describe.each(emergencies)('rotate $kind --emergency', ({ kind, only }) => {
    const name = `emergency-${kind}`

    beforeAll(async () => {
      await rotateAndSign(kind, { words: ['--emergency', '--confirm'], name })
      await sign(`other-${name}`, otherTokenFile)
      const inRekorV2 = ['--signing-config', material.signingConfig.v2]
      await signImage(`${name}-in-rekor-v2-bundle`, 'bundle', tokenFile, inRekorV2)
    })

    test.each(everySetup.filter(({ form }) => form === (only ?? form)))(
      '$setup, $form signature: what was signed before and after gets in, and nobody else',
      async ({ setup, form }) => {
        const these = [`before-${form}`, `${name}-${form}`, `other-${name}-${form}`, 'unsigned']
        if (form === 'bundle') these.push(`${name}-in-rekor-v2-bundle`)
        const said = await setups[setup](form, Object.fromEntries(these.map((each) => [each, images[each] ?? ''])))
        for (const each of these) expect.soft({ name: each, ...said[each] }).toMatchObject(verdictOn(each))
      },
    )
  })

  test('nothing was published', () => {
    expect(publications()).toEqual(published)
  })

  test.each([
    { list: 'tLogs', before: 'after-issuing-ca', after: 'emergency', words: /rekor log public key not found/ },
    { list: 'certificateAuthorities', before: 'emergency', after: 'emergency-issuing-ca', words: /unknown authority/ },
    { list: 'ctLogs', before: 'emergency-issuing-ca', after: 'emergency-ct-log', words: /ctfe public key not found/ },
  ])(
    'where $list of a TrustRoot have only what signed then, $after stays out',
    async ({ list, before, after, words }) => {
      const these = [before, after].map((when) => `${when}-legacy`)
      const { policy, trustRoot } = exportedTrustRoot('keys')
      const cut = JSON.parse(readFileSync(trustRoot, 'utf8')) as { spec: { sigstoreKeys: Record<string, unknown[]> } }
      cut.spec.sigstoreKeys[list]?.splice(1)
      const said = await policyTester(
        { policy, trustRoot: yamlFile('cut', JSON.stringify(cut)) },
        Object.fromEntries(these.map((each) => [each, images[each] ?? ''])),
        freshFolder('tuf'),
      )
      expect(these.map((each) => said[each])).toMatchObject([
        { admitted: true },
        { admitted: false, words: expect.stringMatching(words) as unknown },
      ])
    },
  )
})

/** A refusal counts only with its own words. */
function verdictOn(name: string): object {
  const refused = (words: RegExp) => ({ admitted: false, words: expect.stringMatching(words) as unknown })
  if (name === 'unsigned') return refused(/no signatures found|no matching signatures found|no valid bundles exist/)
  if (name.startsWith('other')) {
    return refused(
      /(?:subject mismatch|none of the expected identities matched|expected SAN value).*other@example\.test/s,
    )
  }
  return { admitted: true }
}

longDescribe('rotate ct-log', () => {
  beforeAll(async () => {
    await rotate('standby')
    await rotateAndSign('ct-log')
  })
  whoReadsTufLetsInAll()

  test('keys in the policy: what has a certificate from after it stays out', async () => {
    expect(await setups['Kyverno, keys in the policy']('legacy', of('legacy'))).toMatchObject({
      'before-legacy': { admitted: true },
      'after-rekor-v1-legacy': { admitted: true },
      'after-ct-log-legacy': { admitted: false, words: expect.stringMatching(/ctfe public key not found/) as unknown },
    })
  })
})

longDescribe('rotate root-ca', () => {
  let before: Values

  beforeAll(() =>
    rotateAndSign('root-ca', {
      inTheWait: async () => {
        before = values
        values = { ...values, ROOT_CERTIFICATE: await rootsOfAnExport() }
      },
    }),
  )
  whoReadsTufLetsInAll()

  test('a policy with the former root alone keeps out what the new one vouches for', async () => {
    const policy = blockFile('kyverno-cluster-policy', before)
    expect(await kyverno(policy, of('legacy'), looksAgain)).toMatchObject({
      'before-legacy': { admitted: true },
      'after-root-ca-legacy': {
        admitted: false,
        words: expect.stringMatching(/certificate signed by unknown authority/) as unknown,
      },
    })
  })
})

async function rootsOfAnExport(): Promise<string> {
  const file = join(await runCommands(dataDir, values), 'for-kyverno/cluster-policy.yaml')
  const policy = JSON.parse(readFileSync(file, 'utf8')) as {
    spec: { rules: { verifyImages: { attestors: { entries: { keyless: { roots: string } }[] }[] }[] }[] }
  }
  return policy.spec.rules[0]?.verifyImages[0]?.attestors[0]?.entries[0]?.keyless.roots ?? ''
}
