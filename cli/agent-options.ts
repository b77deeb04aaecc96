/** What the commands of tokens and keys share: options, a table, a question, a secret from a file. */
import { readFileSync, statSync } from 'node:fs'
import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import { OperatorError } from '#alarms'

export interface AgentOptions {
  readonly data: string
  readonly agent: string
  readonly json?: boolean
}

/** `--data`, `--agent` and `--json`. */
export function agentOptions(command: Command): Command {
  return command
    .option('--data <dir>', 'data folder', 'data')
    .option('--agent <agent>', 'name, agent.yaml or admin socket of the agent', 'online')
    .option('--json', 'print JSON')
}

export function reachOf({ data, agent }: AgentOptions): { readonly dataDir: string; readonly agent: string } {
  return { dataDir: data, agent }
}

/** Rows under a heading, columns as wide as their widest cell; what stands in the last one is never padded. */
export function table(heading: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = heading.map((head, column) => Math.max(head.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd()
  return `${[heading, ...rows].map(line).join('\n')}\n`
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`)
}

/**
 * Goes on if `--confirm` was given, or if somebody at a terminal types yes. Throws `confirmation_needed`: nothing was done.
 */
export async function confirmed(question: string, given: boolean | undefined): Promise<void> {
  if (given === true) return
  if (process.stdin.isTTY && process.stderr.isTTY) {
    const terminal = createInterface({ input: process.stdin, output: process.stderr })
    const answer = await terminal.question(`${question} Type yes to go on: `)
    terminal.close()
    if (answer.trim() === 'yes') return
  }
  throw new OperatorError('confirmation_needed', 'nothing was done; add --confirm to do it')
}

/** One line of a file of mode 0600; for PINs. Throws `pin_file_mode`. */
export function secretIn(path: string): string {
  if ((statSync(path).mode & 0o077) !== 0) {
    throw new OperatorError('pin_file_mode', `${path} may be read by others; chmod 600 ${path}`)
  }
  return readFileSync(path, 'utf8').replace(/\r?\n$/, '')
}
