/** The figures, and how they are laid out for a reader. */
import type { Limit } from './limits.ts'
import type { Machine } from './machine.ts'
import type { Primitives, Timing } from './primitives.ts'
import type { Kind } from './requests.ts'
import type { Spread } from './statistics.ts'

/** One run. */
export interface Measured {
  readonly perSecond: number
  /** Microseconds of CPU a request: all threads of the server, its main thread alone, the agent. */
  readonly serverCpu: number
  readonly serverMainThread: number
  readonly agentCpu: number
}

/** All runs of one kind of request at one concurrency. */
export interface Result {
  readonly kind: Kind
  readonly concurrency: number
  readonly perSecond: Spread
  readonly p50Ms: number
  readonly p99Ms: number
  readonly serverCpu: Spread
  readonly serverMainThread: Spread
  readonly agentCpu: Spread
  readonly requestBytes: number
  readonly answerBytes: number
  /** Answers in all runs; each had the expected status. */
  readonly answers: number
  /** Of them, so many were verified: signatures, proofs, digests. */
  readonly checked: number
  readonly limit: Limit
  /** Measured rate over that of the limit. */
  readonly ratio: number
  /** CPU of the limit over the measured CPU: unlike the rate hardly disturbed by what else the machine does. */
  readonly cpuRatio: number
}

interface Footprint {
  readonly rss: number
  readonly peak: number
}

export interface Memory {
  /** As soon as the server was ready. */
  readonly fresh: { readonly server: Footprint; readonly agent: Footprint }
  /** After all runs. */
  readonly loaded: { readonly server: Footprint; readonly agent: Footprint }
}

export interface Report extends Machine {
  readonly seconds: number
  readonly repetitions: number
  readonly initMs: number
  readonly startMs: Spread
  /** Two empty Node processes, one after the other. */
  readonly emptyNodeMs: Spread
  readonly memory: Memory
  readonly results: readonly Result[]
  readonly primitives: Primitives
}

const TITLES: Readonly<Record<Kind, string>> = {
  certificate: 'certificates',
  rekorV1: 'Rekor v1 entries',
  rekorV2: 'Rekor v2 entries',
  timestamp: 'timestamps',
  proof: 'proof reads',
}

export function renderReport(report: Report): string {
  const { startMs, emptyNodeMs, memory } = report
  const { fresh, loaded } = memory
  const mib = ({ rss, peak }: Footprint) => `${(rss / 2 ** 20).toFixed(0)} (peak ${(peak / 2 ** 20).toFixed(0)})`
  return [
    `machine   ${report.machine}; data on ${report.fileSystem}; load ${report.loadBefore.toFixed(1)}`,
    `program   commit ${report.commit}; Node ${report.node}; ${report.date}`,
    `method    closed loop, ${report.repetitions} runs of ${report.seconds} s: median [least-most]; the load generator shares the cores`,
    '',
    ...table(RESULT_COLUMNS, report.results.map(resultRow)),
    '',
    'limit = 1 / sum of what the request cannot do without, each timed alone in this run (the least of several slices):',
    '',
    ...report.results.flatMap(limitLines),
    'primitives, microseconds each (tree heads and what has an @: through the agent, so many under way at once)',
    '',
    ...table(['primitive', 'elapsed', 'CPU'], primitiveRows(report.primitives)),
    '',
    `start-up  ${range(startMs, 0)} ms to ready; two empty Node processes ${range(emptyNodeMs, 0)} ms; init ${report.initMs.toFixed(0)} ms`,
    `memory    MiB resident: server ${mib(fresh.server)} when ready, ${mib(loaded.server)} after the runs;`,
    `          agent ${mib(fresh.agent)} when ready, ${mib(loaded.agent)} after`,
    `checked   ${sum(report.results.map(({ checked }) => checked))} of ${sum(report.results.map(({ answers }) => answers))} answers verified, all sound`,
    '',
  ].join('\n')
}

const RESULT_COLUMNS = [
  'request',
  'c',
  'per second',
  'limit',
  'ratio',
  'p50 ms',
  'p99 ms',
  'CPU µs: server',
  '(main thread)',
  'agent',
  'limit',
  'ratio',
]

function resultRow(result: Result): string[] {
  return [
    TITLES[result.kind],
    String(result.concurrency),
    range(result.perSecond, 0),
    result.limit.perSecond.toFixed(0),
    result.ratio.toFixed(2),
    result.p50Ms.toFixed(2),
    result.p99Ms.toFixed(2),
    range(result.serverCpu, 0),
    result.serverMainThread.median.toFixed(0),
    range(result.agentCpu, 0),
    result.limit.cpu.toFixed(0),
    result.cpuRatio.toFixed(2),
  ]
}

function limitLines({ kind, concurrency, limit }: Result): string[] {
  const terms = limit.terms.map(({ name, times, elapsed }) =>
    times === 1 ? `${name} ${elapsed.toFixed(0)}` : `${name} ${elapsed.toFixed(0)} x ${Number(times.toFixed(3))}`,
  )
  const total = `${(1e6 / limit.perSecond).toFixed(0)} µs, of CPU ${limit.cpu.toFixed(0)} µs`
  return [`  ${TITLES[kind]}, c=${concurrency}: ${total}`, `    = ${terms.join(' + ')}`, '']
}

function primitiveRows(primitives: Primitives): string[][] {
  return Object.entries(primitives).map(([name, timing]: [string, Timing]) => [
    words(name),
    range(timing.elapsed, 1),
    range(timing.cpu, 1),
  ])
}

function words(camelCase: string): string {
  return camelCase.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`).replace('@', ' @')
}

function range({ median, least, most }: Spread, digits: number): string {
  return `${median.toFixed(digits)} [${least.toFixed(digits)}-${most.toFixed(digits)}]`
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}

/** Columns as wide as their widest cell, the first to the left, the others to the right. */
function table(columns: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const lines = [columns, ...rows]
  const widths = columns.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)))
  return lines.map((line) =>
    line
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
      .trimEnd(),
  )
}
