/** `chancery doctor`: looks for trouble that no service meets yet, in a running installation or a stopped one. */
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { CATALOGUE } from '#alarms'
import type { Examination } from '#server'
import { printJson, wrapped } from './agent-options.ts'

export function register(program: Command): void {
  program
    .command('doctor')
    .summary('look for trouble on tokens, disk, clock and in files; changes nothing')
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option(
      '--agent <agent...>',
      'name, agent.yaml or admin socket of the agent; several (default: all of the data folder)',
    )
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Finds half pairs, duplicate, unknown and badly attributed objects on tokens,
latches, missing and overdue backups, clock trouble, what expires, modes of
files, misplaced PINs, full disks. A running server and its agent are asked;
otherwise each agent is started for the moment, which logs in to its token.

Exit status: 0 nothing found, 1 something was.

Examples:
  chancery doctor --data ./data
  chancery doctor --data ./data --agent online --json
`,
    )
    .action(doctor)
}

async function doctor(options: { data: string; config?: string; agent?: string[]; json?: boolean }): Promise<void> {
  const { examine, loadConfig } = await import('#server')
  const loaded = loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
  const onStep = (step: string) => {
    if (process.stderr.isTTY) process.stderr.write(`\r\x1b[Klooking at ${step}`)
  }
  const examination = await examine(loaded, { agents: options.agent, onStep })
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
  if (options.json === true) {
    const findings = examination.findings.map((each) => {
      return { ...each, severity: CATALOGUE[each.code].severity, runbook: `docs/runbook.md#${each.code}` }
    })
    printJson({ ...examination, findings })
  } else process.stdout.write(report(examination))
  if (examination.findings.length > 0) process.exitCode = 1
}

function report({ serverRuns, agents, findings }: Examination): string {
  const looked = `looked at ${serverRuns ? 'a running server' : 'a stopped installation'}, tokens of: ${agents.join(', ') || 'no agent'}`
  if (findings.length === 0) return `${looked}\nnothing found\n`
  const lines = findings.flatMap(({ code, subject, message }) => [code, ...wrapped(`${subject}: ${message}`)])
  return `${[looked, ...lines, `${findings.length} found; each code has its section in docs/runbook.md`].join('\n')}\n`
}
