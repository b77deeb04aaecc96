/**
 * How an entry gets into a log. Everything follows one order, and whatever a crash interrupts is continued from where it
 * stopped by the same code (`#catchUp`) when the log is opened again:
 *
 *     pool ─ take ─ dedupe ─ place ─▶ COMMIT   leaves and unsigned head durable, compare-and-swap on the old head
 *                                       │
 *                        consistency proof from the agent's guarded head
 *                                       │
 *                                     GUARD    the agent makes the new head durable, then signs it
 *                                       │
 *                              entry signatures (SET, SCT)
 *                                       │
 *                                     SEAL     signatures stored ─▶ readers see the head ─▶ callers are answered
 *
 * - A head is signed only after its leaves are durable: no power cut can leave a signed head without its tree.
 * - The guard moves before the signature leaves the agent, so the database is never behind the guard. One that is
 *   (restored from a backup, say) is `fork_refused`: read up to its sealed head, never written.
 * - Batches go one after another; the next is committed when the previous one is sealed. What arrives meanwhile makes
 *   the next batch, so batches grow with the load and an idle log answers at once. It also means that every entry the
 *   store knows when a batch is taken is sealed, so a duplicate can be answered at once.
 * - While the HSM is away a batch stays committed, and is sealed when it is back. Its callers are told `unavailable` at
 *   their deadline; sending the entry again finds it.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { type GuardedHead, HsmError, type SignedTreeHead, type SigningAgent } from '#hsm'
import { leafHash, MAX_BUNDLE_ENTRY_LENGTH, MerkleTree } from '#tlog'
import type { Logger } from 'pino'
import type { FaultHook, FaultPoint } from './fault-points.ts'
import { type Added, type EntryContent, LogError, type PendingEntry, type SealedEntry, type SignEntry } from './log.ts'
import { batchEntries, logFault, sequencerFailures, stepSeconds, treeSize } from './metrics.ts'
import { Pool, type Ticket } from './pool.ts'
import { SealedLog } from './sealed-log.ts'
import { type CommittedHead, type LogStore, StoreError } from './store.ts'

/** Bounds of one log. */
export interface LogLimits {
  /** Callers that may wait in `add` at once; more are refused `pool_full`. Default 2048: some eight full batches. */
  readonly poolSize?: number
  /** Entries of one commit and seal. Default 256: larger batches gain nothing and make the first caller wait. */
  readonly batchSize?: number
  /** How long `add` waits for its seal before it rejects `unavailable`. Default 3 s: sigstore-js gives up after five. */
  readonly addDeadlineMs?: number
  /** Entry signatures in flight at the agent at once. Default 32, so that other keys' requests find room in its queue. */
  readonly signConcurrency?: number
  /** Age at which an unchanged head is signed again with a new time; 0, the default, for never. */
  readonly refreshMs?: number
}

/** What a sequencer works with. */
export interface SequencerOptions {
  readonly name: string
  readonly origin: string
  readonly store: LogStore
  readonly agent: SigningAgent
  /** The agent's name of the log's key. */
  readonly key: string
  readonly signEntry: SignEntry | undefined
  readonly limits: LogLimits
  /** Milliseconds since the epoch. */
  readonly now: () => number
  readonly logger: Pick<Logger, 'info' | 'warn' | 'error'> | undefined
  readonly faultPoint: FaultHook | undefined
  /** Heads are signed for witnesses too. */
  readonly witnessed: boolean
  /** The key has left the agent: what is sealed is read, and nothing else happens. */
  readonly retired: boolean
}

/** An entry with its place, on its way from commit to seal. `ticket` is missing for what an earlier process committed. */
interface PlacedEntry {
  readonly index: number
  readonly timestampMs: number
  readonly leafHash: Uint8Array
  readonly content: EntryContent
  readonly ticket?: Ticket
}

/** A clock that is behind the log by more was ahead before, and has been set right: its new time is the true one. */
const SET_BACK_MS = 1_000
const RETRY_FIRST_MS = 50
/** Short beside what callers wait: a log must not be the last to notice that the HSM is back. */
const RETRY_MOST_MS = 1_000
/** Files and guard are looked at this often, so that what was done to either is told within a second. */
const WATCH_MS = 250
/** Some ten seconds: an HSM's short absence is sat out. */
const FREEZE_ATTEMPTS = 200
const HOLD_WITHIN_MS = 10_000
/** Who writes meanwhile waits for it. */
const HOLD_LOOK_MS = 5
/** Longer than a writer that has just died keeps its log at the agent. */
const TAKE_OVER_WITHIN_MS = 1_100
/** Delivered marks are collected this long, so that they share a transaction. */
const MARK_DELAY_MS = 250
/** RFC 6962 and the search tables set no bound; this one keeps an entry's row narrow. */
const MAX_SEARCH_KEYS = 128

/** The only writer of one log's store; see the head of this file. */
export class Sequencer {
  /** The readers' side, which this one moves forward. */
  readonly view: SealedLog
  readonly #options: SequencerOptions
  readonly #store: LogStore
  readonly #tree = new MerkleTree()
  readonly #pool: Pool
  /** What the store holds durably, signed or not. */
  #committed: CommittedHead = { size: 0, rootHash: new Uint8Array(32), timestampMs: 0 }
  /** True while it is unknown what the store holds: at first, and after a commit that failed half-way. */
  #stale = true
  /** The agent's last word; undefined makes `#catchUp` ask again. */
  #guard: GuardedHead | undefined
  /** The committed batch that is being sealed, as far as this process placed it. */
  #unsealed: readonly PlacedEntry[] = []
  #running: Promise<void> | undefined
  #fault: LogError | undefined
  #retryDelayMs = RETRY_FIRST_MS
  #retryTimer: NodeJS.Timeout | undefined
  readonly #refreshTimer: NodeJS.Timeout | undefined
  #watchTimer: NodeJS.Timeout | undefined
  #watching: Promise<void> | undefined
  /** Of this run of the server: the agent takes heads of one log from one writer at a time. */
  readonly #writer = randomBytes(8).toString('hex')
  /** Set while the last batches before the log's end are sealed, and for ever after. */
  #freezing = false
  #held = false
  #retired = false
  #closing = false
  /** Delivered, and not yet known to be stored so. */
  readonly #delivered = new Set<number>()
  #markTimer: NodeJS.Timeout | undefined

  constructor(options: SequencerOptions) {
    this.#options = options
    this.#retired = options.retired
    this.#store = options.store
    this.#pool = new Pool(options.limits.poolSize ?? 2048, options.limits.addDeadlineMs ?? 3_000)
    this.view = new SealedLog(options.store, this.#tree)
    const { refreshMs = 0 } = options.limits
    if (refreshMs > 0) this.#refreshTimer = setInterval(() => this.#wake(), refreshMs).unref()
  }

  /**
   * Loads the log and finishes what a crash left. With the HSM away, or with a guard that refuses, an existing log opens
   * all the same, readable and with a `fault`; a log without any sealed head rejects with `LogError`.
   */
  async start(): Promise<void> {
    await this.#load()
    if (this.#retired && this.view.newest === undefined) {
      throw new LogError('unavailable', 'a log without a signed head is nothing without its key')
    }
    this.#wake()
    await this.#running
    // Another server's last lease runs out within a second; one that lives renews it.
    const untilMs = performance.now() + TAKE_OVER_WITHIN_MS
    while (this.#fault?.code === 'origin_in_use' && performance.now() < untilMs) await delay(50)
    if (this.#fault?.code === 'origin_in_use') throw this.#fault
    if (this.view.newest === undefined) {
      throw this.#fault ?? new LogError('unavailable', 'the first head could not be signed')
    }
    this.#watchTimer = setInterval(() => this.#watchSoon(), WATCH_MS).unref()
  }

  /** After an operator has acted (a head was adopted): looks again at what had ended the writing. Resolves with what is left. */
  async resume(): Promise<LogError | undefined> {
    await this.#running
    if (this.#fault !== undefined && isFinal(this.#fault)) {
      this.#fault = undefined
      this.#guard = undefined
      this.#stale = true
      clearTimeout(this.#retryTimer)
      this.#retryTimer = undefined
      this.#wake()
      await this.#running
    }
    return this.#fault
  }

  /**
   * Ends the log: takes no entry any more, seals what was accepted, and has its last head signed as such. Resolves once
   * that is durable; asked again it resolves with the same head. Rejects with `LogError` if it could not be signed: then
   * nothing new is taken all the same, and freezing may be tried again.
   */
  async freeze(): Promise<void> {
    this.#freezing = true
    if (this.#retired && this.view.newest?.frozenAtMs === undefined)
      throw new LogError('unavailable', 'the key of the log is retired: it signs no last head')
    for (let attempt = 0; this.view.newest?.frozenAtMs === undefined; attempt++) {
      if (this.#fault !== undefined && isFinal(this.#fault)) throw this.#fault
      if (attempt > FREEZE_ATTEMPTS) throw this.#fault ?? new LogError('unavailable', 'the last head was not signed')
      this.#wake()
      await this.#running
      if (this.view.newest?.frozenAtMs === undefined) await delay(RETRY_FIRST_MS)
    }
  }

  /** See `Log.hold`. */
  async hold(): Promise<() => void> {
    this.#held = true
    const untilMs = performance.now() + HOLD_WITHIN_MS
    while (this.#pool.waiting > 0 || this.#stale || this.view.newest?.size !== this.#committed.size) {
      if (this.#fault !== undefined && isFinal(this.#fault)) break
      if (performance.now() > untilMs) {
        this.#held = false
        throw this.#fault ?? new LogError('unavailable', 'what was accepted is not sealed yet')
      }
      this.#wake()
      await delay(HOLD_LOOK_MS)
    }
    return () => {
      this.#held = false
    }
  }

  /** See `Log.retire`. */
  retire(): void {
    this.#retired = true
    this.#freezing = true
    clearTimeout(this.#retryTimer)
    this.#retryTimer = undefined
    if (this.#fault !== undefined && !isFinal(this.#fault)) {
      this.#fault = undefined
      logFault.set({ log: this.#options.name }, 0)
    }
    this.#abandon(new LogError('frozen', 'the log is frozen; use the current one'))
  }

  /** See `Log.add`. */
  async add(entry: PendingEntry): Promise<Added> {
    if (this.#closing) throw new LogError('unavailable', 'the log is being closed')
    if (this.#freezing || this.#held || this.#retired || this.view.newest?.frozenAtMs !== undefined) {
      throw new LogError('frozen', 'the log is frozen; use the current one')
    }
    if (this.#fault !== undefined && isFinal(this.#fault)) throw this.#fault
    if (entry.dedupeKey.length !== 32) throw new LogError('invalid_entry', 'a dedupe key has 32 bytes')
    const answer = this.#pool.join(entry)
    this.#wake()
    return answer
  }

  /** See `Log.pending`. */
  pending(): number {
    return this.#pool.waiting
  }

  fault(): { code: LogError['code']; message: string } | undefined {
    return this.#fault === undefined ? undefined : { code: this.#fault.code, message: this.#fault.message }
  }

  /** See `Log.halt`. What is being sealed just now may still be; nobody who waits is told so. */
  halt(reason: LogError): void {
    if (this.#fault !== undefined && isFinal(this.#fault)) return
    this.#failed(reason)
  }

  markDelivered(index: number): void {
    this.#delivered.add(index)
    this.#markTimer ??= setTimeout(() => void this.#storeMarks(), MARK_DELAY_MS).unref()
  }

  /** Answers what was accepted (with the HSM away: refuses it), stores the delivered marks and closes the store. */
  async close(): Promise<void> {
    this.#closing = true
    clearInterval(this.#refreshTimer)
    clearInterval(this.#watchTimer)
    await this.#watching
    while (this.#running !== undefined) await this.#running
    clearTimeout(this.#retryTimer)
    this.#abandon(new LogError('unavailable', 'the log was closed before the entry was sealed'))
    await this.#storeMarks()
    const { agent, key, origin } = this.#options
    // The next server need not wait for the lease to run out. An agent that is away does not keep this one from ending.
    if (!this.#retired)
      await Promise.race([agent.guardedHead({ key, origin, writer: this.#writer, release: true }), delay(200)]).catch(
        () => undefined,
      )
    await this.#store.close()
  }

  #watchSoon(): void {
    this.#watching ??= this.#watch().finally(() => {
      this.#watching = undefined
    })
  }

  /** Between batches: the store's files are still its own, and the agent remembers what it signed. */
  async #watch(): Promise<void> {
    if (this.#closing || (this.#fault !== undefined && isFinal(this.#fault))) return
    try {
      await this.#store.check()
    } catch (error) {
      if (error instanceof StoreError && error.code === 'replaced') this.#failed(error)
      return
    }
    if (this.#fault !== undefined || this.#retired) return
    const { agent, key, origin } = this.#options
    const before = this.#guard
    let guard: GuardedHead
    try {
      guard = await agent.guardedHead({ key, origin, writer: this.#writer })
    } catch (error) {
      // An agent that is away is told of by whoever needs it; another writer is news.
      if (error instanceof HsmError && error.reason === 'origin_in_use') this.#failed(error)
      return
    }
    // A batch under way moves the guard; it looks for itself.
    if (this.#running !== undefined || this.#guard !== before || before === undefined) return
    try {
      this.#checkGuard(guard)
    } catch (error) {
      this.#failed(error)
    }
  }

  /** Starts the run, unless one is on its way or a failure's pause lasts. Waits a turn so that one turn's adds share a batch. */
  #wake(): void {
    if (this.#running !== undefined || this.#retryTimer !== undefined || this.#retired) return
    if (this.#fault !== undefined && isFinal(this.#fault)) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#running = promise
    setImmediate(() => {
      void this.#run().finally(() => {
        this.#running = undefined
        resolve()
        // What joined after the last batch was taken.
        if (this.#pool.queued > 0) this.#wake()
      })
    })
  }

  async #run(): Promise<void> {
    try {
      await this.#catchUp()
      this.#recovered()
      const { batchSize = 256 } = this.#options.limits
      for (let taken = this.#pool.take(batchSize); taken.length > 0; taken = this.#pool.take(batchSize)) {
        await this.#sequence(taken)
      }
      // What was accepted before is in; nothing joins any more.
      if (this.#freezing) await this.#catchUp()
    } catch (error) {
      this.#failed(error)
    }
  }

  /** Brings seal up to commit: after a crash, after the HSM was away, or because the head has grown old. */
  async #catchUp(): Promise<void> {
    if (this.#stale) await this.#load()
    // Asked even if there is nothing to sign: an old database looks complete in itself.
    if (this.#guard === undefined) this.#guard = await this.#checkedGuard()
    const sealed = this.view.newest
    const { refreshMs = 0 } = this.#options.limits
    const old = refreshMs > 0 && sealed !== undefined && this.#options.now() - sealed.timestampMs >= refreshMs
    // The line for witnesses is not stored; the same head may be signed once more.
    const unwitnessed = this.#options.witnessed && sealed?.witnessNote === undefined
    if (sealed?.frozenAtMs !== undefined) return
    const last = this.#freezing && this.#pool.queued === 0
    if (sealed !== undefined && sealed.size === this.#committed.size && !old && !unwitnessed && !last) return
    // What is signed must not rest on a cache that the disk has not caught up with.
    await this.#store.settle()
    await this.#seal()
  }

  /** One batch, from taken to answered. */
  async #sequence(taken: readonly Ticket[]): Promise<void> {
    try {
      const fresh = await this.#answerDuplicates(taken)
      const placed = this.#place(fresh)
      if (placed.length === 0) return
      await this.#reach('before-commit')
      await this.#commit(placed)
    } catch (error) {
      // Perhaps durable, perhaps not; an entry that is will be found as duplicate.
      const refusal = unavailable('the entry could not be stored', error)
      for (const ticket of taken) this.#pool.refuse(ticket, refusal)
      throw error
    }
    await this.#reach('after-commit')
    await this.#seal()
  }

  async #answerDuplicates(taken: readonly Ticket[]): Promise<Ticket[]> {
    const places = await this.#store.placesOf(taken.map((ticket) => ticket.entry.dedupeKey))
    return taken.filter((ticket, at) => {
      const place = places[at]
      if (place === undefined) return true
      const { index, timestampMs } = place
      const delivered = place.delivered || this.#delivered.has(index)
      this.#pool.settle(ticket, { index, timestampMs, leafHash: this.#tree.leaf(index), duplicate: true, delivered })
      return false
    })
  }

  /** Gives each entry its index and the batch its time; an entry that cannot be stored is refused and takes no index. */
  #place(fresh: readonly Ticket[]): PlacedEntry[] {
    const timestampMs = this.#entryTime()
    const placed: PlacedEntry[] = []
    for (const ticket of fresh) {
      const index = this.#committed.size + placed.length
      try {
        const content = ticket.entry.at(index, timestampMs)
        checkContent(content)
        placed.push({ index, timestampMs, leafHash: leafHash(content.leaf), content, ticket })
      } catch (cause) {
        const refusal =
          cause instanceof LogError ? cause : new LogError('invalid_entry', 'the entry is not valid', { cause })
        this.#pool.refuse(ticket, refusal)
      }
    }
    return placed
  }

  async #commit(placed: readonly PlacedEntry[]): Promise<void> {
    const { name } = this.#options
    const stop = stepSeconds.startTimer({ log: name, step: 'commit' })
    const before = this.#committed
    // Until the store has answered, only it knows what it holds; `#load` would find out.
    this.#stale = true
    for (const entry of placed) this.#tree.append(entry.leafHash)
    const head = {
      size: this.#tree.size,
      rootHash: this.#tree.root(),
      timestampMs: placed[0]?.timestampMs ?? before.timestampMs,
    }
    const entries = placed.map(({ ticket, leafHash, content }) => ({
      ...content,
      leafHash,
      dedupeKey: ticket?.entry.dedupeKey ?? leafHash,
    }))
    const outcome = await this.#store.commit({ head, entries }, before)
    if (outcome === 'conflict') {
      throw new StoreError('failed', `the stored head is not the one of size ${before.size}: something else wrote here`)
    }
    this.#stale = false
    this.#committed = head
    this.#unsealed = placed
    batchEntries.observe({ log: name }, placed.length)
    stop()
  }

  /** Has the committed head guarded and signed, signs its new entries, stores it all, shows it, answers. */
  async #seal(): Promise<void> {
    const { name } = this.#options
    const stop = stepSeconds.startTimer({ log: name, step: 'seal' })
    const { size, rootHash } = this.#committed
    const timestampMs = this.#time()
    const signed = await this.#guardAndSign(timestampMs)
    await this.#reach('after-guard')
    const entries = await this.#signEntries()
    await this.#reach('after-entry-signatures')
    const { note, signature, witnessNote = '', frozenAtMs } = signed
    const head = {
      size,
      rootHash,
      timestampMs,
      note,
      signature,
      ...(frozenAtMs === undefined ? {} : { frozenAtMs }),
    }
    const signatures = entries.filter(({ entrySignature }) => entrySignature.length > 0)
    const outcome = await this.#store.seal(
      head,
      signatures.map(({ index, entrySignature }) => ({ index, signature: entrySignature })),
    )
    if (outcome === 'conflict') {
      this.#stale = true
      throw new StoreError('failed', `the stored head is not the one of size ${size}: something else wrote here`)
    }
    await this.#reach('after-seal')
    const placed = this.#unsealed
    this.#unsealed = []
    this.view.publish({ ...head, witnessNote }, entries)
    treeSize.set({ log: name }, size)
    for (const { ticket, index, timestampMs: addedMs, leafHash } of placed) {
      if (ticket === undefined) continue
      this.#pool.settle(ticket, { index, timestampMs: addedMs, leafHash, duplicate: false, delivered: false })
    }
    stop()
  }

  async #guardAndSign(timestampMs: number): Promise<SignedTreeHead> {
    const { agent, key, origin, witnessed } = this.#options
    const { size, rootHash } = this.#committed
    const guard = this.#guard ?? (await this.#checkedGuard())
    // Should the reply be lost, the guard may have moved all the same: ask again next time.
    this.#guard = undefined
    const consistencyProof = this.#tree.consistencyProof(guard.size, size)
    // A log whose last head was signed before a crash: it is that head that must be had again.
    const freeze = guard.frozenAtMs !== undefined || (this.#freezing && this.#pool.queued === 0)
    const signed = await agent.treeHead({
      key,
      origin,
      size,
      rootHash,
      timestampMs,
      consistencyProof,
      witnessed,
      writer: this.#writer,
      freeze,
    })
    this.#guard = { size, rootHash }
    return signed
  }

  /** The agent's guarded head, which must be a prefix of what is committed: a database is never behind its guard. */
  async #checkedGuard(): Promise<GuardedHead> {
    const { agent, key, origin } = this.#options
    const guard = await agent.guardedHead({ key, origin, writer: this.#writer })
    this.#checkGuard(guard)
    return guard
  }

  #checkGuard(guard: GuardedHead): void {
    const { origin } = this.#options
    const { size } = this.#committed
    if (guard.size > size) {
      throw forkRefused(
        `the agent signed a head of size ${guard.size} for ${origin}, but this database ends at ${size}: it is older than the log`,
      )
    }
    const found = Buffer.from(this.#tree.root(guard.size))
    if (found.compare(guard.rootHash) !== 0) {
      const signed = Buffer.from(guard.rootHash).toString('hex')
      throw forkRefused(
        `at size ${guard.size} of ${origin} the agent signed root ${signed}, but this database has ${found.toString('hex')}`,
      )
    }
    const sealed = this.view.newest
    if (sealed !== undefined && guard.size < sealed.size) {
      const signed = `this database has the agent's signature for size ${sealed.size} of ${origin}`
      throw new LogError(
        'guard_behind',
        `${signed}, but the agent remembers size ${guard.size}: its state is lost or older than the log. ` +
          'The log is read-only. Put the newest state of the agent back, or check the log and have its head adopted: chancery log adopt',
      )
    }
  }

  /** The entries above the sealed head with their own signatures, which are made side by side. */
  async #signEntries(): Promise<SealedEntry[]> {
    const { signEntry, limits } = this.#options
    const from = this.view.newest?.size ?? 0
    const complete = this.#unsealed.length === this.#committed.size - from
    if (!complete && signEntry === undefined) return []
    const pending = complete ? this.#unsealed : await this.#reload(from)
    const sealed: SealedEntry[] = []
    let next = 0
    const signNext = async (): Promise<void> => {
      for (let entry = pending[next++]; entry !== undefined; entry = pending[next++]) {
        const { index, timestampMs, leafHash, content } = entry
        const entrySignature = (await signEntry?.(content, index, timestampMs)) ?? new Uint8Array(0)
        const { leaf, tileData, attachment } = content
        sealed.push({
          index,
          timestampMs,
          leaf,
          leafHash,
          tileData,
          entrySignature,
          ...(attachment === undefined ? {} : { attachment }),
        })
      }
    }
    const lanes = signEntry === undefined ? 1 : Math.min(limits.signConcurrency ?? 32, pending.length)
    // All lanes end before the failure of one is reported: a retry must not run beside them.
    const results = await Promise.allSettled(Array.from({ length: lanes }, signNext))
    for (const result of results) if (result.status === 'rejected') throw result.reason
    return sealed
  }

  /** What an earlier process committed and did not seal. It kept search keys as hashes only, which no signature needs. */
  async #reload(from: number): Promise<PlacedEntry[]> {
    const placed: PlacedEntry[] = []
    while (from + placed.length < this.#committed.size) {
      const stored = await this.#store.entries(from + placed.length, 256)
      if (stored.length === 0) throw new StoreError('damaged', `entry ${from + placed.length} is missing`)
      for (const { index, timestampMs, leaf, tileData, attachment } of stored) {
        const content = { leaf, tileData, searchKeys: [], ...(attachment === undefined ? {} : { attachment }) }
        placed.push({ index, timestampMs, leafHash: this.#tree.leaf(index), content })
      }
    }
    return placed
  }

  /** Reads heads and leaf hashes and recomputes the root: damage must not be discovered by the agent. */
  async #load(): Promise<void> {
    const { committed, sealed } = await this.#store.head()
    this.#tree.truncate(Math.min(this.#tree.size, this.#committed.size, committed.size))
    // Whole rows of 256 are read, so begin at the row that holds the first missing leaf.
    let start = this.#tree.size - (this.#tree.size % 256)
    while (this.#tree.size < committed.size) {
      const hashes = await this.#store.leafHashes(start)
      if (hashes.length <= (this.#tree.size - start) * 32) {
        throw new StoreError('damaged', `the leaf hashes end at ${this.#tree.size} of ${committed.size}`)
      }
      for (let at = (this.#tree.size - start) * 32; at < hashes.length; at += 32) {
        this.#tree.append(hashes.subarray(at, at + 32))
      }
      start += 256
    }
    if (this.#tree.size !== committed.size || Buffer.compare(this.#tree.root(), committed.rootHash) !== 0) {
      throw new StoreError('damaged', `the leaves do not lead to the stored root of size ${committed.size}`)
    }
    if (sealed !== undefined && sealed.size > committed.size) {
      throw new StoreError('damaged', `the sealed head ${sealed.size} is past the committed one`)
    }
    if (committed.size !== this.#committed.size) this.#unsealed = []
    this.#committed = committed
    this.#stale = false
    if (sealed !== undefined && this.view.newest === undefined) this.view.publish(sealed, [])
  }

  /** Now, but never before the newest time that this log has shown, whatever the clock does. */
  #time(): number {
    return Math.max(this.#options.now(), this.#committed.timestampMs, this.view.newest?.timestampMs ?? 0)
  }

  /** The same for entries, but for a clock that was set back by more than it wavers: they state the time as it is now. */
  #entryTime(): number {
    const [now, time] = [this.#options.now(), this.#time()]
    return time - now > SET_BACK_MS ? now : time
  }

  async #reach(point: FaultPoint): Promise<void> {
    // A head signed only for its time, or the first one of an empty log, is no batch.
    if (point === 'before-commit' || this.#committed.size > (this.view.newest?.size ?? 0)) {
      await this.#options.faultPoint?.(point)
    }
  }

  #recovered(): void {
    this.#retryDelayMs = RETRY_FIRST_MS
    if (this.#fault === undefined || isFinal(this.#fault)) return
    this.#fault = undefined
    logFault.set({ log: this.#options.name }, 0)
    this.#options.logger?.info({ log: this.#options.name, size: this.#committed.size }, 'log writes again')
  }

  /** Decides between trying again soon and never again; says so once. */
  #failed(error: unknown): void {
    const { name, logger } = this.#options
    // What is final was said, and a later failure does not make it less so.
    if (this.#fault !== undefined && isFinal(this.#fault)) return this.#abandon(this.#fault)
    const fault = faultOf(error)
    // What was under way when the key was retired has no consequence any more.
    if (this.#retired && !isFinal(fault)) return this.#abandon(fault)
    sequencerFailures.inc({ log: name, code: fault.code })
    logFault.set({ log: name }, 1)
    const news = this.#fault?.message !== fault.message
    this.#fault = fault
    if (isFinal(fault)) {
      logger?.error({ log: name, err: error }, 'log is read-only')
      this.#abandon(fault)
      return
    }
    if (news) logger?.warn({ log: name, err: error }, 'log cannot be written, trying again')
    if (this.#closing) {
      this.#abandon(fault)
      return
    }
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined
      this.#wake()
    }, this.#retryDelayMs).unref()
    this.#retryDelayMs = Math.min(2 * this.#retryDelayMs, RETRY_MOST_MS)
  }

  /** Refuses everybody who waits. */
  #abandon(error: LogError): void {
    for (const { ticket } of this.#unsealed) if (ticket !== undefined) this.#pool.refuse(ticket, error)
    this.#pool.refuseQueued(error)
  }

  async #storeMarks(): Promise<void> {
    clearTimeout(this.#markTimer)
    this.#markTimer = undefined
    const marks = [...this.#delivered]
    if (marks.length === 0) return
    try {
      await this.#store.markDelivered(marks)
      for (const index of marks) this.#delivered.delete(index)
    } catch (err) {
      // Lost marks only make a duplicate look like a retry; they are tried again with the next.
      this.#options.logger?.warn({ log: this.#options.name, err }, 'delivered marks were not stored')
    }
  }
}

function checkContent(content: EntryContent): void {
  const { length } = content.tileData
  if (length > MAX_BUNDLE_ENTRY_LENGTH) {
    throw new LogError(
      'invalid_entry',
      `the entry has ${length} bytes, at most ${MAX_BUNDLE_ENTRY_LENGTH} can be logged`,
    )
  }
  if (content.searchKeys.length > MAX_SEARCH_KEYS) {
    throw new LogError(
      'invalid_entry',
      `the entry has ${content.searchKeys.length} search keys, at most ${MAX_SEARCH_KEYS}`,
    )
  }
}

/** Messages of `fork_refused` say what was found and what to do. */
function forkRefused(found: string, options?: ErrorOptions): LogError {
  return new LogError(
    'fork_refused',
    `${found}. The log is read-only up to its sealed head. Put the newest database back (never an older agent state) and restart, or start a new shard: docs/runbook.md`,
    options,
  )
}

function unavailable(what: string, cause: unknown): LogError {
  return new LogError('unavailable', what, { cause })
}

const FINAL: ReadonlySet<string> = new Set([
  'fork_refused',
  'anchor_ahead',
  'anchor_disagrees',
  'guard_behind',
  'store_replaced',
  'disk_io_error',
] satisfies LogError['code'][])

/** No retry can help: two histories, or the traces of them; or a disk that nobody knows the content of. */
function isFinal({ code }: LogError): boolean {
  return FINAL.has(code)
}

/** What a failure means for the callers: `fork_refused` ends writing, everything else is tried again. */
function faultOf(error: unknown): LogError {
  if (error instanceof LogError) return error
  if (error instanceof HsmError) {
    // Another latch (a wrong PIN, a key) says nothing about this log, and is lifted without a restart of ours.
    if (error.reason === 'fork_refused') {
      return forkRefused(`the agent refuses to sign for this log: ${error.message}`, { cause: error })
    }
    if (error.reason === 'origin_in_use') {
      return new LogError('origin_in_use', `${error.message}. Stop one of the two`, { cause: error })
    }
    return unavailable(`the HSM agent does not sign just now (${error.code}: ${error.reason})`, error)
  }
  if (error instanceof StoreError) {
    if (error.code === 'damaged') return forkRefused(`the database is damaged: ${error.message}`, { cause: error })
    if (error.code === 'disk_io_error') return new LogError('disk_io_error', error.message, { cause: error })
    if (error.code === 'replaced') {
      return new LogError(
        'store_replaced',
        `${error.message}. Nothing is written any more; the last acknowledged entries may be in the open file alone. ` +
          'Before anything else read docs/runbook.md',
        { cause: error },
      )
    }
    return unavailable(`the log's database failed (${error.code})`, error)
  }
  return unavailable('the log failed', error)
}
