/** The quickstart, the README and the lines printed for clients, run as a newcomer would: verbatim, in bash. */
import { type ChildProcess, spawn } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { delimiter, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { clientsFolder } from './clients.ts'
import { freshFolder } from './context.ts'
import { type Outcome, refusal, run, succeeded } from './run.ts'
import { ownEnvironment, projectFolder, runChancery } from './stack.ts'

const quickstart = join(projectFolder, 'scripts', 'quickstart')
const cosign3 = realpathSync(join(clientsFolder, 'bin', 'cosign3'))

/** The folders of PATH, those that hold a cosign replaced by a copy of links without it. */
function pathWithoutCosign(): string {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => existsSync(folder))
  return folders
    .map((folder) => (existsSync(join(folder, 'cosign')) ? linksWithoutCosign(folder) : folder))
    .join(delimiter)
}

function linksWithoutCosign(folder: string): string {
  const copy = freshFolder('path')
  for (const name of readdirSync(folder)) if (name !== 'cosign') symlinkSync(join(folder, name), join(copy, name))
  return copy
}

const bare = pathWithoutCosign()

/** PATH with these programs first, by the names that their users know. */
function pathWith(programs: Readonly<Record<string, string>>): string {
  const folder = freshFolder('bin')
  for (const [name, target] of Object.entries(programs)) symlinkSync(target, join(folder, name))
  return `${folder}${delimiter}${bare}`
}

async function start(words: readonly string[], path: string): Promise<Outcome> {
  return await run(quickstart, words, { env: ownEnvironment({ PATH: path }), timeoutMs: 120_000 })
}

describe('scripts/quickstart --exit', () => {
  const dataDir = join(freshFolder('quickstart'), 'the data') // a space in a path must hurt nobody
  const words = ['--yes', '--exit', '--data', dataDir, '--ports', 'auto']
  let made = ''

  const rows = [
    {
      title: 'makes an installation; cosign signs and verifies',
      path: () => pathWith({ cosign: cosign3 }),
      with: 'cosign 3.',
    },
    {
      title: 'uses it again; without cosign the @sigstore packages do',
      path: () => bare,
      with: 'the @sigstore packages',
    },
    {
      title: 'does not use a cosign that is too old',
      path: () => pathWith({ cosign: realpathSync(join(clientsFolder, 'bin', 'cosign2')) }),
      with: 'the @sigstore packages (the cosign in PATH is 2.',
    },
  ]
  test.each(rows)('$title', async (row) => {
    const { stdout } = succeeded(await start(words, row.path()))
    expect(stdout).toContain(made === '' ? 'Making tokens, keys and certificates' : 'Using the installation')
    expect(stdout).toContain(`Signing a sample as dev@example.test, with ${row.with}`)
    expect(stdout).toMatch(/verified: signed by dev@example\.test[^]*refused, with: .*[^]*It works\./)
    const configuration = readFileSync(join(dataDir, 'chancery.yaml'), 'utf8')
    expect(configuration).toBe(made === '' ? configuration : made)
    made = configuration
    // Nothing of it runs on.
    expect((await runChancery(['status', '--data', dataDir])).status).toBe(3)
  })

  const liars = [
    ['a client that verifies nothing', 'case $1 in verify-blob) exit 1 ;; esac', 'the signature did not verify'],
    ['a client that accepts everything', 'case $1 in verify-blob) exit 0 ;; esac', 'a tampered copy was accepted'],
    [
      'a client that refuses for another reason',
      'case $*  in *tampered*) echo out of memory; exit 1 ;; esac',
      'was not refused for being tampered with',
    ],
    ['a client that cannot sign', 'case $1 in sign-blob) exit 1 ;; esac', 'the sample could not be signed'],
  ] as const
  test.each(liars)('is not content with %s', async (_title, lie, said) => {
    const liar = join(freshFolder('liar'), 'cosign')
    writeFileSync(liar, `#!/bin/bash\n${lie}\nexec ${cosign3} "$@"\n`)
    chmodSync(liar, 0o755)
    expect(refusal(await start(words, pathWith({ cosign: liar })))).toContain(said)
  })
})

describe('scripts/quickstart says what is in its way', () => {
  test('a port that is taken', async () => {
    const other = createServer()
    await new Promise<void>((resolve) => {
      other.listen(8080, '127.0.0.1', resolve)
    })
    try {
      const said = refusal(await start(['--exit', '--data', join(freshFolder(), 'data')], bare))
      expect(said).toContain('taken by another program: port 8080 (tuf)')
    } finally {
      other.close()
    }
  })

  test('a data folder that is a file, or holds something else', async () => {
    const file = join(freshFolder(), 'file')
    writeFileSync(file, '')
    expect(refusal(await start(['--exit', '--data', file], bare))).toContain(`cannot make the data folder ${file}`)
    expect(refusal(await start(['--exit', '--data', dirname(file)], bare))).toContain(
      'not empty and not an installation',
    )
  })

  test.each([[['--dta', 'x']], [['--data']], [['--ports', '8080']]])(
    'words that it does not understand: %j',
    async (words) => {
      expect((await start(words, bare)).status).toBe(2)
    },
  )
})

describe('the README, and the lines that quickstart prints', () => {
  // A folder that looks like a clone, without being the one that holds the developer's own data/.
  const clone = freshFolder('clone')
  for (const name of readdirSync(projectFolder)) {
    if (name !== 'data') symlinkSync(join(projectFolder, name), join(clone, name))
  }
  const path = pathWith({
    cosign: cosign3,
    sigstore: join(clientsFolder, 'bin', 'sigstore-python'),
    node: process.execPath,
  })
  const readme = readFileSync(join(projectFolder, 'README.md'), 'utf8')
  const blocks = [...readme.matchAll(/^```sh\n([^]*?)^```$/gm)].map(([, block = '']) => block)
  let server: ChildProcess
  let printed = ''

  /** Runs lines as they stand in a new bash, with a HOME of their own; the first failing one ends it. */
  async function inBash(lines: string): Promise<Outcome> {
    const home = freshFolder('home')
    const temporary = join(home, 'tmp')
    mkdirSync(temporary)
    // What `npm install sigstore` would put beside the artifact; Node.js looks in the folders above it too.
    symlinkSync(realpathSync(join(clientsFolder, 'npm', 'current', 'node_modules')), join(home, 'node_modules'))
    const env = {
      ...ownEnvironment(),
      PATH: path,
      HOME: home,
      TMPDIR: temporary,
      CHANCERY_NODE: dirname(process.execPath),
    }
    return await run('bash', ['--norc', '-euo', 'pipefail', '-c', lines], { env, cwd: clone })
  }

  /** The lines under `# title`, to the next empty line. */
  function printedBlock(title: string): string {
    const found = new RegExp(`^# ${title}.*\\n([^]*?)\\n\\n`, 'm').exec(printed)?.[1]
    if (found === undefined) throw new Error(`quickstart printed no block ${title}:\n${printed}`)
    return found
  }

  beforeAll(async () => {
    server = spawn('bash', ['-c', `exec ${blocks[0] ?? 'false'}`], {
      cwd: clone,
      env: { ...ownEnvironment(), PATH: path },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    server.stdout?.on('data', (chunk: Buffer) => (printed += chunk.toString()))
    server.stderr?.on('data', (chunk: Buffer) => (printed += chunk.toString()))
    for (let tries = 0; !printed.includes('Serving until'); tries += 1) {
      if (server.exitCode !== null || tries > 1200) throw new Error(`quickstart does not serve:\n${printed}`)
      await delay(100)
    }
  })

  afterAll(async () => {
    const ended = new Promise((resolve) => server.once('close', resolve))
    server.kill('SIGTERM')
    await ended
    expect(existsSync(join(clone, 'data', 'run', 'endpoints.json'))).toBe(false)
  })

  test('the README holds these blocks of commands and no other', () => {
    expect(blocks.map((block) => block.split('\n')[0])).toEqual([
      'scripts/quickstart',
      'scripts/test',
      'eval "$(scripts/chancery clients --data data --export)"   # MIRROR, CHECKSUM and ISSUER of the running stack',
      'scripts/chancery clients --data data',
    ])
  })

  test('scripts/test explains itself', async () => {
    expect(succeeded(await inBash(`${blocks[1]?.trim()} --help`)).stdout).toContain('N passed, N failed, N skipped')
  })

  test("the README's block for cosign signs and verifies, and a changed artifact is refused", async () => {
    succeeded(await inBash(blocks[2] ?? 'false'))
    const verifyAgain = (blocks[2] ?? '').replace(/^cosign sign-blob.*$/m, 'echo more >> artifact.txt')
    expect(refusal(await inBash(verifyAgain))).toMatch(/invalid signature/)
  })

  test('chancery clients prints what quickstart printed', async () => {
    expect(printed).toContain(succeeded(await inBash(blocks[3] ?? 'false')).stdout)
  })

  test.each([
    { title: 'cosign 3', refused: /invalid signature/ },
    { title: 'sigstore-python', refused: /message digest mismatch/ },
    { title: 'sigstore-js', refused: /signature verification failed/ },
  ])('the lines for $title sign and verify, and a changed artifact is refused', async ({ title, refused }) => {
    const lines = `${printedBlock('First')}\n${printedBlock(title)}`
    succeeded(await inBash(lines))
    const last = lines.lastIndexOf(title === 'sigstore-js' ? '\nnode ' : '\n')
    expect(refusal(await inBash(`${lines.slice(0, last)}\necho more >> artifact.txt${lines.slice(last)}`))).toMatch(
      refused,
    )
  })

  test('a second quickstart on the same data uses the stack that runs, and leaves it running', async () => {
    const second = succeeded(await start(['--data', join(clone, 'data')], bare))
    expect(second.stdout).toContain('it is running already')
    expect(second.stdout).toMatch(/The stack was running before and still is\.\s*$/)
    succeeded(await runChancery(['status', '--data', join(clone, 'data')]))
  })
})
