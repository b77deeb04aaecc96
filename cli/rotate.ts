/** `chancery rotate`: another key for one part of the installation, with nothing that clients notice. */
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import { type Code, OperatorError } from '#alarms'
import type { Pause, Rotated, RotationKind, StandbyKind, StepPhase } from '#lifecycle'
import { printJson } from './agent-options.ts'
import { asJson, historyScreen, placesOf, printRotation, rotationScreen } from './rotate-screen.ts'
import { type InstallationOptions, installationOf } from './rotation.ts'

/** What each kind is, for its line in the help. */
const KINDS: Readonly<Record<RotationKind, string>> = {
  'issuing-ca': 'the key that signs certificates, below the same root',
  'root-ca': 'a new root, and an issuing CA below it',
  'ct-log': 'the next shard of the certificate transparency log',
  'rekor-v1': 'the next shard of the Rekor v1 log, at the same address',
  'rekor-v2': 'the next Rekor v2 log, with a name of its own',
  tsa: 'the key that signs timestamps',
  'tuf-online': 'the key that signs TUF snapshot and timestamp',
  'tuf-root': 'the key that signs TUF root and targets',
  standby: 'make what is missing of the keys that stand by for an emergency',
}
/** Kinds of which one stands by. */
const EMERGENCIES: readonly RotationKind[] = [
  'issuing-ca',
  'ct-log',
  'rekor-v1',
  'rekor-v2',
  'tsa',
] satisfies readonly StandbyKind[]
const LOGS: readonly RotationKind[] = ['ct-log', 'rekor-v2']

/** Said where nobody sits at a terminal. */
const ACCEPTED = 'i-accept-that-cached-clients-may-refuse'

interface RotateOptions extends InstallationOptions {
  readonly json?: boolean
  readonly dryRun?: boolean
  readonly wait?: boolean
  readonly shorten?: string | true
  readonly destroyOldKey?: boolean
  readonly emergency?: boolean
  readonly confirm?: boolean
  readonly listen?: string
  readonly url?: string
  readonly custodian?: string
  readonly publicKey?: string
}

export function register(program: Command): void {
  const rotate = program.command('rotate').summary('change a key, step by step, with nothing that clients notice')
  rotate.addHelpText(
    'after',
    `
The new key is made, certified and published; clients get the time to notice;
then it signs, an old and a new signature are verified, and the window of the
former key ends. Each step is in a journal: whatever is interrupted goes on with
resume, and is undone with abort as long as the new key does not sign. One at a
time. Where custodians must sign, the command ends with status 7, says whose
signature is missing, and goes on when it is merged. Where agent and server are
different users run it as root, with the agent's agent.yaml in --agent.

Exit status: 0 done, 3 another one is under way, 6 refused, 7 waits for clients'
caches, a certificate or signatures, 8 a signature does not verify.

Examples:
  chancery rotate issuing-ca --dry-run
  chancery rotate issuing-ca
  chancery rotate status
  chancery rotate resume --wait
`,
  )
  for (const [kind, what] of Object.entries(KINDS) as [RotationKind, string][]) registerKind(rotate, kind, what) // its own keys
  common(rotate.command('status').summary('how far it came, what it waits for, what to type next; the history'))
    .addHelpText('after', '\nExample:\n  chancery rotate status --data ./data\n')
    .action(status)
  going(common(rotate.command('resume').summary('go on with the rotation that is under way')))
    .option('--certificate <file>', 'the certificate that was asked for, PEM')
    .addHelpText(
      'after',
      '\nExamples:\n  chancery rotate resume --wait\n  chancery rotate resume --certificate issuing-ca-2.pem\n',
    )
    .action(resume)
  common(rotate.command('abort').summary('undo the rotation that is under way, before its key signs'))
    .option('--keep-key', 'leave the new key on its token, in no configuration')
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--confirm', 'do it without being asked')
    .addHelpText(
      'after',
      `
What was published is revoked, configuration is as it was, and the new key,
which has signed nothing, is destroyed.

Exit status: 0 undone, 2 none is under way, 6 the new key signs already, 7 not
confirmed.

Examples:
  chancery rotate abort --dry-run
  chancery rotate abort --confirm
`,
    )
    .action(abort)
}

function registerKind(rotate: Command, kind: RotationKind, what: string): void {
  const command = going(common(rotate.command(kind).summary(what)))
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--destroy-old-key', 'destroy the former key at the end (default: it stays on its token)')
  if (LOGS.includes(kind)) {
    command
      .option('--listen <host:port>', 'where the new log listens')
      .option('--url <url>', 'what clients dial for it')
  }
  if (isEmergency(kind)) {
    command
      .option('--emergency', 'the key is lost or stolen: what stands by signs at once, nothing is published')
      .option('--confirm', 'with --emergency: do it without being asked')
  }
  if (kind === 'tuf-root') {
    command
      .option('--custodian <name>', 'whose key goes, where several have one')
      .option('--public-key <file>', 'public key, PEM, made on another machine; or what trust custodian prints')
  }
  command.addHelpText('after', kindHelp(kind)).action(async (options: RotateOptions) => {
    if (options.emergency !== true || !isEmergency(kind)) return await begin(kind, options)
    const { emergency } = await import('./rotate-emergency.ts')
    return await emergency(kind, options)
  })
}

function kindHelp(kind: RotationKind): string {
  const emergency = isEmergency(kind)
  return `
How it goes: chancery rotate --help. What came of it: chancery rotate status.

Exit status: 0 done, 3 another one is under way, 6 refused, 7 waits for clients'
caches, ${emergency ? 'a certificate, signatures or --confirm' : 'a certificate or signatures'}, 8 a signature does not verify.

Examples:
  chancery rotate ${kind} --dry-run
  chancery rotate ${kind} --wait
${emergency ? `  chancery rotate ${kind} --emergency --dry-run\n` : ''}`
}

function isEmergency(kind: RotationKind): kind is StandbyKind {
  return EMERGENCIES.includes(kind)
}

function common(command: Command): Command {
  return command
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option('--agent <agent>', 'name, agent.yaml or admin socket of the agent of the services', 'online')
    .option('--json', 'print JSON')
}

function going(command: Command): Command {
  return command
    .option('--wait', "stay until clients' caches, or signatures, are there")
    .option('--shorten [words]', `do not wait for clients' caches; in scripts: --shorten=${ACCEPTED}`)
}

async function begin(kind: RotationKind, options: RotateOptions): Promise<void> {
  const { planRotation, readRotations, rotate } = await import('#lifecycle')
  const installation = await installationOf(options)
  const { destroyOldKey = false, listen, url, custodian } = options
  const publicKey = options.publicKey === undefined ? undefined : readFileSync(options.publicKey, 'utf8')
  const wishes = { destroyOldKey, ...given({ listen, url, custodian, publicKey }) }
  if (options.dryRun === true) {
    const facts = await planRotation(kind, { installation, ...wishes })
    const { current } = readRotations(installation.dataDir)
    if (options.json === true) return printJson({ done: false, kind, facts })
    process.stdout.write(await dryRunScreen(kind, facts, current?.kind))
    return
  }
  const shorten = await mayShorten(options)
  const resuming = { shorten }
  await shown(options, await rotate(kind, { installation, wishes, resuming, onStep: teller(options) }), resuming)
}

/** Without what was not said. */
function given<T extends object>(words: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(words).filter(([, word]) => word !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>
  } // just filtered
}

async function dryRunScreen(kind: RotationKind, facts: object, underWay: string | undefined): Promise<string> {
  const { factsSchema, kindOf, plannedKeys } = await import('#lifecycle')
  const { former, shard, certificate, ...rest } = factsSchema.parse(facts)
  const lines = [
    `Would rotate ${kind}: ${former.keys.map(({ name }) => name).join(', ')}`,
    ...plannedKeys({ former, ...rest }).flatMap(({ planned }) => {
      const { name, kind: of, token, idHex } = planned
      return [`  key ${name}, ${of}, on token ${token}, id\n    ${idHex}`, ...placesOf(planned)]
    }),
    ...(certificate === undefined
      ? []
      : [
          `  certificate ${certificate.organization} / ${certificate.commonName}`,
          certificate.issuerKey === undefined && certificate.rootName === undefined
            ? '    asked for by file: the root token is not here'
            : '    signed by the root token here',
        ]),
    ...(shard === undefined ? [] : [`  log ${shard.origin}`, `    at ${shard.url}`]),
    `  steps: ${kindOf(kind)
      .steps.map(({ name }) => name)
      .join(', ')}`,
    ...(underWay === undefined ? [] : [`A rotation of ${underWay} is under way: finish it first.`]),
    'Nothing was done.',
  ]
  return `${lines.join('\n')}\n`
}

async function resume(options: RotateOptions & { certificate?: string }): Promise<void> {
  const { resumeRotation } = await import('#lifecycle')
  const shorten = await mayShorten(options)
  const certificate =
    options.certificate === undefined ? {} : { certificate: readFileSync(options.certificate, 'utf8') }
  const resuming = { shorten, ...certificate }
  const installation = await installationOf(options)
  await shown(options, await resumeRotation({ installation, resuming, onStep: teller(options) }), resuming)
}

async function abort(options: RotateOptions & { keepKey?: boolean; confirm?: boolean }): Promise<void> {
  const { abortRotation, readRotations } = await import('#lifecycle')
  const installation = await installationOf(options)
  const { current } = readRotations(installation.dataDir)
  if (options.dryRun === true) {
    const plan = current === undefined ? 'No rotation is under way.' : `Would undo the rotation of ${current.kind}.`
    if (options.json === true) printJson({ done: false, kind: current?.kind ?? null })
    else process.stdout.write(`${plan}\nNothing was done.\n`)
    return
  }
  if (current !== undefined && current.aborting === undefined) {
    const { confirmed } = await import('./agent-options.ts')
    await confirmed(`Undo the rotation of ${current.kind}?`, options.confirm)
  }
  const keepKeys = options.keepKey ?? false
  await shown(options, await abortRotation({ installation, keepKeys, onStep: teller(options) }), {})
}

async function status(options: RotateOptions): Promise<void> {
  const { kindOf, readRotations } = await import('#lifecycle')
  const installation = await installationOf(options)
  const rotations = readRotations(installation.dataDir)
  const { current } = rotations
  const now = new Date()
  const where = whereOf(options)
  const pause = current && (await standing(current, installation))
  const screen = current && {
    record: current,
    steps: kindOf(current.kind).steps.map(({ name }) => name),
    where,
    data: options.data,
    now,
    ...(pause === undefined ? {} : { pause }),
  }
  if (options.json === true) return printJson({ current: screen && asJson(screen), history: rotations.history })
  process.stdout.write(
    `${screen === undefined ? 'No rotation is under way.\n' : rotationScreen(screen)}\n${historyScreen(rotations)}`,
  )
}

/** What it stands still for, as far as that can be seen without going on. */
async function standing(
  record: Rotated['record'],
  { dataDir, ask }: Awaited<ReturnType<typeof installationOf>>,
): Promise<Pause | undefined> {
  const { pauseOf } = await import('#lifecycle')
  const pause = await pauseOf(record, { dataDir, ask })
  return pause?.state === 'waiting' && Date.parse(pause.until) <= Date.now() ? undefined : pause
}

const CODES: Readonly<Record<Pause['state'], Code>> = {
  waiting: 'rotation_waiting',
  'awaiting-signatures': 'awaiting_signatures',
  'awaiting-certificate': 'rotation_awaiting_certificate',
}

/** Prints how far it came; stays with `--wait`; ends with status 7 where somebody has to do something first. */
async function shown(
  options: RotateOptions,
  rotated: Rotated,
  resuming: { readonly shorten?: boolean },
): Promise<void> {
  const { record, pause } = options.wait === true ? await waited(options, rotated, resuming) : rotated
  const { kindOf } = await import('#lifecycle')
  const steps = kindOf(record.kind).steps.map(({ name }) => name)
  const screen = {
    record,
    steps,
    where: whereOf(options),
    data: options.data,
    now: new Date(),
    ...(pause === undefined ? {} : { pause }),
  }
  if (options.json === true) printRotation(screen)
  else process.stdout.write(rotationScreen(screen))
  if (pause === undefined) return
  throw new OperatorError(CODES[pause.state], pauseWords(pause))
}

function pauseWords(pause: Pause): string {
  if (pause.state === 'waiting') return `not before ${pause.until}: a client may still hold the trust root of before`
  if (pause.state === 'awaiting-certificate') return `the certificate of ${pause.commonName} is not there yet`
  const counts = pause.pending.roles.map(({ role, have, need }) => `${role} ${have}/${need}`).join(', ')
  const missing = new Set(pause.pending.roles.flatMap((role) => role.missing.map(({ name }) => name)))
  return `awaiting-signatures ${counts}; may still sign: ${[...missing].join(', ')}`
}

const LOOK_EVERY_MS = 5000

/** Goes on as soon as it can; a certificate comes by hand. */
async function waited(options: RotateOptions, first: Rotated, resuming: { shorten?: boolean }): Promise<Rotated> {
  const { resumeRotation } = await import('#lifecycle')
  let rotated = first
  for (;;) {
    const { pause } = rotated
    if (pause === undefined || pause.state === 'awaiting-certificate') break
    tellWaiting(pause)
    const untilMs = pause.state === 'waiting' ? Date.parse(pause.until) - Date.now() : LOOK_EVERY_MS
    await delay(Math.max(0, Math.min(untilMs, LOOK_EVERY_MS)))
    const installation = await installationOf(options)
    rotated = await resumeRotation({ installation, resuming, onStep: quiet(teller(options), rotated) })
  }
  if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
  return rotated
}

function tellWaiting(pause: Pause): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K  ${pauseWords(pause).slice(0, 74)}`)
}

/** The step that is looked at again and again is told once. */
function quiet(tell: (step: string, phase: StepPhase) => void, { record }: Rotated): typeof tell {
  const known = new Set(record.steps.map(({ name }) => name))
  return (step, phase) => {
    if (known.has(step)) return
    if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
    tell(step, phase)
  }
}

/** One line a step on stderr. */
function teller({ json }: RotateOptions): (step: string, phase: StepPhase) => void {
  return (step, phase) => {
    if (json !== true && phase === 'begun') process.stderr.write(`  ${step}\n`)
  }
}

function whereOf({ data, config, agent }: RotateOptions): string {
  const words = [`--data ${data}`]
  if (config !== undefined) words.push(`--config ${config}`)
  if (agent !== 'online') words.push(`--agent ${agent}`)
  return words.join(' ')
}

/** True where it was asked for and confirmed. Throws `confirmation_needed`. */
async function mayShorten({ shorten }: RotateOptions): Promise<boolean> {
  if (shorten === undefined) return false
  if (shorten === ACCEPTED) return true
  if (shorten !== true) {
    throw new OperatorError('confirmation_needed', `--shorten takes these words only: ${ACCEPTED}`)
  }
  if (process.stdin.isTTY && process.stderr.isTTY) {
    const terminal = createInterface({ input: process.stdin, output: process.stderr })
    process.stderr.write('Clients that hold the trust root of before will refuse what the new key signs.\n')
    const answer = await terminal.question('Type shorten to switch without waiting for them: ')
    terminal.close()
    if (answer.trim() === 'shorten') return true
  }
  throw new OperatorError('confirmation_needed', `the wait was not cut short; in a script: --shorten=${ACCEPTED}`)
}
