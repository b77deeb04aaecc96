/**
 * Worker thread of the agent: a call into a vendor's module can hang and cannot be cancelled, so when the main thread has
 * not said for `limitMs` that it is well, the process is ended. Whoever supervises it starts a new one.
 */
import { workerData } from 'node:worker_threads'

const { beats, limitMs } = workerData as { beats: Int32Array; limitMs: number } // given by agent.ts
let seen = -1
let since = performance.now()

setInterval(() => {
  const now = Atomics.load(beats, 0)
  if (now !== seen) {
    seen = now
    since = performance.now()
  } else if (performance.now() - since > limitMs) {
    // No handler runs for this signal, and process.exit() would wait for the very call that hangs.
    process.kill(process.pid, 'SIGKILL')
  }
}, limitMs / 10)
