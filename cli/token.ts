/** `chancery token`: the tokens of an agent. The agent does the work; a new token is made by a process of its own. */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { randomBytes } from 'node:crypto'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { TokenDetails } from '#hsm'
import {
  type AgentOptions,
  agentOptions,
  askedPin,
  confirmed,
  printJson,
  reachOf,
  secretIn,
  table,
  wrapped,
} from './agent-options.ts'

export function register(program: Command): void {
  const token = program
    .command('token')
    .summary('list tokens, make one, change its PIN, lift its latch')
    .addHelpText(
      'after',
      `
A running server's agent is asked through its socket; otherwise one is started
for the moment. No PIN is ever an argument: they lie in files of mode 0600.

Exit status: 0 done, 2 no such agent, 3 another agent holds the state, 4 a PIN
or a latch, 5 the HSM is away, 6 refused, 7 not confirmed.

Examples:
  chancery token ls --data ./data
  chancery token pin rotate online --data ./data
  chancery token unlatch online --data ./data --confirm
`,
    )
  agentOptions(token.command('ls').summary('tokens with their flags, sessions and what lies on them'))
    .addHelpText('after', '\nExamples:\n  chancery token ls --data ./data\n  chancery token ls --agent root --json\n')
    .action(list)
  registerInit(token)
  registerPin(token)
  agentOptions(token.command('unlatch <token>').summary('lift the latch of a token and log in once'))
    .option('--confirm', 'do it without being asked: the PIN file is right now')
    .addHelpText(
      'after',
      `
A token that refused its PIN is latched: the agent never tries again by
itself, since a few more attempts lock the token. Put the right PIN into its
PIN file first; this command spends one more attempt. A key's latch: chancery
key unlatch.

Example:
  chancery token unlatch online --data ./data --confirm
`,
    )
    .action(unlatch)
}

interface ListedToken extends TokenDetails {
  /** -1 while it is not connected. */
  readonly objects: number
}

async function list(options: AgentOptions): Promise<void> {
  const { withAdminAgent } = await import('#lifecycle')
  const tokens = await withAdminAgent(reachOf(options), async (admin) => {
    const listed: ListedToken[] = []
    for (const token of await admin.tokens()) {
      listed.push({ ...token, objects: token.loggedIn ? (await admin.listObjects(token.name)).length : -1 })
    }
    return listed
  })
  if (options.json === true) printJson(tokens)
  else process.stdout.write(tokensScreen(tokens))
}

/** At most 80 columns but for labels that are longer and the prose of a fault. */
export function tokensScreen(tokens: readonly ListedToken[]): string {
  const rows = tokens.map((token) => [
    token.name,
    stateOf(token),
    token.objects === -1 ? '?' : String(token.objects),
    sessionsOf(token),
    token.label,
  ])
  const details = tokens.map((token) => [`${token.name}:`, ...detailsOf(token).flatMap(wrapped)].join('\n'))
  return `${[table(['TOKEN', 'STATE', 'OBJECTS', 'SESSIONS', 'LABEL'], rows).trimEnd(), ...details].join('\n\n')}\n`
}

function stateOf({ loggedIn, latched }: TokenDetails): string {
  if (latched !== '') return 'LATCHED'
  return loggedIn ? 'logged in' : 'AWAY'
}

function sessionsOf({ sessions: { open, max } }: TokenDetails): string {
  const told = open === -1 ? '?' : String(open)
  return max === -1 ? told : `${told} of ${max}`
}

function detailsOf(token: TokenDetails): string[] {
  const { name, serial, model, manufacturer, memory, pinLength } = token
  const free = memory.privateFree === -1 ? 'room not told' : `room for ${memory.privateFree} bytes`
  return [
    ...(serial === '' ? [] : [`serial ${serial}, ${model} of ${manufacturer}`]),
    ...(token.software ? ['software: its keys are files'] : []),
    ...(pinLength.max === -1 ? [] : [`takes PINs of ${pinLength.min} to ${pinLength.max} characters; ${free}`]),
    ...token.flags.map((flag) => `WARNING ${flag}`),
    ...(token.pinRotation === '' ? [] : [`WARNING a change of its PIN was interrupted: token pin rotate ${name}`]),
    ...(token.latched === '' ? [] : [`LATCHED ${token.latched}`]),
    ...(token.fault === '' ? [] : [`AWAY ${token.fault}`]),
  ]
}

interface InitOptions extends AgentOptions {
  readonly pinFile?: string
  readonly soPinFile?: string
  readonly ask?: boolean
  readonly name?: string
  readonly add?: boolean
  readonly dryRun?: boolean
}

function registerInit(token: Command): void {
  agentOptions(
    token
      .command('init')
      .argument('<label>', 'CKA label of the token', tokenLabel)
      .summary('make a new token in a free slot'),
  )
    .option('--pin-file <file>', 'file for its PIN; made with a random one if it is not there')
    .option('--so-pin-file <file>', "file for the security officer's PIN; the same")
    .option('--ask', 'ask for the PIN at the terminal, where its file is not there')
    .option('--name <name>', 'its name in agent.yaml (default: the label)')
    .option('--add', 'add it to agent.yaml; the agent takes it up when it is started again')
    .option('--dry-run', 'say what would be done, change nothing')
    .addHelpText(
      'after',
      `
The module is that of the agent (--agent). PIN files get mode 0600 and are
written before the token has the PINs. Keep the security officer's PIN
elsewhere than the token: with it keys can be given to other tokens.

Examples:
  chancery token init recovery --data ./data --dry-run
  chancery token init recovery --data ./data --add
`,
    )
    .action(initialize)
}

function tokenLabel(value: string): string {
  if (/^[a-zA-Z0-9._-]{1,32}$/.test(value)) return value
  throw new InvalidArgumentError('a label is 1 to 32 of a-z A-Z 0-9 . _ -')
}

async function initialize(label: string, options: InitOptions): Promise<void> {
  const [{ OperatorError }, { readAgentFile, operatorError }] = await Promise.all([
    import('#alarms'),
    import('#lifecycle'),
  ])
  const file = readAgentFile(reachOf(options))
  const name = options.name ?? label
  if (file.tokens[name] !== undefined)
    throw new OperatorError('token_exists', `${file.path} has a token ${name} already`)
  const folder = file.softhsmConf === undefined ? dirname(file.path) : dirname(file.softhsmConf)
  const pinFile = resolve(options.pinFile ?? join(folder, `${label}.pin`))
  const soPinFile = resolve(options.soPinFile ?? join(folder, `${label}.so-pin`))
  const entry = {
    uri: `pkcs11:token=${encodeURIComponent(label)}`,
    pinFile: relative(dirname(file.path), pinFile),
    ...(file.softhsmConfText === undefined ? {} : { softhsmConf: file.softhsmConfText }),
  }
  const plan = { label, name, module: file.modulePath, pinFile, soPinFile, agentFile: file.path, entry }
  if (options.dryRun === true) {
    if (options.json === true) printJson({ done: false, ...plan })
    else {
      const made = (path: string) => (existsSync(path) ? path : `${path} (random, new)`)
      process.stdout.write(
        `Would make a token\n  label         ${label}\n  module        ${file.modulePath}\n  PIN           ${made(pinFile)}\n` +
          `  officer's PIN ${made(soPinFile)}\n  agent.yaml    ${options.add === true ? `${file.path}: tokens.${name}` : 'not changed (--add)'}\n` +
          'Nothing was done.\n',
      )
    }
    return
  }
  const wanted = [
    { path: soPinFile, what: "security officer's PIN" },
    { path: pinFile, what: 'PIN' },
  ]
  for (const { path, what } of wanted) await ensurePinFile(path, what, options.ask === true)
  const { initializeToken } = await import('#hsm/officer')
  const { modulePath, softhsmConf } = file
  const { serial } = await initializeToken({ modulePath, softhsmConf, pinFile, soPinFile }, label).catch((error) => {
    throw operatorError(error)
  })
  if (options.add === true) await addToken(file.path, name, entry)
  if (options.json === true) {
    printJson({ done: true, serial, ...plan })
    return
  }
  process.stdout.write(`token ${label} made, serial ${serial}; PINs in\n  ${pinFile}\n  ${soPinFile}\n`)
  const { stringify } = await import('yaml')
  process.stdout.write(
    options.add === true
      ? `Start the agent, or its server, again; it is there as ${name}:\n  ${file.path}\n`
      : `For agent.yaml, below tokens:\n${stringify({ [name]: entry })
          .replace(/^/gm, '  ')
          .trimEnd()}\n`,
  )
}

/** As it is there, typed, or random; a file that others may read is refused before anything is made. */
async function ensurePinFile(path: string, what: string, ask: boolean): Promise<void> {
  if (existsSync(path)) return void secretIn(path)
  const pin = ask ? await askedPin(what) : randomBytes(18).toString('base64url')
  writeFileSync(path, `${pin}\n`, { mode: 0o600, flag: 'wx', flush: true })
  // The name as well: a PIN that is lost with the power takes the token's keys with it.
  const folder = openSync(dirname(path), 'r')
  fsyncSync(folder)
  closeSync(folder)
}

/** Adds to the document as it is written, with its comments and order. */
async function addToken(path: string, name: string, entry: object): Promise<void> {
  const { parseDocument } = await import('yaml')
  const document = parseDocument(readFileSync(path, 'utf8'))
  document.setIn(['tokens', name], document.createNode(entry))
  // Never half a configuration: the running agent may be told to read it again at any time.
  writeFileSync(`${path}.new`, document.toString({ lineWidth: 120 }), { mode: 0o600, flush: true })
  renameSync(`${path}.new`, path)
}

interface RotateOptions extends AgentOptions {
  readonly ask?: boolean
  readonly newPinFile?: string
}

function registerPin(token: Command): void {
  const pin = token
    .command('pin')
    .summary("change a token's PIN")
    .addHelpText('after', '\nExample:\n  chancery token pin rotate online --data ./data\n')
  agentOptions(pin.command('rotate <token>').summary('give the token a new PIN and put it into the PIN file'))
    .option('--new-pin-file <file>', 'take the new PIN from this file, mode 0600 (default: a random one)')
    .addOption(new Option('--ask', 'ask for the PIN at the terminal').conflicts('newPinFile'))
    .addHelpText(
      'after',
      `
Safe to interrupt at any point; run it again and it completes what it began.
Signing waits for less than a second. The agent must be able to write beside
the PIN file. Another agent that opens the same token needs the new PIN too,
before it starts or reconnects.

Example:
  chancery token pin rotate online --data ./data
`,
    )
    .action(rotate)
}

async function rotate(name: string, options: RotateOptions): Promise<void> {
  const { withAdminAgent } = await import('#lifecycle')
  const fromFile = options.newPinFile === undefined ? undefined : secretIn(options.newPinFile)
  const newPin = options.ask === true ? await askedPin('new PIN') : fromFile
  const { resumed } = await withAdminAgent(reachOf(options), (admin) =>
    admin.rotatePin({ token: name, ...(newPin === undefined ? {} : { newPin }) }),
  )
  if (options.json === true) printJson({ token: name, resumed })
  else {
    process.stdout.write(
      resumed
        ? `the interrupted change is complete: token ${name} has the PIN of then\n`
        : `token ${name} has a new PIN, in its PIN file; the agent has logged in with it\n`,
    )
  }
}

async function unlatch(name: string, options: AgentOptions & { readonly confirm?: boolean }): Promise<void> {
  const [{ OperatorError }, { withAdminAgent }] = await Promise.all([import('#alarms'), import('#lifecycle')])
  const after = await withAdminAgent(reachOf(options), async (admin) => {
    const token = (await admin.tokens()).find((each) => each.name === name)
    if (token === undefined) throw new OperatorError('token_absent', `the agent has no token ${name}`)
    if (token.latched === '') return { token, lifted: false }
    process.stderr.write(`token ${name} is latched: ${token.latched}\n`)
    await confirmed('One more attempt with the PIN of its PIN file?', options.confirm)
    await admin.unlatch({ latch: `token:${name}` })
    const [now] = (await admin.tokens()).filter((each) => each.name === name)
    return { token: now ?? token, lifted: true }
  })
  if (options.json === true) printJson({ token: name, lifted: after.lifted, ...after.token })
  if (after.token.latched !== '') throw new OperatorError('token_latched', `latched again: ${after.token.latched}`)
  if (options.json === true) return
  process.stdout.write(after.lifted ? `token ${name} is logged in\n` : `token ${name} is not latched\n`)
}
