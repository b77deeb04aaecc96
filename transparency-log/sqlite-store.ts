/** `LogStore` on one SQLite file, which `sqlite-worker.ts` owns on a thread of its own; this side only passes messages. */
import { Worker } from 'node:worker_threads'
import type { Reply, Request, WorkerStart } from './sqlite-worker.ts'
import { type LogIdentity, type LogStore, StoreError } from './store.ts'

/**
 * Opens or makes the database of a log, in WAL mode with synchronous=FULL, and locks it for this store alone until
 * `close`. Rejects with `StoreError`: `in_use`, `newer_schema`, `other_log` (another kind, origin or key), `failed`.
 */
export async function openSqliteStore(path: string, identity: LogIdentity): Promise<LogStore> {
  const start: WorkerStart = { path, identity }
  const worker = new Worker(new URL('./sqlite-worker.ts', import.meta.url), { workerData: start })
  const calls = new Calls(worker)
  await calls.opened
  return {
    head: () => calls.call('head'),
    commit: (batch, expected) =>
      calls.call(
        'commit',
        {
          head: { ...batch.head, rootHash: compact(batch.head.rootHash) },
          entries: batch.entries.map(({ attachment, kept, ...entry }) => ({
            dedupeKey: compact(entry.dedupeKey),
            leafHash: compact(entry.leafHash),
            leaf: compact(entry.leaf),
            tileData: compact(entry.tileData),
            searchKeys: entry.searchKeys,
            ...(attachment === undefined ? {} : { attachment: compact(attachment) }),
            ...(kept === undefined ? {} : { kept }),
          })),
        },
        { ...expected, rootHash: compact(expected.rootHash) },
      ),
    seal: (seal, signatures) =>
      calls.call(
        'seal',
        { ...seal, rootHash: compact(seal.rootHash), signature: compact(seal.signature) },
        signatures.map(({ index, signature }) => ({ index, signature: compact(signature) })),
      ),
    placesOf: (keys) => calls.call('placesOf', keys.map(compact)),
    entries: (start, limit) => calls.call('entries', start, limit),
    leafHashes: (start) => calls.call('leafHashes', start),
    tileData: (start, count) => calls.call('tileData', start, count),
    indexOfLeafHash: (leafHash) => calls.call('indexOfLeafHash', compact(leafHash)),
    lookup: (key, beforeIndex, limit) => calls.call('lookup', key, beforeIndex, limit),
    backupRows: (start, limit) => calls.call('backupRows', start, limit),
    inspectHeads: () => calls.call('inspectHeads'),
    inspectEntries: (start, limit) => calls.call('inspectEntries', start, limit),
    inspectKeys: (table, after, limit) => calls.call('inspectKeys', table, after, limit),
    markDelivered: (indexes) => calls.call('markDelivered', indexes),
    check: () => calls.call('check'),
    settle: () => calls.call('settle'),
    close: () => calls.close(),
  }
}

/** A message that carries a view carries its whole buffer: a 32-byte slice of a request body would take all of it along. */
function compact(bytes: Uint8Array): Uint8Array {
  // Not `slice`, which for a Buffer is another view.
  return bytes.byteLength === bytes.buffer.byteLength ? bytes : new Uint8Array(bytes)
}

interface Waiting {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: StoreError) => void
}

/** Requests under way. When the thread dies every one of them fails, and so does each later one. */
class Calls {
  readonly opened: Promise<void>
  readonly #worker: Worker
  readonly #waiting = new Map<number, Waiting>()
  readonly #exited: Promise<void>
  /** Calls of this turn of the event loop, sent in one message: waking the thread costs more than most reads do. */
  #outgoing: Request[] = []
  #nextId = 1
  #ended: StoreError | undefined

  constructor(worker: Worker) {
    this.#worker = worker
    const opening = Promise.withResolvers<unknown>()
    this.#waiting.set(0, opening)
    this.opened = opening.promise.then(() => undefined)
    const exited = Promise.withResolvers<void>()
    this.#exited = exited.promise
    worker.on('message', (replies: readonly Reply[]) => replies.forEach((reply) => this.#settle(reply)))
    worker.on('error', (cause) => this.#end(new StoreError('failed', 'the database thread failed', { cause })))
    worker.on('exit', () => {
      this.#end(new StoreError('failed', 'the database is closed'))
      exited.resolve()
    })
  }

  call<M extends Request['method']>(
    method: M,
    ...args: Extract<Request, { method: M }>['args']
  ): Promise<Awaited<ReturnType<LogStore[M]>>> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    const id = this.#nextId++
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    this.#waiting.set(id, { resolve, reject })
    const request = { id, method, args } as Request // the pair was typed by the parameters
    if (this.#outgoing.push(request) === 1) setImmediate(() => this.#send())
    // The cast: the thread answers each method with what `LogStore` says it does.
    return promise as Promise<Awaited<ReturnType<LogStore[M]>>>
  }

  async close(): Promise<void> {
    this.#send()
    if (this.#ended === undefined) this.#worker.postMessage('close', [])
    await this.#exited
  }

  #send(): void {
    const requests = this.#outgoing
    this.#outgoing = []
    if (requests.length > 0 && this.#ended === undefined) this.#worker.postMessage(requests, [])
  }

  #settle(reply: Reply): void {
    const waiting = this.#waiting.get(reply.id)
    this.#waiting.delete(reply.id)
    if ('error' in reply) waiting?.reject(new StoreError(reply.error.code, reply.error.message))
    else waiting?.resolve(reply.value)
  }

  #end(error: StoreError): void {
    this.#ended ??= error
    for (const { reject } of this.#waiting.values()) reject(this.#ended)
    this.#waiting.clear()
  }
}
