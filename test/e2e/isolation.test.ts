/** The net that everything here runs in: it catches what it must, and the clients that run in it are the pinned ones. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { client, clientsFolder, system } from './clients.ts'
import { refusal, succeeded } from './run.ts'
import { projectFolder } from './stack.ts'

const isolated = join(projectFolder, 'scripts', 'isolated')

test.each([
  ['a look-up in the DNS', ['getent', 'hosts', 'example.com']],
  ['a connection to an address', ['curl', '-sS', '--max-time', '2', 'http://93.184.215.14/']],
  ['an ID token sent to the public instance', ['curl', '-sS', '--max-time', '2', 'https://fulcio.sigstore.dev/']],
])('%s fails the run, even if the command hides it', async (_, command) => {
  const outcome = await system(isolated, ['bash', '-c', `${command.map((word) => `'${word}'`).join(' ')}; exit 0`])
  expect(outcome.status).toBe(97)
  expect(refusal(outcome)).toMatch(/packets tried to leave the namespace/)
})

test('a run that stays inside ends with its own status', async () => {
  expect((await system(isolated, ['bash', '-c', 'exit 3'])).status).toBe(3)
  succeeded(await system(isolated, ['true']))
})

const versions = JSON.parse(readFileSync(join(projectFolder, 'test/clients/versions.json'), 'utf8')) as {
  go: Record<string, { package: string; version: string }>
  python: Record<string, string>
}

test.each(Object.entries(versions.go))('%s was built from the pinned version', async (name, { version }) => {
  const go = process.env['PATH']?.split(':').map((folder) => join(folder, 'go')) ?? []
  const { stdout } = succeeded(
    await system(
      'bash',
      ['-c', 'for go in "$@"; do [ -x "$go" ] && exec "$go" version -m "$CLIENT"; done', 'bash', ...go],
      {
        env: { CLIENT: join(clientsFolder, 'bin', name), GOTOOLCHAIN: 'local' },
      },
    ),
  )
  expect(stdout).toMatch(new RegExp(`\\bmod\\s+\\S+\\s+${version.replaceAll('.', '\\.')}\\b`))
})

test('sigstore-python is the pinned version', async () => {
  expect(succeeded(await client('sigstore-python', ['--version'])).stdout.trim()).toBe(
    `sigstore ${versions.python['sigstore']}`,
  )
})
