/**
 * A year and more of a repository by a simulated clock: the real publisher does what the server does every hour, with
 * real agents, and the custodians are there on few days, and for sixty days not at all. The four foreign TUF clients come
 * by every day, every 20 and every 90 days, and anew. None is ever refused.
 *
 * CHANCERY_LONG=1 looks every hour and has clients every day; the usual run is a sample of the same 400 days.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { listen, type Listener } from '#http'
import { initTrustRoot, servedFolder, type TrustRoot, trustRootSection } from '#trust-root'
import { trustRootFindings } from '../../server/age-alarms.ts'
import { openTufClients, type TufClientName, type TufClients, tufClientNames } from '../e2e/tuf-clients.ts'
import { refusals } from '../e2e/tuf-refusals.ts'
import { readStep } from '../e2e/tuf-repository.ts'
import { rolesOf, signedBy, withLog } from '../e2e/tuf-steps.ts'
import { type FakedClock, fakeClock } from '../support/faked-clock.ts'
import { exampleInventory } from '../support/trust-installation.ts'
import { makeTufKeys, type TufKeys } from '../support/tuf-keys.ts'
import { LONG } from './loaded-stack.ts'

const DAYS = 400
/** How often the server looks; the sample's is still far below the two days that a timestamp has left when it is renewed. */
const TICK_HOURS = LONG ? 1 : 12
/** Two of three custodians must sign; for these sixty days, which begin when root becomes due, only one is there. */
const ABSENT = { from: 275, to: 335 }
/** Days on which an operator looks whether custodians must sign, and asks those who are there. */
const MEETINGS = [30, 120, 210, 270, 276, 290, 310, 330, 336, 370, 396]
/** What is changed on one of them. */
const CHANGED = 120
/** The server does not run for almost two days, as from Friday evening to Sunday; its files are still served. */
const OUTAGES = [50, 150, 276, 333, 398].map((day) => ({ from: day, to: day + 46 / 24 }))
/** It runs, but its HSM is away. */
const HSM_AWAY = { from: 180.25, to: 182 }

const scratch = mkdtempSync(join(tmpdir(), 'chancery-tuf-400-days-'))
const folder = join(scratch, 'trust-root')
const firstRoot = join(scratch, '1.root.json')
let clock: FakedClock
let offsetSeconds = 0
let keys: TufKeys
let clients: TufClients
let server: Listener
let trustRoot: TrustRoot

const now = (): Date => new Date(Date.now() + offsetSeconds * 1000)

/** Days since the beginning, in whole hours. */
function goTo(day: number): void {
  offsetSeconds = Math.round(day * 24) * 3600
  clock.step(offsetSeconds)
}

beforeAll(async () => {
  clock = fakeClock(scratch, 'world')
  keys = await makeTufKeys(join(scratch, 'keys'), clock.environment)
  clients = openTufClients(clock.environment)
  mkdirSync(folder)
  server = await listen({ host: '127.0.0.1', port: 0, sections: [{ section: trustRootSection({ folder }) }] })
  const options = { folder, agent: keys.online, keys: { root: 'none', online: 'tuf-online' }, now }
  const roles = await rolesOf(keys, 2, ['alice', 'bob', 'carol'], 'tuf-online')
  trustRoot = await initTrustRoot(options, await exampleInventory(), roles)
  await signedBy(trustRoot, keys, ['alice', 'bob'], now())
  writeFileSync(firstRoot, readFileSync(join(servedFolder(folder), '1.root.json')))
})

afterAll(async () => {
  await clients?.close()
  await server?.close()
  await keys?.close()
  rmSync(scratch, { recursive: true, force: true })
})

interface Visit {
  readonly name: TufClientName
  readonly habit: string
  readonly day: number
}

const counts = { visits: 0, resigned: 0, failed: 0, signatures: 0, ceremonies: 0, daysWaiting: 0 }
/** The least that a client ever saw left of a role, hours. */
const leastHours: Record<string, number> = {}

/** A client comes by. It gets every target with the right bytes, or this throws. */
async function visit({ name, habit, day }: Visit): Promise<void> {
  const step = readStep('now', folder)
  const state = join(scratch, 'clients', `${name}-${habit}`)
  if (habit === 'new') rmSync(state, { recursive: true, force: true })
  // One that was installed later came with the root of its day.
  const root = habit === 'new' && day > 200 ? join(servedFolder(folder), 'root.json') : firstRoot
  const targets = Object.keys(step.targets)
  const answer = await clients.refresh(name, { state, root, mirror: server.url, targets, now: now() })
  counts.visits += 1
  for (const { role, secondsLeft } of (await trustRoot.status()).roles) {
    leastHours[role] = Math.min(leastHours[role] ?? Infinity, Math.floor(secondsLeft / 3600))
  }
  const who = { name, habit, day }
  expect({ ...who, ...answer }).toEqual({ ...who, versions: step.versions, targets: step.targets })
}

/** Who comes by at a time. */
function visitsAt(day: number): Visit[] {
  // What is oldest of all is what is served just before the server is back.
  if ([...OUTAGES, HSM_AWAY].some(({ to }) => to === day))
    return tufClientNames.map((name) => ({ name, habit: 'daily', day }))
  if (!Number.isInteger(day)) return []
  const often = LONG ? 1 : 50
  const habits = [
    ...(day % often === 0 ? ['daily'] : []),
    ...(day % (LONG ? 20 : 100) === 0 ? ['every 20 days'] : []),
    ...(day % (LONG ? 90 : 180) === 0 ? ['every 90 days'] : []),
    ...(day % (LONG ? 5 : 133) === 0 ? ['new'] : []),
  ]
  return habits.flatMap((habit) => tufClientNames.map((name) => ({ name, habit, day })))
}

const isHsmAway = (day: number) => day > HSM_AWAY.from && day < HSM_AWAY.to
const isDown = (day: number) => OUTAGES.some(({ from, to }) => day > from && day < to)
const hours = [
  ...Array.from({ length: (DAYS * 24) / TICK_HOURS + 1 }, (_, at) => at * TICK_HOURS),
  ...OUTAGES.map(({ to }) => to * 24),
].toSorted((a, b) => a - b)

/** What the hourly loop of the server does; the error of one run is logged and the next one tries again. */
async function tick(day: number): Promise<void> {
  try {
    if (await trustRoot.resign()) counts.resigned += 1
  } catch (error) {
    if (!isHsmAway(day)) throw error
    counts.failed += 1
  }
}

/** The days on which an alarm was first seen, by its code and role. */
const alarms = new Map<string, number>()

async function look(day: number): Promise<void> {
  for (const { code, subject } of trustRootFindings(await trustRoot.status())) {
    const alarm = `${code} ${subject}`
    if (!alarms.has(alarm)) alarms.set(alarm, day)
  }
}

/** Asks the custodians who are there to sign what waits, or must be signed by now, or is wished. */
async function meet(day: number): Promise<void> {
  const { roles } = await trustRoot.status()
  const isDue = roles.some(({ role, state }) => (role === 'root' || role === 'targets') && state !== 'fresh')
  if (day === CHANGED) await trustRoot.update((old) => withLog(old, 'rekor-v1-next', 'trusted'))
  else if (isDue) await trustRoot.publish()
  for (const name of day >= ABSENT.from && day < ABSENT.to ? (['carol'] as const) : (['alice', 'bob'] as const)) {
    const waiting = await trustRoot.pending()
    if (waiting?.roles.some(({ missing }) => missing.some((custodian) => custodian.name === name)) !== true) continue
    counts.signatures += 1
    const { state } = await signedBy(trustRoot, keys, [name], now())
    if (state === 'published') counts.ceremonies += 1
  }
}

/** Lets 400 days go by. */
async function goBy(): Promise<void> {
  let isStopped = false
  for (const hour of hours) {
    const day = hour / 24
    goTo(day)
    // Before the server looks, when everything is as old as it gets.
    for (const one of visitsAt(day)) await visit(one)
    if (isDown(day)) continue
    if (isHsmAway(day) !== isStopped) {
      await (isStopped ? keys.startOnline() : keys.stopOnline())
      isStopped = !isStopped
    }
    await tick(day)
    await look(day)
    if (!Number.isInteger(day)) continue
    if (MEETINGS.includes(day)) await meet(day)
    if (await trustRoot.pending()) counts.daysWaiting += 1
  }
}

const LIMIT_MS = LONG ? 3_600_000 : 600_000

test('in 400 days with the custodians absent for 60 no client is ever refused', { timeout: LIMIT_MS }, async () => {
  const began = performance.now()
  await goBy()
  const seconds = Math.round((performance.now() - began) / 1000)
  const seen = { ...counts, leastHours, alarms: Object.fromEntries(alarms) }
  console.log(`400 days in ${seconds} s: ${JSON.stringify(seen)}`)
  expect(counts.visits).toBeGreaterThan(LONG ? 1900 : 60)
  expect(counts.resigned).toBeGreaterThan(300)
  // One waited for its second signature while the custodians were away, under a timestamp that went on.
  expect(counts).toMatchObject({ ceremonies: 3, signatures: 6 })
  expect(counts.daysWaiting).toBeGreaterThan(50)
  expect(leastHours['root']).toBeLessThan(31 * 24)
  // What the server signs itself is missed after six hours, and what custodians sign 60, 30 and 14 days ahead.
  const { 'trust_root_late timestamp': late, ...others } = Object.fromEntries(alarms)
  expect(late).toBeGreaterThan(181)
  expect(late).toBeLessThan(HSM_AWAY.to)
  expect(others).toEqual({ 'trust_root_ending root': 365 - 60, 'trust_root_ending_soon root': 365 - 30 })
  expect((await trustRoot.status()).state).toBe('fresh')
})

/** When root ends that was signed last: the operator asked for it on the second day of the absence. */
const END = 276 + 365

test('with nobody there any more the alarms rise, and on the day when root ends every client refuses', async () => {
  alarms.clear()
  for (const day of [60, 30, 14, 0].flatMap((left) => [END - left - 0.5, END - left + 0.5])) {
    goTo(day)
    await tick(day)
    await look(day)
    for (const name of tufClientNames) {
      const state = join(scratch, 'clients', `${name}-daily`)
      const targets = ['trusted_root.json']
      const answer = await clients.refresh(name, { state, root: firstRoot, mirror: server.url, targets, now: now() })
      if (day > END) expect(answer).toEqual({ error: expect.stringMatching(refusals.expiredRoot[name]) })
      else expect(answer).not.toHaveProperty('error')
    }
  }
  const ofRoot = [...alarms].filter(([alarm]) => alarm.endsWith(' root'))
  expect(Object.fromEntries(ofRoot)).toEqual({
    'trust_root_ending root': END - 59.5,
    'trust_root_ending_soon root': END - 29.5,
    'trust_root_ending_now root': END - 13.5,
    'trust_root_expired root': END + 0.5,
  })
})
