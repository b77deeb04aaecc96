/**
 * PKCS#11 modules of Debian's packages, each started with an empty token of its own: what the same suite runs on
 * (`hsm/modules.contract.test.ts`). Whatever is started here is ended by `stop`.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createSoftTokens } from '#hsm'

/** What an agent's configuration says of the module, and `tokens.online` there. */
export interface RunningModule {
  readonly folder: string
  readonly module: {
    readonly modulePath: string
    readonly moduleParameters?: string
    readonly moduleEnvironment?: Readonly<Record<string, string>>
  }
  readonly token: { readonly uri: string; readonly pinFile: string }
  stop(): Promise<void>
}

const PIN = '1234567890'
const SO_PIN = '0987654321'

/** SoftHSM 2, loaded by the agent itself. */
export async function startSoftHsm(): Promise<RunningModule> {
  const folder = newFolder('softhsm')
  const tokens = await createSoftTokens({ folder: join(folder, 'hsm'), labels: ['online'] })
  return {
    folder,
    module: { modulePath: tokens.modulePath, moduleEnvironment: { SOFTHSM2_CONF: tokens.confPath } },
    token: { uri: 'pkcs11:token=online', pinFile: join(folder, 'hsm/online.pin') },
    stop: async () => remove(folder),
  }
}

/** NSS softokn on a database of its own; it is told where by its initialisation parameters. */
export async function startNss(): Promise<RunningModule> {
  const folder = newFolder('nss')
  const pinFile = writePin(folder)
  const database = join(folder, 'database')
  mkdirSync(database)
  execFileSync('certutil', ['-N', '-d', `sql:${database}`, '-f', pinFile])
  return {
    folder,
    module: {
      modulePath: library('libsoftokn3.so', 'nss/libsoftokn3.so'),
      moduleParameters: `configdir='sql:${database}'`,
    },
    token: { uri: 'pkcs11:token=NSS%20Certificate%20DB', pinFile },
    stop: async () => remove(folder),
  }
}

/** A software TPM behind the access broker, which swaps its few object slots; without it there is room for a key or two. */
export async function startTpm(): Promise<RunningModule> {
  const tpm = await startSwtpm()
  const bus = spawn('dbus-daemon', ['--session', '--nofork', '--print-address=1'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const busAddress = await firstLine(bus)
  const broker = spawn(
    '/usr/sbin/tpm2-abrmd',
    ['--allow-root', '--session', '--logger=stdout', `--tcti=swtpm:host=127.0.0.1,port=${tpm.port}`],
    { stdio: 'ignore', env: { ...process.env, DBUS_SESSION_BUS_ADDRESS: busAddress } },
  )
  const environment = { TPM2_PKCS11_TCTI: 'tabrmd:bus_type=session', DBUS_SESSION_BUS_ADDRESS: busAddress }
  return await tpmModule(tpm, environment, [broker, bus, tpm.process])
}

/** A software TPM that the module reaches by itself: each key that it touches keeps one of three object slots. */
export async function startTpmAlone(): Promise<RunningModule> {
  const tpm = await startSwtpm()
  const environment = { TPM2_PKCS11_TCTI: `swtpm:host=127.0.0.1,port=${tpm.port}` }
  return await tpmModule(tpm, environment, [tpm.process])
}

interface Swtpm {
  readonly folder: string
  readonly port: number
  readonly process: ChildProcess
}

async function startSwtpm(): Promise<Swtpm> {
  const folder = newFolder('tpm')
  const state = join(folder, 'state')
  mkdirSync(state)
  const port = await freePortPair()
  const listen = (number: number) => `type=tcp,port=${number},bindaddr=127.0.0.1`
  const child = spawn(
    'swtpm',
    [
      'socket',
      '--tpm2',
      '--tpmstate',
      `dir=${state}`,
      '--server',
      listen(port),
      '--ctrl',
      listen(port + 1),
      '--flags',
      'not-need-init,startup-clear',
    ],
    { stdio: 'ignore' },
  )
  return { folder, port, process: child }
}

async function tpmModule(
  { folder }: Swtpm,
  environment: Readonly<Record<string, string>>,
  processes: readonly ChildProcess[],
): Promise<RunningModule> {
  const pinFile = writePin(folder)
  const store = join(folder, 'store')
  mkdirSync(store)
  const modulePath = library('libtpm2_pkcs11.so.1', 'pkcs11/libtpm2_pkcs11.so')
  const moduleEnvironment = { ...environment, TPM2_PKCS11_STORE: store }
  const stop = async () => {
    for (const child of processes) await ended(child)
    remove(folder)
  }
  try {
    await retried(() => makeToken(modulePath, 'online', moduleEnvironment))
  } catch (error) {
    await stop()
    throw error
  }
  return { folder, module: { modulePath, moduleEnvironment }, token: { uri: 'pkcs11:token=online', pinFile }, stop }
}

/** SoftHSM in another process, as a PKCS#11 server on a unix socket: what a remote or forwarded token looks like. */
export async function startP11Kit(): Promise<RunningModule & { restart(): Promise<void> }> {
  const behind = await startSoftHsm()
  const { modulePath, moduleEnvironment = {} } = behind.module
  const server = await serveByP11Kit({
    folder: behind.folder,
    modulePath,
    moduleEnvironment,
    uri: 'pkcs11:token=online',
  })
  return {
    folder: behind.folder,
    module: server.module,
    token: behind.token,
    restart: async () => await server.restart(),
    stop: async () => {
      await server.stop()
      remove(behind.folder)
    },
  }
}

export interface P11KitServer {
  /** What an agent configures to use it. */
  readonly module: { readonly modulePath: string; readonly moduleEnvironment: Readonly<Record<string, string>> }
  /** Kills it, with its connections, and starts another. */
  restart(): Promise<void>
  stop(): Promise<void>
}

/** Serves the token of `uri` of a module on a socket in `folder`. */
export async function serveByP11Kit(behind: {
  readonly folder: string
  readonly modulePath: string
  readonly moduleEnvironment: Readonly<Record<string, string>>
  readonly uri: string
}): Promise<P11KitServer> {
  const socket = join(behind.folder, 'p11.sock')
  const serve = async (): Promise<ChildProcess> => {
    const child = spawn(
      'p11-kit',
      ['server', '--foreground', '--provider', behind.modulePath, '-n', socket, behind.uri],
      // A group of its own: each connection has a child of the server's, which must go with it.
      { stdio: 'ignore', detached: true, env: { ...process.env, ...behind.moduleEnvironment } },
    )
    await until(() => existsSync(socket))
    return child
  }
  let server = await serve()
  const end = async () => {
    if (server.exitCode !== null || server.signalCode !== null) return
    const gone = new Promise((resolve) => server.once('exit', resolve))
    if (server.pid !== undefined) process.kill(-server.pid, 'SIGKILL')
    await gone
    rmSync(socket, { force: true })
  }
  return {
    module: {
      modulePath: library('pkcs11/p11-kit-client.so'),
      moduleEnvironment: { P11_KIT_SERVER_ADDRESS: `unix:path=${socket}` },
    },
    restart: async () => {
      await end()
      server = await serve()
    },
    stop: end,
  }
}

function newFolder(name: string): string {
  return mkdtempSync(join(tmpdir(), `chancery-${name}-`))
}

function writePin(folder: string): string {
  const file = join(folder, 'online.pin')
  writeFileSync(file, `${PIN}\n`, { mode: 0o600 })
  return file
}

/** The first of these below the folders where distributions keep libraries. */
function library(...names: readonly string[]): string {
  const folders = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64', '/usr/lib']
  const found = folders.flatMap((folder) => names.map((name) => join(folder, name))).find((path) => existsSync(path))
  if (found === undefined) throw new Error(`${names.join(' or ')} is not installed; run scripts/install`)
  return found
}

function makeToken(modulePath: string, label: string, environment: Readonly<Record<string, string>>): void {
  const script = fileURLToPath(new URL('./make-token.ts', import.meta.url))
  execFileSync(process.execPath, [script, modulePath, label, PIN, SO_PIN], { env: environment, stdio: 'pipe' })
}

/** The broker takes a moment to be on the bus. */
async function retried(work: () => void): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      work()
      return
    } catch (error) {
      if (attempt >= 20) throw error
      await pause(250)
    }
  }
}

async function until(holds: () => boolean): Promise<void> {
  for (let attempt = 0; !holds(); attempt++) {
    if (attempt > 400) throw new Error('waited ten seconds in vain')
    await pause(25)
  }
}

async function pause(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms))
}

async function firstLine(child: ChildProcess): Promise<string> {
  return await new Promise((resolve, reject) => {
    let said = ''
    child.once('error', reject)
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      said += text
      if (said.includes('\n')) resolve(said.split('\n')[0] ?? '')
    })
  })
}

/** The first of two free ports in a row: the broker takes the control port to be the next one. */
async function freePortPair(): Promise<number> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const first = await listening(0)
    const { port } = first.address() as AddressInfo // of a TCP server that listens
    const second = await listening(port + 1).catch(() => undefined)
    for (const server of [first, second]) await new Promise((resolve) => server?.close(resolve) ?? resolve(undefined))
    if (second !== undefined) return port
  }
  throw new Error('no two ports in a row are free')
}

async function listening(port: number): Promise<Server> {
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', resolve)
  })
  return server
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await gone
}

function remove(folder: string): void {
  rmSync(folder, { recursive: true, force: true })
}
