/** `chancery trust`: what clients are told to trust, and who has to sign it. Everything is asked of the running server. */
import { readFileSync } from 'node:fs'
import { type Command, InvalidArgumentError } from 'commander'
import type { PendingSummary, Publication, Roles, TrustDiff, TrustRootStatus, Withdrawn } from '#trust-root'
import { confirmed, printJson, table } from './agent-options.ts'
import { registerCanary } from './trust-canary.ts'
import { registerCustodian } from './trust-custodian.ts'
import { registerExport } from './trust-export.ts'
import { registerImport } from './trust-import.ts'
import { registerJoin } from './trust-join.ts'
import { askTrust, pendingScreen, tellPublication, type TrustOptions, trustOptions } from './trust-options.ts'

export function register(program: Command): void {
  const trust = program
    .command('trust')
    .summary('see, publish and sign what clients trust')
    .addHelpText(
      'after',
      `
Source: items.json and roles.json in trust-root/ of the data folder. A change
that custodians must sign waits for them: payload, sign, merge.

Exit status: 0 done, 3 no server runs, 6 refused, 7 awaits signatures, 8 a
signature or payload is not what it says.

Examples:
  chancery trust diff --data ./data
  chancery trust publish --data ./data
  chancery trust pending --json
`,
    )
  registerLooks(trust)
  registerPublish(trust)
  registerCustodian(trust)
  registerCanary(trust)
  registerExport(trust)
  registerImport(trust)
  registerJoin(trust)
  registerWithdraw(trust)
  registerRoles(trust)
}

function registerLooks(trust: Command): void {
  trustOptions(trust.command('status').summary('what is published, until when, and what waits'))
    .addHelpText('after', '\nExample:\n  chancery trust status --data ./data\n')
    .action(status)
  trustOptions(trust.command('diff').summary('what a publication would change, and who notices'))
    .addHelpText(
      'after',
      `
Compares what clients see with items.json and roles.json, or with what waits
for signatures. Changes nothing.

Exit status: 0 told, changes or none, 6 the linter would refuse it.

Examples:
  chancery trust diff --data ./data
  chancery trust diff --json
`,
    )
    .action(diff)
  trustOptions(trust.command('pending').summary('which publication waits for whose signatures'))
    .addHelpText(
      'after',
      '\nExit status: 0 nothing waits, 7 a publication awaits signatures.\n\nExample:\n  chancery trust pending --data ./data\n',
    )
    .action(pending)
}

interface StatusAnswer extends TrustRootStatus {
  readonly pending?: PendingSummary
  /** Whether items.json or roles.json differ from what is published. */
  readonly unpublished: boolean
}

async function status(options: TrustOptions): Promise<void> {
  const answer = (await askTrust(options, 'trust-status')) as StatusAnswer // our own server answers
  if (options.json === true) return printJson(answer)
  const rows = answer.roles.map(({ role, version, expires, secondsLeft, state, threshold, keys }) => [
    role,
    String(version),
    new Date(expires).toISOString().slice(0, 16).replace('T', ' '),
    left(secondsLeft),
    `${threshold} of ${keys}`,
    state,
  ])
  process.stdout.write(table(['ROLE', 'VERSION', 'ENDS (UTC)', 'LEFT', 'SIGNED BY', 'STATE'], rows))
  if (answer.pending !== undefined) process.stdout.write(`\n${pendingScreen(answer.pending, options.data)}`)
  else if (answer.unpublished) {
    process.stdout.write('\nitems.json or roles.json have changes that are not published: chancery trust diff\n')
  }
}

function left(seconds: number): string {
  if (seconds <= 0) return 'ENDED'
  return seconds >= 2 * 86_400 ? `${Math.floor(seconds / 86_400)} days` : `${Math.floor(seconds / 3600)} hours`
}

async function diff(options: TrustOptions): Promise<void> {
  const answer = (await askTrust(options, 'trust-diff')) as TrustDiff // our own server answers
  const { EXIT } = await import('#alarms')
  if (answer.refused.length > 0) process.exitCode = EXIT.policy
  if (options.json === true) return printJson(answer)
  const { formatSections } = await import('#trust-root')
  if (answer.pending !== undefined) process.stdout.write(`publication ${answer.pending.id} awaits signatures\n\n`)
  process.stdout.write(formatSections(answer.sections))
  if (answer.refused.length === 0) return
  process.stdout.write(`\n${formatSections([{ title: 'It would be refused', lines: answer.refused }])}`)
}

async function pending(options: TrustOptions): Promise<void> {
  const answer = (await askTrust(options, 'trust-pending')) as { readonly pending?: PendingSummary } // our own
  if (answer.pending !== undefined) {
    return tellPublication({ state: 'awaiting-signatures', pending: answer.pending }, options)
  }
  if (options.json === true) printJson(answer)
  else process.stdout.write('nothing awaits signatures\n')
}

function registerPublish(trust: Command): void {
  trustOptions(trust.command('publish').summary('publish items.json and roles.json as they are now'))
    .option('--renew', 'sign targets anew though nothing in them changes')
    .option('--above <version>', 'after a restore: targets above this version')
    .addHelpText(
      'after',
      `
Rendered, linted, tried on signatures of before, then shown to all clients in
one step. Where custodians must sign, it waits for them: run it again at any
time. Root and targets that near their end are renewed by the same command.
After a restore custodians' agents may remember a higher version of targets
than the folder, and refuse; they say which, and --above goes beyond it.

Exit status: 0 published, 6 refused by the linter, 7 awaits signatures.

Example:
  chancery trust publish --data ./data
`,
    )
    .action(async (options: TrustOptions & { renew?: boolean; above?: string }) => {
      const above = Number(options.above ?? 0)
      if (!Number.isSafeInteger(above) || above < 0) throw new InvalidArgumentError('--above is a version')
      const argument = { renew: options.renew === true, above }
      tellPublication((await askTrust(options, 'trust-publish', argument)) as Publication, options) // our own
    })
}

function registerWithdraw(trust: Command): void {
  trustOptions(trust.command('withdraw').summary('give up the publication that waits for signatures'))
    .option('--discard-root', 'forget a root that was handed out, and that nobody signed')
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--confirm', 'do it without being asked')
    .addHelpText(
      'after',
      `
items.json and roles.json go back to what clients see; what they were is kept
as *.withdrawn.json. Versions are not used again: a root that was handed out is
kept, and the next publication begins with exactly that one. If nobody signed
it (ask every custodian), --discard-root forgets it.

Exit status: 0 withdrawn, 2 nothing waits, 3 no server runs, 6 refused, 7 not
confirmed.

Examples:
  chancery trust withdraw --dry-run --data ./data
  chancery trust withdraw --confirm --data ./data
`,
    )
    .action(withdraw)
}

async function withdraw(
  options: TrustOptions & { discardRoot?: boolean; dryRun?: boolean; confirm?: boolean },
): Promise<void> {
  const answer = (await askTrust(options, 'trust-pending')) as { readonly pending?: PendingSummary } // our own
  const signed = answer.pending?.roles.reduce((sum, { have }) => sum + have, 0) ?? 0
  const plan = answer.pending && `Publication ${answer.pending.id} and its ${signed} signatures are given up.`
  if (options.dryRun === true) {
    if (options.json === true) printJson({ done: false, ...answer })
    else process.stdout.write(`${plan ?? 'No publication waits.'}\nNothing was done.\n`)
    return
  }
  if (plan !== undefined) await confirmed(plan, options.confirm)
  const discardRoots = options.discardRoot === true
  const { id, keptRoots } = (await askTrust(options, 'trust-withdraw', { discardRoots })) as Withdrawn // our own
  if (options.json === true) return printJson({ id, keptRoots })
  process.stdout.write(`publication ${id} is withdrawn\n`)
  if (keptRoots.length > 0)
    process.stdout.write(`root ${keptRoots.join(', ')} may be signed: the next publication begins with it\n`)
}

function registerRoles(trust: Command): void {
  trustOptions(trust.command('roles').summary('who signs root and targets; set it with --set'))
    .option('--set <file>', 'a roles.json: custodians, thresholds, online keys')
    .addHelpText(
      'after',
      `
With --set the file takes the place of roles.json and a new root is made, which
the custodians of before and those of the file must sign. An entry for each
custodian is printed by: chancery trust custodian.

Exit status: 0 told or published, 2 the file has a fault, 7 awaits signatures.

Examples:
  chancery trust roles --data ./data
  chancery trust roles --json >roles.json
  chancery trust roles --set roles.json
`,
    )
    .action(roles)
}

async function roles(options: TrustOptions & { set?: string }): Promise<void> {
  if (options.set !== undefined) {
    const wanted: unknown = JSON.parse(readFileSync(options.set, 'utf8'))
    return tellPublication((await askTrust(options, 'trust-roles', { roles: wanted })) as Publication, options) // our own
  }
  const { roles: present } = (await askTrust(options, 'trust-roles')) as { readonly roles?: Roles } // our own
  if (present === undefined) {
    if (options.json === true) return printJson({})
    process.stdout.write('one key signs root and targets; custodians are set with: chancery trust roles --set\n')
    return
  }
  if (options.json === true) return printJson({ schemaVersion: 1, ...present })
  const { keyIdOf } = await import('#trust-root')
  const { root, targets, online } = present
  const mark = (names: readonly string[], name: string) => (names.includes(name) ? 'yes' : '-')
  const rows = present.custodians.map(({ name, holder, key }) => [
    name,
    mark(root.custodians, name),
    mark(targets.custodians, name),
    keyIdOf(key).slice(0, 16),
    holder,
  ])
  process.stdout.write(table(['CUSTODIAN', 'ROOT', 'TARGETS', 'KEY', 'HOLDER'], rows))
  process.stdout.write(
    `\nroot: ${root.threshold} of ${root.custodians.length}; targets: ${targets.threshold} of ${targets.custodians.length}; ` +
      `online: ${online?.join(', ') ?? 'as configured'}\n`,
  )
}
