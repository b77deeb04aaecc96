/** `chancery dev`: an issuer and tokens for a laptop, where there is no identity provider. */

import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'

export function register(program: Command): void {
  const dev = program
    .command('dev')
    .summary('development only: an identity provider that believes whoever asks')
    .addHelpText('after', '\nExample:\n  chancery dev token --data ./data --email dev@example.test > token\n')
  dev
    .command('issuer')
    .summary('run the development issuer without a server (serve runs one itself)')
    .option('--listen <host:port>', 'where to listen', '127.0.0.1:5556')
    .option('--data <dir>', 'data folder; the key is kept in dev-issuer/ below it', 'data')
    .option('--url <url>', 'what clients dial, if it is not where it listens')
    .addHelpText('after', '\nExample:\n  chancery dev issuer --listen 127.0.0.1:5556 --data ./data\n')
    .action(async (options: { listen: string; data: string; url?: string }) => {
      const { startDevelopmentIssuer } = await import('./development-issuer.ts')
      const issuer = await startDevelopmentIssuer({
        dataDir: resolve(options.data),
        listen: options.listen,
        ...(options.url === undefined ? {} : { issuerUrl: options.url }),
      })
      process.stderr.write(`development issuer at ${issuer.url}; it gives a token to whoever asks. Ctrl-C stops it.\n`)
      await new Promise<void>((stopped) => {
        process.once('SIGINT', () => stopped())
        process.once('SIGTERM', () => stopped())
      })
      await issuer.close()
    })
  dev
    .command('token')
    .summary("print an ID token signed with the development issuer's key")
    .option('--data <dir>', 'data folder of the issuer', 'data')
    .option('--email <address>', 'identity', 'dev@example.test')
    .option('--audience <name>', 'audience', 'sigstore')
    .option('--expires <duration>', 'lifetime: 90s, 10m, 12h; -10m for one that has expired', '10m')
    .option('--issuer <url>', 'OpenID issuer (default: that of the data folder)')
    .option('--unverified', 'email_verified: false, for tests')
    .option('--claims-file <file>', 'JSON object laid over the claims; null takes one away')
    .addHelpText(
      'after',
      '\nExamples:\n  chancery dev token --data ./data --email dev@example.test > token\n  chancery dev token --expires -10m > expired\n',
    )
    .action(printToken)
}

interface TokenOptions {
  readonly data: string
  readonly email: string
  readonly audience: string
  readonly expires: string
  readonly issuer?: string
  readonly unverified?: boolean
  readonly claimsFile?: string
}

async function printToken(options: TokenOptions): Promise<void> {
  const { DevelopmentError, developmentKey, developmentToken, isEmail, knownIssuer, parseDuration } = await import(
    './development-token.ts'
  )
  if (!isEmail(options.email)) throw new DevelopmentError('bad_email', `not an e-mail address: ${options.email}`)
  const dataDir = resolve(options.data)
  const token = await developmentToken({
    issuerUrl: options.issuer ?? (await knownIssuer(dataDir)),
    key: await developmentKey(dataDir),
    email: options.email,
    emailVerified: options.unverified !== true,
    audience: options.audience,
    expiresInSeconds: parseDuration(options.expires),
    nowSeconds: Math.floor(Date.now() / 1000),
    ...(options.claimsFile === undefined ? {} : { claims: readClaims(options.claimsFile) }),
  })
  // No newline into a pipe or file: cosign reads a token file to its last byte.
  process.stdout.write(process.stdout.isTTY ? `${token}\n` : token)

  function readClaims(file: string): Record<string, unknown> {
    let claims: unknown
    try {
      claims = JSON.parse(readFileSync(file, 'utf8'))
    } catch (cause) {
      throw new DevelopmentError('bad_claims', `cannot read claims from ${file}: it must hold one JSON object`, {
        cause,
      })
    }
    if (typeof claims !== 'object' || claims === null || Array.isArray(claims)) {
      throw new DevelopmentError('bad_claims', `${file} must hold one JSON object`)
    }
    return { ...claims }
  }
}
