/** The administrative verb `backup`, and how long ago the last one was. */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { basename, dirname, isAbsolute, join } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { backUp, type BackupSources, type FinishedBackup, STANDBY_FILE, USES } from '#lifecycle'
import type { AdminRequest } from './admin.ts'
import type { LoadedConfig } from './config.ts'
import type { Parts } from './main.ts'
import { readableStandbyPlan } from './standby.ts'

const argument = z.strictObject({
  target: z.string().refine(isAbsolute, 'an absolute path'),
  since: z.string().refine(isAbsolute, 'an absolute path').optional(),
  /** Of the agent's admin socket, which the command reaches and a server does not. */
  keyBackup: z.strictObject({ text: z.string(), notWrapped: z.record(z.string(), z.string()) }).optional(),
})

const lastBackup = z.object({
  finishedAt: z.iso.datetime(),
  target: z.string(),
  manifestSha256: z.string(),
  bytes: z.int(),
})

/** The newest backup that this installation finished; kept in `run/last-backup.json`. */
export type LastBackup = z.infer<typeof lastBackup>

/** Said over the admin socket; small JSON. */
export type BackupAnswer = FinishedBackup

/** One backup at a time: two would read the same disk twice as long. */
let running = false

/** Makes a backup of what is running; tells its steps. */
export async function backupVerb(
  parts: Parts,
  { argument: given, progress, signal }: AdminRequest,
): Promise<BackupAnswer> {
  const parsed = argument.safeParse(given)
  if (!parsed.success) throw new OperatorError('backup_target_exists', parsed.error.issues[0]?.message ?? 'no target')
  if (running) throw Object.assign(new Error('a backup is being made just now; wait for it'), { code: 'busy' })
  running = true
  try {
    const { target, since, keyBackup } = parsed.data
    const finished = await backUp(await sourcesOf(parts, keyBackup), {
      target,
      ...(since === undefined ? {} : { since }),
      onStep: progress,
      signal,
    })
    remember(parts.loaded, finished)
    checkBackupAge(parts, new Date())
    return finished
  } finally {
    running = false
  }
}

/** The last backup that was finished, or undefined if none is known. */
export function readLastBackup({ resolve }: LoadedConfig): LastBackup | undefined {
  try {
    return lastBackup.parse(JSON.parse(readFileSync(resolve(LAST_BACKUP), 'utf8')))
  } catch {
    // Lost or never written: as good as no backup.
    return undefined
  }
}

/** Raises or clears `backup_overdue`; called regularly. Without `backup.maxAgeHours` it never alarms. */
export function checkBackupAge({ loaded, alarms }: Pick<Parts, 'loaded' | 'alarms'>, now: Date): void {
  const { backup } = loaded.config
  if (backup === undefined) return
  const last = readLastBackup(loaded)
  const hours = last === undefined ? undefined : (now.getTime() - Date.parse(last.finishedAt)) / 3_600_000
  const overdue = hours === undefined || hours > backup.maxAgeHours
  alarms.set(
    'backup_overdue',
    'backup',
    overdue
      ? `${hours === undefined ? 'no backup was ever finished' : `the last backup is ${Math.floor(hours)} hours old`}, at most ${backup.maxAgeHours} are configured; make one with: chancery backup`
      : undefined,
  )
}

/** Often enough for a limit of an hour. */
const CHECK_MS = 60_000

/** Looks at the age of the last backup now and every minute; returns a function that stops. */
export function watchBackupAge(parts: Pick<Parts, 'loaded' | 'alarms'>): () => void {
  checkBackupAge(parts, new Date())
  const timer = setInterval(() => checkBackupAge(parts, new Date()), CHECK_MS).unref()
  return () => clearInterval(timer)
}

const LAST_BACKUP = 'run/last-backup.json'

function remember({ resolve }: LoadedConfig, { target, manifestSha256, bytes }: FinishedBackup): void {
  const file = resolve(LAST_BACKUP)
  const last: LastBackup = { finishedAt: new Date().toISOString(), target, manifestSha256, bytes }
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  writeFileSync(`${file}.part`, `${JSON.stringify(last)}\n`, { flush: true })
  renameSync(`${file}.part`, file)
}

async function sourcesOf(parts: Parts, keyBackup: BackupSources['keyBackup']) {
  const { loaded, agent, logs, trustRoot } = parts
  const { config } = loaded
  const { default: about } = await import('../package.json', { with: { type: 'json' } })
  return {
    program: about.version,
    profile: config.profile,
    domain: config.domain,
    dataDir: loaded.dataDir,
    files: configurationFiles(loaded),
    logs: logs.map(({ config: { name, kind, database }, log }) => ({ name, kind, database, log })),
    ...(trustRoot && config.trustRoot && { trustRoot: { folder: config.trustRoot.folder, publisher: trustRoot } }),
    agent,
    ...(keyBackup && { keyBackup }),
    notBackedUp: notBackedUp(loaded),
  }
}

/** Everything that the configuration names and that is no secret. */
function configurationFiles({ config, dataDir, file, resolve }: LoadedConfig): string[] {
  const { agent, ca, logs, timestamp, trustRoot, metrics } = config
  const tls = [metrics, ca, timestamp, trustRoot, ...logs].flatMap((part) => part?.tls?.certFile ?? [])
  return [
    file,
    ...('spawn' in agent ? agentFiles(agent.spawn, resolve) : []),
    ...(trustRoot?.rootAgent === undefined ? [] : agentFiles(trustRoot.rootAgent, resolve)),
    ...(ca === undefined ? [] : [ca.chain, ca.issuers]),
    ...logs.flatMap((log) => (log.kind === 'ct' ? [log.roots] : [])),
    ...(timestamp === undefined ? [] : [timestamp.chain]),
    ...tls,
    ...standbyFiles(dataDir, resolve),
    ...rotationFiles(dataDir),
    ...notedUses(resolve(USES)),
  ]
}

/** What stands by: its plan, certificates, and the configuration of its agent, which another user may have elsewhere. */
function standbyFiles(dataDir: string, resolve: (path: string) => string): string[] {
  const plan = readableStandbyPlan(dataDir)
  if (plan === undefined) return existsSync(resolve(STANDBY_FILE)) ? [STANDBY_FILE] : []
  const chains = plan.members.flatMap((member) => ('chain' in member ? [member.chain, member.certificate] : []))
  return [STANDBY_FILE, ...chains, ...(existsSync(resolve(plan.agent)) ? agentFiles(plan.agent, resolve) : [])]
}

/** What was rotated, and what is under way: without it a key that is half made would be nobody's. */
function rotationFiles(dataDir: string): string[] {
  const folder = join(dataDir, 'lifecycle')
  if (!existsSync(folder)) return []
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.json') && entry.name !== basename(STANDBY_FILE))
    .map(({ parentPath, name }) => join(parentPath, name))
}

/** What the account is compared with beside the logs: without it a restored server would know none of its uses. */
function notedUses(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : []
}

/** A spawned agent's configuration with the certificates that it names; not its PIN files. */
function agentFiles(file: string, resolve: (path: string) => string): string[] {
  const { keys } = agentConfiguration.parse(parse(readFileSync(resolve(file), 'utf8')))
  const certificates = Object.values(keys).flatMap(({ issuerCertificate }) => issuerCertificate ?? [])
  return [file, ...certificates.map((name) => join(dirname(resolve(file)), name))]
}

const agentConfiguration = z.object({
  keys: z.record(z.string(), z.object({ issuerCertificate: z.string().optional() })).default({}),
})

const STANDBY_NOT_HERE =
  'the keys that stand by: their token is its own copy; lost, others are made and published: chancery rotate standby'

function notBackedUp({ config, dataDir }: LoadedConfig): string[] {
  const hasTls = [config.metrics, config.ca, config.timestamp, config.trustRoot, ...config.logs].some(
    (part) => part?.tls !== undefined,
  )
  return [
    'the state of the agent (guards, latches, counters): restored with its databases it would guard nothing',
    'PINs, and the tokens themselves',
    ...(readableStandbyPlan(dataDir) === undefined ? [] : [STANDBY_NOT_HERE]),
    ...(hasTls ? ['the private keys of TLS: issue them anew'] : []),
    ...('spawn' in config.agent ? [] : ["the agent's own configuration: it belongs to another user"]),
    ...(config.developmentIssuer === undefined ? [] : ['the key of the development issuer: it makes itself a new one']),
  ]
}
