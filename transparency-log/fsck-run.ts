import { Worker } from 'node:worker_threads'
import type { FsckReport, FsckStep } from './fsck.ts'
import type { FsckHears, FsckSays, FsckStart } from './fsck-worker.ts'
import type { Inspection } from './log.ts'
import { StoreError } from './store.ts'

export interface FsckRunOptions extends FsckStart {
  readonly onStep?: (step: FsckStep) => void
  /** Ends the check; what was checked so far stays in the progress file. */
  readonly signal?: AbortSignal
}

/**
 * Checks a log in a thread of its own, reading through `source`, which may be that of a log that is being served: only
 * messages pass through here. Rejects if it was ended or the store failed; damage is in the report.
 */
export async function checkLog(source: Inspection, options: FsckRunOptions): Promise<FsckReport> {
  const { onStep, signal, ...start } = options
  const worker = new Worker(new URL('./fsck-worker.ts', import.meta.url), { workerData: start })
  const hear = (heard: FsckHears): void => worker.postMessage(heard, [])
  try {
    return await new Promise((resolve, reject) => {
      signal?.addEventListener('abort', () => reject(new StoreError('failed', 'the check was ended')), { once: true })
      worker.on('error', reject)
      worker.on('exit', () => reject(new StoreError('failed', 'the check ended without a report')))
      worker.on('message', (said: FsckSays) => {
        if ('step' in said) onStep?.(said.step)
        else if ('report' in said) resolve(said.report)
        else if ('failed' in said) reject(new StoreError('failed', said.failed))
        else void answer(source, said).then(hear)
      })
    })
  } finally {
    await worker.terminate()
  }
}

async function answer(
  source: Inspection,
  { ask, method, args }: Extract<FsckSays, { ask: number }>,
): Promise<FsckHears> {
  try {
    const call = source[method] as (...given: readonly unknown[]) => Promise<unknown> // the pair was typed where it was asked
    return { ask, value: await call(...args) }
  } catch (error) {
    if (error instanceof StoreError) return { ask, error: { code: error.code, message: error.message } }
    throw error
  }
}
