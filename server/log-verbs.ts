/** What operators do to single logs: look, check, freeze, and have a head adopted by an agent that forgot it. */
import { existsSync } from 'node:fs'
import { createPublicKey, verify } from 'node:crypto'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import type { HeadAdoption } from '#hsm'
import { TlogError, verifyCheckpoint } from '#tlog'
import {
  checkLog,
  type ExpectedHead,
  type FsckReport,
  type FsckStep,
  type Log,
  openSqliteStore,
  StoreError,
} from '#transparency-log'
import { readInventory } from '#trust-root'
import { treeHeadSignatureInput } from '#x509'
import type { AdminRequest } from './admin.ts'
import type { LoadedConfig, LogConfig } from './config.ts'
import type { Parts } from './main.ts'

type OpenLog = Parts['logs'][number]

/** A log as `chancery log ls` shows it. */
export interface LogLine {
  readonly name: string
  readonly kind: LogConfig['kind']
  readonly origin: string
  readonly key: string
  readonly url: string
  readonly database: string
  /** `read_only`: until somebody acts; `waiting`: by itself; `frozen`: for ever. */
  readonly state: 'active' | 'frozen' | 'read_only' | 'waiting'
  readonly size: number
  readonly rootHashHex: string
  readonly sealedAt: string
  readonly frozenAt?: string
  readonly guardedSize?: number
  /** Rekor v1: entries of the shards before it. */
  readonly indexOffset?: number
  readonly succeeds?: string
  /** The alarm's code, if it has one. */
  readonly code?: string
  readonly fault?: string
  readonly checkpoint: string
}

export interface FsckAnswer extends FsckReport {
  readonly name: string
}

/** What the command hands to the agent's admin socket, bytes as base64. */
export type AdoptionPlan = Readonly<Record<'key' | 'origin' | 'rootHash' | 'signature', string>> & {
  readonly size: number
  readonly timestampMs: number
  readonly frozenAtMs: number
  readonly guardedSize: number
  readonly consistencyProof: readonly string[]
  readonly report: FsckAnswer
}

/** Faults that last until somebody acts. */
const LASTING: ReadonlySet<string> = new Set([
  'fork_refused',
  'guard_behind',
  'store_replaced',
  'anchor_ahead',
  'anchor_disagrees',
  'disk_io_error',
])

export async function logLines(parts: Parts): Promise<LogLine[]> {
  const { guards } = await parts.agent.status().catch(() => ({ guards: [] }))
  return parts.logs.map(({ config, log }) => {
    const { size, rootHash, timestampMs, frozenAtMs, note } = log.head()
    const fault = log.fault()
    const guard = guards.find(({ origin }) => origin === log.origin)
    return {
      name: config.name,
      kind: config.kind,
      origin: log.origin,
      key: config.key,
      url: config.url,
      database: config.database,
      state:
        frozenAtMs !== undefined || config.spki !== undefined
          ? 'frozen'
          : fault === undefined
            ? 'active'
            : LASTING.has(fault.code)
              ? 'read_only'
              : 'waiting',
      size,
      rootHashHex: Buffer.from(rootHash).toString('hex'),
      sealedAt: new Date(timestampMs).toISOString(),
      ...(frozenAtMs === undefined ? {} : { frozenAt: new Date(frozenAtMs).toISOString() }),
      ...(guard === undefined ? {} : { guardedSize: guard.size }),
      ...(config.kind === 'rekor-v1' ? { indexOffset: indexOffsetOf(config) } : {}),
      ...(config.succeeds === undefined ? {} : { succeeds: config.succeeds }),
      ...(fault === undefined ? {} : { code: fault.code, fault: fault.message }),
      checkpoint: note,
    }
  })
}

const fsckArgument = z.strictObject({
  name: z.string(),
  signatures: z.enum(['sample', 'all']).default('sample'),
  checkpoints: z.array(z.string()).default([]),
})

/** Checks a log that is being served. */
export async function fsckVerb(parts: Parts, { argument, progress, signal }: AdminRequest): Promise<FsckAnswer> {
  const { name, signatures, checkpoints } = read(fsckArgument, argument)
  const open = logNamed(parts, name)
  const expected = checkpoints.map((text, at) => headOf(text, open, `checkpoint ${at + 1}`))
  const guard = await parts.agent.guardedHead({ key: open.config.key, origin: open.log.origin }).catch(() => undefined)
  if (guard !== undefined && guard.size <= open.log.head().size) {
    expected.push({ from: "the agent's guard", size: guard.size, rootHashHex: hex(guard.rootHash) })
  }
  const report = await checked(parts, open, { signatures, expected, progress, signal })
  const message = damageOf(report)
  parts.alarms.set('log_damaged', name, message)
  return report
}

async function checked(
  { loaded }: Pick<Parts, 'loaded'>,
  { config, log }: OpenLog,
  {
    signatures,
    expected,
    progress,
    signal,
  }: {
    signatures: 'sample' | 'all'
    expected: readonly ExpectedHead[]
    progress: (step: FsckStep) => void
    signal: AbortSignal
  },
): Promise<FsckAnswer> {
  const { name, kind } = config
  const { origin, spkiDer } = log
  const report = await checkLog(log.inspection, {
    fsck: { kind, origin, spkiDer, indexOffset: indexOffsetOf(config), signatures, expected },
    progressFile: loaded.resolve(`run/fsck-${name}.json`),
    onStep: progress,
    signal,
  })
  return { ...report, name }
}

/** What an operator is told of a report with damage, or undefined. */
export function damageOf({ name, damaged, findings }: FsckAnswer): string | undefined {
  if (damaged === 0) return undefined
  const [first] = findings
  return `log ${name}: ${damaged} fault(s), the first: ${first?.message ?? ''}. Keep the files as they are; chancery log fsck ${name} --json tells all`
}

/** Checks a log of an installation that does not run. Throws `store_in_use` if something has its database open. */
export async function fsckStopped(
  loaded: LoadedConfig,
  { name, signatures, checkpoints }: { name: string; signatures: 'sample' | 'all'; checkpoints: readonly string[] },
  { onStep, signal }: { readonly onStep?: (step: FsckStep) => void; readonly signal?: AbortSignal },
): Promise<FsckAnswer> {
  const config = loaded.config.logs.find((log) => log.name === name)
  if (config === undefined) throw noSuchLog(name, loaded.config.logs)
  const { kind, origin } = config
  const database = loaded.resolve(config.database)
  if (!existsSync(database)) throw new OperatorError('log_damaged', `log ${name}: ${database} is not there`)
  const spkiDer = await publishedKey(loaded, config)
  const expected = checkpoints.map((text, at) =>
    headOf(text, { config, log: { origin, spkiDer } }, `checkpoint ${at + 1}`),
  )
  const empty = { origin, size: 0, rootHashHex: '', signaturesChecked: 0, keyRowsChecked: 0, damaged: 1 }
  const unreadable = (message: string): FsckAnswer => ({ ...empty, name, findings: [{ kind: 'unreadable', message }] })
  let store
  try {
    store = await openSqliteStore(database, { kind, origin, spkiDer })
  } catch (error) {
    if (!(error instanceof StoreError)) throw error
    if (error.code === 'in_use')
      throw new OperatorError('store_in_use', `log ${name}: ${error.message}`, { cause: error })
    return unreadable(error.message)
  }
  try {
    const report = await checkLog(store, {
      fsck: { kind, origin, spkiDer, indexOffset: indexOffsetOf(config), signatures, expected },
      progressFile: loaded.resolve(`run/fsck-${name}.json`),
      ...(onStep === undefined ? {} : { onStep }),
      ...(signal === undefined ? {} : { signal }),
    })
    return { ...report, name }
  } finally {
    await store.close()
  }
}

/** What clients verify the log with: of the trust root, not of the database that is to be judged. */
async function publishedKey({ config, resolve }: LoadedConfig, { name, origin }: LogConfig): Promise<Uint8Array> {
  const folder = config.trustRoot?.folder
  const items = folder === undefined ? [] : (await readInventory(resolve(folder))).items
  const [der] = items.find((item) => item.origin === origin)?.der ?? []
  if (der !== undefined) return der
  throw new OperatorError(
    'no_such_log',
    `log ${name}: the trust root here has no key for ${origin}; start the server and check it there`,
  )
}

const freezeArgument = z.strictObject({ name: z.string(), confirm: z.string().optional() })

/** Ends a log for ever. `confirm` is its origin. */
export async function freezeVerb(parts: Parts, { argument }: AdminRequest): Promise<LogLine> {
  const { name, confirm } = read(freezeArgument, argument)
  const { log } = logNamed(parts, name)
  requireConfirmed(confirm, log, `log ${name} takes no entry any more, for ever`)
  await log.freeze()
  const line = (await logLines(parts)).find((found) => found.name === name)
  if (line === undefined) throw new TypeError(`log ${name} is gone`)
  return line
}

const adoptArgument = z.strictObject({
  name: z.string(),
  confirm: z.string().optional(),
  checkpoints: z.array(z.string()).default([]),
})

/**
 * What the agent is to be given back: the log's newest signed head, after the whole log was checked and everything that
 * was signed elsewhere and is known here agrees with it. Nothing is changed yet. Throws `log_evidence` for a checkpoint
 * that this log does not lead to, `log_damaged`, `fork_refused` where the guard knows of more.
 */
export async function adoptionVerb(parts: Parts, { argument, progress, signal }: AdminRequest): Promise<AdoptionPlan> {
  const { name, checkpoints } = read(adoptArgument, argument)
  const open = logNamed(parts, name)
  const { config, log } = open
  const head = log.head()
  const fault = log.fault()
  if (fault?.code !== 'guard_behind' && fault?.code !== 'fork_refused') {
    const state = fault === undefined ? 'it is written as it should be' : `${fault.code}: ${fault.message}`
    throw new OperatorError('log_evidence', `log ${name} has nothing to adopt: ${state}`)
  }
  const guard = await parts.agent.guardedHead({ key: config.key, origin: log.origin })
  if (guard.size > head.size) {
    throw new OperatorError(
      'fork_refused',
      `log ${name}: the agent signed ${guard.size} entries, this database ends at ${head.size}. A guard is never lowered: put the newest database back, or start a new shard with chancery log succeed ${name}`,
    )
  }
  const evidence = checkpoints.map((text, at) => headOf(text, open, `checkpoint ${at + 1}`))
  for (const { from, size } of evidence) {
    if (size <= head.size) continue
    throw new OperatorError(
      'log_evidence',
      `log ${name}: ${from} is of size ${size}, signed by this log's key, and the database ends at ${head.size}: it is older than the log`,
    )
  }
  const expected = [...evidence, { from: "the agent's guard", size: guard.size, rootHashHex: hex(guard.rootHash) }]
  const report = await checked(parts, open, { signatures: 'sample', expected, progress, signal })
  const contradiction = report.findings.find(
    ({ kind, message }) => kind === 'root' && !message.startsWith('the signed head'),
  )
  if (contradiction !== undefined) throw new OperatorError('log_evidence', `log ${name}: ${contradiction.message}`)
  const damage = damageOf(report)
  if (damage !== undefined) throw new OperatorError('log_damaged', damage)
  const proof = await log.consistencyProof(guard.size, head.size)
  return {
    key: config.key,
    origin: log.origin,
    size: head.size,
    rootHash: base64(head.rootHash),
    timestampMs: config.kind === 'ct' ? head.timestampMs : 0,
    signature: base64(head.signature),
    frozenAtMs: head.frozenAtMs ?? 0,
    guardedSize: guard.size,
    consistencyProof: proof.map(base64),
    report,
  }
}

/** The plan as the agent takes it. */
export function adoptionOf(plan: AdoptionPlan): HeadAdoption {
  const { key, origin, size, rootHash, timestampMs, signature, frozenAtMs, consistencyProof } = plan
  const bytes = (text: string) => new Uint8Array(Buffer.from(text, 'base64'))
  return {
    key,
    origin,
    size,
    rootHash: bytes(rootHash),
    timestampMs,
    signature: bytes(signature),
    frozenAtMs,
    consistencyProof: consistencyProof.map(bytes),
  }
}

const resumeArgument = z.strictObject({ name: z.string() })

/** After the agent has adopted: the log looks again, and writes if nothing speaks against it. */
export async function resumeVerb(parts: Parts, { argument }: AdminRequest): Promise<LogLine> {
  const { name } = read(resumeArgument, argument)
  const fault = await logNamed(parts, name).log.resume()
  if (fault !== undefined) throw Object.assign(new Error(fault.message), { code: fault.code })
  const line = (await logLines(parts)).find((found) => found.name === name)
  if (line === undefined) throw new TypeError(`log ${name} is gone`)
  return line
}

const treeHead = z.object({
  tree_size: z.int().nonnegative(),
  timestamp: z.int().nonnegative(),
  sha256_root_hash: z.base64(),
  tree_head_signature: z.base64(),
})

/** A checkpoint, or a CT tree head as get-sth has it, that somebody kept; signed by the log's key, or it is no evidence. */
function headOf(
  text: string,
  { config, log }: { readonly config: LogConfig; readonly log: Pick<Log, 'origin' | 'spkiDer'> },
  from: string,
): ExpectedHead {
  const refuse = (why: string): never => {
    throw new OperatorError('log_evidence', `${from} says nothing about log ${config.name}: ${why}`)
  }
  if (config.kind === 'ct') {
    const parsed = treeHead.safeParse(text.trimStart().startsWith('{') ? (JSON.parse(text) as unknown) : undefined)
    if (!parsed.success) return refuse('it is no tree head as get-sth answers it')
    const { tree_size: size, timestamp, sha256_root_hash: root, tree_head_signature: signature } = parsed.data
    const rootHash = Buffer.from(root, 'base64')
    const key = createPublicKey({ key: Buffer.from(log.spkiDer), type: 'spki', format: 'der' })
    // digitally-signed of RFC 5246: two bytes of algorithms and two of length before the signature.
    const der = Buffer.from(signature, 'base64').subarray(4)
    if (!verify('sha256', treeHeadSignatureInput(size, timestamp, rootHash), key, der))
      return refuse('its key did not sign it')
    return { from, size, rootHashHex: rootHash.toString('hex') }
  }
  try {
    // Lines of witnesses and of the log's second key are not looked at: the first one of its own key counts.
    const { size, rootHash } = verifyCheckpoint(text, log)
    return { from, size, rootHashHex: hex(rootHash) }
  } catch (error) {
    if (!(error instanceof TlogError)) throw error
    return refuse(error.message)
  }
}

/** Entries of the shards before this one. */
export function indexOffsetOf(config: LogConfig): number {
  return config.kind === 'rekor-v1' ? config.indexOffset : 0
}

export function logNamed({ logs }: Pick<Parts, 'logs'>, name: string): OpenLog {
  const found = logs.find(({ config }) => config.name === name)
  if (found === undefined)
    throw noSuchLog(
      name,
      logs.map(({ config }) => config),
    )
  return found
}

function noSuchLog(name: string, logs: readonly { readonly name: string }[]): OperatorError {
  const names = logs.map((log) => log.name).join(', ')
  return new OperatorError('no_such_log', `there is no log ${name}; there is ${names === '' ? 'none' : names}`)
}

function requireConfirmed(confirm: string | undefined, { origin }: Pick<Log, 'origin'>, consequence: string): void {
  if (confirm === origin) return
  throw new OperatorError('confirmation_needed', `${consequence}. Nothing was done; add --confirm '${origin}'`)
}

function read<T>(schema: z.ZodType<T>, argument: unknown): T {
  const parsed = schema.safeParse(argument)
  if (parsed.success) return parsed.data
  throw Object.assign(new Error(`not understood: ${z.prettifyError(parsed.error)}`), { code: 'failed' })
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
