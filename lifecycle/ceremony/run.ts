/**
 * The ceremony itself: every step of the plan that this machine can do, each once. The transcript is the journal: a run
 * reads it from its first line as an auditor would, does what is left, and is done again after a kill at any point.
 *
 * The ceremony's folder is what people carry: transcript, requests, certificates, public keys. All of it is public. The
 * tokens, PINs and agents stay on their machines.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { OperatorError } from '#alarms'
import type { AdminAgent } from '#hsm'
import { encodePem } from '#x509'
import about from '../../package.json' with { type: 'json' }
import { type AgentReach, withAdminAgent } from '../agents.ts'
import { replaceDurably } from '../durable-file.ts'
import { keysIn } from '../rotation/agent-file.ts'
import { type Bench, perform, tokenFacts } from './actions.ts'
import { checkStatement, type SignedStatement } from './approval.ts'
import { encodeChain } from './certificate-request.ts'
import { opensslVersion } from './openssl-judge.ts'
import { checkNotExpired, type ReadPlan } from './plan.ts'
import { type CeremonyState, Replay, replay } from './replay.ts'
import type { Step } from './steps.ts'
import { Transcript, type TranscriptEvent, type TranscriptLine } from './transcript.ts'

export interface RunOptions {
  readonly read: ReadPlan
  /** The ceremony's folder; made if it is not there. */
  readonly folder: string
  /** Which machine of the plan this is. */
  readonly machine: string
  /** Where the plan's agents are found by name. */
  readonly dataDir: string
  /** Those that are not in the transcript yet. */
  readonly approvals: readonly SignedStatement[]
  readonly now?: () => Date
  /** Before a step is done. */
  readonly onStep?: (step: Step) => void
}

/** How far a ceremony has come. */
export interface CeremonyProgress {
  readonly ceremony: string
  readonly planSha256: string
  readonly state: 'done' | 'elsewhere'
  /** Names of the operators whose approvals are in the transcript. */
  readonly approvals: readonly string[]
  readonly lines: number
  /** Hash of the last line. */
  readonly head: string
  /** Steps that are left, with their machine; those of the TUF roles are done anywhere. */
  readonly left: readonly { readonly id: string; readonly machine: string }[]
}

/** Does what is left on this machine. Rejects `OperatorError`: `ceremony_quorum`, `ceremony_awaiting` and others. */
export async function runCeremony(options: RunOptions): Promise<CeremonyProgress> {
  const { read, folder, machine, now = () => new Date(), onStep = () => {} } = options
  checkMachine(read, machine)
  checkNotExpired(read, now())
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const lock = takeLock(folder)
  try {
    const transcript = new Transcript(folder, { machine, now })
    try {
      const state = transcript.lines.length === 0 ? new Replay(read) : replay(transcript.lines)
      const append = (said: TranscriptEvent): TranscriptLine => {
        const line = transcript.append(said)
        state.follow(line)
        return line
      }
      const fresh = freshApprovals(state, options)
      const here = leftIn(state).filter((step) => isHere(step, machine))
      await withAgents(options, here, async (agentOf) => {
        // Every token is looked at before the first thing is done.
        for (const token of tokensOf(here)) await tokenFacts(state, agentOf(token), token)
        if (!state.ended) begin(state, fresh, { append, dropped: transcript.dropped })
        for (let step = nextIn(state, machine); step !== undefined; step = nextIn(state, machine)) {
          checkNotExpired(read, now())
          onStep(step)
          await perform({ state, folder, now, agentOf, append }, step)
        }
      })
      if (leftIn(state).length === 0 && !state.ended) {
        append({ event: 'end', planSha256: read.sha256, steps: state.steps.length })
      }
      writeOutputs(folder, state)
      return progressOf(state, transcript.lines)
    } finally {
      transcript.close()
    }
  } finally {
    lock.close()
  }
}

/** What a run would do here, and whether it could begin; nothing is written. */
export async function rehearse(options: RunOptions, lines: readonly TranscriptLine[]): Promise<CeremonyProgress> {
  const { read, machine, now = () => new Date() } = options
  checkMachine(read, machine)
  checkNotExpired(read, now())
  const state = lines.length === 0 ? new Replay(read) : replay(lines)
  const approvals = [...state.approvals, ...freshApprovals(state, options).map(({ name }) => name)]
  const left = leftIn(state)
  await withAgents(
    options,
    left.filter((step) => isHere(step, machine)),
    async (agentOf) => {
      for (const step of left) {
        if (step.what !== 'key' || step.machine !== machine) continue
        const { admin, reach } = agentOf(step.token)
        await tokenFacts(state, { admin, reach }, step.token)
        const objects = await admin.listObjects(step.token)
        const taken = objects.some(({ label }) => label === step.key) || keysIn(reach)[step.key] !== undefined
        if (taken && !state.intents.has(step.id)) {
          throw new OperatorError('ceremony_key_exists', `token ${step.token} or its agent has ${step.key} already`)
        }
      }
    },
  )
  return { ...progressOf(state, lines), approvals }
}

/** Where the ceremony of a transcript stands. */
export function progressOf(state: CeremonyState, lines: readonly TranscriptLine[]): CeremonyProgress {
  return {
    ceremony: state.read.plan.ceremony,
    planSha256: state.read.sha256,
    state: state.ended ? 'done' : 'elsewhere',
    approvals: state.approvals,
    lines: lines.length,
    head: lines.at(-1)?.hash ?? '',
    left: leftIn(state).map((step) => ({ id: step.id, machine: 'machine' in step ? step.machine : 'any' })),
  }
}

interface NamedApproval {
  readonly name: string
  readonly approval: SignedStatement
}

/** Those that the transcript does not have yet. Throws `ceremony_approval_refused` and `ceremony_quorum`. */
function freshApprovals(state: CeremonyState, { read, approvals }: RunOptions): readonly NamedApproval[] {
  checkSamePlan(read, state.read)
  const names = new Set(state.approvals)
  const fresh: NamedApproval[] = []
  for (const approval of approvals) {
    const { name } = checkStatement(read, approval, 'approve')
    if (!names.has(name)) fresh.push({ name, approval })
    names.add(name)
  }
  checkQuorum(read, [...names])
  return fresh
}

/** The beginning with its approvals, or a line that says that it goes on. */
function begin(
  { read, begun }: CeremonyState,
  fresh: readonly NamedApproval[],
  { append, dropped }: { readonly append: Bench['append']; readonly dropped: string },
): void {
  const software = { chancery: about.version, node: process.version, openssl: opensslVersion() ?? 'not installed' }
  if (!begun) append({ event: 'begin', planSha256: read.sha256, plan: read.text, software })
  for (const { name, approval } of fresh) append({ event: 'approval', name, ...approval })
  if (begun) append({ event: 'resumed', software, dropped })
}

function checkSamePlan(read: ReadPlan, other: ReadPlan): void {
  if (read.sha256 === other.sha256) return
  throw new OperatorError(
    'ceremony_transcript_wrong',
    `the folder's transcript is of another plan (${other.plan.ceremony}, sha256 ${other.sha256}); give another --dir`,
  )
}

/** Throws `ceremony_quorum` with the names that are missing. */
function checkQuorum({ plan }: ReadPlan, approved: readonly string[]): void {
  if (approved.length >= plan.quorum) return
  const others = plan.operators.map(({ name }) => name).filter((name) => !approved.includes(name))
  const by = approved.length === 0 ? 'nobody' : approved.join(', ')
  throw new OperatorError(
    'ceremony_quorum',
    `${approved.length} of ${plan.quorum} approvals: approved by ${by}; not by ${others.join(', ')}; nothing was done`,
  )
}

function checkMachine({ plan }: ReadPlan, machine: string): void {
  const machines = [...new Set(Object.values(plan.tokens).map((token) => token.machine))]
  if (machines.includes(machine)) return
  throw new OperatorError('ceremony_plan_invalid', `the plan has no machine ${machine}; it has: ${machines.join(', ')}`)
}

function leftIn({ steps, done }: CeremonyState): Step[] {
  return steps.filter(({ id }) => !done.has(id))
}

function isHere(step: Step, machine: string): boolean {
  return !('machine' in step) || step.machine === machine
}

/** The next one that can be done here; undefined once this machine has done its part for now. */
function nextIn(state: CeremonyState, machine: string): Step | undefined {
  return leftIn(state).find((step) => isHere(step, machine) && step.after.every((id) => state.done.has(id)))
}

function tokensOf(steps: readonly Step[]): string[] {
  return [...new Set(steps.flatMap((step) => ('token' in step ? (step.token ?? []) : [])))]
}

/** Every agent that the steps need, open until `use` has settled. */
async function withAgents(
  { read, dataDir }: RunOptions,
  steps: readonly Step[],
  use: (agentOf: Bench['agentOf']) => Promise<void>,
): Promise<void> {
  const agentNameOf = (token: string) => read.plan.tokens[token]?.agent ?? ''
  const names = [...new Set(tokensOf(steps).map(agentNameOf))]
  const opened = new Map<string, { admin: AdminAgent; reach: AgentReach }>()
  const open = async ([first, ...rest]: readonly string[]): Promise<void> => {
    if (first === undefined) {
      await use((token) => {
        const agent = opened.get(agentNameOf(token))
        if (agent === undefined) throw new TypeError(`the agent of token ${token} was not opened`)
        return agent
      })
      return
    }
    const reach = { dataDir, agent: first }
    await withAdminAgent(reach, async (admin) => {
      opened.set(first, { admin, reach })
      await open(rest)
    })
  }
  await open(names)
}

/** What people look at and carry. All of it is in the transcript, which alone counts: a run that died leaves it to the next. */
function writeOutputs(folder: string, { keys, requests, chains, roles }: CeremonyState): void {
  const put = (name: string, text: string): void => {
    const path = join(folder, name)
    if (!existsSync(path) || readFileSync(path, 'utf8') !== text) replaceDurably(path, text)
  }
  for (const [name, { spkiDer }] of keys) put(`keys/${name}.pub.pem`, encodePem('PUBLIC KEY', spkiDer))
  for (const [name, der] of requests) put(`requests/${name}.csr.pem`, encodePem('CERTIFICATE REQUEST', der))
  for (const [name, chain] of chains) put(`certificates/${name}.pem`, encodeChain(chain))
  if (roles !== undefined) put('roles.json', roles)
}

/** The kernel lets go of it when this process dies. Throws `ceremony_underway`. */
function takeLock(folder: string): Database.Database {
  const lock = new Database(join(folder, '.lock'), { timeout: 0 })
  try {
    lock.exec('BEGIN EXCLUSIVE')
    return lock
  } catch (error) {
    lock.close()
    if (!(error instanceof Database.SqliteError) || !error.code.startsWith('SQLITE_BUSY')) throw error
    throw new OperatorError('ceremony_underway', `another command works on ${folder} just now`, { cause: error })
  }
}
