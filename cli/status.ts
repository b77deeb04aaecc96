/** `chancery status`: one screen, readable at 80 columns. */

import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { OperatorError } from '#alarms'
import type { Status } from '#server'

export function register(program: Command): void {
  program
    .command('status')
    .summary('show what each service, key and log of a running server is doing')
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option('--json', 'print JSON: the whole status')
    .addHelpText(
      'after',
      '\nExit status: 0 all ready, 1 something is degraded, 3 no server runs.\n\nExample:\n  chancery status --data ./data\n',
    )
    .action(async (options: { data: string; config?: string; json?: boolean }) => {
      const { AdminError, askAdmin, loadConfig } = await import('#server')
      const loaded = loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
      let status: Status
      try {
        // Our own server answers; its shape is `Status`.
        status = (await askAdmin(loaded.resolve(loaded.config.admin.socket), 'status')) as Status
      } catch (error) {
        if (!(error instanceof AdminError) || error.code !== 'not_running') throw error
        process.stderr.write(`chancery: ${error.message}\nMore: ${new OperatorError('server_away', '').anchor}\n`)
        process.exitCode = 3
        return
      }
      process.stdout.write(options.json === true ? `${JSON.stringify(status, undefined, 2)}\n` : statusScreen(status))
      if (status.services.some(({ state }) => state !== 'ready')) process.exitCode = 1
    })
}

const WIDTH = 80

/**
 * The screen, 80 columns: what is not well at the top, then a line for each thing. Longer words, such as paths, stay
 * whole.
 */
export function statusScreen(status: Status, now = new Date()): string {
  const lines = [`${status.domain}  ${status.profile}  up ${age(status.startedAt, now)}`]
  if (status.softwareTokenAccepted !== undefined) {
    lines.push(...folded(`software token accepted: ${status.softwareTokenAccepted}`, 0))
  }
  lines.push(
    ...alarmLines(status, now),
    ...serviceLines(status),
    '',
    ...table(['LOG', 'ENTRIES', 'GUARD', 'ANCHORED', 'SEALED', 'WAITING', 'ROOT'], logRows(status, now)),
    '',
    ...(status.agent.keys.length === 0
      ? ['keys     NOT KNOWN']
      : [...table(['KEY', 'KIND', 'USES', 'CAP/MIN', 'PURPOSES'], keyRows(status)), '']),
    ...status.agent.tokens.map(tokenLine),
    ...machineLines(status, now),
  )
  return `${lines.map((line) => line.trimEnd()).join('\n')}\n`
}

function alarmLines({ alarms }: Status, now: Date): string[] {
  if (alarms.length === 0) return ['no alarms']
  return alarms.flatMap(({ code, severity, subject, message, since }) => [
    `ALARM ${code}  ${subject}  ${severity}  for ${age(since, now)}`,
    ...folded(message, 6),
  ])
}

function serviceLines({ services }: Status): string[] {
  const ready = services.filter(({ state }) => state === 'ready').map(({ service }) => service)
  const degraded = services.filter(({ state }) => state !== 'ready')
  // What takes one service away mostly takes several.
  const byReason = [...Map.groupBy(degraded, ({ reason }) => reason)]
  return [
    ...byReason.flatMap(([reason, of]) =>
      folded(`DEGRADED ${of.map(({ service }) => service).join(' ')}: ${reason}`, 0, 6),
    ),
    ...folded(`ready: ${ready.length === 0 ? 'NOTHING' : ready.join(' ')}`, 0, 7),
  ]
}

function logRows({ logs, anchors }: Status, now: Date): string[][] {
  return logs.map(({ name, size, guardedSize, guardLatched, rootHashHex, sealedAt, pending }) => {
    const guard = guardLatched === '' ? (guardedSize === undefined ? '?' : String(guardedSize)) : 'LATCHED'
    const anchored = anchors.filter(({ log }) => log === name).map((anchor) => anchor.size ?? 0)
    const least = anchored.length === 0 ? '-' : String(Math.min(...anchored))
    return [name, String(size), guard, least, age(sealedAt, now), String(pending), rootHashHex.slice(0, 12)]
  })
}

function keyRows({ agent: { keys } }: Status): string[][] {
  return keys.map(({ name, kind, uses, purposes, latched, cap }) => {
    const until =
      cap?.untilMs === undefined ? '' : ` raised until ${new Date(cap.untilMs).toISOString().slice(11, 16)}Z`
    const perMinute = cap === undefined ? '-' : String(cap.perMinute)
    return [
      name,
      kind,
      String(uses),
      perMinute,
      `${latched === '' ? purposes.join(' ') : `LATCHED: ${latched}`}${until}`,
    ]
  })
}

function tokenLine({ name, model, manufacturer, software, loggedIn, latched, fault, breaker }: Token): string {
  const what = `${manufacturer} ${model}`.trim()
  const state =
    latched === ''
      ? loggedIn && breaker === 'closed'
        ? `logged in, ${what}${software ? ', software' : ''}`
        : `AWAY (breaker ${breaker.replace('_', ' ')}): ${fault}`
      : `LATCHED: ${latched}`
  return folded(`token    ${name} ${state}`, 0, 9).join('\n')
}
type Token = Status['agent']['tokens'][number]

/** Ends this near are told in capitals: a ceremony wants to be planned. */
const SOON_MS = 14 * 86_400_000

function machineLines(status: Status, now: Date): string[] {
  const { agent, disk, clock, lastBackup, certificates, trustRoot, anchors } = status
  const ends = [
    ...certificates.map(({ name, notAfter }) => ({ name, at: notAfter })),
    ...rolesOf(trustRoot).map(({ role, expires }) => ({ name: `TUF ${role}`, at: expires })),
  ].map(({ name, at }) => {
    const left = Date.parse(at) - now.getTime()
    const day = left < 0 ? `EXPIRED ${at.slice(0, 10)}` : at.slice(0, 10)
    // A TUF role of a day is signed again by itself; its own alarm tells when it is not.
    return `${name} ${left >= 0 && left < SOON_MS && !name.startsWith('TUF') ? `SOON ${day}` : day}`
  })
  const anchored = anchors.map(
    ({ anchor, log, fault }) => `${anchor}/${log} ${fault === '' ? 'taken' : `FAILS: ${fault}`}`,
  )
  const faults = [clock.fault, agent.clock.fault].filter((fault) => fault !== '')
  const stepped = clock.lastStepMs === 0 ? 'even' : `even again, last step ${(clock.lastStepMs / 1000).toFixed(1)} s`
  return [
    ...(anchored.length === 0 ? [] : folded(`anchors  ${anchored.join(', ')}`, 0, 9)),
    ...folded(`expires  ${ends.join(', ')}`, 0, 9),
    ...pendingLines(status),
    ...standbyLines(status),
    `queue    agent ${agent.queue.underWay} of ${agent.queue.most}`,
    ...disk.flatMap(({ path, state, freeBytes, totalBytes }) =>
      folded(
        `disk     ${state === 'sound' ? '' : `${state.toUpperCase()}: `}${gib(freeBytes)} of ${gib(totalBytes)} GiB free, ${path}`,
        0,
        9,
      ),
    ),
    ...folded(`clock    ${faults.length === 0 ? stepped : `NOT TRUSTED: ${faults.join('; ')}`}`, 0, 9),
    ...folded(
      `backup   ${lastBackup === undefined ? 'NONE known' : `${age(lastBackup.finishedAt, now)} ago, ${lastBackup.target}`}`,
      0,
      9,
    ),
  ]
}

/** A publication that custodians must sign. */
function pendingLines({ trustRoot }: Status): string[] {
  if (trustRoot?.pending === undefined) return []
  const roles = trustRoot.pending.roles.map(({ role, version, have, need }) => `${role} ${version} ${have}/${need}`)
  return folded(`trust    AWAITS SIGNATURES ${roles.join(', ')}: chancery trust pending`, 0, 9)
}

/** What stands by for an emergency: by name, or what is the matter in capitals. */
function standbyLines({ standby }: Status): string[] {
  if (standby.length === 0) return []
  const words = standby.map(({ kind, state, name }) =>
    state === 'ready' ? name : state === 'missing' ? `${kind} MISSING` : `${name} IN SERVICE`,
  )
  return folded(`standby  ${words.join(', ')}`, 0, 9)
}

function table(heading: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = heading.map((head, column) => Math.max(head.length, ...rows.map((row) => row[column]?.length ?? 0)))
  return [heading, ...rows].flatMap((row) => {
    const line = row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')
    return folded(line.trimEnd(), 0, 6)
  })
}

/** One line, or several of at most 80 columns where it is longer; `first` and `next` are their indents. */
function folded(text: string, first: number, next = first): string[] {
  if (first + text.length <= WIDTH) return [`${' '.repeat(first)}${text}`]
  const lines: string[] = []
  let line = ' '.repeat(first)
  for (const part of text.match(/\S+\s*/g) ?? []) {
    if (line.trim() !== '' && line.length + part.trimEnd().length > WIDTH) {
      lines.push(line.trimEnd())
      line = ' '.repeat(next)
    }
    line += part
  }
  return [...lines, line.trimEnd()]
}

/** `3 d 4 h`, `4 h 5 min`, `5 min` or `6 s`. */
function age(since: string, now: Date): string {
  const seconds = Math.max(0, Math.floor((now.getTime() - Date.parse(since)) / 1000))
  const [days, hours, minutes] = [
    Math.floor(seconds / 86_400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ]
  if (days > 0) return `${days} d ${hours} h`
  if (hours > 0) return `${hours} h ${minutes} min`
  return minutes > 0 ? `${minutes} min` : `${seconds} s`
}

function gib(bytes: number): string {
  return (bytes / 1024 ** 3).toFixed(1)
}

function rolesOf(trustRoot: unknown): { role: string; expires: string }[] {
  if (typeof trustRoot !== 'object' || trustRoot === null || !('roles' in trustRoot) || !Array.isArray(trustRoot.roles))
    return []
  return trustRoot.roles.map((role: { role: unknown; expires: unknown }) => ({
    role: String(role.role),
    expires: String(role.expires),
  }))
}
