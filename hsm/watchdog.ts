/**
 * Worker thread of the agent: a call into a vendor's module can hang and cannot be cancelled, so when the main thread has
 * not said for `limitMs` that it is well, the process is ended. Whoever supervises it starts a new one.
 */
import { writeSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'

const { beats, limitMs } = workerData as { beats: Int32Array; limitMs: number } // given by agent.ts
let seen = -1
let since = performance.now()

setInterval(() => {
  const now = Atomics.load(beats, 0)
  if (now !== seen) {
    seen = now
    since = performance.now()
  } else if (performance.now() - since > limitMs * Math.max(1, Atomics.load(beats, 1))) {
    const msg = `the PKCS#11 module has not answered for ${Math.round((performance.now() - since) / 1000)} seconds; the agent is ended`
    // Written from here: the main thread, which carries `process.stderr`, may be the one that hangs.
    writeSync(2, `${JSON.stringify({ level: 50, time: Date.now(), fatal: true, code: 'module_hangs', msg })}\n`)
    // No handler runs for this signal, and process.exit() would wait for the very call that hangs.
    process.kill(process.pid, 'SIGKILL')
  }
}, limitMs / 10)

// Only from here on may the main thread call into the module: nobody would watch a call that hangs before.
parentPort?.postMessage('watching', [])
