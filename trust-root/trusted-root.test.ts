import { SigningConfig, TrustedRoot, ClientTrustConfig } from '@sigstore/protobuf-specs'
import { toTrustMaterial } from '@sigstore/verify'
import { describe, expect, test } from 'vitest'
import { daysLater, exampleInventory, NOW, spki } from '../test/support/trust-installation.ts'
import type { Inventory, TrustItemState } from './items.ts'
import { renderRelease } from './release.ts'
import { renderTrustedRoot } from './trusted-root.ts'

const inventory = await exampleInventory()

describe('trusted_root.json', () => {
  test('is read by the clients of protobuf-specs and sigstore-js', () => {
    const rendered = renderTrustedRoot(inventory)
    const root = TrustedRoot.fromJSON(rendered)
    // Nothing of ours is unknown to the specification, and nothing is lost on the way.
    expect(JSON.parse(JSON.stringify(TrustedRoot.toJSON(root), (_, value) => value as unknown))).toMatchObject({
      mediaType: rendered.mediaType,
      tlogs: rendered.tlogs.map(({ baseUrl, logId }) => ({ baseUrl, logId })),
    })
    const material = toTrustMaterial(root)
    expect(material.tlogs.map(({ baseURL }) => baseURL)).toEqual([
      'http://rekor-v1.example.org',
      'http://rekor-v2.example.org',
    ])
    expect(material.ctlogs.map(({ logID }) => Buffer.from(logID).length)).toEqual([32])
    expect(material.certificateAuthorities[0]?.certChain).toHaveLength(2)
    expect(material.timestampAuthorities[0]?.certChain[0]?.isCA).toBe(false)
    expect(material.tlogs[0]?.validFor.start.getTime()).toBeLessThan(NOW.getTime())
  })

  test('has neither operator nor checkpointKeyId anywhere', () => {
    const text = JSON.stringify(renderTrustedRoot(inventory))
    expect(text).not.toMatch(/operator|checkpointKeyId/)
  })

  test('keeps what is trusted or retired and leaves out what is staged or revoked', () => {
    const rekor = inventory.items.find(({ kind }) => kind === 'rekor-v1')
    if (!rekor) throw new Error('no rekor')
    const with_ = (state: TrustItemState): Inventory => ({
      ...inventory,
      items: [
        ...inventory.items,
        { ...rekor, id: 'older', der: [spki()], state, window: { start: daysLater(-9), end: daysLater(-1) } },
      ],
    })
    const count = (state: Parameters<typeof with_>[0]) => renderTrustedRoot(with_(state)).tlogs.length
    const states = ['staged', 'trusted', 'standby', 'retired', 'revoked'] as const
    expect(states.map(count)).toEqual([2, 3, 3, 3, 2])
  })

  test('shows a standby key exactly as a trusted one, and what is active before both', () => {
    const extra = inventory.items.flatMap((item) =>
      item.kind === 'oidc-issuer' ? [] : [{ ...item, id: `${item.kind}-b`, window: { start: daysLater(-30) } }],
    )
    const root = (state: TrustItemState) =>
      renderTrustedRoot({ ...inventory, items: [...extra.map((item) => ({ ...item, state })), ...inventory.items] })
    expect(root('standby')).toEqual(root('trusted'))
    const starts = [root('standby').certificateAuthorities, root('standby').timestampAuthorities].map((list) =>
      list.map(({ validFor }) => validFor.start),
    )
    for (const [first] of starts) expect(first).toBe('2026-08-01T11:55:00Z')
    expect(root('standby').ctlogs.map(({ publicKey }) => publicKey.validFor.start)[0]).toBe('2026-08-01T11:55:00Z')
    expect(root('standby').tlogs.map(({ publicKey }) => publicKey.validFor.start)).toEqual([
      '2026-08-01T11:55:00Z',
      '2026-08-01T11:55:00Z',
      '2026-07-02T12:00:00Z',
      '2026-07-02T12:00:00Z',
    ])
  })

  test('is the same for the same inventory', async () => {
    expect(JSON.stringify(renderRelease(inventory))).toBe(JSON.stringify(renderRelease(structuredClone(inventory))))
  })
})

describe('the signing configurations', () => {
  test('list one Rekor each, v1 by default, and are read by protobuf-specs', () => {
    const [byDefault, v2] = renderRelease(inventory).signingConfigs
    expect(byDefault?.config.rekorTlogUrls.map(({ majorApiVersion }) => majorApiVersion)).toEqual([1])
    expect(v2?.config.rekorTlogUrls.map(({ majorApiVersion }) => majorApiVersion)).toEqual([2])
    expect(v2?.name).toBe('signing_config_rekor_v2.v0.2.json')
    for (const rendered of [byDefault, v2]) {
      const parsed = SigningConfig.fromJSON(rendered?.config)
      expect(parsed.tsaUrls.map(({ url }) => url)).toEqual(['http://127.0.0.1:3004/api/v1/timestamp'])
      expect(parsed.caUrls[0]).toMatchObject({
        url: 'http://127.0.0.1:5555',
        majorApiVersion: 1,
        operator: 'example.org',
      })
      expect(ClientTrustConfig.fromJSON(rendered?.clientTrustConfig.config).trustedRoot?.tlogs).toHaveLength(2)
    }
  })

  test('follow defaultRekor', () => {
    const [byDefault] = renderRelease({ ...inventory, defaultRekor: 2 }).signingConfigs
    expect(byDefault?.config.rekorTlogUrls.map(({ majorApiVersion }) => majorApiVersion)).toEqual([2])
  })
})

describe('the legacy targets', () => {
  test('have the well-known names, usages and no Rekor v2 key', () => {
    const targets = renderRelease(inventory).legacyTargets
    expect(targets.map(({ name, custom }) => [name, custom.sigstore.usage, custom.sigstore.status])).toEqual([
      ['fulcio_intermediate_v1.crt.pem', 'Fulcio', 'Active'],
      ['fulcio.crt.pem', 'Fulcio', 'Active'],
      ['rekor.pub', 'Rekor', 'Active'],
      ['ctfe.pub', 'CTFE', 'Active'],
      ['tsa_leaf.crt.pem', 'TSA', 'Active'],
      ['tsa_root.crt.pem', 'TSA', 'Active'],
    ])
  })

  test('give the well-known name to the active key and mark the retired one as expired', () => {
    const rekor = inventory.items.find(({ kind }) => kind === 'rekor-v1')
    if (!rekor) throw new Error('no rekor')
    const old = {
      ...rekor,
      id: 'old',
      der: [spki()],
      state: 'retired' as const,
      window: { start: daysLater(-9), end: daysLater(-1) },
    }
    const targets = renderRelease({ ...inventory, items: [old, ...inventory.items] }).legacyTargets
    const rekorTargets = targets.filter(({ custom }) => custom.sigstore.usage === 'Rekor')
    expect(rekorTargets.map(({ custom }) => custom.sigstore.status)).toEqual(['Active', 'Expired'])
    expect(rekorTargets[0]?.name).toBe('rekor.pub')
    expect(rekorTargets[1]?.name).toMatch(/^rekor_[0-9a-f]{8}\.pub$/)
  })
})
