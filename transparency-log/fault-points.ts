/** The places between two steps of `sequencer.ts` where a test may stop the process; the crash tables have a row for each. */
export const FAULT_POINTS = [
  /** The batch has its places, nothing is written. */
  'before-commit',
  /** Leaves and unsigned head are durable; the agent knows nothing. */
  'after-commit',
  /** The agent's guard holds the new head and has signed it; the store has no signature. */
  'after-guard',
  /** SETs or SCTs are made but not stored. */
  'after-entry-signatures',
  /** Everything is stored; nobody was answered. */
  'after-seal',
] as const

/** One of `FAULT_POINTS`. */
export type FaultPoint = (typeof FAULT_POINTS)[number]

/** Called at each fault point of a batch that adds entries; production passes none. */
export type FaultHook = (point: FaultPoint) => void | Promise<void>

/**
 * A hook that ends the process with SIGKILL at this point: no handler runs, nothing is flushed. The server passes it on
 * only under the development profile.
 */
export function killAt(fatal: FaultPoint): FaultHook {
  return (point) => {
    if (point === fatal) process.kill(process.pid, 'SIGKILL')
  }
}
