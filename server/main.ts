/**
 * The composition root: builds the parts that the configuration names, in the order in which they need each other, and
 * takes them down in reverse. A fault while starting takes down what had started.
 */

import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, resolve as resolvePath } from 'node:path'
import { type Logger, pino } from 'pino'
import { parse as parseYaml } from 'yaml'
import { Alarms, CATALOGUE, type Code, OperatorError } from '#alarms'
import { type Authority, caSection } from '#ca'
import { connectAgent, connectRoleAgents, HsmError, type SigningAgent, spawnAgent, recordUses, UseJournal } from '#hsm'
import { collectProcessMetrics, metricsSection } from '#http'
import { parseFulcioConfig } from '#policy'
import { type Reconciled, type ReconcileStep, USES } from '#lifecycle'
import { type TimestampAuthority, timestampSection } from '#timestamp'
import {
  ctSignEntry,
  killAt,
  LogError,
  type Log,
  openLog,
  rekorV1SignEntry,
  startEntryChecks,
  StoreError,
} from '#transparency-log'
import { openTrustRoot, type TrustRoot, trustRootSection } from '#trust-root'
import { RootsOfLogs } from './accepted-roots.ts'
import { isServed, listenAdmin } from './admin.ts'
import { watchAccountHead } from './account-head.ts'
import { type Anchors, isWitnessed, startAnchors } from './anchors.ts'
import { backupVerb, watchBackupAge } from './backup.ts'
import { Canaries } from './canary.ts'
import { canaryIdentity, canaryPartsOf } from './canary-bundle.ts'
import { canaryVerbs } from './canary-verbs.ts'
import { firstEntriesOf } from './first-entry.ts'
import { kitVerb } from './kit-verb.ts'
import { openAuthority, openTimestampAuthority } from './authorities.ts'
import { tellOfCap } from './cap-alarm.ts'
import { timeSourcesOf, type WatchedClock, watchClock } from './clock.ts'
import type { LoadedConfig, LogConfig } from './config.ts'
import { type WatchedDisk, watchDisk } from './disk.ts'
import { distrustVerbs } from './distrust.ts'
import { watchAges } from './age-alarms.ts'
import { watchAgent } from './agent-alarms.ts'
import { writeEndpoints } from './endpoints.ts'
import { showInMetrics } from './gauges.ts'
import { Listeners, type Mount } from './listeners.ts'
import { watchLogs } from './log-alarms.ts'
import { LogServices } from './log-services.ts'
import type { Succession } from './log-switch.ts'
import { adoptionVerb, freezeVerb, fsckVerb, logLines, resumeVerb } from './log-verbs.ts'
import { refuseInProduction, summaryOf } from './production.ts'
import { reconcileVerb, watchReconciled } from './reconcile.ts'
import { readinessOf, statusOf } from './status.ts'
import { switchVerbs } from './switch-verbs.ts'
import { trustVerbs } from './trust-verbs.ts'

export interface Server {
  /** Stops taking requests, finishes what was accepted, closes stores and the agent. May be called twice. */
  close(): Promise<void>
}

export interface ServeOptions {
  readonly logger: Logger
  /** Starts the development issuer; given by the CLI, since it rests on a development dependency. */
  readonly startDevelopmentIssuer?: (at: {
    dataDir: string
    listen: string
    url: string
  }) => Promise<{ close(): Promise<void> }>
  /** Opens everything and checks it, listens on nothing, and closes again. */
  readonly checkOnly?: boolean
}

/** The running parts, as status and readiness look at them. */
export interface Parts {
  readonly loaded: LoadedConfig
  readonly agent: SigningAgent
  readonly clock: WatchedClock
  readonly disk: WatchedDisk
  readonly alarms: Alarms
  /** Grows when a log gets a successor. */
  readonly logs: { readonly config: LogConfig; readonly log: Log }[]
  readonly acceptedRoots: RootsOfLogs
  readonly authority?: Authority
  readonly timestamp?: TimestampAuthority
  readonly trustRoot?: TrustRoot
  /** Beside a trust root. */
  readonly canaries?: Canaries
  readonly anchors: Anchors
  readonly startedAt: Date
}

/** Starts everything in `loaded.config`. Rejects with the first fault; nothing is left running then. */
export async function serve(loaded: LoadedConfig, options: ServeOptions): Promise<Server> {
  const { logger } = options
  const closers: (() => Promise<void> | void)[] = []
  const close = async () => {
    for (const closer of closers.splice(0).toReversed()) await closer()
  }
  try {
    await refuseSecondServer(loaded)
    const parts = await openParts(loaded, logger, closers)
    if (options.checkOnly === true) return { close }

    if (loaded.config.developmentIssuer !== undefined) {
      if (options.startDevelopmentIssuer === undefined)
        throw new TypeError('the development issuer is configured but not given')
      const issuer = await options.startDevelopmentIssuer({
        dataDir: loaded.dataDir,
        ...loaded.config.developmentIssuer,
      })
      closers.push(async () => await issuer.close())
    }
    await listenAll(parts, logger, closers)
    parts.trustRoot?.start()
    parts.authority?.prefetch().then(
      (failed) =>
        failed.forEach(({ issuerUrl }) =>
          logger.warn({ issuer: issuerUrl }, 'issuer cannot be reached; it is tried again when a token needs it'),
        ),
      (error: unknown) => logger.warn({ err: error }, 'issuers could not be looked up ahead'),
    )

    const endpointsFile = loaded.resolve('run/endpoints.json')
    try {
      writeEndpoints(endpointsFile, loaded)
    } catch (error) {
      // A full disk must not keep a server from its readers.
      logger.warn({ err: error }, 'run/endpoints.json cannot be written: commands that look there will not find us')
    }
    closers.push(() => rmSync(endpointsFile, { force: true }))
    logger.info({ milliseconds: Date.now() - parts.startedAt.getTime() }, 'ready')
    return { close }
  } catch (error) {
    await close().catch((fault: unknown) => logger.error({ err: fault }, 'could not stop cleanly'))
    throw error
  }
}

/** `chancery audit reconcile` without a server: everything is opened, nothing listens, and all is closed again. */
export async function reconcileOffline(
  loaded: LoadedConfig,
  { onStep, accept }: { readonly onStep?: (step: ReconcileStep) => void; readonly accept?: unknown },
): Promise<Reconciled> {
  const closers: (() => Promise<void> | void)[] = []
  try {
    await refuseSecondServer(loaded)
    const parts = await openParts(loaded, pino({ level: 'silent' }), closers)
    const argument = accept === undefined ? {} : { accept }
    const progress = (step: unknown) => onStep?.(step as ReconcileStep) // what `reconcile` tells
    return await reconcileVerb(parts, { argument, progress, signal: new AbortController().signal })
  } finally {
    for (const closer of closers.toReversed()) await closer()
  }
}

/** Told before anything is opened: each lock below would refuse as well, one after the other and after a wait. */
async function refuseSecondServer({ config, dataDir, resolve }: LoadedConfig): Promise<void> {
  const socket = resolve(config.admin.socket)
  if (!(await isServed(socket))) return
  throw new OperatorError(
    'store_in_use',
    `a server runs on ${dataDir} already: it answers on ${socket}. One server a data folder; stop it first`,
  )
}

/** Agent first, then what signs with it: logs, CA, timestamps, trust root. */
async function openParts(
  loaded: LoadedConfig,
  logger: Logger,
  closers: (() => Promise<void> | void)[],
): Promise<Parts> {
  const { config } = loaded
  const startedAt = new Date()
  const alarms = new Alarms(({ code, subject, message }, change) => {
    if (change === 'raised') logger.error({ alarm: code, subject, runbook: `docs/runbook.md#${code}` }, message)
    else logger.info({ alarm: code, subject }, 'alarm is over')
  })
  const clock = await watchClock({
    sources: timeSourcesOf(config),
    steadySeconds: config.time.steadySeconds,
    strict: config.profile === 'production',
    alarms,
  })
  closers.push(clock.close)

  const disk = await openDisk(loaded, alarms)
  closers.push(() => disk.close())
  const journal = new UseJournal(loaded.resolve(USES), (error) =>
    logger.warn({ err: error }, 'a use of a key could not be noted: chancery audit reconcile will name it'),
  )
  closers.push(() => journal.close())
  const agent = recordUses(await openAgent(loaded, logger), journal)
  closers.push(async () => await agent.close())
  closers.push(watchAgent(agent, alarms, () => keysOfEndedLogs(config.logs)))
  const issuers = config.ca === undefined ? [] : parseFulcioConfig(readText(loaded, config.ca.issuers))
  refuseInProduction(loaded, await agent.status(), issuers.map(summaryOf))

  const logs = await Promise.all(
    config.logs.map(async (logConfig) => {
      const log = await openConfiguredLog(logConfig, { loaded, agent, clock, disk, logger }).catch((error: unknown) => {
        throw logRefusal(error, logConfig) ?? error
      })
      closers.push(async () => await log.close())
      return { config: logConfig, log }
    }),
  )
  closers.push(
    watchLogs(
      () =>
        logs.map(({ config: { name }, log }) => ({ log, ended: logs.some((other) => other.config.succeeds === name) })),
      alarms,
    ),
  )
  const anchors = await startAnchors({ loaded, logs, agent, alarms, logger })
  closers.push(async () => await anchors.close())
  const acceptedRoots = new RootsOfLogs(loaded)
  const issuing = { agent: tellOfCap(agent, alarms), clock, disk, logs, acceptedRoots, issuers }
  const authority = await openAuthority(loaded, issuing)
  const timestamp = await openTimestampAuthority(loaded, { agent, clock })
  const canaries = canariesOf(loaded, logger)
  const trustRoot = await openConfiguredTrustRoot(loaded, { agent, logger, canaries })
  if (trustRoot !== undefined) closers.push(async () => await trustRoot.close())
  return {
    loaded,
    agent,
    clock,
    disk,
    alarms,
    logs,
    acceptedRoots,
    anchors,
    startedAt,
    ...(authority && { authority }),
    ...(timestamp && { timestamp }),
    ...(trustRoot && { trustRoot }),
    ...(canaries && { canaries }),
  }
}

/**
 * How long a service waits for one answer of the agent. An HSM's short absence is sat out in it; beyond that a refusal
 * that says when to come again must arrive before clients give up, of which sigstore-js does after five seconds.
 */
const AGENT_DEADLINE_MS = 3_000

async function openAgent(loaded: LoadedConfig, logger: Logger): Promise<SigningAgent> {
  const { agent } = loaded.config
  const deadlineMs = AGENT_DEADLINE_MS
  if ('socket' in agent) return await connectAgent({ socketPath: loaded.resolve(agent.socket) }, { deadlineMs })
  if ('sockets' in agent) {
    const at = (path: string | undefined) => (path === undefined ? undefined : loaded.resolve(path))
    const { ca, log, timestamp, trust, audit } = agent.sockets
    return await connectRoleAgents(
      { ca: at(ca), log: at(log), timestamp: at(timestamp), trust: at(trust), audit: at(audit) },
      { deadlineMs },
    )
  }
  try {
    return (await spawnAgent({ configPath: loaded.resolve(agent.spawn), logger, deadlineMs })).agent
  } catch (error) {
    throw stateRefusal(error) ?? error
  }
}

/** What an agent said of its state before it ended reaches us as words. */
function stateRefusal(error: unknown): OperatorError | undefined {
  if (!(error instanceof HsmError)) return undefined
  if (error.message.startsWith('state_copied')) {
    return new OperatorError('state_copied', error.message.replace(/^state_copied: /, ''), { cause: error })
  }
  return error.message.startsWith('another agent uses')
    ? new OperatorError('agent_locked', `${error.message}; stop it first`, { cause: error })
    : undefined
}

/**
 * The volumes of what is written here, which need not be that of the configuration; the agent's state too where the
 * agent is a child of ours.
 */
async function openDisk({ config, resolve }: LoadedConfig, alarms: Alarms): Promise<WatchedDisk> {
  const folders = new Set(config.logs.map(({ database }) => dirname(resolve(database))))
  if (config.trustRoot !== undefined) folders.add(resolve(config.trustRoot.folder))
  try {
    for (const folder of folders) mkdirSync(folder, { recursive: true, mode: 0o700 })
  } catch {
    // The look below says what is wrong with it.
  }
  if ('spawn' in config.agent) {
    const state = stateFolderOf(resolve(config.agent.spawn))
    if (state !== undefined && existsSync(state)) folders.add(state)
  }
  const disk = await watchDisk([...folders], config.disk ?? {}, alarms)
  const readOnly = disk.volumes().find(({ state }) => state === 'read_only')
  if (readOnly === undefined) return disk
  disk.close()
  // A running server reads on; one that starts must lock its databases, which writes.
  throw new OperatorError('disk_read_only', `${readOnly.path} cannot be written; make it writable, then start again`)
}

/** Where an agent's configuration puts its state; a fault in it is for the agent to tell. */
function stateFolderOf(agentFile: string): string | undefined {
  try {
    const found: unknown = parseYaml(readFileSync(agentFile, 'utf8'))
    const state = typeof found === 'object' && found !== null && 'state' in found ? found.state : undefined
    return typeof state === 'string' ? resolvePath(dirname(agentFile), state) : undefined
  } catch {
    return undefined
  }
}

/** The clock for what states its time to the world: without trust it gives none, and nothing is committed or sealed with it. */
function trusted(clock: WatchedClock): () => number {
  return () => {
    const fault = clock.fault()
    if (fault !== undefined) throw new LogError('unavailable', fault)
    return clock.now()
  }
}

/** What keeps a log from being opened and is in the runbook. */
function logRefusal(error: unknown, { name, database }: LogConfig): OperatorError | undefined {
  if (error instanceof StoreError && error.code === 'in_use') {
    return new OperatorError('store_in_use', `log ${name}: ${database}: ${error.message}`, { cause: error })
  }
  if (!(error instanceof LogError) || !Object.hasOwn(CATALOGUE, error.code)) return undefined
  return new OperatorError(error.code as Code, `log ${name}: ${error.message}`, { cause: error }) // just checked
}

interface LogSurroundings {
  readonly loaded: LoadedConfig
  readonly agent: SigningAgent
  readonly clock: WatchedClock
  readonly disk: WatchedDisk
  readonly logger: Logger
}

async function openConfiguredLog(
  config: LogConfig,
  { loaded, agent, clock, disk, logger }: LogSurroundings,
): Promise<Log> {
  const { name, kind, origin, key } = config
  const databasePath = loaded.resolve(config.database)
  mkdirSync(dirname(databasePath), { recursive: true, mode: 0o700 })
  const signEntry =
    kind === 'rekor-v1'
      ? { signEntry: rekorV1SignEntry(agent, key, config.indexOffset) }
      : kind === 'ct'
        ? { signEntry: ctSignEntry(agent, key) }
        : {}
  const faultPoint = config.faultPoint === undefined ? {} : { faultPoint: killAt(config.faultPoint) }
  const retired =
    config.spki === undefined ? {} : { retiredSpkiDer: new Uint8Array(Buffer.from(config.spki, 'base64')) }
  return await openLog({
    name,
    kind,
    origin,
    key,
    databasePath,
    agent,
    logger,
    // Entries of Rekor v2 state no time: it goes on after a step.
    now: kind === 'rekor-v2' ? clock.now : trusted(clock),
    refusal: () =>
      (kind === 'rekor-v2' ? undefined : clock.fault()) ?? (kind === 'ct' ? disk.issuance() : disk.uploads()),
    writing: () => disk.writing(name),
    witnessed: isWitnessed(loaded, config),
    ...signEntry,
    ...retired,
    ...faultPoint,
  })
}

function canariesOf({ config, resolve }: LoadedConfig, logger: Logger): Canaries | undefined {
  if (config.trustRoot === undefined) return undefined
  const { folder, cosign } = config.trustRoot
  return new Canaries({
    folder: resolve(folder),
    identity: canaryIdentity(config.domain),
    cosign: cosign && resolve(cosign),
    logger,
  })
}

async function openConfiguredTrustRoot(
  loaded: LoadedConfig,
  { agent, logger, canaries }: { agent: SigningAgent; logger: Logger; canaries: Canaries | undefined },
): Promise<TrustRoot | undefined> {
  const { trustRoot } = loaded.config
  if (trustRoot === undefined) return undefined
  const { rootAgent } = trustRoot
  const withRootAgent =
    rootAgent === undefined
      ? {}
      : {
          withRootAgent: async <T>(use: (agent: SigningAgent) => Promise<T>): Promise<T> => {
            const root = await spawnAgent({ configPath: loaded.resolve(rootAgent), logger })
            const journal = new UseJournal(loaded.resolve(USES))
            try {
              return await use(recordUses(root.agent, journal))
            } finally {
              journal.close()
              await root.close()
            }
          },
        }
  return await openTrustRoot({
    folder: loaded.resolve(trustRoot.folder),
    agent,
    keys: { root: trustRoot.rootKey, online: trustRoot.onlineKey },
    logger,
    canary: async (candidate) => await canaries?.demand(candidate),
    ...withRootAgent,
  })
}

async function listenAll(parts: Parts, logger: Logger, closers: (() => Promise<void> | void)[]): Promise<void> {
  const { config, resolve } = parts.loaded
  const mounts: Mount[] = []
  if (config.metrics !== undefined) {
    collectProcessMetrics()
    closers.push(showInMetrics(parts))
    mounts.push({ ...config.metrics, section: metricsSection({ readiness: async () => await readinessOf(parts) }) })
  }
  if (config.ca !== undefined && parts.authority !== undefined)
    mounts.push({ ...config.ca, section: caSection(parts.authority, { logger }) })
  if (config.timestamp !== undefined && parts.timestamp !== undefined)
    mounts.push({ ...config.timestamp, section: timestampSection(parts.timestamp) })
  if (config.trustRoot !== undefined)
    mounts.push({ ...config.trustRoot, section: trustRootSection({ folder: resolve(config.trustRoot.folder) }) })
  const checks = startEntryChecks()
  closers.push(async () => await checks.close())
  const services = new LogServices(parts, checks)
  const first = new Set(parts.logs)
  closers.push(async () => {
    for (const joined of parts.logs) if (!first.has(joined)) await joined.log.close()
  })
  mounts.push(...services.mounts())
  parts.canaries?.connect(() => canaryPartsOf(parts, services, checks))
  const begin = firstEntriesOf(parts, checks, logger)
  const hasSuccessor = (name: string) => config.logs.some(({ succeeds }) => succeeds === name)
  await begin(parts.logs.filter((open) => !hasSuccessor(open.config.name)))
  const listeners = new Listeners(resolve, logger)
  closers.push(async () => await listeners.close())
  await listeners.open(mounts)

  const succession: Succession = {
    parts,
    services,
    open: async (logConfig) => await openConfiguredLog(logConfig, { ...parts, logger }),
    mount: async (mount) => await listeners.add(mount),
    begin,
    changed: () => writeEndpoints(resolve('run/endpoints.json'), parts.loaded),
  }
  const stopAdmin = await listenAdmin(resolve(config.admin.socket), {
    status: async () => await statusOf(parts),
    'publish-trust': async () => await parts.trustRoot?.publish(),
    ...trustVerbs(parts),
    ...canaryVerbs(parts),
    ...distrustVerbs(parts),
    ...kitVerb(parts),
    ...switchVerbs(succession),
    backup: async (request) => await backupVerb(parts, request),
    reconcile: async (request) => await reconcileVerb(parts, request),
    logs: async () => await logLines(parts),
    'log-fsck': async (request) => await fsckVerb(parts, request),
    'log-freeze': async (request) => await freezeVerb(parts, request),
    'log-adoption': async (request) => await adoptionVerb(parts, request),
    'log-resume': async (request) => await resumeVerb(parts, request),
  })
  closers.push(stopAdmin, watchBackupAge(parts), watchAges(parts), watchReconciled(parts, logger))
  closers.push(await watchAccountHead(parts, logger))
}

/** A log that has a successor signs nothing: its key may be lost. The witness's key is named after it. */
function keysOfEndedLogs(logs: readonly LogConfig[]): ReadonlySet<string> {
  const ended = logs.filter(({ name }) => logs.some(({ succeeds }) => succeeds === name))
  return new Set(ended.flatMap(({ key }) => [key, `${key}-witness`]))
}

function readText({ resolve }: LoadedConfig, path: string): string {
  return readFileSync(resolve(path), 'utf8')
}
