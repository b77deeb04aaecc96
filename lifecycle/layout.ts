/** The configuration files of a fresh one-machine installation, as text: pure functions of the choices made. */

import { stringify } from 'yaml'
import type { KeyKind } from '#hsm'
import type { TufQuorum } from './custodians.ts'
import { shardOrigin, successorName } from './log-names.ts'
import type { Ports } from './ports.ts'
import type { StandbyKind } from './standby-plan.ts'

/** What `chancery init` was asked for. */
export interface InstallationChoices {
  readonly profile: 'development'
  /** Names the logs: `rekor-v1.<domain>`, `rekor-v2.<domain>`, `ct.<domain>`. */
  readonly domain: string
  /** What clients dial. */
  readonly host: string
  /** The address every listener binds: another one in a container, whose loopback nobody outside reaches. */
  readonly listenHost: string
  readonly ports: Ports
  /** Positive int64, decimal: the Rekor v1 tree. */
  readonly treeId: string
  /** Root and targets of TUF are signed by so many custodians, each with a token; without it by one key. */
  readonly tufQuorum?: TufQuorum | undefined
  /** Kinds other than usual, by the keys' names; which purposes take which: docs/hsm. */
  readonly keyKinds?: Readonly<Record<string, KeyKind>>
  /** Shards later than the first, by the name of the log. */
  readonly shards?: Readonly<Record<'ct' | 'rekor-v2', string>>
}

/** A key's name for each kind of which one stands by. */
export type StandbyNames = Readonly<Record<StandbyKind, string>>

/** What stands by from the first day is the successor of what signs then. */
export const standbyNames: StandbyNames = {
  'issuing-ca': successorName('issuing-ca'),
  'ct-log': successorName('ct'),
  'rekor-v1': successorName('rekor-v1'),
  'rekor-v2': successorName('rekor-v2'),
  tsa: successorName('tsa'),
}

/** Away from the ports that are usual, and from the next ones. */
const STANDBY_PORTS_AFTER = 10

/** The choices by which the standby logs would be installed; authorities and Rekor v1 stay where they are dialled. */
export function standbyChoices(choices: InstallationChoices, treeId: string): InstallationChoices {
  const later = (port: number) => (port + STANDBY_PORTS_AFTER) % 65_536
  const { ports } = choices
  return {
    ...choices,
    treeId,
    ports: { ...ports, ct: later(ports.ct), rekorV2: later(ports.rekorV2) },
    shards: { ct: standbyNames['ct-log'], 'rekor-v2': standbyNames['rekor-v2'] },
  }
}

/** Origins, as signed into checkpoints and as clients of the trust root know them. */
export function origins({ domain, treeId, shards }: Pick<InstallationChoices, 'domain' | 'treeId' | 'shards'>) {
  const named = (name: 'ct' | 'rekor-v2') =>
    shardOrigin({ kind: name, origin: `${name}.${domain}` }, shards?.[name] ?? name, treeId)
  return { rekorV1: `rekor-v1.${domain} - ${treeId}`, rekorV2: named('rekor-v2'), ct: named('ct') }
}

/** What clients dial. */
export function urls({ host, ports }: Pick<InstallationChoices, 'host' | 'ports'>) {
  const at = (port: number) => `http://${host}:${port}`
  return {
    ca: at(ports.ca),
    oidc: at(ports.oidc),
    rekorV1: at(ports.rekorV1),
    rekorV2: at(ports.rekorV2),
    timestamp: at(ports.timestamp),
    ct: at(ports.ct),
    tuf: at(ports.tuf),
    metrics: at(ports.metrics),
  }
}

/** `chancery.yaml`, written once. */
export function chanceryYaml(choices: InstallationChoices): string {
  const { listenHost, ports, treeId } = choices
  const origin = origins(choices)
  const url = urls(choices)
  const listen = (port: number) => `${listenHost}:${port}`
  const document = {
    profile: choices.profile,
    domain: choices.domain,
    agent: { spawn: 'agent/online.yaml' },
    admin: { socket: 'run/admin.sock' },
    metrics: { listen: listen(ports.metrics) },
    ca: {
      listen: listen(ports.ca),
      url: url.ca,
      key: 'issuing-ca',
      chain: 'ca/chain.pem',
      ctLog: 'ct',
      issuers: 'ca/issuers.yaml',
    },
    logs: [
      {
        name: 'ct',
        kind: 'ct',
        listen: listen(ports.ct),
        url: url.ct,
        origin: origin.ct,
        key: 'ct',
        database: 'logs/ct.db',
        roots: 'ca/root.pem',
      },
      {
        name: 'rekor-v1',
        kind: 'rekor-v1',
        listen: listen(ports.rekorV1),
        url: url.rekorV1,
        origin: origin.rekorV1,
        treeId,
        key: 'rekor-v1',
        database: 'logs/rekor-v1.db',
      },
      {
        name: 'rekor-v2',
        kind: 'rekor-v2',
        listen: listen(ports.rekorV2),
        url: url.rekorV2,
        origin: origin.rekorV2,
        key: 'rekor-v2',
        database: 'logs/rekor-v2.db',
        strict: false,
      },
    ],
    timestamp: { listen: listen(ports.timestamp), url: url.timestamp, key: 'tsa', chain: 'timestamp/chain.pem' },
    trustRoot: {
      listen: listen(ports.tuf),
      url: url.tuf,
      folder: 'trust-root',
      onlineKey: 'tuf-online',
      rootKey: 'tuf-root',
      // Custodians sign elsewhere, also in development.
      ...(choices.tufQuorum === undefined ? { rootAgent: 'agent/root.yaml' } : {}),
      defaultRekor: 1,
    },
    account: { key: 'account' },
    developmentIssuer: { listen: listen(ports.oidc), url: url.oidc },
  }
  return `# Written once by \`chancery init\`; yours from now on. Every field is told in server/config.ts.\n${stringify(document, { lineWidth: 120 })}`
}

/** `ca/issuers.yaml`, in the format of Fulcio's own configuration. */
export function issuersYaml(choices: InstallationChoices): string {
  const { oidc } = urls(choices)
  const document = {
    'oidc-issuers': {
      [oidc]: {
        'issuer-url': oidc,
        'client-id': 'sigstore',
        type: 'email',
        description: 'development issuer: it gives a token to whoever asks',
      },
    },
  }
  return `# Who may get a certificate, in the format of Fulcio's own configuration.\n${stringify(document, { lineWidth: 120 })}`
}
