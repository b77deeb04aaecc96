/** `chancery rotate standby`: of an older installation, with the root offline and custodians, and undone. */
import { generateKeyPairSync } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { EXIT } from '#alarms'
import { readStandbyPlan, STANDBY_FILE, STANDBY_KINDS, withAdminAgent } from '#lifecycle'
import { askAdmin } from '#server'
import { decodePem } from '#x509'
import { answerRequest, readRequest } from '../../lifecycle/ceremony/certificate-request.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, runChancery, serve, type Stack } from '../e2e/stack.ts'

interface Item {
  readonly id: string
  readonly state: string
}

describe('the standby set', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'chancery-standby-'))
  const dataDir = join(scratch, 'data')
  const at = (name: string) => join(scratch, name)
  let stack: Stack

  beforeAll(async () => {
    await initialise(dataDir)
    stack = await serve(dataDir)
  })

  afterAll(async () => {
    await stack.stop().catch(() => stack.server.kill('SIGKILL'))
    rmSync(scratch, { recursive: true, force: true })
  })

  const rotate = async (...words: string[]) => await runChancery(['rotate', ...words, '--data', dataDir])
  const read = (file: string): string => readFileSync(join(dataDir, file), 'utf8')
  const published = () => (JSON.parse(read('trust-root/repository/.items.json')) as { items: Item[] }).items
  const inState = (state: string) => published().flatMap((item) => (item.state === state ? [item.id] : []))
  const states = async () => {
    const { standby } = JSON.parse((await runChancery(['status', '--data', dataDir, '--json'])).stdout) as {
      standby: { state: string }[]
    }
    return [...new Set(standby.map(({ state }) => state))]
  }

  test('an installation that has none gets one, with the token and its agent', async () => {
    const changes = inState('standby').map((id) => ({ op: 'set', id, state: 'revoked' }))
    expect(changes).toHaveLength(STANDBY_KINDS.length)
    await askAdmin(join(dataDir, 'run/admin.sock'), 'trust-change', { argument: { changes } })
    for (const name of [STANDBY_FILE, 'agent/standby.yaml']) rmSync(join(dataDir, name))
    expect(await states()).toEqual(['missing'])
    const refused = await rotate('tsa', '--emergency', '--confirm')
    expect([refused.status, refused.text]).toEqual([EXIT.failed, expect.stringContaining('#standby_missing')])
    succeeded(await rotate('standby'))
    expect([await states(), existsSync(join(dataDir, 'agent/standby.yaml'))]).toEqual([['ready'], true])
    const again = await rotate('standby')
    expect([again.status, again.text]).toEqual([EXIT.policy, expect.stringContaining('#rotation_impossible')])
    // No PIN got into the plan, and none of its token into the serving agent's file.
    for (const name of readdirSync(join(dataDir, 'hsm')).filter((file) => file.endsWith('.pin'))) {
      expect(read(STANDBY_FILE)).not.toContain(read(join('hsm', name)).trim())
      if (name.includes('standby')) expect(read('agent/online.yaml')).not.toContain(basename(name))
    }
  })

  test('is undone as it was begun', async () => {
    succeeded(await rotate('rekor-v1', '--emergency', '--confirm'))
    const before = published()
    const root = join(dataDir, 'agent/root.yaml')
    const sound = readFileSync(root, 'utf8')
    // The root token does not open: it stops after the keys.
    writeFileSync(root, sound.replace('chancery-root', 'chancery-other'))
    expect((await rotate('standby')).status).not.toBe(EXIT.done)
    writeFileSync(root, sound)
    succeeded(await rotate('abort', '--confirm'))
    expect(published()).toEqual(before)
    expect(Object.keys((parse(read('agent/standby-2.yaml')) as { keys: object }).keys)).toEqual([])
    expect((await states()).toSorted()).toEqual(['in-service', 'ready'])
  })

  describe('with the root offline, and a custodian', () => {
    beforeAll(async () => {
      await stack.stop()
      const config = parse(read('chancery.yaml')) as { trustRoot: { rootAgent?: string } }
      delete config.trustRoot.rootAgent
      writeFileSync(join(dataDir, 'chancery.yaml'), stringify(config))
      stack = await serve(dataDir)
    })

    test('who signs now is told at once; requests go out together, answers come in any order', async () => {
      const first = await rotate('standby')
      expect([first.status, first.text]).toEqual([EXIT.approval, expect.stringContaining('#awaiting_signatures')])
      expect((await rotate('resume')).text).toContain('#awaiting_signatures')
      expect(inState('active')).toContain('rekor-v1')
      await signed()
      const asks = await rotate('resume')
      expect(asks.text).toContain('#rotation_awaiting_certificate')
      expect(inState('active')).not.toContain('rekor-v1')
      const requests = readdirSync(join(dataDir, 'lifecycle')).filter((name) => name.endsWith('.csr.pem'))
      expect(requests).toHaveLength(2)

      const strange = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey
      const spki = new Uint8Array(strange.export({ type: 'spki', format: 'der' }))
      const issuing = requests.find((name) => name.startsWith('issuing-ca')) ?? ''
      for (const pem of ['nothing', await answered(issuing, spki)]) {
        const said = await brought(pem)
        expect([said.status, said.text]).toEqual([
          EXIT.integrity,
          expect.stringContaining('#ceremony_certificate_refused'),
        ])
      }
      const tsa = await brought(await answered(requests.find((name) => name.startsWith('tsa')) ?? ''))
      expect(tsa.text).toContain('#rotation_awaiting_certificate')
      expect((await brought(await answered(issuing))).text).toContain('#awaiting_signatures')
      expect(readStandbyPlan(dataDir)?.inService).toHaveLength(1)
      await signed()
      succeeded(await rotate('resume'))
      expect([await states(), inState('standby')]).toEqual([
        ['ready'],
        readStandbyPlan(dataDir)?.members.map(({ name }) => name),
      ])
      succeeded(await rotate('issuing-ca', '--emergency', '--confirm'))
    })
  })

  async function brought(pem: string) {
    writeFileSync(at('answer.pem'), pem)
    return await rotate('resume', '--certificate', at('answer.pem'))
  }

  /** As its custodian does, on another machine. */
  async function signed(): Promise<void> {
    const trust = (...words: string[]) => runChancery(['trust', ...words])
    succeeded(await trust('payload', '-o', at('payload.json'), '--data', dataDir))
    const agent = ['--agent', join(dataDir, 'agent/root.yaml'), '--key', 'tuf-root', '--confirm']
    succeeded(await trust('sign', at('payload.json'), ...agent, '-o', at('signature.json')))
    succeeded(await trust('merge', at('signature.json'), '--data', dataDir))
  }

  /** As a ceremony answers a request, with the root key. */
  async function answered(file: string, spkiDer?: Uint8Array): Promise<string> {
    const { name, spkiDer: own, kind } = readRequest(read(join('lifecycle', file)))
    const [, root = new Uint8Array()] = decodePem(read('ca/chain.pem'), { labels: ['CERTIFICATE'] }).map(
      ({ der }) => der,
    )
    const profile = file.startsWith('tsa') ? 'timestamp' : 'issuing'
    const common = { issuerKey: 'root-ca', issuerChain: [root], profile, name, validityYears: 2 } as const
    return await withAdminAgent({ dataDir, agent: 'root' }, (agent) =>
      answerRequest({ ...common, agent, subject: { spkiDer: spkiDer ?? own, kind } }, new Date()),
    )
  }
})
