/**
 * The foreign clients, as their users call them. Every call has a fresh HOME, a fresh TUF_ROOT (a copy of an initialised
 * one where the client needs that) and nothing else of our environment; the programs come from the cache that
 * `scripts/clients` fills, never from PATH.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Outcome, run } from './run.ts'
import { projectFolder } from './stack.ts'

export const clientsFolder = join(
  process.env['CHANCERY_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'chancery'),
  'clients',
)

type Binary =
  | 'cosign3'
  | 'cosign2'
  | 'sigstore-go-sign'
  | 'sigstore-go-verify'
  | 'sigstore-python'
  | 'rekor-cli'
  | 'timestamp-cli'
  | 'fsck'
  | 'crane'
  | 'kyverno'
  | 'policy-tester'

export interface CallOptions {
  /** An initialised TUF_ROOT; the call works on a copy. */
  readonly tufRoot?: string
  readonly cwd?: string
  readonly input?: string | Uint8Array
  readonly env?: Readonly<Record<string, string>>
  /** Put before the command, e.g. `unshare -rn`. */
  readonly under?: readonly string[]
  readonly timeoutMs?: number
}

/** Flags stand with their values, as a list in the list. */
export type Arguments = readonly (string | readonly string[])[]

/** Calls one client and waits for its end. */
export async function client(name: Binary, args: Arguments, options: CallOptions = {}): Promise<Outcome> {
  return call(join(clientsFolder, 'bin', name), args, options)
}

/** Calls `test/clients/sigstore-js.ts` on the packages of the cache. */
export async function sigstoreJs(
  command: string,
  argument: Readonly<Record<string, string>>,
  options: CallOptions = {},
): Promise<Outcome> {
  const packages = realpathSync(join(clientsFolder, 'npm', 'current'))
  const script = join(projectFolder, 'test', 'clients', 'sigstore-js.ts')
  return call(process.execPath, [script, packages, command, JSON.stringify(argument)], options)
}

/** Calls a program of the system (openssl, curl) in the same bare environment. */
export async function system(program: string, args: Arguments, options: CallOptions = {}): Promise<Outcome> {
  return call(program, args, options)
}

async function call(file: string, args: Arguments, options: CallOptions): Promise<Outcome> {
  const home = mkdtempSync(join(tmpdir(), 'chancery-client-'))
  try {
    const tufRoot = join(home, 'tuf')
    if (options.tufRoot !== undefined) cpSync(options.tufRoot, tufRoot, { recursive: true })
    mkdirSync(join(home, 'tmp'))
    const env = {
      HOME: home,
      TUF_ROOT: tufRoot,
      TMPDIR: join(home, 'tmp'),
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      LANG: 'C.UTF-8',
      ...options.env,
    }
    const [program = file, ...rest] = [...(options.under ?? []), file, ...args.flat()]
    return await run(program, rest, {
      env,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.input === undefined ? {} : { input: options.input }),
      ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
    })
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
}

export type LogVersion = 'v1' | 'v2'
export type Kind = 'blob' | 'attestation'

/** What a client is given to sign and verify with: all of it fetched from our TUF mirror by global-setup.ts. */
export interface Material {
  readonly ca: string
  readonly rekorV1: string
  /** The full URL, `…/api/v1/timestamp`. */
  readonly timestamp: string
  readonly tuf: string
  readonly trustedRoot: string
  readonly signingConfig: Readonly<Record<LogVersion, string>>
  /** sigstore-python's ClientTrustConfig with the signing configuration of each log. */
  readonly trustConfig: Readonly<Record<LogVersion, string>>
  readonly rootJson: string
  /** A TUF_ROOT after `cosign initialize`, by each major. */
  readonly tufRoot: { readonly cosign3: string; readonly cosign2: string }
}

export interface SignRequest {
  readonly material: Material
  readonly log: LogVersion
  readonly kind: Kind
  readonly artifact: string
  /** The in-toto statement over `artifact`. cosign would make one of type v0.1, which sigstore-python does not take. */
  readonly statement: string
  readonly predicate: string
  readonly tokenFile: string
  /** Where the bundle goes. */
  readonly bundle: string
}

export const predicateType = 'https://slsa.dev/provenance/v1'

export const signers = {
  'cosign 3': async ({ material, log, kind, artifact, statement, tokenFile, bundle }: SignRequest) =>
    client(
      'cosign3',
      [
        kind === 'blob' ? 'sign-blob' : 'attest-blob',
        '--yes',
        ...(kind === 'blob' ? [] : ['--statement', statement]),
        // Rekor v1 is what the mirror's own signing configuration says: nothing is named then.
        ...(log === 'v1' ? [] : ['--signing-config', material.signingConfig.v2]),
        ['--identity-token', tokenFile, '--bundle', bundle, artifact],
      ],
      { tufRoot: material.tufRoot.cosign3 },
    ),
  'cosign 2': async ({ material, log, kind, artifact, statement, tokenFile, bundle }: SignRequest) =>
    client(
      'cosign2',
      [
        kind === 'blob' ? 'sign-blob' : 'attest-blob',
        '--yes',
        ...(kind === 'blob' ? ['--new-bundle-format'] : ['--statement', statement]),
        ...(kind === 'blob' ? [] : ['--new-bundle-format']),
        ['--signing-config', material.signingConfig[log], '--trusted-root', material.trustedRoot],
        ['--identity-token', tokenFile, '--bundle', bundle, artifact],
      ],
      { tufRoot: material.tufRoot.cosign2 },
    ),
  'sigstore-go': async ({ material, log, kind, artifact, statement, tokenFile, bundle }: SignRequest) => {
    const outcome = await client('sigstore-go-sign', [
      ['-id-token', readFileSync(tokenFile, 'utf8').trim(), '-rekor', '-tsa'],
      ['-s', material.signingConfig[log], '-t', material.trustedRoot],
      ...(kind === 'blob' ? [artifact] : ['-in-toto', statement]),
    ])
    // It says on the same stream what it uses.
    if (outcome.status === 0) writeFileSync(bundle, outcome.stdout.slice(outcome.stdout.indexOf('{')))
    return outcome
  },
  'sigstore-js': async ({ material, log, kind, artifact, statement, tokenFile, bundle }: SignRequest) =>
    sigstoreJs('sign', {
      kind,
      tokenFile,
      bundle,
      signingConfig: material.signingConfig[log],
      artifact: kind === 'blob' ? artifact : statement,
    }),
  'sigstore-python': async ({ material, log, kind, artifact, predicate, tokenFile, bundle }: SignRequest) =>
    client('sigstore-python', [
      ['--trust-config', material.trustConfig[log], kind === 'blob' ? 'sign' : 'attest'],
      ...(kind === 'blob' ? [] : ['--predicate', predicate, '--predicate-type', predicateType]),
      ['--identity-token', readFileSync(tokenFile, 'utf8').trim(), '--bundle', bundle, artifact],
    ]),
} as const

export type SignerName = keyof typeof signers

export interface VerifyRequest {
  readonly material: Pick<Material, 'trustedRoot' | 'trustConfig'>
  readonly log: LogVersion
  readonly kind: Kind
  readonly artifact: string
  readonly bundle: string
  readonly identity: string
  readonly issuer: string
  readonly under?: readonly string[]
}

/** Verification from a bundle and a trusted root in files alone. */
export const verifiers = {
  'cosign 3': async (request: VerifyRequest) => verifyWithCosign('cosign3', request),
  'cosign 2': async (request: VerifyRequest) => verifyWithCosign('cosign2', request),
  'sigstore-go': async ({ material, artifact, bundle, identity, issuer, under }: VerifyRequest) =>
    client(
      'sigstore-go-verify',
      [
        ['-artifact', artifact, '-expectedIssuer', issuer, '-expectedSAN', identity],
        ['-trustedrootJSONpath', material.trustedRoot, bundle],
      ],
      under === undefined ? {} : { under },
    ),
  'sigstore-js': async ({ material, artifact, bundle, identity, issuer, under }: VerifyRequest) =>
    sigstoreJs(
      'verify',
      { trustedRoot: material.trustedRoot, artifact, bundle, identity, issuer },
      under === undefined ? {} : { under },
    ),
  'sigstore-python': async ({ material, log, artifact, bundle, identity, issuer, under }: VerifyRequest) =>
    client(
      'sigstore-python',
      [
        ['--trust-config', material.trustConfig[log], 'verify', 'identity', '--offline'],
        ['--bundle', bundle, '--cert-identity', identity, '--cert-oidc-issuer', issuer, artifact],
      ],
      under === undefined ? {} : { under },
    ),
} as const

export type VerifierName = keyof typeof verifiers

async function verifyWithCosign(name: 'cosign3' | 'cosign2', request: VerifyRequest): Promise<Outcome> {
  const { material, log, kind, artifact, bundle, identity, issuer, under } = request
  return client(
    name,
    [
      kind === 'blob' ? 'verify-blob' : 'verify-blob-attestation',
      ...(kind === 'blob' ? [] : ['--type', 'slsaprovenance1']),
      ...(name === 'cosign2' ? ['--new-bundle-format'] : []),
      // cosign 3 sees by itself that a Rekor v2 entry carries no time.
      ...(name === 'cosign2' && log === 'v2' ? ['--use-signed-timestamps'] : []),
      ['--trusted-root', material.trustedRoot, '--bundle', bundle],
      ['--certificate-identity', identity, '--certificate-oidc-issuer', issuer, artifact],
    ],
    under === undefined ? {} : { under },
  )
}
