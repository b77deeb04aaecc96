import type { FulcioExtensions, SubjectAltName } from '#x509'
import { PolicyError } from './error.ts'
import { applyTemplate } from './template.ts'
import { claimText } from './claim-text.ts'
import { chooseVerifiedEmail, isEmail, looksLikeEmail } from './email.ts'
import { joinPath, parseUrl, urlText } from './go-url.ts'
import type { CiProvider, IdentityType, IssuerPolicy } from './issuer-policy.ts'

/** What policy needs of a verified token. */
export interface TokenClaims {
  readonly issuer: string
  /** `sub`; may be empty. */
  readonly subject: string
  readonly claims: Readonly<Record<string, unknown>>
}

/** Who a certificate is for. */
export interface Principal {
  readonly subjectAltName: SubjectAltName
  /** What the client signs, as UTF-8, to prove that it holds the key. */
  readonly challenge: string
  readonly extensions: FulcioExtensions
}

/** The identity of a verified token under its issuer's policy, as Fulcio makes it; throws `PolicyError`. */
export function principalFor(policy: IssuerPolicy, token: TokenClaims): Principal {
  const identity = IDENTITY[policy.type](policy, token)
  return Object.freeze({
    subjectAltName: identity.subjectAltName,
    challenge: identity.challenge ?? requireSubject(token),
    extensions: Object.freeze({
      ...identity.extensions,
      issuer: identity.issuer ?? token.issuer,
      ...(token.subject !== '' && { tokenSubject: token.subject }),
    }),
  })
}

interface Identity {
  readonly subjectAltName: SubjectAltName
  /** Absent: `sub`. */
  readonly challenge?: string
  /** Absent: `iss`. */
  readonly issuer?: string
  readonly extensions?: Omit<FulcioExtensions, 'issuer' | 'tokenSubject'>
}

const IDENTITY: Readonly<Record<IdentityType, (policy: IssuerPolicy, token: TokenClaims) => Identity>> = {
  email: emailIdentity,
  uri: uriIdentity,
  username: usernameIdentity,
  spiffe: spiffeIdentity,
  kubernetes: (_, token) => kubernetesIdentity(token),
  'github-workflow': (_, token) => githubIdentity(token),
  'gitlab-pipeline': (_, token) => gitlabIdentity(token),
  'buildkite-job': (_, token) => buildkiteIdentity(token),
  'codefresh-workflow': (_, token) => codefreshIdentity(token),
  'chainguard-identity': (_, token) => chainguardIdentity(token),
  'ci-provider': ciProviderIdentity,
}

/** SAN type of `username`: sigstore's otherName. */
const OTHER_NAME_OID = '1.3.6.1.4.1.57264.1.7'

function emailIdentity(policy: IssuerPolicy, token: TokenClaims): Identity {
  const email = chooseVerifiedEmail(token.claims, policy.skipEmailVerification)
  if (email === undefined) throw new PolicyError('missing_claim', 'the token has no email')
  if (!isEmail(email)) throw new PolicyError('invalid_claim', 'the email of the token is not a valid address')
  const subjectAltName = { type: 'email', value: email } as const
  if (policy.issuerClaim === undefined) return { subjectAltName, challenge: email }
  return { subjectAltName, challenge: email, issuer: claimAt(policy.issuerClaim, token.claims) }
}

function uriIdentity(policy: IssuerPolicy, token: TokenClaims): Identity {
  const subject = requireSubject(token)
  if (isEmail(subject)) throw new PolicyError('invalid_claim', 'the subject is an email address')
  const url = parseUrl(subject)
  const domain = parseUrl(policy.subjectDomain ?? '')
  if (url.scheme !== domain.scheme || url.hostname === '' || url.hostname !== domain.hostname) {
    throw new PolicyError('invalid_claim', "the subject is not under the issuer's subject domain")
  }
  return { subjectAltName: uri(urlText(url)) }
}

function usernameIdentity(policy: IssuerPolicy, token: TokenClaims): Identity {
  const subject = requireSubject(token)
  if (subject.includes('!')) throw new PolicyError('invalid_claim', 'the subject has a "!"')
  if (looksLikeEmail(subject)) throw new PolicyError('invalid_claim', 'the subject is an email address')
  return {
    subjectAltName: { type: 'otherName', oid: OTHER_NAME_OID, value: `${subject}!${policy.subjectDomain ?? ''}` },
  }
}

function spiffeIdentity(policy: IssuerPolicy, token: TokenClaims): Identity {
  const subject = requireSubject(token)
  // SPIFFE-ID §2: 2048 bytes at most; no empty, `.` or `..` segment; lower-case trust domain.
  const match = subject.length > 2048 ? null : /^spiffe:\/\/([a-z0-9._-]+)((?:\/[A-Za-z0-9._-]+)*)$/.exec(subject)
  const segments = match?.[2]?.split('/') ?? []
  if (match === null || segments.includes('.') || segments.includes('..')) {
    throw new PolicyError('invalid_claim', 'the subject is not a SPIFFE ID')
  }
  if (match[1] !== policy.spiffeTrustDomain) {
    throw new PolicyError('invalid_claim', "the subject is not in the issuer's trust domain")
  }
  return { subjectAltName: uri(subject) }
}

function kubernetesIdentity(token: TokenClaims): Identity {
  const cluster = object(token.claims['kubernetes.io'])
  const namespace = kubernetesName(cluster?.namespace)
  const account = kubernetesName(object(cluster?.serviceaccount)?.name)
  return { subjectAltName: uri(`https://kubernetes.io/namespaces/${namespace}/serviceaccounts/${account}`) }
}

/** Kubernetes's own rule for these names; Fulcio puts whatever it finds, nothing included, into the URI. */
function kubernetesName(value: unknown): string {
  if (typeof value !== 'string' || !/^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/.test(value)) {
    throw new PolicyError('missing_claim', 'the token names no kubernetes namespace and service account')
  }
  return value
}

const GITHUB = 'https://github.com/'

function githubIdentity(token: TokenClaims): Identity {
  const claim = (name: string) => requireText(name, token.claims)
  const repository = claim('repository')
  const trigger = claim('event_name')
  const sha = claim('sha')
  const ref = claim('ref')
  const signer = joinPath(GITHUB, claim('job_workflow_ref'))
  return {
    subjectAltName: uri(signer),
    extensions: {
      githubWorkflowTrigger: trigger,
      githubWorkflowSha: sha,
      githubWorkflowName: claim('workflow'),
      githubWorkflowRepository: repository,
      githubWorkflowRef: ref,
      buildSignerUri: signer,
      buildSignerDigest: claim('job_workflow_sha'),
      runnerEnvironment: claim('runner_environment'),
      sourceRepositoryUri: joinPath(GITHUB, repository),
      sourceRepositoryDigest: sha,
      sourceRepositoryRef: ref,
      sourceRepositoryIdentifier: claim('repository_id'),
      sourceRepositoryOwnerUri: joinPath(GITHUB, claim('repository_owner')),
      sourceRepositoryOwnerIdentifier: claim('repository_owner_id'),
      buildConfigUri: joinPath(GITHUB, claim('workflow_ref')),
      buildConfigDigest: claim('workflow_sha'),
      buildTrigger: trigger,
      runInvocationUri: joinPath(GITHUB, repository, 'actions/runs', claim('run_id'), 'attempts', claim('run_attempt')),
      sourceRepositoryVisibilityAtSigning: claim('repository_visibility'),
    },
  }
}

const GITLAB = 'https://gitlab.com/'

function gitlabIdentity(token: TokenClaims): Identity {
  const claim = (name: string) => requireText(name, token.claims)
  const config = urlText(parseUrl(`https://${claim('ci_config_ref_uri')}`))
  const refType = claim('ref_type')
  if (refType !== 'branch' && refType !== 'tag')
    throw new PolicyError('invalid_claim', 'the claim ref_type is neither branch nor tag')
  claim('pipeline_id')
  const runner = token.claims.runner_id
  if (typeof runner !== 'number' || !Number.isSafeInteger(runner) || runner === 0) {
    throw new PolicyError('missing_claim', 'the token lacks the claim runner_id')
  }
  const configSha = optionalText('ci_config_sha', token.claims)
  const project = claim('project_path')
  return {
    subjectAltName: uri(config),
    extensions: {
      buildSignerUri: config,
      buildSignerDigest: configSha,
      runnerEnvironment: claim('runner_environment'),
      sourceRepositoryUri: joinPath(GITLAB, project),
      sourceRepositoryDigest: claim('sha'),
      sourceRepositoryRef: `refs/${refType === 'branch' ? 'heads' : 'tags'}/${claim('ref')}`,
      sourceRepositoryIdentifier: claim('project_id'),
      sourceRepositoryOwnerUri: joinPath(GITLAB, claim('namespace_path')),
      sourceRepositoryOwnerIdentifier: claim('namespace_id'),
      buildConfigUri: config,
      buildConfigDigest: configSha,
      buildTrigger: claim('pipeline_source'),
      runInvocationUri: joinPath(GITLAB, project, '/-/jobs/', claim('job_id')),
      sourceRepositoryVisibilityAtSigning: optionalText('project_visibility', token.claims),
    },
  }
}

function buildkiteIdentity(token: TokenClaims): Identity {
  const organization = requireText('organization_slug', token.claims)
  const pipeline = requireText('pipeline_slug', token.claims)
  return { subjectAltName: uri(urlText(parseUrl(`https://buildkite.com/${organization}/${pipeline}`))) }
}

function codefreshIdentity(token: TokenClaims): Identity {
  const claim = (name: string) => requireText(name, token.claims)
  const platform = optionalText('platform_url', token.claims) || 'https://g.codefresh.io'
  const account = optionalText('account_name', token.claims)
  const pipeline = `${optionalText('pipeline_name', token.claims)}:${claim('account_id')}/${claim('pipeline_id')}`
  const build = joinPath(platform, 'build', claim('workflow_id'))
  return {
    subjectAltName: uri(joinPath(platform, account, pipeline)),
    extensions: {
      buildSignerUri: build,
      runnerEnvironment: optionalText('runner_environment', token.claims),
      sourceRepositoryUri: optionalText('scm_repo_url', token.claims),
      sourceRepositoryRef: optionalText('scm_ref', token.claims),
      buildConfigUri: joinPath(platform, 'api', 'pipelines', claim('pipeline_id')),
      runInvocationUri: build,
    },
  }
}

function chainguardIdentity(token: TokenClaims): Identity {
  const subjectAltName = uri(joinPath(token.issuer, requireSubject(token)))
  // Clients sign the email when the token has one, whatever the issuer's type.
  const email = chooseVerifiedEmail(token.claims, false)
  return email === undefined ? { subjectAltName } : { subjectAltName, challenge: email }
}

function ciProviderIdentity(policy: IssuerPolicy, token: TokenClaims): Identity {
  const provider = policy.ciProvider
  if (provider === undefined) throw new PolicyError('invalid_configuration', 'the issuer has no CI provider')
  const values = templateValues(provider, token.claims)
  const extensions: Record<string, string> = {}
  for (const { name, template } of provider.extensions) extensions[name] = applyTemplate(template, values)
  return { subjectAltName: uri(urlText(parseUrl(applyTemplate(provider.subjectAlternativeName, values)))), extensions }
}

/** The provider's defaults under the token's claims. */
function templateValues(provider: CiProvider, claims: TokenClaims['claims']): ReadonlyMap<string, string> {
  const values = new Map(Object.entries(provider.defaults))
  for (const [name, value] of Object.entries(claims)) values.set(name, claimText(value))
  return values
}

function uri(value: string): SubjectAltName {
  if (value === '') throw new PolicyError('invalid_claim', 'the name of the identity is empty')
  return { type: 'uri', value }
}

function requireSubject(token: TokenClaims): string {
  if (token.subject === '') throw new PolicyError('missing_claim', 'the token has no subject')
  return token.subject
}

/** A claim that must be text and not empty. */
function requireText(name: string, claims: TokenClaims['claims']): string {
  const value = optionalText(name, claims)
  if (value === '') throw new PolicyError('missing_claim', `the token lacks the claim ${name}`)
  return value
}

function optionalText(name: string, claims: TokenClaims['claims']): string {
  const value = Object.hasOwn(claims, name) ? (claims[name] ?? '') : ''
  if (typeof value !== 'string') throw new PolicyError('invalid_claim', `the claim ${name} is not text`)
  return value
}

/** The value at a path of claims, as Go prints it; throws `missing_claim`. */
function claimAt(path: readonly string[], claims: TokenClaims['claims']): string {
  let value: unknown = claims
  for (const step of path) {
    const parent = object(value)
    if (parent === undefined || !Object.hasOwn(parent, step)) {
      throw new PolicyError('missing_claim', `the token lacks the claim ${path.join('.')}`)
    }
    value = parent[step]
  }
  const text = typeof value === 'string' ? value : claimText([value]).slice(1, -1)
  if (text === '' || value === null) throw new PolicyError('missing_claim', `the claim ${path.join('.')} is empty`)
  return text
}

function object(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined
}
