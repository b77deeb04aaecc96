/** The sign-in of a person: cosign opens a browser at the development issuer (authorization code with PKCE). */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { client } from './clients.ts'
import { freshFolder, makeArtifact, sharedStack } from './context.ts'
import { refusal, succeeded } from './run.ts'

const { material, endpoints } = sharedStack()

/** A PATH whose xdg-open is ours. It must return at once: cosign serves the callback only after it has. */
function pathWithBrowser(folder: string, email: string): string {
  const bin = join(folder, 'bin')
  mkdirSync(bin)
  const script = join(import.meta.dirname, 'browser.ts')
  const command = `setsid ${process.execPath} ${script} "$1" ${email} </dev/null >${join(folder, 'browser.log')} 2>&1 &`
  writeFileSync(join(bin, 'xdg-open'), `#!/bin/sh\n${command}\n`)
  chmodSync(join(bin, 'xdg-open'), 0o755)
  return `${bin}:/usr/sbin:/usr/bin:/sbin:/bin`
}

/** cosign 3 asks the cloud's metadata server for a token before it asks a person; here that is a port nobody listens on. */
const noCloud = { GCE_METADATA_HOST: '127.0.0.1:9' }

describe.each([
  ['cosign3', []],
  [
    'cosign2',
    ['--signing-config', material.signingConfig.v1, '--trusted-root', material.trustedRoot, '--new-bundle-format'],
  ],
] as const)('%s without a token', (major, flags) => {
  test('signs as whoever signed in, and as nobody else', async () => {
    const folder = freshFolder('browser')
    const artifact = makeArtifact(folder)
    const bundle = join(folder, 'bundle.json')
    const options = {
      timeoutMs: 30_000,
      tufRoot: material.tufRoot[major],
      env: { ...noCloud, PATH: pathWithBrowser(folder, 'person@example.test') },
    }
    const signIn = ['--fulcio-auth-flow', 'normal']
    const sign = ['sign-blob', '--yes', ...signIn, ...flags, '--bundle', bundle, artifact]
    succeeded(await client(major, sign, options))
    const verify = (identity: string) => [
      'verify-blob',
      ['--trusted-root', material.trustedRoot],
      major === 'cosign2' ? ['--new-bundle-format'] : [],
      ['--bundle', bundle],
      ['--certificate-identity', identity, '--certificate-oidc-issuer', endpoints.oidc],
      artifact,
    ]
    expect(succeeded(await client(major, verify('person@example.test'))).text).toContain('Verified OK')
    expect(refusal(await client(major, verify('other@example.test')))).toMatch(/expected SAN|no matching/i)
  })
})
