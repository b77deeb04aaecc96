/**
 * An agent reached through the sockets of its roles, as one `SigningAgent`: each method goes to the socket of its role.
 * A process of a single service is given one socket, and a thief of it has no other.
 */
import { connectAgent, type ClientOptions } from './client.ts'
import type { Role } from './roles.ts'
import { HsmError, type AgentStatus, type KeyDescription, type SigningAgent } from './signing.ts'

/** Paths of role sockets; one at least. */
export type RoleSocketPaths = { readonly [role in Role]?: string | undefined }

/** Connects to each socket; rejects `unavailable` if one does not answer. Methods without a socket reject `refused`. */
export async function connectRoleAgents(sockets: RoleSocketPaths, options: ClientOptions = {}): Promise<SigningAgent> {
  const connected = new Map<Role, SigningAgent>()
  try {
    for (const [role, socketPath] of Object.entries(sockets)) {
      if (socketPath === undefined) continue
      connected.set(role as Role, await connectAgent({ socketPath }, options)) // a key of the record above
    }
  } catch (error) {
    await Promise.all([...connected.values()].map((agent) => agent.close()))
    throw error
  }
  return join(connected)
}

function join(connected: ReadonlyMap<Role, SigningAgent>): SigningAgent {
  const agents = [...connected.values()]
  const of = (role: Role): SigningAgent => {
    const agent = connected.get(role)
    if (agent === undefined)
      throw new HsmError('refused', 'no_socket', `no agent socket of the role ${role} is configured`)
    return agent
  }
  return {
    key: async (name) => await firstWithKey(agents, name),
    certificate: async (request) => await of('ca').certificate(request),
    treeHead: async (request) => await of('log').treeHead(request),
    guardedHead: async (request) => await of('log').guardedHead(request),
    reportHead: async (report) => await of('log').reportHead(report),
    sct: async (request) => await of('log').sct(request),
    set: async (request) => await of('log').set(request),
    timestamp: async (request) => await of('timestamp').timestamp(request),
    tuf: async (request) => await of('trust').tuf(request),
    tufVersions: async (request) => await of('trust').tufVersions(request),
    account: async (request) => await of('audit').account(request),
    useDigests: async (request) => await of('audit').useDigests(request),
    accountHead: async (request) => await of('audit').accountHead(request),
    status: async () => mergedStatus(await Promise.all(agents.map((agent) => agent.status()))),
    close: async () => {
      await Promise.all(agents.map((agent) => agent.close()))
    },
  }
}

async function firstWithKey(agents: readonly SigningAgent[], name: string): Promise<KeyDescription> {
  for (const agent of agents) {
    try {
      return await agent.key(name)
    } catch (error) {
      if (!(error instanceof HsmError) || error.code !== 'unknown_key') throw error
    }
  }
  throw new HsmError('unknown_key', 'unknown_key', `no configured agent socket has a key ${name}`)
}

/** Each socket tells of its own role's keys and logs; the tokens are the same for all. */
function mergedStatus(parts: readonly AgentStatus[]): AgentStatus {
  const [first] = parts
  if (first === undefined) throw new HsmError('unavailable', 'no_socket', 'no agent socket is configured')
  const unready = parts.find(({ ready }) => !ready) ?? first
  return {
    ...first,
    ready: unready.ready,
    reason: unready.reason,
    keys: parts.flatMap(({ keys }) => keys),
    guards: parts.flatMap(({ guards }) => guards),
  }
}
