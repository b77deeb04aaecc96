/** `chancery trust join`: what another machine, or a CI runner, needs to sign and verify here. */
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { rootCertificates } from 'node:tls'
import { join, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import type { LoadedConfig } from '#server'
import { printJson } from './agent-options.ts'
import { readEndpoints } from './clients.ts'
import { type TrustOptions, trustOptions } from './trust-options.ts'

interface JoinOptions extends TrustOptions {
  readonly for: 'shell' | 'github' | 'gitlab'
  readonly caFile?: string
  readonly noCa?: boolean
}

/** Everything that is printed, as data. */
export interface JoinFacts {
  /** What TUF clients dial; it names all other services. */
  readonly mirror: string
  /** SHA-256, hex, of the mirror's first root. */
  readonly rootChecksum: string
  readonly ca: string
  readonly rekor: string
  readonly timestamp: string
  /** Who vouches for identities, where the installation has an issuer of its own. */
  readonly issuer?: string
  /** PEM of the authority whose TLS certificates the services show, unless it is one that everybody knows. */
  readonly tlsAuthority?: string
}

/** Adds the command. */
export function registerJoin(trust: Command): void {
  trustOptions(trust.command('join').summary('print what another machine or a CI runner needs'))
    .addOption(
      new Option('--for <place>', 'lines for a shell, or a job of a CI')
        .choices(['shell', 'github', 'gitlab'])
        .default('shell'),
    )
    .option('--ca-file <file>', 'PEM of the authority that issued the TLS certificates of the services')
    .addHelpText(
      'after',
      `
The lines fetch the root from the mirror and compare it with the checksum that
stands in them: whoever has the lines from you needs no other secret. They are
as good as the way on which they go. The other machine must be able to look up
the names in them, and needs cosign 3 and curl.

Where the services show TLS certificates of a private authority, its
certificate goes into the lines; if the files of the server do not hold it,
give it with --ca-file.

Examples:
  chancery trust join --data ./data > join.sh
  chancery trust join --for github --ca-file tls-authority.pem
  chancery trust join --json
`,
    )
    .action(run)
}

async function run(options: JoinOptions): Promise<void> {
  const { loadConfig } = await import('#server')
  const loaded = loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
  const endpoints = readEndpoints(options.data)
  const tlsAuthority = options.caFile === undefined ? authorityOf(loaded) : privateAuthority(options.caFile)
  const facts: JoinFacts = {
    mirror: endpoints.tuf,
    rootChecksum: endpoints.rootChecksum,
    ca: endpoints.ca,
    rekor: endpoints.rekorV1,
    timestamp: endpoints.tsa,
    ...(endpoints.oidc === undefined ? {} : { issuer: endpoints.oidc }),
    ...(tlsAuthority === undefined ? {} : { tlsAuthority }),
  }
  if (options.json === true) return printJson(facts)
  const lines = { shell: shellLines, github: githubLines, gitlab: gitlabLines }[options.for](facts)
  process.stdout.write(`${lines.join('\n')}\n`)
}

/** The authority is not to be found in the server's files. */
export class JoinError extends Error {
  readonly code = 'no_tls_authority'
}

/** PEM of the private authority of the listeners; undefined without TLS, or if it is one that machines know. */
function authorityOf({ config, resolve: path }: LoadedConfig): string | undefined {
  const sections = [config.ca, config.timestamp, config.trustRoot, ...config.logs]
  const files = new Set(sections.flatMap((section) => (section?.tls === undefined ? [] : [path(section.tls.certFile)])))
  const found = new Set([...files].map((file) => lastAuthority(file)).filter((pem) => pem !== undefined))
  return found.size === 0 ? undefined : [...found].join('')
}

function lastAuthority(file: string): string | undefined {
  const last = certificatesIn(readFileSync(file, 'utf8')).at(-1)
  if (last === undefined) throw new JoinError(`${file} holds no certificate`)
  if (last.checkIssued(last)) return isKnown(last) ? undefined : pemOf(last)
  const known = rootCertificates.map((pem) => new X509Certificate(pem))
  if (known.some((root) => last.checkIssued(root))) return undefined
  throw new JoinError(
    `${file} ends with a certificate that ${last.issuer.replaceAll('\n', ', ')} issued, which is private: give its certificate with --ca-file`,
  )
}

function privateAuthority(file: string): string {
  const certificates = certificatesIn(readFileSync(file, 'utf8'))
  if (certificates.length === 0) throw new JoinError(`${file} holds no certificate`)
  return certificates.map(pemOf).join('')
}

function certificatesIn(text: string): X509Certificate[] {
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^]*?-----END CERTIFICATE-----/g) ?? []
  return blocks.map((pem) => new X509Certificate(pem))
}

function isKnown(certificate: X509Certificate): boolean {
  return rootCertificates.some((pem) => new X509Certificate(pem).fingerprint256 === certificate.fingerprint256)
}

function pemOf(certificate: X509Certificate): string {
  return certificate.toString().replace(/\n?$/, '\n')
}

/** What all forms do once the root is known. */
function initialise({ mirror, rootChecksum }: JoinFacts): string[] {
  return [
    `curl -sSf -o "$CHANCERY/root.json" ${mirror}/1.root.json`,
    `echo "${rootChecksum}  $CHANCERY/root.json" | sha256sum -c`,
    `cosign initialize --mirror ${mirror} --root "$CHANCERY/root.json" --root-checksum ${rootChecksum}`,
  ]
}

/** The authority in a file, and the variables by which curl and Go programs find it. */
function trustTls({ tlsAuthority }: JoinFacts): string[] {
  if (tlsAuthority === undefined) return []
  return [
    '# The TLS certificates are of an authority that this machine does not know',
    `cat > "$CHANCERY/tls-authority.pem" <<'PEM'\n${tlsAuthority.trimEnd()}\nPEM`,
    '# These take the place of what the machine trusts already, which is added',
    'cat /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt >> "$CHANCERY/tls-authority.pem" 2>/dev/null || true',
    ...CA_VARIABLES.map((name) => `export ${name}="$CHANCERY/tls-authority.pem"`),
  ]
}

/** Go; curl; sigstore-python; sigstore-js. */
const CA_VARIABLES = ['SSL_CERT_FILE', 'CURL_CA_BUNDLE', 'REQUESTS_CA_BUNDLE', 'NODE_EXTRA_CA_CERTS']

function shellLines(facts: JoinFacts): string[] {
  const { issuer } = facts
  return [
    '# Run these once in each shell; or put the exports into your profile',
    'export CHANCERY="${CHANCERY:-$HOME/.chancery}"',
    'mkdir -p "$CHANCERY"',
    ...trustTls(facts),
    '# cosign 3 empties this folder when it initialises: it is for this installation alone',
    'export TUF_ROOT="$CHANCERY/tuf"',
    ...initialise(facts),
    '',
    '# To sign, with an identity token in the file `token`:',
    '#   cosign sign-blob --yes --identity-token token --bundle FILE.sigstore.json FILE',
    `# To verify:`,
    `#   cosign verify-blob --bundle FILE.sigstore.json --certificate-identity WHO --certificate-oidc-issuer ${issuer ?? 'ISSUER'} FILE`,
  ]
}

function githubLines(facts: JoinFacts): string[] {
  const script = [
    'CHANCERY="$RUNNER_TEMP/chancery"',
    'mkdir -p "$CHANCERY"',
    ...trustTls(facts),
    'export TUF_ROOT="$CHANCERY/tuf"',
    ...initialise(facts),
    'echo "TUF_ROOT=$TUF_ROOT" >> "$GITHUB_ENV"',
    ...(facts.tlsAuthority === undefined ? [] : CA_VARIABLES.map((name) => `echo "${name}=$${name}" >> "$GITHUB_ENV"`)),
  ]
  return [
    '# A job of GitHub Actions. The CA must know the issuer https://token.actions.githubusercontent.com, with an `allow`',
    '# rule for your repositories (ca/issuers.yaml)',
    'permissions:',
    '  id-token: write # cosign gets its identity token by this',
    '  contents: read',
    'steps:',
    '  - uses: sigstore/cosign-installer@v3',
    '  - name: Trust our Sigstore',
    '    run: |',
    ...indented(script, 6),
    '  - name: Sign',
    '    run: cosign sign-blob --yes --bundle artifact.sigstore.json artifact',
  ]
}

function gitlabLines(facts: JoinFacts): string[] {
  const script = [
    'export CHANCERY="$CI_BUILDS_DIR/chancery"',
    'mkdir -p "$CHANCERY"',
    ...trustTls(facts),
    'export TUF_ROOT="$CHANCERY/tuf"',
    ...initialise(facts),
    'cosign sign-blob --yes --bundle artifact.sigstore.json artifact',
  ]
  return [
    '# A job of GitLab CI. The CA must know your GitLab as an issuer, with an `allow` rule for your projects',
    'sign:',
    '  id_tokens:',
    '    SIGSTORE_ID_TOKEN: # cosign looks there',
    '      aud: sigstore',
    '  script:',
    '    - |',
    ...indented(script, 6),
  ]
}

function indented(lines: readonly string[], columns: number): string[] {
  return lines.flatMap((line) => line.split('\n')).map((line) => (line === '' ? '' : `${' '.repeat(columns)}${line}`))
}
