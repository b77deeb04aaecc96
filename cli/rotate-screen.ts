/** The screen of `chancery rotate`: what is done, what is next, what it waits for, and the command to type. */
import type { Pause, RotationRecord, Rotations } from '#lifecycle'
import { printJson, wrapped } from './agent-options.ts'
import { pendingScreen } from './trust-options.ts'

/** What each step does, in a few words. */
const WORDS: Readonly<Record<string, string>> = {
  token: 'see to the token of what stands by',
  settle: 'tell clients what an emergency changed',
  record: 'write down what stands by',
  key: 'make the new key in its token',
  certify: 'have it certified',
  agent: 'let the agent use it',
  'ct-roots': 'let the CT log take the new root',
  publish: 'tell verifiers to trust it',
  wait: "wait for clients' caches",
  switch: 'sign with it',
  prove: 'verify an old and a new signature',
  end: 'end the window of the former key',
  sct: 'take the promise of the new log alone',
  retire: 'put the former key away',
}

export interface Shown {
  readonly record: RotationRecord
  /** Names of all steps of this kind. */
  readonly steps: readonly string[]
  readonly pause?: Pause
  /** The words after `chancery` that name this installation: `--data ./data`. */
  readonly where: string
  /** The data folder, as it was given. */
  readonly data: string
  readonly now: Date
}

/** What a script needs to know. */
export function printRotation(shown: Shown): void {
  printJson(asJson(shown))
}

/** The same for one that is under way and for one that ended. */
export function asJson({ record, steps, pause, where }: Shown): unknown {
  const { facts, steps: done, ...rest } = record
  return {
    ...rest,
    state: stateOf(record, pause),
    steps: steps.map((name) => done.find((step) => step.name === name) ?? { name }),
    facts,
    ...(pause === undefined ? {} : { pause }),
    ...(record.ended === undefined ? { next: nextCommand(pause, where) } : {}),
  }
}

function stateOf({ ended, aborting }: RotationRecord, pause: Pause | undefined): string {
  return ended?.outcome ?? pause?.state ?? (aborting === undefined ? 'interrupted' : 'aborting')
}

/** At most 80 columns. */
export function rotationScreen(shown: Shown): string {
  const { record, steps, pause, where, data, now } = shown
  const { kind, startedAt, startedBy, ended, aborting } = record
  const lines = [`Rotation of ${kind}, begun ${minute(startedAt)} by ${startedBy}`, ...changeOf(record), '']
  for (const name of steps) lines.push(stepLine(shown, name))
  if (ended !== undefined) {
    lines.push('', `${ended.outcome === 'done' ? 'Done' : 'Undone'} ${minute(ended.at)}`, ...afterwards(record))
    return `${lines.join('\n')}\n`
  }
  if (aborting !== undefined) lines.push('', `Is being undone since ${minute(aborting.at)}, by ${aborting.by}`)
  if (pause !== undefined) lines.push('', ...pauseLines(pause, data, now))
  lines.push('', 'Next:', `  ${nextCommand(pause, where)}`)
  if (aborting === undefined && !hasSwitched(record)) lines.push(`or, to undo it: chancery rotate abort ${where}`)
  return `${lines.join('\n')}\n`
}

function hasSwitched({ facts }: RotationRecord): boolean {
  return facts['switchedAt'] !== undefined
}

function changeOf({ facts }: RotationRecord): string[] {
  const { former, keys, standby, emergency } = facts as {
    former?: { keys: { name: string }[] }
    keys?: Record<string, MadeKey>
    standby?: { members: { item: string }[] }
    emergency?: boolean
  } // of the journal
  if (emergency === true) return []
  if (standby !== undefined)
    return [`  will stand by: ${standby.members.map(({ item }) => item).join(', ') || 'what does already'}`]
  const names = (found: readonly { name: string }[]) => found.map(({ name }) => name).join(', ')
  if (former === undefined || keys === undefined) return []
  return [`  key ${names(former.keys)} → ${names(Object.values(keys))}`, ...Object.values(keys).flatMap(placesOf)]
}

interface MadeKey {
  readonly name: string
  readonly token: string
  readonly formerAlsoOn?: readonly string[] | undefined
}

/** A key cannot be made on two tokens: whoever relies on the second has to bring it there. */
export function placesOf({ name, token, formerAlsoOn = [] }: MadeKey): string[] {
  if (formerAlsoOn.length === 0) return []
  const before = `The former key lies on ${formerAlsoOn.join(', ')} too; ${name} is made on ${token} alone, and does not sign when that is away.`
  return wrapped(`${before} Copy it and list both in its uris: docs/hsm/README.md.`)
}

function stepLine({ record, now, pause }: Shown, name: string): string {
  const step = record.steps.find((each) => each.name === name)
  const mark = step === undefined ? ' ' : step.finishedAt === undefined ? '>' : '+'
  const time = step === undefined ? '' : minute(step.finishedAt ?? step.startedAt)
  const waits =
    name === 'wait' && pause?.state === 'waiting' ? `until ${minute(pause.until)}${left(pause.until, now)}` : ''
  const shortened = name === 'wait' ? shortenedBy(record) : ''
  return `  ${mark} ${name.padEnd(9)}${time.padEnd(21)}  ${waits || shortened || WORDS[name] || ''}`.trimEnd()
}

function shortenedBy({ facts }: RotationRecord): string {
  const { shortened } = facts as { shortened?: { by: string; insteadOf: string } } // of the journal
  return shortened === undefined ? '' : `cut short by ${shortened.by} (until ${shortened.insteadOf.slice(0, 10)})`
}

function pauseLines(pause: Pause, data: string, now: Date): string[] {
  if (pause.state === 'waiting') {
    return [
      "Waits for clients' caches, so that none refuses a good signature:",
      ...pause.reasons.flatMap(({ who, until }) => [
        `  ${minute(until)}${left(until, now)}`,
        ...wrapped(who).map((line) => `  ${line}`),
      ]),
    ]
  }
  if (pause.state === 'awaiting-certificate') {
    return [
      `Waits for the certificate of ${pause.commonName}. The request is in`,
      `  ${pause.requestFile}`,
      'Carry it to the machine with the root token, and sign it in a ceremony.',
    ]
  }
  return pendingScreen(pause.pending, data).trimEnd().split('\n')
}

function nextCommand(pause: Pause | undefined, where: string): string {
  const certificate = pause?.state === 'awaiting-certificate' ? ' --certificate FILE' : ''
  const wait = pause?.state === 'waiting' ? ' --wait' : ''
  return `chancery rotate resume ${where}${certificate}${wait}`
}

/** What an operator should know of one that is done. */
function afterwards({ kind, facts, ended }: RotationRecord): string[] {
  if (ended?.outcome !== 'done') return []
  const { retired = {} } = facts as {
    retired?: Record<string, { destroyed: boolean; idHex: string; token: string }>
  } // of the journal
  return [
    ...Object.entries(retired).map(([name, { destroyed, idHex, token }]) =>
      destroyed
        ? `  key ${name} is destroyed`
        : `  key ${name} is kept on token ${token}, in no configuration:\n    ${idHex}`,
    ),
    ...(kind === 'root-ca'
      ? ['  the timestamp authority and the standby set are below the former root:', '  rotate them when you can']
      : []),
  ]
}

/** All of them, newest first, one line each. */
export function historyScreen({ history }: Rotations): string {
  if (history.length === 0) return 'Nothing was rotated yet.\n'
  const rows = history.map(({ kind, ended, startedBy, facts }) => {
    const { versions, emergency } = facts as { versions?: { root: number; targets: number }; emergency?: boolean } // of the journal
    const published = versions === undefined ? '' : `root ${versions.root}, targets ${versions.targets}`
    return `  ${minute(ended?.at ?? '')}  ${kind.padEnd(11)}${(ended?.outcome ?? '').padEnd(9)}${(emergency === true ? 'emergency' : published).padEnd(24)}${startedBy}`
  })
  return `Rotations that ended, newest first:\n${rows.join('\n')}\n`
}

/** `2026-11-21 08:30 UTC` */
function minute(time: string): string {
  return time === '' ? '' : `${time.slice(0, 10)} ${time.slice(11, 16)} UTC`
}

function left(until: string, now: Date): string {
  const minutes = Math.ceil((Date.parse(until) - now.getTime()) / 60_000)
  if (minutes <= 0) return ' (over)'
  const [days, hours] = [Math.floor(minutes / 1440), Math.floor(minutes / 60) % 24]
  if (days > 0) return ` (${days} d ${hours} h)`
  return hours > 0 ? ` (${hours} h ${minutes % 60} min)` : ` (${minutes} min)`
}
