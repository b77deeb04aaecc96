/** `chancery login`: an ID token through the browser, for `sign` and every other Sigstore client. */

import { writeFileSync } from 'node:fs'
import type { Command } from 'commander'

export function register(program: Command): void {
  program
    .command('login')
    .summary('get an ID token through the browser')
    .option('--issuer <url>', 'OpenID issuer (default: that of the running stack in --data)')
    .option('--data <dir>', 'data folder of a running stack', 'data')
    .option('--client-id <id>', 'client id at the issuer', 'sigstore')
    .option('-o, --output <file>', 'file to write, readable by you alone', 'token')
    .option('--print', 'print the token instead')
    .option('--no-browser', 'only show the URL')
    .addHelpText('after', '\nExample:\n  chancery login --issuer https://login.example.org -o token\n')
    .action(async (options: LoginCommandOptions) => {
      const [{ login }, { openBrowser }] = await Promise.all([
        import('./browser-login.ts'),
        import('./open-browser.ts'),
      ])
      const token = await login({
        issuerUrl: options.issuer ?? (await issuerOf(options.data)),
        clientId: options.clientId,
        show: (url) => {
          process.stderr.write(`Sign in at:\n  ${url}\n`)
          if (options.browser) openBrowser(url)
        },
      })
      // No newline into a file or pipe: cosign reads a token file to its last byte.
      if (options.print === true) process.stdout.write(process.stdout.isTTY ? `${token}\n` : token)
      else {
        writeFileSync(options.output, token, { mode: 0o600 })
        process.stderr.write(`The token is in ${options.output}; it is good for some minutes.\n`)
      }
    })
}

interface LoginCommandOptions {
  readonly issuer?: string
  readonly data: string
  readonly clientId: string
  readonly output: string
  readonly print?: boolean
  readonly browser: boolean
}

async function issuerOf(dataDir: string): Promise<string> {
  const { readEndpoints } = await import('./clients.ts')
  return readEndpoints(dataDir).oidc
}
