/**
 * The server is killed while it goes over to another key or log: before the configuration names it, after that, and once it
 * signs. Whatever was answered verifies; a restart signs with what the configuration names; asked again the verb completes.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import type { StandbyKind } from '#lifecycle'
import type { LoadedConfig } from '#server'
import { pinnedKeys } from '../crash/pinned-logs.ts'
import type { Outcome } from '../crash/loader.ts'
import { initialise, serve, type Stack } from '../e2e/stack.ts'
import { LONG } from './loaded-stack.ts'
import {
  addToAgent,
  ask as askIn,
  chainPem,
  dersOf,
  judgeCertificate,
  judgeTimestamp,
  judgeV1,
  judgeV2,
  standbyOf,
  startClients,
  strangeRoot,
  successorOf,
} from './switching.ts'

/** In the order of the protocol; the verbs of authorities have the first three. */
const POINTS = ['files-written', 'configured', 'in-force', 'drained'] as const
type Point = (typeof POINTS)[number]

interface Verb {
  readonly kind: StandbyKind
  /** Key and log have one name. */
  readonly former: string
  readonly points: readonly Point[]
}

const AUTHORITY_POINTS = ['files-written', 'configured', 'in-force'] as const
const VERBS: readonly Verb[] = [
  { kind: 'issuing-ca', former: 'issuing-ca', points: AUTHORITY_POINTS },
  { kind: 'tsa', former: 'tsa', points: AUTHORITY_POINTS },
  { kind: 'ct-log', former: 'ct', points: POINTS },
  { kind: 'rekor-v2', former: 'rekor-v2', points: POINTS },
  { kind: 'rekor-v1', former: 'rekor-v1', points: POINTS },
]
/** A connection may be cut before or after the first line of an answer. */
const GONE = /ended before it answered|no server answers/

/** Where most has to agree: configuration, CA, agent and two logs. */
const SAMPLE: readonly StandbyKind[] = ['ct-log']

describe.each(LONG ? POINTS : (['configured'] as const))('killed at %s', (point) => {
  const folder = mkdtempSync(join(tmpdir(), 'chancery-switch-killed-'))
  const dataDir = join(folder, 'data')
  const file = join(dataDir, 'chancery.yaml')
  const configuration = () => parse(readFileSync(file, 'utf8')) as LoadedConfig['config'] // the server reads it strictly
  const ask = async (verb: string, argument: unknown) => await askIn(dataDir, verb, argument)
  let stack: Stack | undefined
  let loads = 0

  beforeAll(async () => await initialise(dataDir))
  afterAll(async () => {
    await stack?.stop().catch(() => stack?.server.kill('SIGKILL'))
    rmSync(folder, { recursive: true, force: true })
  })

  const restarted = async (switchFaultPoint?: Point): Promise<Stack> => {
    await stack?.stop().catch(() => undefined)
    const { switchFaultPoint: _former, ...rest } = configuration()
    writeFileSync(file, stringify({ ...rest, ...(switchFaultPoint && { switchFaultPoint }) }))
    stack = await serve(dataDir)
    return stack
  }
  const clientsOf = async (running: Stack) =>
    await startClients(running, { folder: join(folder, `load-${loads++}`), lanes: { ca: 1, tsa: 1, v1: 1, v2: 1 } })

  /** What signed each reply, `former` or `next`; throws for one that does not verify. */
  function judged(outcomes: readonly Outcome[], { kind, former }: Verb): Set<string> {
    const keys = pinnedKeys(dataDir)
    const spki = (of: StandbyKind, name: string) => ({
      former: keys[name]?.spkiDer ?? Buffer.alloc(0),
      next: Buffer.from(standbyOf(dataDir, of).key.spki, 'base64'),
    })
    const chains = (of: StandbyKind, path: string) => ({
      former: dersOf(readFileSync(join(dataDir, path), 'utf8')),
      next: dersOf(chainPem(dataDir, standbyOf(dataDir, of))),
    })
    const signers = outcomes
      .filter(({ status }) => status === 200 || status === 201)
      .flatMap((each) => {
        if (each.use === 'v1') return [['rekor-v1', judgeV1(each, spki('rekor-v1', 'rekor-v1'))]]
        if (each.use === 'v2') return [['rekor-v2', judgeV2(each, spki('rekor-v2', 'rekor-v2'))]]
        if (each.use === 'tsa') return [['tsa', judgeTimestamp(each, chains('tsa', 'timestamp/chain.pem'))]]
        const by = judgeCertificate(each, {
          chains: chains('issuing-ca', 'ca/chain.pem'),
          ctLogs: spki('ct-log', 'ct'),
        })
        return [
          ['issuing-ca', by.chain],
          ['ct-log', by.ctLog],
        ]
      })
    expect(signers.length, former).toBeGreaterThan(0)
    return new Set(signers.filter(([of]) => of === kind).map(([, signer = '']) => signer))
  }

  test.each(VERBS.filter(({ kind, points }) => points.includes(point) && (LONG || SAMPLE.includes(kind))))(
    '$kind',
    async (verb) => {
      const { kind, former } = verb
      const member = standbyOf(dataDir, kind)
      let running = await restarted(point)
      await addToAgent(dataDir, member, former)
      const clients = await clientsOf(running)
      await clients.more(2)
      const [name, argument] =
        'chain' in member
          ? [kind === 'tsa' ? 'tsa-switch' : 'ca-switch', { key: member.name, chain: chainPem(dataDir, member) }]
          : ['log-switch', { name: former, successor: successorOf(dataDir, member, former) }]
      await expect(ask(name, argument)).rejects.toThrow(GONE)
      await running.ended
      judged(await clients.finish(), verb)

      running = await restarted()
      const { ca, timestamp, logs } = configuration()
      const named = [ca?.key, timestamp?.key, ...logs.map(({ key }) => key)].includes(member.name)
      expect(named).toBe(point !== 'files-written')
      const restartedClients = await clientsOf(running)
      await restartedClients.more(2)
      expect(judged(await restartedClients.finish(), verb)).toEqual(new Set([named ? 'next' : 'former']))

      await ask(name, argument)
      expect(await ask(name, argument)).toMatchObject('chain' in member ? { already: true } : { frozen: true })
      const after = await clientsOf(running)
      await after.more(2)
      const outcomes = await after.finish()
      expect(outcomes.filter(({ status }) => status !== 200 && status !== 201)).toEqual([])
      expect(judged(outcomes, verb)).toEqual(new Set(['next']))
    },
  )

  if (!LONG || point === 'drained') return
  test('the roots of a CT log', async () => {
    const add = strangeRoot()
    const running = await restarted(point)
    await expect(ask('ct-roots', { add })).rejects.toThrow(GONE)
    await running.ended
    await restarted()
    const first = (await ask('ct-roots', { add })) as { logs: string[] }
    expect(first.logs.length > 0).toBe(point === 'files-written')
    expect(await ask('ct-roots', { add })).toEqual({ logs: [] })
  })
})
