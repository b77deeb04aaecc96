/**
 * The way to an agent for the commands of operators: through the admin socket of one that runs, else through one that is
 * started for the moment. Never a second agent beside a running one: the state folder's lock sees to that, and here it is
 * told in words.
 */
import { accessSync, constants, existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname, join, resolve } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'
import { CATALOGUE, type Code, OperatorError } from '#alarms'
import { type AdminAgent, connectAdminAgent, HsmError, type Reloaded, spawnAgent } from '#hsm'
import { actedUser, asOwnerOf, asRoot } from './acting-user.ts'

/** Which agent is meant. */
export interface AgentReach {
  readonly dataDir: string
  /** A name (`online`: `agent/online.yaml` of the data folder), a configuration file, or the path of an admin socket. */
  readonly agent: string
  /** Root reads and writes its configuration whoever owns it, and speaks with it as its own user (`acting-user.ts`). */
  readonly acting?: boolean
}

/** What a command needs to know of an agent's configuration; the agent itself reads it strictly. */
export interface AgentFile {
  readonly path: string
  readonly modulePath: string
  readonly softhsmConf: string | undefined
  /** As it is written there: every token of a configuration has the same text. */
  readonly softhsmConfText: string | undefined
  readonly tokens: Readonly<Record<string, { readonly uri: string; readonly pinFile: string }>>
  /** By name, every place of each. */
  readonly keys: Readonly<Record<string, readonly { readonly uri: string; readonly token: string }[]>>
  readonly adminSocket: string | undefined
  readonly adminWhenSpawned: boolean
}

/** A key generation of RSA-4096 in a small HSM takes tens of seconds. */
const DEADLINE_MS = 60_000

/** A server starts an agent that ended again at once, and with growing pauses then. */
const SERVERS_AGENT_MS = 5000

const place = z.object({ uri: z.string(), token: z.string() })

const agentFile = z.object({
  modulePath: z.string(),
  tokens: z.record(z.string(), z.object({ uri: z.string(), pinFile: z.string(), softhsmConf: z.string().optional() })),
  moduleEnvironment: z.object({ SOFTHSM2_CONF: z.string().optional() }).default({}),
  keys: z.record(z.string(), z.union([z.object({ uris: z.array(place) }), place])).default({}),
  sockets: z.object({ admin: z.string().optional() }).default({}),
  adminWhenSpawned: z.boolean().default(false),
})

/** Names of the agents that a data folder has a configuration for, sorted. */
export function agentNames(dataDir: string): string[] {
  const folder = join(dataDir, 'agent')
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => name.endsWith('.yaml'))
    .map((name) => name.slice(0, -'.yaml'.length))
    .toSorted()
}

/** Reads an agent's configuration, paths made absolute. Throws `OperatorError` `no_such_agent`. */
export function readAgentFile(reach: AgentReach): AgentFile {
  return onAgentFiles(reach, () => readHere(reach))
}

/** Runs `work`, synchronous, which reads or writes the configuration of this agent or what lies beside it. */
export function onAgentFiles<T>({ acting }: Pick<AgentReach, 'acting'>, work: () => T): T {
  return acting === true ? asRoot(work) : work()
}

function readHere({ dataDir, agent }: AgentReach): AgentFile {
  const path = /[/]|\.yaml$/.test(agent) ? resolve(agent) : join(resolve(dataDir), 'agent', `${agent}.yaml`)
  const known = agentNames(dataDir)
  const choices = known.length === 0 ? 'there is none in that data folder' : `there are: ${known.join(', ')}`
  if (!existsSync(path)) throw new OperatorError('no_such_agent', `${path} is not there; ${choices}`)
  let document: z.infer<typeof agentFile>
  try {
    document = agentFile.parse(parse(readFileSync(path, 'utf8')))
  } catch (error) {
    const said = error instanceof z.ZodError ? z.prettifyError(error) : String(error)
    throw new OperatorError('no_such_agent', `${path} is not an agent's configuration: ${said}`, { cause: error })
  }
  const at = (relative: string) => resolve(dirname(path), relative)
  const [conf] = Object.values(document.tokens).flatMap(({ softhsmConf }) => softhsmConf ?? [])
  return {
    path,
    modulePath: at(document.modulePath),
    softhsmConf: conf === undefined ? document.moduleEnvironment.SOFTHSM2_CONF : at(conf),
    softhsmConfText: conf,
    tokens: Object.fromEntries(
      Object.entries(document.tokens).map(([name, { uri, pinFile }]) => [name, { uri, pinFile: at(pinFile) }]),
    ),
    keys: Object.fromEntries(
      Object.entries(document.keys).map(([name, key]) => [name, 'uris' in key ? key.uris : [key]]),
    ),
    adminSocket: document.sockets.admin === undefined ? undefined : at(document.sockets.admin),
    adminWhenSpawned: document.adminWhenSpawned,
  }
}

/**
 * Runs `use` with the admin channel of an agent: of the one that runs, or of one that lives until `use` has settled.
 * Rejects `OperatorError` where the catalogue knows what happened, and what `use` rejects with.
 */
export async function withAdminAgent<T>(reach: AgentReach, use: (admin: AdminAgent) => Promise<T>): Promise<T> {
  try {
    const opened = await open(reach)
    try {
      return await use(opened.admin)
    } finally {
      await opened.close()
    }
  } catch (error) {
    throw operatorError(error)
  }
}

/**
 * Why this user cannot change an agent's configuration and have it read again, or undefined: the file or the admin socket
 * is another user's, as in production, or not on this machine.
 */
export function whyNotOurs(reach: AgentReach): string | undefined {
  if (reach.agent.endsWith('.sock')) return `${reach.agent} is a socket, and its configuration is not named`
  try {
    const { path, adminSocket } = readAgentFile(reach)
    onAgentFiles(reach, () => {
      accessSync(path, constants.R_OK | constants.W_OK)
      // It is replaced, not written over.
      accessSync(dirname(path), constants.W_OK)
    })
    if (adminSocket === undefined || !isOfAnother(adminSocket) || mayAct(reach)) return undefined
    return `${adminSocket} is another user's`
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/** A running agent reads its configuration again; what it cannot use is told. Rejects `agent_away` where none runs, and what it refuses. */
export async function reloadAgent(reach: AgentReach): Promise<Reloaded> {
  const file = reach.agent.endsWith('.sock') ? undefined : readAgentFile(reach)
  const socket = file === undefined ? resolve(reach.agent) : file.adminSocket
  if (socket === undefined) {
    throw new OperatorError('agent_not_administrable', `${file?.path ?? reach.agent} has no sockets.admin`)
  }
  // None is started for the moment: it would read what the one that serves does not.
  if (!(await listens(socket))) throw new OperatorError('agent_away', `no agent listens on ${socket}`)
  const opened = await dialled(socket, false)
  try {
    return await opened.admin.reload()
  } catch (error) {
    throw operatorError(error)
  } finally {
    await opened.close()
  }
}

/** The same failure with the catalogue's code where its reason is one; else as it is. */
export function operatorError(error: unknown): unknown {
  if (!(error instanceof HsmError)) return error
  const code = codeOf(error)
  return code === undefined ? error : new OperatorError(code, error.message, { cause: error })
}

interface Opened {
  readonly admin: AdminAgent
  close(): Promise<void>
}

async function open(reach: AgentReach): Promise<Opened> {
  const { acting = false } = reach
  if (reach.agent.endsWith('.sock')) {
    const socketPath = resolve(reach.agent)
    if (!(await listens(socketPath, acting))) throw new OperatorError('agent_away', `no agent listens on ${socketPath}`)
    return await dialled(socketPath, acting)
  }
  const file = readAgentFile(reach)
  if (file.adminSocket !== undefined) {
    if (await listens(file.adminSocket, acting)) return await dialled(file.adminSocket, acting)
    // A server starts its agent again by itself; one of ours beside it would keep it from that.
    if (await serverRuns(reach.dataDir, file.path)) {
      await untilListens(file.adminSocket, SERVERS_AGENT_MS)
      return await dialled(file.adminSocket, acting)
    }
  }
  return await started(file)
}

async function dialled(socketPath: string, acting: boolean): Promise<Opened> {
  if (!isOfAnother(socketPath)) {
    const admin = await connectAdminAgent({ socketPath }, { deadlineMs: DEADLINE_MS })
    return { admin, close: () => admin.close() }
  }
  if (!mayAct({ acting })) throw notAllowed(socketPath)
  const duplex = asOwnerOf(socketPath, () => connect(socketPath))
  const admin = await connectAdminAgent({ duplex }, { deadlineMs: DEADLINE_MS })
  return { admin, close: () => admin.close() }
}

async function started(file: AgentFile): Promise<Opened> {
  if (file.adminSocket === undefined && !file.adminWhenSpawned) {
    throw new OperatorError(
      'agent_not_administrable',
      `${file.path} has neither sockets.admin nor adminWhenSpawned: nobody can administer this agent`,
    )
  }
  const admin = file.adminSocket === undefined
  const user = actedUser()
  const options = { configPath: file.path, admin, deadlineMs: DEADLINE_MS, ...(user === undefined ? {} : { user }) }
  // It is started before this returns.
  const spawned = await asRoot(() => spawnAgent(options))
  if (spawned.admin !== undefined) return { admin: spawned.admin, close: () => spawned.close() }
  if (file.adminSocket === undefined) throw new TypeError('the agent gave no admin channel')
  const client = await connectAdminAgent({ socketPath: file.adminSocket }, { deadlineMs: DEADLINE_MS })
  const close = async () => {
    await client.close()
    await spawned.close()
  }
  return { admin: client, close }
}

/** Whether a server runs on this data folder that has this agent as its child. */
async function serverRuns(dataDir: string, agentPath: string): Promise<boolean> {
  const path = join(dataDir, 'chancery.yaml')
  if (!existsSync(path)) return false
  const server = z
    .object({ admin: z.object({ socket: z.string() }), agent: z.object({ spawn: z.string() }) })
    .safeParse(parse(readFileSync(path, 'utf8')))
  if (!server.success || resolve(dataDir, server.data.agent.spawn) !== agentPath) return false
  return await listens(resolve(dataDir, server.data.admin.socket))
}

async function untilListens(path: string, patienceMs: number): Promise<void> {
  const untilMs = performance.now() + patienceMs
  while (!(await listens(path))) {
    if (performance.now() > untilMs) {
      throw new OperatorError('agent_away', `a server runs, and its agent does not listen on ${path}; see its log`)
    }
    await new Promise((done) => setTimeout(done, 100))
  }
}

/** Throws `OperatorError` `agent_not_allowed` where somebody listens whom this user may not speak with. */
async function listens(path: string, acting = false): Promise<boolean> {
  if (Buffer.byteLength(path) > 107) return false
  const failure = await new Promise<NodeJS.ErrnoException | undefined>((done) => {
    const socket = acting ? asOwnerOf(path, () => connect(path)) : connect(path)
    socket.once('connect', () => {
      socket.destroy()
      done(undefined)
    })
    socket.once('error', done)
  })
  if (failure?.code === 'EACCES' || failure?.code === 'EPERM') {
    throw notAllowed(path)
  }
  return failure === undefined
}

function notAllowed(path: string): OperatorError {
  return new OperatorError(
    'agent_not_allowed',
    `${path} is another user's; run the command as that user, or a rotation as root`,
  )
}

function mayAct({ acting }: Pick<AgentReach, 'acting'>): boolean {
  return acting === true && process.getuid?.() === 0
}

/** The admin socket of an agent that we speak with as its user; undefined where it is of ours. */
export function actedAgent(reach: AgentReach): string | undefined {
  const { adminSocket } = readAgentFile(reach)
  return adminSocket !== undefined && mayAct(reach) && isOfAnother(adminSocket) ? adminSocket : undefined
}

/** An agent makes its socket, so the owner is its user; it takes no administration from another one, root neither. */
function isOfAnother(socketPath: string): boolean {
  const owner = asRoot(() => statSync(socketPath, { throwIfNoEntry: false }))?.uid
  return owner !== undefined && owner !== process.geteuid?.()
}

/** Of what the agent said before it ended: `AgentStateError` reaches us as words. */
const LOCKED = /^another agent uses the state folder/

function codeOf({ code, reason, message }: HsmError): Code | undefined {
  if (LOCKED.test(message)) return 'agent_locked'
  if (message.startsWith('state_copied')) return 'state_copied'
  if (Object.hasOwn(CATALOGUE, reason)) return reason as Code // just checked
  if (code === 'unavailable' && ['not_connected', 'connection_lost', 'deadline', 'agent_ended'].includes(reason)) {
    return 'agent_away'
  }
  return undefined
}
