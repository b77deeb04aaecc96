/**
 * That a certificate was logged is checked: by certificates of an authority that every verifier is told to trust here,
 * alike in everything but their SCT.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import type { Material } from './clients.ts'
import { freshFolder, makeArtifact, sharedStack } from './context.ts'
import { handmadeBundle } from './handmade-bundle.ts'
import { type CertificateRequest, hostileAuthority, hostileCtLog, trustingToo } from './hostile-authority.ts'
import { type JudgeName, judgement, judges } from './judges.ts'
import { refusal, succeeded } from './run.ts'

const stack = sharedStack()
const { identity } = stack
const issuer = stack.endpoints.oidc
const folder = freshFolder('sct')
const artifact = makeArtifact(folder)
const judgeNames = Object.keys(judges) as JudgeName[]
let material: Material

const authority = await hostileAuthority()
const listed = hostileCtLog()
const unlisted = hostileCtLog()

/** By whom it is said: sigstore-go for both cosigns, @sigstore/verify for `chancery verify`. */
interface Said {
  readonly go: RegExp
  readonly js: RegExp
  readonly python: RegExp
}

const tooFew =
  /failed to verify signed certificate timestamp: only able to verify 0 SCT entries; unable to meet threshold of 1/
const noSct: Said = {
  go: tooFew,
  js: /expected 1 SCTs, got 0/,
  python:
    /failed to verify SCT on signing certificate: Certificate does not contain a signed certificate timestamp extension/,
}
const badSct: Said = {
  go: tooFew,
  js: /SCT verification failed/,
  python: /failed to verify SCT on signing certificate: SCT verify failed: keyring: invalid signature/,
}

const cases: readonly { name: string; sct?: CertificateRequest['sct']; said: Said }[] = [
  { name: 'no SCT', said: noSct },
  { name: 'an SCT of an unlisted CT key', sct: (entry) => unlisted.sct(entry), said: badSct },
  {
    name: 'an SCT of an unlisted CT key under the name of a listed log',
    sct: (entry) => unlisted.sct(entry, listed.logId),
    said: badSct,
  },
  {
    name: 'an SCT over another certificate',
    sct: ({ issuerKeyHash, tbsDer }) => listed.sct({ issuerKeyHash, tbsDer: tbsDer.toReversed() }),
    said: badSct,
  },
  {
    name: 'an SCT for another issuer',
    sct: ({ issuerKeyHash, tbsDer }) => listed.sct({ issuerKeyHash: issuerKeyHash.toReversed(), tbsDer }),
    said: badSct,
  },
]

beforeAll(() => {
  const trustedRoot = join(folder, 'trusted_root.json')
  const root = trustingToo(readFileSync(stack.material.trustedRoot, 'utf8'), authority, listed)
  writeFileSync(trustedRoot, root)
  const trustConfig = { v1: join(folder, 'trust-v1.json'), v2: join(folder, 'trust-v2.json') }
  for (const log of ['v1', 'v2'] as const) {
    const config = JSON.parse(readFileSync(stack.material.trustConfig[log], 'utf8')) as Record<string, unknown>
    writeFileSync(trustConfig[log], JSON.stringify({ ...config, trustedRoot: JSON.parse(root) as unknown }))
  }
  material = { ...stack.material, trustedRoot, trustConfig }
})

describe.each(['v1', 'v2'] as const)('a certificate whose signature is on Rekor %s', (log) => {
  const sign = async (name: string, sct: CertificateRequest['sct']): Promise<string> => {
    const certificate = await authority.issue({ identity, issuer, ...(sct === undefined ? {} : { sct }) })
    const bundle = join(folder, `${name.replaceAll(' ', '-')}-${log}.json`)
    const request = { material, rekorV2: stack.endpoints.rekorV2, log, certificate, artifact: readFileSync(artifact) }
    writeFileSync(bundle, await handmadeBundle(request))
    return bundle
  }
  const request = (bundle: string) => ({ material, log, kind: 'blob', artifact, bundle, identity, issuer }) as const

  describe('with a proper SCT', () => {
    let bundle: string
    beforeAll(async () => {
      bundle = await sign('proper', (entry) => listed.sct(entry))
    })

    test.concurrent.each(judgeNames)('%s verifies', async (judge) => {
      succeeded(await judges[judge](request(bundle)))
    })
  })

  describe.each(cases)('with $name', ({ name, sct, said }) => {
    let bundle: string
    beforeAll(async () => {
      bundle = await sign(name, sct)
    })

    test.concurrent.each(judgeNames)('%s refuses', async (judge) => {
      const outcome = await judges[judge](request(bundle))
      refusal(outcome)
      expect(judgement(outcome)).toMatch(saidBy(judge, said))
    })
  })
})

function saidBy(judge: JudgeName, { go, js, python }: Said): RegExp {
  if (judge === 'sigstore-python') return python
  if (judge === 'sigstore-js') return js
  return judge === 'chancery' ? new RegExp(`refused \\(untrusted_certificate\\): ${js.source}`) : go
}
