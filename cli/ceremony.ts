/**
 * `chancery ceremony`: keys and certificates that others will trust for years, made from a plan that several people have
 * read and approved, on machines that need no network, with a record that anybody can check.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { Command } from 'commander'
import { OperatorError } from '#alarms'
import type { CeremonyProgress, SignedStatement, StatementKey } from '#lifecycle/ceremony'
import { confirmed, printJson, wrapped } from './agent-options.ts'
import { bytesIn, planIn, statementsIn } from './ceremony-files.ts'
import { registerKey } from './ceremony-key.ts'
import { registerPlan } from './ceremony-plan.ts'
import { registerVerify } from './ceremony-verify.ts'

export function register(program: Command): void {
  const ceremony = program
    .command('ceremony')
    .summary('make roots, keys and certificates from a plan that a quorum approved')
    .addHelpText(
      'after',
      `
One file says what will be made. Operators approve its SHA-256 with keys of
their own; run refuses without the quorum. The ceremony's folder is carried from
machine to machine and holds nothing secret; its transcript is hash-chained,
signed by witnesses, and verified from the file alone. All of it is told in
docs/ceremonies.md.

Exit status: 0 done, 2 the plan is refused, 3 another command works on it, 6
refused, 7 approvals or another machine are awaited, 8 a transcript or
certificate does not hold.

Examples:
  chancery ceremony plan root.yaml --template root --domain sig.example.test
  chancery ceremony plan root.yaml
  chancery ceremony approve root.yaml --as alice --ssh-key ~/.ssh/id_ed25519
  chancery ceremony run root.yaml --at vault --approval root.*.approval
  chancery ceremony verify ceremony/transcript.jsonl
`,
    )
  registerPlan(ceremony)
  registerApprove(ceremony)
  registerRun(ceremony)
  registerShow(ceremony)
  registerWitness(ceremony)
  registerVerify(ceremony)
  registerKey(ceremony)
}

interface SigningOptions {
  readonly as: string
  readonly sshKey?: string
  readonly minisignKey?: string
  readonly agent?: string
  readonly key?: string
  readonly data: string
  readonly output?: string
  readonly confirm?: boolean
  readonly json?: boolean
}

/** With whose key, and with which. */
function signingOptions(command: Command): Command {
  return command
    .requiredOption('--as <name>', 'who signs, by the name in the plan')
    .option('--ssh-key <file>', 'private key, or the public half of one that ssh-agent or a FIDO token has')
    .option('--minisign-key <file>', 'secret key of minisign')
    .option('--agent <agent>', 'name, agent.yaml or admin socket of the agent that has the key')
    .option('--key <name>', 'its name in agent.yaml (purpose ceremonyStatement)')
    .option('--data <dir>', 'data folder, for an agent by name', 'data')
    .option('-o, --output <file>', 'file to write (default: beside it)')
    .option('--confirm', 'sign without being asked: somebody has read it')
    .option('--json', 'print JSON')
}

function keyOf({ sshKey, minisignKey, agent, key, data }: SigningOptions): StatementKey {
  const given: StatementKey[] = [
    ...(sshKey === undefined ? [] : [{ ssh: sshKey }]),
    ...(minisignKey === undefined ? [] : [{ minisign: minisignKey }]),
    ...(agent === undefined || key === undefined ? [] : [{ agent: { dataDir: data, agent }, key }]),
  ]
  const [only, ...more] = given
  if (only === undefined || more.length > 0) {
    throw new OperatorError(
      'ceremony_plan_invalid',
      'say with which key, once: --ssh-key FILE, --minisign-key FILE, or --agent AGENT --key NAME',
    )
  }
  return only
}

function registerApprove(ceremony: Command): void {
  signingOptions(ceremony.command('approve <plan>').summary('read a plan, and sign its SHA-256 with your own key'))
    .addHelpText(
      'after',
      `
Shows all that will happen, and asks at a terminal. What is signed is a text of
a few lines with the plan's name and digest, your name and the time. The file
that is written may go by mail: it approves this plan and nothing else.

Exit status: 0 approved, 2 the plan is refused, 6 it has expired, 7 not
confirmed.

Examples:
  chancery ceremony approve plan.yaml --as alice --ssh-key ~/.ssh/id_ed25519
  chancery ceremony approve plan.yaml --as bob \\
    --minisign-key ~/.minisign/minisign.key
  chancery ceremony approve plan.yaml --as carol \\
    --agent carol.yaml --key approvals
`,
    )
    .action(approve)
}

async function approve(file: string, options: SigningOptions): Promise<void> {
  const { accountOf, checkNotExpired, personNamed, signStatement } = await import('#lifecycle/ceremony')
  const read = await planIn(file)
  personNamed(read, options.as, 'approve')
  checkNotExpired(read, new Date())
  const key = keyOf(options)
  process.stderr.write(`${accountOf(read)}\n`)
  await confirmed(`Approve this as ${options.as}?`, options.confirm)
  const signed = await signStatement(read, options.as, { act: 'approve' }, { key, now: new Date() })
  const out = options.output ?? `${file.replace(/\.ya?ml$/, '')}.${options.as}.approval`
  await keepStatement(out, signed, { ...options, said: `approved by ${options.as}: plan sha256 ${read.sha256}` })
}

async function keepStatement(
  out: string,
  signed: SignedStatement,
  { said, json }: { readonly said: string; readonly json?: boolean },
): Promise<void> {
  const { formatSignedStatement } = await import('#lifecycle/ceremony')
  writeFileSync(out, formatSignedStatement(signed), { flush: true })
  if (json === true) printJson({ file: out, ...signed })
  else process.stdout.write(`${said}\nwritten: ${out}\n`)
}

interface RunCommandOptions {
  readonly approval?: readonly string[]
  readonly at?: string
  readonly dir: string
  readonly data: string
  readonly dryRun?: boolean
  readonly json?: boolean
}

function registerRun(ceremony: Command): void {
  ceremony
    .command('run <plan>')
    .summary('do what the plan has for this machine, with the approvals of the quorum')
    .option('--approval <file...>', 'approvals that are not in the transcript yet')
    .option('--at <machine>', 'which machine of the plan this is (default: its only one)')
    .option('--dir <dir>', "the ceremony's folder, which is carried", 'ceremony')
    .option('--data <dir>', 'data folder with the agents of this machine', 'data')
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Does every step that this machine can do now, and says where it goes on. Each
line of the transcript is on the disk before the next thing is done. Killed at
any point and run again it goes on, and never makes a second key for a step.
--dry-run checks approvals, tokens and names as well.

Examples:
  chancery ceremony run plan.yaml --at vault --dry-run \\
    --approval plan.*.approval
  chancery ceremony run plan.yaml --at vault --approval plan.*.approval
  chancery ceremony run plan.yaml --at server --dir /media/stick/ceremony
`,
    )
    .action(run)
}

async function run(file: string, options: RunCommandOptions): Promise<void> {
  const { readTranscript, rehearse, runCeremony, TRANSCRIPT_FILE, wordsOf } = await import('#lifecycle/ceremony')
  const read = await planIn(file)
  const machines = [...new Set(Object.values(read.plan.tokens).map(({ machine }) => machine))]
  const machine = options.at ?? (machines.length === 1 ? machines[0] : undefined)
  if (machine === undefined) {
    throw new OperatorError('ceremony_plan_invalid', `say with --at which machine this is: ${machines.join(', ')}`)
  }
  const common = {
    read,
    folder: options.dir,
    machine,
    dataDir: options.data,
    approvals: await statementsIn(options.approval ?? []),
  }
  if (options.dryRun === true) {
    const path = join(options.dir, TRANSCRIPT_FILE)
    const lines = existsSync(path) ? readTranscript(readFileSync(path, 'utf8')) : []
    const told = await rehearse(common, lines)
    tell(told, options, { machine, intro: 'Nothing was done.' })
    return
  }
  const before = progressLines(join(options.dir, TRANSCRIPT_FILE))
  const progress = await runCeremony({
    ...common,
    onStep: (step) => process.stderr.write(`  ${wordsOf(step, read.plan)}\n`),
  })
  if (progress.lines <= before + 1 && progress.state === 'elsewhere') nothingHere(progress, machine)
  tell(progress, options, { machine, intro: '' })
}

/** How many lines there were. */
function progressLines(path: string): number {
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0
}

function nothingHere({ left }: CeremonyProgress, machine: string): void {
  const [first] = left
  const where = left.find((step) => step.machine !== machine)?.machine ?? machine
  throw new OperatorError(
    'ceremony_awaiting',
    `nothing can be done on ${machine} now; next is ${first?.id ?? 'the end'}: carry the folder to ${where}`,
  )
}

function tell(
  progress: CeremonyProgress,
  { json, dir }: { readonly json?: boolean; readonly dir: string },
  { machine, intro }: { readonly machine: string; readonly intro: string },
): void {
  if (json === true) return printJson(progress)
  const { state, approvals, lines, head, left } = progress
  const said = [
    ...(intro === '' ? [] : [intro]),
    `approved by ${approvals.join(', ')}`,
    ...(lines === 0 ? [] : [`transcript: ${lines} lines, head ${head}`]),
  ]
  if (state === 'done') said.push(`done: have witnesses sign it: chancery ceremony witness ${dir}/transcript.jsonl`)
  else {
    const elsewhere = left.find((step) => step.machine !== machine)?.machine
    said.push(`left: ${left.length} steps`, ...left.map((step) => `  ${step.machine.padEnd(8)} ${step.id}`))
    if (elsewhere !== undefined && intro === '')
      said.push(`carry ${dir} to ${elsewhere}, and run it there --at ${elsewhere}`)
  }
  process.stdout.write(`${said.join('\n')}\n`)
}

function registerShow(ceremony: Command): void {
  ceremony
    .command('show <transcript>')
    .summary('what was done, line by line, and what is left')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nIt is read and checked as by verify, but may be under way.\n\nExample:\n  chancery ceremony show ceremony/transcript.jsonl\n',
    )
    .action(show)
}

async function show(file: string, { json }: { readonly json?: boolean }): Promise<void> {
  const { progressOf, verifyTranscript } = await import('#lifecycle/ceremony')
  const { state, lines } = verifyTranscript(bytesIn(file).toString('utf8'), { witnesses: [], unfinished: true })
  const progress = progressOf(state, lines)
  if (json === true) return printJson({ ...progress, transcript: lines })
  const rows = lines.map((line) => {
    const what = 'step' in line ? line.step : 'name' in line ? line.name : ''
    return `${String(line.line).padStart(3)} ${line.time.slice(0, 19)}Z ${line.machine.padEnd(8)} ${line.event} ${what}`.trimEnd()
  })
  process.stdout.write(`${rows.join('\n')}\n\n`)
  const unproven = [...state.keys.values()].filter((key) => key.unproven.length > 0)
  for (const { name, unproven: names } of unproven) {
    const origin = names.includes('LOCAL') ? 'origin unproven: ' : ''
    process.stdout.write(`${wrapped(`${name}: ${origin}the token does not show ${names.join(', ')}`).join('\n')}\n`)
  }
  tell(progress, { dir: dirname(file) }, { machine: lines.at(-1)?.machine ?? '', intro: '' })
}

function registerWitness(ceremony: Command): void {
  signingOptions(
    ceremony.command('witness <transcript>').summary('verify a transcript, and sign its head with your own key'),
  )
    .addHelpText(
      'after',
      `
For operators and whoever else the plan names as a witness. Sign on a machine
of your own, with the copy that you keep: what you sign is that this is what
you saw.

Exit status: 0 signed, 7 not confirmed, 8 the transcript does not hold.

Example:
  chancery ceremony witness transcript.jsonl --as dave \\
    --ssh-key ~/.ssh/id_ed25519
`,
    )
    .action(witness)
}

async function witness(file: string, options: SigningOptions): Promise<void> {
  const { signStatement, verifyTranscript } = await import('#lifecycle/ceremony')
  const { state, lines, head } = verifyTranscript(bytesIn(file).toString('utf8'), { witnesses: [] })
  const key = keyOf(options)
  const what = `${state.read.plan.ceremony}: ${lines.length} lines, head ${head}`
  process.stderr.write(`${what}\n`)
  await confirmed(`Sign this as ${options.as}?`, options.confirm)
  const saying = { act: 'witness', lines: lines.length, head } as const
  const signed = await signStatement(state.read, options.as, saying, { key, now: new Date() })
  const out = options.output ?? join(dirname(file), `${basename(file).replace(/\.jsonl$/, '')}.${options.as}.witness`)
  await keepStatement(out, signed, { ...options, said: `witnessed by ${options.as}` })
}
