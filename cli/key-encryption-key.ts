/** `chancery key kek`: the key under which keys are backed up, and how it gets to a second token. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import type { KekRequest, KekShare, OfficerToken } from '#hsm/officer'
import { type AgentOptions, agentOptions, printJson, reachOf } from './agent-options.ts'

interface KekOptions extends AgentOptions {
  readonly soPinFile?: string
}

export function registerKek(key: Command): void {
  const kek = key
    .command('kek')
    .summary('the key-encryption key of backups: make it, give it to a second token')
    .addHelpText(
      'after',
      `
A backup is worth something if a second token can unwrap it. Both tokens have
the same key-encryption key; each security officer declares it trusted, so
that no one with a PIN alone can wrap keys under a key of his own. It travels
under the receiving token's RSA key. These commands log in as security officer
(--so-pin-file; default: beside the PIN file, .so-pin) in a process of their
own; the agent never sees that PIN.

Examples, in this order:
  chancery key kek init online
  chancery key kek request recovery -o request.json
  chancery key kek share online --request request.json -o share.json
  chancery key kek accept recovery --from share.json

The token that made it wraps and does not unwrap: restore on one that accepted
it. More: docs/decisions/0020-wrapped-backup.md
`,
    )
  officerOptions(kek.command('init <token>').summary('make a key-encryption key on a token'))
    .addHelpText('after', '\nExample:\n  chancery key kek init online --data ./data\n')
    .action(init)
  officerOptions(kek.command('request <token>').summary('make the key pair under which it can travel to this token'))
    .requiredOption('-o, --output <file>', 'file to write, new: the request; no secret')
    .addHelpText('after', '\nExample:\n  chancery key kek request recovery -o request.json\n')
    .action(request)
  officerOptions(kek.command('share <token>').summary("wrap the key-encryption key for another token's request"))
    .requiredOption('--request <file>', 'request of the other token')
    .requiredOption('-o, --output <file>', 'file to write, new; only the requesting token can open it')
    .option('--fingerprint <hex>', 'of the request, as the other operator reads it out; asked for at a terminal')
    .addHelpText(
      'after',
      '\nExit status: 0 shared, 6 refused, 7 the fingerprint was not said, or is another.\n\nExample:\n  chancery key kek share online --request request.json -o share.json\n',
    )
    .action(share)
  officerOptions(kek.command('accept <token>').summary('take a shared key-encryption key in'))
    .requiredOption('--from <file>', 'file of key kek share')
    .addHelpText(
      'after',
      '\nExit status: 0 accepted, 8 the file is damaged.\n\nExample:\n  chancery key kek accept recovery --from share.json\n',
    )
    .action(accept)
}

function officerOptions(command: Command): Command {
  return agentOptions(command).option('--so-pin-file <file>', "file with the security officer's PIN, mode 0600")
}

/** Only of a token whose agent is content with its PIN: a wrong one must not be tried here as well. */
async function officerToken(name: string, options: KekOptions): Promise<OfficerToken> {
  const { readAgentFile, withAdminAgent } = await import('#lifecycle')
  const file = readAgentFile(reachOf(options))
  const token = file.tokens[name]
  if (token === undefined) throw new OperatorError('token_absent', `${file.path} has no token ${name}`)
  await withAdminAgent(reachOf(options), async (admin) => {
    const found = (await admin.tokens()).find((each) => each.name === name)
    if (found !== undefined && found.latched !== '') throw new OperatorError('token_latched', found.latched)
    if (found?.loggedIn !== true) throw new OperatorError('token_absent', `the agent is not logged in to token ${name}`)
  })
  const soPinFile = options.soPinFile ?? token.pinFile.replace(/(\.pin)?$/, '.so-pin')
  return { modulePath: file.modulePath, softhsmConf: file.softhsmConf, ...token, soPinFile }
}

async function asOfficer<T>(work: (officer: typeof import('#hsm/officer')) => Promise<T>): Promise<T> {
  const { operatorError } = await import('#lifecycle')
  try {
    return await work(await import('#hsm/officer'))
  } catch (error) {
    throw operatorError(error)
  }
}

async function init(name: string, options: KekOptions): Promise<void> {
  const token = await officerToken(name, options)
  const { kekIdHex } = await asOfficer(({ makeKek }) => makeKek(token))
  if (options.json === true) printJson({ token: name, kekIdHex })
  else {
    process.stdout.write(
      `token ${name} has a key-encryption key, id\n  ${kekIdHex}\n` +
        'It wraps keys made with --backup. A second token needs it too: key kek request\n',
    )
  }
}

const requestFile = z.strictObject({
  format: z.literal('chancery-kek-request/1'),
  idHex: z.string().regex(/^[0-9a-f]{32}$/),
  modulusHex: z.string().regex(/^(?:[0-9a-f]{2})+$/),
})

const shareFile = z.strictObject({
  format: z.literal('chancery-kek-share/1'),
  kekIdHex: z.string().regex(/^(?:[0-9a-f]{2}){1,255}$/),
  requestIdHex: z.string().regex(/^[0-9a-f]{32}$/),
  wrappedHex: z.string().regex(/^(?:[0-9a-f]{2})+$/),
})

async function request(name: string, options: KekOptions & { readonly output: string }): Promise<void> {
  refuseExisting(options.output)
  const token = await officerToken(name, options)
  const made = await asOfficer(({ requestKek }) => requestKek(token))
  writeNew(options.output, { format: 'chancery-kek-request/1', ...made } satisfies z.input<typeof requestFile>)
  const fingerprint = await fingerprintOf(made)
  if (options.json === true) printJson({ token: name, file: options.output, fingerprint })
  else {
    process.stdout.write(
      `request of token ${name}: ${options.output}\nIts fingerprint, to be read to whoever shares:\n  ${grouped(fingerprint)}\n`,
    )
  }
}

interface ShareOptions extends KekOptions {
  readonly request: string
  readonly output: string
  readonly fingerprint?: string
}

async function share(name: string, options: ShareOptions): Promise<void> {
  refuseExisting(options.output)
  const { format: _, ...asked } = readFile(options.request, requestFile)
  await checkFingerprint(asked, options.fingerprint)
  const token = await officerToken(name, options)
  const made = await asOfficer(({ shareKek }) => shareKek(token, asked))
  writeNew(options.output, { format: 'chancery-kek-share/1', ...made } satisfies z.input<typeof shareFile>)
  if (options.json === true) printJson({ token: name, file: options.output, kekIdHex: made.kekIdHex })
  else process.stdout.write(`key-encryption key ${made.kekIdHex} for that request:\n  ${options.output}\n`)
}

async function accept(name: string, options: KekOptions & { readonly from: string }): Promise<void> {
  const { format: _, ...shared } = readFile<KekShare & { format: string }>(options.from, shareFile)
  const token = await officerToken(name, options)
  const { kekIdHex } = await asOfficer(({ acceptKek }) => acceptKek(token, shared))
  if (options.json === true) printJson({ token: name, kekIdHex })
  else process.stdout.write(`token ${name} can restore backups of key-encryption key\n  ${kekIdHex}\n`)
}

async function fingerprintOf(asked: KekRequest): Promise<string> {
  const { requestFingerprint } = await import('#hsm/officer')
  return requestFingerprint(asked)
}

/** Whoever can put his own request in the file's place gets every key of the backups: two people compare it. */
async function checkFingerprint(asked: KekRequest, given: string | undefined): Promise<void> {
  const found = await fingerprintOf(asked)
  let said = given
  if (said === undefined && process.stdin.isTTY && process.stderr.isTTY) {
    const { createInterface } = await import('node:readline/promises')
    const terminal = createInterface({ input: process.stdin, output: process.stderr })
    said = await terminal.question("fingerprint, as the request's operator reads it out: ")
    terminal.close()
  }
  if (said === undefined) {
    throw new OperatorError(
      'kek_fingerprint',
      "say the request's fingerprint, as its operator reads it out: --fingerprint HEX",
    )
  }
  if (said.replace(/[\s:]/g, '').toLowerCase() !== found.replaceAll(' ', '')) {
    throw new OperatorError(
      'kek_fingerprint',
      "the request in the file has another fingerprint: it is not that operator's",
    )
  }
}

/** Two lines of eight groups, to be read out. */
function grouped(fingerprint: string): string {
  const groups = fingerprint.split(' ')
  return `${groups.slice(0, 8).join(' ')}\n  ${groups.slice(8).join(' ')}`
}

function refuseExisting(path: string): void {
  if (existsSync(path)) throw new OperatorError('backup_target_exists', `${path} is there already`)
}

function writeNew(path: string, content: object): void {
  writeFileSync(path, `${JSON.stringify(content, undefined, 2)}\n`, { mode: 0o600, flag: 'wx', flush: true })
}

function readFile<T>(path: string, schema: z.ZodType<T>): T {
  let content: unknown
  try {
    content = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    throw new OperatorError('key_backup_damaged', `${path} cannot be read as JSON`, { cause: error })
  }
  const parsed = schema.safeParse(content)
  if (parsed.success) return parsed.data
  throw new OperatorError('key_backup_damaged', `${path} is not what it should be: ${z.prettifyError(parsed.error)}`)
}
