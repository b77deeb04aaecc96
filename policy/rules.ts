import { PolicyError } from './error.ts'
import type { AllowRule, IssuerPolicy } from './issuer-policy.ts'

/**
 * Throws `not_admitted` unless the issuer has no allow rules or one of them holds for the claims: every claim that it
 * names is present and equal, in type and value, to one of the values given. Arrays and objects are equal to nothing.
 */
export function requireAdmitted(policy: IssuerPolicy, claims: Readonly<Record<string, unknown>>): void {
  if (policy.allow === undefined) return
  if (!policy.allow.some((rule) => holds(rule, claims))) {
    throw new PolicyError('not_admitted', 'no allow rule of the issuer admits this identity')
  }
}

function holds(rule: AllowRule, claims: Readonly<Record<string, unknown>>): boolean {
  const conditions = Object.entries(rule)
  // `every` of nothing is true: a rule without conditions would admit everybody (also refused at start).
  return (
    conditions.length > 0 &&
    conditions.every(
      ([claim, values]) => Object.hasOwn(claims, claim) && values.some((value) => value === claims[claim]),
    )
  )
}
