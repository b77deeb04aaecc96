/** What `chancery trust export` writes and prints, used by the clients it is for: the blocks of docs/clients.md, verbatim. */
import { existsSync, mkdirSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { clientsFolder } from './clients.ts'
import { freshFolder, identityToken, makeArtifact, sharedStack } from './context.ts'
import { type Outcome, refusal, run, succeeded } from './run.ts'
import { projectFolder } from './stack.ts'

const { endpoints, dataDir, identity } = sharedStack()
const document = readFileSync(join(projectFolder, 'docs', 'clients.md'), 'utf8')

/** The block of this name in docs/clients.md. */
function block(name: string): string {
  const found = document.match(new RegExp(`<!-- block: ${name} -->\n\`\`\`sh\n(.*?)\`\`\``, 's'))?.[1]
  if (found === undefined) throw new Error(`docs/clients.md has no block ${name}`)
  return found
}

const work = freshFolder('exports')
const programs = freshFolder('programs')

/** Runs lines in a new bash in `cwd`, with the clients under the names that their users know; the first fault ends it. */
async function inBash(
  lines: string,
  { cwd = work, env = {}, under = [] }: { cwd?: string; env?: Record<string, string>; under?: readonly string[] } = {},
): Promise<Outcome> {
  const home = freshFolder('home')
  mkdirSync(join(home, 'tmp'))
  const [program, ...rest] = [...under, 'bash', '--norc', '-euo', 'pipefail', '-c', lines]
  return await run(program, rest, {
    cwd,
    env: {
      PATH: `${programs}:/usr/sbin:/usr/bin:/sbin:/bin`,
      HOME: home,
      TMPDIR: join(home, 'tmp'),
      LANG: 'C.UTF-8',
      CHANCERY_NODE: dirname(process.execPath),
      ...env,
    },
  })
}

/** The last line of a script that verifies something, made to expect somebody else. */
const expectingAnother = (lines: string) => lines.replaceAll(identity, 'other@example.test')

beforeAll(async () => {
  const program = (name: string, target: string) => symlinkSync(target, join(programs, name))
  program('chancery', join(projectFolder, 'scripts', 'chancery'))
  program('cosign', realpathSync(join(clientsFolder, 'bin', 'cosign3')))
  program('sigstore', join(clientsFolder, 'bin', 'sigstore-python'))
  program('gitsign', realpathSync(join(clientsFolder, 'bin', 'gitsign')))
  program('node', process.execPath)
  symlinkSync(dataDir, join(work, 'data'))
  symlinkSync(realpathSync(join(clientsFolder, 'npm', 'current', 'node_modules')), join(work, 'node_modules'))
  makeArtifact(work)
  writeFileSync(join(work, 'token'), readFileSync(await identityToken(identity), 'utf8').trim())
  succeeded(await inBash(block('export')))
})

const LONG = process.env['CHANCERY_LONG'] === '1'

/** The lines of an export; those of sigstore-python by TUF, which trust.test.ts has too, in the full set alone: it is slow. */
function script(name: string): string {
  const lines = readFileSync(join(work, `use-${name}.sh`), 'utf8')
  return name === 'python' && !LONG ? lines.replace(/^# With TUF[^]*/m, '') : lines
}

test.each([
  { name: 'cosign', refused: /no matching CertificateIdentity found/ },
  { name: 'python', refused: /SANs do not match|identity/i },
  { name: 'js', refused: /signed by dev@example\.test/ },
])(
  'the lines for $name sign and verify with the exported files and by TUF; another identity is refused',
  async ({ name, refused }) => {
    succeeded(await inBash(script(name)))
    const verifying = script(name)
      .split('\n')
      .filter((line) => /verify/.test(line) && !line.startsWith('#'))
    expect(verifying.length).toBe(name === 'js' || (name === 'python' && !LONG) ? 1 : 2)
    expect(refusal(await inBash(expectingAnother(verifying[0] ?? '')))).toMatch(refused)
    writeFileSync(join(work, 'other.txt'), 'another artifact')
    refusal(await inBash((verifying[0] ?? '').replaceAll('artifact.txt', 'other.txt')))
  },
)

test('the lines for gitsign sign a commit and verify it; another identity and a changed commit are refused', async () => {
  const repository = freshFolder('repository')
  writeFileSync(join(repository, 'token'), readFileSync(join(work, 'token')))
  const begin = [
    'git init -q -b main .',
    'git config user.name Dev',
    `git config user.email ${identity}`,
    'echo text > file',
    'git add file',
  ]
  const lines = script('gitsign')
  succeeded(await inBash(`${begin.join('\n')}\n${lines}`, { cwd: repository }))
  const again = lines
    .split('\n')
    .filter((line) => !/git commit/.test(line))
    .join('\n')
  expect(succeeded(await inBash(again, { cwd: repository })).text).toMatch(/Validated Certificate claims: true/)
  expect(refusal(await inBash(expectingAnother(again), { cwd: repository }))).toMatch(/none of the expected identities/)
  // The same signature under another message.
  const forged = [
    'git cat-file commit HEAD | sed s/^signed$/forged/ > forged',
    'git update-ref HEAD "$(git hash-object -t commit -w forged)"',
  ]
  refusal(await inBash(`${forged.join('\n')}\n${again}`, { cwd: repository }))
})

describe('the air-gap kit', () => {
  const inside = freshFolder('inside')
  const under = ['unshare', '--map-root-user', '--net']
  const env = { CHECKSUM: endpoints.rootChecksum, ISSUER: endpoints.oidc }

  test('is imported and verifies a signature where there is no network; one changed byte does not', async () => {
    if (!existsSync(join(work, 'artifact.sigstore.json'))) succeeded(await inBash(script('cosign')))
    const printed = succeeded(await inBash(block('air-gap'))).stdout
    expect(printed).toContain(endpoints.rootChecksum)
    for (const name of ['chancery.kit', 'artifact.txt', 'artifact.sigstore.json']) {
      writeFileSync(join(inside, name), readFileSync(join(work, name)))
    }
    succeeded(await inBash(block('import'), { cwd: inside, env, under }))
    const verify = block('import').replace(/^chancery trust import .*$/m, '')
    expect(refusal(await inBash(expectingAnother(verify), { cwd: inside, env, under }))).toMatch(
      /no matching CertificateIdentity found/,
    )

    const kit = readFileSync(join(inside, 'chancery.kit'), 'utf8')
    writeFileSync(
      join(inside, 'changed.kit'),
      kit.replace(
        /(timestamp\.json": ".{40})(.)/,
        (_, head: string, byte: string) => head + (byte === 'A' ? 'B' : 'A'),
      ),
    )
    const changed = await inBash('chancery trust import changed.kit -o trust', { cwd: inside, under })
    expect([changed.status, changed.text]).toEqual([8, expect.stringMatching(/kit_damaged/)])
    expect((await inBash('chancery trust import chancery.kit -o elsewhere', { cwd: inside, under })).status).toBe(8)
    expect(existsSync(join(inside, 'elsewhere'))).toBe(false)
  })

  test('serves a mirror that cosign initialises from and verifies with', async () => {
    const lines = [
      'ip link set lo up',
      'chancery trust serve-mirror trust --listen 127.0.0.1:8999 & server=$!',
      "trap 'kill $server; wait $server || true' EXIT",
      'for _ in $(seq 200); do curl -sf http://127.0.0.1:8999/timestamp.json > /dev/null && break; sleep 0.1; done',
      'export TUF_ROOT="$HOME/tuf"',
      'cosign initialize --mirror http://127.0.0.1:8999 --root trust/repository/1.root.json --root-checksum "$CHECKSUM"',
      `cosign verify-blob --bundle artifact.sigstore.json --certificate-identity ${identity} --certificate-oidc-issuer "$ISSUER" artifact.txt`,
      'test "$(curl -s -o /dev/null -w "%{http_code}" http://127.0.0.1:8999/2.root.json)" = 404',
    ]
    succeeded(await inBash(lines.join('\n'), { cwd: inside, env, under }))
  })
})
