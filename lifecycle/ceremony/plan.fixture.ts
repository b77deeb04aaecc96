/** A whole plan for tests: everything that an installation needs, on two machines. */
import { stringify } from 'yaml'

export interface PlanParts {
  readonly operators: readonly { readonly name: string; readonly field: string; readonly publicKey: string }[]
  /** Token URIs by name: root, online, standby. */
  readonly uris: Readonly<Record<'root' | 'online' | 'standby', string>>
  readonly changes?: Readonly<Record<string, unknown>>
}

const name = (commonName: string) => ({ organization: 'Example Ltd', commonName })

/** As data, for tests that change something in it. */
export function planDocument({ operators, uris, changes = {} }: PlanParts) {
  const online = { token: 'online' }
  const standby = { token: 'standby', standby: true }
  return {
    ceremony: 'drill-2026',
    expires: '2099-01-01T00:00:00Z',
    quorum: 2,
    operators: operators.map(({ name: who, field, publicKey }) => ({ name: who, [field]: publicKey })),
    tokens: {
      root: { machine: 'vault', uri: uris.root, agent: 'root' },
      online: { machine: 'server', uri: uris.online, agent: 'online' },
      standby: { machine: 'server', uri: uris.standby, agent: 'standby' },
    },
    make: [
      { what: 'root-ca', key: 'root-ca', token: 'root', kind: 'P-384', ...name('Example root'), years: 10 },
      { what: 'tuf-key', key: 'tuf-root', token: 'root', kind: 'P-256', roles: ['root', 'targets'], holder: 'vault' },
      { what: 'ct-log', key: 'ct', ...online, origin: 'ct.drill.test' },
      { what: 'rekor-v1', key: 'rekor-v1', ...online, origin: 'rekor-v1.drill.test - 72057594037927937' },
      { what: 'rekor-v2', key: 'rekor-v2', ...online, origin: 'rekor-v2.drill.test' },
      {
        what: 'issuing-ca',
        key: 'issuing-ca',
        ...online,
        kind: 'P-256',
        ...name('Example issuing CA'),
        years: 5,
        issuer: 'root-ca',
        ctKey: 'ct',
      },
      {
        what: 'timestamp-authority',
        key: 'tsa',
        ...online,
        kind: 'P-256',
        ...name('Example timestamp authority'),
        years: 5,
        issuer: 'root-ca',
      },
      { what: 'tuf-key', key: 'tuf-online', ...online, kind: 'P-256', roles: ['snapshot', 'timestamp'] },
      { what: 'account', key: 'account', ...online, origin: 'account.drill.test' },
      {
        what: 'issuing-ca',
        key: 'issuing-ca-2',
        ...standby,
        kind: 'P-256',
        ...name('Example issuing CA 2'),
        years: 5,
        issuer: 'root-ca',
        ctKey: 'ct',
      },
      {
        what: 'tuf-root',
        root: { threshold: 1, keys: ['tuf-root'] },
        targets: { threshold: 1, keys: ['tuf-root'] },
        online: 'tuf-online',
      },
    ],
    ...changes,
  }
}

export function planText(parts: PlanParts): string {
  return `# What will be made, and who must agree.\n${stringify(planDocument(parts), { lineWidth: 0 })}`
}
