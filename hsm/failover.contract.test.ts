/** One key on two tokens: what is lost, wrong or extractable on one of them costs no request. */
import { execFileSync } from 'node:child_process'
import { createPublicKey, generateKeyPairSync, verify, type KeyObject } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { need, timestampRequest } from './agent.fixture.ts'
import { createSoftTokens } from './softhsm.ts'
import type { AgentStatus, SigningAgent } from './signing.ts'
import { spawnAgent, type SpawnedAgent } from './spawn.ts'

let folder: string
let spawned: SpawnedAgent | undefined
let folders: Readonly<Record<'primary' | 'standby', string>>

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-failover-'))
  // One after the other, so that each folder is known by its token.
  await createSoftTokens({ folder: join(folder, 'hsm'), labels: ['primary'] })
  const tokens = join(folder, 'hsm/tokens')
  const primary = need(readdirSync(tokens)[0])
  await createSoftTokens({ folder: join(folder, 'hsm'), labels: ['standby'] })
  const standby = need(readdirSync(tokens).find((name) => name !== primary))
  folders = { primary: join(tokens, primary), standby: join(tokens, standby) }
})

afterEach(async () => {
  await spawned?.close()
  spawned = undefined
  rmSync(folder, { recursive: true, force: true })
})

interface Pair {
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
}

function newPair(): Pair {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' })
}

/** As an operator brings a key to SoftHSM: not extractable from now on, but made elsewhere. */
function bring({ privateKey }: Pair, token: 'primary' | 'standby', id: string): void {
  const file = join(folder, 'key.pem')
  writeFileSync(file, privateKey.export({ format: 'pem', type: 'pkcs8' }))
  const pin = readFileSync(join(folder, `hsm/${token}.pin`), 'utf8').trim()
  const names = ['--token', token, '--label', 'tsa', '--id', id, '--pin', pin]
  execFileSync('softhsm2-util', ['--import', file, ...names], {
    env: { ...process.env, SOFTHSM2_CONF: join(folder, 'hsm/softhsm2.conf') },
    stdio: 'pipe',
  })
  rmSync(file)
}

async function start(
  { publicKey }: Pick<Pair, 'publicKey'>,
  order: readonly ('primary' | 'standby')[],
): Promise<SigningAgent> {
  const spki = publicKey.export({ format: 'der', type: 'spki' }).toString('base64')
  const { modulePath } = await createSoftTokens({ folder: join(folder, 'hsm'), labels: [] })
  const token = (name: string) => ({
    uri: `pkcs11:token=${name}`,
    pinFile: `hsm/${name}.pin`,
    softhsmConf: 'hsm/softhsm2.conf',
  })
  const uris = order.map((name) => ({ token: name, uri: `pkcs11:token=${name};id=%0a` }))
  const configPath = join(folder, 'agent.yaml')
  const tokens = { primary: token('primary'), standby: token('standby') }
  const keys = { tsa: { uris, spki, purposes: ['timestamp'] } }
  writeFileSync(configPath, JSON.stringify({ state: 'state', modulePath, tokens, keys, adminWhenSpawned: true }))
  spawned = await spawnAgent({ configPath, admin: true })
  return spawned.agent
}

const breakers = ({ tokens }: AgentStatus) => Object.fromEntries(tokens.map(({ name, breaker }) => [name, breaker]))

async function until(agent: SigningAgent, holds: (status: AgentStatus) => boolean): Promise<AgentStatus> {
  for (;;) {
    const status = await agent.status()
    if (holds(status)) return status
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
}

describe('a key on two tokens', () => {
  test('brought from elsewhere, it is told as of unproven origin, and signs', async () => {
    const pair = newPair()
    bring(pair, 'primary', '0a')
    bring(pair, 'standby', '0a')
    const agent = await start(pair, ['primary', 'standby'])
    const { ready, keys } = await agent.status()
    const unproven = ['LOCAL', 'ALWAYS_SENSITIVE', 'NEVER_EXTRACTABLE']
    expect(ready).toBe(true)
    expect(keys).toMatchObject([
      {
        places: [
          { token: 'primary', usable: true, fault: '', unproven },
          { token: 'standby', usable: true, fault: '', unproven },
        ],
      },
    ])
  })

  test('loses one of them under load: no request fails, and it comes back by itself', async () => {
    const pair = newPair()
    bring(pair, 'primary', '0a')
    bring(pair, 'standby', '0a')
    const agent = await start(pair, ['primary', 'standby'])
    const judge = createPublicKey({ key: pair.publicKey.export({ format: 'pem', type: 'spki' }), format: 'pem' })
    const over = new AbortController()
    let signed = 0
    const load = Array.from({ length: 8 }, async () => {
      while (!over.signal.aborted) {
        const request = timestampRequest()
        const signature = await agent.timestamp(request)
        expect(verify('sha256', request.signedAttributesDer, judge, signature)).toBe(true)
        signed++
      }
    })
    const away = join(folder, 'away')
    renameSync(folders.primary, away)
    const lost = await until(agent, (status) => breakers(status)['primary'] !== 'closed')
    expect(breakers(lost)['standby']).toBe('closed')
    expect(lost.ready).toBe(true)
    const before = signed
    await until(agent, () => signed > before + 200)
    // An operator's reload waits for no token that is away.
    await need(spawned?.admin).reload()
    renameSync(away, folders.primary)
    await until(agent, (status) => breakers(status)['primary'] === 'closed')
    await until(agent, () => signed > before + 400)
    over.abort()
    await Promise.all(load)
    expect((await agent.status()).keys[0]?.places.map(({ usable }) => usable)).toEqual([true, true])
  })

  test('that is another key on the second token never signs there', async () => {
    const pair = newPair()
    bring(pair, 'primary', '0a')
    bring(newPair(), 'standby', '0a')
    const agent = await start(pair, ['primary', 'standby'])
    const { keys } = await agent.status()
    expect(keys[0]?.places).toMatchObject([
      { token: 'primary', usable: true },
      {
        token: 'standby',
        usable: false,
        fault: 'key tsa on the token standby is not the configured one',
      },
    ])
    await agent.timestamp(timestampRequest())
    renameSync(folders.primary, join(folder, 'away'))
    await expect(agent.timestamp(timestampRequest())).rejects.toMatchObject({ code: 'unavailable' })
  })

  test('is tried in the order of the configuration', async () => {
    const pair = newPair()
    bring(pair, 'standby', '0a')
    const agent = await start(pair, ['primary', 'standby'])
    const { ready, keys } = await agent.status()
    expect(ready).toBe(true)
    expect(keys).toMatchObject([
      {
        latched: '',
        places: [
          { token: 'primary', usable: false, fault: 'token has no key tsa' },
          { token: 'standby', usable: true },
        ],
      },
    ])
    await agent.timestamp(timestampRequest())
  })
})

test('a key that whoever logs in can wrap and take away is not used', async () => {
  const { modulePath } = await createSoftTokens({ folder: join(folder, 'hsm'), labels: [] })
  const script = fileURLToPath(new URL('../test/support/modules/make-extractable-key.ts', import.meta.url))
  const args = [script, modulePath, 'primary', join(folder, 'hsm/primary.pin'), '0a']
  const spki = execFileSync(process.execPath, args, { env: { SOFTHSM2_CONF: join(folder, 'hsm/softhsm2.conf') } })
  const publicKey = createPublicKey({ key: Buffer.from(spki.toString(), 'base64'), format: 'der', type: 'spki' })
  const agent = await start({ publicKey }, ['primary'])
  await expect(agent.timestamp(timestampRequest())).rejects.toMatchObject({
    code: 'unavailable',
    reason: 'key_extractable',
  })
})
