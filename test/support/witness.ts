/**
 * litewitness (filippo.io/torchwood), a C2SP witness that this project did not write, with its key in an ssh-agent as it
 * wants it. `witnessctl`, which adds logs to its database, does the two inserts of `addLog` and needs a module that
 * not every proxy has; docs/auditors.md names its commands.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import Database from 'better-sqlite3'

export interface Witness {
  readonly url: string
  /** Its verifier key, as it prints it. */
  readonly vkey: string
  /** What it holds of a log. */
  held(origin: string): { readonly size: number; readonly rootHashBase64: string } | undefined
  /** Makes it take a log's checkpoints, signed with this verifier key (`name+hint+base64`, Ed25519). */
  addLog(origin: string, vkey: string): void
  /** Ends the process; what it holds stays. */
  stop(): Promise<void>
  start(): Promise<void>
  /** Ends it for good. */
  close(): Promise<void>
}

const program = join(
  process.env['CHANCERY_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'chancery'),
  'clients/bin/litewitness',
)

export async function startWitness(name = 'witness.test/lite'): Promise<Witness> {
  const folder = mkdtempSync(join(tmpdir(), 'witness-'))
  const socket = join(folder, 'agent.sock')
  const key = join(folder, 'key')
  const database = join(folder, 'litewitness.db')
  execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key])
  const [, fingerprint = ''] = execFileSync('ssh-keygen', ['-lf', `${key}.pub`], { encoding: 'utf8' }).split(' ')
  const sshAgent = spawn('ssh-agent', ['-D', '-a', socket], { stdio: 'ignore' })
  await until(() => existsSync(socket))
  execFileSync('ssh-add', ['-q', key], { env: { ...process.env, SSH_AUTH_SOCK: socket }, stdio: 'ignore' })

  const port = await freePort()
  const listen = `127.0.0.1:${port}`
  let running: ChildProcess | undefined
  let vkey = ''
  const start = async () => {
    let said = ''
    running = spawn(program, [
      '-db',
      database,
      '-name',
      name,
      '-ssh-agent',
      socket,
      '-key',
      fingerprint,
      '-listen',
      listen,
    ])
    running.stderr?.on('data', (chunk: Buffer) => {
      said += chunk.toString()
    })
    await until(
      async () => await answers(`http://${listen}/`),
      () => said,
    )
    vkey = /vkey="?([^\s"]+)/.exec(said)?.[1] ?? ''
  }
  const stop = async () => {
    await ended(running)
    running = undefined
  }
  await start()
  const within = <T>(use: (db: Database.Database) => T): T => {
    const db = new Database(database)
    try {
      return use(db)
    } finally {
      db.close()
    }
  }
  return {
    url: `http://${listen}`,
    vkey,
    held: (origin) =>
      within((db) =>
        db.prepare('SELECT tree_size size, tree_hash rootHashBase64 FROM log WHERE origin = ?').get(origin),
      ) as { size: number; rootHashBase64: string } | undefined,
    addLog: (origin, logKey) =>
      within((db) => {
        const emptyTree = '47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
        db.prepare('INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)').run(origin, emptyTree)
        db.prepare('INSERT INTO key (origin, key) VALUES (?, ?)').run(origin, logKey)
      }),
    start,
    stop,
    close: async () => {
      await stop()
      await ended(sshAgent)
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

async function freePort(): Promise<number> {
  const probe = createServer()
  await new Promise<void>((resolve) => {
    probe.listen(0, '127.0.0.1', resolve)
  })
  const { port } = probe.address() as AddressInfo // of a TCP server
  await new Promise((resolve) => {
    probe.close(resolve)
  })
  return port
}

async function answers(url: string): Promise<boolean> {
  return await fetch(url).then(
    () => true,
    () => false,
  )
}

async function ended(child: ChildProcess | undefined): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
  const gone = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  await gone
}

async function until(holds: () => boolean | Promise<boolean>, saying: () => string = () => ''): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt++) {
    if (await holds()) return
    await delay(50)
  }
  throw new Error(`the witness did not start: ${saying()}`)
}
