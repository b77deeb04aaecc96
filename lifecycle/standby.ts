/**
 * An emergency: what stands by takes the place of a key that is lost or stolen, with no new publication, since clients
 * have trusted it from the day it was made. A journal of its own for each kind, so that neither a rotation that waits nor
 * another emergency is in the way; run again after a kill it goes on.
 *
 *     plan ─ agent ─ switch ─ record ─ retire ─ prove
 *
 * Nothing is asked of the former key: it may be gone with its token.
 */
import { dirname, join, relative, resolve } from 'node:path'
import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { type Document, parseDocument } from 'yaml'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { type AdminAgent, HsmError } from '#hsm'
import { witnessOrigin } from '#tlog'
import type { LogKind } from '#transparency-log'
import type { TrustItem } from '#trust-root'
import { type AgentReach, readAgentFile } from './agents.ts'
import { Journal } from './journal.ts'
import { isFreePort } from './ports.ts'
import { dropKey, editAgentFile, keyIn, keysIn, putKey, reachOf, reload, withSide } from './rotation/agent-file.ts'
import { chainOfFile } from './rotation/certificates.ts'
import { itemOfDer } from './rotation/publication.ts'
import type { Installation, StepPhase } from './rotation/rotation.ts'
import { activeLog, addressOf } from './rotation/shard.ts'
import {
  readStandbyPlan,
  type StandbyAuthority,
  type StandbyKind,
  type StandbyLog,
  type StandbyMember,
  standbyMember,
  type StandbyPlan,
  writeStandbyPlan,
} from './standby-plan.ts'

/** What an emergency knows and has made, as the journal keeps it. */
const factsSchema = z.strictObject({
  emergency: z.literal(true),
  member: standbyMember,
  /** Item and key as a rotation's journal has them. */
  item: z.string(),
  keys: z.strictObject({ signer: z.strictObject({ name: z.string() }) }),
  /** Whose place it takes: item of the trust root, name of the log or key, and its keys in the serving agent, the signing one first. */
  former: z.strictObject({
    item: z.string(),
    name: z.string(),
    keys: z.array(z.strictObject({ name: z.string() })).min(1),
    /** Fields of the log, as they were configured. */
    log: z.looseObject({ name: z.string() }).optional(),
  }),
  switchedAt: z.iso.datetime().optional(),
})
type Facts = z.infer<typeof factsSchema>

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
}

const LOG_KINDS = { 'ct-log': 'ct', 'rekor-v1': 'rekor-v1', 'rekor-v2': 'rekor-v2' } as const satisfies Readonly<
  Record<StandbyLog['kind'], LogKind>
>

/**
 * Puts what stands by for `kind` into service, or goes on with that. Rejects `standby_missing`, `rotation_impossible`, and
 * what server or agent refused.
 */
export async function bringIntoService(kind: StandbyKind, options: EmergencyOptions): Promise<Emergency> {
  const { installation, now = () => new Date(), onStep = () => undefined } = options
  const journal = new Journal(installation.dataDir, now, journalOf(kind))
  try {
    if (journal.current === undefined) journal.begin(kind, await planned(kind, installation))
    const facts = () => factsSchema.parse(journal.current?.facts)
    const keep = (changes: Partial<Facts>) => void journal.keep(changes)
    const step = async (name: string, run: () => Promise<void>) => {
      if (!journal.start(name)) return
      onStep(name, 'begun')
      await run()
      onStep(name, 'acted')
      journal.finish(name)
      onStep(name, 'noted')
    }
    await step('agent', async () => await configureAgent(installation, facts()))
    await step('switch', async () => {
      await switchTo(installation, facts())
      keep({ switchedAt: facts().switchedAt ?? now().toISOString() })
    })
    await step('record', async () => await record(installation, facts()))
    await step('retire', async () => await retire(installation, facts()))
    const { member, former, switchedAt = '' } = facts()
    onStep('prove', 'begun')
    const unproven = await proof(installation, member)
    journal.end('done')
    const { item, name } = former
    return { kind, name: member.name, former: { item, name }, switchedAt, unproven }
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

/** What would take whose place. Throws `standby_missing`, and `rotation_impossible` where the agent could not open its token. */
export async function planEmergency(
  kind: StandbyKind,
  installation: Installation,
): Promise<{ readonly name: string; readonly former: { readonly item: string; readonly name: string } }> {
  const { member, former } = await planned(kind, installation)
  return { name: member.name, former: { item: former.item, name: former.name } }
}

async function planned(kind: StandbyKind, installation: Installation): Promise<Facts> {
  const plan = planOf(installation.dataDir)
  const member = plan.members.find((each) => each.kind === kind)
  if (member === undefined) throw missing(`nothing stands by for ${kind}`)
  requireSameModule(installation, plan)
  const { key, name, log } = formerOf(installation, member)
  const entry = keyIn(reachOf(installation, 'services'), key)
  const item = await formerItem(installation, member, entry.spki)
  return {
    emergency: true,
    member: log === undefined ? member : await withAddress(member, log),
    item: member.name,
    keys: { signer: { name: member.name } },
    former: {
      item: item.id,
      name,
      keys: [{ name: key }, ...(entry.witnessKey === undefined ? [] : [{ name: entry.witnessKey }])],
      ...(log === undefined ? {} : { log }),
    },
  }
}

function planOf(dataDir: string): StandbyPlan {
  const plan = readStandbyPlan(dataDir)
  if (plan === undefined) throw missing('this installation is older than standby keys')
  return plan
}

function missing(what: string): OperatorError {
  return new OperatorError(
    'standby_missing',
    `${what}: a new key must be published first, which chancery rotate does; afterwards: chancery rotate standby`,
  )
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

function standbyReach({ dataDir }: Pick<Installation, 'dataDir'>, agent: string): AgentReach {
  return { dataDir, agent: resolve(dataDir, agent) }
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

async function formerItem(installation: Installation, member: StandbyMember, spki: string): Promise<TrustItem> {
  const { ca, timestamp, resolve: at } = installation
  const chain = member.kind === 'issuing-ca' ? ca?.chain : member.kind === 'tsa' ? timestamp?.chain : undefined
  const der = chain === undefined ? Buffer.from(spki, 'base64') : chainOfFile(at(chain))[0]
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

/** The serving agent opens the standby token too, and has its keys with the options of those whose place they take. */
async function configureAgent(installation: Installation, { member, former }: Facts): Promise<void> {
  const plan = planOf(installation.dataDir)
  const reach = reachOf(installation, 'services')
  const formerKey = signerOf(former)
  const standby = documentOf(standbyReach(installation, plan.agent))
  editAgentFile(reach, (document) => {
    const token = putToken(document, { standby, name: member.key.token, reach, installation, plan })
    const { uris: _uris, curve: _curve, witnessKey: _witness, ...options } = keyIn(reach, formerKey)
    const own = { ...member.key, token }
    if (!('origin' in member)) {
      const certificate =
        'issuerCertificate' in options ? { issuerCertificate: fromAgent(reach, installation, member) } : {}
      putKey(document, member.name, { ...options, ...own, ...certificate }, formerKey)
      return
    }
    const witness = member.witnessKey === undefined ? {} : { witnessKey: `${member.name}-witness` }
    putKey(document, member.name, { ...options, ...own, origin: member.origin, ...witness }, formerKey)
    if (member.witnessKey !== undefined) {
      const entry = { ...member.witnessKey, token, purposes: ['witnessHead'], origin: witnessOrigin(member.origin) }
      putKey(document, `${member.name}-witness`, entry, former.keys[1]?.name)
    }
    // Until the CA has gone over, certificates carry the promise of either log.
    if (member.kind === 'ct-log')
      setCtKeys(document, (logs) => [...logs.filter((log) => log !== member.name), member.name], formerKey)
  })
  const names = [member.name, ...('origin' in member && member.witnessKey ? [`${member.name}-witness`] : [])]
  await withSide(installation, 'services', async (admin) => await untilUsable(admin, names))
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

/** Copies the token's entry from the standby's agent file; returns its name in the serving one. */
function putToken(
  document: Document,
  {
    standby,
    name,
    reach,
    installation,
    plan,
  }: {
    readonly standby: Document
    readonly name: string
    readonly reach: AgentReach
    readonly installation: Installation
    readonly plan: StandbyPlan
  },
): string {
  const { tokens = {} } = standby.toJS() as { tokens?: Readonly<Record<string, TokenEntry>> } // its agent reads it strictly
  const entry = tokens[name]
  if (entry === undefined) throw missing(`${plan.agent} has no token ${name}`)
  const serving = readAgentFile(reach)
  const known = Object.entries(serving.tokens).find(([, { uri }]) => uri === entry.uri)
  if (known !== undefined) return known[0]
  const from = dirname(readAgentFile(standbyReach(installation, plan.agent)).path)
  // A credential of systemd has a name and no path; the module reads one configuration for all tokens.
  const pinFile = entry.pinFile.startsWith('credential:') ? entry.pinFile : resolve(from, entry.pinFile)
  const conf = serving.softhsmConfText ?? entry.softhsmConf
  const free = name in serving.tokens ? `${name}-2` : name
  const copied = { ...entry, pinFile, ...(conf === undefined ? {} : { softhsmConf: conf }) }
  document.setIn(['tokens', free], document.createNode(copied))
  return free
}

interface TokenEntry {
  readonly uri: string
  readonly pinFile: string
  readonly softhsmConf?: string
}

function fromAgent(reach: AgentReach, { dataDir }: Installation, { certificate }: StandbyAuthority): string {
  return relative(dirname(readAgentFile(reach).path), join(dataDir, certificate))
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

/** The server signs with it from now on. */
async function switchTo(installation: Installation, { member, former }: Facts): Promise<void> {
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
  if (member.kind === 'ct-log') {
    // What the lost key promises is good for no certificate any more.
    editAgentFile(reachOf(installation, 'services'), (document) =>
      setCtKeys(document, (logs) => logs.filter((log) => log !== signerOf(former)), signerOf(former)),
    )
    await withSide(installation, 'services', async (admin) => await reload(admin, []))
  }
}

/** It stands by no more: its keys leave the standby's agent, which has another memory of what they signed. */
async function record(installation: Installation, { member, former, switchedAt = '' }: Facts): Promise<void> {
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
async function retire(installation: Installation, { member, former }: Facts): Promise<void> {
  if ('origin' in member) await installation.ask('log-retire', { name: former.name })
  editAgentFile(reachOf(installation, 'services'), (document) => {
    for (const { name } of former.keys) dropKey(document, name)
  })
  await withSide(installation, 'services', async (admin) => await reload(admin, []))
}

function signerOf({ keys }: Facts['former']): string {
  const [signer] = keys
  if (signer === undefined) throw new TypeError('the journal has no former key')
  return signer.name
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

function documentOf(reach: AgentReach): Document {
  return parseDocument(readFileSync(readAgentFile(reach).path, 'utf8'))
}
