/**
 * The checks after a loss of power, on one state of the disk: the real stores and the real state of the agent are opened
 * on it, as a server and an agent would, and held against what clients had been told by then. No HSM takes part; what has
 * to be sealed is sealed with signatures of nobody, under the guard of that state.
 */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type { GuardedHead, HsmErrorCode, SigningAgent, TufRole } from '#hsm'
import { HsmError } from '#hsm'
import { emptyRoot, verifyConsistency } from '#tlog'
import { type Log, type LogKind, type LogStore, startLog, StoreError } from '#transparency-log'
import { readInventory, trustRootStatus } from '#trust-root'
import { type AgentState, openAgentState } from '../../hsm/agent-state.ts'
import { openFile, type Request, type WorkerStart } from '../../transparency-log/sqlite-worker.ts'
import type { Head, LogKey, Recount } from '../crash/checker.ts'

/** What holds whatever was lost: the trees as they became, and the logs as clients know them. */
export interface Truth {
  readonly logs: readonly {
    readonly name: 'v1' | 'v2' | 'ct'
    readonly kind: LogKind
    readonly database: string
    readonly key: LogKey
    /** The log at the end. Its every earlier state is a beginning of it. */
    readonly final: Recount
    /** Of each entry of `final`, what it is found by; empty if the log has no search by that. */
    readonly searchKeys: readonly string[]
  }[]
}

/** What was told to clients before the power was lost. */
export interface Told {
  /** Per log: an entry at this index was acknowledged. */
  readonly acknowledged: Readonly<Record<'v1' | 'v2' | 'ct', readonly number[]>>
  /** Per log: the largest head that anybody was shown. */
  readonly heads: Readonly<Record<'v1' | 'v2' | 'ct', Head | undefined>>
  /** Per key: signatures that were released. */
  readonly released: ReadonlyMap<string, number>
  /** Versions that a publication was acknowledged with. */
  readonly published: Readonly<Partial<Record<TufRole, number>>>
}

export class PowerLossError extends Error {
  override readonly name = 'PowerLossError'
}

/** Throws `PowerLossError` for the first thing that is not as promised. */
export async function checkAfterPowerLoss(dataDir: string, truth: Truth, told: Told): Promise<void> {
  const state = await openAgentState(join(dataDir, 'agent/online'), { waitMs: 0 })
  try {
    checkAccount(state, told)
    await checkTrustRoot(dataDir, state, told)
    await Promise.all(truth.logs.map(async (log) => await checkLog(dataDir, log, { state, told })))
  } finally {
    state.close()
  }
}

function checkAccount(state: AgentState, { released }: Told): void {
  state.verifyAccount()
  const counted = new Map<string, number>()
  for (const { key, act, count } of state.accountRows()) {
    if (key.startsWith('token:')) continue
    counted.set(key, (counted.get(key) ?? 0) + (act === 'withheld' ? -count : count))
  }
  for (const [key, atLeast] of released) {
    const uses = state.uses(key)
    if (uses < atLeast) fail(`${key}: ${atLeast} signatures were released, ${uses} uses are known`)
    if (counted.get(key) !== uses) fail(`${key}: the account has ${counted.get(key)} uses, the counter ${uses}`)
  }
}

async function checkTrustRoot(dataDir: string, state: AgentState, { published }: Told): Promise<void> {
  const folder = join(dataDir, 'trust-root')
  await readInventory(folder)
  // Reads the repository and verifies each role.
  const { roles, published: there } = await trustRootStatus(folder, { now: new Date() })
  if (!there) fail('no TUF repository is published')
  for (const { role, version } of roles) {
    const told = published[role] ?? 0
    if (version < told) fail(`TUF ${role} ${told} was published, the repository has ${version}`)
    const signed = state.tufVersion('tuf-online', role)?.version ?? 0
    if ((role === 'snapshot' || role === 'timestamp') && signed < version) {
      fail(`TUF ${role} ${version} is published, and the agent knows of ${signed}`)
    }
  }
}

type TrueLog = Truth['logs'][number]

async function checkLog(dataDir: string, truth: TrueLog, { state, told }: { state: AgentState; told: Told }) {
  const { name, kind, key, final, database, searchKeys } = truth
  const guard = state.guard(key.origin)?.size ?? 0
  const shown = told.heads[name]
  if (shown !== undefined && guard < shown.size) fail(`${name}: head ${shown.size} was shown, the guard is at ${guard}`)
  const log = await startLog(
    {
      name,
      kind,
      origin: key.origin,
      agent: agentOf(state, key.spkiDer),
      key: name,
      ...(kind === 'rekor-v2' ? {} : { signEntry: () => Promise.resolve(NOBODY) }),
    },
    storeIn({ path: join(dataDir, database), identity: { kind, origin: key.origin, spkiDer: key.spkiDer } }),
    key.spkiDer,
  )
  try {
    const fault = log.fault()
    if (fault !== undefined) fail(`${name}: ${fault.code}: ${fault.message}`)
    const { size, rootHash } = log.head()
    if (size < guard) fail(`${name}: the database ends at ${size}, the guard is at ${guard}`)
    const root = final.roots[size]
    if (root === undefined || !root.equals(rootHash)) fail(`${name}: the head of ${size} is of another history`)
    if (shown !== undefined && final.roots[shown.size]?.equals(shown.root) !== true) {
      fail(`${name}: the head of ${shown.size} that was shown is of another history`)
    }
    for (const index of told.acknowledged[name]) {
      if (index >= size) fail(`${name}: acknowledged entry ${index} is lost, the log ends at ${size}`)
    }
    await checkEntries(log, truth, size)
    await checkSearch(log, { final, searchKeys, size })
  } finally {
    await log.close()
  }
}

/** Each entry is there, whole, and its proof leads to the root. */
async function checkEntries(log: Log, { name, kind, final }: TrueLog, size: number): Promise<void> {
  for (let from = 0; from < size; ) {
    const entries = await log.entries(from, 1024)
    if (entries.length === 0) fail(`${name}: entry ${from} cannot be read`)
    for (const { index, leaf, entrySignature } of entries) {
      const leafHash = createHash('sha256')
        .update(Buffer.from([0]))
        .update(leaf)
        .digest()
      if (final.leafHashes[index]?.equals(leafHash) !== true) fail(`${name}: entry ${index} is another`)
      if (kind !== 'rekor-v2' && entrySignature.length === 0) fail(`${name}: entry ${index} has no signature`)
    }
    from += entries.length
  }
  if (size === 0) return
  // The hashes that proofs are made of; that they lead to the root was seen when the log was opened.
  const width = size % 256 === 0 ? 256 : size % 256
  const n = Math.floor((size - 1) / 256)
  const tile = await log.tile(0, n, width)
  if (!Buffer.concat(final.leafHashes.slice(n * 256, size)).equals(tile ?? Buffer.alloc(0))) {
    fail(`${name}: tile ${n} is another`)
  }
}

/** The newest entries are found, and what the log does not have is not. */
async function checkSearch(
  log: Log,
  { final, searchKeys, size }: { final: Recount; searchKeys: readonly string[]; size: number },
): Promise<void> {
  const first = Math.max(0, size - 12)
  for (let index = first; index < Math.min(final.size, size + 6); index++) {
    const expected = index < size ? index : undefined
    const found = await log.indexOfLeafHash(final.leafHashes[index] ?? Buffer.alloc(32))
    if (found !== expected) fail(`${log.name}: entry ${index} of ${size} is found at ${found}`)
    const key = searchKeys[index]
    if (key === undefined) continue
    const hits = await log.lookup(key, { limit: 3 })
    if (hits.length !== (expected === undefined ? 0 : 1) || hits[0] !== expected) {
      fail(`${log.name}: search for entry ${index} of ${size} finds ${hits.join()}`)
    }
  }
}

/** The log's own store, on this thread: hundreds of threads would take longer to start than all else. */
function storeIn(start: WorkerStart): LogStore {
  const file = openFile(start)
  const call = <M extends Request['method']>(
    method: M,
    ...args: Extract<Request, { method: M }>['args']
  ): Promise<Awaited<ReturnType<LogStore[M]>>> => {
    const reply = file.answer({ id: 1, method, args } as Request) // the pair was typed by the parameters
    if ('error' in reply) return Promise.reject(new StoreError(reply.error.code, reply.error.message))
    return Promise.resolve(reply.value as Awaited<ReturnType<LogStore[M]>>) // it answers each method as `LogStore` says
  }
  return {
    head: () => call('head'),
    commit: (batch, expected) => call('commit', batch, expected),
    seal: (seal, signatures) => call('seal', seal, signatures),
    placesOf: (keys) => call('placesOf', keys),
    entries: (from, limit) => call('entries', from, limit),
    leafHashes: (from) => call('leafHashes', from),
    tileData: (from, count) => call('tileData', from, count),
    indexOfLeafHash: (leafHash) => call('indexOfLeafHash', leafHash),
    lookup: (key, before, limit) => call('lookup', key, before, limit),
    backupRows: (from, limit) => call('backupRows', from, limit),
    inspectHeads: () => call('inspectHeads'),
    inspectEntries: (from, limit) => call('inspectEntries', from, limit),
    inspectKeys: (table, after, limit) => call('inspectKeys', table, after, limit),
    markDelivered: (indexes) => call('markDelivered', indexes),
    check: () => call('check'),
    settle: () => call('settle'),
    close: () => Promise.resolve(file.close()),
  }
}

/** Like a signature in its form, and by nobody. */
const NOBODY = new Uint8Array(70)

/** The agent's guard on its own state, with nothing behind it that signs. */
function agentOf(state: AgentState, spkiDer: Buffer): SigningAgent {
  const keyId = createHash('sha256').update(spkiDer).digest()
  const refused = (code: HsmErrorCode) => Promise.reject(new HsmError(code, 'not_here', 'only the guard is here'))
  const guardOf = (origin: string): GuardedHead => state.guard(origin) ?? { size: 0, rootHash: emptyRoot() }
  return {
    key: (name) => Promise.resolve({ name, kind: 'P-256', spkiDer, keyId, purposes: ['treeHead'] }),
    guardedHead: ({ origin }) => Promise.resolve(guardOf(origin)),
    reportHead: () => refused('refused'),
    treeHead: ({ origin, size, rootHash, timestampMs, consistencyProof }) => {
      const { size: first, rootHash: firstRoot } = guardOf(origin)
      verifyConsistency({ first, firstRoot, second: size, secondRoot: rootHash, proof: consistencyProof })
      state.transaction(() => state.setGuard({ origin, keyId, size, rootHash, timestampMs }))
      return Promise.resolve({ note: `${origin}\n${size}\n`, signature: NOBODY })
    },
    set: () => refused('refused'),
    sct: () => refused('refused'),
    certificate: () => refused('refused'),
    timestamp: () => refused('refused'),
    tuf: () => refused('refused'),
    tufVersions: () => refused('refused'),
    account: () => refused('refused'),
    useDigests: () => refused('refused'),
    accountHead: () => refused('refused'),
    status: () => refused('unavailable'),
    close: () => Promise.resolve(),
  }
}

function fail(what: string): never {
  throw new PowerLossError(what)
}
