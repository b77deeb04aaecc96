/** What keeps the timestamp fresh is stopped by nothing that only a publication needs. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { exampleInventory, memoryAgent } from '../test/support/trust-installation.ts'
import { checkPayload, initTrustRoot, openTrustRoot, signPayload, tufKeyOf, type TrustRootOptions } from './index.ts'

const inventory = await exampleInventory()
const DAY_MS = 86_400_000
let folder: string
let agents: ReturnType<typeof memoryAgent>

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chancery-resign-'))
  agents = memoryAgent('tuf-root', 'tuf-online')
  await initTrustRoot({ ...options(), withRootAgent: (use) => use(agents) }, inventory)
})

afterEach(async () => {
  await rm(folder, { recursive: true })
})

function options(change: Partial<TrustRootOptions> = {}): TrustRootOptions {
  return { folder, agent: agents, ...change }
}

/** Opens the folder so many days later; hours of the server have come between. */
const daysLater = async (days: number, change: Partial<TrustRootOptions> = {}) =>
  await openTrustRoot(options({ now: () => new Date(Date.now() + days * DAY_MS), ...change }))

describe('the timestamp is signed again', () => {
  test('while custodians have signed a publication that the canary refuses', async () => {
    const canary = () => Promise.reject(new Error('an old signature does not verify'))
    let refusing = false
    const trustRoot = await openTrustRoot(options({ canary: () => (refusing ? canary() : Promise.resolve()) }))
    const { spkiDer } = await agents.key('tuf-root')
    const offline = { threshold: 1, custodians: ['tuf-root'] }
    const custodians = [{ name: 'tuf-root', holder: '', key: tufKeyOf({ kind: 'P-256', spkiDer }) }]
    await trustRoot.reassign({ custodians, root: offline, targets: offline })
    await trustRoot.update((before) => ({ ...before, operator: 'other.example' }))
    refusing = true
    const signatures = await signPayload(checkPayload(await trustRoot.payload(), new Date()), agents, 'tuf-root')
    await expect(trustRoot.merge([signatures])).rejects.toThrow('an old signature does not verify')

    const later = await daysLater(2, { canary })
    const before = (await later.status()).roles
    await expect(later.resign()).rejects.toThrow('an old signature does not verify')
    const { roles, state } = await later.status()
    expect(state).toBe('fresh')
    expect(roles.at(-1)?.version).toBeGreaterThan(before.at(-1)?.version ?? Infinity)
    expect(await later.pending(), 'it waits on').toBeDefined()
  })

  test.each([
    ['when nothing else is due', 2],
    ['with the snapshot', 16],
  ])('while the root token fails that could sign root and targets: %s', async (_, days) => {
    const withRootAgent = () => Promise.reject(new Error('no such token'))
    const nearing = { validSeconds: 365 * 86_400, renewSeconds: 364 * 86_400 }
    const policy = {
      root: nearing,
      targets: nearing,
      snapshot: { validSeconds: 30 * 86_400, renewSeconds: 15 * 86_400 },
      timestamp: { validSeconds: 3 * 86_400, renewSeconds: 2 * 86_400 },
    }
    const later = await daysLater(days, { withRootAgent, policy })
    await expect(later.resign()).rejects.toThrow('no such token')
    const state = Object.fromEntries((await later.status()).roles.map((role) => [role.role, role.state]))
    expect(state).toMatchObject({ snapshot: 'fresh', timestamp: 'fresh' })
  })
})
