/**
 * What the making of a standby set asks about the agent of the services: read from its file, or told by the server where
 * that agent is another user's. Nothing is changed there.
 */
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { parseTokenUri } from '#hsm'
import { readAgentFile, whyNotOurs } from '../agents.ts'
import { type AgentKeyEntry, keyIn, keysIn, reachOf } from './agent-file.ts'
import { inventoryOf } from './publication.ts'
import type { Installation } from './rotation.ts'

/** Options of a key as its agent has them; its place and its public half may be missing. */
export type ServingKey = Pick<AgentKeyEntry, 'purposes' | 'kind' | 'witnessKey' | 'ctKey'> &
  Readonly<Record<string, unknown>>

export interface Serving {
  /** Whether it opens the token of this URI. */
  readonly opens: (uri: string) => boolean
  /** Names of its keys. */
  readonly names: readonly string[]
  /** Throws `rotation_impossible` for a key that it does not have. */
  readonly key: (name: string) => ServingKey
  /** SubjectPublicKeyInfo of a log's key, base64; undefined for what is no name of one. */
  readonly spkiOf: (name: string) => string | undefined
}

/** Why the serving agent is changed by hand, or undefined where this user may. */
export function whyByHand({ agentApart, agent }: Pick<Installation, 'agentApart' | 'agent'>): string | undefined {
  return agentApart === true ? whyNotOurs(agent) : undefined
}

const statusAnswer = z.object({
  agent: z.object({
    reason: z.string(),
    tokens: z.array(z.object({ name: z.string(), label: z.string(), loggedIn: z.boolean() })),
    keys: z.array(
      z.object({
        name: z.string(),
        kind: z.string(),
        purposes: z.array(z.string()),
        places: z.array(z.object({ usable: z.boolean() })),
      }),
    ),
  }),
})
export type ServedAgent = z.infer<typeof statusAnswer>['agent']

/** Keys and tokens of the serving agent, as the server sees them. Throws `agent_away` where it sees none. */
export async function servedAgent({ ask }: Pick<Installation, 'ask'>): Promise<ServedAgent> {
  const { agent } = statusAnswer.parse(await ask('status', {}))
  if (agent.keys.length > 0) return agent
  throw new OperatorError('agent_away', `the server does not reach the agent of its services: ${agent.reason}`)
}

/** By its file where it is ours, else by the server. */
export async function servingOf(installation: Installation): Promise<Serving> {
  return whyByHand(installation) === undefined ? byFile(installation) : await byServer(installation)
}

function byFile(installation: Installation): Serving {
  const reach = reachOf(installation, 'services')
  const uris = new Set(Object.values(readAgentFile(reach).tokens).map(({ uri }) => uri))
  const keys = keysIn(reach)
  return {
    opens: (uri) => uris.has(uri),
    names: Object.keys(keys),
    key: (name) => keyIn(reach, name),
    spkiOf: (name) => keys[name]?.spki,
  }
}

async function byServer(installation: Installation): Promise<Serving> {
  const { tokens, keys } = await servedAgent(installation)
  const labels = new Set(tokens.map(({ label }) => label))
  const names = keys.map(({ name }) => name)
  const logs = await logKeys(installation)
  const ctKey = installation.logs.find(({ name }) => name === installation.ca?.ctLog)?.key
  const key = (name: string): ServingKey => {
    const found = keys.find((each) => each.name === name)
    if (found === undefined) throw new OperatorError('rotation_impossible', `the serving agent has no key ${name}`)
    const { kind, purposes } = found
    const witnessKey = names.find((each) => each === `${name}-witness`)
    return {
      kind,
      purposes,
      ...(purposes.includes('treeHead') ? { style: styleOf(purposes) } : {}),
      ...(witnessKey === undefined ? {} : { witnessKey }),
      // What else it has, its caps for one, is known to its operator: the lines of an emergency remind them.
      ...(purposes.includes('certificate') ? { issuerCertificate: '', ...(ctKey === undefined ? {} : { ctKey }) } : {}),
    }
  }
  return { opens: (uri) => labels.has(parseTokenUri(uri).token ?? ''), names, key, spkiOf: (name) => logs.get(name) }
}

function styleOf(purposes: readonly string[]): string {
  if (purposes.includes('sct')) return 'ct'
  return purposes.includes('set') ? 'rekor-v1' : 'tlog'
}

/** By the agent's name of the key: as the trust root has it. */
async function logKeys(installation: Installation): Promise<ReadonlyMap<string, string>> {
  const { items } = await inventoryOf(installation)
  return new Map(
    installation.logs.flatMap(({ key, origin }) => {
      const der = items.find((item) => item.origin === origin && item.state !== 'revoked')?.der[0]
      return der === undefined ? [] : [[key, Buffer.from(der).toString('base64')] as const]
    }),
  )
}
