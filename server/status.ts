/**
 * What each service can do just now. A service that cannot sign is `degraded` while readers and verifiers are still
 * served; the process is not ready only when it cannot serve those.
 */

import { readFileSync } from 'node:fs'
import { CATALOGUE, type Code, type Condition } from '#alarms'
import type { Readiness } from '#http'
import type { AnchorState } from '#transparency-log'
import type { TrustRootStatus } from '#trust-root'
import { decodePem, parseCertificate } from '#x509'
import type { AgentStatus } from '#hsm'
import { type LastBackup, readLastBackup } from './backup.ts'
import type { LoadedConfig } from './config.ts'
import type { VolumeState } from './disk.ts'
import type { Parts } from './main.ts'
import { standbyChains, type StandbyState, standbyStates } from './standby.ts'

export interface ServiceState {
  readonly service: string
  /** `ready`: does all of its work. `degraded`: reads go on, new work is refused. */
  readonly state: 'ready' | 'degraded'
  /** What is missing and what to do; empty when ready. */
  readonly reason: string
}

/** An alarm that is on, as `--json` has it. */
export interface StatusAlarm {
  readonly code: Code
  readonly severity: Condition['severity']
  readonly subject: string
  readonly message: string
  readonly since: string
  readonly runbook: string
}

export interface Status {
  /** Loudest first; empty when all is well. */
  readonly alarms: readonly StatusAlarm[]
  readonly profile: string
  readonly domain: string
  readonly startedAt: string
  readonly softwareTokenAccepted?: string
  readonly services: readonly ServiceState[]
  readonly agent: AgentStatus
  readonly logs: readonly {
    readonly name: string
    readonly origin: string
    readonly size: number
    readonly rootHashHex: string
    readonly sealedAt: string
    /** Size at the agent's guard; equal to `size` unless a seal is under way. */
    readonly guardedSize?: number
    /** Why the agent signs no head of it any more, or empty. */
    readonly guardLatched: string
    /** Callers that wait for their entry to be sealed. */
    readonly pending: number
    readonly kind: 'ct' | 'rekor-v1' | 'rekor-v2'
  }[]
  /** Each log at each anchor. */
  readonly anchors: readonly AnchorState[]
  readonly certificates: readonly { readonly name: string; readonly notAfter: string }[]
  readonly trustRoot?: TrustRootStatus
  /** What stands by for an emergency, by kind. */
  readonly standby: readonly StandbyState[]
  /** `fault`: why nothing that states a time is signed just now, or empty. */
  readonly clock: { readonly lastStepMs: number; readonly fault: string }
  /** One entry a volume that is written. */
  readonly disk: readonly VolumeState[]
  /** The last one that was finished, if any is known. */
  readonly lastBackup?: LastBackup
}

/** Looked up at the agent at most this long: status must answer when the HSM hangs. */
const agentTimeoutMs = 1_500

const unreachable: AgentStatus = {
  ready: false,
  reason: 'the HSM agent does not answer',
  startedAtMs: 0,
  queue: { underWay: 0, most: 0 },
  clock: { confirmedBy: 'steady', fault: '' },
  tokens: [],
  keys: [],
  guards: [],
}

async function agentStatus(parts: Parts): Promise<AgentStatus> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<AgentStatus>((resolve) => {
    timer = setTimeout(resolve, agentTimeoutMs, unreachable)
  })
  try {
    return await Promise.race([parts.agent.status().catch(() => unreachable), late])
  } finally {
    clearTimeout(timer)
  }
}

/** The whole picture, for `chancery status`. */
export async function statusOf(parts: Parts): Promise<Status> {
  const { config } = parts.loaded
  const agent = await agentStatus(parts)
  const trustRoot = await trustRootStatus(parts)
  const lastBackup = readLastBackup(parts.loaded)
  return {
    alarms: parts.alarms.active().map(({ code, subject, message, since }) => ({
      code,
      severity: CATALOGUE[code].severity,
      subject,
      message,
      since: since.toISOString(),
      runbook: `docs/runbook.md#${code}`,
    })),
    profile: config.profile,
    domain: config.domain,
    startedAt: parts.startedAt.toISOString(),
    ...(config.softwareTokenAccepted === undefined ? {} : { softwareTokenAccepted: config.softwareTokenAccepted }),
    services: serviceStates(parts, agent, trustRoot),
    agent,
    logs: parts.logs.map(({ config: { name, kind }, log }) => {
      const head = log.head()
      const guard = agent.guards.find(({ origin }) => origin === log.origin)
      return {
        name,
        origin: log.origin,
        size: head.size,
        rootHashHex: Buffer.from(head.rootHash).toString('hex'),
        sealedAt: new Date(head.timestampMs).toISOString(),
        ...(guard && { guardedSize: guard.size }),
        guardLatched: guard?.latched ?? '',
        pending: log.pending(),
        kind,
      }
    }),
    anchors: parts.anchors.states(),
    certificates: certificatesOf(parts.loaded),
    ...(trustRoot && { trustRoot }),
    standby: await standbyStates(parts.loaded),
    clock: { lastStepMs: parts.clock.lastStepMs(), fault: parts.clock.fault() ?? '' },
    disk: parts.disk.volumes(),
    ...(lastBackup && { lastBackup }),
  }
}

/**
 * Every certificate that ends one day, each once: of the authorities, and those with which listeners serve. Read from
 * the files, which may have been renewed since the start; one that cannot be read is left out.
 */
export function certificatesOf({ config, dataDir, resolve }: LoadedConfig): { name: string; notAfter: string }[] {
  const chain = (path: string | undefined, names: readonly string[]) =>
    path === undefined ? [] : dersIn(resolve(path)).map((der, at) => ({ name: names[at] ?? 'root CA', der }))
  const served: { certFile: string; name: string }[] = []
  const serve = (name: string, tls: { certFile: string } | undefined) => {
    if (tls !== undefined) served.push({ name: `TLS ${name}`, certFile: tls.certFile })
  }
  serve('metrics', config.metrics?.tls)
  serve('ca', config.ca?.tls)
  serve('timestamp', config.timestamp?.tls)
  serve('trust-root', config.trustRoot?.tls)
  for (const log of config.logs) serve(log.name, log.tls)
  const found = [
    ...chain(config.ca?.chain, ['issuing CA']),
    ...chain(config.timestamp?.chain, ['timestamp']),
    ...standbyChains(dataDir).flatMap((each) => chain(each.chain, [each.name])),
    ...served.flatMap(({ name, certFile }) =>
      dersIn(resolve(certFile))
        .slice(0, 1)
        .map((der) => ({ name, der })),
    ),
  ]
  const seen = new Set<string>()
  return found.flatMap(({ name, der }) => {
    const bytes = Buffer.from(der).toString('base64')
    if (seen.has(bytes)) return []
    seen.add(bytes)
    return [{ name, notAfter: parseCertificate(der).notAfter.toISOString() }]
  })
}

function dersIn(path: string): Uint8Array[] {
  try {
    return decodePem(readFileSync(path, 'utf8'), { labels: ['CERTIFICATE'] }).map(({ der }) => der)
  } catch {
    return []
  }
}

/** For `/readyz`: ready as long as what was signed can be read and verified, which ends with the trust root's validity. */
export async function readinessOf(parts: Parts): Promise<Readiness> {
  const [agent, trustRoot] = await Promise.all([agentStatus(parts), trustRootStatus(parts)])
  const states = serviceStates(parts, agent, trustRoot)
  return {
    ready: trustRoot?.state !== 'expired',
    services: Object.fromEntries(
      states.map(({ service, state, reason }) => [
        service,
        reason === '' ? { ready: state === 'ready' } : { ready: state === 'ready', reason },
      ]),
    ),
  }
}

/** Undefined without a trust root of ours; one that cannot be read serves clients as little as one that has expired. */
export async function trustRootStatus(parts: Pick<Parts, 'trustRoot'>): Promise<TrustRootStatus | undefined> {
  return await parts.trustRoot?.status().catch(() => ({ published: false, state: 'expired' as const, roles: [] }))
}

function serviceStates(parts: Parts, agent: AgentStatus, trust: TrustRootStatus | undefined): ServiceState[] {
  const hsm = agent.ready ? undefined : `HSM: ${agent.reason}`
  const state = (service: string, ...reasons: (string | undefined)[]): ServiceState => {
    const reason = reasons.filter((found) => found !== undefined && found !== '').join('; ')
    return { service, state: reason === '' ? 'ready' : 'degraded', reason }
  }
  const logStates = parts.logs.map(({ config, log }) => {
    const latch = agent.guards.find(({ origin }) => origin === log.origin)?.latched
    return state(
      config.name,
      hsm,
      log.fault()?.message ?? (config.kind === 'ct' ? parts.disk.issuance() : parts.disk.uploads()),
      latch === undefined || latch === '' ? undefined : `guard latched: ${latch}`,
    )
  })
  const ctLog = parts.loaded.config.ca?.ctLog
  const ctReason = logStates.find(({ service }) => service === ctLog)?.reason
  return [
    ...(parts.authority === undefined ? [] : [state('ca', parts.authority.fault(), ctReason, parts.clock.fault())]),
    ...logStates,
    ...(parts.timestamp === undefined ? [] : [state('timestamp', hsm, parts.clock.fault())]),
    ...(trust === undefined ? [] : [state('trust-root', trustFault(trust))]),
  ]
}

function trustFault({ published, state }: TrustRootStatus): string | undefined {
  if (!published) return 'no TUF repository can be read: clients cannot begin to verify; put trust-root/ back'
  if (state === 'expired') return 'TUF metadata has expired: clients refuse the mirror until it is signed again'
  return state === 'alarm'
    ? 'TUF metadata nears its end and was not signed again: see chancery trust status'
    : undefined
}
