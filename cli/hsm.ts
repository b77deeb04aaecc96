/** `chancery hsm`: what an HSM's module can do, before anything depends on it. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { parse } from 'yaml'
import { z } from 'zod'
import type { KeyKind, ModuleSettings, Probed, ProbedToken } from '#hsm'
import { printJson, table } from './agent-options.ts'

interface ProbeOptions {
  readonly data: string
  readonly agent: string
  readonly module?: string
  readonly parameters?: string
  readonly environment: readonly string[]
  readonly pinFile?: string
  readonly trial?: boolean
  readonly kind: readonly string[]
  readonly json?: boolean
}

/** What a trial makes unless told: what a standard installation has, and the one kind that clients take for witnesses. */
const TRIAL_KINDS: readonly KeyKind[] = ['P-256', 'P-384', 'rsa-2048', 'ed25519']

export function register(program: Command): void {
  const hsm = program
    .command('hsm')
    .summary('find out what an HSM and its PKCS#11 module can do')
    .addHelpText('after', '\nExample:\n  chancery hsm probe --data ./data\n')
  hsm
    .command('probe [uri]')
    .summary('module, mechanisms, key kinds, limits and quirks of a token')
    .option('--module <path>', "PKCS#11 library; the agent's of --data unless told")
    .option('--parameters <text>', 'initialisation parameters (NSS: configdir=…)')
    .addOption(
      new Option('--environment <NAME=value>', 'a variable that the module reads; may be repeated')
        .argParser((value: string, before: readonly string[]) => [...before, value])
        .default([], 'none'),
    )
    .option('--pin-file <file>', 'log in, once, with the user PIN in this file (mode 0600)')
    .option('--trial', 'make, use and destroy a key of each kind; needs --pin-file and a URI')
    .addOption(
      new Option('--kind <kind>', 'kind for the trial; may be repeated')
        .argParser((value: string, before: readonly string[]) => [...before, value])
        .default([], TRIAL_KINDS.join(', ')),
    )
    .option('--data <dir>', 'data folder', 'data')
    .option('--agent <agent>', 'name or agent.yaml of the agent whose module it is', 'online')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
The module is loaded by a process of its own. Without a PIN only public facts
are read. Names of tokens are PKCS#11 URIs (RFC 7512):
pkcs11:token=LABEL;serial=… Without a URI every token of the module is told.
What is known of vendors: docs/hsm/

Exit status: 0 done, 2 not understood, 4 the PIN was refused, 5 no module or
token.

Examples:
  chancery hsm probe --data ./data
  chancery hsm probe pkcs11:token=online --data ./data --json
  chancery hsm probe pkcs11:token=lab --module /usr/lib/pkcs11/vendor.so \\
    --pin-file ./pin --trial
`,
    )
    .action(probe)
}

async function probe(uri: string | undefined, options: ProbeOptions, command: Command): Promise<void> {
  const { isKeyKind, KEY_KINDS, MODULE_ENVIRONMENT, probeModule } = await import('#hsm')
  if (options.trial === true && (options.pinFile === undefined || uri === undefined)) {
    command.error('error: --trial needs --pin-file and the URI of one token')
  }
  const unknown = options.kind.find((kind) => !isKeyKind(kind))
  if (unknown !== undefined) command.error(`error: --kind ${unknown}: kinds are ${KEY_KINDS.join(', ')}`)
  const variable = options.environment.find((text) => !Object.hasOwn(MODULE_ENVIRONMENT, assignment(text)[0]))
  if (variable !== undefined) {
    const names = Object.keys(MODULE_ENVIRONMENT).join(', ')
    command.error(`error: --environment ${variable}: write NAME=value, with a name of ${names}`)
  }
  const found = await probeModule({
    module: settingsOf(options, command),
    ...(uri === undefined ? {} : { uri }),
    ...(options.pinFile === undefined ? {} : { pinFile: resolve(options.pinFile) }),
    ...(options.trial === true
      ? { trial: options.kind.length === 0 ? TRIAL_KINDS : options.kind.filter(isKeyKind) }
      : {}),
  })
  if (options.json === true) printJson(found)
  else process.stdout.write(probeScreen(found))
}

const agentFile = z.object({
  modulePath: z.string(),
  moduleParameters: z.string().optional(),
  moduleEnvironment: z.record(z.string(), z.string()).default({}),
  tokens: z.record(z.string(), z.object({ softhsmConf: z.string().optional() })).default({}),
})

function settingsOf(options: ProbeOptions, command: Command): ModuleSettings {
  const given = Object.fromEntries(options.environment.map(assignment))
  if (options.module !== undefined) {
    return { path: resolve(options.module), parameters: options.parameters, environment: given }
  }
  const { agent } = options
  const file = /[/]|\.yaml$/.test(agent) ? agent : join(options.data, 'agent', `${agent}.yaml`)
  if (!existsSync(file)) {
    command.error(`error: there is no ${file}; name the module with --module PATH`)
  }
  const { modulePath, moduleParameters, moduleEnvironment, tokens } = agentFile.parse(parse(readFileSync(file, 'utf8')))
  const conf = Object.values(tokens).find(({ softhsmConf }) => softhsmConf !== undefined)?.softhsmConf
  const at = (path: string) => resolve(dirname(file), path)
  const environment = { ...moduleEnvironment, ...(conf === undefined ? {} : { SOFTHSM2_CONF: at(conf) }), ...given }
  return { path: at(modulePath), parameters: options.parameters ?? moduleParameters, environment }
}

/** Name and value; the name is all of it without `=`. */
function assignment(text: string): [string, string] {
  const [name = '', ...rest] = text.split('=')
  return [rest.length === 0 ? text : name, rest.join('=')]
}

const WIDTH = 80

/** For a terminal of 80 columns. */
export function probeScreen({ library, tokens }: Probed): string {
  const head = [
    `${library.description} ${library.version} (${library.manufacturer}), PKCS#11 ${library.cryptoki}`,
    library.path,
  ]
  const none = tokens.length === 0 ? ['The module shows no token.'] : []
  return `${[...head, ...none, ...tokens.flatMap((token) => ['', ...tokenLines(token)])].join('\n')}\n`
}

function tokenLines(token: ProbedToken): string[] {
  const { label, serial, model, manufacturer, firmwareVersion, profile, software, limits } = token
  const offered = token.kinds.filter((each) => each.offered).map(({ kind }) => kind)
  const missing = token.kinds.filter((each) => !each.offered).map(({ kind }) => kind)
  return [
    `Token ${label === '' ? '(not initialised)' : label}`,
    ...fact('it is', `${manufacturer} ${model}, firmware ${firmwareVersion}, serial ${serial}`),
    ...fact('profile', `${profile.name}${profile.tested ? '' : ' (untested: from documents alone)'}`),
    ...(software ? fact('', 'keys in files: for development') : []),
    ...token.flags.flatMap((flag) => fact('warning', flag)),
    ...fact('keys', offered.join(', ') || 'none of those that are used here'),
    ...(missing.length === 0 ? [] : fact('not', missing.join(', '))),
    ...fact('sessions', limits.sessions === -1 ? 'no limit told' : `${limits.sessions} at most`),
    ...fact('PIN', `${limits.pinLengthMin} to ${limits.pinLengthMax} characters`),
    ...fact('free', limits.freeMemory === -1 ? 'not told' : `${limits.freeMemory} bytes for private objects`),
    ...(token.objects === undefined ? [] : fact('objects', String(token.objects))),
    ...token.quirks.flatMap(({ meaning, seen }) => fact('quirk', `${meaning}${seen ? ' (seen)' : ''}`)),
    ...fact('mechanisms', token.mechanisms.map(({ name }) => name.replace(/^CKM_/, '')).join(' ')),
    ...(token.trials.length === 0 ? [] : ['', ...trialLines(token)]),
  ]
}

function trialLines({ trials }: ProbedToken): string[] {
  const rows = trials.map(({ kind, fault, generateMs, signMs, unproven }) =>
    fault === ''
      ? [kind, `${generateMs.toFixed(0)} ms`, `${signMs.toFixed(2)} ms`, unproven.join(' ') || 'all as asked for']
      : [kind, '-', '-', fault.slice(0, 50)],
  )
  return table(['KIND', 'MADE IN', 'SIGNS IN', 'NOT SHOWN'], rows).trimEnd().split('\n')
}

/** A name and its words, broken at spaces before column 80. */
function fact(name: string, words: string): string[] {
  const indent = 14
  const lines: string[] = []
  let line = ''
  for (const word of words.split(' ')) {
    if (line !== '' && indent + line.length + 1 + word.length > WIDTH) {
      lines.push(line)
      line = word
    } else line = line === '' ? word : `${line} ${word}`
  }
  lines.push(line)
  return lines.map((each, at) => `  ${(at === 0 ? name : '').padEnd(indent - 2)}${each}`)
}
