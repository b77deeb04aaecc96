/**
 * One command, not twenty: whoever knows one subcommand guesses the next. Walks everything that cli/main.ts registers,
 * without a process: summaries, examples that can be typed, exit statuses, and options that mean one thing everywhere.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, CommanderError, type Option } from 'commander'
import { expect, test } from 'vitest'
import { CATALOGUE, EXIT } from '#alarms'
import { COMMANDS, FORMAT, inherit } from './main.ts'

const PROGRAM = await everything()
const ALL = [...walk(PROGRAM, [])]
const LEAVES = ALL.filter(({ command }) => command.commands.length === 0 || command.registeredArguments.length > 0)
const NAMES = LEAVES.map(({ name }) => name)
const OPTIONS = LEAVES.flatMap(({ name, command }) => command.options.map((option) => ({ name, option })))

interface Found {
  readonly name: string
  readonly command: Command
}

async function everything(): Promise<Command> {
  const program = new Command('chancery')
  program.exitOverride().configureHelp(FORMAT)
  program.configureOutput({ getOutHelpWidth: () => 80, writeErr: () => undefined, writeOut: () => undefined })
  for (const load of Object.values(COMMANDS)) (await load()).register(program)
  inherit(program)
  return program
}

function* walk(command: Command, above: readonly string[]): Generator<Found> {
  for (const child of command.commands) {
    const words = [...above, child.name()]
    yield { name: words.join(' '), command: child }
    yield* walk(child, words)
  }
}

/** As it is printed, with what addHelpText added. */
function helpOf(command: Command): string {
  let text = ''
  const before = command.configureOutput()
  command.configureOutput({ ...before, writeOut: (said: string) => void (text += said) })
  command.outputHelp()
  command.configureOutput(before)
  return text
}

/** The lines of help that call chancery, a line's continuation joined to it, without what the shell does to it. */
function examplesIn(help: string): string[] {
  return help
    .replaceAll(/ \\\n +/g, ' ')
    .split('\n')
    .flatMap((line) => /^ +(?:eval "\$\()?(chancery .*?)(?:\)")?$/.exec(line)?.[1] ?? [])
    .map((line) => line.replace(/ >+ ?\S+$/, ''))
}

function shellWords(line: string): string[] {
  return [...line.matchAll(/'([^']*)'|(\S*\$\([^)]*\))|(\S+)/g)].map(([, quoted, call, plain]) => {
    return quoted ?? call ?? plain ?? ''
  })
}

test('there is something to look at', () => {
  expect(LEAVES.length).toBeGreaterThan(70)
})

test.each(ALL)('$name has a summary of one line, in lower case, without a full stop', ({ command }) => {
  expect(command.summary()).toMatch(/^[^\n]{8,74}$/)
  expect(command.summary()).not.toMatch(/^[A-Z][a-z]|\.$/)
})

test.each(ALL)('help of $name fits 80 columns and teaches by example', ({ name, command }) => {
  const help = helpOf(command)
  for (const line of help.split('\n')) expect(line.length, line).toBeLessThanOrEqual(80)
  expect(help).toMatch(/^Examples?(, [^\n:]+)?:$/m)
  const own = examplesIn(help).filter((line) => line.startsWith(`chancery ${name}`))
  expect(own.length, help).toBeGreaterThan(0)
})

test.each(ALL)('what the help of $name says can be typed', ({ command }) => {
  for (const line of examplesIn(helpOf(command))) expect(() => understood(line), line).not.toThrow()
})

/** Parses a command line as main would, runs nothing. Throws where commander would complain. */
function understood(line: string): void {
  let [at, words] = [PROGRAM, shellWords(line).slice(1)]
  for (;;) {
    const child = at.commands.find((each) => each.name() === words[0])
    if (child === undefined) break
    at = child
    words = words.slice(1)
  }
  if (at === PROGRAM) throw new Error(`there is no command ${words[0] ?? ''}`)
  if (words.includes('--help')) return
  const { operands, unknown } = freshCopy(at).parseOptions(words)
  if (unknown.some((word) => word.startsWith('-'))) throw new Error(`no such option: ${unknown.join(' ')}`)
  const wanted = at.registeredArguments
  if (operands.length < wanted.filter(({ required }) => required).length) throw new Error('an argument is missing')
  if (operands.length > wanted.length && wanted.at(-1)?.variadic !== true) throw new Error('too many arguments')
  for (const option of at.options) {
    if (option.mandatory && option.defaultValue === undefined && !given(option, words)) {
      throw new Error(`${option.flags} is missing`)
    }
  }
}

function given({ long, short }: Option, words: readonly string[]): boolean {
  return words.some((word) => word === long || word === short || (long !== undefined && word.startsWith(`${long}=`)))
}

/** Of the options alone: parsing leaves values behind. */
function freshCopy(command: Command): Command {
  const copy = new Command(command.name())
  copy.exitOverride().configureOutput({ writeErr: () => undefined })
  for (const option of command.options) copy.addOption(option)
  return copy
}

test('an example that is wrong is found', () => {
  expect(() => understood('chancery log freeze rekor-v2 --nope')).toThrow('no such option')
  expect(() => understood('chancery log freeze')).toThrow('an argument is missing')
  expect(() => understood('chancery logs ls')).toThrow('there is no command')
  expect(() => understood('chancery log ls rekor-v2')).toThrow('too many arguments')
  expect(() => understood('chancery audit export')).toThrow('is missing')
  expect(() => understood('chancery key gen x --kind P-521')).toThrow(CommanderError)
})

const STATUSES = new Set<number>(Object.values(EXIT))

test.each(ALL)('exit statuses in the help of $name are those of alarms/', ({ command }) => {
  const said = /^Exit status: ([^]*?)(?:\n\n|\n*$)/m.exec(helpOf(command))?.[1]
  if (said === undefined) return
  const numbers = [...said.matchAll(/(?:^|,\s|;\s)(\d+) ([^,;]+)/g)].map(([, number]) => Number(number))
  expect(numbers[0], said).toBe(EXIT.done)
  expect(numbers, said).toEqual(numbers.toSorted((a, b) => a - b))
  for (const number of numbers) expect(STATUSES.has(number), said).toBe(true)
})

/** Of these words in a sentence about exit statuses only one number is right. */
const SAID: Readonly<Record<string, number>> = {
  'no server runs': EXIT.locked,
  'not understood': EXIT.usage,
  'no such agent': EXIT.usage,
  'the agent is away': EXIT.hsm,
  'the HSM is away': EXIT.hsm,
  'not confirmed': EXIT.approval,
}

test.each(Object.entries(SAID))('"%s" is status %d wherever it is told', (words, status) => {
  const told = ALL.flatMap(({ command }) => [
    ...helpOf(command)
      .replaceAll(/\s+/g, ' ')
      .matchAll(new RegExp(`(\\d) ${words}`, 'g')),
  ])
  expect(told.length).toBeGreaterThan(0)
  for (const [, number] of told) expect(Number(number)).toBe(status)
})

test('runbook titles and help say the same of a confirmation', () => {
  expect(CATALOGUE.confirmation_needed.exit).toBe(EXIT.approval)
})

/** One word that means two things, each with its reason. Everything else means the same wherever it stands. */
const TWO_MEANINGS: Readonly<Record<string, string>> = {
  '--confirm': 'bare where yes is asked for, with the name of what goes where that is to be typed: tested below',
  '--agent': 'one rule, tested below: without a socket where the command starts the agent itself',
  '--from': 'where it comes from: a file, or the first time of a window',
  '--for': 'whom it is for: a client, or the place of a CI',
  '--url': 'of what is dialled, or of what others will dial',
  '--root': 'the root.json that trust begins with: audits take a file alone, obtained out of band',
  '--root-checksum': 'always of the first root.json; where an air-gap kit brings the root, only then',
  '--mirror': 'always the TUF mirror: read from, or named to clients',
  '--output': 'the file to write; a folder where there are several',
  '--kind': 'a kind of key: of the one that is made, of each that is tried, or of named ones',
  '--bundle': 'a Sigstore bundle, as cosign calls it: written by sign, read by verify',
  '--issuer': 'an OpenID issuer: who vouches, who is asked, in whose name',
  '--key': 'a key by its name in agent.yaml',
  '--token': 'a token by its name in agent.yaml',
  '--domain': 'names of services, or of logs in a plan',
  '--listen': 'host:port to bind',
  '--request': 'a request of another machine: for a certificate, for a key-encryption key',
  '--tls-key': 'PEM key of --tls-cert',
  '--tls-cert': 'PEM certificate, of all names or of one mirror',
  '--pin-file': 'file with the user PIN: read, or made',
  '--so-pin-file': "file with the security officer's PIN: read, or made",
}

/** How the uses of an option differ: in spelling, in default, or in what is not only a longer way to say the same. */
function differences(long: string): string[] {
  const uses = OPTIONS.filter(({ option }) => option.long === long)
  const shortest = uses.map(({ option }) => option.description).toSorted((a, b) => a.length - b.length)[0] ?? ''
  const spelled = new Set(uses.map(({ option }) => option.flags.replace('...>', '>')))
  const defaults = new Set(uses.map(({ option }) => option.defaultValue).filter((value) => value !== undefined))
  return [
    ...(spelled.size > 1 ? [`${long} is spelled ${[...spelled].join(' and ')}`] : []),
    ...([...defaults].filter((value) => typeof value === 'string').length > 1 ? [`${long} has several defaults`] : []),
    ...uses
      .filter(({ option }) => !option.description.startsWith(shortest))
      .map(({ name, option }) => `${name} ${long}: ${option.description} / ${shortest}`),
  ]
}

test('an option is spelled and meant the same wherever it stands', () => {
  const longs = new Set(OPTIONS.map(({ option }) => option.long ?? option.flags))
  expect([...longs].filter((long) => !Object.hasOwn(TWO_MEANINGS, long)).flatMap(differences)).toEqual([])
})

test('nothing is excused that needs no excuse', () => {
  expect(Object.keys(TWO_MEANINGS).filter((long) => differences(long).length === 0)).toEqual([])
})

test('what has to be said is marked in the help', () => {
  for (const { command } of LEAVES) {
    const required = command.options.filter(({ mandatory, defaultValue }) => mandatory && defaultValue === undefined)
    expect([...helpOf(command).matchAll(/\(required\)/g)].length).toBe(required.length)
  }
  expect(OPTIONS.some(({ option }) => option.mandatory)).toBe(true)
})

test('an installation is named by --data DIR, by default data, in every command that has one', () => {
  const uses = OPTIONS.filter(({ option }) => option.long === '--data')
  expect(uses.length).toBeGreaterThan(50)
  for (const { name, option } of uses) {
    expect([name, option.flags, option.defaultValue]).toEqual([name, '--data <dir>', 'data'])
    expect(option.description).toMatch(/^data folder/)
  }
  for (const { name, option } of OPTIONS.filter(({ option: { long } }) => long === '--config')) {
    expect([name, option.flags]).toEqual([name, '--config <file>'])
  }
})

test('an agent is named in one way: name or agent.yaml, and its socket where a running one is asked', () => {
  const uses = OPTIONS.filter(({ option }) => option.long === '--agent')
  expect(uses.length).toBeGreaterThan(30)
  for (const { name, option } of uses) {
    expect([name, option.flags.replace('...', '')]).toEqual([name, '--agent <agent>'])
    expect([name, option.description]).toEqual([name, expect.stringMatching(OF_AGENT)])
    expect([undefined, 'online']).toContain(option.defaultValue)
  }
  const own = uses.filter(({ option }) => !option.description.includes('socket')).map(({ name }) => name)
  expect(own.toSorted()).toEqual(['ceremony key', 'hsm probe', 'trust custodian', 'trust sign'])
})

const OF_AGENT = /^name(, agent\.yaml or admin socket| or agent\.yaml) of the agent( |;|$)/

test('a file that is written is named by -o, --output', () => {
  for (const { name, option } of OPTIONS) {
    expect([name, option.long]).not.toEqual([name, '--out'])
    if (option.long === '--output') expect([name, option.short]).toEqual([name, '-o'])
    else expect([name, option.short]).toEqual([name, undefined])
  }
})

/** What prints no data that a program would read, and why. */
const NO_JSON: Readonly<Record<string, string>> = {
  init: 'prints what it does for the person who waits',
  serve: 'runs; its log is JSON Lines',
  'trust serve-mirror': 'runs',
  'dev issuer': 'runs',
  'dev token': 'prints a token, which clients read as it is',
  login: 'prints or keeps a token, which clients read as it is',
  'trust custodian': 'prints JSON, for roles.json',
}

test('every command that prints data has --json', () => {
  const without = LEAVES.filter(({ command }) => !command.options.some(({ long }) => long === '--json'))
  expect(without.map(({ name }) => name).toSorted()).toEqual(Object.keys(NO_JSON).toSorted())
})

/** Whatever destroys, ends or switches something that no other command brings back at once. */
const DRY_RUNS: readonly string[] = [
  'token init',
  'key gen',
  'key destroy',
  'key restore',
  'trust sign',
  'log freeze',
  'log adopt',
  'log succeed',
  'trust withdraw',
  'ceremony run',
  'rotate issuing-ca',
  'rotate root-ca',
  'rotate ct-log',
  'rotate rekor-v1',
  'rotate rekor-v2',
  'rotate tsa',
  'rotate tuf-online',
  'rotate tuf-root',
  'rotate standby',
  'rotate abort',
  'distrust',
  'restore',
]

test('what destroys or switches has --dry-run', () => {
  const having = OPTIONS.filter(({ option }) => option.long === '--dry-run').map(({ name }) => name)
  expect(having.toSorted()).toEqual(DRY_RUNS.toSorted())
})

/** Asked with yes; or with the name of what goes, where nothing brings it back. */
const CONFIRMED: Readonly<Record<string, '--confirm' | `--confirm <${string}>`>> = {
  'token unlatch': '--confirm',
  'key destroy': '--confirm',
  'key unlatch': '--confirm',
  'trust sign': '--confirm',
  'trust withdraw': '--confirm',
  'ceremony approve': '--confirm',
  'ceremony witness': '--confirm',
  'rotate abort': '--confirm',
  'rotate issuing-ca': '--confirm',
  'rotate ct-log': '--confirm',
  'rotate rekor-v1': '--confirm',
  'rotate rekor-v2': '--confirm',
  'rotate tsa': '--confirm',
  'log freeze': '--confirm <origin>',
  'log adopt': '--confirm <origin>',
  'log succeed': '--confirm <origin>',
  'agent adopt': '--confirm <instance>',
  distrust: '--confirm <item>',
}

test('confirmations are one scheme: --confirm, and the name of what goes for what nothing brings back', () => {
  const found = OPTIONS.filter(({ option }) => option.long === '--confirm')
  expect(Object.fromEntries(found.map(({ name, option }) => [name, option.flags]))).toEqual(CONFIRMED)
  for (const { name, option } of found) expect([name, option.description]).toEqual([name, expect.stringMatching(ASKED)])
  for (const word of ['--yes', '--force', '--assume-yes'])
    expect(OPTIONS.map(({ option }) => option.long)).not.toContain(word)
})

const ASKED = /without being asked|^the instance that the refusal told$/

test('nothing asks but what tells a script what to add', () => {
  const asking = sources().filter(({ text }) => text.includes('terminal.question('))
  for (const { file, text } of asking) {
    expect([file, /isTTY && process\.stderr\.isTTY/.test(text) || text.includes('!process.stdin.isTTY')]).toEqual([
      file,
      true,
    ])
    expect([file, /'confirmation_needed'|'kek_fingerprint'/.test(text)]).toEqual([file, true])
  }
  expect(asking.map(({ file }) => file).toSorted()).toEqual(['agent-options.ts', 'key-encryption-key.ts', 'rotate.ts'])
})

test('no colour, and a line is only rewritten where a terminal is', () => {
  for (const { file, text } of sources()) {
    expect([file, /\\(?:u001b|x1b)\[[\d;]*m/.test(text), /styleText|chalk|picocolors/.test(text)]).toEqual([
      file,
      false,
      false,
    ])
    if (/\\(?:u001b|x1b)\[K/.test(text)) expect([file, text.includes('isTTY')]).toEqual([file, true])
  }
})

function sources(): { file: string; text: string }[] {
  const files = [
    ...new Set([
      'main.ts',
      'agent-options.ts',
      'key-encryption-key.ts',
      'rotate.ts',
      'progress.ts',
      ...NAMES.map((name) => `${name.split(' ')[0] ?? ''}.ts`),
    ]),
  ]
  return files.map((file) => ({ file, text: readFileSync(join(import.meta.dirname, file), 'utf8') }))
}
