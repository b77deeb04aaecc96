import { TrustRootError } from './errors.ts'
import { repositoryRules, type RepositorySubject } from './lint-repository.ts'
import { signingConfigRules } from './lint-signing-config.ts'
import { trustedRootRules } from './lint-trusted-root.ts'
import type { Release } from './release.ts'

/** What one rule found: `where` names the file and the place in it. */
export interface Finding {
  readonly rule: string
  readonly message: string
}

/** What the rules look at beyond the release itself. */
export interface LintContext {
  readonly now: Date
  /** The release that clients have now; undefined before the first. */
  readonly previous?: Release
}

/** One named demand of at least one client; yields a message for every violation. */
export type ReleaseRule = (release: Release, context: LintContext) => Iterable<string>

/** The linter said no: nothing was signed and nothing published. */
export class LintError extends TrustRootError {
  readonly findings: readonly Finding[]
  constructor(findings: readonly Finding[]) {
    super('lint', `not published: ${findings.map(({ rule, message }) => `${rule}: ${message}`).join('; ')}`)
    this.findings = findings
  }
}

/**
 * Holds a release against the strictest union of what all clients demand of trusted_root.json, the signing
 * configurations and the legacy targets; the clients disagree, and each of these rules is a release that some client
 * could not read. A rule that itself throws (bytes that do not parse) is a finding of that rule.
 */
export function lintRelease(release: Release, context: LintContext): Finding[] {
  return run({ ...trustedRootRules, ...signingConfigRules }, (rule) => rule(release, context))
}

/** The same for the TUF metadata that is about to be written. */
export function lintRepository(subject: RepositorySubject): Finding[] {
  return run(repositoryRules, (rule) => rule(subject))
}

/** Throws `LintError` if there are findings. */
export function refuseFindings(findings: readonly Finding[]): void {
  if (findings.length > 0) throw new LintError(findings)
}

function run<Rule>(rules: Readonly<Record<string, Rule>>, apply: (rule: Rule) => Iterable<string>): Finding[] {
  return Object.entries(rules).flatMap(([name, rule]) => {
    try {
      return [...apply(rule)].map((message) => ({ rule: name, message }))
    } catch (error) {
      return [{ rule: name, message: `cannot be checked: ${error instanceof Error ? error.message : String(error)}` }]
    }
  })
}
