/**
 * An emergency: what stands by takes the place of a key that is lost or stolen, with no new publication, since clients
 * have trusted it from the day it was made. A journal of its own for each kind, so that neither a rotation that waits nor
 * another emergency is in the way; run again after a kill it goes on.
 *
 *     plan ─ agent ─ switch ─ record ─ retire ─ prove
 *
 * Nothing is asked of the former key: it may be gone with its token. Where the serving agent is another user's, its
 * operator does what is to be done there (`standby-by-hand.ts`).
 */
import { join } from 'node:path'
import { existsSync, readFileSync } from 'node:fs'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import type { LogKind } from '#transparency-log'
import type { TrustItem } from '#trust-root'
import { readAgentFile } from './agents.ts'
import { Journal } from './journal.ts'
import { isFreePort } from './ports.ts'
import { dropKey, editAgentFile, keysIn } from './rotation/agent-file.ts'
import { chainOfFile } from './rotation/certificates.ts'
import { inventoryOf, itemOfDer } from './rotation/publication.ts'
import type { Installation, StepPhase } from './rotation/rotation.ts'
import { activeLog, addressOf } from './rotation/shard.ts'
import { configureAgent, dropFormer, leaveFormerLog, missing, planOf, standbyReach } from './standby-agent.ts'
import { servingOf, whyByHand } from './rotation/serving.ts'
import { type AgentWork, requireInAgent, workAfter, workBefore } from './standby-by-hand.ts'
import { type EmergencyFacts, emergencyFacts } from './standby-facts.ts'
import {
  ITEM_KINDS,
  type StandbyKind,
  type StandbyLog,
  type StandbyMember,
  type StandbyPlan,
  writeStandbyPlan,
} from './standby-plan.ts'

export interface EmergencyOptions {
  readonly installation: Installation
  readonly now?: () => Date
  readonly onStep?: (step: string, phase: StepPhase) => void
}

/** Brought into service. */
export interface Emergency {
  readonly kind: StandbyKind
  /** Of the key, and of the item in the trust root. */
  readonly name: string
  readonly former: { readonly item: string; readonly name: string }
  readonly switchedAt: string
  /** Why no signature through all parts of the server could be verified, or empty: another key may be lost as well. */
  readonly unproven: string
  /** What its operator still has to do to an agent that is not ours to change; empty where that was done here. */
  readonly leftByHand: readonly string[]
}

const LOG_KINDS = { 'ct-log': 'ct', 'rekor-v1': 'rekor-v1', 'rekor-v2': 'rekor-v2' } as const satisfies Readonly<
  Record<StandbyLog['kind'], LogKind>
>

/**
 * Puts what stands by for `kind` into service, or goes on with that. Rejects `standby_missing`, `rotation_impossible`,
 * `emergency_awaits_agent` with nothing done, and what server or agent refused.
 */
export async function bringIntoService(kind: StandbyKind, options: EmergencyOptions): Promise<Emergency> {
  const { installation, now = () => new Date(), onStep = () => undefined } = options
  const journal = new Journal(installation.dataDir, now, journalOf(kind))
  try {
    if (journal.current === undefined) journal.begin(kind, await ready(kind, installation))
    const facts = () => emergencyFacts.parse(journal.current?.facts)
    const keep = (changes: Partial<EmergencyFacts>) => void journal.keep(changes)
    const step = async (name: string, run: () => Promise<void>) => {
      if (!journal.start(name)) return
      onStep(name, 'begun')
      await run()
      onStep(name, 'acted')
      journal.finish(name)
      onStep(name, 'noted')
    }
    await step('agent', async () => {
      if (whyByHand(installation) === undefined) await configureAgent(installation, facts())
      else await requireInAgent(installation, facts())
    })
    await step('switch', async () => {
      await switchTo(installation, facts())
      keep({ switchedAt: facts().switchedAt ?? now().toISOString() })
    })
    await step('record', async () => await record(installation, facts()))
    await step('retire', async () => await retire(installation, facts()))
    const { member, former, switchedAt = '' } = facts()
    onStep('prove', 'begun')
    const unproven = await proof(installation, member)
    const leftByHand = await workAfter(installation, { member, former })
    journal.end('done')
    const { item, name } = former
    return { kind, name: member.name, former: { item, name }, switchedAt, unproven, leftByHand }
  } finally {
    journal.close()
  }
}

/** Whether one was begun and not finished: by a command that was killed, or that waits for the server. */
export function isEmergencyUnderWay(kind: StandbyKind, dataDir: string): boolean {
  return existsSync(join(dataDir, `lifecycle/${journalOf(kind)}.json`))
}

function journalOf(kind: StandbyKind): string {
  return `emergency-${kind}`
}

/** What would take whose place, and what somebody else has to do to the agent before. */
export interface PlannedEmergency {
  readonly name: string
  readonly former: { readonly item: string; readonly name: string }
  readonly work?: AgentWork
}

/** Throws `standby_missing`, and `rotation_impossible` where the agent could not open its token. */
export async function planEmergency(kind: StandbyKind, installation: Installation): Promise<PlannedEmergency> {
  const { member, former } = await planned(kind, installation)
  const work = await workBefore(installation, { member, former })
  return {
    name: member.name,
    former: { item: former.item, name: former.name },
    ...(work === undefined ? {} : { work }),
  }
}

/** Nothing is begun that somebody else has to make possible first. */
async function ready(kind: StandbyKind, installation: Installation): Promise<EmergencyFacts> {
  const facts = await planned(kind, installation)
  await requireInAgent(installation, facts)
  return facts
}

async function planned(kind: StandbyKind, installation: Installation): Promise<EmergencyFacts> {
  const plan = planOf(installation.dataDir)
  const member = plan.members.find((each) => each.kind === kind)
  if (member === undefined) throw missing(`nothing stands by for ${kind}`)
  if (whyByHand(installation) === undefined) requireSameModule(installation, plan)
  const { key, name, log } = formerOf(installation, member)
  const { witnessKey: witness } = (await servingOf(installation)).key(key)
  const item = await formerItem(installation, member, log)
  return {
    emergency: true,
    member: log === undefined ? member : await withAddress(member, log),
    item: member.name,
    keys: { signer: { name: member.name } },
    former: {
      item: item.id,
      name,
      keys: [{ name: key }, ...(witness === undefined ? [] : [{ name: witness }])],
      ...(log === undefined ? {} : { log }),
    },
  }
}

/** One agent loads one module: it could not open a token of another one. */
function requireSameModule(installation: Installation, { agent }: StandbyPlan): void {
  const standby = readAgentFile(standbyReach(installation, agent))
  const serving = readAgentFile(installation.agent)
  if (standby.modulePath === serving.modulePath) return
  throw new OperatorError(
    'rotation_impossible',
    `the standby token is reached through ${standby.modulePath}, and the serving agent has loaded ${serving.modulePath}`,
  )
}

interface Former {
  readonly key: string
  readonly name: string
  readonly log?: ReturnType<typeof activeLog>
}

/** What signs now, by the configuration. */
function formerOf(installation: Installation, { kind }: StandbyMember): Former {
  const { ca, timestamp } = installation
  if (kind === 'issuing-ca' || kind === 'tsa') {
    const key = kind === 'tsa' ? timestamp?.key : ca?.key
    if (key === undefined) throw new OperatorError('rotation_impossible', `this installation has no ${kind}`)
    return { key, name: key }
  }
  const log = activeLog(installation, LOG_KINDS[kind])
  return { key: log.key, name: log.name, log }
}

async function formerItem(installation: Installation, member: StandbyMember, log: Former['log']): Promise<TrustItem> {
  if (log !== undefined) {
    // The agent is not asked: it may not be ours to ask.
    const { items } = await inventoryOf(installation)
    const ofLog = items.find(
      ({ kind, origin, state }) => kind === ITEM_KINDS[member.kind] && origin === log.origin && state !== 'revoked',
    )
    return await itemOfDer(installation, ofLog?.der[0] ?? new Uint8Array())
  }
  const { ca, timestamp, resolve: at } = installation
  const chain = member.kind === 'issuing-ca' ? ca?.chain : timestamp?.chain
  const der = chain === undefined ? undefined : chainOfFile(at(chain))[0]
  return await itemOfDer(installation, new Uint8Array(der ?? []))
}

/** The address that was planned, or another one where somebody else has it by now. */
async function withAddress(member: StandbyMember, log: NonNullable<Former['log']>): Promise<StandbyMember> {
  if (!('origin' in member)) return member
  if (member.kind === 'rekor-v1') return { ...member, listen: log.listen, url: log.url }
  const at = member.listen.lastIndexOf(':')
  const host = member.listen.slice(0, at).replace(/^\[|\]$/g, '')
  const isShared = member.listen === log.listen
  if (isShared || (await isFreePort(host, Number(member.listen.slice(at + 1))))) return member
  return { ...member, ...(await addressOf(log, {}, member.name)) }
}

/** The server signs with it from now on. */
async function switchTo(installation: Installation, { member, former }: EmergencyFacts): Promise<void> {
  const { ask } = installation
  if (!('origin' in member)) {
    const verb = member.kind === 'tsa' ? 'tsa-switch' : 'ca-switch'
    const chain = readFileSync(join(installation.dataDir, member.chain), 'utf8')
    await ask(verb, { key: member.name, chain, emergency: true })
    return
  }
  const { succeeds: _succeeds, indexOffset: _offset, faultPoint: _fault, ...rest } = former.log ?? { name: former.name }
  const { name, origin, listen, url, database } = member
  const own = {
    name,
    origin,
    listen,
    url,
    database,
    key: name,
    ...('treeId' in member ? { treeId: member.treeId } : {}),
  }
  await ask('log-switch', { name: former.name, successor: { ...rest, ...own }, emergency: true })
  // What the lost key promises is good for no certificate any more.
  if (member.kind === 'ct-log' && whyByHand(installation) === undefined) await leaveFormerLog(installation, former)
}

/** It stands by no more: its keys leave the standby's agent, which has another memory of what they signed. */
async function record(installation: Installation, { member, former, switchedAt = '' }: EmergencyFacts): Promise<void> {
  const { dataDir } = installation
  const plan = planOf(dataDir)
  const reach = standbyReach(installation, plan.agent)
  const names = [member.name, `${member.name}-witness`].filter((name) => name in keysIn(reach))
  editAgentFile(reach, (document) => {
    for (const name of names) dropKey(document, name)
  })
  const { item, name } = former
  const used = { member, former: { item, name }, since: switchedAt }
  writeStandbyPlan(dataDir, {
    ...plan,
    members: plan.members.filter((each) => each.name !== member.name),
    inService: [...plan.inService.filter((each) => each.member.name !== member.name), used],
  })
}

/** The serving agent knows a lost key no more. What it logged is read by its public half, which the server keeps. */
async function retire(installation: Installation, { member, former }: EmergencyFacts): Promise<void> {
  if ('origin' in member) await installation.ask('log-retire', { name: former.name })
  if (whyByHand(installation) === undefined) await dropFormer(installation, former)
}

const canary = z.object({ new: z.object({ bundles: z.array(z.object({ signedBy: z.array(z.string()) })) }) })

/** A signature through all parts of the server that verifies with the published trust root; why there is none, or empty. */
async function proof({ ask }: Installation, { name }: StandbyMember): Promise<string> {
  try {
    const { bundles } = canary.parse(await ask('canary', {})).new
    const signers = bundles.flatMap(({ signedBy }) => signedBy)
    return signers.includes(name) ? '' : `the new signature is by ${signers.join(', ')}, not by ${name}`
  } catch (error) {
    return error instanceof Error ? error.message : 'the canary failed'
  }
}
