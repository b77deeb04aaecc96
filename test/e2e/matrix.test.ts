/** Every client signs, every client verifies every other's bundle, on both logs; and each refuses it once it is changed. */
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import {
  type Kind,
  type LogVersion,
  signers,
  type SignerName,
  sigstoreJs,
  type VerifierName,
  verifiers,
} from './clients.ts'
import { freshFolder, identityToken, makeArtifact, makeStatement, sharedStack } from './context.ts'
import { expectedRed } from './known-red.ts'
import { type Bundle, mutate, type Mutation } from './mutate-bundle.ts'
import { namedRefusals, oneLine } from './named-refusals.ts'
import { refusal, succeeded } from './run.ts'

type AnySigner = SignerName | 'sigstore-js intoto'

const stack = sharedStack()
const folder = freshFolder('matrix')
const artifact = makeArtifact(folder)
const { predicate, statement } = makeStatement(folder, artifact, readFileSync(artifact))
const tampered = join(folder, 'tampered.txt')
copyFileSync(artifact, tampered)
writeFileSync(tampered, 'one more line\n', { flag: 'a' })

const signerNames = Object.keys(signers) as SignerName[]
const verifierNames = Object.keys(verifiers) as VerifierName[]
const outcomes = new Map<string, string>()

const mutationsOf: Readonly<Record<LogVersion, readonly Mutation[]>> = {
  // On v1 the SET gives the time, so that a broken timestamp is merely one that does not count.
  v1: ['SET', 'proof', 'checkpoint', 'index', 'signature'],
  v2: ['proof', 'checkpoint', 'index', 'timestamp', 'signature'],
}

for (const log of ['v1', 'v2'] as const) {
  for (const kind of ['blob', 'attestation'] as const) {
    const legacy: AnySigner[] = log === 'v1' && kind === 'attestation' ? ['sigstore-js intoto'] : []
    for (const signer of [...signerNames, ...legacy]) {
      describe(`${signer} signs: ${kind} on Rekor ${log}`, () => {
        const bundle = join(folder, `${signer}-${log}-${kind}.json`.replaceAll(' ', '-'))

        test('signs', async () => {
          await sign(signer, log, kind, bundle)
          const parsed = JSON.parse(readFileSync(bundle, 'utf8')) as Bundle
          expect(parsed.verificationMaterial.tlogEntries).toHaveLength(1)
          const timestamps = parsed.verificationMaterial.timestampVerificationData?.rfc3161Timestamps ?? []
          // sigstore-python only warns when it gets no timestamp.
          expect(timestamps).toHaveLength(1)
        })

        test.concurrent.each(verifierNames)('%s verifies', async (verifier) => {
          await cell(signer, verifier, log, kind, bundle)
        })
      })
    }
  }
}

afterAll(() => {
  console.log(table())
})

async function sign(signer: AnySigner, log: LogVersion, kind: Kind, bundle: string): Promise<void> {
  const tokenFile = await identityToken(stack.identity)
  const { material } = stack
  if (signer === 'sigstore-js intoto') {
    const { ca, rekorV1: rekor, timestamp } = material
    const tsa = new URL(timestamp).origin
    succeeded(await sigstoreJs('legacy', { ca, rekor, tsa, tokenFile, artifact: statement, bundle }))
    return
  }
  succeeded(await signers[signer]({ material, log, kind, artifact, statement, predicate, tokenFile, bundle }))
}

async function cell(
  signer: AnySigner,
  verifier: VerifierName,
  log: LogVersion,
  kind: Kind,
  bundle: string,
): Promise<void> {
  const key = [log, kind, signer, verifier].join('/')
  outcomes.set(key, 'FAILED')
  expect(existsSync(bundle), 'the signer left a bundle').toBe(true)
  const request = {
    material: stack.material,
    log,
    kind,
    bundle,
    identity: stack.identity,
    issuer: stack.endpoints.oidc,
  }
  const outcome = await verifiers[verifier]({ ...request, artifact })
  const red = expectedRed(signer, verifier, log, kind)
  if (red !== undefined) {
    expect(oneLine(refusal(outcome))).toMatch(red.refusal)
    outcomes.set(key, 'known red')
    return
  }
  succeeded(outcome)
  // What was just accepted is refused once anything of it is untrue.
  const original = JSON.parse(readFileSync(bundle, 'utf8')) as Bundle
  for (const mutation of mutationsOf[log]) {
    const mutated = mutate(original, mutation)
    if (mutated === undefined) throw new Error(`the bundle has nothing to mutate for: ${mutation}`)
    const file = `${bundle}.${verifier.replace(' ', '-')}.${mutation}.json`
    writeFileSync(file, JSON.stringify(mutated))
    const said = refusal(await verifiers[verifier]({ ...request, bundle: file, artifact }))
    expect(oneLine(said), mutation).toMatch(namedRefusals[verifier][mutation])
  }
  const others = {
    artifact: { artifact: tampered },
    identity: { identity: 'other@example.test' },
    issuer: { issuer: 'https://issuer.example' },
  } as const
  for (const fault of ['artifact', 'identity', 'issuer'] as const) {
    const said = refusal(await verifiers[verifier]({ ...request, artifact, ...others[fault] }))
    expect(oneLine(said), fault).toMatch(namedRefusals[verifier][fault])
  }
  outcomes.set(key, 'ok')
}

function table(): string {
  const rows = [...new Set([...outcomes.keys()].map((key) => key.split('/').slice(0, 3).join('/')))]
  const lines = [['log', 'kind', 'signer', ...verifierNames]]
  for (const row of rows) {
    lines.push([...row.split('/'), ...verifierNames.map((verifier) => outcomes.get(`${row}/${verifier}`) ?? 'not run')])
  }
  const widths = (lines[0] ?? []).map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)))
  return lines.map((line) => line.map((text, column) => text.padEnd(widths[column] ?? 0)).join('  ')).join('\n')
}
