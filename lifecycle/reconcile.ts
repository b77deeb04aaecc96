/**
 * Compares the agent's account of key uses with what was made: every single use is looked for by the digest of what was
 * signed. A use is known if its artefact is there (a certificate, a precertificate, an SCT, a SET, an object of a
 * ceremony), if the server noted that it asked for it (timestamps, tree heads, TUF metadata; a certificate that was given
 * up), or if the agent uses keys by itself (self-tests, heads of the account). The others are named. Why so and not by
 * counting: docs/decisions/0024-reconcile.md.
 *
 * The comparing is done in a thread of its own; the caller's one only carries pages to it.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { HsmError, readUseJournal, type SigningAgent, WITNESS_SUFFIX } from '#hsm'
import { OperatorError } from '#alarms'
import type { Log, LogKind } from '#transparency-log'
import type { Comparison, ReconcileAsk } from './reconcile-worker.ts'

/** Folder of the notes of what was asked for, in the data folder. */
export const USES = 'uses'

export interface ReconcileSources {
  readonly agent: Pick<SigningAgent, 'account' | 'useDigests'>
  readonly logs: readonly {
    readonly kind: LogKind
    /** The agent's name of its key. */
    readonly key: string
    /** Of a Rekor v1 shard, 0 otherwise. */
    readonly indexOffset: number
    readonly log: Pick<Log, 'entries' | 'head' | 'logId'>
  }[]
  /** Keys that sign certificates which the CT log has. */
  readonly certificateKeys: readonly string[]
  /** Certificates that ceremonies made, DER, whatever key signed them. */
  readonly ceremony: readonly Uint8Array[]
  /** Folders of `UseJournal`. */
  readonly journal: string
  readonly onStep?: (step: ReconcileStep) => void
  readonly signal?: AbortSignal
}

export interface ReconcileStep {
  readonly what: string
  readonly done: number
  readonly of: number
}

/** What was found; JSON. */
export interface Reconciled extends Comparison {
  readonly account: { readonly lines: number; readonly headHash: string }
}

const PAGE = 256

/** What is being sealed while we look becomes known within a moment. */
const ROUNDS = 4
const ROUND_MS = 300

/** Throws `account_untold` where the agent's socket does not tell of the account. */
export async function reconcile(sources: ReconcileSources): Promise<Reconciled> {
  const thread = new Thread()
  try {
    const before = sources.logs.map(({ log }) => log.head().size)
    const account = await readAccount(sources, thread)
    await thread.ask({ do: 'certificates', certificates: sources.ceremony })
    const read = sources.logs.map(() => 0)
    for (let round = 1; ; round += 1) {
      for (const [n, { kind, key, indexOffset, log }] of sources.logs.entries()) {
        const { certificateKeys, onStep, signal } = sources
        const logId = Buffer.from(log.logId)
        for (let start = read[n] ?? 0, { size } = log.head(); start < size; ) {
          signal?.throwIfAborted()
          const entries = await log.entries(start, Math.min(PAGE, size - start))
          if (entries.length === 0) break
          const settled = before[n] ?? 0
          await thread.ask({
            do: 'entries',
            kind,
            key,
            logId,
            indexOffset,
            certificateKeys,
            settled,
            entries: [...entries],
          })
          start += entries.length
          read[n] = start
          onStep?.({ what: `log of key ${key}`, done: start, of: size })
        }
      }
      for (const [key, digests] of readUseJournal(sources.journal)) {
        await thread.ask({ do: 'noted', key: key.endsWith(WITNESS_SUFFIX) ? WITNESS_SUFFIX : key, digests })
      }
      const compared = await thread.ask({ do: 'compare' })
      if (compared === undefined) throw new TypeError('the comparing thread gave no answer')
      if (compared.unknownTotal === 0 || round === ROUNDS) return { ...compared, account }
      await delay(ROUND_MS)
    }
  } finally {
    await thread.close()
  }
}

async function readAccount(
  { agent, onStep, signal }: ReconcileSources,
  thread: Thread,
): Promise<Reconciled['account']> {
  let [lines, headHash] = [0, '0'.repeat(64)]
  try {
    for (;;) {
      signal?.throwIfAborted()
      const page = await agent.account({ from: lines + 1, limit: 1000 })
      const last = page.at(-1)
      if (last === undefined) break
      await thread.ask({ do: 'account', lines: [...page] })
      lines = last.sequence
      headHash = Buffer.from(last.hash).toString('hex')
      onStep?.({ what: 'account', done: lines, of: lines })
    }
    for (let from = 1; ; ) {
      signal?.throwIfAborted()
      const page = (await agent.useDigests({ from })).filter(({ sequence }) => sequence <= lines)
      const last = page.at(-1)
      if (last === undefined) break
      await thread.ask({ do: 'digests', digests: page })
      from = last.sequence + 1
    }
  } catch (error) {
    if (!(error instanceof HsmError) || error.code !== 'refused') throw error
    throw new OperatorError(
      'account_untold',
      `${error.message}; this needs agent.spawn, agent.socket or agent.sockets.audit`,
      {
        cause: error,
      },
    )
  }
  return { lines, headHash }
}

/** One question at a time. */
class Thread {
  readonly #worker = new Worker(new URL('./reconcile-worker.ts', import.meta.url), { env: {} })
  #waiting: PromiseWithResolvers<Comparison | undefined> | undefined

  constructor() {
    this.#worker.on('message', (answer: { result?: Comparison; error?: string }) => {
      if (answer.error === undefined) this.#waiting?.resolve(answer.result)
      else this.#waiting?.reject(new Error(answer.error))
    })
    this.#worker.on('error', (error) => this.#waiting?.reject(error))
    this.#worker.on('exit', () => this.#waiting?.reject(new Error('the comparing thread ended')))
  }

  async ask(question: ReconcileAsk): Promise<Comparison | undefined> {
    this.#waiting = Promise.withResolvers()
    this.#worker.postMessage(question, [])
    return await this.#waiting.promise
  }

  async close(): Promise<void> {
    this.#waiting?.promise.catch(() => undefined)
    await this.#worker.terminate()
  }
}
