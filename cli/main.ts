#!/usr/bin/env node
/**
 * `chancery`: one file a command, and only the file of the command that was called is loaded. Errors are a line or two
 * on stderr that say what to do next; `--debug` adds the stack.
 *
 * Exit status: 0 done, 1 failed, 2 not understood; the others are told in alarms/catalogue.ts, and a command whose exit
 * means more says so in its help.
 */
import { Command, CommanderError, Help, type Option } from 'commander'
import { CATALOGUE, type Code, EXIT, OperatorError } from '#alarms'
import { HELP } from './help.ts'

interface CommandFile {
  register(program: Command): void
}

/** Every command with its file. */
export const COMMANDS: Readonly<Record<string, () => Promise<CommandFile>>> = {
  init: () => import('./init.ts'),
  serve: () => import('./serve.ts'),
  status: () => import('./status.ts'),
  doctor: () => import('./doctor.ts'),
  clients: () => import('./clients.ts'),
  agent: () => import('./agent.ts'),
  trust: () => import('./trust.ts'),
  log: () => import('./log.ts'),
  token: () => import('./token.ts'),
  key: () => import('./key.ts'),
  ceremony: () => import('./ceremony.ts'),
  hsm: () => import('./hsm.ts'),
  rotate: () => import('./rotate.ts'),
  distrust: () => import('./distrust.ts'),
  dev: () => import('./dev.ts'),
  login: () => import('./login.ts'),
  sign: () => import('./sign.ts'),
  verify: () => import('./verify.ts'),
  audit: () => import('./audit.ts'),
  backup: () => import('./backup.ts'),
  restore: () => import('./restore.ts'),
}

/** Runs one command line (without node and script) and resolves with the exit status; never rejects. */
export async function main(words: readonly string[]): Promise<number> {
  const debug = words.includes('--debug')
  const rest = words.filter((word) => word !== '--debug')
  const [name = '--help', ...following] = rest
  if (name === '--help' || name === '-h' || (name === 'help' && following.length === 0)) {
    process.stdout.write(HELP)
    return 0
  }
  if (name === '--version' || name === '-V') {
    const { default: about } = await import('../package.json', { with: { type: 'json' } })
    process.stdout.write(`chancery ${about.version}\n`)
    return 0
  }
  const called = name === 'help' ? (following[0] ?? '') : name
  const load = Object.hasOwn(COMMANDS, called) ? COMMANDS[called] : undefined
  if (!load) {
    process.stderr.write(`chancery: there is no command ${JSON.stringify(called)}; see: chancery --help\n`)
    return EXIT.usage
  }
  const program = new Command('chancery')
  try {
    // What stands behind a command is its own, also where the command above has an option of the same name.
    program.exitOverride().enablePositionalOptions().configureHelp(FORMAT)
    program.configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'chancery: ')) })
    const file = await load()
    file.register(program)
    inherit(program)
    await program.parseAsync(name === 'help' ? [...following, '--help'] : rest, { from: 'user' })
    return Number(process.exitCode ?? 0)
  } catch (error) {
    return report(error, { debug, called: pathOf(program, rest) || called })
  }
}

/** How help is printed: what has to be said is marked. */
export const FORMAT = {
  showGlobalOptions: false,
  optionDescription: (option: Option): string => {
    const said = new Help().optionDescription(option)
    return option.mandatory && option.defaultValue === undefined ? `${said} (required)` : said
  },
}

/** The words that name the command, as far as there is one: `key kek share`. */
function pathOf(program: Command, words: readonly string[]): string {
  const path: string[] = []
  let at = program
  for (const word of words) {
    const child = at.commands.find((each) => each.name() === word)
    // An option may stand between them.
    if (child === undefined) continue
    path.push(word)
    at = child
  }
  return path.join(' ')
}

/** Commander hands its settings only to commands that are made after they were set. */
export function inherit(command: Command): void {
  for (const child of command.commands) {
    child.copyInheritedSettings(command)
    // One line tells a command in its parent's list and at the head of its own help.
    if (child.description() === '') child.description(sentence(child.summary()))
    inherit(child)
  }
}

function sentence(words: string): string {
  return words === '' ? '' : `${words.slice(0, 1).toUpperCase()}${words.slice(1)}.`
}

function report(error: unknown, { debug, called }: { debug: boolean; called: string }): number {
  if (error instanceof CommanderError) {
    // Commander has said what is wrong, or shown the help that was asked for.
    if (error.exitCode === 0) return 0
    process.stderr.write(`See: chancery ${called} --help\n`)
    return EXIT.usage
  }
  const status = exitStatusOf(error)
  if (debug) {
    console.error(error)
    return status
  }
  const message = error instanceof Error ? error.message : String(error)
  process.stderr.write(`chancery ${called}: ${message}\n`)
  const anchor = anchorOf(error)
  if (anchor !== undefined) process.stderr.write(`More: ${anchor}\n`)
  else if (!(error instanceof Error) || !('code' in error)) {
    process.stderr.write('The command with --debug added shows more.\n')
  }
  return status
}

/** By the error's code, so that no part has to be loaded to know its errors. */
const EXIT_OF_CODE: Readonly<Record<string, number>> = {
  // HsmError
  busy: EXIT.locked,
  unavailable: EXIT.hsm,
  refused: EXIT.policy,
  latched: EXIT.authentication,
  unknown_key: EXIT.policy,
  // AdminError, AgentStateError, StoreError
  not_running: EXIT.locked,
  locked: EXIT.locked,
  in_use: EXIT.locked,
}

function exitStatusOf(error: unknown): number {
  if (error instanceof OperatorError) return error.exitStatus
  if (!(error instanceof Error) || !('code' in error)) return EXIT.failed
  // By its name, since its codes are words that others use as well.
  if (error.name === 'ConfigError') return EXIT.usage
  const remote = 'remoteCode' in error && error.remoteCode !== undefined ? error.remoteCode : error.code
  return codeStatus(String(remote)) ?? EXIT.failed
}

/** Where the runbook tells more, also of what a server refused. */
function anchorOf(error: unknown): string | undefined {
  if (error instanceof OperatorError) return error.anchor
  if (!(error instanceof Error) || !('remoteCode' in error)) return undefined
  const code = String(error.remoteCode)
  return Object.hasOwn(CATALOGUE, code) ? `docs/runbook.md#${code}` : undefined
}

function codeStatus(code: string): number | undefined {
  if (Object.hasOwn(CATALOGUE, code)) return CATALOGUE[code as Code].exit // just checked
  return Object.hasOwn(EXIT_OF_CODE, code) ? EXIT_OF_CODE[code] : undefined
}

// The tests call `main`; only as the program itself does it end the process.
if (import.meta.main) {
  // Whoever reads us through `head` has seen enough.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
    process.exit(0)
  })
  process.exitCode = await main(process.argv.slice(2))
}
