/** `chancery log`: what operators do to single logs. */
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { OperatorError } from '#alarms'
import type { Succeeded } from '#lifecycle'
import type { FsckAnswer, LoadedConfig, LogLine } from '#server'
import { confirmedAs, printJson, table, wrapped } from './agent-options.ts'
import { showSteps } from './progress.ts'

interface LogOptions {
  readonly data: string
  readonly config?: string
  readonly json?: boolean
}

export function register(program: Command): void {
  const log = program
    .command('log')
    .summary('look at logs, check them, freeze them, start their successors')
    .addHelpText(
      'after',
      `
NAME is that of a log in the configuration, as chancery log ls lists it. What
cannot be undone asks for its origin.

Exit status: 0 done, 2 no such log, 3 no server runs, 6 refused, 7 not
confirmed, 8 a log is damaged, or evidence contradicts it.

Examples:
  chancery log ls --data ./data
  chancery log fsck --all --data ./data
`,
    )
  common(log.command('ls').summary('list the logs of a running server'))
    .addHelpText('after', '\nExample:\n  chancery log ls --data ./data\n')
    .action(list)
  common(log.command('show <name>').summary('show one log: head, guard, fault and what to do'))
    .addHelpText('after', '\nExample:\n  chancery log show rekor-v1\n')
    .action(show)
  common(log.command('fsck [names...]').summary('check whole logs against their heads, running or stopped'))
    .option('--all', 'every log of the configuration')
    .option('--signatures <which>', "sample or all of the entries' own signatures", 'sample')
    .option('--checkpoint <file>', 'a checkpoint that somebody kept; may be given again', collect, [])
    .addHelpText(
      'after',
      `
Reads every entry and hashes it to the signed head; checks the head's and the
entries' signatures, attachments, and every index both ways. A running server
goes on serving. A check that was cut off goes on where it was.

Exit status: 0 sound, 3 the log is open elsewhere, 8 damage.

Examples:
  chancery log fsck --all
  chancery log fsck rekor-v1 --signatures all --json
  chancery log fsck ct --checkpoint sth-of-a-monitor.json
`,
    )
    .action(fsck)
  common(log.command('freeze <name>').summary('end a log: it stays readable and takes no entry any more'))
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--confirm <origin>', 'its origin: do it without being asked')
    .addHelpText(
      'after',
      `
For ever: the agent signs one last head, which for Rekor v2 says so, and none
after it. To go on with a new shard: chancery log succeed.

Exit status: 0 frozen, 2 no such log, 3 no server runs, 7 not confirmed.

Examples:
  chancery log freeze rekor-v2 --dry-run
  chancery log freeze rekor-v2 --confirm rekor-v2.sig.example.test
`,
    )
    .action(freeze)
  common(log.command('adopt <name>').summary('give the agent back the head of a log that it forgot'))
    .option('--agent <agent>', 'name, agent.yaml or admin socket of the agent', 'online')
    .option('--checkpoint <file>', 'a checkpoint that somebody kept; may be given again', collect, [])
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--confirm <origin>', 'its origin: do it without being asked')
    .addHelpText(
      'after',
      `
After the loss of an agent's state. The whole log is checked first, and each
checkpoint that is given: of clients, monitors, witnesses, the newest you can
find. What was signed and is not in this log makes it a second history; then
nothing is adopted, whatever is confirmed. A guard is never lowered.

Exit status: 0 done, 2 no such log, 3 no server runs, 5 the agent is away, 7 not
confirmed, 8 damage or evidence against it.

Examples:
  chancery log adopt rekor-v1 --dry-run --checkpoint newest.txt
  chancery log adopt rekor-v1 --checkpoint newest.txt \\
    --confirm 'rekor-v1.sig.example.test - 4711'
`,
    )
    .action(adopt)
  registerSucceed(log)
}

interface SucceedCommandOptions extends LogOptions {
  readonly agent: string
  readonly listen?: string
  readonly url?: string
  readonly publishOnly?: boolean
  readonly dryRun?: boolean
  readonly confirm?: string
}

function registerSucceed(log: Command): void {
  common(log.command('succeed <name>').summary('freeze a log and start its successor'))
    .option('--agent <agent>', 'name, agent.yaml or admin socket of the agent', 'online')
    .option('--listen <host:port>', 'where the new log listens (Rekor v2 and CT)')
    .option('--url <url>', 'what clients dial for it (Rekor v2 and CT)')
    .option('--publish-only', 'stop once its key is published; call again later to switch')
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--confirm <origin>', 'its origin: do it without being asked')
    .addHelpText(
      'after',
      `
A new key, a new origin, a new database; the former log stays readable under
its own key. Rekor v1 goes on at the same address and counts its entries on.
Clients verify with the new key once they have fetched the trust root: with
--publish-only first, and the switch a few days later, no client is surprised.
Interrupted, the same command goes on. The server goes over while it serves;
uploads to a former Rekor v2 address are passed on for a week.

Exit status: 0 done, 2 no such log, 3 no server runs, 6 refused, 7 not
confirmed, or custodians must sign.

Examples:
  chancery log succeed rekor-v1 --publish-only
  chancery log succeed rekor-v1 --confirm 'rekor-v1.sig.example.test - 4711'
`,
    )
    .action(succeedLog)
}

async function succeedLog(name: string, options: SucceedCommandOptions): Promise<void> {
  const loaded = await loadedOf(options)
  const { nextName, succeed, succeedingLog } = await import('#lifecycle')
  const log = loaded.config.logs.find((found) => found.name === name)
  if (log === undefined) throw new OperatorError('no_such_log', `there is no log ${name}; see: chancery log ls`)
  const heir = loaded.config.logs.find(({ succeeds }) => succeeds === name)
  if (heir !== undefined && succeedingLog(loaded.dataDir) !== name) {
    throw new OperatorError('log_frozen', `log ${name} has a successor already: ${heir.name}`)
  }
  const plan = `log ${name} (${log.origin}) ends, and ${heir?.name ?? nextName(loaded.dataDir, name)} takes its place`
  if (options.dryRun === true) {
    if (options.json === true) printJson({ done: false, name, origin: log.origin, plan })
    else process.stdout.write(`${plan}. Nothing was changed\n`)
    return
  }
  if (options.publishOnly !== true) await confirmedAs(log.origin, `${plan}.`, options.confirm)
  const { installationOf } = await import('./rotation.ts')
  const { listen, url } = options
  const done = await succeed({
    installation: await installationOf(options),
    log,
    wishes: { ...(listen === undefined ? {} : { listen }), ...(url === undefined ? {} : { url }) },
    publishOnly: options.publishOnly ?? false,
    onStep: (step, phase) => {
      if (options.json !== true && phase === 'begun') process.stderr.write(`  ${step}\n`)
    },
  })
  if (options.json === true) printJson(done)
  else process.stdout.write(await succeededScreen(name, done, options.data))
  if (done.pause?.state === 'awaiting-signatures') {
    const words = `the trust root waits for its custodians; then: chancery log succeed ${name}`
    throw new OperatorError('awaiting_signatures', words)
  }
}

async function succeededScreen(
  name: string,
  { successor, origin, url, former, pause }: Succeeded,
  data: string,
): Promise<string> {
  const { pendingScreen } = await import('./trust-options.ts')
  const lines =
    former === undefined
      ? [
          `the key of ${successor} (${origin}) is ${pause === undefined ? 'published' : 'made'}; switch with: chancery log succeed ${name}`,
        ]
      : [
          `log ${name} has ended at ${former.size} entries${former.frozen ? '' : ' (without a last head: it was read-only before)'}`,
          `log ${successor} takes entries: ${origin}, ${url}`,
        ]
  if (pause?.state === 'awaiting-signatures') lines.push(pendingScreen(pause.pending, data).trimEnd())
  return `${lines.join('\n')}\n`
}

function common(command: Command): Command {
  return command
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option('--json', 'print JSON')
}

function collect(file: string, before: readonly string[]): string[] {
  return [...before, file]
}

async function loadedOf(options: LogOptions): Promise<LoadedConfig> {
  const { loadConfig } = await import('#server')
  return loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
}

async function ask(
  loaded: LoadedConfig,
  verb: string,
  argument: unknown,
  onStep?: (step: never) => void,
): Promise<unknown> {
  const { askAdmin } = await import('#server')
  return await askAdmin(loaded.resolve(loaded.config.admin.socket), verb, {
    argument,
    timeoutMs: SILENCE_MS,
    ...(onStep === undefined ? {} : { onProgress: (step: unknown) => onStep(step as never) }), // our own server tells it
  })
}

/** Each chunk of a check is a step; a last head waits for the HSM. */
const SILENCE_MS = 60_000

async function list(options: LogOptions): Promise<void> {
  const lines = (await ask(await loadedOf(options), 'logs', {})) as LogLine[] // our own server answers
  if (options.json === true) return printJson(lines)
  const rows = lines.map(({ name, kind, state, size, guardedSize, sealedAt }) => [
    name,
    kind,
    state,
    String(size),
    guardedSize === undefined ? '?' : String(guardedSize),
    `${sealedAt.slice(0, 19)}Z`,
  ])
  process.stdout.write(table(['LOG', 'KIND', 'STATE', 'ENTRIES', 'GUARD', 'SEALED'], rows))
  for (const { name, code, fault } of lines) if (fault !== undefined) tellFault(name, code, fault)
}

function tellFault(name: string, code: string | undefined, fault: string): void {
  process.stdout.write(`\n${name}: ${code ?? ''}\n${wrapped(fault).join('\n')}\n`)
  if (code !== undefined) process.stdout.write(`  More: docs/runbook.md#${code}\n`)
}

async function show(name: string, options: LogOptions): Promise<void> {
  const lines = (await ask(await loadedOf(options), 'logs', {})) as LogLine[] // our own server answers
  const line = lines.find((found) => found.name === name)
  if (line === undefined) throw new OperatorError('no_such_log', `there is no log ${name}; see: chancery log ls`)
  if (options.json === true) return printJson(line)
  const { checkpoint, fault, code, ...facts } = line
  for (const [fact, value] of Object.entries(facts)) process.stdout.write(`${fact.padEnd(12)} ${value}\n`)
  if (fault !== undefined) tellFault(name, code, fault)
  if (checkpoint !== '') process.stdout.write(`\n${checkpoint}`)
}

async function fsck(
  names: readonly string[],
  options: LogOptions & { all?: boolean; signatures: string; checkpoint: readonly string[] },
): Promise<void> {
  const loaded = await loadedOf(options)
  const { signatures } = options
  if (signatures !== 'sample' && signatures !== 'all') throw usage('--signatures is sample or all')
  const chosen = options.all === true ? loaded.config.logs.map(({ name }) => name) : names
  if (chosen.length === 0) throw usage('name a log, or all of them with --all')
  const checkpoints = options.checkpoint.map((file) => readFileSync(file, 'utf8'))
  const reports: (FsckAnswer & { seconds: number })[] = []
  for (const name of chosen) {
    const startedMs = performance.now()
    const report = await checkOne(loaded, { name, signatures, checkpoints }, options.json === true)
    const seconds = (performance.now() - startedMs) / 1000
    reports.push({ ...report, seconds })
    if (options.json !== true) process.stdout.write(reportScreen(report, seconds))
  }
  if (options.json === true) printJson(reports)
  const { damageOf } = await import('#server')
  const damages = reports.map(damageOf).filter((found) => found !== undefined)
  if (damages.length > 0) throw new OperatorError('log_damaged', damages.join('; '))
}

/** At the running server, or where none runs in this process. */
async function checkOne(
  loaded: LoadedConfig,
  what: { name: string; signatures: 'sample' | 'all'; checkpoints: readonly string[] },
  asJson: boolean,
): Promise<FsckAnswer> {
  const { AdminError, fsckStopped } = await import('#server')
  const shown = showSteps()
  let toldMs = 0
  const onStep = (step: { what: string; done: number; of: number }): void => {
    shown.show({ ...step, what: `${what.name}: ${step.what}` })
    if (!asJson || performance.now() - toldMs < 1000) return
    toldMs = performance.now()
    process.stderr.write(`${JSON.stringify({ log: what.name, ...step })}\n`)
  }
  try {
    return (await ask(loaded, 'log-fsck', what, onStep)) as FsckAnswer // our own server answers
  } catch (error) {
    if (!(error instanceof AdminError) || error.code !== 'not_running') throw error
    return await fsckStopped(loaded, what, { onStep })
  } finally {
    shown.end()
  }
}

function reportScreen(report: FsckAnswer, seconds: number): string {
  const { name, size, rootHashHex, signaturesChecked, keyRowsChecked, damaged, findings } = report
  const lines = [
    `${name}: ${damaged === 0 ? 'sound' : `${damaged} FAULTS`}, ${size} entries in ${seconds.toFixed(1)} s`,
    `  root ${rootHashHex}`,
    `  ${signaturesChecked} entry signatures and ${keyRowsChecked} index rows checked`,
    ...findings.map(({ kind, message }) => `  ${kind}: ${message}`),
    ...(damaged > findings.length ? [`  and ${damaged - findings.length} more`] : []),
  ]
  return `${lines.join('\n')}\n`
}

async function freeze(name: string, options: LogOptions & { dryRun?: boolean; confirm?: string }): Promise<void> {
  const loaded = await loadedOf(options)
  const log = loaded.config.logs.find((found) => found.name === name)
  if (log === undefined) throw new OperatorError('no_such_log', `there is no log ${name}; see: chancery log ls`)
  const plan = `log ${name} (${log.origin}) takes no entry any more, for ever.`
  if (options.dryRun === true) {
    if (options.json === true) printJson({ done: false, name, origin: log.origin })
    else process.stdout.write(`${plan} Nothing was changed\n`)
    return
  }
  await confirmedAs(log.origin, plan, options.confirm)
  const argument = { name, confirm: log.origin }
  const line = (await ask(loaded, 'log-freeze', argument)) as LogLine // our own server answers
  if (options.json === true) printJson(line)
  else process.stdout.write(`log ${name} is frozen at ${line.size} entries, since ${line.frozenAt}\n`)
}

async function adopt(
  name: string,
  options: LogOptions & { agent: string; checkpoint: readonly string[]; dryRun?: boolean; confirm?: string },
): Promise<void> {
  const loaded = await loadedOf(options)
  const { adoptionOf } = await import('#server')
  const shown = showSteps()
  const checkpoints = options.checkpoint.map((file) => readFileSync(file, 'utf8'))
  const onStep = (step: { what: string; done: number; of: number }): void => shown.show(step)
  // Our own server answers.
  const plan = (await ask(loaded, 'log-adoption', { name, checkpoints }, onStep).finally(() =>
    shown.end(),
  )) as Parameters<typeof adoptionOf>[0]
  const { origin, size, guardedSize } = plan
  const what = `the agent remembers ${guardedSize} entries of ${origin}; the log holds ${size}, all sound, and ${checkpoints.length} checkpoint(s) agree`
  if (options.dryRun === true) {
    if (options.json === true) printJson(plan)
    else process.stdout.write(`${what}. Nothing was changed\n`)
    return
  }
  await confirmedAs(origin, `${what}.`, options.confirm)
  const { withAdminAgent } = await import('#lifecycle')
  await withAdminAgent({ dataDir: options.data, agent: options.agent }, (admin) => admin.adoptHead(adoptionOf(plan)))
  const line = (await ask(loaded, 'log-resume', { name })) as LogLine // our own server answers
  if (options.json === true) printJson(line)
  else process.stdout.write(`the agent has adopted ${size} entries of ${origin}; log ${name} is ${line.state}\n`)
}

/** Exits with the status of a command line that was not understood. */
function usage(message: string): OperatorError {
  return new OperatorError('no_such_log', message)
}
