/** `chancery sign`: signs a file with a key that lives for this one signature and a certificate for who you are. */

import { createHash } from 'node:crypto'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { printJson } from './agent-options.ts'

export function register(program: Command): void {
  program
    .command('sign')
    .summary('sign a file with a certificate for your identity')
    .argument('<file>', 'the file to sign')
    .requiredOption('--bundle <file>', 'where to write the Sigstore bundle')
    .requiredOption('--identity-token <file>', 'ID token (`chancery login`, `chancery dev token`); - for stdin')
    .requiredOption('--mirror <url>', 'TUF mirror of the stack; it names the services')
    .option('--root <file or url>', "root.json to start from (default: the mirror's 1.root.json)")
    .option('--root-checksum <sha256>', 'SHA-256 of that root.json, from a source that you trust')
    .option('--trust-dir <dir>', 'where verified metadata is kept (default: below ~/.cache/chancery)')
    .option('--rekor <version>', 'log: 1 or 2 (default: what the stack says)', parseRekor)
    .option('--attest <file>', 'sign a statement about the file instead, with this JSON as its predicate')
    .option('--type <uri>', 'predicate type of --attest')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nThe bundle is verified before it is written.\n\nExit status: 0 signed, 1 a service did not do its part, or what it did does not\nverify.\n\nExample:\n  chancery sign app.tar --bundle app.sigstore.json --identity-token token \\\n    --mirror http://127.0.0.1:8080 --root-checksum HEX\n',
    )
    .action(sign)
}

interface SignOptions {
  readonly bundle: string
  readonly identityToken: string
  readonly mirror: string
  readonly root?: string
  readonly rootChecksum?: string
  readonly trustDir?: string
  readonly rekor?: 1 | 2
  readonly attest?: string
  readonly type?: string
  readonly json?: boolean
}

/** Ours answer in well under two seconds; five, the library's own choice, is short for a CA far away. */
const REQUEST_TIMEOUT_MS = 20_000

async function sign(file: string, options: SignOptions, command: Command): Promise<void> {
  if ((options.attest === undefined) !== (options.type === undefined)) {
    command.error('error: --attest FILE and --type URI belong together')
  }
  const [{ openMirror }, { signedBundle }, { verifyBundle }, { bundleToJSON }] = await Promise.all([
    import('./mirror.ts'),
    import('./signing.ts'),
    import('#bundle'),
    import('@sigstore/bundle'),
  ])
  const artifact = readFileSync(file)
  const content = toBeSigned(file, artifact, options)
  const token = readFileSync(options.identityToken === '-' ? 0 : options.identityToken, 'utf8').trim()
  const mirror = await openMirror(options)
  const [trustedRoot, signingConfig] = [await mirror.trustedRoot(), await mirror.signingConfig(options.rekor)]
  const bundle = await signedBundle({ ...content, token, signingConfig, timeoutMs: REQUEST_TIMEOUT_MS })
  const signer = verifyBundle(bundle, artifact, trustedRoot)
  const draft = `${options.bundle}.${process.pid}`
  writeFileSync(draft, `${JSON.stringify(bundleToJSON(bundle))}\n`, { flush: true })
  renameSync(draft, options.bundle)
  const [entry] = bundle.verificationMaterial.tlogEntries
  if (options.json === true) {
    const { identity, issuer } = signer
    return printJson({ file, bundle: options.bundle, identity, issuer, logIndex: entry?.logIndex })
  }
  process.stdout.write(
    `${file}: signed as ${signer.identity}, log entry ${entry?.logIndex ?? '?'}; the bundle is ${options.bundle}\n`,
  )
}

function toBeSigned(file: string, artifact: Buffer, { attest, type }: SignOptions): { data: Buffer; type?: string } {
  if (attest === undefined) return { data: artifact }
  const statement = {
    _type: 'https://in-toto.io/Statement/v1',
    subject: [{ name: basename(file), digest: { sha256: createHash('sha256').update(artifact).digest('hex') } }],
    predicateType: type,
    predicate: JSON.parse(readFileSync(attest, 'utf8')) as unknown,
  }
  return { data: Buffer.from(JSON.stringify(statement)), type: 'application/vnd.in-toto+json' }
}

function parseRekor(text: string): 1 | 2 {
  if (text === '1') return 1
  if (text === '2') return 2
  throw new InvalidArgumentError('it is 1 or 2')
}
