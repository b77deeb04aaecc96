/** `chancery key raise-cap`: the cap on certificates a minute, raised for an hour at most. */
import { type Command, InvalidArgumentError } from 'commander'
import { type AgentOptions, agentOptions, printJson, reachOf } from './agent-options.ts'

export function registerRaiseCap(key: Command): void {
  agentOptions(key.command('raise-cap <name>').summary('raise the cap on certificates a minute, for an hour at most'))
    .requiredOption('--per-minute <number>', 'certificates a minute, not below the configured cap', wholeNumber)
    .option('--minutes <number>', 'for how long, 1 to 60', wholeNumber, 60)
    .addHelpText(
      'after',
      `
It ends by itself, holds over restarts, and stands in the agent's account and
status. The configured number (certificatesPerMinute in agent.yaml) ends it
before its time.

Exit status: 0 raised, 5 the agent is away, 6 refused.

Examples:
  chancery key raise-cap issuing-ca --per-minute 2000
  chancery key raise-cap issuing-ca --per-minute 2000 --minutes 20 \\
    --agent /run/chancery-agent/admin.sock
`,
    )
    .action(raise)
}

interface RaiseOptions extends AgentOptions {
  readonly perMinute: number
  readonly minutes: number
}

async function raise(name: string, options: RaiseOptions): Promise<void> {
  const { perMinute, minutes } = options
  const { withAdminAgent } = await import('#lifecycle')
  const cap = await withAdminAgent(reachOf(options), (admin) => admin.raiseCap({ key: name, perMinute, minutes }))
  const until = new Date(cap.untilMs).toISOString()
  if (options.json === true) printJson({ key: name, perMinute: cap.perMinute, until })
  else process.stdout.write(`key ${name}: ${cap.perMinute} certificates a minute until ${until}\n`)
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It is no whole number.')
  return Number(text)
}
