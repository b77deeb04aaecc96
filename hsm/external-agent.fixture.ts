/** An agent that runs on its own, as this user or as another one, with a network or without; for the tests of this folder. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'

const project = resolve(import.meta.dirname, '..')

export interface OtherUser {
  readonly uid: number
  readonly gid: number
  /** Supplementary groups. */
  readonly groups: readonly number[]
}

export interface UserOptions {
  /** Options of unshare(1) beside `--mount`; a network namespace of its own unless told. */
  readonly namespaces?: readonly string[]
  readonly environment?: Readonly<Record<string, string>>
}

export interface ExternalAgent {
  readonly pid: number
  /** What it has logged so far, one line each. */
  readonly said: readonly string[]
  stop(): Promise<void>
}

/** Starts `hsm/agent.ts` and waits until its tokens are connected; rejects with what it said if it ends before. `environment` is for one of this user. */
export async function startExternal(
  configPath: string,
  as?: OtherUser,
  environment: Readonly<Record<string, string>> = {},
): Promise<ExternalAgent> {
  // As in a container of its own: its peers have no process numbers there.
  const inOwn = { namespaces: ['--net', '--pid', '--fork', '--kill-child'] }
  const child =
    as === undefined ? agentHere(configPath, environment) : asUser(as, ['hsm/agent.ts', '--config', configPath], inOwn)
  const said: string[] = []
  const ended = new Promise<void>((done) => child.once('close', () => done()))
  const connected = new Promise<void>((done, fail) => {
    if (child.stderr === null) throw new TypeError('the agent has no standard error')
    createInterface({ input: child.stderr }).on('line', (line) => {
      said.push(line)
      if (line.includes('tokens connected')) done()
    })
    void ended.then(() => fail(new Error(`the agent ended:\n${said.join('\n')}`)))
  })
  await connected
  const pid = as === undefined ? child.pid : onlyChildOf(child.pid)
  if (pid === undefined) throw new TypeError('the agent has no process id')
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) process.kill(pid, 'SIGTERM')
    const kill = setTimeout(() => child.kill('SIGKILL'), 5000)
    await ended
    clearTimeout(kill)
  }
  return { pid, said, stop }
}

/** What `unshare --fork` waits for. */
function onlyChildOf(pid: number | undefined): number {
  return Number(readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, 'utf8'))
}

function agentHere(configPath: string, env: Readonly<Record<string, string>>): ChildProcess {
  return spawn(process.execPath, [join(project, 'hsm/agent.ts'), '--config', configPath], {
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
}

/**
 * Runs Node.js as another user as a service manager would: no capabilities, no new privileges, no network but an empty
 * namespace unless told; or as root with all of that, as sudo does. Node.js and the project, which may lie in a home folder
 * that the user cannot enter, are mounted where it can. `first` is a script, relative to the project, or an option of Node.js.
 */
export function asUser(
  user: OtherUser | 'root',
  [first, ...rest]: readonly [string, ...string[]],
  { namespaces = ['--net'], environment = {} }: UserOptions = {},
): ChildProcess {
  const places = mkdtempSync(join(tmpdir(), 'chancery-user-'))
  const [node, ours] = [join(places, 'node'), join(places, 'project')]
  mkdirSync(node)
  mkdirSync(ours)
  const mounts = `mount --bind ${dirname(process.execPath)} ${node} && mount --bind ${project} ${ours} && chmod 755 ${places}`
  const run = `${node}/node ${first.startsWith('-') ? first : join(ours, first)} "$@"`
  const command = `${mounts} && exec ${user === 'root' ? '' : reducedTo(user)} ${run}`
  const child = spawn('unshare', ['--mount', ...namespaces, '/bin/sh', '-c', command, 'sh', ...rest], {
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  child.once('close', () => rmSync(places, { recursive: true, force: true }))
  return child
}

function reducedTo({ uid, gid, groups }: OtherUser): string {
  const groupsOf = groups.length === 0 ? '--clear-groups' : `--groups=${groups.join()}`
  return `setpriv --reuid=${uid} --regid=${gid} ${groupsOf} --no-new-privs --bounding-set=-all --inh-caps=-all`
}

/** What a command prints, run as another user, with its exit status at the end if it is not 0. */
export async function outputAs(
  user: OtherUser | 'root',
  command: readonly [string, ...string[]],
  options: UserOptions = {},
): Promise<string> {
  const child = asUser(user, command, options)
  let text = ''
  child.stdout?.on('data', (chunk: Buffer) => (text += chunk.toString()))
  child.stderr?.on('data', (chunk: Buffer) => (text += chunk.toString()))
  const status = await new Promise((done) => child.once('close', done))
  return status === 0 ? text.trim() : `${text.trim()} (exit status ${String(status)})`
}

/** Waits until `holds`, ten seconds at most. */
export async function until(holds: () => boolean): Promise<void> {
  for (let waitedMs = 0; !holds(); waitedMs += 20) {
    if (waitedMs > 10_000) throw new Error('it did not come true within ten seconds')
    await delay(20)
  }
}
