import { expect, test } from 'vitest'
import { type Confirmation, SteadyClock } from './clock.ts'

/** Two clocks of a machine: `pass` lets time go by, `step` sets the wall clock. */
function machine() {
  const at = { wall: 1_800_000_000_000, monotonic: 5_000_000 }
  return {
    wall: () => at.wall,
    monotonic: () => at.monotonic,
    pass: (ms: number) => {
      at.wall += ms
      at.monotonic += ms
    },
    step: (ms: number) => {
      at.wall += ms
    },
  }
}

const agreeing: Confirmation = async () => undefined
const disagreeing: Confirmation = async () => 'off by an hour'

test.each([1001, -1001, 2000, -2000, 3_600_000, -3_600_000])(
  'a step of %i ms is found by the very look that follows it, and ends trust',
  (stepMs) => {
    const { step, pass, ...clocks } = machine()
    // No machine was ever started at a whole millisecond.
    step(0.25)
    const told: (string | undefined)[] = []
    const clock = new SteadyClock({ ...clocks, steadySeconds: 10, onChange: (fault) => told.push(fault) })
    pass(50_000)
    expect(clock.fault()).toBe(undefined)
    const before = clock.steady()
    step(stepMs)
    pass(1)
    expect(clock.fault()).toContain(`${stepMs} ms`)
    expect(clock.steady()).toBe(Math.floor(before) + 1)
    expect(Number.isInteger(clock.steady())).toBe(true)
    expect(clock.lastStepMs()).toBe(stepMs)
    // Stepped back it was in between: what was signed by others then is not known here.
    step(-stepMs)
    expect(clock.fault()).toContain(`${stepMs} ms`)
    expect(told).toHaveLength(1)
  },
)

test('small steps are let pass up to a second in all', () => {
  const { step, pass, ...clocks } = machine()
  const clock = new SteadyClock({ ...clocks, steadySeconds: 10 })
  step(600)
  pass(60_000)
  expect(clock.fault()).toBe(undefined)
  step(600)
  expect(clock.fault()).toContain('1200 ms')
})

test('with a confirmation nothing else ends distrust, however evenly the clock runs', async () => {
  const { step, pass, ...clocks } = machine()
  const answers: Confirmation[] = []
  const confirm: Confirmation = async () => await (answers.shift() ?? disagreeing)()
  const clock = new SteadyClock({ ...clocks, steadySeconds: 1, confirm })
  step(3_600_000)
  await clock.look()
  pass(1_000_000)
  await clock.look()
  expect(clock.fault()).not.toBe(undefined)
  answers.push(agreeing)
  await clock.look()
  expect(clock.fault()).toBe(undefined)
  expect(clock.steady()).toBe(clocks.wall())
})

test('an answer about the clock as it was before another step is no confirmation', async () => {
  const { step, ...clocks } = machine()
  const confirm: Confirmation = async () => {
    step(-3_600_000)
    return undefined
  }
  const clock = new SteadyClock({ ...clocks, steadySeconds: 1, confirm })
  step(5000)
  await clock.look()
  expect(clock.fault()).not.toBe(undefined)
})

test('without one it is trusted after it ran evenly for a while, counted from the last step', async () => {
  const { step, pass, ...clocks } = machine()
  const clock = new SteadyClock({ ...clocks, steadySeconds: 10 })
  step(-3_600_000)
  await clock.look()
  pass(9000)
  step(2000)
  clock.fault()
  pass(9000)
  await clock.look()
  expect(clock.fault()).not.toBe(undefined)
  pass(1000)
  await clock.look()
  expect(clock.fault()).toBe(undefined)
})

test('a step between two processes of one boot is found by what the first one knew', () => {
  const { step, pass, ...clocks } = machine()
  const first = new SteadyClock({ ...clocks, steadySeconds: 10 })
  const trustedOffsetMs = first.trustedOffsetMs()
  pass(1000)
  expect(new SteadyClock({ ...clocks, steadySeconds: 10, trustedOffsetMs }).fault()).toBe(undefined)
  step(7200_000)
  expect(new SteadyClock({ ...clocks, steadySeconds: 10, trustedOffsetMs }).fault()).toContain('7200000 ms')
})
