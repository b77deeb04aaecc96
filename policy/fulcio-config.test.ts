import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { type IssuerPolicy, parseFulcioConfig } from './index.ts'

const FIXTURE = readFileSync(new URL('testdata/fulcio-config.yaml', import.meta.url), 'utf8')

const issuer = (fields: Record<string, unknown> = {}, url = 'https://issuer.example.com') => ({
  OIDCIssuers: { [url]: { IssuerURL: url, ClientID: 'sigstore', Type: 'email', ...fields } },
})
const json = (value: unknown) => JSON.stringify(value)
const find = (policies: readonly IssuerPolicy[], url: string) =>
  policies.find((policy) => (policy.issuerUrl ?? policy.pattern) === url)

describe('reads', () => {
  test("YAML in the form of Fulcio's own file: kebab-case, anchors, aliases as keys, meta issuers", () => {
    const policies = parseFulcioConfig(FIXTURE)
    expect(policies).toHaveLength(10)
    expect(find(policies, 'https://dex.example.com/auth')?.issuerClaim).toEqual(['federated_claims', 'connector_id'])
    expect(find(policies, 'https://entra.example.com')?.skipEmailVerification).toBe(true)
    expect(find(policies, 'https://forge.example.com/_services/token')?.ciProvider?.name).toBe('forge-workflow')
    expect(find(policies, 'https://forge.example.com/tenants/*')).toMatchObject({
      pattern: 'https://forge.example.com/tenants/*',
      type: 'ci-provider',
    })
    expect(find(policies, 'https://accounts.example.com')).toMatchObject({ challengeClaim: 'email', allowHttp: false })
  })

  test('YAML scalars that only look like an alias key', () => {
    const [policy] = parseFulcioConfig(
      `oidc-issuers:\n  https://a.example:\n    issuer-url: https://a.example\n    client-id: c\n    type: email\n    description: |\n      *name:\n    contact: "*name:"\n`,
    )
    expect(policy?.issuerUrl).toBe('https://a.example')
  })

  test.each([
    ['PascalCase', issuer()],
    [
      'any case',
      {
        oidcissuers: {
          'https://issuer.example.com': {
            issuerurl: 'https://issuer.example.com',
            CLIENTID: 'sigstore',
            type: 'email',
          },
        },
      },
    ],
    ['null for absent', { ...issuer({ IssuerClaim: null }), MetaIssuers: null }],
    ['a meta issuer alone', { MetaIssuers: { 'https://*.example.com': { ClientID: 'sigstore', Type: 'kubernetes' } } }],
    ['plain HTTP', issuer({}, 'http://localhost:5556')],
    ['a uri issuer under its own domain', issuer({ Type: 'uri', SubjectDomain: 'https://users.example.com' })],
    ['a username issuer under its own domain', issuer({ Type: 'username', SubjectDomain: 'example.com' })],
    [
      'a username issuer of a single label',
      issuer({ Type: 'username', SubjectDomain: 'localhost' }, 'http://localhost:5556'),
    ],
    ['a spiffe issuer', issuer({ Type: 'spiffe', SPIFFETrustDomain: 'example.com' })],
    ['rules of numbers and booleans', issuer({ allow: [{ admin: true, level: [1, 2] }] })],
  ])('JSON with %s', (_, config) => {
    expect(parseFulcioConfig(json(config))).toHaveLength(1)
  })

  test('the scheme of the issuer, for the profile that refuses plain HTTP', () => {
    expect(parseFulcioConfig(json(issuer({}, 'http://localhost:5556')))[0]?.allowHttp).toBe(true)
  })
})

describe('refuses', () => {
  test.each<[string, unknown]>([
    ['no issuers', {}],
    ['an unknown key at the top', { ...issuer(), OIDCIssuer: {} }],
    ['an unknown key of an issuer', issuer({ SkipEmailVerfication: true })],
    [
      'a key twice in two spellings',
      {
        OIDCIssuers: {
          'https://a.example': {
            IssuerURL: 'https://a.example',
            'issuer-url': 'https://a.example',
            ClientID: 'c',
            Type: 'email',
          },
        },
      },
    ],
    ['an unknown type', issuer({ Type: 'gitea-job' })],
    ['no type', issuer({ Type: undefined })],
    ['no client id', issuer({ ClientID: undefined })],
    ['an empty client id', issuer({ ClientID: '' })],
    ['an issuer that is text', { OIDCIssuers: { 'https://a.example': 'email' } }],
    ['a key that is no URL', issuer({}, 'issuer.example.com')],
    ['another URL than its key', issuer({ IssuerURL: 'https://issuer.example.com/' })],
    ['no issuer-url', issuer({ IssuerURL: undefined })],
    ['a wildcard among the plain issuers', issuer({}, 'https://*.example.com')],
    ['an issuer claim on another type', issuer({ Type: 'kubernetes', IssuerClaim: '$.a' })],
    ['an issuer claim that is no path', issuer({ IssuerClaim: '$..a' })],
    ['skipped verification on another type', issuer({ Type: 'kubernetes', SkipEmailVerification: true })],
    ['spiffe without trust domain', issuer({ Type: 'spiffe' })],
    ['a spiffe trust domain in upper case', issuer({ Type: 'spiffe', SPIFFETrustDomain: 'Example.com' })],
    [
      'spiffe among the meta issuers',
      { MetaIssuers: { 'https://*.example.com': { ClientID: 'c', Type: 'spiffe', SPIFFETrustDomain: 'example.com' } } },
    ],
    ['uri without domain', issuer({ Type: 'uri' })],
    ['a uri domain without scheme', issuer({ Type: 'uri', SubjectDomain: 'example.com' })],
    ['a uri domain with another scheme', issuer({ Type: 'uri', SubjectDomain: 'http://example.com' })],
    ['a uri domain of somebody else', issuer({ Type: 'uri', SubjectDomain: 'https://example.org' })],
    ['a uri domain that ends alike', issuer({ Type: 'uri', SubjectDomain: 'https://notexample.com' })],
    [
      'a neighbour under co.uk',
      issuer({ Type: 'uri', SubjectDomain: 'https://evil.co.uk' }, 'https://issuer.good.co.uk'),
    ],
    ['username without domain', issuer({ Type: 'username' })],
    ['a username domain with scheme', issuer({ Type: 'username', SubjectDomain: 'https://example.com' })],
    ['a username domain of somebody else', issuer({ Type: 'username', SubjectDomain: 'example.org' })],
    [
      'an authority that is no certificate',
      issuer({ CACert: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n' }),
    ],
    ['a CI provider that is not described', issuer({ Type: 'ci-provider', CIProvider: 'forge' })],
    ['a CI provider without name template', { ...issuer(), CIIssuerMetadata: { forge: { ExtensionTemplates: {} } } }],
    ['a blank name template', { ...issuer(), CIIssuerMetadata: { forge: { SubjectAlternativeNameTemplate: ' ' } } }],
    [
      'a template that does not parse',
      { ...issuer(), CIIssuerMetadata: { forge: { SubjectAlternativeNameTemplate: '{{.a' } } },
    ],
    [
      'an extension that does not exist',
      {
        ...issuer(),
        CIIssuerMetadata: { forge: { SubjectAlternativeNameTemplate: 'a', ExtensionTemplates: { BuildSigner: 'a' } } },
      },
    ],
    [
      'a default that is a number',
      {
        ...issuer(),
        CIIssuerMetadata: { forge: { SubjectAlternativeNameTemplate: 'a', DefaultTemplateValues: { a: 1 } } },
      },
    ],
    ['an empty list of rules, which would admit nobody', issuer({ allow: [] })],
    ['a rule without conditions, which would admit everybody', issuer({ allow: [{ group: 'a' }, {}] })],
    ['a condition without values', issuer({ allow: [{ group: [] }] })],
    ['a condition that is an object', issuer({ allow: [{ group: { is: 'a' } }] })],
    ['rules that are not a list', issuer({ allow: { group: 'a' } })],
  ])('%s', (_, config) => {
    expect(() => parseFulcioConfig(json(config))).toThrow(expect.objectContaining({ code: 'invalid_configuration' }))
  })

  test.each([
    ['YAML that does not parse', 'oidc-issuers: ['],
    ['an alias without anchor', 'oidc-issuers:\n  *nobody:\n    type: email\n'],
    ['a key twice', 'oidc-issuers: {}\noidc-issuers: {}\n'],
    ['a list', '- a\n'],
    ['nothing', ''],
    ['text', 'hello'],
  ])('%s', (_, text) => {
    expect(() => parseFulcioConfig(text)).toThrow(expect.objectContaining({ code: 'invalid_configuration' }))
  })

  test('with the place in the message', () => {
    expect(() => parseFulcioConfig(json(issuer({ Type: 'spiffe' })))).toThrow(
      /https:\/\/issuer\.example\.com: spiffe-trust-domain/,
    )
  })
})
