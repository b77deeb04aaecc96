/** Which files a running agent has loaded: it holds every key, so that each of them is inside the wall. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { Duplex } from 'node:stream'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  certificateTbs,
  type Installation,
  install,
  KEY_OF,
  setRequest,
  timestampRequest,
  tufPayload,
} from './agent.fixture.ts'
import { connectAdminAgent } from './client.ts'

const root = resolve(import.meta.dirname, '..')
let installation: Installation

beforeAll(async () => {
  installation = await install()
})

afterAll(() => installation.remove())

test('an agent that has signed for every purpose has loaded no web framework, no token library, no certificate library', async () => {
  const list = join(installation.folder, 'loaded')
  const child = spawn(
    process.execPath,
    [
      '--import',
      `${pathToFileURL(join(root, 'test/support/loaded-files.ts')).href}?${encodeURIComponent(list)}`,
      join(root, 'hsm/agent.ts'),
      '--inherited',
      '--admin',
      '--config',
      installation.configPath,
    ],
    { env: {}, stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe'] },
  )
  const ended = new Promise((settle) => child.once('close', settle))
  const duplex = child.stdio[4]
  if (!(duplex instanceof Duplex)) throw new Error('no channel to the agent')
  const agent = await connectAdminAgent({ duplex })
  await agent.certificate({ key: KEY_OF.certificate, tbsDer: await certificateTbs(installation, agent) })
  await agent.set(setRequest())
  await agent.timestamp(timestampRequest())
  await agent.tuf({ key: KEY_OF.tuf, role: 'timestamp', payload: tufPayload() })
  await agent.status()
  await agent.close()
  // It ends when its channels do.
  for (const stream of [child.stdio[3], duplex]) stream?.destroy()
  await ended

  const files = readFileSync(list, 'utf8')
    .split('\n')
    .filter((url) => url.startsWith('file:'))
    .map((url) => relative(root, fileURLToPath(url)))
  const packages = files.flatMap((file) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1] ?? [])
  expect([...new Set(packages)].toSorted((a, b) => a.localeCompare(b))).toEqual([
    'better-sqlite3',
    'pkcs11js',
    'yaml',
    'zod',
  ])
  const own = files.filter((file) => !file.startsWith('node_modules/')).map((file) => file.split('/')[0])
  expect([...new Set(own)].filter((folder) => !['hsm', 'native', 'tlog', 'x509'].includes(folder ?? ''))).toEqual([])
})
