/** `chancery verify`: is this file what that identity signed? Exit status 0 only if everything holds. */

import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import type { TrustedRoot } from '@sigstore/protobuf-specs'
import { printJson } from './agent-options.ts'

export function register(program: Command): void {
  program
    .command('verify')
    .summary('verify a file, its bundle and who signed; status 0 only if all hold')
    .argument('<file>', 'the file that was signed')
    .requiredOption('--bundle <file>', 'its Sigstore bundle')
    .requiredOption('--certificate-identity <name>', 'who must have signed, exactly')
    .requiredOption('--certificate-oidc-issuer <url>', 'who must have vouched for the identity, exactly')
    .option('--trusted-root <file>', 'trusted_root.json from a source that you trust; needs no network')
    .option('--mirror <url>', 'TUF mirror of the stack, instead of --trusted-root')
    .option('--root <file or url>', "root.json to start from (default: the mirror's 1.root.json)")
    .option('--root-checksum <sha256>', 'SHA-256 of that root.json, from a source that you trust')
    .option('--trust-dir <dir>', 'where verified metadata is kept (default: below ~/.cache/chancery)')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nRefusals are named: artifact_mismatch, wrong_identity, wrong_issuer,\nbad_signature, untrusted_certificate, bad_timestamp, not_in_log, no_certificate,\nmalformed_bundle.\n\nExit status: 0 all holds, 1 it does not, 2 not understood.\n\nExample:\n  chancery verify app.tar --bundle app.sigstore.json \\\n    --certificate-identity dev@example.test \\\n    --certificate-oidc-issuer http://127.0.0.1:5556 \\\n    --mirror http://127.0.0.1:8080 --root-checksum HEX\n',
    )
    .action(verify)
}

interface VerifyOptions {
  readonly bundle: string
  readonly certificateIdentity: string
  readonly certificateOidcIssuer: string
  readonly trustedRoot?: string
  readonly mirror?: string
  readonly root?: string
  readonly rootChecksum?: string
  readonly trustDir?: string
  readonly json?: boolean
}

async function verify(file: string, options: VerifyOptions): Promise<void> {
  const { parseBundle, requireSigner, verifyBundle } = await import('#bundle')
  const artifact = readFileSync(file)
  const bundle = parseBundle(readFileSync(options.bundle, 'utf8'))
  const signer = verifyBundle(bundle, artifact, await trustedRootOf(options))
  requireSigner(signer, { identity: options.certificateIdentity, issuer: options.certificateOidcIssuer })
  if (options.json === true) return printJson({ verified: true, file, ...signer })
  process.stdout.write(`${file}: verified, signed by ${signer.identity} (${signer.issuer})\n`)
}

async function trustedRootOf(options: VerifyOptions): Promise<TrustedRoot> {
  if (options.trustedRoot !== undefined) {
    const { parseTrustedRoot } = await import('#bundle')
    return parseTrustedRoot(JSON.parse(readFileSync(options.trustedRoot, 'utf8')))
  }
  const { MirrorError, openMirror } = await import('./mirror.ts')
  if (options.mirror === undefined) {
    throw new MirrorError('no_root', 'give --trusted-root FILE, or --mirror URL with --root-checksum or --root')
  }
  return (await openMirror({ ...options, mirror: options.mirror })).trustedRoot()
}
