import type { Template } from './template.ts'

/** Fulcio's names of the ways in which a token becomes an identity. */
export type IdentityType =
  | 'email'
  | 'uri'
  | 'username'
  | 'spiffe'
  | 'kubernetes'
  | 'github-workflow'
  | 'gitlab-pipeline'
  | 'buildkite-job'
  | 'codefresh-workflow'
  | 'chainguard-identity'
  | 'ci-provider'

/** Admits a token when every claim named here has one of the values listed for it. */
export type AllowRule = Readonly<Record<string, readonly (string | number | boolean)[]>>

/** How tokens of one CI system become extensions; the templates were parsed at start. */
export interface CiProvider {
  readonly name: string
  readonly defaults: Readonly<Record<string, string>>
  readonly extensions: readonly { readonly name: ExtensionName; readonly template: Template }[]
  readonly subjectAlternativeName: Template
}

/** The extensions that a template may fill: all but issuer and token subject, which always come from the token. */
export type ExtensionName = (typeof EXTENSION_NAMES)[number]

export const EXTENSION_NAMES = [
  'githubWorkflowTrigger',
  'githubWorkflowSha',
  'githubWorkflowName',
  'githubWorkflowRepository',
  'githubWorkflowRef',
  'buildSignerUri',
  'buildSignerDigest',
  'runnerEnvironment',
  'sourceRepositoryUri',
  'sourceRepositoryDigest',
  'sourceRepositoryRef',
  'sourceRepositoryIdentifier',
  'sourceRepositoryOwnerUri',
  'sourceRepositoryOwnerIdentifier',
  'buildConfigUri',
  'buildConfigDigest',
  'buildTrigger',
  'runInvocationUri',
  'sourceRepositoryVisibilityAtSigning',
  'deploymentEnvironment',
] as const

/**
 * One issuer of the configuration, checked and frozen. Structurally an endpoint of `#oidc` too, so that the list of
 * policies is also the list of issuers whose tokens are verified.
 */
export interface IssuerPolicy {
  /** Exactly the token's `iss`; one of `issuerUrl` and `pattern` is set. */
  readonly issuerUrl?: string
  /** A meta issuer: `*` stands for one or more of `-_a-zA-Z0-9`. */
  readonly pattern?: string
  /** Must be in the token's `aud`; Fulcio's `client-id`. */
  readonly audience: string
  /** PEM; trusted beside the system's authorities when the issuer is fetched. */
  readonly caCertPem?: string
  /** The configured URL is plain HTTP; the production profile refuses such an issuer. */
  readonly allowHttp: boolean
  readonly type: IdentityType
  /** For `ci-provider`. */
  readonly ciProvider?: CiProvider
  /** For `email`: path of the claim that replaces the issuer in the certificate, e.g. federated_claims, connector_id. */
  readonly issuerClaim?: readonly string[]
  /** For `uri` (with scheme) and `username` (without). */
  readonly subjectDomain?: string
  readonly spiffeTrustDomain?: string
  /** Reported in the configuration reply; has no effect on what is verified, as in Fulcio. */
  readonly challengeClaim: string
  readonly skipEmailVerification: boolean
  /** Any rule admits; absent: every token of the issuer is admitted. */
  readonly allow?: readonly AllowRule[]
}
