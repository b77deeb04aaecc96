/** Plans to begin with, every field with a word about it. Text, not data: what a person reviews is what a person wrote. */
import { fingerprintWords } from './account.ts'
import type { Person } from './plan.ts'

/** What a plan can begin as. */
export const TEMPLATES = {
  installation: 'everything for a new installation: root, issuing CA, TSA, logs, TUF keys, standby set',
  root: 'a root CA alone, on an offline token',
  standby: 'what stands by for an emergency, below a root that is there',
  'tuf-root': 'custodians of the TUF root, each with a token and machine of their own',
  certificate: 'a certificate for a key that another machine asked for (chancery rotate)',
} as const
export type Template = keyof typeof TEMPLATES

/** What is known when a plan is begun; the rest is filled in by hand. */
export interface TemplateChoices {
  readonly ceremony: string
  readonly domain: string
  readonly organization: string
  readonly expires: Date
  readonly operators: readonly Person[]
  readonly quorum: number
  /** URIs by the tokens' names, where they are known. */
  readonly uris: Readonly<Record<string, string>>
  readonly treeIds: readonly [string, string]
  /** certificate: what is asked for; certificate, standby: the root that is there. */
  readonly request?: {
    readonly key: string
    readonly profile: string
    readonly commonName: string
    readonly spkiSha256: string
  }
  readonly rootSha256?: string
  readonly ctSpki?: string
}

/** The text of a plan. What is not known is in capitals, and no plan before it is filled in. */
export function templateText(template: Template, choices: TemplateChoices): string {
  const { tokens, make, existing } = BODIES[template](choices)
  return `# ${TEMPLATES[template].replace(/^./, (first) => first.toUpperCase())}.
#
# What operators approve is the SHA-256 of this file's bytes, comments and all (sha256sum). Read it, change it, and look at
# what it comes to:  chancery ceremony plan FILE
ceremony: ${quoted(choices.ceremony)}
# Nothing is done under this plan afterwards.
expires: ${choices.expires.toISOString().replace(/\.\d+Z$/, 'Z')}

# How many of the operators must approve, and their own keys: one of
#   ssh: the first two words of KEY.pub          minisign: the second line of minisign.pub
#   pkcs11: SPKI in base64 (chancery key show NAME --json)
quorum: ${choices.quorum}
operators:
${operatorLines(choices.operators)}
# Others who may sign the transcript; every operator may.
witnesses: []

# Each token with its machine (chancery ceremony run --at MACHINE), its RFC 7512 URI exactly as in agent.yaml there, best
# with its serial number, and the agent: a name (root: agent/root.yaml in the data folder), or the path of a file.
tokens:
${tokens.map((token) => tokenLine(token, choices.uris)).join('\n')}
${existing === undefined ? '' : `\n# Roots that are there already; the certificate lies in certificates/KEY.pem of the ceremony's folder.\nexisting:\n  - ${existing}\n`}
# What is made. \`key\` is the name in agent.yaml and the label on the token; it must be on neither. Kinds: docs/hsm.
make:
${make.trim().replace(/^/gm, '  ').replace(/^ +$/gm, '')}
`
}

interface Body {
  readonly tokens: readonly (readonly [name: string, machine: string])[]
  readonly make: string
  readonly existing?: string
}

const BODIES: Readonly<Record<Template, (choices: TemplateChoices) => Body>> = {
  installation: (choices) => ({
    tokens: [
      ['root', 'vault'],
      ['online', 'server'],
      ['standby', 'server'],
    ],
    make: [
      rootPiece(choices),
      '',
      '# Signs TUF root and targets. For several custodians see the template tuf-root.',
      '- { what: tuf-key, key: tuf-root, token: root, kind: P-256, roles: [root, targets] }',
      '',
      '# The logs. `witness: true` makes a second key NAME-witness (Ed25519), for the line that witnesses take.',
      ...logPieces(choices, { suffix: '', token: 'online', treeId: choices.treeIds[0], standby: false }),
      '',
      '# Sign certificates and timestamps; the root signs for them by request.',
      ...authorityPieces(choices, { suffix: '', token: 'online', ctKey: 'ct', standby: false }),
      '',
      '- { what: tuf-key, key: tuf-online, token: online, kind: P-256, roles: [snapshot, timestamp] }',
      '# Signs where the account of key uses ends.',
      `- { what: account, key: account, token: online, origin: account.${choices.domain} }`,
      '',
      '# What stands by for an emergency, on a token that no server opens.',
      ...logPieces(choices, { suffix: '-2', token: 'standby', treeId: choices.treeIds[1], standby: true }),
      ...authorityPieces(choices, { suffix: '-2', token: 'standby', ctKey: 'ct', standby: true }),
      '',
      '# Who signs what in TUF, with which thresholds.',
      '- what: tuf-root',
      '  root: { threshold: 1, keys: [tuf-root] }',
      '  targets: { threshold: 1, keys: [tuf-root] }',
      '  online: tuf-online',
    ].join('\n'),
  }),
  root: (choices) => ({ tokens: [['root', 'vault']], make: rootPiece(choices) }),
  standby: (choices) => ({
    tokens: [
      ['root', 'vault'],
      ['standby', 'server'],
    ],
    existing: existingRoot(choices),
    make: [
      ...logPieces(choices, { suffix: '-2', token: 'standby', treeId: choices.treeIds[1], standby: true }),
      '# ctKey: SPKI of the CT log of today, in base64 (chancery key show ct --json).',
      ...authorityPieces(choices, {
        suffix: '-2',
        token: 'standby',
        ctKey: choices.ctSpki ?? 'SPKI-IN-BASE64',
        standby: true,
      }),
    ].join('\n'),
  }),
  'tuf-root': () => ({
    tokens: [
      ['custodian-1', 'custodian-1'],
      ['custodian-2', 'custodian-2'],
      ['custodian-3', 'custodian-3'],
      ['online', 'server'],
    ],
    make: [
      '# Each custodian has a token, and a machine that is in no network.',
      ...[1, 2, 3].map(
        (n) =>
          `- { what: tuf-key, key: tuf-custodian-${n}, token: custodian-${n}, kind: P-256, roles: [root, targets], holder: '' }`,
      ),
      '- { what: tuf-key, key: tuf-online, token: online, kind: P-256, roles: [snapshot, timestamp] }',
      '- what: tuf-root',
      '  root: { threshold: 2, keys: [tuf-custodian-1, tuf-custodian-2, tuf-custodian-3] }',
      '  targets: { threshold: 2, keys: [tuf-custodian-1, tuf-custodian-2, tuf-custodian-3] }',
      '  online: tuf-online',
    ].join('\n'),
  }),
  certificate: (choices) => {
    const { key, profile, commonName, spkiSha256 } = choices.request ?? {
      key: 'KEY',
      profile: 'issuing-ca',
      commonName: 'NAME',
      spkiSha256: 'SHA-256-OF-SPKI',
    }
    return {
      tokens: [['root', 'vault']],
      existing: existingRoot(choices),
      make: [
        `# The request lies in requests/${key}.csr.pem of the ceremony's folder, and is for this key and no other.`,
        '- what: certificate',
        `  key: ${key}`,
        `  profile: ${profile}`,
        // Unquoted, one of digits and an e would be a number.
        `  spkiSha256: ${quoted(spkiSha256)}`,
        `  organization: ${quoted(choices.organization)}`,
        `  commonName: ${quoted(commonName)}`,
        '  years: 5',
        '  issuer: root-ca',
      ].join('\n'),
    }
  },
}

function rootPiece({ organization, domain }: TemplateChoices): string {
  return `# The root of every certificate. It signs itself, and what stands below; its token is offline.
- what: root-ca
  key: root-ca
  token: root
  kind: P-384
  organization: ${quoted(organization)}
  commonName: ${quoted(`${domain} root`)}
  years: 10`
}

interface SetChoices {
  readonly suffix: '' | '-2'
  readonly token: string
  readonly standby: boolean
}

function logPieces(
  { domain }: TemplateChoices,
  { suffix, token, treeId, standby }: SetChoices & { readonly treeId: string },
): string[] {
  const row = (what: string, key: string, origin: string) =>
    `- { what: ${what}, key: ${key}${suffix}, token: ${token}, origin: ${quoted(origin)}, witness: true${standby ? ', standby: true' : ''} }`
  return [
    row('ct-log', 'ct', `ct${suffix}.${domain}`),
    row('rekor-v1', 'rekor-v1', `rekor-v1.${domain} - ${treeId}`),
    row('rekor-v2', 'rekor-v2', `rekor-v2${suffix}.${domain}`),
  ]
}

function authorityPieces(
  { organization, domain }: TemplateChoices,
  { suffix, token, ctKey, standby }: SetChoices & { readonly ctKey: string },
): string[] {
  const number = suffix === '' ? '' : ' 2'
  const piece = (what: string, key: string, words: string, more: readonly string[]) =>
    [
      `- what: ${what}`,
      `  key: ${key}${suffix}`,
      `  token: ${token}`,
      '  kind: P-256',
      `  organization: ${quoted(organization)}`,
      `  commonName: ${quoted(`${domain} ${words}${number}`)}`,
      '  years: 5',
      '  issuer: root-ca',
      ...more,
      ...(standby ? ['  standby: true'] : []),
    ].join('\n')
  return [
    piece('issuing-ca', 'issuing-ca', 'issuing CA', [`  ctKey: ${quoted(ctKey)}`]),
    piece('timestamp-authority', 'tsa', 'timestamp authority', []),
  ]
}

function existingRoot({ rootSha256 }: TemplateChoices): string {
  return `{ key: root-ca, token: root, certificateSha256: ${quoted(rootSha256 ?? 'SHA-256-OF-ITS-DER')} }`
}

function operatorLines(operators: readonly Person[]): string {
  if (operators.length === 0) {
    return [
      "  - { name: alice, ssh: 'TYPE KEY' }",
      "  - { name: bob, minisign: 'RW…' }",
      "  - { name: carol, pkcs11: 'SPKI' }",
    ].join('\n')
  }
  return operators
    .map((person) => {
      const [field, key] = (['ssh', 'minisign', 'pkcs11'] as const)
        .flatMap((each) => (person[each] === undefined ? [] : [[each, person[each]] as const]))
        .at(0) ?? ['ssh', '']
      return `  # ${fingerprintWords(person)}\n  - { name: ${person.name}, ${field}: ${quoted(key)} }`
    })
    .join('\n')
}

function tokenLine([name, machine]: readonly [string, string], uris: Readonly<Record<string, string>>): string {
  const uri = uris[name] ?? `pkcs11:token=chancery-${name}`
  return `  ${name}: { machine: ${machine}, uri: ${quoted(uri)}, agent: ${name} }`
}

/** YAML's single quotes know one escape. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "''")}'`
}
