/** What the agent's main thread tells its watchdog (watchdog.ts), in memory that both see. */

/** [0] grows while the main thread is well; [1] by how much longer than usual the call under way may take. */
export const beats = new Int32Array(new SharedArrayBuffer(8))

/** An RSA key of 4096 bits takes a software token seconds and a slow HSM minutes, on the main thread. */
const GENERATION_FACTOR = 8

/** Runs a call into the module that may take long; nothing else of the agent is served meanwhile. */
export function withPatience<T>(work: () => T): T {
  Atomics.store(beats, 1, GENERATION_FACTOR)
  try {
    return work()
  } finally {
    Atomics.store(beats, 1, 1)
    Atomics.add(beats, 0, 1)
  }
}
