/**
 * The four TUF clients that this project did not write, each in the program that test/clients has around its library,
 * which stays running and gives every request a client of its own. cosign itself is asked beside them.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import { client, clientsFolder } from './clients.ts'
import { projectFolder } from './stack.ts'

export const tufClientNames = ['go-tuf v2', 'go-tuf 0.7', 'tuf-js', 'python-tuf'] as const
export type TufClientName = (typeof tufClientNames)[number]

export interface TufRequest {
  /** The client's folder; one that is not there is a client that has never run. */
  readonly state: string
  /** Where a client without state has its root from. */
  readonly root: string
  /** Every run starts from `root`, also with a cache; for go-tuf v2 and python-tuf, the others always use their cache. */
  readonly pinned?: boolean
  readonly mirror: string
  readonly targets: readonly string[]
  /** For the two Go clients; the others have the clock that they were started with. */
  readonly now?: Date | undefined
}

const versionsSchema = z.object({ root: z.int(), timestamp: z.int(), snapshot: z.int(), targets: z.int() })
const answerSchema = z.union([
  z.strictObject({ error: z.string() }),
  z.strictObject({ versions: versionsSchema, targets: z.record(z.string(), z.string()) }),
])

/** What a client has after a refresh: versions, and the SHA-256 of each target in hex; or its own words of refusal. */
export type TufAnswer = z.infer<typeof answerSchema>

export interface TufClients {
  refresh(name: TufClientName, request: TufRequest): Promise<TufAnswer>
  close(): Promise<void>
}

/** Starts the programs; `environment` is for those that read the machine's clock through libc. */
export function openTufClients(environment: Readonly<Record<string, string>> = {}): TufClients {
  const home = mkdtempSync(join(tmpdir(), 'chancery-tuf-'))
  const bare = { HOME: home, TMPDIR: home, PATH: '/usr/bin:/bin', LANG: 'C.UTF-8' }
  const clients = join(projectFolder, 'test', 'clients')
  const packages = realpathSync(join(clientsFolder, 'npm', 'current'))
  const python = join(dirname(realpathSync(join(clientsFolder, 'bin', 'sigstore-python'))), 'python')
  const go = talkTo(join(clientsFolder, 'bin', 'tuf-clients'), [], bare)
  const onClock = { ...bare, ...environment }
  const js = talkTo(process.execPath, [join(clients, 'tuf-js.ts'), packages], onClock)
  const py = talkTo(python, ['-I', '-W', 'ignore', join(clients, 'tuf-python.py')], onClock)
  const programs = { 'go-tuf v2': go, 'go-tuf 0.7': go, 'tuf-js': js, 'python-tuf': py }
  return {
    refresh: async (name, { now, ...request }) => {
      const line = JSON.stringify({ client: name, ...request, ...(now === undefined ? {} : { nowMs: now.getTime() }) })
      return answerSchema.parse(JSON.parse(await programs[name].ask(line)))
    },
    close: async () => {
      await Promise.all([go.end(), js.end(), py.end()])
      rmSync(home, { recursive: true, force: true })
    },
  }
}

interface Talk {
  ask(line: string): Promise<string>
  end(): Promise<void>
}

/** One line in, one line out, in turn. */
function talkTo(file: string, args: readonly string[], env: Readonly<Record<string, string>>): Talk {
  const child: ChildProcess = spawn(file, args, { env, stdio: ['pipe', 'pipe', 'pipe'] })
  const { stdin, stdout, stderr } = child
  if (stdin === null || stdout === null || stderr === null) throw new TypeError('a program without pipes')
  const waiting: { resolve: (line: string) => void; reject: (error: Error) => void }[] = []
  let said = ''
  stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4000)
  })
  createInterface({ input: stdout }).on('line', (line) => waiting.shift()?.resolve(line))
  const ended = new Promise<void>((settle) => {
    const fail = (why: string) => {
      for (const { reject } of waiting.splice(0)) reject(new Error(`${file} ${why}:\n${said}`))
      settle()
    }
    child.once('close', (status) => fail(`ended with ${String(status)}`))
    child.once('error', ({ message }) => fail(message))
  })
  // What is written to a program that has ended is answered by its end.
  stdin.on('error', () => {})
  return {
    ask: async (line) =>
      new Promise((resolve, reject) => {
        waiting.push({ resolve, reject })
        if (child.exitCode !== null) reject(new Error(`${file} has ended with ${child.exitCode}:\n${said}`))
        else stdin.write(`${line}\n`)
      }),
    end: async () => {
      stdin.end()
      await ended
    },
  }
}

/** A copy of what a client has cached, to go on from; a client that has never run has nothing to copy. */
export function copyState(from: string, to: string): string {
  // python-tuf's root.json is a relative link.
  if (existsSync(from)) cpSync(from, to, { recursive: true, verbatimSymlinks: true })
  return to
}

/**
 * Refreshes cosign's TUF_ROOT at `state` and returns what it then trusts. `initialize` would forget the cache, so it is
 * only for the first time; later the command that needs nothing but a trusted root. `pinned`: with TUF_ROOT_JSON.
 */
export async function cosignTrustedRoot(
  state: string,
  { mirror, root, pinned = false }: Pick<TufRequest, 'mirror' | 'root' | 'pinned'>,
) {
  const env = { TUF_ROOT: state, ...(pinned ? { TUF_ROOT_JSON: root } : {}) }
  if (!existsSync(join(state, 'remote.json'))) {
    const outcome = await client('cosign3', ['initialize', '--mirror', mirror, '--root', root], { env })
    if (outcome.status !== 0) return outcome
  }
  return await client('cosign3', ['trusted-root', 'create', '--with-default-services'], { env })
}
