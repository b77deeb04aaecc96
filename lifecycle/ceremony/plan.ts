/**
 * The plan of a ceremony: one YAML file that says what will be made, on which tokens, and who must agree. Every field is
 * told here; unknown ones are errors. What operators approve is the SHA-256 of the file's bytes, comments and all: anybody
 * can compute it with `sha256sum`, and nobody has to ask which of two readings of a text was approved.
 */
import { hash } from 'node:crypto'
import { parseDocument } from 'yaml'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { CEREMONY_NAME, KEY_KINDS } from '#hsm'
import { lintPlan } from './plan-lint.ts'

const name = z.string().regex(CEREMONY_NAME, 'names are 1 to 63 of a-z 0-9 . _ -')
const keyName = z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'names of keys are 1 to 63 of a-z 0-9 -')
/** As the agent takes it in a request for a certificate. */
const distinguished = z
  .string()
  .regex(/^[\p{L}\p{N}][\p{L}\p{N} .,'()&/_-]{0,63}$/u, "1 to 64 letters, digits, blanks and .,'()&/_-")
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'SHA-256 in hex')
const kind = z.enum(KEY_KINDS)
const years = z.int().min(1).max(30)

const person = z
  .strictObject({
    name: name.describe('how approvals and the transcript call this person'),
    ssh: z
      .string()
      .regex(/^(?:sk-)?(?:ssh-|ecdsa-sha2-)[a-z0-9@.-]+ [A-Za-z0-9+/]+=*$/, 'two words: type and base64, as in KEY.pub')
      .optional()
      .describe('SSH public key, FIDO keys (sk-…) too'),
    minisign: z
      .string()
      .regex(/^RW[A-Za-z0-9+/]{53,54}=*$/, 'the second line of minisign.pub')
      .optional()
      .describe('minisign public key'),
    pkcs11: z.base64().optional().describe('SubjectPublicKeyInfo, base64: chancery key show NAME --json'),
  })
  .refine(
    ({ ssh, minisign, pkcs11 }) => [ssh, minisign, pkcs11].filter((key) => key !== undefined).length === 1,
    'give exactly one of ssh, minisign and pkcs11',
  )

const token = z.strictObject({
  machine: name.describe('the machine that has it: chancery ceremony run --at MACHINE'),
  uri: z.string().startsWith('pkcs11:').describe('RFC 7512; agent.yaml there must have this very URI'),
  agent: z
    .string()
    .min(1)
    .describe('agent on that machine: a name in its data folder (root: agent/root.yaml), or a file'),
})

const madeKey = {
  key: keyName.describe("name in agent.yaml, and the key's label on its token"),
  token: name,
  kind,
  backup: z
    .boolean()
    .default(false)
    .describe('may be wrapped under a trusted key-encryption key; else it never leaves'),
}
const certified = {
  organization: distinguished,
  commonName: distinguished,
  years,
}
const below = {
  ...certified,
  issuer: keyName.describe('the root that signs: a root-ca of this plan, or one of `existing`'),
}
const standby = z.boolean().default(false).describe('stands by for an emergency: no server opens its token')
const log = {
  ...madeKey,
  kind: z.literal('P-256').default('P-256'),
  origin: z.string().regex(/^[A-Za-z][\x20-\x7e]{0,254}$/),
  witness: z.boolean().default(true).describe('also an Ed25519 key NAME-witness, for the line that witnesses take'),
  standby,
}

const make = z.discriminatedUnion('what', [
  z.strictObject({ what: z.literal('root-ca'), ...madeKey, ...certified }),
  z.strictObject({
    what: z.literal('issuing-ca'),
    ...madeKey,
    ...below,
    ctKey: z
      .string()
      .describe('the CT log whose promise its certificates carry: a key of this plan, or SPKI in base64'),
    standby,
  }),
  z.strictObject({ what: z.literal('timestamp-authority'), ...madeKey, ...below, standby }),
  z.strictObject({ what: z.literal('ct-log'), ...log }),
  z.strictObject({ what: z.literal('rekor-v1'), ...log }),
  z.strictObject({ what: z.literal('rekor-v2'), ...log }),
  z.strictObject({
    what: z.literal('tuf-key'),
    ...madeKey,
    roles: z.array(z.enum(['root', 'targets', 'snapshot', 'timestamp'])).min(1),
    holder: z.string().max(200).default('').describe('who holds the token and where, in words'),
  }),
  z.strictObject({
    what: z.literal('tuf-root'),
    root: z.strictObject({ threshold: z.int().min(1), keys: z.array(keyName).min(1) }),
    targets: z.strictObject({ threshold: z.int().min(1), keys: z.array(keyName).min(1) }),
    online: keyName.describe('the key of snapshot and timestamp'),
  }),
  z.strictObject({
    what: z.literal('account'),
    ...madeKey,
    kind: z.literal('P-256').default('P-256'),
    origin: z.string(),
  }),
  z.strictObject({
    what: z.literal('certificate'),
    key: keyName.describe('the request lies in requests/KEY.csr.pem of the ceremony folder'),
    profile: z.enum(['issuing-ca', 'timestamp-authority']),
    spkiSha256: sha256.describe('SHA-256 of the SubjectPublicKeyInfo that the request is for'),
    ...below,
  }),
])

const planSchema = z.strictObject({
  ceremony: name.describe('a name of its own'),
  expires: z.iso.datetime().describe('UTC; nothing is done under this plan afterwards'),
  quorum: z.int().min(1).describe('how many of the operators must approve'),
  operators: z.array(person).min(1).max(32),
  witnesses: z.array(person).max(32).default([]).describe('who else may sign the transcript; every operator may'),
  tokens: z.record(name, token),
  existing: z
    .array(z.strictObject({ key: keyName, token: name, certificateSha256: sha256 }))
    .default([])
    .describe('roots that are there already; the certificate lies in certificates/KEY.pem of the ceremony folder'),
  make: z.array(make).min(1).max(64),
})

export type CeremonyPlan = Readonly<z.infer<typeof planSchema>>
export type PlannedPiece = CeremonyPlan['make'][number]
export type Person = CeremonyPlan['operators'][number]

/** A plan with the digest that is approved. */
export interface ReadPlan {
  readonly plan: CeremonyPlan
  /** As it was read: what the digest is of. */
  readonly text: string
  /** SHA-256 of the bytes, hex. */
  readonly sha256: string
  /** What a reviewer should think about; it does not keep anybody from going on. */
  readonly warnings: readonly string[]
}

/** A plan of this size describes hundreds of keys. */
const MAX_BYTES = 64 * 1024

/** Reads and lints a plan. Throws `ceremony_plan_invalid` with every fault. */
export function readPlan(bytes: Uint8Array): ReadPlan {
  if (bytes.length > MAX_BYTES) throw invalid(['it is over 64 KiB'])
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (error) {
    throw invalid(['it is not UTF-8'], error)
  }
  // What is shown must be what is read: no characters that are invisible or turn the direction of a line.
  const hidden = /[^\P{C}\n]/u.exec(text)
  if (hidden !== null) {
    const line = text.slice(0, hidden.index).split('\n').length
    throw invalid([`line ${line} has a character that is not shown (${codePoint(hidden[0])})`])
  }
  const document = parseDocument(text, { version: '1.2', schema: 'core', strict: true, uniqueKeys: true })
  const faults = [...document.errors, ...document.warnings].map(({ message }) => message.split('\n')[0] ?? message)
  if (faults.length > 0) throw invalid(faults)
  let value: unknown
  try {
    // Aliases let a line mean what stands elsewhere.
    value = document.toJS({ maxAliasCount: 0 })
  } catch (error) {
    throw invalid(['it has an alias (*name)'], error)
  }
  const parsed = planSchema.safeParse(value)
  if (!parsed.success) throw invalid([z.prettifyError(parsed.error)])
  const { faults: contradictions, warnings } = lintPlan(parsed.data)
  if (contradictions.length > 0) throw invalid(contradictions)
  return { plan: parsed.data, text, sha256: hash('sha256', bytes), warnings }
}

/** Throws `ceremony_plan_expired`. */
export function checkNotExpired({ plan }: Pick<ReadPlan, 'plan'>, now: Date): void {
  if (now.getTime() < Date.parse(plan.expires)) return
  throw new OperatorError(
    'ceremony_plan_expired',
    `the plan ${plan.ceremony} expired at ${plan.expires}; write a new one`,
  )
}

function codePoint(character: string): string {
  return `U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}`
}

function invalid(faults: readonly string[], cause?: unknown): OperatorError {
  return new OperatorError('ceremony_plan_invalid', `the plan is refused:\n${faults.join('\n')}`, { cause })
}
