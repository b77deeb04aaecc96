import { expect, test } from 'vitest'
import { Alarms } from '#alarms'
import { agreementOf, type TimeSource, watchClock } from './clock.ts'

const says =
  (offsetMs: number): TimeSource =>
  async () => ({ offsetMs })
const silent: TimeSource = async () => {
  throw new Error('no answer')
}

test.each([
  ['one that agrees', [says(3)], true],
  ['one that is off', [says(-3_600_000)], false],
  ['one that is off by little more than the tolerance', [says(1001)], false],
  ['a silent one', [silent], false],
  ['two that agree', [says(3), says(-20)], true],
  ['two of two minds', [says(3), says(2000)], false],
  ['one and a silent one', [says(3), silent], false],
  ['two of three', [says(3), says(5), says(1e9)], true],
  ['one of three', [says(3), says(-1e9), silent], false],
] as const)('sources: %s', async (_, sources, agrees) => {
  expect((await agreementOf(sources)()) === undefined).toBe(agrees)
})

test('in production no time is stated before the sources agreed for the first time', async () => {
  const alarms = new Alarms()
  const options = { steadySeconds: 1, alarms }
  const unsure = await watchClock({ ...options, sources: [silent], strict: true })
  expect(unsure.fault()).toMatch(/have not been asked/)
  expect(alarms.active().map(({ code }) => code)).toContain('clock_stepped')
  unsure.close()
  const sure = await watchClock({ ...options, sources: [says(0)], strict: true })
  expect(sure.fault()).toBe(undefined)
  sure.close()
  const lax = await watchClock({ ...options, sources: [], strict: false })
  expect(lax.fault()).toBe(undefined)
  lax.close()
})
