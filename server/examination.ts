/**
 * `chancery doctor` without its printing: looks at an installation, running or stopped, and changes nothing. Tokens are
 * read through their agents, a running server is asked through its socket, and files are only looked at.
 */
import { lstatSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { basename, dirname, join, relative, sep } from 'node:path'
import { Alarms, type Code, OperatorError } from '#alarms'
import { agentNames, readAgentFile, type AgentFile, withAdminAgent } from '#lifecycle'
import { trustRootStatus } from '#trust-root'
import { AdminError, askAdmin } from './admin.ts'
import { certificateFindings, trustRootFindings } from './age-alarms.ts'
import { readLastBackup } from './backup.ts'
import { agreementOf, timeSourcesOf } from './clock.ts'
import type { LoadedConfig } from './config.ts'
import { watchDisk } from './disk.ts'
import { standbyFindings, standbyStates } from './standby.ts'
import { rotationFindings } from './rotation-alarm.ts'
import { surveyAgent, type SurveyedAgent, tokenFindings } from './examine-tokens.ts'
import { certificatesOf, type Status } from './status.ts'

export interface Finding {
  readonly code: Code
  /** What it is about: a token's or key's name, an object on a token, a path. */
  readonly subject: string
  /** What was found and what to do. */
  readonly message: string
}

export interface Examination {
  readonly serverRuns: boolean
  /** Agents whose tokens were read. */
  readonly agents: readonly string[]
  /** Each once. */
  readonly findings: readonly Finding[]
}

export interface ExaminationOptions {
  /** Names, configuration files or admin sockets; all of the data folder unless told. */
  readonly agents?: readonly string[] | undefined
  readonly now?: Date
  readonly onStep?: (step: string) => void
}

/** Looks at everything; a part that cannot be looked at is a finding and keeps no other from being looked at. */
export async function examine(loaded: LoadedConfig, options: ExaminationOptions = {}): Promise<Examination> {
  const { now = new Date(), onStep = () => undefined } = options
  onStep('the server')
  const status = await serverStatus(loaded)
  const names = options.agents ?? agentNames(loaded.dataDir)
  const surveys: SurveyedAgent[] = []
  const findings: Finding[] = []
  for (const agent of names) {
    onStep(`the tokens of agent ${agent}`)
    try {
      const reach = { dataDir: loaded.dataDir, agent }
      surveys.push(await withAdminAgent(reach, async (admin) => await surveyAgent(agent, admin)))
    } catch (error) {
      findings.push(unreached(agent, error))
    }
  }
  onStep('files, disk and clock')
  findings.push(
    ...tokenFindings(surveys),
    ...(status?.alarms ?? [])
      .filter(({ code }) => !LOOKED_AT_HERE.includes(code))
      .map(({ code, subject, message }) => ({ code, subject, message })),
    ...(status === undefined ? await machineFindings(loaded, now) : clockFindings(status)),
    ...certificateFindings(certificatesOf(loaded), now.getTime()),
    ...trustRootFindings(await trustRootOf(loaded, now)),
    ...standbyFindings(await standbyStates(loaded)),
    ...backupFindings(loaded, now),
    ...rotationFindings(loaded.dataDir, now.getTime()),
    ...fileFindings(loaded, names),
    ...socketFindings(loaded),
  )
  return { serverRuns: status !== undefined, agents: surveys.map(({ agent }) => agent), findings: once(findings) }
}

/** The server looks twice a minute and may still say what a rotation has just mended. */
const LOOKED_AT_HERE: readonly Code[] = ['standby_missing', 'standby_in_service', 'rotation_stalled']

function once(findings: readonly Finding[]): Finding[] {
  return [...new Map(findings.map((each) => [`${each.code} ${each.subject}`, each])).values()]
}

async function serverStatus({ config, resolve }: LoadedConfig): Promise<Status | undefined> {
  try {
    return (await askAdmin(resolve(config.admin.socket), 'status')) as Status // our own server answers
  } catch (error) {
    if (error instanceof AdminError && error.code === 'not_running') return undefined
    throw error
  }
}

function unreached(agent: string, error: unknown): Finding {
  const message = error instanceof Error ? error.message : String(error)
  if (error instanceof OperatorError) return { code: error.code, subject: agent, message }
  return { code: 'agent_away', subject: agent, message: `its tokens cannot be read: ${message}` }
}

function clockFindings({ clock, agent }: Status): Finding[] {
  return [
    ...(clock.fault === '' ? [] : [{ code: 'clock_stepped' as const, subject: 'server', message: clock.fault }]),
    ...(agent.clock.fault === ''
      ? []
      : [{ code: 'clock_stepped' as const, subject: 'agent', message: agent.clock.fault }]),
  ]
}

/** What a running server looks at by itself. */
async function machineFindings(loaded: LoadedConfig, now: Date): Promise<Finding[]> {
  const { config, resolve } = loaded
  const alarms = new Alarms()
  const folders = new Set(config.logs.map(({ database }) => dirname(resolve(database))))
  const disk = await watchDisk([...folders], config.disk ?? {}, alarms)
  disk.close()
  const sources = timeSourcesOf(config)
  const disagreement = sources.length === 0 ? undefined : await agreementOf(sources)()
  const ahead = config.logs.map(({ database }) => resolve(database)).filter((path) => isFromTheFuture(path, now))
  return [
    ...alarms.active().map(({ code, subject, message }) => ({ code, subject, message })),
    ...(disagreement === undefined
      ? []
      : [{ code: 'time_sources_disagree' as const, subject: 'server', message: disagreement }]),
    ...ahead.map((path) => ({
      code: 'clock_stepped' as const,
      subject: path,
      message: 'it was written later than it is now by this clock: set the clock before the server is started',
    })),
  ]
}

/** Of a stepped clock, not of a coarse file system. */
const FUTURE_MS = 2000

function isFromTheFuture(path: string, now: Date): boolean {
  return (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) > now.getTime() + FUTURE_MS
}

async function trustRootOf({ config, resolve }: LoadedConfig, now: Date) {
  if (config.trustRoot === undefined) return undefined
  const unreadable = { published: false, state: 'expired' as const, roles: [] }
  return await trustRootStatus(resolve(config.trustRoot.folder), { now }).catch(() => unreadable)
}

/** Without `backup.maxAgeHours`. */
const BACKUP_HOURS = 7 * 24

function backupFindings(loaded: LoadedConfig, now: Date): Finding[] {
  const last = readLastBackup(loaded)
  const most = loaded.config.backup?.maxAgeHours ?? BACKUP_HOURS
  const hours = last === undefined ? undefined : (now.getTime() - Date.parse(last.finishedAt)) / 3_600_000
  if (last !== undefined && hours !== undefined && hours <= most) {
    const isThere = statSync(last.target, { throwIfNoEntry: false })?.isDirectory() === true
    if (isThere) return []
    return [
      {
        code: 'backup_overdue',
        subject: 'backup',
        message: `the last backup is not at ${last.target} any more; find it, or make one`,
      },
    ]
  }
  const age = hours === undefined ? 'no backup was ever finished' : `the last backup is ${Math.floor(hours)} hours old`
  return [{ code: 'backup_overdue', subject: 'backup', message: `${age}; make one with: chancery backup` }]
}

/** Modes of folders and PIN files, and PINs where none belongs. */
function fileFindings({ dataDir, file }: LoadedConfig, agents: readonly string[]): Finding[] {
  const files = agents.flatMap((agent) => agentFile(dataDir, agent) ?? [])
  const pinFiles = [...new Set(files.flatMap(({ tokens }) => Object.values(tokens).map(({ pinFile }) => pinFile)))]
  const folders = [dataDir, ...files.map(({ path }) => dirname(path)), ...pinFiles.map((path) => dirname(path))]
  return [
    ...[...new Set(folders)]
      .filter((path) => isOpen(path, dataDir))
      .map((path) => modeFinding('file_mode', path, 0o700)),
    ...pinFiles.filter(isReadByOthers).map((path) => modeFinding('pin_file_mode', path, 0o600)),
    ...misplacedPins(dataDir, { pinFiles, configurations: [file, ...files.map(({ path }) => path)] }),
  ]
}

function agentFile(dataDir: string, agent: string): AgentFile | undefined {
  try {
    return readAgentFile({ dataDir, agent })
  } catch {
    // A socket, or told by the survey.
    return undefined
  }
}

function isReadByOthers(path: string): boolean {
  return ((statSync(path, { throwIfNoEntry: false })?.mode ?? 0) & 0o077) !== 0
}

/** Folders outside the installation (`/run/credentials`, `/etc`) have their own rules. */
function isOpen(path: string, dataDir: string): boolean {
  return !relative(dataDir, path).startsWith('..') && isReadByOthers(path)
}

function modeFinding(code: 'file_mode' | 'pin_file_mode', path: string, mode: number): Finding {
  const found = (statSync(path).mode & 0o7777).toString(8)
  return { code, subject: path, message: `its mode is ${found}: others may read it; chmod ${mode.toString(8)} ${path}` }
}

/** A PIN is short; what is longer holds one only as text of a configuration. */
const PIN_FILE_BYTES = 256
/** What grows without bound and holds no text. */
const NOT_SEARCHED = new Set(['tokens', 'logs', 'targets'])

function misplacedPins(
  dataDir: string,
  { pinFiles, configurations }: { pinFiles: readonly string[]; configurations: readonly string[] },
): Finding[] {
  const pins = new Set(pinFiles.map(textOf).filter((pin) => pin.length >= 4))
  const finding = (subject: string, message: string): Finding => ({ code: 'pin_misplaced', subject, message })
  const copies = smallFiles(dataDir)
    .filter((path) => !pinFiles.includes(path) && pins.has(textOf(path)))
    .map((path) => finding(path, 'it holds the PIN of a token, and no configuration names it; remove it'))
  const written = [...new Set(configurations)].flatMap((path) => {
    const text = textOf(path)
    if (/pin-value=/.test(text)) return [finding(path, 'a pin-value stands in it; put the PIN into a file of mode 600')]
    return [...pins].some((pin) => text.includes(pin)) ? [finding(path, 'a PIN stands in it; rotate it')] : []
  })
  return [...copies, ...written]
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return ''
  }
}

function smallFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return NOT_SEARCHED.has(basename(path)) ? [] : smallFiles(path)
    return entry.isFile() && lstatSync(path).size <= PIN_FILE_BYTES ? [path] : []
  })
}

/** sun_path of Linux holds 108 bytes with its NUL. */
const LONGEST_SOCKET = 107

function socketFindings({ config, dataDir, resolve }: LoadedConfig): Finding[] {
  const sockets = [
    resolve(config.admin.socket),
    ...agentNames(dataDir).flatMap((agent) => agentFile(dataDir, agent)?.adminSocket ?? []),
  ]
  return sockets
    .filter((path) => Buffer.byteLength(path) > LONGEST_SOCKET)
    .map((path) => ({
      code: 'socket_path',
      subject: path.split(sep).slice(-2).join(sep),
      message: `${path} has more than ${LONGEST_SOCKET} bytes: no server can listen there; use a shorter folder`,
    }))
}
