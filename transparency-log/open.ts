import { hash } from 'node:crypto'
import type { SigningAgent } from '#hsm'
import type { Logger } from 'pino'
import type { FaultHook } from './fault-points.ts'
import { type Log, LogError, type SignEntry } from './log.ts'
import { type LogLimits, Sequencer } from './sequencer.ts'
import { openSqliteStore } from './sqlite-store.ts'
import type { LogStore } from './store.ts'

/** Which face the log has; it is stored, and a database of another kind is refused. */
export type LogKind = 'ct' | 'rekor-v1' | 'rekor-v2'

/** What a log is opened with. */
export interface OpenLogOptions {
  /** In messages and metrics, e.g. `rekor-v1`. */
  readonly name: string
  readonly kind: LogKind
  /** What is signed; cannot change once the database exists. */
  readonly origin: string
  /** The SQLite file; made if it is not there. */
  readonly databasePath: string
  readonly agent: SigningAgent
  /** The agent's name of the log's key. */
  readonly key: string
  readonly signEntry?: SignEntry
  readonly limits?: LogLimits
  /** Milliseconds since the epoch. */
  readonly now?: () => number
  readonly logger?: Pick<Logger, 'info' | 'warn' | 'error'>
  /** Refuses every new entry as `frozen`, whatever the store says; a head that was committed before is still sealed. */
  readonly frozen?: boolean
  /**
   * SubjectPublicKeyInfo of a key that has left the agent: the log is read from its store, takes nothing, and asks the agent
   * for nothing. It needs a signed head.
   */
  readonly retiredSpkiDer?: Uint8Array
  /** Have heads signed for witnesses too, where the agent has a key for that; off unless told. */
  readonly witnessed?: boolean
  /** Why no new entry is taken just now (`unavailable`, retriable), or undefined: asked before each. */
  readonly refusal?: () => string | undefined
  /** A commit or seal begins; what is returned is called when it is over, however. */
  readonly writing?: () => () => void
  /** For crash tests; the server passes one only under the development profile. */
  readonly faultPoint?: FaultHook
}

/** An RFC 6962 monitor may distrust a head that is a day old; ten minutes is what Tessera's logs do. */
const CT_REFRESH_MS = 600_000

/**
 * Opens a log on its SQLite file and finishes what a crash left. A log that has a sealed head opens also with the HSM
 * away or after a `fork_refused`: readable, with `fault()` saying why it cannot be written. Rejects with `StoreError`
 * (the file is in use, newer, foreign), `HsmError` (the key cannot be described) or, for a log without any sealed head,
 * `LogError`.
 */
export async function openLog(options: OpenLogOptions): Promise<Log> {
  const { agent, key, origin, kind, databasePath } = options
  const spkiDer = options.retiredSpkiDer ?? (await agent.key(key)).spkiDer
  const store = await openSqliteStore(databasePath, { kind, origin, spkiDer })
  return startLog(options, options.writing === undefined ? store : timed(store, options.writing), spkiDer)
}

function timed(store: LogStore, writing: () => () => void): LogStore {
  return {
    ...store,
    commit: (batch, expected) => {
      const done = writing()
      return store.commit(batch, expected).finally(done)
    },
    seal: (seal, signatures) => {
      const done = writing()
      return store.seal(seal, signatures).finally(done)
    },
  }
}

/** A log on any store; the store is closed with the log, and when opening fails. */
export async function startLog(
  options: Omit<OpenLogOptions, 'databasePath'>,
  store: LogStore,
  spkiDer: Uint8Array,
): Promise<Log> {
  const { name, origin, kind, agent, key, signEntry, logger, faultPoint } = options
  const sequencer = new Sequencer({
    name,
    origin,
    store,
    agent,
    key,
    signEntry,
    limits: { ...(kind === 'ct' ? { refreshMs: CT_REFRESH_MS } : {}), ...options.limits },
    now: options.now ?? Date.now,
    logger,
    faultPoint,
    witnessed: options.witnessed ?? false,
    retired: options.retiredSpkiDer !== undefined,
  })
  try {
    await sequencer.start()
  } catch (error) {
    await sequencer.close()
    throw error
  }
  const { view } = sequencer
  return {
    name,
    origin,
    spkiDer,
    logId: hash('sha256', spkiDer, 'buffer'),
    add: (entry) => {
      if (options.frozen === true) {
        return Promise.reject(new LogError('frozen', 'the log is frozen; use the current one'))
      }
      const refusal = options.refusal?.()
      return refusal === undefined ? sequencer.add(entry) : Promise.reject(new LogError('unavailable', refusal))
    },
    markDelivered: (index) => sequencer.markDelivered(index),
    head: () => view.head(),
    prove: (index) => view.prove(index),
    entry: (index) => view.entry(index),
    entries: (start, limit) => view.entries(start, limit),
    indexOfLeafHash: (leafHash) => view.indexOfLeafHash(leafHash),
    // Async functions, so that `out_of_range` is a rejection as the interface says.
    inclusionProof: async (index, size) => view.inclusionProof(index, size),
    consistencyProof: async (first, second) => view.consistencyProof(first, second),
    tile: async (level, n, width) => view.tile(level, n, width),
    entryBundle: (n, width) => view.entryBundle(n, width),
    lookup: (searchKey, lookupOptions) => view.lookup(searchKey, lookupOptions),
    backupRows: (start, limit) => view.backupRows(start, limit),
    pending: () => sequencer.pending(),
    fault: () => sequencer.fault(),
    halt: (reason) => sequencer.halt(reason),
    inspection: store,
    freeze: () => sequencer.freeze(),
    hold: () => sequencer.hold(),
    retire: () => sequencer.retire(),
    resume: () => sequencer.resume(),
    close: () => sequencer.close(),
  }
}
