/** `chancery rotate KIND --emergency`: what stands by signs from now on, without a publication. */
import { EXIT } from '#alarms'
import type { Emergency, StandbyKind } from '#lifecycle'
import { confirmed, printJson } from './agent-options.ts'
import { type InstallationOptions, installationOf } from './rotation.ts'

export interface EmergencyOptions extends InstallationOptions {
  readonly json?: boolean
  readonly dryRun?: boolean
  readonly confirm?: boolean
}

/** Begins or goes on; ends with status 8 where no signature through all parts of the server could be verified. */
export async function emergency(kind: StandbyKind, options: EmergencyOptions): Promise<void> {
  const { bringIntoService, isEmergencyUnderWay, planEmergency } = await import('#lifecycle')
  const installation = await installationOf(options)
  // What was begun goes on whatever is said: half of it helps nobody.
  if (!isEmergencyUnderWay(kind, installation.dataDir)) {
    const { name, former } = await planEmergency(kind, installation)
    const plan = `${name} takes the place of ${former.name}`
    if (options.dryRun === true) {
      if (options.json === true) printJson({ done: false, kind, name, former })
      else process.stdout.write(`Would bring into service: ${plan}.\nNothing was done.\n`)
      return
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

function nextCommands({ former }: Emergency, { data }: InstallationOptions): string[] {
  return [`chancery rotate standby --data ${data}`, `chancery distrust ${former.item} --from TIME --data ${data}`]
}

function screen(
  { name, former, switchedAt, unproven }: Emergency,
  { seconds, next: commands }: { readonly seconds: number; readonly next: readonly string[] },
): string {
  const lines = [
    `${name} signs in place of ${former.name} since ${switchedAt.slice(0, 19)}Z, after ${seconds} s`,
    unproven === ''
      ? 'A signature through all parts of the server verifies with the published trust root.'
      : `NOT PROVEN: ${unproven}`,
    '',
    'Next:',
    ...commands.map((command) => `  ${command}`),
    'The first tells clients that the former key has ended, and makes another standby;',
    'the other, if it was stolen, gives up what was signed since; it may come first.',
  ]
  return `${lines.join('\n')}\n`
}
