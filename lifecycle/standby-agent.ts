/** What an emergency changes in the serving agent: the standby token opened, its key beside the former, the former away. */
import { dirname, join, resolve } from 'node:path'
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { type Document, parseDocument } from 'yaml'
import { OperatorError } from '#alarms'
import { type AdminAgent, HsmError } from '#hsm'
import { witnessOrigin } from '#tlog'
import { actedAgent, type AgentReach, onAgentFiles, readAgentFile } from './agents.ts'
import { replaceDurably } from './durable-file.ts'
import { dropKey, editAgentFile, keyIn, putKey, reachOf, reload, withSide } from './rotation/agent-file.ts'
import { certificateForAgent } from './rotation/certificates.ts'
import type { Installation } from './rotation/rotation.ts'
import { type EmergencyFacts, formerSigner } from './standby-facts.ts'
import { readStandbyPlan, type StandbyMember, type StandbyPlan } from './standby-plan.ts'

/** The plan. Throws `standby_missing` where there is none. */
export function planOf(dataDir: string): StandbyPlan {
  const plan = readStandbyPlan(dataDir)
  if (plan === undefined) throw missing('this installation is older than standby keys')
  return plan
}

export function missing(what: string): OperatorError {
  return new OperatorError(
    'standby_missing',
    `${what}: a new key must be published first, which chancery rotate does; afterwards: chancery rotate standby`,
  )
}

/** The agent of what stands by. */
export function standbyReach({ dataDir }: Pick<Installation, 'dataDir'>, agent: string): AgentReach {
  return { dataDir, agent: resolve(dataDir, agent) }
}

/** Names of a member's keys in its agent, the signing one first. */
export function keyNames(member: StandbyMember): string[] {
  return [member.name, ...('origin' in member && member.witnessKey ? [`${member.name}-witness`] : [])]
}

/** The serving agent opens the standby token too, and has its keys with the options of those whose place they take. */
export async function configureAgent(installation: Installation, { member, former }: EmergencyFacts): Promise<void> {
  const plan = planOf(installation.dataDir)
  const reach = reachOf(installation, 'services')
  const formerKey = formerSigner(former)
  const entry = withPin(reach, tokenEntry(installation, plan, member.key.token), member.key.token)
  editAgentFile(reach, (document) => {
    const token = putToken(document, { entry, name: member.key.token, reach })
    const { uris: _uris, curve: _curve, witnessKey: _witness, ...options } = keyIn(reach, formerKey)
    const own = { ...member.key, token }
    if (!('origin' in member)) {
      const certificate =
        'issuerCertificate' in options
          ? {
              issuerCertificate: certificateForAgent(
                installation,
                member.name,
                join(installation.dataDir, member.certificate),
              ),
            }
          : {}
      putKey(document, member.name, { ...options, ...own, ...certificate }, formerKey)
      return
    }
    const witness = member.witnessKey === undefined ? {} : { witnessKey: `${member.name}-witness` }
    putKey(document, member.name, { ...options, ...own, origin: member.origin, ...witness }, formerKey)
    if (member.witnessKey !== undefined) {
      const witnessEntry = {
        ...member.witnessKey,
        token,
        purposes: ['witnessHead'],
        origin: witnessOrigin(member.origin),
      }
      putKey(document, `${member.name}-witness`, witnessEntry, former.keys[1]?.name)
    }
    // Until the CA has gone over, certificates carry the promise of either log.
    if (member.kind === 'ct-log')
      setCtKeys(document, (logs) => [...logs.filter((log) => log !== member.name), member.name], formerKey)
  })
  await withSide(installation, 'services', async (admin) => await untilUsable(admin, keyNames(member)))
}

/** A module may see a token that is younger than its start only when it is initialised again, which the agent sees to. */
const TOKEN_PATIENCE_MS = 20_000

async function untilUsable(admin: AdminAgent, names: readonly string[]): Promise<void> {
  const untilMs = performance.now() + TOKEN_PATIENCE_MS
  for (;;) {
    try {
      return await reload(admin, names)
    } catch (error) {
      const mayCome = error instanceof HsmError && error.reason === 'key_unusable'
      if (!mayCome || performance.now() > untilMs) throw error
      await delay(250)
    }
  }
}

/** Puts the token's entry in, unless it is there; returns its name in the serving agent's file. */
function putToken(
  document: Document,
  { entry, name, reach }: { readonly entry: TokenEntry; readonly name: string; readonly reach: AgentReach },
): string {
  const serving = readAgentFile(reach)
  const known = Object.entries(serving.tokens).find(([, { uri }]) => uri === entry.uri)
  if (known !== undefined) return known[0]
  // The module reads one configuration for all tokens, which may stand in moduleEnvironment.
  const { softhsmConf: own, ...rest } = entry
  const conf = serving.softhsmConfText ?? (serving.softhsmConf === undefined ? own : undefined)
  const free = name in serving.tokens ? `${name}-2` : name
  const copied = { ...rest, ...(conf === undefined ? {} : { softhsmConf: conf }) }
  document.setIn(['tokens', free], document.createNode(copied))
  return free
}

export interface TokenEntry {
  readonly uri: string
  readonly pinFile: string
  readonly softhsmConf?: string
}

/** The same with the PIN where the agent can read it, which is another user: beside its configuration, and its own. */
function withPin(reach: AgentReach, entry: TokenEntry, name: string): TokenEntry {
  const socket = actedAgent(reach)
  if (socket === undefined || entry.pinFile.startsWith('credential:')) return entry
  const pinFile = join(dirname(readAgentFile(reach).path), `${name}.pin`)
  const pin = onAgentFiles(reach, () => readFileSync(entry.pinFile, 'utf8'))
  onAgentFiles(reach, () => replaceDurably(pinFile, pin, { ownerOf: socket }))
  return { ...entry, pinFile }
}

/** The CT logs of every key that names `former` among them. */
function setCtKeys(document: Document, change: (logs: readonly string[]) => readonly string[], former: string): void {
  const { keys = {} } = document.toJS() as { keys?: Readonly<Record<string, { ctKey?: string | readonly string[] }>> }
  for (const [name, { ctKey }] of Object.entries(keys)) {
    const logs = [ctKey ?? []].flat()
    if (!logs.includes(former)) continue
    const changed = change(logs)
    document.setIn(['keys', name, 'ctKey'], changed.length === 1 ? changed[0] : document.createNode(changed))
  }
}

/** Of the CT logs whose promises are taken the former is none any more. */
export async function leaveFormerLog(installation: Installation, former: EmergencyFacts['former']): Promise<void> {
  const signer = formerSigner(former)
  editAgentFile(reachOf(installation, 'services'), (document) =>
    setCtKeys(document, (logs) => logs.filter((log) => log !== signer), signer),
  )
  await withSide(installation, 'services', async (admin) => await reload(admin, []))
}

/** The serving agent knows a lost key no more. */
export async function dropFormer(installation: Installation, { keys }: EmergencyFacts['former']): Promise<void> {
  editAgentFile(reachOf(installation, 'services'), (document) => {
    for (const { name } of keys) dropKey(document, name)
  })
  await withSide(installation, 'services', async (admin) => await reload(admin, []))
}

/** A token's entry in an agent's file, as it is written. Throws `standby_missing`. */
export function tokenEntry(installation: Installation, { agent }: StandbyPlan, name: string): TokenEntry {
  const { tokens = {} } = documentOf(standbyReach(installation, agent)).toJS() as {
    tokens?: Readonly<Record<string, TokenEntry>>
  } // its agent reads it strictly
  const entry = tokens[name]
  if (entry === undefined) throw missing(`${agent} has no token ${name}`)
  const from = dirname(readAgentFile(standbyReach(installation, agent)).path)
  // A credential of systemd has a name and no path.
  const pinFile = entry.pinFile.startsWith('credential:') ? entry.pinFile : resolve(from, entry.pinFile)
  return { ...entry, pinFile }
}

function documentOf(reach: AgentReach): Document {
  return parseDocument(readFileSync(readAgentFile(reach).path, 'utf8'))
}
