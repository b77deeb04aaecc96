import { describe, expect, test } from 'vitest'
import { exampleInventory, NOW } from '../test/support/trust-installation.ts'
import { formatInventory, parseInventory } from './items.ts'

describe('items.json', () => {
  test('reads back what it wrote', async () => {
    const inventory = await exampleInventory()
    expect(parseInventory(formatInventory(inventory))).toEqual(inventory)
  })

  test('backdates the windows of a new installation and strips slashes', async () => {
    const { items } = await exampleInventory()
    for (const { window, url } of items) {
      expect(window.start.getTime()).toBeLessThan(NOW.getTime())
      expect(url).not.toMatch(/\/$/)
    }
    expect(items.find(({ kind }) => kind === 'timestamp-authority')?.url).toBe('http://127.0.0.1:3004/api/v1/timestamp')
  })

  const faults: [string, (text: string) => string][] = [
    ['text that is not JSON', () => '{'],
    ['another schema version', (text) => text.replace('"schemaVersion": 1', '"schemaVersion": 2')],
    ['an unknown field', (text) => text.replace('"operator"', '"extra": 1, "operator"')],
    ['an unknown kind', (text) => text.replace('"kind": "ct-log"', '"kind": "ct"')],
    ['an unknown state', (text) => text.replace('"state": "active"', '"state": "on"')],
    ['milliseconds in a time', (text) => text.replace('11:55:00Z', '11:55:00.000Z')],
    ['a third Rekor', (text) => text.replace('"defaultRekor": 1', '"defaultRekor": 3')],
    ['two items of one id', (text) => text.replace('"id": "rekor-v2"', '"id": "rekor-v1"')],
    ['a URL without scheme', (text) => text.replace('http://127.0.0.1:3000', '127.0.0.1:3000')],
    ['bytes that are not base64', (text) => text.replace(/"der": \[\s*"/, '$&!')],
  ]
  test.each(faults)('refuses %s', async (_, spoil) => {
    const text = formatInventory(await exampleInventory())
    expect(spoil(text)).not.toBe(text)
    expect(() => parseInventory(spoil(text))).toThrow(expect.objectContaining({ code: 'invalid_items' }))
  })
})
