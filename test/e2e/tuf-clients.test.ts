/**
 * Four TUF clients that this project did not write, and cosign, take every step of a repository from every state that
 * they may have cached before it.
 */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { copyState, cosignTrustedRoot, openTufClients, type TufClients, tufClientNames } from './tuf-clients.ts'
import { openMirror } from './tuf-repository.ts'
import { succeeded } from './run.ts'
import { makeSteps, type MadeSteps, stepNames } from './tuf-steps.ts'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-tuf-clients-'))
let clients: TufClients
let made: MadeSteps
let mirror: Awaited<ReturnType<typeof openMirror>>

beforeAll(async () => {
  clients = openTufClients()
  mirror = await openMirror(scratch)
  made = await makeSteps(scratch, mirror)
})

afterAll(async () => {
  await made?.close()
  await mirror?.close()
  await clients?.close()
  rmSync(scratch, { recursive: true, force: true })
})

/** Where a client's cache after a step is kept. */
const cacheAfter = (client: string, at: number) => join(scratch, 'caches', client.replaceAll(' ', '-'), String(at))

describe.each(tufClientNames)('%s', (name) => {
  test.each(stepNames.map((step, at) => ({ step, at })))(
    'takes "$step" from every cached earlier state',
    async ({ at }) => {
      const step = made.steps[at]
      if (step === undefined) throw new Error('the step was not made')
      mirror.show(step.name)
      const expected = { versions: step.versions, targets: step.targets }
      const request = { root: made.firstRoot, mirror: mirror.url, targets: Object.keys(step.targets) }
      // From nothing, and from each earlier step.
      for (let before = -1; before < at; before += 1) {
        const state = join(scratch, 'trying')
        rmSync(state, { recursive: true, force: true })
        copyState(cacheAfter(name, before), state)
        const from = made.steps[before]?.name ?? 'nothing'
        expect(await clients.refresh(name, { ...request, state }), `from "${from}"`).toEqual(expected)
        if (before < at - 1) continue
        expect(await clients.refresh(name, { ...request, state }), 'with nothing new').toEqual(expected)
        cpSync(state, cacheAfter(name, at), { recursive: true, verbatimSymlinks: true })
      }
    },
  )
})

/** cosign 3, which begins anew with `initialize` and after that trusts what it has cached. */
describe('cosign 3', () => {
  test('takes every step from the one before and from the first one', async () => {
    for (const [at, step] of made.steps.entries()) {
      mirror.show(step.name)
      const published = JSON.parse(
        Buffer.from(step.files.get('trusted_root.json') ?? '').toString('utf8'),
      ) as TrustedRoot
      for (const before of at < 2 ? [at - 1] : [0, at - 1]) {
        const state = join(scratch, 'trying')
        rmSync(state, { recursive: true, force: true })
        copyState(cacheAfter('cosign', before), state)
        const said = succeeded(await cosignTrustedRoot(state, { mirror: mirror.url, root: made.firstRoot })).stdout
        expect(keysOf(JSON.parse(said) as TrustedRoot), `${step.name} from step ${before}`).toEqual(keysOf(published))
        if (before === at - 1) cpSync(state, cacheAfter('cosign', at), { recursive: true })
      }
    }
  })
})

interface TrustedRoot {
  readonly tlogs: readonly { readonly publicKey: { readonly rawBytes: string } }[]
}

function keysOf({ tlogs }: TrustedRoot): string[] {
  return tlogs.map(({ publicKey }) => publicKey.rawBytes).toSorted()
}
