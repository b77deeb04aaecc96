/** The clock that readiness, timestamps and the log share: wall time that is watched against the monotonic clock. */

/** A step of the wall clock by more than this between two looks is told. */
const toleratedStepMs = 1_000

export interface WatchedClock {
  /** Milliseconds since the epoch. */
  readonly now: () => number
  /** The last step seen, in milliseconds (wall minus monotonic), or 0. */
  readonly lastStepMs: () => number
  readonly close: () => void
}

/** Looks every second; `onStep` is called with the step in milliseconds. */
export function watchClock(onStep: (stepMs: number) => void): WatchedClock {
  let last = { wall: Date.now(), monotonic: performance.now() }
  let lastStep = 0
  const timer = setInterval(() => {
    const seen = { wall: Date.now(), monotonic: performance.now() }
    const step = seen.wall - last.wall - (seen.monotonic - last.monotonic)
    last = seen
    if (Math.abs(step) > toleratedStepMs) {
      lastStep = Math.round(step)
      onStep(lastStep)
    }
  }, 1_000)
  timer.unref()
  return { now: () => Date.now(), lastStepMs: () => lastStep, close: () => clearInterval(timer) }
}
