/** The logs as their own tools see them: rekor-cli, tessera's fsck, and plain HTTP. */
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { type Arguments, client, signers, system } from './clients.ts'
import { freshFolder, identityToken, makeArtifact, makeStatement, sharedStack } from './context.ts'
import { type Outcome, refusal, succeeded } from './run.ts'

const stack = sharedStack()
const { material, endpoints } = stack
const folder = freshFolder('log-tools')
const artifact = makeArtifact(folder)
const key = { private: join(folder, 'key.pem'), public: join(folder, 'key.pub') }
const signature = join(folder, 'artifact.sig')

beforeAll(async () => {
  succeeded(await system('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', key.private]))
  succeeded(await system('openssl', ['ec', '-in', key.private, '-pubout', '-out', key.public]))
  succeeded(await system('openssl', ['dgst', '-sha256', '-sign', key.private, '-out', signature, artifact]))
  // Both logs have some entries, whatever ran before.
  const tokenFile = await identityToken(stack.identity)
  const files = makeStatement(folder, artifact, readFileSync(artifact))
  for (const log of ['v1', 'v2'] as const) {
    for (const kind of ['blob', 'attestation'] as const) {
      const bundle = join(folder, `${log}-${kind}.json`)
      succeeded(await signers['sigstore-go']({ material, log, kind, artifact, tokenFile, bundle, ...files }))
    }
  }
})

const home = { HOME: freshFolder('rekor-home') }

async function rekor(args: Arguments): Promise<Outcome> {
  return client('rekor-cli', ['--rekor_server', endpoints.rekorV1, '--format', 'json', args.flat()], { env: home })
}

describe('rekor-cli', () => {
  const upload = ['upload', '--artifact', artifact, '--signature', signature, '--public-key', key.public]
  const about = ['--artifact', artifact, '--signature', signature, '--public-key', key.public]
  let uuid: string

  test('uploads', async () => {
    const { stdout } = succeeded(await rekor([upload]))
    const said = JSON.parse(stdout) as { Location: string; Index: number; AlreadyExists: boolean }
    expect(said.AlreadyExists).toBe(false)
    uuid = said.Location.split('/').at(-1) ?? ''
    expect(uuid).toMatch(/^[0-9a-f]{80}$/)
  })

  test('a true duplicate is the entry that is there', async () => {
    const said = JSON.parse(succeeded(await rekor([upload])).stdout) as { Location: string; AlreadyExists: boolean }
    expect(said.AlreadyExists).toBe(true)
    expect(said.Location).toMatch(new RegExp(`${uuid}$`))
  })

  test('gets by UUID and by index', async () => {
    const byUuid = JSON.parse(succeeded(await rekor(['get', '--uuid', uuid])).stdout) as {
      LogIndex: number
      UUID: string
    }
    const byIndex = JSON.parse(succeeded(await rekor(['get', '--log-index', String(byUuid.LogIndex)])).stdout) as {
      UUID: string
    }
    expect(byUuid.UUID).toBe(uuid)
    expect(byIndex.UUID).toBe(uuid)
    refusal(await rekor(['get', '--uuid', uuid.replace(/.$/, (end) => (end === '0' ? '1' : '0'))]))
  })

  test('verifies the entry: leaf, SET, checkpoint, proof', async () => {
    succeeded(await rekor(['verify', about]))
    const other = join(folder, 'other.txt')
    writeFileSync(other, 'something else')
    refusal(await rekor(['verify', '--artifact', other, '--signature', signature, '--public-key', key.public]))
  })

  test('finds it by digest, by public key; and a keyless one by identity', async () => {
    const digest = createHash('sha256').update(readFileSync(artifact)).digest('hex')
    for (const search of [
      ['--sha', digest],
      ['--artifact', artifact],
      ['--public-key', key.public, '--pki-format', 'x509'],
    ]) {
      const found = JSON.parse(succeeded(await rekor(['search', search])).stdout) as { UUIDs?: string[] }
      expect(Object.values(found).flat()).toContain(uuid)
    }
    const byEmail = JSON.parse(succeeded(await rekor(['search', '--email', stack.identity])).stdout) as object
    expect(Object.values(byEmail).flat().length).toBeGreaterThan(0)
    expect((await rekor(['search', '--sha', 'ab'.repeat(32)])).stdout).not.toContain(uuid)
  })

  test('loginfo is consistent with the state it kept', async () => {
    const first = JSON.parse(succeeded(await rekor(['loginfo'])).stdout) as LogInfo
    const next = join(folder, 'next.txt')
    writeFileSync(next, `another ${Date.now()}`)
    succeeded(await system('openssl', ['dgst', '-sha256', '-sign', key.private, '-out', `${next}.sig`, next]))
    succeeded(await rekor(['upload', '--artifact', next, '--signature', `${next}.sig`, '--public-key', key.public]))
    const second = JSON.parse(succeeded(await rekor(['loginfo'])).stdout) as LogInfo
    expect(second.ActiveTreeSize).toBeGreaterThan(first.ActiveTreeSize)
  })

  test('logproof between two sizes', async () => {
    const { ActiveTreeSize: size, TreeID: tree } = JSON.parse(succeeded(await rekor(['loginfo'])).stdout) as LogInfo
    const { stdout } = succeeded(
      await rekor(['logproof', '--first-size', '1', '--last-size', String(size), '--tree-id', tree]),
    )
    expect(stdout).toMatch(/[0-9a-f]{64}/)
    expect(refusal(await rekor(['logproof', '--last-size', String(size + 1000)]))).toMatch(
      /greater than what is currently observable/,
    )
  })
})

interface LogInfo {
  readonly ActiveTreeSize: number
  readonly TreeID: string
}

describe('tessera fsck', () => {
  test('on the tiles of Rekor v2, with the key of the trusted root', async () => {
    const log = tlog(/^rekor-v2/)
    await fsck(endpoints.rekorV2, log.origin, log.spki)
  })

  test('on the tree of Rekor v1, served as tiles', async () => {
    const log = tlog(/^rekor-v1/)
    const info = (await (await fetch(`${endpoints.rekorV1}/api/v1/log`)).json()) as { treeID: string; treeSize: number }
    expect(info.treeSize).toBeGreaterThan(0)
    await fsck(`${endpoints.rekorV1}/api/v1/tiles/${info.treeID}`, `${log.origin} - ${info.treeID}`, log.spki)
  })
})

/** fsck ends well on this log, and does not with another log's key, nor with another origin. */
async function fsck(url: string, origin: string, spki: Buffer): Promise<void> {
  const check = async (vkey: string, expectedOrigin: string): Promise<Outcome> => {
    const file = join(freshFolder('fsck'), 'vkey')
    writeFileSync(file, vkey)
    return client('fsck', ['--storage_url', `${url}/`, '--public_key', file, '--origin', expectedOrigin, '--ui=false'])
  }
  const name = origin.split(' ')[0] ?? ''
  // This version ends with 0 whatever it finds: what it says counts.
  const said = succeeded(await check(vkeyOf(name, spki), origin)).text
  expect(said).not.toMatch(/fail|error/i)
  expect(said).toMatch(/Successfully fsck'd log|OK/)
  const otherKey = tlog(origin.startsWith('rekor-v1') ? /^rekor-v2/ : /^rekor-v1/).spki
  expect((await check(vkeyOf(name, otherKey), origin)).text).toMatch(/fsck failed: .*no verifiable signatures/)
  expect((await check(vkeyOf(name, spki), `${origin}-else`)).text).toMatch(/fsck failed: /)
}

/** C2SP signed-note: ECDSA keys have type 2, and their hint is over the SPKI alone. */
function vkeyOf(name: string, spki: Buffer): string {
  const hint = createHash('sha256').update(spki).digest('hex').slice(0, 8)
  return `${name}+${hint}+${Buffer.concat([Buffer.from([2]), spki]).toString('base64')}`
}

function tlog(origin: RegExp): { origin: string; spki: Buffer } {
  const root = JSON.parse(readFileSync(material.trustedRoot, 'utf8')) as {
    tlogs: { baseUrl: string; publicKey: { rawBytes: string } }[]
  }
  for (const { baseUrl, publicKey } of root.tlogs) {
    const { hostname } = new URL(baseUrl)
    if (origin.test(hostname)) return { origin: hostname, spki: Buffer.from(publicKey.rawBytes, 'base64') }
  }
  throw new Error(`no log of the trusted root is called ${origin}`)
}
