/** Publication through the real agent: TUF keys on two SoftHSM tokens, read back by tuf-js. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Updater } from 'tuf-js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { listen, type Listener } from '#http'
import { createSoftTokens, type SigningAgent, spawnAgent, type TufRole } from '#hsm'
import { exampleInventory } from '../test/support/trust-installation.ts'
import { initTrustRoot, openTrustRoot, trustRootSection, type WithRootAgent } from './index.ts'

let folder: string
let server: Listener
let online: SigningAgent
let rootConfig: string
let clientFolder: string
let tokens: Awaited<ReturnType<typeof createSoftTokens>>

/** Makes a key on a token and writes the configuration of the agent that may use it for these roles. */
async function agentFor(token: string, key: string, roles: readonly TufRole[]): Promise<string> {
  const home = join(folder, `agent-${token}`)
  await mkdir(home)
  const configPath = join(home, 'agent.yaml')
  const made = tokens.tokens.find(({ label }) => label === token)
  if (!made) throw new Error(`no token ${token}`)
  const base = {
    state: join(home, 'state'),
    modulePath: tokens.modulePath,
    tokens: { [token]: { uri: made.uri, pinFile: made.pinFile, softhsmConf: tokens.confPath } },
  }
  await mkdir(base.state)
  await writeFile(configPath, stringify({ ...base, adminWhenSpawned: true }), { mode: 0o600 })
  const ceremony = await spawnAgent({ configPath, admin: true })
  const generated = await ceremony.admin?.generateKey({ token, label: key, kind: 'P-256' })
  await ceremony.close()
  if (!generated) throw new Error('no admin channel')
  const spki = Buffer.from(generated.spkiDer).toString('base64')
  const keys = { [key]: { uri: generated.uri, token, spki, kind: 'P-256', purposes: ['tuf'], tufRoles: roles } }
  await writeFile(configPath, stringify({ ...base, keys }), { mode: 0o600 })
  return configPath
}

const withRootAgent: WithRootAgent = async (use) => {
  const root = await spawnAgent({ configPath: rootConfig })
  try {
    return await use(root.agent)
  } finally {
    await root.close()
  }
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chancery-trust-hsm-'))
  clientFolder = join(folder, 'client')
  await mkdir(clientFolder)
  tokens = await createSoftTokens({ folder: join(folder, 'hsm'), labels: ['root', 'online'] })
  rootConfig = await agentFor('root', 'tuf-root', ['root', 'targets'])
  online = (await spawnAgent({ configPath: await agentFor('online', 'tuf-online', ['snapshot', 'timestamp']) })).agent
  const section = trustRootSection({ folder: join(folder, 'trust-root') })
  server = await listen({ host: '127.0.0.1', port: 0, sections: [{ section }] })
})

afterAll(async () => {
  await online?.close()
  await server?.close()
  await rm(folder, { recursive: true, force: true })
})

async function refresh(): Promise<Record<string, number>> {
  const updater = new Updater({
    metadataDir: clientFolder,
    metadataBaseUrl: server.url,
    targetDir: clientFolder,
    targetBaseUrl: `${server.url}/targets`,
  })
  await updater.refresh()
  const target = await updater.getTargetInfo('trusted_root.json')
  if (!target) throw new Error('no trusted root')
  await updater.downloadTarget(target)
  const version = async (role: string) => {
    const { signed } = JSON.parse(await readFile(join(clientFolder, `${role}.json`), 'utf8')) as {
      signed: { version: number }
    }
    return signed.version
  }
  return { root: await version('root'), targets: await version('targets'), timestamp: await version('timestamp') }
}

describe('a trust root whose keys are in the HSM', () => {
  const options = () => ({ folder: join(folder, 'trust-root'), agent: online, withRootAgent })

  test('is made, followed by tuf-js, signed again and published again', async () => {
    const trustRoot = await initTrustRoot(options(), await exampleInventory())
    await writeFile(
      join(clientFolder, 'root.json'),
      Buffer.from(await (await fetch(`${server.url}/1.root.json`)).arrayBuffer()),
    )
    expect(await refresh()).toEqual({ root: 1, targets: 1, timestamp: 1 })
    await trustRoot.publish()
    expect(await refresh()).toEqual({ root: 1, targets: 2, timestamp: 2 })
    // Two days later without the root token: the online key alone keeps the mirror fresh.
    const later = { ...options(), withRootAgent: undefined, now: () => new Date(Date.now() + 2 * 86_400_000) }
    expect(await (await openTrustRoot(later)).resign()).toMatchObject({ root: 1, timestamp: 3 })
    expect(await refresh()).toEqual({ root: 1, targets: 2, timestamp: 3 })
  })

  test('never has one version twice: not by starting again, not after a signature that was lost', async () => {
    const folderOfItsOwn = { ...options(), folder: join(folder, 'other') }
    let lost = false
    const losing: WithRootAgent = (use) =>
      withRootAgent((agent) => {
        const tuf: SigningAgent['tuf'] = async (request) => {
          const signature = await agent.tuf(request)
          if (request.role === 'targets' && !lost) {
            lost = true
            throw new Error('connection lost')
          }
          return signature
        }
        return use({
          ...agent,
          key: (name) => agent.key(name),
          tufVersions: (request) => agent.tufVersions(request),
          tuf,
        })
      })
    // The root key has signed versions 1 of a repository before, so this one cannot start at 1: the agent refuses.
    await expect(
      initTrustRoot({ ...folderOfItsOwn, withRootAgent: losing }, await exampleInventory()),
    ).rejects.toMatchObject({
      code: 'refused',
      reason: 'version_reused',
    })
    const trustRoot = await openTrustRoot({ ...options(), withRootAgent: losing })
    await expect(trustRoot.publish()).rejects.toThrow('connection lost')
    expect(await trustRoot.publish()).toMatchObject({ state: 'published', versions: { root: 1, targets: 4 } })
    expect(await refresh()).toMatchObject({ targets: 4 })
  })

  test('is not signed by the online key where the root key must', async () => {
    const swapped = { ...options(), withRootAgent: <T>(use: (agent: SigningAgent) => Promise<T>) => use(online) }
    const trustRoot = await openTrustRoot({ ...swapped, keys: { root: 'tuf-online', online: 'tuf-online' } })
    await expect(trustRoot.publish()).rejects.toMatchObject({ code: 'refused', reason: 'wrong_role' })
  })
})
