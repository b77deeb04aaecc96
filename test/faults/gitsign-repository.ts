/** A git repository whose commits gitsign signs and verifies, each time with an export of an installation that is told. */
import { existsSync, mkdirSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { clientsFolder } from '../e2e/clients.ts'
import { type Outcome, run, succeeded } from '../e2e/run.ts'
import { runChancery } from '../e2e/stack.ts'

/** What `chancery trust export --for gitsign` wrote and printed. */
export interface GitsignExport {
  readonly folder: string
  readonly lines: readonly string[]
}

export class GitsignRepository {
  readonly #dataDir: string
  readonly #folder: string
  readonly #identity: string

  /** Nothing is made before the first export. */
  constructor(dataDir: string, folder: string, identity: string) {
    this.#dataDir = dataDir
    this.#folder = folder
    this.#identity = identity
  }

  /** Exports what is published now. */
  async export(name: string): Promise<GitsignExport> {
    const folder = join(this.#folder, name)
    mkdirSync(folder, { recursive: true })
    const words = ['--for', 'gitsign', '-o', folder, '--identity', this.#identity, '--data', this.#dataDir]
    const lines = succeeded(await runChancery(['trust', 'export', ...words]))
      .stdout.trim()
      .split('\n')
    return { folder, lines }
  }

  /** Signs with this ID token, as the exported lines say; the commit's name. */
  async commit({ lines }: GitsignExport, token: string): Promise<string> {
    const [repository] = this.#folders()
    writeFileSync(join(repository, 'token'), token.trim())
    const signing = lines.filter((line) => !line.endsWith(' HEAD'))
    const begin = ['git init -q -b main .', 'git config user.name Dev', `git config user.email ${this.#identity}`]
    const change = ['echo text >> file', 'git add file']
    succeeded(await this.#bash([...begin, ...change, ...signing].join('\n')))
    return succeeded(await this.#bash('git rev-parse HEAD')).stdout.trim()
  }

  /** What the exported lines say of this commit; `altered` changes them before. */
  async verify(
    { lines }: GitsignExport,
    commit: string,
    altered: (line: string) => string = (line) => line,
  ): Promise<Outcome> {
    const verifying = lines.filter((line) => /^\. | HEAD$/.test(line))
    return await this.#bash(verifying.map((line) => altered(line).replace(/ HEAD$/, ` ${commit}`)).join('\n'))
  }

  async #bash(script: string): Promise<Outcome> {
    const [repository, programs, home] = this.#folders()
    const env = { PATH: `${programs}:/usr/sbin:/usr/bin:/sbin:/bin`, HOME: home, TMPDIR: home, LANG: 'C.UTF-8' }
    return await run('bash', ['--norc', '-euo', 'pipefail', '-c', script], { cwd: repository, env })
  }

  #folders(): [repository: string, programs: string, home: string] {
    const folder = (name: string): string => {
      const path = join(this.#folder, name)
      mkdirSync(path, { recursive: true })
      return path
    }
    const programs = join(this.#folder, 'programs')
    if (!existsSync(programs)) {
      symlinkSync(realpathSync(join(clientsFolder, 'bin', 'gitsign')), join(folder('programs'), 'gitsign'))
    }
    return [folder('repository'), programs, folder('home')]
  }
}
