/**
 * Admission over rotations: policies that were written before them let in what was signed before and after, where trust
 * comes from our mirror; where it does not, docs/kubernetes.md says what has to be done, and when.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { blockFile, kyverno, policyTester, runCommands, type Values, type Verdict, valuesOf } from './admission.ts'
import type { Material } from './clients.ts'
import { freshFolder, sharedStack } from './context.ts'
import { fetchMaterial } from './global-setup.ts'
import { pushImage, signKeyless } from './images.ts'
import { succeeded } from './run.ts'
import { initialise, runChancery, type Stack, serve } from './stack.ts'
import { LONG, longDescribe } from '../support/long.ts'

const { registry, identity } = sharedStack()
const folder = freshFolder('admission-rotation')
const dataDir = join(folder, 'data')
let stack: Stack
let material: Material
let tokenFile: string
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
  const said = await runChancery(['dev', 'token', '--data', dataDir, '--email', identity])
  tokenFile = join(folder, 'token')
  writeFileSync(tokenFile, succeeded(said).stdout.trim())
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

/** Two images, `<when>-legacy` and `<when>-bundle`. */
async function sign(when: string): Promise<void> {
  for (const form of ['legacy', 'bundle'] as const) {
    const name = `${when}-${form}`
    images[name] = await pushImage(registry, `rotation-${name}`)
    await signKeyless(material, images[name], form, tokenFile)
  }
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

/** How a policy of before is set up, and what it says of all images of this form. */
const setups = {
  'Kyverno, ImageValidatingPolicy': (form: string) =>
    kyverno(blockFile('kyverno-image-validating-policy', values), of(form), freshFolder('tuf')),
  'Kyverno, keys from TUF': (form: string) =>
    kyverno(blockFile(`kyverno-cluster-policy${form === 'bundle' ? '-bundle' : ''}`, values), of(form), looksAgain),
  'Kyverno, keys from a TUF client that has not looked': (form: string) =>
    kyverno(blockFile(`kyverno-cluster-policy${form === 'bundle' ? '-bundle' : ''}`, values), of(form), runsSince),
  'Kyverno, keys in the policy': () =>
    kyverno(join(exports, 'for-kyverno/cluster-policy.yaml'), of('legacy'), freshFolder('tuf')),
  'policy-controller': (form: string) =>
    form === 'bundle'
      ? policyTester({ policy: blockFile('cluster-image-policy-bundle', values) }, of(form), looksAgain)
      : policyTester(
          {
            policy: blockFile('cluster-image-policy', values),
            trustRoot: blockFile('trust-root-remote', values),
          },
          of(form),
          freshFolder('tuf'),
        ),
} satisfies Record<string, (form: string) => Promise<Record<string, Verdict>>>

type Setup = keyof typeof setups
const readsTuf = ['Kyverno, ImageValidatingPolicy', 'Kyverno, keys from TUF', 'policy-controller'] as const

function of(form: string): Record<string, string> {
  return Object.fromEntries(Object.entries(images).filter(([name]) => name.endsWith(form) || name === 'unsigned'))
}

async function judge(setup: Setup, form: 'legacy' | 'bundle'): Promise<Record<string, boolean>> {
  const said = await setups[setup](form)
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
      const said = await setups[setup]('legacy')
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

describe('rotate rekor-v1 --emergency: every policy of before knows the key that stood by', () => {
  beforeAll(() => rotateAndSign('rekor-v1', { words: ['--emergency', '--confirm'], name: 'emergency' }))

  test.each([
    { setup: 'Kyverno, keys in the policy', form: 'legacy' },
    { setup: 'Kyverno, keys from a TUF client that has not looked', form: 'legacy' },
    { setup: 'Kyverno, keys from a TUF client that has not looked', form: 'bundle' },
    { setup: 'policy-controller', form: 'legacy' },
  ] as const)('$setup, $form signature', async ({ setup, form }) => {
    expect(await judge(setup, form)).toEqual(allSigned(form))
  })
})

longDescribe('rotate ct-log', () => {
  beforeAll(async () => {
    await rotate('standby')
    await rotateAndSign('ct-log')
  })
  whoReadsTufLetsInAll()

  test('keys in the policy: what has a certificate from after it stays out', async () => {
    expect(await setups['Kyverno, keys in the policy']()).toMatchObject({
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
