import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { expect, test } from 'vitest'

test('each package that must do real work does: its test goes red without it', { timeout: 600_000 }, () => {
  const script = resolve(import.meta.dirname, '..', 'scripts', 'dependencies-proof')
  const { status, stdout, stderr } = spawnSync(script, { encoding: 'utf8' })
  expect({ status, said: status === 0 ? '' : stdout + stderr }).toEqual({ status: 0, said: '' })
})
