/** What a rotation changes in an agent's configuration: the new key beside the former, later the former away. */
import { readFileSync } from 'node:fs'
import { type Document, parseDocument } from 'yaml'
import { OperatorError } from '#alarms'
import { type AdminAgent, HsmError } from '#hsm'
import { type AgentReach, onAgentFiles, readAgentFile, withAdminAgent } from '../agents.ts'
import { replaceDurably } from '../durable-file.ts'
import type { Installation } from './rotation.ts'
import type { KeySide } from './facts.ts'

/** Entry of a key in agent.yaml, as far as rotations look at it. */
export interface AgentKeyEntry {
  readonly token?: string
  readonly uris?: readonly { readonly token: string }[]
  readonly spki: string
  readonly kind?: string
  readonly purposes: readonly string[]
  readonly witnessKey?: string
  readonly ctKey?: string | readonly string[]
  readonly maxValiditySeconds?: number
  readonly [option: string]: unknown
}

/** The agent of one side. Throws `rotation_impossible` where the root token is not at hand. */
export function reachOf({ agent, rootAgent }: Installation, side: KeySide): AgentReach {
  if (side === 'services') return agent
  if (rootAgent !== undefined) return rootAgent
  throw new OperatorError(
    'rotation_impossible',
    'the root token is not at hand here (trustRoot.rootAgent): make its keys in a ceremony',
  )
}

/** Its keys by name, as they are written. */
export function keysIn(reach: AgentReach): Readonly<Record<string, AgentKeyEntry>> {
  const { keys = {} } = documentOf(reach).toJS() as { keys?: Readonly<Record<string, AgentKeyEntry>> } // the agent reads it strictly
  return keys
}

/** The entry of a key. Throws `rotation_impossible`. */
export function keyIn(reach: AgentReach, name: string): AgentKeyEntry {
  const entry = keysIn(reach)[name]
  if (entry !== undefined) return entry
  const { path } = readAgentFile(reach)
  throw new OperatorError('rotation_impossible', `${path} has no key ${name}; name another agent with --agent`)
}

/** Changes the configuration durably, comments kept; nothing is written where nothing changes. */
export function editAgentFile(reach: AgentReach, edit: (document: Document) => void): void {
  const document = documentOf(reach)
  const before = document.toString({ lineWidth: 120 })
  edit(document)
  const after = document.toString({ lineWidth: 120 })
  // Its agent may be another user, who must be able to read it as before.
  if (after === before) return
  const { path } = readAgentFile(reach)
  onAgentFiles(reach, () => replaceDurably(path, after, { readersOf: path }))
}

/** Puts a key in; an earlier entry of the name is replaced. Sockets that are for the former key are for it, too. */
export function putKey(document: Document, name: string, entry: object, former?: string): void {
  document.setIn(['keys', name], document.createNode(entry))
  if (former === undefined) return
  for (const { path, keys } of keyLists(document)) {
    if (keys.includes(former) && !keys.includes(name)) document.setIn(path, document.createNode([...keys, name]))
  }
}

/** Takes a key out, wherever it is named. */
export function dropKey(document: Document, name: string): void {
  document.deleteIn(['keys', name])
  for (const { path, keys } of keyLists(document)) {
    if (keys.includes(name)) document.setIn(path, document.createNode(keys.filter((key) => key !== name)))
  }
}

/** Which keys a role's socket is for, where it says so. */
function keyLists(document: Document): { readonly path: string[]; readonly keys: readonly string[] }[] {
  const { sockets } = document.toJS() as {
    sockets?: { roles?: Readonly<Record<string, { keys?: readonly string[] }>> }
  }
  return Object.entries(sockets?.roles ?? {}).flatMap(([role, { keys }]) =>
    keys === undefined ? [] : [{ path: ['sockets', 'roles', role, 'keys'], keys }],
  )
}

/** Waits while somebody else has the agent's state for a moment: the server opens the root token when it publishes. */
const AGENT_PATIENCE_MS = 15_000

/** Runs `use` with the agent of one side. */
export async function withSide<T>(
  installation: Installation,
  side: KeySide,
  use: (admin: AdminAgent) => Promise<T>,
): Promise<T> {
  const reach = reachOf(installation, side)
  const untilMs = performance.now() + AGENT_PATIENCE_MS
  for (;;) {
    try {
      return await withAdminAgent(reach, use)
    } catch (error) {
      const isBusy = error instanceof OperatorError && error.code === 'agent_locked'
      if (side === 'services' || !isBusy || performance.now() > untilMs) throw error
      await new Promise((resolve) => setTimeout(resolve, 250))
    }
  }
}

/** The agent reads its configuration again; throws `HsmError` `bad_answer`-like refusals, and for a key it cannot use. */
export async function reload(admin: AdminAgent, needed: readonly string[]): Promise<void> {
  const { faults } = await admin.reload()
  const fault = faults.find(({ name }) => needed.includes(name.replace(/^key:/, '')))
  if (fault !== undefined) throw new HsmError('unavailable', 'key_unusable', `${fault.name}: ${fault.message}`)
}

function documentOf(reach: AgentReach): Document {
  const { path } = readAgentFile(reach)
  return parseDocument(onAgentFiles(reach, () => readFileSync(path, 'utf8')))
}
