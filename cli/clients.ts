/** `chancery clients`: the exact lines with which foreign clients use a running stack. */

import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'

/** `run/endpoints.json`, written by a ready server; all values are URLs but the checksum (hex SHA-256 of 1.root.json). */
export interface Endpoints {
  readonly ca: string
  readonly oidc: string
  readonly rekorV1: string
  readonly rekorV2: string
  readonly tsa: string
  readonly ct: string
  readonly tuf: string
  readonly metrics: string
  readonly rootChecksum: string
}

export function register(program: Command): void {
  program
    .command('clients')
    .summary('print the lines with which cosign, sigstore-python and sigstore-js use this stack')
    .option('--data <dir>', 'data folder of the running stack', 'data')
    .option('--email <address>', 'identity in the examples', 'dev@example.test')
    .addHelpText('after', '\nExample:\n  chancery clients --data ./data\n')
    .action((options: { data: string; email: string }) => {
      process.stdout.write(
        clientLines(readEndpoints(options.data), { dataDir: resolve(options.data), email: options.email }),
      )
    })
}

/** Reads `run/endpoints.json`; throws when the stack is not running. */
export function readEndpoints(dataDir: string): Endpoints {
  const file = join(resolve(dataDir), 'run', 'endpoints.json')
  try {
    // Our own server wrote it; its shape is `Endpoints`.
    return JSON.parse(readFileSync(file, 'utf8')) as Endpoints
  } catch (cause) {
    throw new Error(
      `no stack serves ${dataDir} (cannot read ${file}); start it with: chancery serve --data ${dataDir}`,
      { cause },
    )
  }
}

/** The blocks for each client; every line can be run as it stands, in order. */
export function clientBlocks(
  endpoints: Endpoints,
  { dataDir, email }: { dataDir: string; email: string },
): Record<'prepare' | 'cosign' | 'sigstore-python' | 'sigstore-js', string[]> {
  const { tuf, oidc, rootChecksum } = endpoints
  return {
    prepare: [
      'echo hello > artifact.txt',
      `scripts/chancery dev token --data ${dataDir} --email ${email} > token`,
      `curl -sSf -o root.json ${tuf}/1.root.json && echo "${rootChecksum}  root.json" | sha256sum -c`,
    ],
    cosign: [
      'export TUF_ROOT="$HOME/.sigstore/chancery"   # first: cosign 3 empties this folder when it initialises',
      `cosign initialize --mirror ${tuf} --root ${tuf}/1.root.json --root-checksum ${rootChecksum}`,
      'cosign sign-blob --yes --identity-token token --bundle artifact.sigstore.json artifact.txt',
      `cosign verify-blob --bundle artifact.sigstore.json --certificate-identity ${email} --certificate-oidc-issuer ${oidc} artifact.txt`,
    ],
    'sigstore-python': [
      `sigstore --instance ${tuf} trust-instance root.json`,
      `sigstore --instance ${tuf} sign --identity-token "$(cat token)" --bundle artifact.python.json artifact.txt`,
      `sigstore --instance ${tuf} verify identity --bundle artifact.python.json --cert-identity ${email} --cert-oidc-issuer ${oidc} artifact.txt`,
    ],
    'sigstore-js': [
      `node --input-type=module -e "import fs from 'node:fs'; import { sign } from 'sigstore'; fs.writeFileSync('artifact.js.json', JSON.stringify(await sign(fs.readFileSync('artifact.txt'), { fulcioURL: '${endpoints.ca}', rekorURL: '${endpoints.rekorV1}', tsaServerURL: '${endpoints.tsa}', identityToken: fs.readFileSync('token', 'utf8').trim() })))"`,
      `node --input-type=module -e "import fs from 'node:fs'; import { verify } from 'sigstore'; await verify(JSON.parse(fs.readFileSync('artifact.js.json')), fs.readFileSync('artifact.txt'), { tufMirrorURL: '${tuf}', tufRootPath: 'root.json', tufCachePath: 'js-cache', certificateIssuer: '${oidc}', certificateIdentityEmail: '${email}' }); console.log('verified')"`,
    ],
  }
}

function clientLines(endpoints: Endpoints, options: { dataDir: string; email: string }): string {
  const blocks = clientBlocks(endpoints, options)
  const titles = {
    prepare: 'An artifact, an identity token, the root of trust',
    cosign: 'cosign',
    'sigstore-python': 'sigstore-python',
    'sigstore-js': 'sigstore-js',
  }
  return Object.entries(titles)
    .map(([name, title]) => `\n# ${title}\n${blocks[name as keyof typeof titles].join('\n')}\n`)
    .join('')
}
