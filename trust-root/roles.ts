import { createPublicKey } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { writeDurably } from './durable-file.ts'
import { TrustRootError } from './errors.ts'
import { keyIdOf, type TufKey } from './metadata.ts'

/** Somebody who signs for root or targets with a key that no server has. */
export interface CustodianKey {
  /** Unique among the custodians; usually the key's name in the custodian's own agent too. */
  readonly name: string
  /** Who holds the token, and where, in words; for people only. */
  readonly holder: string
  readonly key: TufKey
}

/** How many of whom must sign. */
export interface OfflineRole {
  /** 1 up to the number of custodians. */
  readonly threshold: number
  /** Names of custodians. */
  readonly custodians: readonly string[]
}

/**
 * `trust-root/roles.json`: who signs what. Without the file one key signs root and targets, as a new development
 * installation has it. A thief of the file can ask for another root, which the custodians of the published one must sign.
 */
export interface Roles {
  readonly custodians: readonly CustodianKey[]
  readonly root: OfflineRole
  readonly targets: OfflineRole
  /** Names of keys of the online agent, each of which may sign snapshot and timestamp; without it the configured one. */
  readonly online?: readonly string[]
}

const name = z.string().regex(/^[a-z0-9][a-z0-9.-]{0,62}$/, 'a name in lower case')

const key = z.discriminatedUnion('keytype', [
  z.strictObject({
    keytype: z.literal('ecdsa'),
    scheme: z.literal('ecdsa-sha2-nistp256'),
    keyval: z.strictObject({ public: z.string().refine(isP256Pem, 'a P-256 public key in PEM') }),
  }),
  z.strictObject({
    keytype: z.literal('ed25519'),
    scheme: z.literal('ed25519'),
    keyval: z.strictObject({ public: z.string().regex(/^[0-9a-f]{64}$/, 'an Ed25519 key, 32 bytes in hex') }),
  }),
])

const offlineRole = z.strictObject({ threshold: z.int().min(1), custodians: z.array(name).min(1).max(16) })

/** What roles.json holds; `schemaVersion` 1. Unknown fields are faults. */
export const rolesSchema = z.strictObject({
  schemaVersion: z.literal(1),
  custodians: z
    .array(z.strictObject({ name, holder: z.string().max(200).default(''), key }))
    .min(1)
    .max(16),
  root: offlineRole,
  targets: offlineRole,
  online: z.array(name).min(1).max(4).optional(),
})

/** Reads the text of roles.json. Throws `invalid_roles` with each fault. */
export function parseRoles(text: string): Roles {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (error) {
    throw new TrustRootError('invalid_roles', 'roles.json is not JSON', { cause: error })
  }
  const parsed = rolesSchema.safeParse(json)
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'top'}: ${issue.message}`)
    throw new TrustRootError('invalid_roles', `roles.json: ${faults.join('; ')}`)
  }
  const { custodians, root, targets, online } = parsed.data
  const roles = { custodians, root, targets, ...(online === undefined ? {} : { online }) }
  const faults = [...faultsOf(roles)]
  if (faults.length > 0) throw new TrustRootError('invalid_roles', `roles.json: ${faults.join('; ')}`)
  return roles
}

/** What the shape alone does not say. A key that is counted twice would be a threshold that is not met by people. */
function* faultsOf({ custodians, root, targets }: Roles): Generator<string> {
  const names = custodians.map((custodian) => custodian.name)
  if (new Set(names).size !== names.length) yield 'two custodians have the same name'
  if (new Set(custodians.map((custodian) => keyIdOf(custodian.key))).size !== names.length)
    yield 'two custodians have the same key'
  for (const [role, { threshold, custodians: chosen }] of Object.entries({ root, targets })) {
    for (const each of chosen) if (!names.includes(each)) yield `${role}: there is no custodian ${each}`
    if (new Set(chosen).size !== chosen.length) yield `${role}: a custodian is named twice`
    if (threshold > chosen.length) yield `${role}: ${threshold} of ${chosen.length} can never sign`
  }
  for (const each of names) {
    if (!root.custodians.includes(each) && !targets.custodians.includes(each)) yield `${each} has no role`
  }
}

/** The text of roles.json; `parseRoles` gives the same back. */
export function formatRoles({ custodians, root, targets, online }: Roles): string {
  const json = { schemaVersion: 1, custodians, root, targets, ...(online === undefined ? {} : { online }) }
  return `${JSON.stringify(json, null, 2)}\n`
}

/** Name of the file inside the trust-root folder. */
export const ROLES_FILE = 'roles.json'

/** Reads roles.json of a folder; undefined if there is none. Throws `invalid_roles`. */
export async function readRoles(folder: string, file: string = ROLES_FILE): Promise<Roles | undefined> {
  const text = await readFile(join(folder, file), 'utf8').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  })
  return text === undefined ? undefined : parseRoles(text)
}

/** Replaces roles.json, atomically and durably. Nothing changes for clients until it is published. */
export async function writeRoles(folder: string, roles: Roles): Promise<void> {
  const text = formatRoles(roles)
  parseRoles(text)
  await writeDurably(join(folder, ROLES_FILE), Buffer.from(text))
}

function isP256Pem(pem: string): boolean {
  try {
    return createPublicKey(pem).asymmetricKeyDetails?.namedCurve === 'prime256v1'
  } catch {
    return false
  }
}
