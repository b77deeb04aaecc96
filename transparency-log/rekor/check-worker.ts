/** The thread in which requests are read and their signatures verified; `checks.ts` is its other end. */
import { parentPort } from 'node:worker_threads'
import type { CheckedEntry } from './entry.ts'
import { EntryError } from './errors.ts'
import { CheckBudget } from './limits.ts'
import { rateCap } from './signature.ts'
import type { CheckReply, CheckRequest, CheckResult } from './checks.ts'
import { checkInsertion, checkRetrieval, type Retrieval } from './v1/entries.ts'
import { checkCreateEntry } from './v2/entries.ts'

/** Ed25519ph verifications a second and worker: at 1.3 ms each at most a quarter of the thread. */
const ED25519PH_PER_SECOND = 200

const ed25519ph = rateCap(ED25519PH_PER_SECOND)

const port = parentPort
if (port === null) throw new Error('check-worker.ts runs as a worker thread only')
port.on('message', (requests: readonly CheckRequest[]) => {
  // Each goes back as soon as it is done: the next check takes longer than a message.
  for (const { id, task } of requests) port.postMessage({ id, ...outcome(task) } satisfies CheckReply)
})

function outcome(task: CheckRequest['task']): CheckResult {
  try {
    return { ok: true, value: check(task) }
  } catch (error) {
    if (error instanceof EntryError) {
      const { code, message, schemaCode } = error
      return { ok: false, code, message, schemaCode }
    }
    // A defect: its text goes to the log of the main thread, not to the client.
    const message = error instanceof Error ? (error.stack ?? error.message) : String(error)
    return { ok: false, code: 'defect', message, schemaCode: undefined }
  }
}

function check(task: CheckRequest['task']): CheckedEntry | Retrieval {
  const cost = { budget: new CheckBudget(), ed25519ph }
  if (task.kind === 'v1-insertion') return checkInsertion(task.body, cost)
  if (task.kind === 'v1-retrieval') return checkRetrieval(task.body, cost)
  return checkCreateEntry(task.body, { strict: task.strict, ...cost })
}
