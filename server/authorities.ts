/** The two services that sign under certificates of their own: the CA and the timestamp authority. */
import { type Authority, type AuthorityChange, createAuthority } from '#ca'
import type { SigningAgent } from '#hsm'
import type { IssuerPolicy } from '#policy'
import { createTimestampAuthority, type TimestampAuthority } from '#timestamp'
import { ctLogOf } from '#transparency-log'
import { canaryIdentity } from './canary-bundle.ts'
import type { IssuingAgent } from './cap-alarm.ts'
import { type LoadedConfig, readCertificates } from './config.ts'
import type { Parts } from './main.ts'
import { timeSourceOf } from './time-source.ts'

type Surroundings = Pick<Parts, 'clock' | 'disk' | 'logs' | 'acceptedRoots'>

/** The CA of the configuration, if it has one. Rejects with `CaError` if key, chain and log do not fit together. */
export async function openAuthority(
  loaded: LoadedConfig,
  parts: Surroundings & { readonly agent: IssuingAgent; readonly issuers: readonly IssuerPolicy[] },
): Promise<Authority | undefined> {
  const { ca } = loaded.config
  if (ca === undefined) return undefined
  const ct = parts.logs.find(({ config }) => config.name === ca.ctLog)
  if (ct === undefined) throw new TypeError(`no CT log ${ca.ctLog}`) // the configuration was checked for it
  const { agent, clock, disk, issuers } = parts
  return await createAuthority({
    agent,
    key: ca.key,
    chain: readCertificates(loaded, ca.chain),
    ...ctLogForCa(parts, ct),
    issuers,
    clock: clock.now,
    refusal: () => clock.fault() ?? disk.issuance(),
    canaryIdentity: canaryIdentity(loaded.config.domain),
  })
}

/** A log as the CA of the same process enters its precertificates. */
export function ctLogForCa(
  { acceptedRoots }: Pick<Parts, 'acceptedRoots'>,
  { config, log }: Parts['logs'][number],
): Required<Pick<AuthorityChange, 'ctLog' | 'ctLogSpkiDer'>> {
  if (config.kind !== 'ct') throw new TypeError(`log ${config.name} is no CT log`) // the configuration was checked for it
  return { ctLog: ctLogOf({ log, roots: acceptedRoots.of(config) }), ctLogSpkiDer: log.spkiDer }
}

/** The timestamp authority of the configuration, if it has one. */
export async function openTimestampAuthority(
  loaded: LoadedConfig,
  { agent, clock }: { readonly agent: SigningAgent } & Pick<Parts, 'clock'>,
): Promise<TimestampAuthority | undefined> {
  const { timestamp, profile } = loaded.config
  if (timestamp === undefined) return undefined
  const timeSource =
    timestamp.timeSource === undefined ? {} : { timeSource: timeSourceOf(timestamp.timeSource.command) }
  return await createTimestampAuthority({
    agent,
    key: timestamp.key,
    chain: readCertificates(loaded, timestamp.chain),
    now: clock.now,
    clockFault: clock.fault,
    production: profile === 'production',
    ...timeSource,
  })
}
