/**
 * The pool of threads that read requests and verify signatures. The event loop must stay free for proofs, tiles and
 * other callers; what is anonymous and expensive waits here, in a queue that ends.
 */
import { Worker } from 'node:worker_threads'
import { Gauge } from 'prom-client'
import type { CheckedEntry } from './entry.ts'
import { EntryError, type EntryErrorCode } from './errors.ts'
import type { Retrieval } from './v1/entries.ts'

export type CheckTask =
  | { readonly kind: 'v1-insertion'; readonly body: Uint8Array }
  | { readonly kind: 'v1-retrieval'; readonly body: Uint8Array }
  | { readonly kind: 'v2-insertion'; readonly body: Uint8Array; readonly strict: boolean }

export interface CheckRequest {
  readonly id: number
  readonly task: CheckTask
}

export type CheckResult =
  | { readonly ok: true; readonly value: CheckedEntry | Retrieval }
  | {
      readonly ok: false
      readonly code: EntryErrorCode | 'defect'
      readonly message: string
      readonly schemaCode: number | undefined
    }

export type CheckReply = CheckResult & { readonly id: number }

/** Checks of submitted requests. Every method rejects with `EntryError`; `busy` when the queue is full. */
export interface EntryChecks {
  /** `POST /api/v1/log/entries`. */
  insertion(body: Uint8Array): Promise<CheckedEntry>
  /** `POST /api/v1/log/entries/retrieve`. */
  retrieval(body: Uint8Array): Promise<Retrieval>
  /** `POST /api/v2/log/entries`. */
  creation(body: Uint8Array, options: { strict: boolean }): Promise<CheckedEntry>
  /** Ends the threads; what is under way rejects `busy`. */
  close(): Promise<void>
}

export interface EntryChecksOptions {
  /** Threads; 1 unless told, since a second core is the database's and the agent's. */
  readonly workers?: number
  /** Requests that may wait or run; about a second of work on one thread. */
  readonly queueLimit?: number
  /** Bytes of bodies that may wait or run; they are held twice while a worker has them. */
  readonly queueBytes?: number
}

const DEFAULT_QUEUE_LIMIT = 4096
const DEFAULT_QUEUE_BYTES = 64 * 1024 * 1024

const queueGauge = new Gauge({
  name: 'chancery_rekor_checks_in_flight',
  help: 'Submitted entries whose signatures are being verified or wait for it',
})

/** Starts the pool; its threads do not keep the process alive. */
export function startEntryChecks(options: EntryChecksOptions = {}): EntryChecks {
  const { workers = 1, queueLimit = DEFAULT_QUEUE_LIMIT, queueBytes = DEFAULT_QUEUE_BYTES } = options
  const threads = Array.from({ length: workers }, () => new CheckThread())
  let waiting = 0
  let waitingBytes = 0

  async function run(task: CheckTask): Promise<CheckedEntry | Retrieval> {
    const bytes = task.body.length
    if (waiting >= queueLimit || waitingBytes + bytes > queueBytes) {
      throw new EntryError('busy', 'too many entries are being checked; retry')
    }
    waiting += 1
    waitingBytes += bytes
    queueGauge.inc()
    try {
      const thread = threads.reduce((least, other) => (other.load < least.load ? other : least))
      return await thread.run(task)
    } finally {
      waiting -= 1
      waitingBytes -= bytes
      queueGauge.dec()
    }
  }

  return {
    insertion: async (body) => (await run({ kind: 'v1-insertion', body })) as CheckedEntry, // by the task's kind
    retrieval: async (body) => (await run({ kind: 'v1-retrieval', body })) as Retrieval, // by the task's kind
    creation: async (body, { strict }) => (await run({ kind: 'v2-insertion', body, strict })) as CheckedEntry, // by the task's kind
    close: async () => {
      await Promise.all(threads.map((thread) => thread.close()))
    },
  }
}

let shared: EntryChecks | undefined

/** The pool that both faces of one process use unless they are given another. */
export function sharedEntryChecks(): EntryChecks {
  shared ??= startEntryChecks()
  return shared
}

interface Waiter {
  readonly resolve: (value: CheckedEntry | Retrieval) => void
  readonly reject: (error: Error) => void
}

/** One worker with what it owes; a worker that dies is replaced at the next request. */
class CheckThread {
  #worker: Worker | undefined
  #waiters = new Map<number, Waiter>()
  /** Requests of this turn of the event loop, sent in one message: waking the thread costs more than the message. */
  #outgoing: CheckRequest[] = []
  #nextId = 0

  get load(): number {
    return this.#waiters.size
  }

  run(task: CheckTask): Promise<CheckedEntry | Retrieval> {
    this.#worker ??= this.#start()
    const worker = this.#worker
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#waiters.set(id, { resolve, reject })
      worker.ref()
      if (this.#outgoing.push({ id, task }) === 1) setImmediate(() => this.#send())
    })
  }

  #send(): void {
    const requests = this.#outgoing
    this.#outgoing = []
    // Bodies are copied, not transferred: they may be parts of the connections' buffers.
    if (requests.length > 0) this.#worker?.postMessage(requests, [])
  }

  async close(): Promise<void> {
    await this.#worker?.terminate()
  }

  #start(): Worker {
    const worker = new Worker(new URL('./check-worker.ts', import.meta.url))
    worker.unref()
    worker.on('message', (reply: CheckReply) => {
      const waiter = this.#waiters.get(reply.id)
      this.#waiters.delete(reply.id)
      if (this.#waiters.size === 0) worker.unref()
      if (waiter === undefined) return
      if (reply.ok) waiter.resolve(reply.value)
      else waiter.reject(errorOf(reply))
    })
    let cause: unknown
    worker.on('error', (error) => {
      cause = error
    })
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = undefined
      this.#outgoing = []
      const waiters = [...this.#waiters.values()]
      this.#waiters.clear()
      for (const { reject } of waiters) {
        reject(
          cause === undefined
            ? new EntryError('busy', 'the check of this entry was interrupted; retry')
            : new Error('check worker died', { cause }),
        )
      }
    })
    return worker
  }
}

function errorOf(reply: CheckReply & { readonly ok: false }): Error {
  const { code, message, schemaCode } = reply
  if (code === 'defect') return new Error(`check of an entry failed: ${message}`)
  return new EntryError(code, message, schemaCode === undefined ? {} : { schemaCode })
}
