/** TUF metadata (TUF specification §4): one role after another, versions going up, expiry within the role's cap. */
import type { TufRole } from '../signing.ts'
import { CanonicalJsonError, parseCanonicalJson, type CanonicalValue } from './canonical-json.ts'
import { signatureOver } from './certificate.ts'
import { equal, refuse, sha256, type Check, type CheckContext, type Fields } from './purpose.ts'

const ROLES: readonly string[] = ['root', 'targets', 'snapshot', 'timestamp'] satisfies readonly TufRole[]

export const checkTuf: Check = (request, context) => {
  const role = readRole(request.text('role'))
  const payload = request.bytes('payload')
  request.end()
  if (!context.key.tufRoles.has(role)) refuse('wrong_role', `key ${context.key.name} does not sign the role ${role}`)
  const signed = readSigned(payload)
  if (signed.get('_type') !== role) refuse('wrong_type', `metadata is not of the role ${role}`)
  if (typeof signed.get('spec_version') !== 'string') refuse('malformed_metadata', 'metadata has no spec_version')
  checkExpiry(signed.get('expires'), role, context)
  const version = signed.get('version')
  if (typeof version !== 'number' || version < 1) return refuse('malformed_metadata', 'metadata has no version')
  advanceVersion(role, version, payload, context)
  return signatureOver(payload)
}

/** The last version that this key signed for each of its roles; 0 before the first. */
export function tufVersions(request: Fields, { key, state }: CheckContext): { [role: string]: number } {
  request.end()
  return Object.fromEntries([...key.tufRoles].map((role) => [role, state.tufVersion(key.name, role)?.version ?? 0]))
}

function readRole(text: string): TufRole {
  return ROLES.includes(text) ? (text as TufRole) : refuse('wrong_role', `${JSON.stringify(text)} is no role`) // just checked
}

function readSigned(payload: Uint8Array): ReadonlyMap<string, CanonicalValue> {
  try {
    const value = parseCanonicalJson(payload)
    if (value instanceof Map) return value
  } catch (error) {
    if (!(error instanceof CanonicalJsonError)) throw error
    refuse('not_canonical', `metadata is not canonical JSON: ${error.message}`)
  }
  return refuse('malformed_metadata', 'metadata is no object')
}

/** Whole seconds: with a fraction python-tuf fails, and go-tuf writes other bytes than were signed. */
function checkExpiry(expires: CanonicalValue | undefined, role: TufRole, { key, nowMs }: CheckContext): void {
  if (typeof expires !== 'string' || !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(expires)) {
    refuse('malformed_metadata', 'expires is not a UTC time in whole seconds')
  }
  const aheadMs = Date.parse(expires) - nowMs
  if (!(aheadMs > 0)) refuse('expired', 'metadata has expired')
  if (aheadMs > key.tufMaxValiditySeconds[role] * 1000) refuse('expiry_over_cap', `expiry is over the cap of ${role}`)
}

/** The same version may be signed again with the same bytes alone: two contents of one version are a fork. */
function advanceVersion(role: TufRole, version: number, payload: Uint8Array, { key, state }: CheckContext): void {
  const digest = sha256(payload)
  const last = state.tufVersion(key.name, role)
  if (last !== undefined && version < last.version) {
    refuse('version_steps_back', `version ${version} of ${role} is below ${last.version}`)
  }
  if (last !== undefined && version === last.version && !equal(last.digest, digest)) {
    refuse('version_reused', `version ${version} of ${role} was signed with other content`)
  }
  state.setTufVersion(key.name, role, version, digest)
}
