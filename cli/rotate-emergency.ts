/** `chancery rotate KIND --emergency`: what stands by signs from now on, without a publication. */
import { EXIT } from '#alarms'
import type { Emergency, PlannedEmergency, StandbyKind } from '#lifecycle'
import { confirmed, printJson, wrapped } from './agent-options.ts'
import { type InstallationOptions, installationOf } from './rotation.ts'

export interface EmergencyOptions extends InstallationOptions {
  readonly json?: boolean
  readonly dryRun?: boolean
  readonly confirm?: boolean
}

/** Begins or goes on; ends with status 8 where no signature through all parts of the server could be verified. */
export async function emergency(kind: StandbyKind, options: EmergencyOptions): Promise<void> {
  const { awaitsAgent, bringIntoService, isEmergencyUnderWay, planEmergency } = await import('#lifecycle')
  const installation = await installationOf(options)
  // What was begun goes on whatever is said: half of it helps nobody.
  if (!isEmergencyUnderWay(kind, installation.dataDir)) {
    const planned = await planEmergency(kind, installation)
    const { name, former, work } = planned
    const plan = `${name} takes the place of ${former.name}`
    const isDry = options.dryRun === true
    if (isDry || work !== undefined) {
      if (options.json === true)
        printJson({ done: false, kind, ...planned, ...(work && { next: handCommands(kind, options) }) })
      else
        process.stdout.write(
          `Would bring into service: ${plan}.\n${workScreen(kind, planned, options)}Nothing was done.\n`,
        )
      if (isDry || work === undefined) return
      throw awaitsAgent(name, work)
    }
    await confirmed(`${plan}, for good.`, options.confirm)
  }
  const startedMs = performance.now()
  const onStep = (step: string, phase: string): void => {
    if (options.json !== true && phase === 'begun') process.stderr.write(`  ${step}\n`)
  }
  const done = await bringIntoService(kind, { installation, onStep })
  const seconds = Math.ceil((performance.now() - startedMs) / 1000)
  const next = nextCommands(done, options)
  if (options.json === true) printJson({ done: true, ...done, seconds, next })
  else process.stdout.write(screen(done, { seconds, next }))
  if (done.unproven !== '') process.exitCode = EXIT.integrity
}

/** What the operator of an agent of another user is told before anything is done. */
function workScreen(kind: StandbyKind, { work }: PlannedEmergency, options: EmergencyOptions): string {
  if (work === undefined) return ''
  const [reload, again] = handCommands(kind, options)
  const lines = [
    '',
    'The agent of the services is not ours to change:',
    ...wrapped(work.why),
    'If it is, or as root, name its file: --agent FILE. If not,',
    'whoever may write its configuration puts this in, beside what is there:',
    '',
    ...work.lines,
    '',
    'Its user lets it be read again, without a restart:',
    `  ${reload}`,
    'Then go on here:',
    `  ${again}`,
    '',
  ]
  return `${lines.join('\n')}\n`
}

/** `--agent`: as it was named here, else to be filled in. */
function handCommands(kind: StandbyKind, { agent, data }: EmergencyOptions): [string, string] {
  const named = agent === 'online' ? 'AGENT.yaml' : agent
  const same = agent === 'online' ? '' : ` --agent ${agent}`
  return [
    `chancery agent reload --agent ${named}`,
    `chancery rotate ${kind} --emergency --confirm --data ${data}${same}`,
  ]
}

function nextCommands({ former }: Emergency, { data }: InstallationOptions): string[] {
  return [`chancery rotate standby --data ${data}`, `chancery distrust ${former.item} --from TIME --data ${data}`]
}

function screen(
  { name, former, switchedAt, unproven, leftByHand }: Emergency,
  { seconds, next: commands }: { readonly seconds: number; readonly next: readonly string[] },
): string {
  const lines = [
    `${name} signs in place of ${former.name} since ${switchedAt.slice(0, 19)}Z, after ${seconds} s`,
    unproven === ''
      ? 'A signature through all parts of the server verifies with the published trust root.'
      : `NOT PROVEN: ${unproven}`,
    ...(leftByHand.length === 0
      ? []
      : [
          '',
          "Left to do in the agent's configuration, followed by chancery agent reload:",
          ...leftByHand.map((what) => `  ${what}`),
        ]),
    '',
    'Next:',
    ...commands.map((command) => `  ${command}`),
    'The first tells clients that the former key has ended, and makes another standby;',
    'the other, if it was stolen, gives up what was signed since; it may come first.',
  ]
  return `${lines.join('\n')}\n`
}
