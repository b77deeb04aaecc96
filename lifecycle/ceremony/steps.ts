/** What a plan comes to, one step after the other: pure. A step is done on one machine, after those that it needs. */
import type { AuthorityName, AuthorityProfile } from '#hsm/ceremony'
import type { KeyKind } from '#hsm'
import { isKey, type PlannedKeyPiece } from './plan-lint.ts'
import type { CeremonyPlan, PlannedPiece } from './plan.ts'

interface StepHead {
  /** Unique in the plan: what it does, and for which key. */
  readonly id: string
  /** Ids of steps that must be done before. */
  readonly after: readonly string[]
}

/** Makes a key, reads its attributes back, and gives it its place in the agent's configuration. */
export interface KeyStep extends StepHead {
  readonly what: 'key'
  readonly machine: string
  readonly token: string
  readonly key: string
  readonly kind: KeyKind
  readonly backup: boolean
  readonly piece: PlannedKeyPiece
  /** It is the key of the line for witnesses, of the log that `piece` is. */
  readonly witness: boolean
}

/** A key asks for its certificate; or the request of a key that no step of this plan makes is read from its file. */
export interface RequestStep extends StepHead {
  readonly what: 'request'
  readonly machine: string
  /** Missing where the request comes in a file, for the key with this digest. */
  readonly token?: string
  readonly spkiSha256?: string
  readonly key: string
  readonly name: AuthorityName
}

/** A root signs: itself, or what was requested. */
export interface CertificateStep extends StepHead {
  readonly what: 'certificate'
  /** Where the root is. */
  readonly machine: string
  readonly token: string
  /** The key that gets the certificate. */
  readonly key: string
  readonly issuer: string
  readonly profile: AuthorityProfile
  readonly name: AuthorityName
  readonly years: number
  /** SHA-256 of the issuer's certificate, if it was there before. */
  readonly issuerSha256?: string
}

/** The certificate comes to its key, which gets its purpose. */
export interface AcceptStep extends StepHead {
  readonly what: 'accept'
  readonly machine: string
  readonly token: string
  readonly key: string
  readonly piece: PlannedKeyPiece
}

/** The roles of the TUF root, from public keys: on any machine. */
export interface RolesStep extends StepHead {
  readonly what: 'roles'
  readonly piece: Extract<PlannedPiece, { what: 'tuf-root' }>
}

export type Step = KeyStep | RequestStep | CertificateStep | AcceptStep | RolesStep

const PROFILE_OF = { 'issuing-ca': 'issuing', 'timestamp-authority': 'timestamp' } as const

/** Every step, in an order in which each can be done. */
export function stepsOf(plan: CeremonyPlan): readonly Step[] {
  const machineOf = (token: string) => plan.tokens[token]?.machine ?? ''
  const steps: Step[] = []
  for (const piece of plan.make.filter(isKey)) steps.push(...keySteps(piece, machineOf(piece.token)))
  for (const piece of plan.make) {
    if (piece.what === 'root-ca') steps.push(...rootSteps(piece, machineOf(piece.token)))
  }
  for (const piece of plan.make) {
    if (piece.what === 'issuing-ca' || piece.what === 'timestamp-authority' || piece.what === 'certificate') {
      steps.push(...certificateSteps(plan, piece))
    }
  }
  for (const piece of plan.make) {
    if (piece.what !== 'tuf-root') continue
    const keys = [...piece.root.keys, ...piece.targets.keys, piece.online]
    steps.push({ id: 'roles tuf', what: 'roles', piece, after: [...new Set(keys)].map((key) => `key ${key}`) })
  }
  return steps
}

function keySteps(piece: PlannedKeyPiece, machine: string): KeyStep[] {
  const { key, token, kind, backup } = piece
  const own: KeyStep = {
    id: `key ${key}`,
    what: 'key',
    machine,
    token,
    key,
    kind,
    backup,
    piece,
    witness: false,
    after: [],
  }
  if (!('witness' in piece) || !piece.witness) return [own]
  const second = `${key}-witness`
  const witness: KeyStep = { ...own, id: `key ${second}`, key: second, kind: 'ed25519', witness: true }
  // The log's entry names its witness key, so this one is there first.
  return [witness, { ...own, after: [witness.id] }]
}

function rootSteps(piece: Extract<PlannedPiece, { what: 'root-ca' }>, machine: string): Step[] {
  const { key, token, organization, commonName, years } = piece
  const certificate: CertificateStep = {
    id: `certificate ${key}`,
    what: 'certificate',
    machine,
    token,
    key,
    issuer: key,
    profile: 'root',
    name: { organization, commonName },
    years,
    after: [`key ${key}`],
  }
  return [certificate, { id: `accept ${key}`, what: 'accept', machine, token, key, piece, after: [certificate.id] }]
}

function certificateSteps(plan: CeremonyPlan, piece: Extract<PlannedPiece, { issuer: string }>): Step[] {
  const { key, issuer, organization, commonName, years } = piece
  const name = { organization, commonName }
  const here = plan.make.find((each) => each.what === 'root-ca' && each.key === issuer)
  const before = plan.existing.find((each) => each.key === issuer)
  const token = (here !== undefined && 'token' in here ? here.token : before?.token) ?? ''
  const common = {
    id: `certificate ${key}`,
    what: 'certificate',
    machine: plan.tokens[token]?.machine ?? '',
    token,
    key,
    issuer,
    name,
    years,
    ...(before === undefined ? {} : { issuerSha256: before.certificateSha256 }),
  } as const
  const id = `request ${key}`
  const ready = here === undefined ? [] : [`accept ${issuer}`]
  if (piece.what === 'certificate') {
    const { profile, spkiSha256 } = piece
    return [
      { id, what: 'request', machine: common.machine, spkiSha256, key, name, after: [] },
      { ...common, profile: PROFILE_OF[profile], after: [...ready, id] },
    ]
  }
  const machine = plan.tokens[piece.token]?.machine ?? ''
  const ctReady = piece.what === 'issuing-ca' && piece.ctKey.length < 64 ? [`key ${piece.ctKey}`] : []
  return [
    { id, what: 'request', machine, token: piece.token, key, name, after: [`key ${key}`] },
    { ...common, profile: PROFILE_OF[piece.what], after: [...ready, id] },
    {
      id: `accept ${key}`,
      what: 'accept',
      machine,
      token: piece.token,
      key,
      piece,
      after: [common.id, ...ctReady],
    },
  ]
}
