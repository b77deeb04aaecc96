/** The configuration files of a fresh one-machine installation, as text: pure functions of the choices made. */

import { stringify } from 'yaml'
import type { KeyKind } from '#hsm'
import { hostOfOrigin } from '#trust-root'
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
  /**
   * Served by name at one address: `https://fulcio.<domain>`, `tsa.`, `tuf.`, and the hosts of the logs' origins. `ports`
   * names one port for all of them then. PEM files, absolute. Without it each service has a port of its own at `host`.
   */
  readonly https?: { readonly certFile: string; readonly keyFile: string } | undefined
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

/** Where the logs that stand by are served one day, each on a port of its own. */
export function standbyPorts(ports: Pick<Ports, 'ct' | 'rekorV2'>): Pick<Ports, 'ct' | 'rekorV2'> {
  return { ct: standbyPort(ports.ct), rekorV2: standbyPort(ports.rekorV2) }
}

/** The next one after the port of a log. */
export function standbyPort(port: number): number {
  return (port + STANDBY_PORTS_AFTER) % 65_536
}

/** The choices by which the standby logs would be installed; authorities and Rekor v1 stay where they are dialled. */
export function standbyChoices(choices: InstallationChoices, treeId: string): InstallationChoices {
  const { ports } = choices
  return {
    ...choices,
    treeId,
    ports: choices.https ? ports : { ...ports, ...standbyPorts(ports) },
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
export function urls(choices: Pick<InstallationChoices, 'host' | 'ports' | 'https' | 'domain' | 'treeId' | 'shards'>) {
  const { host, ports, https, domain } = choices
  const at = (port: number) => `http://${host}:${port}`
  const origin = origins(choices)
  /** The default port is not told: some clients compare addresses as text. */
  const named = (name: string, port: number) =>
    https === undefined ? at(port) : `https://${name}${port === 443 ? '' : `:${port}`}`
  return {
    ca: named(`fulcio.${domain}`, ports.ca),
    oidc: at(ports.oidc),
    rekorV1: named(hostOfOrigin(origin.rekorV1), ports.rekorV1),
    rekorV2: named(origin.rekorV2, ports.rekorV2),
    timestamp: named(`tsa.${domain}`, ports.timestamp),
    ct: named(origin.ct, ports.ct),
    tuf: named(`tuf.${domain}`, ports.tuf),
    metrics: at(ports.metrics),
  }
}

/** The names that `https` needs: of a certificate, and in the DNS. */
export function serviceNames(choices: Pick<InstallationChoices, 'domain' | 'treeId'>): readonly string[] {
  const { domain } = choices
  const { rekorV1, rekorV2, ct } = origins(choices)
  return [`fulcio.${domain}`, hostOfOrigin(rekorV1), rekorV2, `tsa.${domain}`, ct, `tuf.${domain}`]
}

/** The names that it needs as well once an emergency has brought a log into service. */
export function standbyServiceNames({ domain }: Pick<InstallationChoices, 'domain'>): readonly string[] {
  const shards = { ct: standbyNames['ct-log'], 'rekor-v2': standbyNames['rekor-v2'] }
  const { rekorV2, ct } = origins({ domain, treeId: '', shards })
  return [rekorV2, ct]
}

/** `chancery.yaml`, written once. */
export function chanceryYaml(choices: InstallationChoices): string {
  const { listenHost, ports, treeId } = choices
  const origin = origins(choices)
  const url = urls(choices)
  const listen = (port: number) => `${listenHost}:${port}`
  const tls = choices.https === undefined ? {} : { tls: choices.https }
  const document = {
    profile: choices.profile,
    domain: choices.domain,
    agent: { spawn: 'agent/online.yaml' },
    admin: { socket: 'run/admin.sock' },
    metrics: { listen: listen(ports.metrics) },
    ca: {
      listen: listen(ports.ca),
      ...tls,
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
        ...tls,
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
        ...tls,
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
        ...tls,
        url: url.rekorV2,
        origin: origin.rekorV2,
        key: 'rekor-v2',
        database: 'logs/rekor-v2.db',
        strict: false,
      },
    ],
    timestamp: {
      listen: listen(ports.timestamp),
      ...tls,
      url: url.timestamp,
      key: 'tsa',
      chain: 'timestamp/chain.pem',
    },
    trustRoot: {
      listen: listen(ports.tuf),
      ...tls,
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
  return `# Written once by \`chancery init\`; yours from now on. Every field is told in server/config.ts.\n${stringify(document, { lineWidth: 120, aliasDuplicateObjects: false })}`
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
