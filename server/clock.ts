/** The clock that readiness, timestamps and the log share: wall time that is watched against the monotonic clock. */

/** A step of the wall clock by more than this between two looks is told. */
const toleratedStepMs = 1_000

export interface WatchedClock {
  /** Milliseconds since the epoch. */
  readonly now: () => number
  /** The last step seen, in milliseconds (wall minus monotonic), or 0. */
  readonly lastStepMs: () => number
  /** A step seen within the last minute, as prose; undefined while the clock runs evenly. */
  readonly fault: () => string | undefined
  readonly close: () => void
}

/** What signs times is called degraded this long after a step: somebody should look. */
const rememberedMs = 60_000

/** Looks every second; `onStep` is called with the step in milliseconds. */
export function watchClock(onStep: (stepMs: number) => void): WatchedClock {
  let last = { wall: Date.now(), monotonic: performance.now() }
  let lastStep = 0
  let stepSeenAt = Number.NEGATIVE_INFINITY
  const timer = setInterval(() => {
    const seen = { wall: Date.now(), monotonic: performance.now() }
    const step = seen.wall - last.wall - (seen.monotonic - last.monotonic)
    last = seen
    if (Math.abs(step) > toleratedStepMs) {
      lastStep = Math.round(step)
      stepSeenAt = performance.now()
      onStep(lastStep)
    }
  }, 1_000)
  timer.unref()
  const fault = () =>
    performance.now() - stepSeenAt < rememberedMs
      ? `the clock was stepped by ${lastStep} ms; check this machine's time service`
      : undefined
  return { now: () => Date.now(), lastStepMs: () => lastStep, fault, close: () => clearInterval(timer) }
}
