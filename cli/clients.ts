/** `chancery clients`: the exact lines with which foreign clients use a running stack. */

import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { printJson } from './agent-options.ts'

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

interface ClientsOptions {
  readonly data: string
  readonly email: string
  readonly command: string
  readonly export?: boolean
  readonly json?: boolean
}

export function register(program: Command): void {
  program
    .command('clients')
    .summary('print the lines with which cosign and other clients use this stack')
    .option('--data <dir>', 'data folder of the running stack', 'data')
    .option('--email <address>', 'identity in the examples', 'dev@example.test')
    .option('--command <words>', 'how the printed lines call chancery', shellWord(chanceryScript))
    .option('--export', 'print the addresses as shell variables instead, for eval')
    .option('--json', 'print JSON: the addresses')
    .addHelpText(
      'after',
      '\nThe printed lines can be run as they stand, in order. --export\ngives MIRROR, CHECKSUM (SHA-256 of the first root), ISSUER, CA, REKOR, REKOR_V2,\nTSA and CT.\n\nExit status: 0 printed, 3 no server runs.\n\nExamples:\n  chancery clients --data ./data\n  eval "$(chancery clients --data ./data --export)"\n',
    )
    .action((options: ClientsOptions) => {
      const endpoints = readEndpoints(options.data)
      if (options.json === true) return printJson(endpoints)
      process.stdout.write(options.export === true ? variables(endpoints) : clientLines(endpoints, options))
    })
}

/** No stack serves the data folder. */
export class NotServingError extends Error {
  readonly code = 'not_running'
}

/** Reads `run/endpoints.json`; throws `NotServingError` when the stack is not running. */
export function readEndpoints(dataDir: string): Endpoints {
  const file = join(resolve(dataDir), 'run', 'endpoints.json')
  try {
    // Our own server wrote it; its shape is `Endpoints`.
    return JSON.parse(readFileSync(file, 'utf8')) as Endpoints
  } catch (cause) {
    throw new NotServingError(
      `no stack serves ${dataDir} (cannot read ${file}); start it with: chancery serve --data ${dataDir}`,
      { cause },
    )
  }
}

/** What the printed lines are made for. */
export interface ClientChoices {
  /** Data folder of the development issuer. */
  readonly data: string
  readonly email: string
  /** Shell words that call `chancery`. */
  readonly command: string
}

/** The blocks of lines for a shell: `prepare` first, then any of the others; each line can be run as it stands. */
export function clientBlocks(
  endpoints: Endpoints,
  { data, email, command }: ClientChoices,
): Record<'prepare' | 'cosign' | 'sigstore-python' | 'sigstore-js', string[]> {
  const { tuf, oidc, rootChecksum } = endpoints
  const token = `${command} dev token --data ${shellWord(resolve(data))} --email ${shellWord(email)} > token`
  const signer = shellWord(email)
  return {
    prepare: [
      'cd "$(mktemp -d)"',
      'echo hello > artifact.txt',
      token,
      `curl -sSf -o root.json ${tuf}/1.root.json && echo "${rootChecksum}  root.json" | sha256sum -c`,
    ],
    cosign: [
      'export TUF_ROOT="$HOME/.sigstore/chancery"   # first: cosign 3 empties this folder when it initialises',
      `cosign initialize --mirror ${tuf} --root ${tuf}/1.root.json --root-checksum ${rootChecksum}`,
      'cosign sign-blob --yes --identity-token token --bundle artifact.sigstore.json artifact.txt',
      `cosign verify-blob --bundle artifact.sigstore.json --certificate-identity ${signer} --certificate-oidc-issuer ${oidc} artifact.txt`,
    ],
    'sigstore-python': [
      `sigstore --instance ${tuf} trust-instance root.json`,
      `sigstore --instance ${tuf} sign --identity-token "$(cat token)" --bundle artifact.python.json artifact.txt`,
      `sigstore --instance ${tuf} verify identity --bundle artifact.python.json --cert-identity ${signer} --cert-oidc-issuer ${oidc} artifact.txt`,
    ],
    'sigstore-js': [
      node(
        `import fs from 'node:fs'; import { sign } from 'sigstore'`,
        `const identityToken = fs.readFileSync('token', 'utf8').trim()`,
        `const services = { fulcioURL: '${endpoints.ca}', rekorURL: '${endpoints.rekorV1}', tsaServerURL: '${endpoints.tsa}' }`,
        `const bundle = await sign(fs.readFileSync('artifact.txt'), { ...services, identityToken })`,
        `fs.writeFileSync('artifact.js.json', JSON.stringify(bundle))`,
      ),
      node(
        `import fs from 'node:fs'; import { verify } from 'sigstore'`,
        `const trust = { tufMirrorURL: '${tuf}', tufRootPath: 'root.json', tufCachePath: 'js-cache' }`,
        `const signer = { certificateIssuer: '${oidc}', certificateIdentityEmail: '${email.replaceAll("'", "\\'")}' }`,
        `await verify(JSON.parse(fs.readFileSync('artifact.js.json')), fs.readFileSync('artifact.txt'), { ...trust, ...signer })`,
        `console.log('verified')`,
      ),
    ],
  }
}

const chanceryScript = join(import.meta.dirname, '..', 'scripts', 'chancery')

/** One shell command that runs a small module; its statements use single quotes alone. */
function node(...statements: readonly string[]): string {
  return `node --input-type=module -e "\n  ${statements.join('\n  ')}\n"`
}

function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}

function variables({ tuf, rootChecksum, oidc, ca, rekorV1, rekorV2, tsa, ct }: Endpoints): string {
  const named = {
    MIRROR: tuf,
    CHECKSUM: rootChecksum,
    ISSUER: oidc,
    CA: ca,
    REKOR: rekorV1,
    REKOR_V2: rekorV2,
    TSA: tsa,
    CT: ct,
  }
  return Object.entries(named)
    .map(([name, value]) => `export ${name}=${shellWord(value)}\n`)
    .join('')
}

function clientLines(endpoints: Endpoints, choices: ClientChoices): string {
  const blocks = clientBlocks(endpoints, choices)
  const titles = {
    prepare: 'First: an artifact, an identity token (it lasts ten minutes) and the root of trust',
    cosign: 'cosign 3',
    'sigstore-python': 'sigstore-python (pip install sigstore)',
    'sigstore-js': 'sigstore-js (npm install sigstore)',
  }
  return Object.entries(titles)
    .map(([name, title]) => `\n# ${title}\n${blocks[name as keyof typeof titles].join('\n')}\n`)
    .join('')
}
