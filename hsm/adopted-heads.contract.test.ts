/** Heads that a guard has forgotten and is given back, heads after which there is none, and one writer a log. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseCheckpoint, parseNote, verifyCheckpoint } from '#tlog'
import { copyOf, type Installation, install, need, ORIGIN, treeOf } from './agent.fixture.ts'
import { HsmError, type SignedTreeHead } from './signing.ts'
import type { SpawnedAgent } from './spawn.ts'

const tree = treeOf(40)
const origin = ORIGIN['rekor-v2']
let template: Installation
let remembering: Required<SpawnedAgent>
/** Signed by the same key in another agent, whose state this one has not. */
const signed = new Map<number, SignedTreeHead>()
const installations: Installation[] = []
const running: Required<SpawnedAgent>[] = []

beforeAll(async () => {
  template = await install()
  const other = copyOf(template)
  installations.push(other)
  remembering = await other.start()
  let from = 0
  for (const size of [7, 20, 30]) {
    signed.set(size, await remembering.agent.treeHead(head(size, from)))
    from = size
  }
})

afterAll(async () => {
  await Promise.all([remembering, ...running].map(async ({ close }) => await close()))
  for (const installation of [template, ...installations]) installation.remove()
})

/** An agent with the same keys that remembers nothing. */
async function forgetful(): Promise<Required<SpawnedAgent>> {
  const installation = copyOf(template)
  installations.push(installation)
  const spawned = await installation.start()
  running.push(spawned)
  return spawned
}

function head(size: number, from: number) {
  const consistencyProof = from === 0 || from >= size ? [] : tree.consistencyProof(from, size)
  return { key: 'rekor-v2', origin, size, rootHash: tree.root(size), timestampMs: Date.now(), consistencyProof }
}

function adoption(size: number, from: number, signature = need(signed.get(size)).signature) {
  return { ...head(size, from), origin: origin as string, timestampMs: 0, signature, frozenAtMs: 0 }
}

async function outcome(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'done'
  } catch (error) {
    if (error instanceof HsmError) return `${error.code} ${error.reason}`
    throw error
  }
}

describe('a forgotten head', () => {
  test('is adopted, goes on from there, is a line of the account, and lifts the latch', async () => {
    const { agent, admin } = await forgetful()
    const { signature } = need(signed.get(20))
    await agent.reportHead({ key: 'rekor-v2', origin, size: 20, rootHash: tree.root(20), timestampMs: 0, signature })
    expect(await outcome(agent.treeHead(head(20, 0)))).toBe('latched fork_refused')
    expect(await outcome(admin.adoptHead(adoption(20, 0)))).toBe('done')
    expect(await agent.guardedHead({ key: 'rekor-v2', origin })).toEqual({ size: 20, rootHash: tree.root(20) })
    expect(await outcome(agent.treeHead(head(40, 20)))).toBe('done')
    expect((await agent.account({ from: 1, limit: 1000 })).map(({ act }) => act)).toContain('adoptHead')
  })

  test('never lowers a guard, forks it, or comes from anybody else', async () => {
    const { agent, admin } = await forgetful()
    await agent.treeHead(head(20, 0))
    const refused: [string, ReturnType<typeof adoption>, string][] = [
      ['a smaller size', adoption(7, 0), 'refused guard_ahead'],
      ['a larger size without proof', { ...adoption(30, 20), consistencyProof: [] }, 'refused not_a_continuation'],
      ['a proof from elsewhere', { ...adoption(30, 20), ...pick(head(30, 7)) }, 'refused not_a_continuation'],
      ['another root', { ...adoption(30, 20), rootHash: tree.root(29) }, 'refused bad_signature'],
      ['a signature of another head', adoption(30, 20, need(signed.get(7)).signature), 'refused bad_signature'],
      ['no signature', adoption(30, 20, new Uint8Array(0)), 'refused bad_signature'],
      ['another origin', { ...adoption(30, 20), origin: ORIGIN.ct }, 'refused wrong_origin'],
      ['another key', { ...adoption(30, 20), key: 'rekor-v1' }, 'refused wrong_origin'],
    ]
    for (const [what, request, reason] of refused) expect(await outcome(admin.adoptHead(request)), what).toBe(reason)
    expect(await agent.guardedHead({ key: 'rekor-v2', origin })).toMatchObject({ size: 20 })
    expect(await outcome(admin.adoptHead(adoption(30, 20)))).toBe('done')
    const onSigning = agent as unknown as typeof admin // one client class: the channel is what refuses
    expect(await outcome(onSigning.adoptHead(adoption(30, 30)))).toBe('refused unknown_method')
  })
})

describe('a last head', () => {
  test('says so as upstream does, may be asked for again, and has no successor, over restarts', async () => {
    const installation = copyOf(template)
    installations.push(installation)
    const first = await installation.start()
    await first.agent.treeHead(head(7, 0))
    const last = await first.agent.treeHead({ ...head(20, 7), freeze: true })
    const { spkiDer } = need(installation.keys['rekor-v2'])
    const { extensions } = verifyCheckpoint(last.note, { origin, spkiDer })
    expect(extensions).toEqual([expect.stringMatching(/^Log frozen — \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d UTC 20\d\d$/)])
    await first.close()
    const second = await installation.start()
    running.push(second)
    const again = await second.agent.treeHead({ ...head(20, 20), freeze: true })
    expect(parseCheckpoint(parseNote(again.note).text)).toEqual(parseCheckpoint(parseNote(last.note).text))
    expect(again.frozenAtMs).toBe(last.frozenAtMs)
    for (const [what, request] of [
      ['growth', head(30, 20)],
      ['growth as the last', { ...head(30, 20), freeze: true }],
      ['the same without saying so', head(20, 20)],
    ] as const) {
      expect(await outcome(second.agent.treeHead(request)), what).toBe('refused frozen')
    }
    expect(await second.agent.guardedHead({ key: 'rekor-v2', origin })).toMatchObject({ frozenAtMs: last.frozenAtMs })
  })

  test('of Rekor v1 and CT has no line of its own', async () => {
    const { agent } = await forgetful()
    const rootHash = treeOf(0).root()
    const empty = { size: 0, rootHash, timestampMs: Date.now(), consistencyProof: [], freeze: true }
    const v1 = await agent.treeHead({ ...empty, key: 'rekor-v1', origin: ORIGIN['rekor-v1'] })
    expect(parseCheckpoint(parseNote(v1.note).text).extensions).toEqual([])
    expect((await agent.treeHead({ ...empty, key: 'ct', origin: ORIGIN.ct })).note).toBe('')
    expect(await outcome(agent.treeHead({ ...empty, freeze: false, key: 'ct', origin: ORIGIN.ct }))).toBe(
      'refused frozen',
    )
  })
})

test('one writer a log: another is refused while the first is heard of, and not after it has said goodbye', async () => {
  const { agent } = await forgetful()
  const ask = (writer: string, more: object = {}) =>
    outcome(agent.guardedHead({ key: 'rekor-v2', origin, writer, ...more }))
  expect([await ask('one'), await ask('two'), await ask('one')]).toEqual(['done', 'refused origin_in_use', 'done'])
  expect(await outcome(agent.treeHead({ ...head(7, 0), writer: 'two' }))).toBe('refused origin_in_use')
  expect(await outcome(agent.guardedHead({ key: 'rekor-v2', origin }))).toBe('done')
  expect(await ask('one', { release: true })).toBe('done')
  expect([await ask('two'), await ask('one')]).toEqual(['done', 'refused origin_in_use'])
  await new Promise((resolve) => setTimeout(resolve, 1000))
  expect(await outcome(agent.treeHead({ ...head(7, 0), writer: 'one' }))).toBe('done')
})

function pick({ consistencyProof }: ReturnType<typeof head>) {
  return { consistencyProof }
}
