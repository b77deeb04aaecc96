import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listen, type Listener } from '#http'
import { initTrustRoot, servedFolder, trustRootSection } from '#trust-root'
import { readTrustedLogs } from '#verifier'
import { exampleInventory, memoryAgent } from '../test/support/trust-installation.ts'
import { loadTrustedRoot } from './trusted-root-source.ts'

let folder: string
let mirror: Listener
let root: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chancery-source-'))
  const repository = join(folder, 'trust-root')
  const agent = memoryAgent('tuf-root', 'tuf-online')
  await initTrustRoot({ folder: repository, agent, withRootAgent: (use) => use(agent) }, await exampleInventory())
  mirror = await listen({
    host: '127.0.0.1',
    port: 0,
    sections: [{ section: trustRootSection({ folder: repository }) }],
  })
  root = join(folder, '1.root.json')
  await copyFile(join(servedFolder(repository), '1.root.json'), root)
})

afterAll(async () => {
  await mirror.close()
  await rm(folder, { recursive: true })
})

describe('the trust root of an auditor', () => {
  test('is the same from a mirror and from a file', async () => {
    const fromMirror = await loadTrustedRoot({ mirror: `${mirror.url}/`, root })
    const file = join(folder, 'trusted_root.json')
    await writeFile(file, JSON.stringify(fromMirror))
    expect(await loadTrustedRoot({ trustedRoot: file })).toEqual(fromMirror)
    expect(readTrustedLogs(fromMirror).map(({ name }) => name)).toEqual([
      'rekor-v1.example.org',
      'rekor-v2.example.org',
    ])
  })

  test('is not taken from a mirror with another root, without one, or from what is no file', async () => {
    const other = join(folder, 'other.json')
    const text = await readFile(root, 'utf8')
    await writeFile(other, text.replace(/"sig": "30(..)/, '"sig": "31$1'))
    await writeFile(join(folder, 'broken'), '{')
    for (const source of [
      { mirror: mirror.url, root: other },
      { mirror: mirror.url, root: join(folder, 'nothing') },
      { mirror: 'http://127.0.0.1:1', root },
      { mirror: mirror.url },
      { trustedRoot: join(folder, 'nothing') },
      { trustedRoot: join(folder, 'broken') },
      {},
    ]) {
      await expect(loadTrustedRoot(source)).rejects.toMatchObject({ name: 'TrustedRootError' })
    }
  })
})
