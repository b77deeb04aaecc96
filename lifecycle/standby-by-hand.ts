/**
 * An emergency where the serving agent is another user's, as in production: who asks the server may neither write that
 * agent's configuration nor have it read again. What must stand there is told in exact lines, the server says whether the
 * agent has it, and the command goes on when it is called again.
 */
import { join } from 'node:path'
import { stringify } from 'yaml'
import { OperatorError } from '#alarms'
import { parseTokenUri } from '#hsm'
import { witnessOrigin } from '#tlog'
import { keyIn } from './rotation/agent-file.ts'
import type { Installation } from './rotation/rotation.ts'
import { type ServedAgent, servedAgent, whyByHand } from './rotation/serving.ts'
import { keyNames, planOf, standbyReach, tokenEntry } from './standby-agent.ts'
import { type EmergencyFacts, formerSigner } from './standby-facts.ts'

/** What somebody else has to do to the serving agent. */
export interface AgentWork {
  /** Why it is not done here. */
  readonly why: string
  /** YAML for its configuration, with remarks. */
  readonly lines: readonly string[]
}

/** What must be put into the agent's configuration first; undefined where that is done, or can be done here. */
export async function workBefore(
  installation: Installation,
  { member, former }: Pick<EmergencyFacts, 'member' | 'former'>,
): Promise<AgentWork | undefined> {
  const why = whyByHand(installation)
  if (why === undefined) return undefined
  const { keys, tokens } = await servedAgent(installation)
  const usable = new Set(keys.flatMap(({ name, places }) => (places.some((place) => place.usable) ? [name] : [])))
  if (keyNames(member).every((name) => usable.has(name))) return undefined
  return { why, lines: linesOf(installation, { member, former }, tokens) }
}

/** Throws `emergency_awaits_agent` unless the agent has what stands by. */
export async function requireInAgent(installation: Installation, facts: EmergencyFacts): Promise<void> {
  const work = await workBefore(installation, facts)
  if (work !== undefined) throw awaitsAgent(facts.member.name, work)
}

export function awaitsAgent(name: string, { why }: Pick<AgentWork, 'why'>): OperatorError {
  return new OperatorError(
    'emergency_awaits_agent',
    `the serving agent has no usable key ${name} yet, and its configuration is not ours to change (${why}); nothing was switched`,
  )
}

/** What is left to do there once the server signs with what stood by; empty where that was done here, or by them. */
export async function workAfter(
  installation: Installation,
  { member, former }: Pick<EmergencyFacts, 'member' | 'former'>,
): Promise<string[]> {
  if (whyByHand(installation) === undefined) return []
  const known = new Set((await servedAgent(installation)).keys.map(({ name }) => name))
  const left = former.keys.map(({ name }) => name).filter((name) => known.has(name))
  if (left.length === 0) return []
  const ctKeys =
    member.kind === 'ct-log' && installation.ca !== undefined
      ? [`set ctKey of ${installation.ca.key} to ${member.name}`]
      : []
  return [...ctKeys, ...left.map((name) => `take out the key ${name}`)]
}

function linesOf(
  installation: Installation,
  { member, former }: Pick<EmergencyFacts, 'member' | 'former'>,
  known: ServedAgent['tokens'],
): string[] {
  const plan = planOf(installation.dataDir)
  const { uri, pinFile } = tokenEntry(installation, plan, member.key.token)
  const same = known.find(({ label }) => label === parseTokenUri(uri).token)
  const token = same?.name ?? freeName(member.key.token, known)
  // One that does not open, for a PIN that is not there or not theirs to read, is told again.
  const isOpen = same?.loggedIn === true
  const { uris: _uris, curve: _curve, ...options } = keyIn(standbyReach(installation, plan.agent), member.name)
  const { ca, dataDir } = installation
  const own: Record<string, unknown> = { ...member.key, token }
  const remarks: string[] = []
  if (member.kind === 'issuing-ca') {
    own['issuerCertificate'] = `${member.name}.pem`
    own['ctKey'] = signerOf(installation, ca?.ctLog)
    remarks.push(`what else ${formerSigner(former)} has, certificatesPerMinute and the like: as it is there`)
    remarks.push(`${member.name}.pem: a copy of ${join(dataDir, member.certificate)}, beside that file`)
  }
  const entries: Record<string, unknown> = { [member.name]: { ...options, ...own } }
  if ('origin' in member && member.witnessKey !== undefined) {
    const witness = { ...member.witnessKey, token, purposes: ['witnessHead'], origin: witnessOrigin(member.origin) }
    entries[`${member.name}-witness`] = witness
  }
  if (member.kind === 'ct-log' && ca !== undefined) {
    remarks.push(`and in the key ${ca.key}, which is there: ctKey: [${formerSigner(former)}, ${member.name}]`)
  }
  if (!isOpen && !pinFile.startsWith('credential:')) {
    remarks.push("pinFile: wherever it is to be; the agent's user owns it, mode 0600")
  }
  remarks.push(`where sockets.roles.*.keys has ${formerSigner(former)}: ${keyNames(member).join(' and ')} too`)
  const document = { ...(!isOpen ? { tokens: { [token]: { uri, pinFile } } } : {}), keys: entries }
  return [...stringify(document, { lineWidth: 0 }).trimEnd().split('\n'), ...remarks.map((remark) => `# ${remark}`)]
}

function freeName(name: string, known: readonly { readonly name: string }[]): string {
  return known.some((token) => token.name === name) ? `${name}-2` : name
}

/** The key of a log, by the configuration. */
function signerOf({ logs }: Installation, log: string | undefined): string {
  return logs.find(({ name }) => name === log)?.key ?? ''
}
