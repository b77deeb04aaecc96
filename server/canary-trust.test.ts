/** When a kept canary is verified again: when it, or what the trusted root says of its keys, is another. */
import { expect, test } from 'vitest'
import { type Inventory, renderTrustedRoot, type TrustItem } from '#trust-root'
import { daysLater, exampleInventory, spki } from '../test/support/trust-installation.ts'
import type { CanaryBundle, SignedKind } from './canary-bundle.ts'
import { hexDigest, trustOf } from './canary-trust.ts'

const inventory = await exampleInventory()
const kinds = ['certificate-authority', 'ct-log', 'timestamp-authority', 'rekor-v1'] as const
const bundle: CanaryBundle = {
  log: 'rekor-v1',
  signedBy: Object.fromEntries(kinds.map((kind) => [kind, hexDigest(itemOf(kind).der[0] ?? new Uint8Array())])),
  bundle: { of: 'ours' },
}

function itemOf(kind: SignedKind): TrustItem {
  const item = inventory.items.find((one) => one.kind === kind)
  if (item === undefined) throw new Error(`no ${kind}`)
  return item
}

const withItems = (change: (item: TrustItem) => readonly TrustItem[]): Inventory => ({
  ...inventory,
  items: inventory.items.flatMap(change),
})

async function digestIn(of: Inventory, canary = bundle, identity = 'https://x/canary'): Promise<string> {
  return (await trustOf('what is tried', of, renderTrustedRoot(of))).digestOf(canary, identity)
}

test('another bundle, or another who should have signed it, is not the one that was verified', async () => {
  const one = await digestIn(inventory)
  expect(await digestIn(inventory, { ...bundle, bundle: { of: 'others' } })).not.toBe(one)
  expect(await digestIn(inventory, bundle, 'https://y/canary')).not.toBe(one)
  expect(await digestIn(structuredClone(inventory))).toBe(one)
})

test.each(kinds)('it is verified again when the %s gets another window, is revoked, or is dropped', async (kind) => {
  const one = await digestIn(inventory)
  const changed = (change: (item: TrustItem) => readonly TrustItem[]) =>
    digestIn(withItems((item) => (item.kind === kind ? change(item) : [item])))
  const shorter = await changed((item) => [{ ...item, window: { ...item.window, end: daysLater(1) } }])
  const revoked = await changed((item) => [{ ...item, state: 'revoked' }])
  const dropped = await changed(() => [])
  expect(new Set([one, shorter, revoked]).size).toBe(3)
  expect(dropped).toBe(revoked)
})

test('a key that did not sign it changes nothing', async () => {
  const rekor = itemOf('rekor-v1')
  const another: TrustItem = { ...rekor, id: 'next', der: [spki()], state: 'trusted' }
  const grown = { ...inventory, items: [...inventory.items, another] }
  expect(await digestIn(grown)).toBe(await digestIn(inventory))
  const trust = await trustOf('what is tried', grown, renderTrustedRoot(grown))
  expect([...trust.byKey.values()].flat()).toContain(another)
})
