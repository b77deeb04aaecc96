/** Starts and stops the whole stack as an operator would: with the `chancery` command, in a folder of its own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createWriteStream, existsSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { run, succeeded } from './run.ts'

const endpointsFile = z.object({
  ca: z.url(),
  oidc: z.url(),
  rekorV1: z.url(),
  rekorV2: z.url(),
  tsa: z.url(),
  ct: z.url(),
  tuf: z.url(),
  metrics: z.url(),
  rootChecksum: z.string().regex(/^[0-9a-f]{64}$/),
})

export type Endpoints = z.infer<typeof endpointsFile>

export interface Stack {
  readonly dataDir: string
  readonly endpoints: Endpoints
  /** The process that was started; `kill('SIGKILL')` is a crash. */
  readonly server: ChildProcess
  /** Settles when the server has ended, for whatever reason. */
  readonly ended: Promise<void>
  /** Ends the server as an operator would and waits for it; throws unless it ended with status 0. */
  stop(): Promise<void>
}

export const projectFolder = resolve(import.meta.dirname, '..', '..')
const chancery = join(projectFolder, 'scripts', 'chancery')

/** What our own commands get of the environment: where Node.js and the caches are, nothing else. */
export function ownEnvironment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  const kept = ['PATH', 'HOME', 'CHANCERY_CACHE', 'CHANCERY_NODE', 'XDG_CACHE_HOME', 'LANG']
  return {
    ...Object.fromEntries(kept.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]]))),
    ...extra,
  }
}

/** Runs the `chancery` command to its end. */
export async function runChancery(
  args: readonly string[],
  options: { env?: Readonly<Record<string, string>>; cwd?: string } = {},
) {
  return run(chancery, args, {
    env: ownEnvironment(options.env),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  })
}

/** Makes tokens, keys, certificates and configuration in `dataDir`, on ports that are free. */
export async function initialise(
  dataDir: string,
  args: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): Promise<void> {
  succeeded(await runChancery(['init', '--data', dataDir, '--ports', 'auto', ...args], { env }))
}

/** Starts the server and resolves when it is ready; its log goes to `<dataDir>/serve.log`. */
export async function serve(dataDir: string, env: Readonly<Record<string, string>> = {}): Promise<Stack> {
  const file = join(dataDir, 'run', 'endpoints.json')
  rmSync(file, { force: true })
  const server = spawn(chancery, ['serve', '--data', dataDir], {
    env: ownEnvironment(env),
    stdio: ['ignore', 'pipe', 'pipe'],
    // A group of its own, so that what a crash leaves behind can be seen and ended.
    detached: true,
  })
  const log = createWriteStream(join(dataDir, 'serve.log'), { flags: 'a' })
  server.stdout?.pipe(log, { end: false })
  server.stderr?.pipe(log, { end: false })
  let status: number | null | undefined
  const ended = new Promise<void>((settle) => {
    server.once('close', (code) => {
      status = code
      settle()
    })
  })
  const deadline = Date.now() + 60_000
  while (!existsSync(file)) {
    if (status !== undefined || Date.now() > deadline) {
      server.kill('SIGKILL')
      throw new Error(`the stack did not start; its log ends with:\n${tail(join(dataDir, 'serve.log'))}`)
    }
    await delay(50)
  }
  return {
    dataDir,
    endpoints: endpointsFile.parse(JSON.parse(readFileSync(file, 'utf8'))),
    server,
    ended,
    stop: async () => {
      server.kill('SIGTERM')
      const late = setTimeout(() => server.kill('SIGKILL'), 30_000)
      await ended
      clearTimeout(late)
      if (status !== 0) throw new Error(`the server ended with ${status}:\n${tail(join(dataDir, 'serve.log'))}`)
    },
  }
}

function tail(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(-30).join('\n') : '(no log)'
}
