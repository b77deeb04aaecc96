/**
 * Runs the checks and the tiers of tests one after the other, shows them as they run, and sums up in one line. Started
 * by `scripts/test`, which has installed everything and put the right Node.js first in PATH.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'

const tiers = ['fast', 'contract', 'e2e', 'crash', 'faults', 'mutants'] as const
type Tier = (typeof tiers)[number]

interface Count {
  passed: number
  failed: number
  skipped: number
}

/** The part of vitest's JSON report that is counted. */
const report = z.object({
  numPassedTests: z.number(),
  numFailedTests: z.number(),
  numPendingTests: z.number(),
  numTodoTests: z.number(),
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      message: z.string().optional(),
      assertionResults: z.array(z.object({ fullName: z.string(), status: z.string() })),
    }),
  ),
})

const wanted = process.argv.slice(2).filter((argument): argument is Tier => tiers.some((tier) => tier === argument))
const selected = wanted.length === 0 ? [...tiers] : tiers.filter((tier) => wanted.includes(tier))
const scratch = mkdtempSync(join(tmpdir(), 'chancery-test-'))
const total: Count = { passed: 0, failed: 0, skipped: 0 }
const notGreen: string[] = []

try {
  if (selected.includes('fast')) {
    await check('types', ['node_modules/.bin/tsc', '--noEmit'])
    await check('linter', ['node_modules/.bin/oxlint', '--type-aware', '--deny-warnings'])
    await check('format', ['node_modules/.bin/biome', 'format', '.'])
  }
  for (const tier of selected) {
    if (tier === 'e2e') await check('foreign clients in their pinned versions', ['scripts/clients'])
    if (tier === 'mutants') await proveTests()
    else await runTier(tier)
  }
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
if (notGreen.length > 0) console.log(`\nNot green:\n${notGreen.map((name) => `  ${name}`).join('\n')}`)
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exitCode = total.failed === 0 && total.skipped === 0 ? 0 : 1

/** One command that counts as one test. */
async function check(name: string, command: readonly string[]): Promise<void> {
  heading(name)
  count(name, (await run(command)) === 0)
}

function count(name: string, passed: boolean): void {
  if (passed) total.passed += 1
  else {
    total.failed += 1
    notGreen.push(name)
  }
}

/** That the tests notice: seeded faults, each with the test that must go red. */
async function proveTests(): Promise<void> {
  heading('tier mutants')
  const { status, lastLine } = await runWithLastLine(['scripts/mutants'])
  const [, passed, failed, skipped] = /^(\d+) passed, (\d+) failed, (\d+) skipped$/.exec(lastLine) ?? []
  total.passed += Number(passed ?? 0)
  total.failed += Number(failed ?? 0)
  total.skipped += Number(skipped ?? 0)
  if (Number(failed ?? 0) > 0) notGreen.push(`scripts/mutants: ${failed} of the seeded faults were not noticed`)
  if (status !== 0 && !(Number(failed) > 0)) count(`scripts/mutants ended with status ${status}`, false)
}

async function runTier(tier: Exclude<Tier, 'mutants'>): Promise<void> {
  heading(`tier ${tier}`)
  const file = join(scratch, `${tier}.json`)
  const isolated = tier === 'e2e' || tier === 'crash' || tier === 'faults'
  const vitest = ['node_modules/.bin/vitest', 'run', '--project', tier, '--reporter=json', `--outputFile.json=${file}`]
  const status = await run([
    ...(isolated ? ['scripts/isolated'] : []),
    ...vitest,
    isolated ? '--reporter=verbose' : '--reporter=default',
  ])
  const outcome = readReport(file)
  if (outcome === undefined) {
    count(`tier ${tier}: ended with status ${status} and left no report`, false)
    return
  }
  total.passed += outcome.numPassedTests
  total.failed += outcome.numFailedTests
  total.skipped += outcome.numPendingTests + outcome.numTodoTests
  let explained = outcome.numFailedTests > 0
  for (const suite of outcome.testResults) {
    for (const test of suite.assertionResults) {
      if (test.status !== 'passed') notGreen.push(`${test.status}: ${suite.name}: ${test.fullName}`)
    }
    // A file that could not be loaded, or whose hooks failed, has no failed test of its own.
    if (suite.status === 'failed' && suite.assertionResults.every(({ status }) => status !== 'failed')) {
      count(`${suite.name}: ${suite.message ?? 'failed'}`, false)
      explained = true
    }
  }
  if (isolated) count(`tier ${tier}: no packet tried to leave the network namespace`, status !== 97 && status !== 98)
  if (status !== 0 && status !== 97 && !explained) count(`tier ${tier}: vitest ended with status ${status}`, false)
}

function readReport(file: string): z.infer<typeof report> | undefined {
  try {
    return report.parse(JSON.parse(readFileSync(file, 'utf8')))
  } catch {
    return undefined
  }
}

/** Runs a command with our own output and resolves with its exit status. */
async function run(command: readonly string[]): Promise<number> {
  const [file = '', ...rest] = command
  const child = spawn(file, rest, { stdio: ['ignore', 'inherit', 'inherit'] })
  return new Promise((resolve) => {
    child.once('error', (error) => {
      console.error(`${file}: ${error.message}`)
      resolve(127)
    })
    child.once('close', (status, signal) => resolve(status ?? (signal === null ? 1 : 128)))
  })
}

/** The same, with what it said last. */
async function runWithLastLine(command: readonly string[]): Promise<{ status: number; lastLine: string }> {
  const [file = '', ...rest] = command
  const child = spawn(file, rest, { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.on('data', (chunk: Buffer) => {
    process.stdout.write(chunk)
    said = (said + chunk.toString('utf8')).slice(-10_000)
  })
  const status = await new Promise<number>((resolve) => {
    child.once('close', (code) => resolve(code ?? 128))
  })
  return { status, lastLine: said.trimEnd().split('\n').at(-1) ?? '' }
}

function heading(name: string): void {
  console.log(`\n=== ${name} (${new Date().toISOString().slice(11, 19)})`)
}
