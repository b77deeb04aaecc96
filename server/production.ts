/** What the production profile refuses (design decision 13): all of it is found before anything listens. */

import { statSync } from 'node:fs'
import type { AgentStatus } from '#hsm'
import type { IssuerPolicy } from '#policy'
import { ConfigError, type LoadedConfig } from './config.ts'

/** What of an issuer's policy the refusals need. */
export interface IssuerSummary {
  readonly issuerUrl: string
  readonly wildcard: boolean
  readonly hasAllowRule: boolean
}

export function summaryOf({ issuerUrl, pattern, allow }: IssuerPolicy): IssuerSummary {
  return { issuerUrl: issuerUrl ?? pattern ?? '', wildcard: pattern !== undefined, hasAllowRule: allow !== undefined }
}

/** Issuers whose accounts belong to many organisations: a token of theirs says nothing of ours without a rule. */
const sharedIssuers = [
  'https://token.actions.githubusercontent.com',
  'https://gitlab.com',
  'https://accounts.google.com',
  'https://agent.buildkite.com',
  'https://oidc.codefresh.io',
  'https://oauth2.sigstore.dev/auth',
  'https://github.com/login/oauth',
  'https://login.microsoftonline.com',
  'https://oidc.circleci.com',
]

/** Every reason not to run under `production`; empty in development. `ownSockets`: sockets of the agent that our user owns. */
export function productionFaults(
  { config }: LoadedConfig,
  agent: AgentStatus,
  issuers: readonly IssuerSummary[],
  ownSockets: readonly string[] = [],
): string[] {
  if (config.profile !== 'production') return []
  const faults: string[] = []
  if (config.developmentIssuer !== undefined) faults.push('developmentIssuer: it gives a token to whoever asks')
  if ('spawn' in config.agent)
    faults.push('agent.spawn: run the agent on its own, under another user, and name its socket')
  for (const socket of ownSockets)
    faults.push(`agent: ${socket} is of our own user, who could then read the PIN; run the agent as another user`)
  if (config.trustRoot?.rootAgent !== undefined) faults.push('trustRoot.rootAgent: the root token stays offline')
  if (config.timestamp !== undefined && config.timestamp.timeSource === undefined)
    faults.push('timestamp.timeSource: a timestamp authority needs a checked clock')
  for (const log of config.logs)
    if (log.faultPoint !== undefined) faults.push(`logs.${log.name}.faultPoint: for crash tests only`)
  if (config.switchFaultPoint !== undefined) faults.push('switchFaultPoint: for crash tests only')
  if (config.time.sources.length === 0 && config.timestamp?.timeSource === undefined)
    faults.push('time.sources: without a source of time nobody can tell whether a step of the clock was right')
  if (agent.clock.confirmedBy === 'steady')
    faults.push('agent: set clock.confirmedBy in its configuration to kernel or to a command')
  for (const token of agent.tokens) {
    if (token.software && config.softwareTokenAccepted === undefined) {
      faults.push(
        `token ${token.label} is a software token (${token.manufacturer} ${token.model}): use an HSM, or say why it is accepted in softwareTokenAccepted`,
      )
    }
  }
  for (const [section, { listen, url, tls }] of listeners({ config })) {
    if (tls === undefined && !isLoopback(listen))
      faults.push(`${section}.listen: plain HTTP beyond loopback (${listen}); set tls`)
    if (url !== undefined && url.startsWith('http:') && !isLoopback(new URL(url).host))
      faults.push(`${section}.url: plain HTTP beyond loopback (${url})`)
  }
  for (const anchor of config.anchors) {
    // What a witness says stops a log, and its 409 is not signed: whoever is on the way could say it.
    if (anchor.kind === 'witness' && anchor.url.startsWith('http:') && !isLoopback(new URL(anchor.url).host))
      faults.push(`anchors.${anchor.name}.url: plain HTTP beyond loopback (${anchor.url})`)
  }
  for (const issuer of issuers) {
    if (issuer.issuerUrl.startsWith('http:')) faults.push(`issuer ${issuer.issuerUrl}: plain HTTP`)
    const shared =
      issuer.wildcard ||
      sharedIssuers.some((known) => issuer.issuerUrl === known || issuer.issuerUrl.startsWith(`${known}/`))
    if (shared && !issuer.hasAllowRule)
      faults.push(`issuer ${issuer.issuerUrl}: shared by many organisations and has no allow rule`)
  }
  return faults
}

/** Throws `ConfigError` with all of `productionFaults` if there is any. */
export function refuseInProduction(loaded: LoadedConfig, agent: AgentStatus, issuers: readonly IssuerSummary[]): void {
  const faults = productionFaults(loaded, agent, issuers, ownSocketsOf(loaded))
  if (faults.length > 0) {
    throw new ConfigError(
      'refused_in_production',
      `the production profile refuses ${loaded.file}:\n  ${faults.join('\n  ')}`,
    )
  }
}

/** An agent's sockets are made by it, so their owner is its user. */
function ownSocketsOf({ config: { agent }, resolve }: LoadedConfig): string[] {
  const sockets = 'socket' in agent ? [agent.socket] : 'sockets' in agent ? Object.values(agent.sockets) : []
  return sockets
    .filter((path) => path !== undefined)
    .filter((path) => statSync(resolve(path)).uid === process.getuid?.())
}

interface Listening {
  readonly listen: string
  readonly url?: string | undefined
  readonly tls?: unknown
}

function listeners({ config }: Pick<LoadedConfig, 'config'>): [string, Listening][] {
  const all: [string, Listening | undefined][] = [
    ['metrics', config.metrics],
    ['ca', config.ca],
    ['timestamp', config.timestamp],
    ['trustRoot', config.trustRoot],
    ...config.logs.map((log): [string, Listening] => [`logs.${log.name}`, log]),
  ]
  return all.filter((entry): entry is [string, Listening] => entry[1] !== undefined)
}

function isLoopback(hostPort: string): boolean {
  const host = hostPort.replace(/:\d+$/, '')
  return host === 'localhost' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host)
}
