/**
 * Each rotation while four foreign clients sign with what they had cached: no request fails, and what was signed before,
 * during and after it verifies in each client with the root that it had cached and with the new one.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { EXIT } from '#alarms'
import { client, type LogVersion, type Material } from '../e2e/clients.ts'
import { fetchMaterial } from '../e2e/global-setup.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { type ForeignSignature, ForeignSigners, SIGNERS, verifyWith } from './foreign-signers.ts'
import { LONG } from './loaded-stack.ts'

/** The usual run: one key behind a service and one log; `--long`: all. */
const KINDS = LONG
  ? (['issuing-ca', 'rekor-v1', 'tsa', 'ct-log', 'rekor-v2', 'tuf-online', 'tuf-root', 'root-ca'] as const)
  : (['issuing-ca', 'rekor-v1'] as const)

/** Words without which the wait for cached clients is not cut short; here they refresh when the test says so. */
const SHORTEN = '--shorten=i-accept-that-cached-clients-may-refuse'

const scratch = mkdtempSync(join(tmpdir(), 'chancery-rotation-'))
const dataDir = join(scratch, 'data')
let stack: Stack

beforeAll(async () => {
  await initialise(dataDir)
  stack = await serve(dataDir)
})

afterAll(async () => {
  await stack.stop().catch(() => stack.server.kill('SIGKILL'))
  rmSync(scratch, { recursive: true, force: true })
})

const rotate = (...words: string[]) => runChancery(['rotate', ...words, '--data', dataDir])

describe.each(KINDS)('%s', (kind) => {
  const folder = join(scratch, kind)
  const log: LogVersion = kind === 'rekor-v2' ? 'v2' : 'v1'

  test('is rotated under load: nothing fails, and everything verifies with the cached root and with the new one', async () => {
    const before = await fetchMaterial(join(folder, 'before'), stack.endpoints)
    const rekorCli = join(folder, 'rekor-cli')
    mkdirSync(rekorCli)
    succeeded(await loginfo(rekorCli))
    const signers = new ForeignSigners({ stack, folder: join(folder, 'signed'), log, material: before })
    await signers.start()
    onTestFinished(async () => await signers.stop())
    await signers.more(1)

    // Up to the wait: the new key is published, and the old one signs.
    const first = await rotate(kind)
    let cached = before
    if (first.status === EXIT.approval) {
      expect(first.text).toMatch(/rotation_waiting/)
      cached = await fetchMaterial(join(folder, 'cached'), stack.endpoints)
      signers.material = cached
      await signers.more(1)
      expect((await rotate('resume')).text).toMatch(/rotation_waiting/)
      succeeded(await rotate('resume', SHORTEN))
    } else {
      succeeded(first)
    }
    const switchedMs = Date.now()
    await signers.more(1)
    const fresh = await fetchMaterial(join(folder, 'fresh'), stack.endpoints)
    signers.material = fresh
    await signers.more(1)
    await signers.stop()

    expect(signers.signatures.filter(({ failure }) => failure !== '')).toEqual([])
    expect(succeeded(await rotate('status')).stdout).toMatch(/No rotation is under way/)
    await everythingVerifies(signers.signatures, { cached, fresh, log, switchedMs })
    succeeded(await loginfo(rekorCli))
    if (log === 'v1') await indexesRunOn(signers.signatures)
    const reconciled = succeeded(await runChancery(['audit', 'reconcile', '--json', '--data', dataDir]))
    expect(JSON.parse(reconciled.stdout)).toMatchObject({ unknown: [], unaccounted: [] })
    const doctor = await runChancery(['doctor', '--data', dataDir])
    expect(doctor.text).not.toMatch(/orphan|duplicate|unknown/i)
  })
})

test('two at once: the second is refused', async () => {
  succeeded(await rotate('tsa', SHORTEN))
  const both = await Promise.all([rotate('tsa', SHORTEN), rotate('issuing-ca', SHORTEN)])
  const statuses = both.map(({ status }) => status).toSorted((a, b) => (a ?? 0) - (b ?? 0))
  expect(statuses).toEqual([0, EXIT.locked])
  expect(both.map(({ text }) => text).join()).toMatch(/rotation_underway/)
})

async function loginfo(home: string) {
  return await client('rekor-cli', ['loginfo', '--rekor_server', stack.endpoints.rekorV1], { env: { HOME: home } })
}

/**
 * One signature of each client from before the switch, from while it was made, and from after it. With --long these in every
 * client, and all others in the client that made them.
 */
async function everythingVerifies(
  signatures: readonly ForeignSignature[],
  how: { readonly cached: Material; readonly fresh: Material; readonly log: LogVersion; readonly switchedMs: number },
): Promise<void> {
  const { cached, fresh, log } = how
  const issuer = stack.endpoints.oidc
  for (const signer of SIGNERS) {
    const own = signatures.filter((one) => one.signer === signer)
    const sampled = sample(own, how.switchedMs)
    for (const signature of LONG ? own : sampled) {
      for (const material of [cached, fresh]) {
        for (const verifier of LONG && sampled.includes(signature) ? SIGNERS : [signer])
          await verifyWith(verifier, signature, { material, log, issuer })
      }
    }
  }
}

function sample(own: readonly ForeignSignature[], switchedMs: number): ForeignSignature[] {
  const during = own.findLast(({ startedMs }) => startedMs < switchedMs)
  return [...new Set([own.at(0), during, own.at(-1)])].filter((one) => one !== undefined)
}

interface BundleEntry {
  readonly verificationMaterial: { readonly tlogEntries: readonly { readonly logIndex: string }[] }
}

/** No index was given out twice, and each is found by it: whichever shard it is in. */
async function indexesRunOn(signatures: readonly ForeignSignature[]): Promise<void> {
  const indexes = signatures.map(({ bundle }) => {
    const [entry] = (JSON.parse(readFileSync(bundle, 'utf8')) as BundleEntry).verificationMaterial.tlogEntries
    // JSON of protobuf leaves a zero out.
    return Number(entry?.logIndex ?? 0)
  })
  expect(new Set(indexes).size).toBe(indexes.length)
  for (const index of indexes) {
    const answer = await fetch(`${stack.endpoints.rekorV1}/api/v1/log/entries?logIndex=${index}`)
    const [entry] = Object.values((await answer.json()) as Record<string, { logIndex: number }>)
    expect(entry?.logIndex, `index ${index}`).toBeTypeOf('number')
  }
}
