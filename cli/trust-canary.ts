/** `chancery trust canary`: has the server sign with itself, and verify that as clients do. */
import type { Command } from 'commander'
import type { CanaryReport } from '#server'
import { printJson, table } from './agent-options.ts'
import { askTrust, type TrustOptions, trustOptions } from './trust-options.ts'

/** Adds the command. */
export function registerCanary(trust: Command): void {
  trustOptions(trust.command('canary').summary('have the server sign with itself, and verify that as clients do'))
    .addHelpText(
      'after',
      `
A certificate, a timestamp and an entry in each Rekor log, under the name
https://<domain>/chancery/canary, verified with what is published; and once
more the newest signature of former keys. Before each publication the same is
tried with what is to be published.

Exit status: 0 both verify, 3 no server runs, 6 one does not, or none is made.

Examples:
  chancery trust canary --data ./data
  chancery trust canary --json
`,
    )
    .action(run)
}

async function run(options: TrustOptions): Promise<void> {
  const report = (await askTrust(options, 'canary')) as CanaryReport // our own server answers
  if (options.json === true) return printJson(report)
  const rows = [report.new, ...(report.old === null ? [] : [report.old])].flatMap(({ madeAt, bundles }) =>
    bundles.map(({ log, signedBy, verifiedBy }) => [
      madeAt.slice(0, 19).replace('T', ' '),
      log,
      verifiedBy.join(', '),
      signedBy.join(', '),
    ]),
  )
  process.stdout.write(table(['MADE (UTC)', 'LOG', 'VERIFIED BY', 'SIGNED BY'], rows))
}
