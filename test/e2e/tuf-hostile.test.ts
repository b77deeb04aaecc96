/**
 * Four TUF clients that this project did not write, before a mirror in the hands of an attacker, who may have stolen the
 * online key as well. Each client refuses each attack by its own error, and goes on with the honest mirror afterwards.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fakeClock } from '../support/faked-clock.ts'
import { type HostileMirror, openHostileMirror } from './hostile-mirror.ts'
import { attacks, type ClientState, gaps } from './tuf-attacks.ts'
import { refusal as refusalOf, succeeded } from './run.ts'
import {
  copyState,
  cosignTrustedRoot,
  openTufClients,
  type TufClientName,
  type TufClients,
  tufClientNames,
} from './tuf-clients.ts'
import type { Loot } from './tuf-forgery.ts'
import { refusals } from './tuf-refusals.ts'
import type { Step } from './tuf-repository.ts'
import { makeSteps, type MadeSteps } from './tuf-steps.ts'

const DAY = 86_400
const scratch = mkdtempSync(join(tmpdir(), 'chancery-tuf-hostile-'))
const clock = fakeClock(scratch, 'clients')
let clients: TufClients
let made: MadeSteps
let mirror: HostileMirror
let loot: Loot

interface Attacked {
  readonly name: TufClientName
  readonly client: ClientState
  readonly attack: string
  /** What the attack left of the client. */
  readonly state: string
}

const attacked: Attacked[] = []

beforeAll(async () => {
  clients = openTufClients(clock.environment)
  mirror = await openHostileMirror()
  made = await makeSteps(scratch)
  const { steps, keys } = made
  const step = (name: string): Step => {
    const found = steps.find((one) => one.name === name)
    if (found === undefined) throw new Error(`no step "${name}"`)
    return found
  }
  const last = step('backup brought back')
  loot = { last, step, keys, onlineKey: 'tuf-online-2', insider: 'alice', honest: 'bob', former: 'carol' }
  mirror.serve(last.files)
  for (const name of tufClientNames) {
    const answer = await refresh(name, { state: join(scratch, 'cached', name), targets: last.targets })
    expect(answer).toEqual({ versions: last.versions, targets: last.targets })
  }
})

afterAll(async () => {
  await made?.close()
  await mirror?.close()
  await clients?.close()
  rmSync(scratch, { recursive: true, force: true })
})

interface Ask {
  readonly state: string
  readonly targets?: Readonly<Record<string, string>>
  readonly now?: Date
  readonly pinned?: boolean
}

/** Asks for the targets that every step has, unless told. */
async function refresh(name: TufClientName, { targets, ...ask }: Ask) {
  const names = Object.keys(targets ?? loot.step('first publication').targets)
  return await clients.refresh(name, { root: made.firstRoot, mirror: mirror.url, targets: names, ...ask })
}

let states = 0

/** A fresh folder of a client. */
function stateOf(name: TufClientName, client: ClientState): string {
  states += 1
  const state = join(scratch, 'attacked', String(states))
  return client === 'fresh' ? state : copyState(join(scratch, 'cached', name), state)
}

const cases = attacks.flatMap((attack) => attack.against.map((client) => ({ ...attack, client })))

describe.each(cases)('$name, before a client that is $client', ({ name: attack, files, client, refusal }) => {
  test.each(tufClientNames)('%s', async (name) => {
    const one = { name, client, attack, state: stateOf(name, client) }
    attacked.push(one)
    mirror.serve(await files(loot))
    const answer = await refresh(name, { state: one.state, pinned: client === 'pinned' })
    if (gaps.some((gap) => isOf(gap, one))) expect(answer).not.toHaveProperty('error')
    else expect(answer).toEqual({ error: expect.stringMatching(refusal[name]) })
  })
})

function isOf({ attack, state, clients: names }: (typeof gaps)[number], one: Attacked): boolean {
  return attack.test(one.attack) && names.includes(one.name) && (state === undefined || state === one.client)
}

/** cosign as its users have it; in the usual run before every fourth attack. */
describe('cosign 3, which has go-tuf v2,', () => {
  const cosign = async (state: string, pinned = false) =>
    await cosignTrustedRoot(state, { mirror: mirror.url, root: made.firstRoot, pinned })

  beforeAll(async () => {
    mirror.serve(loot.last.files)
    succeeded(await cosign(join(scratch, 'cached', 'cosign')))
  })

  const own = cases.filter(
    ({ client }, at) => client === 'pinned' || process.env['CHANCERY_LONG'] === '1' || at % 4 === 0,
  )

  test.each(own)('with a cache that is $client refuses: $name', async ({ name: attack, client, files, refusal }) => {
    states += 1
    const state = join(scratch, 'attacked', String(states))
    if (client !== 'fresh') copyState(join(scratch, 'cached', 'cosign'), state)
    mirror.serve(await files(loot))
    const outcome = await cosign(state, client === 'pinned')
    const one = { name: 'go-tuf v2', client, attack, state } as const
    if (gaps.some((gap) => isOf(gap, one))) succeeded(outcome)
    // Where it has nothing yet it tries go-tuf 0.7 as well.
    else expect(refusalOf(outcome)).toMatch(inside(refusal[client === 'fresh' ? 'go-tuf 0.7' : 'go-tuf v2']))
  })
})

/** cosign says more around the words of its library. */
function inside({ source }: RegExp): RegExp {
  return new RegExp(source.replace(/^\^/, '').replace(/\$$/, ''))
}

test('every gap that is listed was tried', () => {
  expect(gaps.filter((gap) => !attacked.some((one) => isOf(gap, one)))).toEqual([])
})

describe.each(['cached', 'fresh'] as const)('a mirror that is frozen, before a client that is %s', (client) => {
  test.each(tufClientNames)('%s takes it for as long as the timestamp holds, and then not', async (name) => {
    mirror.serve(loot.last.files)
    const after = async (days: number) => {
      const state = stateOf(name, client)
      attacked.push({ name, client, attack: `frozen for ${days} days`, state })
      clock.step(days * DAY)
      return await refresh(name, { state, now: new Date(Date.now() + days * DAY * 1000) })
    }
    try {
      expect(await after(2.9)).toMatchObject({ versions: loot.last.versions })
      expect(await after(3.1)).toEqual({ error: expect.stringMatching(refusals.expiredTimestamp[name]) })
    } finally {
      clock.step(0)
    }
  })
})

test('after a new online key every client goes on, whatever it was shown before', async () => {
  const { files, versions, targets } = await made.rotateOnlineKey()
  mirror.serve(files)
  for (const { state, ...one } of attacked) {
    const answer = await refresh(one.name, { state, targets })
    expect({ ...one, ...answer }).toEqual({ ...one, versions, targets })
  }
})
