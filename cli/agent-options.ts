/** What the commands of tokens and keys share: options, a table, a question, a secret from a file. */
import { readFileSync, statSync } from 'node:fs'
import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
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

/** Prose in lines of at most 80 characters, each indented by two; a word that is longer stays whole. */
export function wrapped(prose: string): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of prose.split(/\s+/)) {
    if (line !== '' && line.length + word.length > 76) {
      lines.push(line)
      line = ''
    }
    line = line === '' ? word : `${line} ${word}`
  }
  return [...lines, line].map((each) => `  ${each}`)
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

/**
 * The same for what nothing brings back: `--confirm` has to repeat the name of what goes, or somebody types it. `what`
 * says the consequence. Throws `confirmation_needed`: nothing was done.
 */
export async function confirmedAs(name: string, what: string, given: string | undefined): Promise<void> {
  if (given === name) return
  if (given === undefined && process.stdin.isTTY && process.stderr.isTTY) {
    const terminal = createInterface({ input: process.stdin, output: process.stderr })
    const answer = await terminal.question(`${what} Type ${name} to go on: `)
    terminal.close()
    if (answer.trim() === name) return
  }
  throw new OperatorError('confirmation_needed', `${what} Nothing was done; add --confirm '${name}'`)
}

/** A PIN typed twice at a terminal, not shown. Throws `confirmation_needed` where nobody sits. */
export async function askedPin(what: string): Promise<string> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) {
    throw new OperatorError('confirmation_needed', `nobody is at a terminal to type the ${what}; give it in a file`)
  }
  // Echoes nothing: whatever readline writes of the line goes nowhere.
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() })
  const terminal = createInterface({ input: process.stdin, output: nowhere, terminal: true })
  try {
    process.stderr.write(`${what}: `)
    const first = await terminal.question('')
    process.stderr.write(`\n${what}, again: `)
    const second = await terminal.question('')
    process.stderr.write('\n')
    if (first === '' || first !== second) throw new OperatorError('confirmation_needed', `the two ${what}s differ`)
    return first
  } finally {
    terminal.close()
  }
}

/** One line of a file of mode 0600; for PINs. Throws `pin_file_mode`. */
export function secretIn(path: string): string {
  if ((statSync(path).mode & 0o077) !== 0) {
    throw new OperatorError('pin_file_mode', `${path} may be read by others; chmod 600 ${path}`)
  }
  return readFileSync(path, 'utf8').replace(/\r?\n$/, '')
}
