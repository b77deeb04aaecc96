/** What is said to clients after an emergency: once, and only what is not so yet. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { formatInventory, type TrustItem } from '#trust-root'
import type { Installation } from './rotation/index.ts'
import { type StandbyPlan, writeStandbyPlan } from './standby-plan.ts'
import { settlement } from './standby-settle.ts'

let dataDir: string

beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'chancery-settle-'))
  for (const folder of ['agent', 'trust-root/repository']) mkdirSync(join(dataDir, folder), { recursive: true })
  const key = { uri: 'pkcs11:token=t;id=%01', token: 't', spki: '', purposes: ['certificate'], maxValiditySeconds: 600 }
  const agent = { modulePath: 'm', tokens: {}, keys: { 'issuing-ca-2': key } }
  writeFileSync(join(dataDir, 'agent/online.yaml'), stringify(agent))
})

afterEach(() => rmSync(dataDir, { recursive: true }))

const key = { uri: 'pkcs11:token=t;id=%01', token: 'standby', spki: 'AAAA', kind: 'P-256' }
const files = { certificate: 'c.pem', chain: 'd.pem' }
const ca = { kind: 'issuing-ca', name: 'issuing-ca-2', url: 'http://ca.example', key, ...files } as const
const v2 = {
  kind: 'rekor-v2',
  name: 'rekor-v2-2',
  origin: 'rekor-v2-2.example',
  listen: '127.0.0.1:3013',
  url: 'http://127.0.0.1:3013',
  database: 'logs/rekor-v2-2.db',
  key,
} as const
const since = '2026-11-21T10:00:00.500Z'

function given(inService: StandbyPlan['inService'], states: Readonly<Record<string, TrustItem['state']>>): void {
  writeStandbyPlan(dataDir, { schemaVersion: 1, agent: 'agent/standby.yaml', members: [], inService })
  const window = { start: new Date('2026-11-01T00:00:00Z') }
  const items = Object.entries(states).map(([id, state]) => ({
    id,
    kind: id.includes('rekor') ? ('rekor-v2' as const) : ('certificate-authority' as const),
    der: [new Uint8Array([1])],
    url: 'http://old.example',
    window,
    state,
  }))
  const text = formatInventory({ operator: 'o', defaultRekor: 1, items })
  for (const file of ['items.json', 'repository/.items.json']) writeFileSync(join(dataDir, 'trust-root', file), text)
}

const installation = (signing: Partial<Pick<Installation, 'ca' | 'logs'>>): Installation => ({
  dataDir,
  domain: 'example.org',
  agent: { dataDir, agent: 'online' },
  logs: [],
  trustRoot: { folder: join(dataDir, 'trust-root'), onlineKey: 'o', rootKey: 'r' },
  resolve: (path) => join(dataDir, path),
  ask: () => Promise.reject(new Error('nobody is asked')),
  ...signing,
})

const usedCa = { member: ca, former: { item: 'certificate-authority', name: 'issuing-ca' }, since }
const usedV2 = { member: v2, former: { item: 'rekor-v2', name: 'rekor-v2' }, since }
const caIs = (name: string) => ({ ca: { key: name, chain: 'ca/chain.pem', ctLog: 'ct' } })
const logIs = (name: string) => ({
  logs: [{ name, kind: 'rekor-v2', origin: 'o', listen: 'l', url: 'u', key: name, database: 'd' } as const],
})

test('the former CA ends with its last certificate, the log with its last entry', async () => {
  given([usedCa, usedV2], {
    'certificate-authority': 'active',
    'issuing-ca-2': 'standby',
    'rekor-v2': 'active',
    'rekor-v2-2': 'standby',
  })
  expect(await settlement(installation({ ...caIs('issuing-ca-2'), ...logIs('rekor-v2-2') }))).toEqual([
    { op: 'set', id: 'certificate-authority', state: 'retired', end: '2026-11-21T10:10:01Z' },
    { op: 'set', id: 'issuing-ca-2', state: 'active', url: 'http://ca.example' },
    { op: 'set', id: 'rekor-v2', state: 'retired', end: '2026-11-21T10:00:02Z' },
    { op: 'set', id: 'rekor-v2-2', state: 'active', url: 'http://127.0.0.1:3013' },
  ])
})

test.each([
  ['nothing was brought into service', [], { 'certificate-authority': 'active', 'issuing-ca-2': 'standby' }],
  ['it was said already', [usedCa], { 'certificate-authority': 'retired', 'issuing-ca-2': 'active' }],
  [
    'the former was cut off, and the successor said',
    [usedCa],
    { 'certificate-authority': 'revoked', 'issuing-ca-2': 'active' },
  ],
] as const)('says nothing where %s', async (_, used, states) => {
  // A retired item needs an end to be read back.
  given([...used], states)
  expect(await settlement(installation(caIs('issuing-ca-2')))).toEqual([])
})

test('what waits for signatures is said again, in the same words', async () => {
  given([usedCa], { 'certificate-authority': 'active', 'issuing-ca-2': 'standby' })
  const first = await settlement(installation(caIs('issuing-ca-2')))
  const published = readFileSync(join(dataDir, 'trust-root/items.json'), 'utf8')
  writeFileSync(join(dataDir, 'trust-root/items.json'), published.replace('"standby"', '"active"'))
  expect(await settlement(installation(caIs('issuing-ca-2')))).toEqual(first)
  expect(first).toHaveLength(2)
})

test('a former key that was cut off is not called better again', async () => {
  given([usedCa], { 'certificate-authority': 'revoked', 'issuing-ca-2': 'standby' })
  expect(await settlement(installation(caIs('issuing-ca-2')))).toEqual([
    { op: 'set', id: 'issuing-ca-2', state: 'active', url: 'http://ca.example' },
  ])
})

test('a standby whose place another key has taken since is not called active', async () => {
  given([usedCa], { 'certificate-authority': 'active', 'issuing-ca-2': 'standby' })
  const said = await settlement(installation(caIs('issuing-ca-3')))
  expect(said.map((change) => ('id' in change ? [change.id, change.state] : []))).toEqual([
    ['certificate-authority', 'retired'],
    ['issuing-ca-2', 'retired'],
  ])
})
