/**
 * docs/operations.md on custodians, its commands run as they stand there; with a kill -9 of the server between the two
 * signatures. CHANCERY_LONG=1: the steps are tested one by one in the contract tier.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { run, succeeded } from '../e2e/run.ts'
import { initialise, ownEnvironment, projectFolder, type Stack, serve } from '../e2e/stack.ts'

const text = readFileSync(join(projectFolder, 'docs', 'operations.md'), 'utf8')
const blocks = [...text.matchAll(/<!-- while: custodians -->\n```sh\n([^]*?)^```$/gm)].map(([, script = '']) => script)
const metadata = z.object({ signed: z.object({ version: z.int() }), signatures: z.array(z.unknown()) })

describe('the commands of custodians', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'chancery-trust-docs-'))
  const dataDir = join(scratch, 'data')
  let stack: Stack

  beforeAll(async () => {
    await initialise(dataDir, ['--tuf-quorum', '2/3'])
    stack = await serve(dataDir)
  })

  afterAll(async () => {
    try {
      await stack.stop()
    } finally {
      rmSync(scratch, { recursive: true, force: true })
    }
  })

  async function shell(script: string): Promise<string> {
    const environment = ownEnvironment()
    const PATH = `${join(projectFolder, 'scripts')}:${environment['PATH']}`
    return succeeded(await run('bash', ['-euc', script], { env: { ...environment, PATH }, cwd: scratch })).stdout
  }

  const served = async (name: string) => metadata.parse(await (await fetch(`${stack.endpoints.tuf}/${name}`)).json())

  test('one after the other, over a kill', async () => {
    expect(blocks).toHaveLength(6)
    const [look, publish, sign, merge, withdraw, roles] = blocks
    expect(await shell(look ?? 'false')).toMatch(/^targets +1 .* 2 of 3 +fresh$/m)
    await shell(publish ?? 'false')
    await shell(sign ?? 'false')
    const [first = '', second = '', third = ''] = (merge ?? '').trim().split('\n')
    await shell(first)
    stack.server.kill('SIGKILL')
    await stack.ended
    stack = await serve(dataDir)
    expect((await served('timestamp.json')).signed.version).toBe(1)
    expect(await shell(second)).toMatch(/^targets +2 +1\/2 /m)
    expect(await shell(third)).toMatch(/^published: root 1, targets 2,/)
    expect((await served('2.targets.json')).signatures).toHaveLength(2)
    expect(await shell(withdraw ?? 'false')).toMatch(/is withdrawn/)
    expect(await shell(roles ?? 'false')).toMatch(/^published: root 1, targets 2,/m)
    expect((await fetch(`${stack.endpoints.tuf}/3.targets.json`)).status).toBe(404)
  })
})
