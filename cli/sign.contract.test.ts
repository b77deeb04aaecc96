/** `sign`, `verify` and `dev token` as a person runs them, against a whole stack on SoftHSM. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Endpoints } from './clients.ts'

const folder = mkdtempSync(join(tmpdir(), 'chancery-sign-'))
const dataDir = join(folder, 'data')
const main = join(import.meta.dirname, 'main.ts')
let server: ChildProcess
let stack: Endpoints

interface Outcome {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Each call has a HOME of its own, so that nothing is remembered that the command line did not say. */
function chancery(words: readonly string[], input?: string): Outcome {
  const home = mkdtempSync(join(folder, 'home-'))
  return spawnSync(process.execPath, [main, ...words], {
    cwd: folder,
    encoding: 'utf8',
    env: { HOME: home, PATH: process.env['PATH'] },
    ...(input === undefined ? {} : { input }),
  })
}

const at = (name: string): string => join(folder, name)
const trust = (): string[] => ['--mirror', stack.tuf, '--root-checksum', stack.rootChecksum]
const sign = (words: readonly string[], input?: string): Outcome =>
  chancery(['sign', 'artifact', ...trust(), ...words], input)

function verify(file: string, bundle: string, { identity = 'ada@example.test', issuer = stack.oidc } = {}): Outcome {
  const signer = ['--certificate-identity', identity, '--certificate-oidc-issuer', issuer]
  return chancery(['verify', file, '--bundle', bundle, ...signer, ...trust()])
}

beforeAll(async () => {
  const made = chancery(['init', '--data', dataDir, '--ports', 'auto'])
  expect(made.status, made.stderr).toBe(0)
  server = spawn(process.execPath, [main, 'serve', '--data', dataDir], { stdio: 'ignore' })
  const endpoints = join(dataDir, 'run', 'endpoints.json')
  for (const deadline = Date.now() + 30_000; !existsSync(endpoints); await delay(50)) {
    if (Date.now() > deadline || server.exitCode !== null) throw new Error('the stack did not start')
  }
  stack = JSON.parse(readFileSync(endpoints, 'utf8')) as Endpoints
  writeFileSync(at('artifact'), 'what was signed\n')
  writeFileSync(at('other'), 'what was not signed\n')
  writeFileSync(at('predicate.json'), '{"reviewed": true}')
  const token = chancery(['dev', 'token', '--data', dataDir, '--email', 'ada@example.test'])
  expect(token.status, token.stderr).toBe(0)
  writeFileSync(at('token'), token.stdout)
})

afterAll(async () => {
  server.kill('SIGTERM')
  if (server.exitCode === null) await new Promise((resolve) => server.once('exit', resolve))
  rmSync(folder, { recursive: true })
})

describe.each([
  ['a signature in Rekor v1', 'blob-1', ['--rekor', '1']],
  ['a signature in Rekor v2', 'blob-2', ['--rekor', '2']],
  ['an attestation in Rekor v1', 'attestation-1', ['--rekor', '1', '--attest', 'predicate.json', '--type', 'urn:t']],
  ['an attestation in Rekor v2', 'attestation-2', ['--rekor', '2', '--attest', 'predicate.json', '--type', 'urn:t']],
])('%s', (_, bundle, words) => {
  test('is made, verified, and refused for another file, identity or issuer', () => {
    const signed = sign(['--bundle', bundle, '--identity-token', 'token', ...words])
    expect(signed.status, signed.stderr).toBe(0)
    expect(signed.stdout).toContain('signed as ada@example.test')
    const verified = verify('artifact', bundle)
    expect(verified.status, verified.stderr).toBe(0)
    expect(verified.stdout).toBe(`artifact: verified, signed by ada@example.test (${stack.oidc})\n`)
    const refused: [Outcome, string][] = [
      [verify('other', bundle), 'artifact_mismatch'],
      [verify('artifact', bundle, { identity: 'da@example.test' }), 'wrong_identity'],
      [verify('artifact', bundle, { identity: '.*' }), 'wrong_identity'],
      [verify('artifact', bundle, { issuer: `${stack.oidc}/` }), 'wrong_issuer'],
    ]
    for (const [{ status, stdout, stderr }, code] of refused) {
      expect([status, stdout]).toEqual([1, ''])
      expect(stderr).toMatch(new RegExp(`^chancery verify: refused \\(${code}\\): .+\\n$`))
    }
  })
})

describe('a bundle that was changed', () => {
  // Where the bundle's JSON is changed, by flipping one bit in the middle of what is there, and how it is refused.
  const inEntry = ['verificationMaterial', 'tlogEntries', 0]
  test.each<[string, readonly (string | number)[], string, RegExp]>([
    ['SET', [...inEntry, 'inclusionPromise', 'signedEntryTimestamp'], 'blob-1', /not_in_log/],
    ['checkpoint', [...inEntry, 'inclusionProof', 'checkpoint', 'envelope'], 'blob-1', /not_in_log|malformed_bundle/],
    ['checkpoint', [...inEntry, 'inclusionProof', 'checkpoint', 'envelope'], 'blob-2', /not_in_log|malformed_bundle/],
    ['proof', [...inEntry, 'inclusionProof', 'hashes', 0], 'attestation-1', /not_in_log/],
    ['proof', [...inEntry, 'inclusionProof', 'hashes', 0], 'attestation-2', /not_in_log/],
    ['body', [...inEntry, 'canonicalizedBody'], 'blob-1', /not_in_log|malformed_bundle/],
    ['body', [...inEntry, 'canonicalizedBody'], 'blob-2', /not_in_log|malformed_bundle/],
    ['signature', ['messageSignature', 'signature'], 'blob-1', /not_in_log|bad_signature|bad_timestamp/],
    [
      'certificate',
      ['verificationMaterial', 'certificate', 'rawBytes'],
      'blob-1',
      /untrusted_certificate|malformed_bundle|not_in_log/,
    ],
    [
      'timestamp',
      ['verificationMaterial', 'timestampVerificationData', 'rfc3161Timestamps', 0, 'signedTimestamp'],
      'blob-2',
      /bad_timestamp|malformed_bundle/,
    ],
  ])('is refused: %s (%s in %s)', (_, path, bundle, code) => {
    const document: unknown = JSON.parse(readFileSync(at(bundle), 'utf8'))
    writeFileSync(at('changed'), JSON.stringify(changed(document, path)))
    const { status, stderr } = verify('artifact', 'changed')
    expect(status).toBe(1)
    expect(stderr).toMatch(/^chancery verify: refused \(/)
    expect(stderr).toMatch(code)
  })

  test('is refused without its timestamps', () => {
    const document = JSON.parse(readFileSync(at('blob-2'), 'utf8')) as { verificationMaterial: Record<string, unknown> }
    delete document.verificationMaterial['timestampVerificationData']
    writeFileSync(at('changed'), JSON.stringify(document))
    expect(verify('artifact', 'changed').stderr).toContain('refused (bad_timestamp)')
  })

  test.each(['', '{}', 'null', '[]', '{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}'])(
    'is refused as malformed: %j',
    (text) => {
      writeFileSync(at('changed'), text)
      expect(verify('artifact', 'changed')).toMatchObject({
        status: 1,
        stderr: expect.stringContaining('malformed_bundle') as string,
      })
    },
  )
})

describe('signing is refused', () => {
  const token = (...words: string[]): string => chancery(['dev', 'token', '--data', dataDir, ...words]).stdout

  test.each<[string, string[], RegExp]>([
    ['an expired token', ['--expires', '-10m'], /the CA gave no certificate: \(400\).*expired/],
    ['a token for another audience', ['--audience', 'other'], /the CA gave no certificate: \(400\).*audience/],
    ['a token of another issuer', ['--issuer', 'http://127.0.0.1:9'], /the CA gave no certificate: \(400\)/],
    ['an unverified e-mail', ['--unverified'], /the identity token cannot be used .*email not verified/],
  ])('with %s', (_, words, reason) => {
    const { status, stderr } = sign(['--bundle', 'none', '--identity-token', '-'], token(...words))
    expect(stderr).toMatch(reason)
    expect([status, existsSync(at('none'))]).toEqual([1, false])
  })

  test('with what is no token, and the text is not shown', () => {
    const { status, stderr } = sign(['--bundle', 'none', '--identity-token', '-'], 'hush hush')
    expect([status, stderr]).toEqual([
      1,
      'chancery sign: the identity token cannot be used (chancery login gets one)\n',
    ])
  })

  test.each<[string, string[], RegExp]>([
    ['no root and no checksum', [], /give --root-checksum/],
    ['another checksum', ['--root-checksum', '00'.repeat(32)], /which is not the one that was given/],
    ['a root file that is none', ['--root', 'other'], /was not accepted/],
  ])('with %s', (_, words, reason) => {
    const words_ = [
      'sign',
      'artifact',
      '--bundle',
      'none',
      '--identity-token',
      'token',
      '--mirror',
      stack.tuf,
      ...words,
    ]
    const { status, stderr } = chancery(words_)
    expect(stderr).toMatch(reason)
    expect([status, existsSync(at('none'))]).toEqual([1, false])
  })
})

/** A deep copy with one bit flipped in the string at `path`, in a way that keeps base64 base64. */
function changed(document: unknown, path: readonly (string | number)[]): unknown {
  const [step, ...rest] = path
  if (step === undefined) {
    if (typeof document !== 'string') throw new Error('there is no string to change')
    const middle = Math.floor(document.length / 2)
    return document.slice(0, middle) + (document[middle] === 'A' ? 'B' : 'A') + document.slice(middle + 1)
  }
  if (Array.isArray(document)) return document.map((item, index) => (index === step ? changed(item, rest) : item))
  if (typeof document !== 'object' || document === null || !(step in document)) throw new Error(`there is no ${step}`)
  return Object.fromEntries(
    Object.entries(document).map(([name, value]) => [name, name === step ? changed(value, rest) : value]),
  )
}
