import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { type IdentityType, type IssuerPolicy, parseFulcioConfig, principalFor, requireAdmitted } from './index.ts'

const FIXTURE = parseFulcioConfig(readFileSync(new URL('testdata/fulcio-config.yaml', import.meta.url), 'utf8'))

function configured(url: string): IssuerPolicy {
  const policy = FIXTURE.find(({ issuerUrl, pattern }) => (issuerUrl ?? pattern) === url)
  if (policy === undefined) throw new TypeError(`the fixture has no issuer ${url}`)
  return policy
}

function policy(type: IdentityType, fields: Partial<IssuerPolicy> = {}): IssuerPolicy {
  return {
    issuerUrl: 'https://issuer.example.com',
    audience: 'sigstore',
    allowHttp: false,
    type,
    challengeClaim: 'sub',
    skipEmailVerification: false,
    ...fields,
  }
}

const token = (claims: Record<string, unknown> = {}, subject = 'subject-1', issuer = 'https://issuer.example.com') => ({
  issuer,
  subject,
  claims: { ...claims, iss: issuer, sub: subject },
})

const EMAIL = { email: 'jo@example.com', email_verified: true }

const GITHUB = {
  event_name: 'push',
  sha: 'a'.repeat(40),
  workflow: 'build',
  repository: 'org/repo',
  ref: 'refs/heads/main',
  job_workflow_ref: 'org/repo/.github/workflows/build.yml@refs/heads/main',
  job_workflow_sha: 'b'.repeat(40),
  runner_environment: 'github-hosted',
  repository_id: '11',
  repository_owner: 'org',
  repository_owner_id: '22',
  repository_visibility: 'public',
  workflow_ref: 'org/repo/.github/workflows/top.yml@refs/heads/main',
  workflow_sha: 'c'.repeat(40),
  run_id: '42',
  run_attempt: '1',
}

const GITLAB = {
  project_path: 'group/project',
  project_id: '7',
  pipeline_source: 'push',
  pipeline_id: '8',
  ci_config_ref_uri: 'gitlab.com/group/project//.gitlab-ci.yml@refs/heads/main',
  ci_config_sha: 'd'.repeat(40),
  namespace_path: 'group',
  namespace_id: '9',
  job_id: '10',
  ref: 'main',
  ref_type: 'branch',
  sha: 'e'.repeat(40),
  runner_environment: 'gitlab-hosted',
  runner_id: 1,
  project_visibility: 'public',
}

const CODEFRESH = {
  account_id: 'A1',
  account_name: 'acme',
  pipeline_id: 'P1',
  pipeline_name: 'app/build',
  workflow_id: 'W1',
  scm_ref: 'main',
}

describe('email', () => {
  test('names the address, which is also the challenge', () => {
    expect(principalFor(policy('email'), token(EMAIL))).toEqual({
      subjectAltName: { type: 'email', value: 'jo@example.com' },
      challenge: 'jo@example.com',
      extensions: { issuer: 'https://issuer.example.com', tokenSubject: 'subject-1' },
    })
  })

  test('needs no subject', () => {
    expect(principalFor(policy('email'), token(EMAIL, '')).extensions).toEqual({ issuer: 'https://issuer.example.com' })
  })

  test.each(['true', 'True'])('takes email_verified %j', (verified) => {
    expect(principalFor(policy('email'), token({ ...EMAIL, email_verified: verified })).challenge).toBe(
      'jo@example.com',
    )
  })

  test('takes an unverified address from an issuer that is trusted with it', () => {
    expect(
      principalFor(policy('email', { skipEmailVerification: true }), token({ email: 'jo@example.com' })).challenge,
    ).toBe('jo@example.com')
  })

  test('shows the issuer behind the issuer where a claim names it', () => {
    const dex = configured('https://dex.example.com/auth')
    const principal = principalFor(
      dex,
      token({ ...EMAIL, federated_claims: { connector_id: 'https://upstream.example' } }),
    )
    expect(principal.extensions.issuer).toBe('https://upstream.example')
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['without email', {}, 'missing_claim'],
    ['with an empty email', { ...EMAIL, email: '' }, 'missing_claim'],
    ['with an email that is no text', { ...EMAIL, email: ['jo@example.com'] }, 'invalid_claim'],
    ['unverified', { ...EMAIL, email_verified: false }, 'unverified_email'],
    ['unverified in words', { ...EMAIL, email_verified: 'false' }, 'unverified_email'],
    ['without verification', { email: 'jo@example.com' }, 'unverified_email'],
    ['with a verification of 1', { ...EMAIL, email_verified: 1 }, 'invalid_claim'],
    ['with a verification of TRUE', { ...EMAIL, email_verified: 'TRUE' }, 'invalid_claim'],
    ['with a verification of null', { ...EMAIL, email_verified: null }, 'invalid_claim'],
    ...[
      'jo',
      'jo@',
      '@example.com',
      'jo@example',
      'jo@@example.com',
      'a b@example.com',
      'jo@exa mple.com',
      'jö@example.com',
      'jo@exämple.com',
      'jo@example.com\n',
      'jo@example.com\0.evil',
      'jo@-example.com',
      'jo@example..com',
      '.jo@example.com',
      'jo.@example.com',
      `${'a'.repeat(65)}@example.com`,
      `jo@${'a'.repeat(64)}.com`,
      'jo@example.com,x@example.com',
      '<jo@example.com>',
      '"jo"@example.com',
    ].map((email): [string, Record<string, unknown>, string] => [
      `with the address ${JSON.stringify(email)}`,
      { ...EMAIL, email },
      'invalid_claim',
    ]),
  ])('refuses a token %s', (_, claims, code) => {
    expect(() => principalFor(policy('email'), token(claims))).toThrow(expect.objectContaining({ code }))
  })

  test.each<[string, unknown]>([
    ['absent', undefined],
    ['not an object', 'x'],
    ['without the claim', {}],
    ['empty', { connector_id: '' }],
    ['null', { connector_id: null }],
    ['inherited', Object.create({ connector_id: 'x' })],
  ])('refuses a mapped issuer that is %s', (_, federated) => {
    expect(() =>
      principalFor(configured('https://dex.example.com/auth'), token({ ...EMAIL, federated_claims: federated })),
    ).toThrow(expect.objectContaining({ code: 'missing_claim' }))
  })
})

describe('uri, username, spiffe, kubernetes', () => {
  const uri = configured('https://users.example.com')
  const username = configured('https://names.example.com')
  const spiffe = configured('https://spire.example.com')
  const kubernetes = configured('https://*.k8s.example.com/*')

  test('make the name from the subject, which is the challenge', () => {
    expect(principalFor(uri, token({}, 'https://id.example.com/jo'))).toMatchObject({
      subjectAltName: { type: 'uri', value: 'https://id.example.com/jo' },
      challenge: 'https://id.example.com/jo',
    })
    expect(principalFor(username, token({ email: 'jo@example.com' }, 'jo'))).toMatchObject({
      subjectAltName: { type: 'otherName', oid: '1.3.6.1.4.1.57264.1.7', value: 'jo!example.com' },
      challenge: 'jo',
    })
    expect(principalFor(spiffe, token({}, 'spiffe://prod.example.com/ns/a'))).toMatchObject({
      subjectAltName: { type: 'uri', value: 'spiffe://prod.example.com/ns/a' },
    })
    const claims = { 'kubernetes.io': { namespace: 'build', serviceaccount: { name: 'runner' } } }
    expect(principalFor(kubernetes, token(claims, 'system:serviceaccount:build:runner'))).toMatchObject({
      subjectAltName: { value: 'https://kubernetes.io/namespaces/build/serviceaccounts/runner' },
      challenge: 'system:serviceaccount:build:runner',
    })
  })

  test.each<[string, IssuerPolicy, string, Record<string, unknown>?]>([
    ['a uri with another host', uri, 'https://evil.example/jo'],
    ['a uri with a longer host', uri, 'https://id.example.com.evil.example/jo'],
    ['a uri with another scheme', uri, 'http://id.example.com/jo'],
    ['a uri whose host stands in its user', uri, 'https://id.example.com@evil.example/'],
    ['a uri without host', uri, 'https:/id.example.com'],
    ['a uri with a line end', uri, 'https://id.example.com/a\nb'],
    ['a uri that is an email', uri, 'jo@example.com'],
    ['a uri that is empty', uri, ''],
    ['a username with an exclamation mark', username, 'jo!evil.example'],
    ['a username that is an email', username, 'jo@example.com'],
    ['a username that is an odd email', username, '"jo"@example.com'],
    ['a username that is empty', username, ''],
    ['a spiffe id of another domain', spiffe, 'spiffe://dev.example.com/ns/a'],
    ['a spiffe id with a longer domain', spiffe, 'spiffe://prod.example.com.evil/ns'],
    ['a spiffe id with an empty segment', spiffe, 'spiffe://prod.example.com//a'],
    ['a spiffe id with a slash at its end', spiffe, 'spiffe://prod.example.com/a/'],
    ['a spiffe id with dots', spiffe, 'spiffe://prod.example.com/a/../b'],
    ['a spiffe id with a port', spiffe, 'spiffe://prod.example.com:1/a'],
    ['a spiffe id with an escape', spiffe, 'spiffe://prod.example.com/%61'],
    ['a spiffe id of another scheme', spiffe, 'https://prod.example.com/a'],
    ['a spiffe id with a line end', spiffe, 'spiffe://prod.example.com/a\n'],
    ['kubernetes without its claim', kubernetes, 's'],
    ['kubernetes without namespace', kubernetes, 's', { 'kubernetes.io': { serviceaccount: { name: 'a' } } }],
    [
      'kubernetes with an empty account',
      kubernetes,
      's',
      { 'kubernetes.io': { namespace: 'a', serviceaccount: { name: '' } } },
    ],
    [
      'kubernetes with a path as namespace',
      kubernetes,
      's',
      { 'kubernetes.io': { namespace: 'a/serviceaccounts/b', serviceaccount: { name: 'c' } } },
    ],
    ['kubernetes with a number', kubernetes, 's', { 'kubernetes.io': { namespace: 1, serviceaccount: { name: 'a' } } }],
    [
      'kubernetes without subject',
      kubernetes,
      '',
      { 'kubernetes.io': { namespace: 'a', serviceaccount: { name: 'a' } } },
    ],
  ])('refuse %s', (_, under, subject, claims = {}) => {
    expect(() => principalFor(under, token(claims, subject))).toThrow(expect.objectContaining({ name: 'PolicyError' }))
  })
})

describe('CI systems', () => {
  test('github-workflow fills .1 to .22', () => {
    const { subjectAltName, challenge, extensions } = principalFor(
      policy('github-workflow'),
      token({ ...GITHUB, email: 'jo@example.com' }, 'repo:org/repo:ref:x'),
    )
    const signer = 'https://github.com/org/repo/.github/workflows/build.yml@refs/heads/main'
    expect(subjectAltName).toEqual({ type: 'uri', value: signer })
    expect(challenge).toBe('repo:org/repo:ref:x')
    expect(extensions).toEqual({
      issuer: 'https://issuer.example.com',
      githubWorkflowTrigger: 'push',
      githubWorkflowSha: GITHUB.sha,
      githubWorkflowName: 'build',
      githubWorkflowRepository: 'org/repo',
      githubWorkflowRef: 'refs/heads/main',
      buildSignerUri: signer,
      buildSignerDigest: GITHUB.job_workflow_sha,
      runnerEnvironment: 'github-hosted',
      sourceRepositoryUri: 'https://github.com/org/repo',
      sourceRepositoryDigest: GITHUB.sha,
      sourceRepositoryRef: 'refs/heads/main',
      sourceRepositoryIdentifier: '11',
      sourceRepositoryOwnerUri: 'https://github.com/org',
      sourceRepositoryOwnerIdentifier: '22',
      buildConfigUri: 'https://github.com/org/repo/.github/workflows/top.yml@refs/heads/main',
      buildConfigDigest: GITHUB.workflow_sha,
      buildTrigger: 'push',
      runInvocationUri: 'https://github.com/org/repo/actions/runs/42/attempts/1',
      sourceRepositoryVisibilityAtSigning: 'public',
      tokenSubject: 'repo:org/repo:ref:x',
    })
  })

  test.each(Object.keys(GITHUB))('github-workflow refuses a token without %s', (name) => {
    for (const value of [undefined, '', 5, null]) {
      expect(() => principalFor(policy('github-workflow'), token({ ...GITHUB, [name]: value }))).toThrow(
        expect.objectContaining({ name: 'PolicyError' }),
      )
    }
  })

  test('gitlab-pipeline', () => {
    const { subjectAltName, extensions } = principalFor(policy('gitlab-pipeline'), token(GITLAB))
    expect(subjectAltName.value).toBe('https://gitlab.com/group/project//.gitlab-ci.yml@refs/heads/main')
    expect(extensions).toMatchObject({
      sourceRepositoryRef: 'refs/heads/main',
      sourceRepositoryUri: 'https://gitlab.com/group/project',
      runInvocationUri: 'https://gitlab.com/group/project/-/jobs/10',
      buildTrigger: 'push',
    })
  })

  test.each<[string, unknown]>([
    ['ref_type', 'commit'],
    ['runner_id', 0],
    ['runner_id', '1'],
    ...Object.keys(GITLAB)
      .filter((name) => name !== 'ci_config_sha' && name !== 'project_visibility')
      .map((name): [string, unknown] => [name, undefined]),
  ])('gitlab-pipeline refuses %s %j', (name, value) => {
    expect(() => principalFor(policy('gitlab-pipeline'), token({ ...GITLAB, [name]: value }))).toThrow(
      expect.objectContaining({ name: 'PolicyError' }),
    )
  })

  test('buildkite-job, codefresh-workflow and chainguard-identity', () => {
    const buildkite = principalFor(policy('buildkite-job'), token({ organization_slug: 'acme', pipeline_slug: 'app' }))
    expect(buildkite.subjectAltName.value).toBe('https://buildkite.com/acme/app')
    const codefresh = principalFor(policy('codefresh-workflow'), token(CODEFRESH))
    expect(codefresh.subjectAltName.value).toBe('https://g.codefresh.io/acme/app/build:A1/P1')
    expect(codefresh.extensions).toMatchObject({
      buildSignerUri: 'https://g.codefresh.io/build/W1',
      buildConfigUri: 'https://g.codefresh.io/api/pipelines/P1',
      sourceRepositoryRef: 'main',
    })
    const chainguard = principalFor(policy('chainguard-identity'), token({}, 'ab/cd'))
    expect(chainguard).toMatchObject({
      subjectAltName: { value: 'https://issuer.example.com/ab/cd' },
      challenge: 'ab/cd',
    })
    expect(principalFor(policy('chainguard-identity'), token(EMAIL, 'ab/cd')).challenge).toBe('jo@example.com')
  })

  test.each<[IdentityType, Record<string, unknown>]>([
    ['buildkite-job', { organization_slug: 'acme' }],
    ['buildkite-job', { pipeline_slug: 'app' }],
    ['codefresh-workflow', { ...CODEFRESH, account_id: '' }],
    ['codefresh-workflow', { ...CODEFRESH, workflow_id: undefined }],
    ['codefresh-workflow', { ...CODEFRESH, platform_url: 'https://a b' }],
    ['chainguard-identity', { ...EMAIL, email_verified: false }],
  ])('%s refuses %j', (type, claims) => {
    expect(() => principalFor(policy(type), token(claims))).toThrow(expect.objectContaining({ name: 'PolicyError' }))
  })
})

describe('ci-provider', () => {
  const forge = configured('https://forge.example.com/_services/token')
  const claims = { ...GITHUB, ref: 'main', ref_type: 'branch', repository_id: 1234567, event_name: 'push' }

  test('fills its templates from claims over defaults', () => {
    const { subjectAltName, challenge, extensions } = principalFor(
      forge,
      token({ ...claims, url: 'https://other.example' }, 's', 'https://forge.example.com/_services/token'),
    )
    expect(subjectAltName).toEqual({
      type: 'uri',
      value: 'https://other.example/org/repo/.github/workflows/build.yml@refs/heads/main',
    })
    expect(challenge).toBe('s')
    expect(extensions).toEqual({
      issuer: 'https://forge.example.com/_services/token',
      tokenSubject: 's',
      githubWorkflowTrigger: 'push',
      buildSignerUri: 'https://other.example/org/repo/.github/workflows/build.yml@refs/heads/main',
      buildSignerDigest: GITHUB.job_workflow_sha,
      sourceRepositoryUri: 'https://other.example/org/repo',
      sourceRepositoryRef: 'refs/heads/main',
      sourceRepositoryIdentifier: '1234567',
      runInvocationUri: 'https://other.example/org/repo/actions/runs/42/attempts/1',
      deploymentEnvironment: '',
    })
  })

  test('takes else, and index of a missing key', () => {
    expect(principalFor(forge, token({ ...claims, ref_type: 'tag', ref: '1.0' })).extensions.sourceRepositoryRef).toBe(
      'refs/tags/1.0',
    )
    const ring = principalFor(configured('https://ring.example.com'), token({ 'ring.example.com/project': 'p 1' }))
    expect(ring.subjectAltName.value).toBe('https://ring.example.com/api/projects/p%201')
    expect(ring.extensions).toMatchObject({ runnerEnvironment: '""', sourceRepositoryUri: '' })
  })

  test('escapes the name and leaves the extensions raw', () => {
    const { subjectAltName, extensions } = principalFor(forge, token({ ...claims, job_workflow_ref: 'a b' }))
    expect(subjectAltName.value).toBe('https://forge.example.com/a%20b')
    expect(extensions.buildSignerUri).toBe('https://forge.example.com/a b')
  })

  test.each<[string, Record<string, unknown>, string?]>([
    ['a missing claim of the name', { ...claims, job_workflow_ref: undefined }],
    [
      'a missing claim of an extension',
      Object.fromEntries(Object.entries(claims).filter(([name]) => name !== 'repository_id')),
    ],
    ['a name that is no URL', { ...claims, url: 'https://a b' }],
    ['a name with a line end', { ...claims, job_workflow_ref: 'a\nb' }],
    ['a name with a broken escape', { ...claims, job_workflow_ref: 'a%zz' }],
    ['no subject', claims, ''],
  ])('refuses %s', (_, given, subject = 's') => {
    const present = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
    expect(() => principalFor(forge, { issuer: 'https://forge.example.com', subject, claims: present })).toThrow(
      expect.objectContaining({ name: 'PolicyError' }),
    )
  })
})

describe('allow rules', () => {
  const forge = configured('https://forge.example.com/_services/token')
  const typed = policy('email', { allow: [{ admin: [true], level: [3] }] })

  test.each<[string, IssuerPolicy, Record<string, unknown>]>([
    ['without rules', policy('email'), {}],
    ['when all conditions of a rule hold', forge, { repository_owner: 'example', ref: 'refs/heads/release' }],
    ['when another rule holds', forge, { repository: 'partner/tool', ref: 'refs/heads/x' }],
    ['by equal numbers and booleans', typed, { admin: true, level: 3 }],
  ])('admit %s', (_, under, claims) => {
    expect(() => {
      requireAdmitted(under, claims)
    }).not.toThrow()
  })

  test.each<[string, IssuerPolicy, Record<string, unknown>]>([
    ['no claims', forge, {}],
    ['half a rule', forge, { repository_owner: 'example' }],
    ['the other half', forge, { ref: 'refs/heads/main' }],
    ['another value', forge, { repository_owner: 'example', ref: 'refs/heads/dev' }],
    ['another case', forge, { repository: 'Partner/tool' }],
    ['a value that begins alike', forge, { repository: 'partner/tool2' }],
    ['a list with the value', forge, { repository: ['partner/tool'] }],
    ['an object that prints as the value', forge, { repository: { toString: () => 'partner/tool' } }],
    ['null', forge, { repository: null }],
    ['an inherited claim', forge, Object.create({ repository: 'partner/tool' }) as Record<string, unknown>],
    ['a number as text', typed, { admin: true, level: '3' }],
    ['a boolean as text', typed, { admin: 'true', level: 3 }],
    ['no rules at all in the list', policy('email', { allow: [] }), {}],
    ['a rule without conditions', policy('email', { allow: [{}] }), {}],
  ])('refuse %s', (_, under, claims) => {
    expect(() => {
      requireAdmitted(under, claims)
    }).toThrow(expect.objectContaining({ code: 'not_admitted' }))
  })
})
