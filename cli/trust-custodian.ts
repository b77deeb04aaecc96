/** `chancery trust payload`, `sign`, `merge`, `custodian`: signatures of people with keys of their own, on their machines. */
import { readFileSync, writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import { OperatorError } from '#alarms'
import type { CheckedPayload, PayloadFile, Publication, SignaturesFile } from '#trust-root'
import { confirmed, printJson } from './agent-options.ts'
import { askTrust, tellPublication, type TrustOptions, trustOptions } from './trust-options.ts'

export function registerCustodian(trust: Command): void {
  trustOptions(trust.command('payload').summary('write what custodians have to sign'))
    .option('-o, --output <file>', 'file to write (default: standard output)')
    .addHelpText(
      'after',
      `
One file for every role of the publication. It holds nothing secret and may go
by any road: who signs checks it against itself, and sees the difference.

Example:
  chancery trust payload --data ./data -o payload.json
`,
    )
    .action(payload)
  registerSign(trust)
  trustOptions(trust.command('merge <files...>').summary('bring in signatures; the last one publishes'))
    .addHelpText(
      'after',
      `
Each signature is verified before any is kept; one fault refuses all files.

Exit status: 0 published, 6 known already or ended, 7 more signatures are
awaited, 8 a signature is not of what waits.

Example:
  chancery trust merge ada.json bert.json --data ./data
`,
    )
    .action(merge)
  agentOptions(trust.command('custodian').summary("print one's own entry for roles.json"))
    .option('--holder <words>', 'who holds the token, and where', '')
    .addHelpText(
      'after',
      `
Example, on the custodian's machine:
  chancery trust custodian --agent agent.yaml --key ada --holder 'Ada, Bern'
`,
    )
    .action(custodian)
}

interface SignOptions {
  readonly data: string
  readonly agent: string
  readonly key: string
  readonly output?: string
  readonly dryRun?: boolean
  readonly confirm?: boolean
  readonly json?: boolean
}

function agentOptions(command: Command): Command {
  return command
    .option('--data <dir>', 'data folder, where --agent is a name', 'data')
    .requiredOption('--agent <agent>', "name or agent.yaml of the agent of one's own token")
    .requiredOption('--key <name>', 'name of the key in that file')
}

function registerSign(trust: Command): void {
  agentOptions(trust.command('sign <payload>').summary("check a payload and sign it with a custodian's key"))
    .option('-o, --output <file>', 'file to write (default: standard output)')
    .option('--confirm', 'sign without being asked: somebody has read it')
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Needs no server and no network. What would be signed is checked to be what the
file says, and shown; nothing is signed before somebody agrees. The agent keeps
the highest version that it signed, and refuses a lower or another one.

Exit status: 0 signed, 5 the HSM is away, 6 the agent refuses, 7 not confirmed,
8 the payload is not what it says.

Examples:
  chancery trust sign payload.json --agent agent.yaml --key ada -o ada.json
  chancery trust sign payload.json --agent agent.yaml --key ada --dry-run
`,
    )
    .action(sign)
}

async function payload(options: TrustOptions & { output?: string }): Promise<void> {
  const file = (await askTrust(options, 'trust-payload')) as PayloadFile // our own server answers
  if (options.output === undefined) return printJson(file)
  writeFileSync(options.output, `${JSON.stringify(file, undefined, 1)}\n`)
  const told = {
    file: options.output,
    publication: file.publication,
    parts: file.parts.map(({ role, version, sha256 }) => ({ role, version, sha256 })),
  }
  if (options.json === true) return printJson(told)
  process.stdout.write(`publication ${file.publication}, in ${options.output}\n`)
  for (const { role, version, sha256 } of file.parts)
    process.stdout.write(`  ${role} ${version}\n    SHA-256 ${sha256}\n`)
}

async function sign(path: string, options: SignOptions): Promise<void> {
  const { checkPayload, formatSections, signPayload } = await import('#trust-root')
  const checked = checkPayload(jsonIn(path, 'payload_refused'), new Date())
  if (options.dryRun === true && options.json === true) return printJson({ done: false, ...toldOf(checked) })
  process.stderr.write(`${checked.operator}, publication ${checked.publication}\n\n${formatSections(checked.diff)}\n`)
  for (const { role, version, sha256 } of toldOf(checked).parts)
    process.stderr.write(`${role} ${version}\n  SHA-256 ${sha256}\n`)
  if (checked.publishedRoot !== undefined) {
    const { version, sha256 } = checked.publishedRoot
    process.stderr.write(`on top of root ${version}\n  SHA-256 ${sha256}\n`)
  }
  if (options.dryRun === true) return void process.stderr.write('Nothing was signed.\n')
  await confirmed(`Sign this with key ${options.key}?`, options.confirm)
  const signed = await withAgent(options, async (agent) => await signPayload(checked, agent, options.key))
  write(signed, options.output)
  if (options.json === true && options.output !== undefined) printJson({ file: options.output, ...toldOf(checked) })
  for (const { role, version } of signed.signatures) process.stderr.write(`signed ${role} ${version}\n`)
}

function toldOf({ publication, operator, parts, diff, publishedRoot }: CheckedPayload) {
  return {
    publication,
    operator,
    publishedRoot,
    parts: parts.map(({ metadata: { signed }, sha256 }) => ({
      role: signed._type,
      version: signed.version,
      expires: signed.expires,
      sha256,
    })),
    diff,
  }
}

async function merge(files: readonly string[], options: TrustOptions): Promise<void> {
  const signatures = files.map((file) => jsonIn(file, 'signature_refused'))
  tellPublication((await askTrust(options, 'trust-merge', { signatures })) as Publication, options) // our own
}

async function custodian(options: SignOptions & { holder: string }): Promise<void> {
  const { tufKeyOf } = await import('#trust-root')
  const { kind, spkiDer } = await withAgent(options, async (agent) => await agent.key(options.key))
  if (kind !== 'P-256' && kind !== 'ed25519') {
    throw new OperatorError('invalid_roles', `key ${options.key} is ${kind}; TUF keys are P-256 or Ed25519`)
  }
  printJson({ name: options.key, holder: options.holder, key: tufKeyOf({ kind, spkiDer }) })
}

async function withAgent<T>(
  { data, agent }: SignOptions,
  use: (agent: Awaited<ReturnType<typeof import('#hsm').spawnAgent>>['agent']) => Promise<T>,
): Promise<T> {
  const { spawnAgent } = await import('#hsm')
  const { operatorError, readAgentFile } = await import('#lifecycle')
  try {
    const spawned = await spawnAgent({ configPath: readAgentFile({ dataDir: data, agent }).path })
    try {
      return await use(spawned.agent)
    } finally {
      await spawned.close()
    }
  } catch (error) {
    throw operatorError(error)
  }
}

function jsonIn(path: string, code: 'payload_refused' | 'signature_refused'): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch (cause) {
    throw new OperatorError(code, `${path} cannot be read as JSON`, { cause })
  }
}

function write(signed: SignaturesFile, path: string | undefined): void {
  if (path === undefined) return printJson(signed)
  writeFileSync(path, `${JSON.stringify(signed, undefined, 1)}\n`)
  process.stderr.write(`${path}\n`)
}
