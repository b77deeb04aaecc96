/** The stack as an operator runs it: `chancery init`, then `chancery serve`, in a folder of its own. */
import { execFile, spawn } from 'node:child_process'
import { existsSync, openSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { childOf } from './processes.ts'

const chancery = resolve(import.meta.dirname, '../scripts/chancery')
const run = promisify(execFile)

/** `run/endpoints.json`, as far as it is used here. */
export interface Endpoints {
  readonly ca: string
  readonly oidc: string
  readonly rekorV1: string
  readonly rekorV2: string
  readonly tsa: string
}

export interface Stack {
  readonly endpoints: Endpoints
  readonly serverPid: number
  readonly agentPid: number
  /** From the start of the process to its `run/endpoints.json`. */
  readonly startMs: number
  stop(): Promise<void>
}

/** Makes an installation with free ports; resolves with how long that took, milliseconds. */
export async function initialise(dataDir: string): Promise<number> {
  const start = performance.now()
  await run(chancery, ['init', '--data', dataDir, '--ports', 'auto'])
  return performance.now() - start
}

/** A start that takes longer has failed. */
const START_WITHIN_MS = 60_000

/** Starts the server; its log goes to `<dataDir>/serve.log`, since writing it is part of serving. */
export async function serve(dataDir: string): Promise<Stack> {
  const file = join(dataDir, 'run/endpoints.json')
  const logFile = join(dataDir, 'serve.log')
  rmSync(file, { force: true })
  const start = performance.now()
  const log = openSync(logFile, 'a')
  const child = spawn(chancery, ['serve', '--data', dataDir], { stdio: ['ignore', log, log] })
  const ended = new Promise<void>((settle) => child.once('exit', () => settle()))
  while (!existsSync(file)) {
    if (child.exitCode !== null || performance.now() - start > START_WITHIN_MS) {
      child.kill('SIGKILL')
      throw new Error(`the stack did not start:\n${readFileSync(logFile, 'utf8').split('\n').slice(-20).join('\n')}`)
    }
    await delay(2)
  }
  const startMs = performance.now() - start
  const serverPid = child.pid
  const agentPid = serverPid === undefined ? undefined : childOf(serverPid)
  if (serverPid === undefined || agentPid === undefined) throw new Error('the server runs no agent of its own')
  return {
    endpoints: JSON.parse(readFileSync(file, 'utf8')) as Endpoints, // our own server wrote it
    serverPid,
    agentPid,
    startMs,
    stop: async () => {
      child.kill('SIGTERM')
      await ended
    },
  }
}

/** An ID token of the development issuer that outlives the run. */
export async function token(dataDir: string, email: string): Promise<string> {
  const { stdout } = await run(chancery, ['dev', 'token', '--data', dataDir, '--email', email, '--expires', '12h'])
  return stdout.trim()
}
