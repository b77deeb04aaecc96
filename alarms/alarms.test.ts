import { expect, test } from 'vitest'
import { Alarms, CATALOGUE, EXIT, OperatorError } from './index.ts'

test('an alarm is told once when it is raised and once when it is cleared', () => {
  const told: string[] = []
  const alarms = new Alarms(({ code, subject }, change) => told.push(`${code} ${subject} ${change}`))
  alarms.raise('fork_refused', 'ct', 'first')
  alarms.raise('fork_refused', 'ct', 'second')
  alarms.raise('fork_refused', 'rekor-v1', 'other')
  expect(alarms.active().map(({ subject, message }) => [subject, message])).toEqual([
    ['ct', 'second'],
    ['rekor-v1', 'other'],
  ])
  alarms.set('fork_refused', 'ct', undefined)
  alarms.clear('fork_refused', 'ct')
  expect(told).toEqual(['fork_refused ct raised', 'fork_refused rekor-v1 raised', 'fork_refused ct cleared'])
})

test('an error for operators carries exit status and anchor', () => {
  const error = new OperatorError('fork_refused', 'found two roots')
  expect([error.exitStatus, error.anchor]).toEqual([EXIT.integrity, 'docs/runbook.md#fork_refused'])
})

test('every code reads like one', () => {
  expect(Object.keys(CATALOGUE).filter((code) => !/^[a-z]+(_[a-z]+)*$/.test(code))).toEqual([])
})
