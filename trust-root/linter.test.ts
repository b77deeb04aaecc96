import { describe, expect, test } from 'vitest'
import { chain, daysLater, exampleInventory, NOW, spki } from '../test/support/trust-installation.ts'
import type { Inventory, TrustItem, TrustItemKind } from './items.ts'
import { lintRelease, type LintContext } from './linter.ts'
import { type Release, renderRelease } from './release.ts'

const inventory = await exampleInventory()
const context: LintContext = { now: NOW }
const rulesOf = (release: Release, at: LintContext = context) => [
  ...new Set(lintRelease(release, at).map(({ rule }) => rule)),
]

type Writable<T> = { -readonly [K in keyof T]: Writable<T[K]> }

/** The same release with one place in it changed, as a renderer with a fault would have made it. */
function spoiled(change: (release: Writable<Release>) => void): Release {
  const copy = structuredClone(renderRelease(inventory)) as unknown as Writable<Release>
  change(copy)
  return copy as unknown as Release
}

function changed(kind: TrustItemKind, change: Partial<TrustItem>): Inventory {
  return { ...inventory, items: inventory.items.map((item) => (item.kind === kind ? { ...item, ...change } : item)) }
}

function added(kind: TrustItemKind, change: Partial<TrustItem>): Inventory {
  const like = inventory.items.find((item) => item.kind === kind)
  if (!like) throw new Error(`no ${kind}`)
  return { ...inventory, items: [...inventory.items, { ...like, id: `${kind}-2`, ...change }] }
}

const without = (kind: TrustItemKind): Inventory => ({
  ...inventory,
  items: inventory.items.filter((item) => item.kind !== kind),
})

const twoStandby: Inventory = {
  ...added('ct-log', { der: [spki()], state: 'standby' }),
  items: [
    ...added('ct-log', { der: [spki()], state: 'standby' }).items,
    ...added('ct-log', { der: [spki()], state: 'standby', id: 'ct-log-3' }).items.slice(-1),
  ],
}

const ending = { start: daysLater(-30), end: daysLater(30) }
const ended = { start: daysLater(-30), end: daysLater(-1) }

describe('the linter accepts', () => {
  test.each([
    ['a new installation', inventory],
    ['an installation without Rekor v2', without('rekor-v2')],
    ['a second CT key that is trusted and not used', added('ct-log', { der: [spki()], state: 'trusted' })],
    [
      'a retired Rekor v1 shard on the same host',
      added('rekor-v1', { der: [spki()], state: 'retired', window: ended }),
    ],
    ['Rekor v2 as the default', { ...inventory, defaultRekor: 2 as const }],
    ['one standby of a kind', added('rekor-v2', { der: [spki()], state: 'standby', origin: 'rekor-v2-b.example.org' })],
    ['a staged key that would not be fit', added('rekor-v2', { der: [spki('P-384')], state: 'staged' })],
  ])('%s', (_, accepted) => expect(lintRelease(renderRelease(accepted), context)).toEqual([]))
})

const chains = {
  expired: await chain({ leaf: 'issuing-ca', notAfter: daysLater(-1) }),
  nameless: await chain({ leaf: 'issuing-ca', organization: '' }),
  timestamp: await chain({ leaf: 'timestamp' }),
  uncritical: await chain({ leaf: 'timestamp', criticalUsage: false }),
  other: await chain({ leaf: 'issuing-ca' }),
}

describe('the linter refuses an inventory', () => {
  const der = (kind: TrustItemKind, at: number) => inventory.items.find((item) => item.kind === kind)?.der[at] ?? spki()
  const ca = 'certificate-authority'
  const tsa = 'timestamp-authority'
  const rows: [string, string, Inventory][] = [
    ['log-key-p256', 'a P-384 log', changed('rekor-v1', { der: [spki('P-384')] })],
    ['log-key-p256', 'PEM instead of DER', changed('ct-log', { der: [Buffer.from('-----BEGIN PUBLIC KEY-----')] })],
    ['log-key-p256', 'a certificate for a key', changed('ct-log', { der: [der(ca, 0)] })],
    ['log-key-unique', 'one key for v1 and v2', changed('rekor-v2', { der: [der('rekor-v1', 0)] })],
    ['log-key-unique', 'one key for CT and Rekor', changed('ct-log', { der: [der('rekor-v1', 0)] })],
    ['tlog-origin-form', 'v1 without tree id', changed('rekor-v1', { origin: 'rekor.example.org' })],
    ['tlog-origin-form', 'v2 with a tree id', changed('rekor-v2', { origin: 'rekor.example.org - 1' })],
    ['tlog-origin-form', 'an origin with a port', changed('rekor-v2', { origin: 'rekor.example.org:3003' })],
    ['tlog-origin-form', 'an origin with a path', changed('rekor-v2', { origin: 'rekor.example.org/log' })],
    ['rekor-v2-host-unique', 'v1 and v2 of one host', changed('rekor-v2', { origin: 'rekor-v1.example.org' })],
    ['trusted-root-lists', 'no CT log', without('ct-log')],
    ['trusted-root-lists', 'no CA', without(ca)],
    ['authority-subject', 'a CA without organization', changed(ca, { der: chains.nameless })],
    ['authority-chain', 'root first', changed(ca, { der: [der(ca, 1), der(ca, 0)] })],
    ['authority-chain', 'the issuing CA alone', changed(ca, { der: [der(ca, 0)] })],
    ['authority-chain', 'another root of the same name', changed(ca, { der: [der(ca, 0), chains.other[1] ?? spki()] })],
    ['authority-chain', 'a TSA without root', changed(tsa, { der: [der(tsa, 0)] })],
    ['authority-validity', 'an expired chain', changed(ca, { der: chains.expired })],
    ['issuing-ca', 'a timestamping leaf as CA', changed(ca, { der: chains.timestamp })],
    ['timestamp-leaf', 'a CA as TSA', changed(tsa, { der: chains.other })],
    ['timestamp-leaf', 'an uncritical usage', changed(tsa, { der: chains.uncritical })],
    ['window', 'a start in the future', changed('rekor-v1', { window: { start: daysLater(1) } })],
    ['window', 'an end before the start', changed('ct-log', { window: { start: daysLater(-1), end: daysLater(-2) } })],
    ['retired-has-end', 'a retired log without end', added('ct-log', { der: [spki()], state: 'retired' })],
    ['one-standby', 'two standby CT logs', twoStandby],
    ['one-standby', 'a standby that ends', added('ct-log', { der: [spki()], state: 'standby', window: ending })],
    ['standby-is-not-used', 'a standby issuer of tokens', added('oidc-issuer', { state: 'standby' })],
    ['one-live-service', 'two active v1 logs', added('rekor-v1', { der: [spki()] })],
    ['one-live-service', 'no active CA', changed(ca, { state: 'trusted' })],
    ['rekor-version', 'v1 as default and none active', changed('rekor-v1', { state: 'trusted' })],
    ['service-url', 'a trailing slash', changed('rekor-v1', { url: 'http://127.0.0.1:3000/' })],
    ['service-url', 'a path in the CA URL', changed(ca, { url: 'http://127.0.0.1:5555/fulcio' })],
    ['service-url', 'a query', changed('rekor-v2', { url: 'http://127.0.0.1:3003?a=b' })],
    ['service-url', 'credentials', changed('rekor-v2', { url: 'http://me:secret@127.0.0.1:3003' })],
    ['timestamp-url', 'a TSA base URL', changed(tsa, { url: 'http://127.0.0.1:3004' })],
    ['service-operator', 'an operator with a scheme', { ...inventory, operator: 'https://example.org' }],
    ['service-operator', 'no operator', { ...inventory, operator: '' }],
    ['service-window', 'an active service that has ended', changed('rekor-v1', { window: ended })],
    ['rekor-v2-needs-timestamps', 'Rekor v2 without TSA', without(tsa)],
  ]
  test.each(rows)('%s: %s', (rule, _, refused) => expect(rulesOf(renderRelease(refused))).toContain(rule))
})

describe('the linter refuses what a faulty renderer made', () => {
  const rows: [string, string, (release: Writable<Release>) => void][] = [
    [
      'trusted-root-media-type',
      'v0.2',
      ({ trustedRoot }) => {
        Object.assign(trustedRoot, { mediaType: 'application/vnd.dev.sigstore.trustedroot.v0.2+json' })
      },
    ],
    [
      'trusted-root-fields',
      'operator',
      ({ trustedRoot }) => Object.assign(trustedRoot.tlogs[0] ?? {}, { operator: 'x' }),
    ],
    [
      'trusted-root-fields',
      'checkpointKeyId',
      ({ trustedRoot }) => Object.assign(trustedRoot.tlogs[0] ?? {}, { checkpointKeyId: { keyId: 'AAAAAA==' } }),
    ],
    [
      'trusted-root-lists',
      'no TSA list',
      ({ trustedRoot }) => Reflect.deleteProperty(trustedRoot, 'timestampAuthorities'),
    ],
    [
      'log-hash-algorithm',
      'none',
      ({ trustedRoot }) => Object.assign(trustedRoot.ctlogs[0] ?? {}, { hashAlgorithm: '' }),
    ],
    [
      'log-key-p256',
      'key details',
      ({ trustedRoot }) => Object.assign(trustedRoot.tlogs[0]?.publicKey ?? {}, { keyDetails: 'PKIX_ED25519' }),
    ],
    [
      'log-id',
      'of another key',
      ({ trustedRoot }) =>
        Object.assign(trustedRoot.tlogs[0]?.logId ?? {}, { keyId: trustedRoot.tlogs[1]?.logId.keyId }),
    ],
    [
      'tlog-base-url',
      'with a port',
      ({ trustedRoot }) => Object.assign(trustedRoot.tlogs[0] ?? {}, { baseUrl: 'http://rekor-v1.example.org:3000' }),
    ],
    [
      'tlog-base-url',
      'of another host',
      ({ trustedRoot }) => Object.assign(trustedRoot.tlogs[0] ?? {}, { baseUrl: 'http://rekor-v2.example.org' }),
    ],
    [
      'window',
      'milliseconds',
      ({ trustedRoot }) =>
        Object.assign(trustedRoot.tlogs[0]?.publicKey.validFor ?? {}, { start: '2026-01-01T00:00:00.000Z' }),
    ],
    [
      'window',
      'no start',
      ({ trustedRoot }) => Object.assign(trustedRoot.tlogs[0]?.publicKey.validFor ?? {}, { start: '' }),
    ],
    [
      'signing-config-media-type',
      'v0.1',
      ({ signingConfigs }) =>
        Object.assign(signingConfigs[0]?.config ?? {}, {
          mediaType: 'application/vnd.dev.sigstore.signingconfig.v0.1+json',
        }),
    ],
    [
      'signing-config-present',
      'none',
      (release) => {
        release.signingConfigs = []
      },
    ],
    [
      'selector',
      'ALL',
      ({ signingConfigs }) => Object.assign(signingConfigs[0]?.config ?? {}, { tsaConfig: { selector: 'ALL' } }),
    ],
    [
      'selector',
      'URLs alone',
      ({ signingConfigs }) => Reflect.deleteProperty(signingConfigs[0]?.config ?? {}, 'rekorTlogConfig'),
    ],
    [
      'rekor-version',
      'v2 in the v1 file',
      ({ signingConfigs }) => Object.assign(signingConfigs[0]?.config.rekorTlogUrls[0] ?? {}, { majorApiVersion: 2 }),
    ],
    [
      'service-version',
      'CA version 2',
      ({ signingConfigs }) => Object.assign(signingConfigs[0]?.config.caUrls[0] ?? {}, { majorApiVersion: 2 }),
    ],
    [
      'service-is-trusted',
      'log left out',
      ({ trustedRoot }) => {
        trustedRoot.tlogs.pop()
      },
    ],
    [
      'legacy-rekor-usage',
      'the v2 key',
      ({ legacyTargets }) => {
        const ct = legacyTargets.find(({ name }) => name === 'ctfe.pub')
        if (ct) ct.custom.sigstore.usage = 'Rekor'
      },
    ],
    [
      'legacy-complete',
      'no CT key',
      (release) => {
        release.legacyTargets = release.legacyTargets.filter(({ name }) => name !== 'ctfe.pub')
      },
    ],
    [
      'legacy-complete',
      'two TSA leaves',
      ({ legacyTargets }) => {
        legacyTargets.push(...legacyTargets.filter(({ name }) => name === 'tsa_leaf.crt.pem'))
      },
    ],
  ]
  test.each(rows)('%s: %s', (rule, _, change) => expect(rulesOf(spoiled(change))).toContain(rule))
})

describe('what was published', () => {
  const previous = renderRelease(inventory)
  test('may not vanish', () => {
    expect(rulesOf(renderRelease(without('rekor-v2')), { now: NOW, previous })).toEqual(['no-silent-removal'])
  })
  test('may not be staged again', () => {
    const staged = changed('rekor-v2', { state: 'staged' })
    expect(rulesOf(renderRelease(staged), { now: NOW, previous })).toEqual(['no-silent-removal'])
  })
  test('may be revoked', () => {
    const revoked = changed('rekor-v2', { state: 'revoked' })
    expect(rulesOf(renderRelease(revoked), { now: NOW, previous })).toEqual([])
  })
})
