/**
 * A machine joins: the stack in one network namespace, cosign in another, a cable between them; TLS of a private
 * authority, and the names of `init --domain`. The other side has the lines that `chancery trust join` prints, and a token.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parse, stringify } from 'yaml'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type AdminError, askAdmin } from '#server'
import { clientsFolder, system } from './clients.ts'
import { freshFolder, makeArtifact } from './context.ts'
import { type Outcome, refusal, run, succeeded } from './run.ts'
import { ownEnvironment, projectFolder, runChancery, serve, type Stack } from './stack.ts'

const DOMAIN = 'sig.example.test'
const NAMES = ['fulcio', 'rekor-v1', 'rekor-v2', 'ct', 'tsa', 'tuf'].map((name) => `${name}.${DOMAIN}`)
const [OURS, THEIRS] = ['10.77.0.1', '10.77.0.2']
const identity = 'dev@example.test'

const folder = freshFolder('join')
const dataDir = join(folder, 'data')
const there = join(folder, 'there')
const cosign3 = realpathSync(join(clientsFolder, 'bin', 'cosign3'))
let stack: Stack | undefined
let machine: ChildProcess | undefined

beforeAll(async () => {
  await makeCertificates()
  // The names are dialled at the other end of the cable alone: nothing here looks them up.
  machine = await otherMachine()
  succeeded(await documented('init'))
  configureCosign(cosign3)
  stack = await serve(dataDir)
})

afterAll(async () => {
  await stack?.stop()
  if (machine !== undefined) {
    const ended = new Promise((resolve) => machine?.once('close', resolve))
    machine.kill('SIGKILL')
    await ended
  }
  await system('ip', ['link', 'delete', 'join-here'])
})

/** Runs a block of docs/clients.md as it stands. */
async function documented(name: string): Promise<Outcome> {
  const document = readFileSync(join(projectFolder, 'docs', 'clients.md'), 'utf8')
  const block = document.match(new RegExp(`<!-- block: ${name} -->\n\`\`\`sh\n(.*?)\`\`\``, 's'))?.[1]
  if (block === undefined) throw new Error(`docs/clients.md has no block ${name}`)
  const path = `${join(projectFolder, 'scripts')}:${process.env['PATH'] ?? ''}`
  return await run('bash', ['-euc', block], { env: ownEnvironment({ PATH: path }), cwd: folder })
}

/** A private authority, and a certificate of it for all names below the domain; the authority stands behind it. */
async function makeCertificates(): Promise<void> {
  const script = `
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=A private authority' \\
      -keyout authority.key -out authority.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=${DOMAIN}' -keyout sig.key -out sig.csr
    printf 'subjectAltName=DNS:*.${DOMAIN}\\n' > extensions
    openssl x509 -req -in sig.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile extensions -out leaf.pem
    cat leaf.pem authority.pem > sig.pem`
  succeeded(await system('bash', ['-euc', script], { cwd: folder }))
}

/** A network namespace with a cable to this one and a hosts file of its own; ends with its first process. */
async function otherMachine(): Promise<ChildProcess> {
  mkdirSync(there)
  writeFileSync(join(there, 'hosts'), `127.0.0.1 localhost\n${OURS} ${NAMES.join(' ')}\n`)
  const child = spawn('unshare', ['--net', '--mount', 'sleep', 'infinity'], { stdio: 'ignore' })
  const pid = String(child.pid)
  const inside = (...words: string[]) => system('nsenter', ['--target', pid, '--net', '--mount', ...words])
  // Until it has namespaces of its own, these would be ours.
  const ours = succeeded(await system('readlink', ['/proc/self/ns/net'])).stdout
  while ((await system('readlink', [`/proc/${pid}/ns/net`])).stdout === ours) await delay(20)
  succeeded(
    await system('ip', ['link', 'add', 'join-here', 'type', 'veth', 'peer', 'name', 'join-there', 'netns', pid]),
  )
  succeeded(await system('ip', ['address', 'add', `${OURS}/24`, 'dev', 'join-here']))
  succeeded(await system('ip', ['link', 'set', 'join-here', 'up']))
  succeeded(await inside('ip', 'link', 'set', 'lo', 'up'))
  succeeded(await inside('ip', 'address', 'add', `${THEIRS}/24`, 'dev', 'join-there'))
  succeeded(await inside('ip', 'link', 'set', 'join-there', 'up'))
  succeeded(await inside('mount', '--bind', join(there, 'hosts'), '/etc/hosts'))
  return child
}

/** Runs lines on the other machine, where cosign, curl and a new home are, and nothing else of ours. */
async function onOther(lines: string): Promise<Outcome> {
  const programs = freshFolder('programs')
  symlinkSync(cosign3, join(programs, 'cosign'))
  const env = { PATH: `${programs}:/usr/sbin:/usr/bin:/sbin:/bin`, HOME: freshFolder('home'), LANG: 'C.UTF-8' }
  const enter = ['--target', String(machine?.pid), '--net', '--mount', '--wd=.']
  return await run('nsenter', [...enter, 'bash', '--norc', '-euo', 'pipefail', '-c', lines], { env, cwd: there })
}

async function joinLines(...words: string[]): Promise<string> {
  return succeeded(await runChancery(['trust', 'join', '--data', dataDir, ...words])).stdout
}

/** The commands that the lines only tell of, in comments, with their blanks filled in. */
function told(lines: string, who = identity): string {
  const commands = lines.split('\n').flatMap((line) => /^# {3}(cosign .*)$/.exec(line)?.slice(1) ?? [])
  return commands.join('\n').replaceAll('FILE', 'artifact.txt').replace('WHO', who)
}

function configureCosign(program: string): void {
  const file = join(dataDir, 'chancery.yaml')
  const config = parse(readFileSync(file, 'utf8')) as { trustRoot: { cosign?: string } }
  config.trustRoot.cosign = program
  writeFileSync(file, stringify(config))
}

describe('another machine', () => {
  test('signs and verifies by the names of the domain, with the printed lines alone', async () => {
    succeeded(await documented('join'))
    const lines = readFileSync(join(folder, 'join.sh'), 'utf8')
    expect(lines).toBe(await joinLines())
    expect(lines).toContain(`https://tuf.${DOMAIN}`)
    const token = succeeded(await runChancery(['dev', 'token', '--data', dataDir, '--email', identity])).stdout.trim()
    writeFileSync(join(there, 'token'), token)
    makeArtifact(there)
    succeeded(await onOther(`${lines}\n${told(lines)}`))
    const [, verify = ''] = told(lines).split('\n')
    const other = verify.replace(identity, 'other@example.test')
    expect(refusal(await onOther(`${lines}\n${other}`))).toMatch(/no matching CertificateIdentity found/)
    expect(refusal(await onOther(`${lines}\necho more >> artifact.txt\n${verify}`))).toMatch(/invalid signature/)

    const { signing } = JSON.parse(
      `{"signing":${succeeded(await onOther(`curl -sSf --cacert ../authority.pem https://tuf.${DOMAIN}/signing_config.v0.2.json`)).stdout}}`,
    ) as { signing: { caUrls: { url: string }[]; rekorTlogUrls: { url: string }[]; tsaUrls: { url: string }[] } }
    expect([signing.caUrls, signing.rekorTlogUrls, signing.tsaUrls].map(([service]) => service?.url)).toEqual([
      `https://fulcio.${DOMAIN}`,
      `https://rekor-v1.${DOMAIN}`,
      `https://tsa.${DOMAIN}/api/v1/timestamp`,
    ])
  })

  test('does not get in with a wrong checksum, without the authority, or by another name', async () => {
    const lines = await joinLines()
    const checksum = (JSON.parse(await joinLines('--json')) as { rootChecksum: string }).rootChecksum
    expect(refusal(await onOther(lines.replaceAll(checksum, 'ab'.repeat(32))))).toMatch(/did NOT match/)
    const bare = lines.replaceAll(/^export (SSL_CERT_FILE|CURL_CA_BUNDLE)=.*$/gm, '')
    expect(refusal(await onOther(bare))).toMatch(/SSL certificate problem|unable to get local issuer/)
    const at = (name: string) =>
      `curl -sS -o /dev/null -w '%{http_code}' --cacert ../authority.pem --resolve ${name}:443:${OURS} https://${name}/timestamp.json`
    expect(succeeded(await onOther(at(`tuf.${DOMAIN}`))).stdout).toBe('200')
    expect(succeeded(await onOther(at(`fulcio.${DOMAIN}`))).stdout).toBe('404')
    expect(succeeded(await onOther(at(`nobody.${DOMAIN}`))).stdout).toBe('404')
    expect(refusal(await onOther(at('tuf.example.test')))).toMatch(/no alternative certificate subject name matches/)
  })

  test.each([
    { place: 'github', script: 'GITHUB_ENV=github-env RUNNER_TEMP=$PWD', step: /^ {4}run: \|\n((?: {6}.*\n)+)/m },
    { place: 'gitlab', script: 'CI_BUILDS_DIR=$PWD', step: /^ {4}- \|\n((?: {6}.*\n?)+)/m },
  ])('is a CI runner: the script of the job for $place runs as it stands', async ({ place, script, step }) => {
    const job = await joinLines('--for', place)
    const lines = step.exec(job)?.[1]?.replaceAll(/^ {6}/gm, '') ?? 'false'
    const signed = lines.includes('sign-blob')
      ? ''
      : 'cosign sign-blob --yes --bundle artifact.sigstore.json artifact\n'
    const run = `export SIGSTORE_ID_TOKEN=$(cat token) ${script}\necho built > artifact\n${lines}\n${signed}test -s artifact.sigstore.json`
    succeeded(await onOther(run))
    expect((parse(job.replaceAll(/^#.*$/gm, '')) as object) !== null).toBe(true)
  })
})

test('a certificate of a private authority that the server does not have must be given', async () => {
  const config = readFileSync(join(dataDir, 'chancery.yaml'), 'utf8')
  const bare = join(dataDir, 'leaf-only.yaml')
  writeFileSync(bare, config.replaceAll(join(folder, 'sig.pem'), join(folder, 'leaf.pem')))
  const words = ['trust', 'join', '--data', dataDir, '--config', bare]
  expect(refusal(await runChancery(words))).toMatch(/issued, which is private: give its certificate with --ca-file/)
  const given = succeeded(await runChancery([...words, '--ca-file', join(folder, 'authority.pem')])).stdout
  expect(given).toContain(readFileSync(join(folder, 'authority.pem'), 'utf8').trim())
})

test('init refuses a certificate that is not for all names', async () => {
  const words = ['init', '--data', join(folder, 'other'), '--domain', 'other.test', '--ports', 'auto']
  const said = refusal(
    await runChancery([...words, '--tls-cert', join(folder, 'sig.pem'), '--tls-key', join(folder, 'sig.key')]),
  )
  expect(said).toMatch(/sig\.pem is not for fulcio\.other\.test, rekor-v1\.other\.test/)
  expect(refusal(await runChancery([...words, '--tls-cert', join(folder, 'sig.pem')]))).toMatch(/belong together/)
})

describe('the canary of a server that has cosign', () => {
  const ask = (verb: string, argument: object = {}) =>
    askAdmin(join(dataDir, 'run/admin.sock'), verb, { argument, timeoutMs: 90_000 })

  test('is verified by it too, over both logs', async () => {
    const { new: fresh } = (await ask('canary')) as { new: { bundles: { log: string; verifiedBy: string[] }[] } }
    expect(fresh.bundles.map(({ log, verifiedBy }) => [log, verifiedBy])).toEqual([
      ['rekor-v1', ['chancery', 'cosign']],
      ['rekor-v2', ['chancery', 'cosign']],
    ])
  })

  test('keeps a publication back that only cosign refuses', async () => {
    await stack?.stop()
    const strict = join(folder, 'strict-cosign')
    // A cosign that also refuses what it would take: our verifier alone is content.
    writeFileSync(strict, `#!/bin/bash\n${cosign3} "$@" || exit\necho 'Error: not today' >&2\nexit 1\n`)
    chmodSync(strict, 0o755)
    configureCosign(strict)
    stack = await serve(dataDir)
    const before = readFileSync(join(dataDir, 'trust-root/repository/timestamp.json'), 'utf8')
    const error = await ask('trust-publish', { renew: true }).then(
      () => undefined,
      (reason: AdminError) => reason,
    )
    expect([error?.remoteCode, error?.message]).toEqual([
      'canary_failed',
      expect.stringMatching(/cosign says: Error: not today/),
    ])
    expect(readFileSync(join(dataDir, 'trust-root/repository/timestamp.json'), 'utf8')).toBe(before)
  })
})
