/**
 * An installation with a quorum of custodians, as operators have it: what clients trust and who signs for it is changed
 * with commands alone, and each of the four foreign TUF clients follows from whatever it had cached.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { EXIT } from '#alarms'
import { refusal, succeeded } from './run.ts'
import { initialise, runChancery, type Stack, serve } from './stack.ts'
import { copyState, openTufClients, type TufClients, tufClientNames } from './tuf-clients.ts'
import { readStep } from './tuf-repository.ts'

const LONG = process.env['CHANCERY_LONG'] === '1'
const scratch = mkdtempSync(join(tmpdir(), 'chancery-tuf-installation-'))
const dataDir = join(scratch, 'data')
const firstRoot = join(scratch, '1.root.json')
let stack: Stack
let clients: TufClients
let steps = 0

beforeAll(async () => {
  await initialise(dataDir, ['--tuf-quorum', '2/3'])
  stack = await serve(dataDir)
  clients = openTufClients()
  cpSync(join(dataDir, 'trust-root/repository/1.root.json'), firstRoot)
  await everyClientFollows()
})

afterAll(async () => {
  await clients?.close()
  await stack?.stop().catch(() => stack.server.kill('SIGKILL'))
  rmSync(scratch, { recursive: true, force: true })
})

const chancery = (...words: string[]) => runChancery([...words, '--data', dataDir])

/** Each client from nothing and from what it had cached after every earlier step. */
async function everyClientFollows(): Promise<void> {
  const { versions, targets } = readStep('now', join(dataDir, 'trust-root'))
  for (const name of tufClientNames) {
    const cache = (step: number) => join(scratch, 'caches', name, String(step))
    for (let before = -1; before < steps; before += 1) {
      const state = copyState(cache(before), join(scratch, 'trying', name, `${before}-${steps}`))
      const request = { state, root: firstRoot, mirror: stack.endpoints.tuf, targets: Object.keys(targets) }
      const answer = await clients.refresh(name, request)
      expect({ name, before, ...answer }).toEqual({ name, before, versions, targets })
      if (before === steps - 1) copyState(state, cache(steps))
    }
  }
  steps += 1
}

/** On the custodian's machine; a second key of a custodian lies beside the first one. */
async function sign(payload: string, key: string, into: string) {
  const agent = join(dataDir, `agent/${key.split('-', 2).join('-')}.yaml`)
  return await chancery('trust', 'sign', payload, '--agent', agent, '--key', key, '--confirm', '-o', into)
}

/** What waits is carried to these custodians, signed there and brought back. */
async function signedBy(...names: string[]): Promise<void> {
  const payload = join(scratch, 'payload.json')
  rmSync(payload, { force: true })
  succeeded(await chancery('trust', 'payload', '-o', payload))
  for (const [at, name] of names.entries()) {
    const signed = join(scratch, `${name}.json`)
    rmSync(signed, { force: true })
    succeeded(await sign(payload, name, signed))
    const { status, text } = await chancery('trust', 'merge', signed)
    expect(status, text).toBe(at === names.length - 1 ? 0 : EXIT.approval)
  }
}

test('another online key: clients see nothing of it until two custodians have signed', async () => {
  const before = readStep('now', join(dataDir, 'trust-root')).versions
  const { status, text } = await chancery('rotate', 'tuf-online')
  expect(status, text).toBe(EXIT.approval)
  expect(readStep('now', join(dataDir, 'trust-root')).versions).toEqual(before)
  await signedBy('custodian-1', 'custodian-3')
  await everyClientFollows()
  succeeded(await chancery('rotate', 'resume'))
  await everyClientFollows()
  expect(readStep('now', join(dataDir, 'trust-root')).versions.root).toBe(before.root + 1)
})

// The rest takes a minute.
if (LONG) {
  test('another key of a custodian, who made it on a machine of her own', async () => {
    const agent = join(dataDir, 'agent/custodian-3.yaml')
    const made = succeeded(
      await chancery('key', 'gen', 'custodian-3-2', '--agent', agent, '--token', 'custodian-3', '--json'),
    )
    const { uri, spki } = JSON.parse(made.stdout) as { uri: string; spki: string }
    const config = parse(readFileSync(agent, 'utf8')) as { keys: Record<string, object> }
    config.keys['custodian-3-2'] = { ...config.keys['custodian-3'], uri, spki }
    writeFileSync(agent, stringify(config))
    const pem = join(scratch, 'next.pem')
    writeFileSync(
      pem,
      `-----BEGIN PUBLIC KEY-----\n${spki.replaceAll(/.{64}/g, '$&\n').trimEnd()}\n-----END PUBLIC KEY-----\n`,
    )
    const { status, text } = await chancery('rotate', 'tuf-root', '--custodian', 'custodian-3', '--public-key', pem)
    expect(status, text).toBe(EXIT.approval)
    await signedBy('custodian-1', 'custodian-2')
    await everyClientFollows()
    succeeded(await chancery('rotate', 'resume'))
    await everyClientFollows()

    // From now on the new key has a word in it, and the former one has none.
    expect((await chancery('trust', 'publish', '--renew')).status).toBe(EXIT.approval)
    const payload = join(scratch, 'renewal.json')
    succeeded(await chancery('trust', 'payload', '-o', payload))
    expect(refusal(await sign(payload, 'custodian-3', join(scratch, 'former.json')))).toMatch(/is not asked for/)
    await signedBy('custodian-3-2', 'custodian-2')
    await everyClientFollows()
  })
}
