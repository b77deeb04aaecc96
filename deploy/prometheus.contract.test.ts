/** The alert rules as Prometheus reads them, each seen to fire, and none with a metric that nobody makes. */
import { execFileSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { CATALOGUE } from '#alarms'

const folder = join(import.meta.dirname, 'prometheus')
const text = readFileSync(join(folder, 'chancery.rules.yaml'), 'utf8')

interface Rule {
  readonly alert: string
  readonly expr: string
  readonly labels: { readonly severity: string }
  readonly annotations: { readonly summary: string; readonly runbook: string }
}
const rules = (parse(text) as { groups: { rules: Rule[] }[] }).groups.flatMap((group) => group.rules) // promtool checks its shape below

function promtool(...words: string[]): string {
  return execFileSync('promtool', words, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

test('promtool takes the rules', () => {
  expect(promtool('check', 'rules', 'chancery.rules.yaml')).toContain(`SUCCESS: ${rules.length} rules found`)
})

test('each rule fires when it must, and none for a sound server', () => {
  const tests = parse(readFileSync(join(folder, 'chancery.rules.test.yaml'), 'utf8')) as {
    tests: { alert_rule_test: { alertname: string; exp_alerts: unknown[] }[] }[]
  } // ours, and promtool checks it
  const cases = tests.tests.flatMap((each) => each.alert_rule_test)
  for (const { alert } of rules) {
    const own = cases.filter(({ alertname }) => alertname === alert)
    expect(
      [own.some(({ exp_alerts }) => exp_alerts.length > 0), own.some(({ exp_alerts }) => exp_alerts.length === 0)],
      alert,
    ).toEqual([true, true])
  }
  expect(promtool('test', 'rules', 'chancery.rules.test.yaml')).toContain('SUCCESS')
})

test.each(rules.map((rule) => [rule.alert, rule] as const))('%s leads to the runbook', (_, { labels, annotations }) => {
  const anchor = /^docs\/runbook\.md#(.+)$/.exec(annotations.runbook)?.[1] ?? ''
  expect(anchor === '{{ $labels.code }}' || Object.hasOwn(CATALOGUE, anchor), anchor).toBe(true)
  expect(['page', 'ticket']).toContain(labels.severity)
})

test('every metric of a rule is made by this program', () => {
  const root = join(import.meta.dirname, '..')
  const files = globSync('{server,cli,trust-root,transparency-log,http}/**/*.ts', { cwd: root })
  const source = files
    .filter((file) => !file.endsWith('.test.ts'))
    .map((file) => readFileSync(join(root, file), 'utf8'))
  const named = new Set(rules.flatMap(({ expr }) => expr.match(/\bchancery_[a-z_]+/g) ?? []))
  expect([...named].filter((metric) => !source.some((each) => each.includes(`'${metric}'`)))).toEqual([])
})
