import { X509Certificate } from 'node:crypto'
import { Lexer, parse } from 'yaml'
import { z } from 'zod'
import { decodePem } from '#x509'
import { PolicyError } from './error.ts'
import { parseUrl } from './go-url.ts'
import {
  type AllowRule,
  type CiProvider,
  EXTENSION_NAMES,
  type IdentityType,
  type IssuerPolicy,
} from './issuer-policy.ts'
import { parseTemplate } from './template.ts'

/**
 * The issuers of a configuration in Fulcio's own format: JSON with Go's field names in any case, or YAML with
 * kebab-case keys, anchors, and aliases as map keys. Beside Fulcio's keys an issuer may have `allow`, a list of rules.
 * Throws `invalid_configuration` with the place: also for unknown keys, which Fulcio ignores silently, so that a
 * misspelt restriction does not go unnoticed. (`define` and `x-…` at the top may hold anchors.)
 */
export function parseFulcioConfig(text: string): IssuerPolicy[] {
  const top = keyed(readDocument(text), '')
  for (const key of Object.keys(top)) {
    if (key === 'define' || key.startsWith('x')) delete top[key]
  }
  const { oidcissuers, metaissuers, ciissuermetadata } = check(TOP, top, '')
  const providers = new Map(
    Object.entries(ciissuermetadata).map(([name, value]) => [name, readProvider(name, keyed(value, name))]),
  )
  const issuers = [
    ...Object.entries(oidcissuers).map(([key, value]) => readIssuer(key, keyed(value, key), false, providers)),
    ...Object.entries(metaissuers).map(([key, value]) => readIssuer(key, keyed(value, key), true, providers)),
  ]
  if (issuers.length === 0) throw invalid('', 'it has no issuers')
  return issuers
}

function readDocument(text: string): unknown {
  if (text.trimStart().startsWith('{')) {
    try {
      return JSON.parse(text)
    } catch {
      // Perhaps a YAML flow mapping.
    }
  }
  try {
    return parse(spaceAfterAliasKeys(text), { merge: true, logLevel: 'error' })
  } catch (cause) {
    throw new PolicyError('invalid_configuration', 'issuer configuration: it is neither JSON nor YAML', { cause })
  }
}

/**
 * `*name:` is the key `*name` to go-yaml and so in Fulcio's files, but an alias called `name:` by YAML 1.2. Works on
 * the lexer's tokens, so that scalars that look alike keep their text.
 */
function spaceAfterAliasKeys(text: string): string {
  let out = ''
  let previous = ''
  for (const token of new Lexer().lex(text)) {
    const isMarker = token === '\u0002' || token === '\u0018' || token === '\u001F'
    // U+001F announces a scalar's own text.
    if (!isMarker) out += previous !== '\u001F' && /^\*.*:$/.test(token) ? `${token.slice(0, -1)} :` : token
    previous = token
  }
  return out
}

/** A mapping with its keys in one spelling: lower case, without hyphens and underscores; null is an empty one. */
function keyed(value: unknown, place: string): Record<string, unknown> {
  if (value === null || value === undefined) return {}
  if (typeof value !== 'object' || Array.isArray(value)) throw invalid(place, 'a mapping is expected')
  const out: Record<string, unknown> = {}
  for (const [key, one] of Object.entries(value)) {
    const name = key.toLowerCase().replaceAll(/[-_]/g, '')
    if (Object.hasOwn(out, name)) throw invalid(place, `the key ${key} is there twice`)
    if (one !== null) out[name] = one
  }
  return out
}

const mapping = z.record(z.string(), z.unknown()).default({})

const TOP = z.strictObject({ oidcissuers: mapping, metaissuers: mapping, ciissuermetadata: mapping })

const TYPES = [
  'email',
  'uri',
  'username',
  'spiffe',
  'kubernetes',
  'github-workflow',
  'gitlab-pipeline',
  'buildkite-job',
  'codefresh-workflow',
  'chainguard-identity',
  'ci-provider',
] as const satisfies readonly IdentityType[]

const scalar = z.union([z.string(), z.number(), z.boolean()])

const ISSUER = z.strictObject({
  issuerurl: z.string().optional(),
  clientid: z.string().min(1),
  type: z.enum(TYPES),
  ciprovider: z.string().optional(),
  issuerclaim: z.string().optional(),
  subjectdomain: z.string().optional(),
  spiffetrustdomain: z.string().optional(),
  challengeclaim: z.string().optional(),
  cacert: z.string().optional(),
  skipemailverification: z.boolean().default(false),
  // For people; Fulcio does not enforce the environment either.
  description: z.string().optional(),
  contact: z.string().optional(),
  environment: z.string().optional(),
  allow: z
    .array(z.record(z.string(), z.union([scalar, z.array(scalar).min(1)])))
    .min(1)
    .optional(),
})

type RawIssuer = z.infer<typeof ISSUER>

function readIssuer(
  key: string,
  value: Record<string, unknown>,
  meta: boolean,
  providers: ReadonlyMap<string, CiProvider>,
): IssuerPolicy {
  const raw = check(ISSUER, value, key)
  if (!/^https?:\/\/[^/?#]+/.test(key)) throw invalid(key, 'the key is not the URL of an issuer')
  if (!meta && key.includes('*')) throw invalid(key, 'wildcards belong under meta-issuers')
  if (!meta && raw.issuerurl !== key) throw invalid(key, 'issuer-url and the key must be the same')
  checkIdentity(key, raw, meta)
  const ciProvider = raw.type === 'ci-provider' ? providers.get(raw.ciprovider ?? '') : undefined
  if (raw.type === 'ci-provider' && ciProvider === undefined) {
    throw invalid(key, `ci-issuer-metadata has no entry ${JSON.stringify(raw.ciprovider ?? '')}`)
  }
  return Object.freeze({
    ...(meta ? { pattern: key } : { issuerUrl: key }),
    audience: raw.clientid,
    allowHttp: key.startsWith('http://'),
    type: raw.type,
    challengeClaim: raw.challengeclaim || (raw.type === 'email' ? 'email' : 'sub'),
    skipEmailVerification: raw.skipemailverification,
    ...(raw.cacert ? { caCertPem: readAuthority(key, raw.cacert) } : {}),
    ...(ciProvider !== undefined && { ciProvider }),
    ...(raw.issuerclaim ? { issuerClaim: readPath(key, raw.issuerclaim) } : {}),
    ...(raw.subjectdomain ? { subjectDomain: raw.subjectdomain } : {}),
    ...(raw.spiffetrustdomain
      ? { spiffeTrustDomain: raw.spiffetrustdomain.replace(/^spiffe:\/\/([^/]*).*$/, '$1') }
      : {}),
    ...(raw.allow !== undefined && { allow: raw.allow.map((rule) => readRule(key, rule)) }),
  })
}

/** What the identity type demands of its issuer, as Fulcio checks at start. */
function checkIdentity(key: string, raw: RawIssuer, meta: boolean): void {
  if (raw.issuerclaim && raw.type !== 'email') throw invalid(key, 'issuer-claim is for email issuers only')
  if (raw.skipemailverification && raw.type !== 'email')
    throw invalid(key, 'skip-email-verification is for email issuers only')
  if (raw.type === 'spiffe') {
    // Many issuers would speak for one trust domain.
    if (meta) throw invalid(key, 'spiffe is not for meta-issuers')
    if (!/^(?:spiffe:\/\/)?[a-z0-9._-]+$/.test(raw.spiffetrustdomain ?? ''))
      throw invalid(key, 'spiffe-trust-domain is missing or invalid')
  }
  if (raw.type === 'uri') {
    const domain = located(key, () => parseUrl(raw.subjectdomain ?? ''))
    const issuer = located(key, () => parseUrl(key))
    if (domain.scheme === '' || domain.hostname === '')
      throw invalid(key, 'subject-domain of a uri issuer must be a URL with a scheme')
    if (domain.scheme !== issuer.scheme) throw invalid(key, 'subject-domain and issuer must have the same scheme')
    checkSameOwner(key, domain.hostname, issuer.hostname)
  }
  if (raw.type === 'username') {
    const domain = raw.subjectdomain ?? ''
    if (!/^[A-Za-z0-9.-]+$/.test(domain))
      throw invalid(key, 'subject-domain of a username issuer must be a bare host name')
    checkSameOwner(key, domain, located(key, () => parseUrl(key)).hostname)
  }
}

/** Fulcio's rule, that the last two labels agree, taught that nobody owns the likes of `co.uk`. */
function checkSameOwner(key: string, subject: string, issuer: string): void {
  if (subject === issuer) return
  const labels = subject.split('.')
  const sharedRegistry =
    /^[a-z]{2}$/.test(labels.at(-1) ?? '') && /^(?:com?|net|org|gov|edu|ac|or|ne|go|gob)$/.test(labels.at(-2) ?? '')
  const count = sharedRegistry ? 3 : 2
  const tail = labels.slice(-count).join('.')
  if (labels.length < count || issuer.split('.').slice(-count).join('.') !== tail) {
    throw invalid(key, 'subject-domain and issuer are not under the same domain')
  }
}

/** The JSONPath that Fulcio's files use: `$.a.b` and `$['a']`. */
function readPath(key: string, path: string): readonly string[] {
  if (!/^\$(?:\.[A-Za-z_][\w-]*|\['[^']+'\])+$/.test(path)) throw invalid(key, 'issuer-claim must be a path like $.a.b')
  return [...path.matchAll(/\.([A-Za-z_][\w-]*)|\['([^']+)'\]/g)].map((match) => match[1] ?? match[2] ?? '')
}

function readAuthority(key: string, pem: string): string {
  try {
    const blocks = decodePem(pem, { labels: ['CERTIFICATE'] })
    if (blocks.length === 0) throw new TypeError('no certificate')
    for (const { der } of blocks) void new X509Certificate(der)
    return pem
  } catch (cause) {
    throw new PolicyError('invalid_configuration', `issuer configuration: ${key}: ca-cert cannot be read`, { cause })
  }
}

function readRule(
  key: string,
  rule: Readonly<Record<string, string | number | boolean | readonly (string | number | boolean)[]>>,
): AllowRule {
  const conditions = Object.entries(rule)
  if (conditions.length === 0) throw invalid(key, 'a rule of allow has no conditions')
  return Object.freeze(
    Object.fromEntries(conditions.map(([claim, values]) => [claim, typeof values === 'object' ? values : [values]])),
  )
}

const PROVIDER = z.strictObject({
  defaulttemplatevalues: z.record(z.string(), z.string()).default({}),
  extensiontemplates: z.unknown().optional(),
  subjectalternativenametemplate: z.string().refine((text) => text.trim() !== '', 'must not be empty'),
})

function readProvider(name: string, value: Record<string, unknown>): CiProvider {
  const raw = check(PROVIDER, value, name)
  const templates = keyed(raw.extensiontemplates, name)
  const known = new Map(EXTENSION_NAMES.map((extension) => [extension.toLowerCase(), extension]))
  const extensions = Object.entries(templates).flatMap(([key, template]) => {
    // Fulcio takes these from the token whatever the file says.
    if (key === 'issuer' || key === 'subject') return []
    const extension = known.get(key)
    if (extension === undefined) throw invalid(name, `extension-templates: ${key} is not an extension`)
    if (typeof template !== 'string') throw invalid(name, `extension-templates: ${key} is not text`)
    if (template.trim() === '') return []
    return [{ name: extension, template: located(name, () => parseTemplate(template)) }]
  })
  return Object.freeze({
    name,
    defaults: raw.defaulttemplatevalues,
    extensions,
    subjectAlternativeName: located(name, () => parseTemplate(raw.subjectalternativenametemplate)),
  })
}

function check<T>(schema: z.ZodType<T>, value: unknown, place: string): T {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const [issue] = result.error.issues
  throw invalid(place, `${issue?.path.join('.') ?? ''} ${issue?.message ?? 'invalid'}`.trim())
}

/** Runs a parser and adds the place to what it complains of. */
function located<T>(place: string, read: () => T): T {
  try {
    return read()
  } catch (cause) {
    throw new PolicyError(
      'invalid_configuration',
      `issuer configuration: ${place}: ${cause instanceof Error ? cause.message : ''}`,
      { cause },
    )
  }
}

function invalid(place: string, how: string): PolicyError {
  return new PolicyError('invalid_configuration', `issuer configuration: ${place === '' ? '' : `${place}: `}${how}`)
}
