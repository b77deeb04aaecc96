import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, expect, test, vi } from 'vitest'
import { findCosign, verifyWithCosign } from './canary-cosign.ts'

const folder = mkdtempSync(join(tmpdir(), 'chancery-cosign-'))
afterAll(() => rmSync(folder, { recursive: true }))
afterEach(() => vi.unstubAllEnvs())

/** A program that stands for cosign: what it does is up to the test. */
function program(script: string, name = 'cosign'): string {
  const path = join(folder, name)
  writeFileSync(path, `#!/bin/bash\n${script}\n`)
  chmodSync(path, 0o755)
  return path
}

const asked = {
  identity: 'https://sig.example/chancery/canary',
  trustedRoot: { trusted: true },
  bundle: { verificationMaterial: { timestampVerificationData: { rfc3161Timestamps: [{}] } } },
}

test('it is asked about files of its own, in an environment that holds nothing of ours', async () => {
  vi.stubEnv('SIGSTORE_ROOT_FILE', '/elsewhere')
  const says = [
    'test "$1" = verify-blob && test -z "$SIGSTORE_ROOT_FILE" && test "$HOME" = "$PWD" || exit 3',
    'while [ $# -gt 1 ]; do [ "$1" = --trusted-root ] && grep -q \'"trusted":true\' "$2" && seen=1; shift; done',
    'test "$seen" = 1 && grep -q "chancery canary" "$1"',
  ]
  expect(await verifyWithCosign(program(says.join('\n')), asked)).toBe(true)
})

test.each([
  [
    'refuses',
    'echo "some words" >&2; echo "Error: not this one" >&2; echo more >&2; exit 1',
    'cosign says: Error: not this one',
  ],
  ['says nothing', 'exit 7', /^cosign says: Command failed/],
])('it is a refusal when it %s', async (_, script, message) => {
  await expect(verifyWithCosign(program(script), asked)).rejects.toThrow(message)
})

test('one that does not know the flags is not asked', async () => {
  const old = program('echo "Error: unknown flag: --trusted-root" >&2; exit 1')
  expect(await verifyWithCosign(old, asked)).toBe(false)
})

test('it is the configured one, or that of PATH, or none; a configured one must be there', async () => {
  const path = program('exit 0')
  vi.stubEnv('PATH', `/nowhere:${folder}`)
  expect(await findCosign(undefined)).toBe(path)
  expect(await findCosign(program('exit 0', 'other'))).toBe(join(folder, 'other'))
  await expect(findCosign(join(folder, 'absent'))).rejects.toThrow(/absent cannot be run/)
  vi.stubEnv('PATH', '/nowhere:relative')
  expect(await findCosign(undefined)).toBeUndefined()
})
