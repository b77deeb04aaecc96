/** The difference between what clients see and what they shall see, in words: from the published bytes alone. */
import { createHash } from 'node:crypto'
import type { RootSigned, TargetsSigned } from './metadata.ts'
import type { Custodian } from './publication.ts'
import { SIGNING_CONFIG_REKOR_V2_TARGET, SIGNING_CONFIG_TARGET, TRUSTED_ROOT_TARGET } from './release.ts'
import type { Service, SigningConfigJson } from './signing-config.ts'
import type { TimeRange, TrustedRootJson } from './trusted-root.ts'

/** What a client holds that has followed the mirror. */
export interface Seen {
  readonly root: RootSigned | undefined
  readonly targets: TargetsSigned | undefined
  /** Content of the targets by name. */
  readonly files: ReadonlyMap<string, Uint8Array>
}

/** What it shall hold: roots oldest first, none if the root stays; targets undefined if they stay. */
export interface Change {
  readonly newRoots: readonly RootSigned[]
  readonly targets: TargetsSigned | undefined
  readonly files: ReadonlyMap<string, Uint8Array>
}

/** A heading with its lines; a line begins with `+` new, `-` gone, `~` changed, or says something. */
export interface DiffSection {
  readonly title: string
  readonly lines: readonly string[]
}

/**
 * Tells what changes, section by section; a section without a change is left out, and none at all says so. Pure: who
 * signs gets the same words from the same bytes as who asks for it. `nameOf` only names keys beside their ids.
 */
export function describeChange(before: Seen, change: Change, nameOf: (keyid: string) => Custodian): DiffSection[] {
  const after = change.targets === undefined ? before.files : change.files
  const trusted = trustLines(trustOf(before.files), trustOf(after))
  const used = [SIGNING_CONFIG_TARGET, SIGNING_CONFIG_REKOR_V2_TARGET].flatMap((name) =>
    serviceLines(name, servicesOf(before.files, name), servicesOf(after, name)),
  )
  const files = fileLines(before.files, after)
  const roots = change.newRoots.flatMap((root, at) =>
    rootLines(at === 0 ? before.root : change.newRoots[at - 1], root, nameOf),
  )
  const targets = change.targets === undefined ? [] : targetsLines(before.targets, change.targets)
  const clients = clientLines({ trusted, used, files, roots, isFirst: before.root === undefined })
  const sections = [
    { title: 'What verifiers trust', lines: trusted },
    { title: 'What signers use', lines: used },
    { title: 'Files', lines: files },
    { title: 'TUF root', lines: roots },
    { title: 'TUF targets', lines: targets },
    { title: 'What clients notice', lines: clients },
  ]
  return sections.filter(({ lines }) => lines.length > 0)
}

interface Trusted {
  readonly name: string
  readonly validFor: TimeRange
  readonly rest: string
}

/** Logs and authorities by what makes them what they are: place in the file and key. */
function trustOf(files: ReadonlyMap<string, Uint8Array>): ReadonlyMap<string, Trusted> {
  const bytes = files.get(TRUSTED_ROOT_TARGET)
  if (bytes === undefined) return new Map()
  // Our own file, or one that is held against our own rendering; anything else throws, and is refused.
  const root = JSON.parse(Buffer.from(bytes).toString('utf8')) as TrustedRootJson
  const logs = (kind: string, list: TrustedRootJson['tlogs']) =>
    list.map(({ baseUrl, publicKey, logId }): [string, Trusted] => {
      const name = `${kind} ${baseUrl}, key ${hexOf(publicKey.rawBytes).slice(0, 16)}`
      const rest = JSON.stringify([baseUrl, publicKey.keyDetails, logId])
      return [`${kind} ${publicKey.rawBytes}`, { name, validFor: publicKey.validFor, rest }]
    })
  const chains = (kind: string, list: TrustedRootJson['certificateAuthorities']) =>
    list.map(({ subject, uri, certChain, validFor }): [string, Trusted] => {
      const chain = certChain.certificates.map(({ rawBytes }) => rawBytes)
      const name = `${kind} "${subject.commonName}", certificate ${hexOf(chain[0] ?? '').slice(0, 16)}`
      return [`${kind} ${chain.join()}`, { name, validFor, rest: JSON.stringify([subject, uri]) }]
    })
  return new Map([
    ...chains('CA', root.certificateAuthorities),
    ...logs('CT log', root.ctlogs),
    ...logs('Rekor log', root.tlogs),
    ...chains('TSA', root.timestampAuthorities),
  ])
}

function trustLines(before: ReadonlyMap<string, Trusted>, after: ReadonlyMap<string, Trusted>): string[] {
  const lines: string[] = []
  for (const [id, { name, validFor, rest }] of after) {
    const old = before.get(id)
    if (old === undefined) lines.push(`+ ${name}: trusted from ${validFor.start}${until(validFor)}`)
    else if (old.validFor.end !== validFor.end || old.validFor.start !== validFor.start) {
      lines.push(
        `~ ${name}: trusted from ${validFor.start}${until(validFor)}; was from ${old.validFor.start}${until(old.validFor)}`,
      )
    } else if (old.rest !== rest) lines.push(`~ ${name}: described anew, ${rest}; was ${old.rest}`)
  }
  for (const [id, { name }] of before) {
    if (!after.has(id)) lines.push(`- ${name}: nothing that it signed verifies any more`)
  }
  return lines
}

function until({ end }: TimeRange): string {
  return end === undefined ? ', no end' : ` until ${end}`
}

const LISTS = ['caUrls', 'oidcUrls', 'rekorTlogUrls', 'tsaUrls'] as const
const NAMES = { caUrls: 'CA', oidcUrls: 'OIDC issuer', rekorTlogUrls: 'Rekor', tsaUrls: 'TSA' } as const

function servicesOf(files: ReadonlyMap<string, Uint8Array>, name: string): ReadonlyMap<string, string> {
  const bytes = files.get(name)
  if (bytes === undefined) return new Map()
  const config = JSON.parse(Buffer.from(bytes).toString('utf8')) as SigningConfigJson // as in `trustOf`
  const told = ({ url, majorApiVersion }: Service) => `${url} (version ${majorApiVersion})`
  return new Map(LISTS.map((list) => [NAMES[list], config[list].map(told).join(', ')]))
}

function serviceLines(file: string, before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>): string[] {
  if (after.size === 0) return before.size === 0 ? [] : [`- ${file}`]
  return [...after].flatMap(([kind, urls]) => {
    const old = before.get(kind) ?? ''
    if (old === urls) return []
    if (old === '') return [`+ ${kind} ${urls}, in ${file}`]
    return urls === '' ? [`- ${kind} ${old}, in ${file}`] : [`~ ${kind} ${urls}; was ${old}, in ${file}`]
  })
}

function fileLines(before: ReadonlyMap<string, Uint8Array>, after: ReadonlyMap<string, Uint8Array>): string[] {
  const lines = [...after].flatMap(([name, bytes]) => {
    const old = before.get(name)
    if (old === undefined) return [`+ ${name}, ${bytes.length} bytes`]
    return Buffer.compare(old, bytes) === 0 ? [] : [`~ ${name}, ${bytes.length} bytes`]
  })
  return [...lines, ...[...before.keys()].filter((name) => !after.has(name)).map((name) => `- ${name}`)]
}

const ROLES = ['root', 'targets', 'snapshot', 'timestamp'] as const

function rootLines(before: RootSigned | undefined, root: RootSigned, nameOf: (keyid: string) => Custodian): string[] {
  const told = (keyid: string) => {
    const { name, holder } = nameOf(keyid)
    const offline = root.roles.root.keyids.includes(keyid) || root.roles.targets.keyids.includes(keyid)
    const was =
      before?.roles.root.keyids.includes(keyid) === true || before?.roles.targets.keyids.includes(keyid) === true
    if (!offline && !was) return keyid.slice(0, 16)
    return `${keyid.slice(0, 16)} (${name}${holder === '' ? '' : `, ${holder}`})`
  }
  const lines = [`${was(before?.version)}version ${root.version}, valid until ${root.expires}`]
  for (const role of ROLES) {
    const old = before?.roles[role]
    const { keyids, threshold } = root.roles[role]
    if (old === undefined || old.threshold !== threshold || old.keyids.length !== keyids.length) {
      const wasText = old === undefined ? '' : `; was ${old.threshold} of ${old.keyids.length}`
      lines.push(
        `${old === undefined ? '+' : '~'} ${role} is signed by ${threshold} of ${keyids.length} keys${wasText}`,
      )
    }
    for (const keyid of keyids) if (!old?.keyids.includes(keyid)) lines.push(`+ ${role}: key ${told(keyid)}`)
    for (const keyid of old?.keyids ?? []) if (!keyids.includes(keyid)) lines.push(`- ${role}: key ${told(keyid)}`)
  }
  return lines
}

function targetsLines(before: TargetsSigned | undefined, targets: TargetsSigned): string[] {
  const lines = [`${was(before?.version)}version ${targets.version}, valid until ${targets.expires}`]
  // What old clients read beside a file: how its key is used.
  for (const [name, { custom }] of Object.entries(targets.targets)) {
    const old = before?.targets[name]?.custom?.sigstore
    const now = custom?.sigstore
    if (now === undefined || JSON.stringify(old) === JSON.stringify(now)) continue
    const told = `${name}: usage ${now.usage}, ${now.status}, ${now.uri}`
    lines.push(old === undefined ? `+ ${told}` : `~ ${told}; was ${old.usage}, ${old.status}, ${old.uri}`)
  }
  return lines
}

function was(version: number | undefined): string {
  return version === undefined ? '+ ' : `~ version ${version} becomes `
}

interface Told {
  readonly trusted: readonly string[]
  readonly used: readonly string[]
  readonly files: readonly string[]
  readonly roots: readonly string[]
  readonly isFirst: boolean
}

/** When each kind of client sees it, and what that means to people. */
function clientLines({ trusted, used, files, roots, isFirst }: Told): string[] {
  if (isFirst) return ['A new trust root: clients start with 1.root.json, whose checksum they are told.']
  const lines: string[] = []
  if (trusted.length > 0 || used.length > 0) {
    lines.push(
      'cosign 2.6 and 3, sigstore-go, -js and -python: with their next run.',
      'policy-controller, and services on sigstore-go: within 24 hours.',
    )
  }
  if (files.some((line) => /\.(?:pem|pub)[,:]/.test(line)))
    lines.push('cosign before 2.5.1, gitsign, Kyverno: when the timestamp that they hold ends, in days.')
  if (used.length > 0) {
    lines.push('Signers with a signing configuration follow it; those with URLs in flags or environment must be told.')
  }
  if (trusted.some((line) => line.startsWith('-'))) lines.push('Signatures that verified until now will not any more.')
  if (roots.length > 0) lines.push('Clients walk to the new root by themselves; 1.root.json and its checksum stay.')
  if (lines.length === 0) lines.push('Nothing: only the time until which it is valid changes.')
  return lines
}

function hexOf(base64: string): string {
  return createHash('sha256').update(Buffer.from(base64, 'base64')).digest('hex')
}

/** As text: headings, and below them the lines, wrapped at 78 columns. */
export function formatSections(sections: readonly DiffSection[]): string {
  if (sections.length === 0) return 'Nothing changes.\n'
  const text = sections.map(({ title, lines }) => `${title}\n${lines.map(wrapped).join('\n')}\n`)
  return text.join('\n')
}

const WIDTH = 78

/** Indented by two, and by four where it goes on. */
function wrapped(line: string): string {
  const rows: string[] = []
  let row = '  '
  for (const word of line.split(' ')) {
    if (row.trim() !== '' && row.length + word.length + 1 > WIDTH) {
      rows.push(row)
      row = '    '
    }
    row = row.trim() === '' ? `${row}${word}` : `${row} ${word}`
  }
  return [...rows, row].join('\n')
}
