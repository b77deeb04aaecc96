/** What a plan's shape alone does not say: that its names agree, its people are different people, its parts fit together. */
import { hash } from 'node:crypto'
import { KINDS_OF, type KeyPurpose } from '#hsm'
import type { CeremonyPlan, Person, PlannedPiece } from './plan.ts'

/** Pieces that are keys. */
export type PlannedKeyPiece = Exclude<PlannedPiece, { what: 'tuf-root' } | { what: 'certificate' }>
/** Pieces that get a certificate below a root. */
export type PlannedBelow = Extract<PlannedPiece, { issuer: string }>

/** What a key will do, once it is there. */
export const PURPOSES_OF_PIECE: Readonly<Record<PlannedKeyPiece['what'], readonly KeyPurpose[]>> = {
  'root-ca': ['caCertificate'],
  'issuing-ca': ['certificate'],
  'timestamp-authority': ['timestamp'],
  'ct-log': ['sct', 'treeHead'],
  'rekor-v1': ['set', 'treeHead'],
  'rekor-v2': ['treeHead'],
  'tuf-key': ['tuf'],
  account: ['accountHead'],
}

/** Whether a piece makes a key. */
export function isKey(piece: PlannedPiece): piece is PlannedKeyPiece {
  return piece.what !== 'tuf-root' && piece.what !== 'certificate'
}

/** `faults` keep a plan from being used; `warnings` are for its reviewers. */
export function lintPlan(plan: CeremonyPlan): { readonly faults: string[]; readonly warnings: string[] } {
  const faults: string[] = []
  const warnings: string[] = []
  lintPeople(plan, faults, warnings)
  lintTokens(plan, faults, warnings)
  lintKeys(plan, faults, warnings)
  for (const piece of plan.make) {
    if (piece.what === 'issuing-ca') lintCtKey(plan, piece, faults)
    if ('issuer' in piece) lintIssuer(plan, piece, faults)
    if (piece.what === 'tuf-root') lintTufRoot(plan, piece, faults, warnings)
    if (piece.what === 'rekor-v1' && !/^\S+ - [1-9][0-9]{0,18}$/.test(piece.origin)) {
      faults.push(`${piece.key}: the origin of a Rekor v1 log is "host - tree id"`)
    }
    if ((piece.what === 'rekor-v2' || piece.what === 'ct-log') && /\s/.test(piece.origin)) {
      faults.push(`${piece.key}: the origin of a ${piece.what} is a host name`)
    }
  }
  const origins = plan.make.flatMap((piece) => ('origin' in piece ? [piece.origin] : []))
  for (const origin of repeated(origins)) faults.push(`two logs have the origin ${origin}`)
  return { faults, warnings }
}

/** Of the key, whatever its form: two people with one key are one person. */
export function fingerprintOf({ ssh, minisign, pkcs11 }: Person): string {
  return hash('sha256', ssh ?? minisign ?? pkcs11 ?? '')
}

function lintPeople({ operators, witnesses, quorum }: CeremonyPlan, faults: string[], warnings: string[]): void {
  const people = [...operators, ...witnesses]
  for (const twice of repeated(people.map(({ name }) => name))) faults.push(`two people are named ${twice}`)
  const keys = people.map(fingerprintOf)
  for (const twice of repeated(keys)) {
    const names = people.filter((person) => fingerprintOf(person) === twice).map(({ name }) => name)
    faults.push(`${names.join(' and ')} have the same key`)
  }
  if (quorum > operators.length) faults.push(`a quorum of ${quorum} of ${operators.length} can never approve`)
  if (quorum === 1) warnings.push('one person alone can approve: quorum is 1')
  else if (quorum === operators.length) {
    warnings.push(`all ${operators.length} operators must approve: nothing is left for one who lost a key`)
  }
}

function lintTokens({ tokens, make, existing }: CeremonyPlan, faults: string[], warnings: string[]): void {
  const used = new Set([...make.filter(isKey).map(({ token }) => token), ...existing.map(({ token }) => token)])
  for (const each of used) if (tokens[each] === undefined) faults.push(`there is no token ${each}`)
  for (const [name, { uri }] of Object.entries(tokens)) {
    if (!used.has(name)) faults.push(`token ${name} is used by nothing`)
    if (!/[:;]serial=[^;?]+/.test(uri))
      warnings.push(`token ${name} has no serial number in its URI: another could be used`)
    if (/[?&]pin-/.test(uri)) faults.push(`token ${name}: a plan has no PIN and no place of one`)
  }
  for (const twice of repeated(Object.values(tokens).map(({ uri }) => uri)))
    faults.push(`two tokens have the URI ${twice}`)
}

/** Roots and what stands by lie on tokens that no server opens. */
function lintKeys(plan: CeremonyPlan, faults: string[], warnings: string[]): void {
  const pieces = plan.make.filter(isKey)
  const witnessKeys = pieces.flatMap((piece) => ('witness' in piece && piece.witness ? [`${piece.key}-witness`] : []))
  const names = [
    ...plan.make.flatMap((piece) => ('key' in piece ? [piece.key] : [])),
    ...witnessKeys,
    ...plan.existing.map(({ key }) => key),
  ]
  for (const twice of repeated(names)) faults.push(`two keys are named ${twice}`)
  for (const piece of pieces) {
    for (const purpose of PURPOSES_OF_PIECE[piece.what]) {
      if (KINDS_OF[purpose].includes(piece.kind)) continue
      faults.push(
        `${piece.key}: ${piece.what} takes no key of kind ${piece.kind}, only ${KINDS_OF[purpose].join(', ')}`,
      )
      break
    }
    if (piece.backup && isOffline(piece))
      warnings.push(`${piece.key} can be wrapped and leave its token (backup: true)`)
  }
  const offline = new Set([...pieces.filter(isOffline).map(({ token }) => token), ...plan.existing.map((e) => e.token)])
  for (const { key, token } of pieces.filter((piece) => !isOffline(piece))) {
    if (offline.has(token)) faults.push(`${key} would lie on ${token}, the token of a root or of what stands by`)
  }
}

function isOffline(piece: PlannedKeyPiece): boolean {
  if (piece.what === 'tuf-key') return piece.roles.some((role) => role === 'root' || role === 'targets')
  return piece.what === 'root-ca' || ('standby' in piece && piece.standby)
}

function lintIssuer({ make, existing }: CeremonyPlan, piece: PlannedBelow, faults: string[]): void {
  const roots = make.filter((each) => each.what === 'root-ca')
  const root = roots.find(({ key }) => key === piece.issuer)
  if (root === undefined) {
    if (!existing.some(({ key }) => key === piece.issuer)) faults.push(`${piece.key}: there is no root ${piece.issuer}`)
    return
  }
  if (piece.years >= root.years) faults.push(`${piece.key} would be valid as long as its root, or longer`)
}

function lintCtKey(
  { make }: CeremonyPlan,
  piece: Extract<PlannedPiece, { what: 'issuing-ca' }>,
  faults: string[],
): void {
  if (make.some((each) => each.what === 'ct-log' && each.key === piece.ctKey)) return
  // A SubjectPublicKeyInfo of P-256 is 91 bytes.
  if (/^[A-Za-z0-9+/]{122}==$/.test(piece.ctKey)) return
  faults.push(`${piece.key}: ctKey is neither a ct-log of this plan nor a P-256 SPKI in base64`)
}

function lintTufRoot(
  { make, tokens }: CeremonyPlan,
  piece: Extract<PlannedPiece, { what: 'tuf-root' }>,
  faults: string[],
  warnings: string[],
): void {
  const keys = make.filter((each) => each.what === 'tuf-key')
  for (const role of ['root', 'targets'] as const) {
    const { threshold, keys: names } = piece[role]
    if (threshold > names.length) faults.push(`tuf-root: ${threshold} of ${names.length} can never sign ${role}`)
    for (const twice of repeated(names)) faults.push(`tuf-root: ${twice} stands twice in ${role}`)
    for (const each of names) {
      if (!keys.some(({ key, roles }) => key === each && roles.includes(role))) {
        faults.push(`tuf-root: ${each} is no tuf-key for ${role}`)
      }
    }
    if (threshold === 1) warnings.push(`tuf-root: one key alone signs ${role}`)
    const machines = new Set(keys.filter(({ key }) => names.includes(key)).map(({ token }) => tokens[token]?.machine))
    if (threshold > 1 && machines.size < threshold) {
      warnings.push(`tuf-root: whoever has ${machines.size} machine can sign ${role} alone`)
    }
  }
  const online = keys.find(({ key }) => key === piece.online)
  if (online === undefined || !['snapshot', 'timestamp'].every((role) => online.roles.some((each) => each === role))) {
    faults.push(`tuf-root: ${piece.online} is no tuf-key for snapshot and timestamp`)
  }
  if (make.filter((each) => each.what === 'tuf-root').length > 1) faults.push('there are two tuf-root')
}

function repeated(values: readonly string[]): string[] {
  return [...new Set(values.filter((value, at) => values.indexOf(value) !== at))]
}
