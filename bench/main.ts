/**
 * How fast the whole stack is on this machine, beside how fast it could be. In order: an installation of its own; a
 * server on it, started as an operator starts it; each request in a closed loop at each concurrency; the server stopped;
 * what no request can do without timed alone, on the same disk and token; both printed side by side. It reports and
 * never judges: a slow machine is no failure. Only a wrong answer is one.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { limitOf } from './limits.ts'
import { Loader, startEcho } from './loader.ts'
import { describeMachine } from './machine.ts'
import { gather, issuerDocuments, refuseFailures } from './material.ts'
import { type IssuerDocuments, type Primitives, timePrimitives, type Timing } from './primitives.ts'
import { cpuSeconds, mainThreadSeconds, memory } from './processes.ts'
import { type Measured, type Memory, type Report, type Result, renderReport } from './report.ts'
import { type Kind, KINDS, type Material } from './requests.ts'
import { initialise, serve, type Stack } from './stack.ts'
import { quantile, spread } from './statistics.ts'

interface Options {
  readonly seconds: number
  readonly repetitions: number
  readonly concurrency: readonly number[]
  readonly kinds: readonly Kind[]
  readonly json: boolean
  readonly folder: string
}

/** Requests made for the first, uncounted run of a kind, whose rate tells how many the counted ones need. */
const WARM_UP = 400
/** Requests made beyond what the last run's rate asks for. */
const SPARE = 1.5
const STARTS = 3

async function main(): Promise<void> {
  const options = readOptions()
  const dataDir = join(mkdtempSync(join(options.folder, 'chancery-bench-')), 'data')
  const loader = new Loader()
  try {
    const initMs = await initialise(dataDir)
    const stack = await serve(dataDir)
    let measured: StackMeasurement
    try {
      measured = await measureStack(stack, dataDir, loader, options)
    } finally {
      await stack.stop()
    }
    const startMs = [stack.startMs, ...(await restart(dataDir, STARTS - 1))]
    progress('primitives, each alone')
    const sliceMs = Math.min(200, options.seconds * 100)
    const primitives = await timePrimitives({ ...measured, dataDir, concurrency: options.concurrency, sliceMs })
    const results = await besideLimits(measured.results, primitives, loader, join(dataDir, 'echo.log'))
    const report: Report = {
      ...describeMachine(dataDir),
      seconds: options.seconds,
      repetitions: options.repetitions,
      initMs,
      startMs: spread(startMs),
      emptyNodeMs: spread(emptyNodeStarts(STARTS)),
      memory: measured.memory,
      results,
      primitives,
    }
    process.stdout.write(options.json ? `${JSON.stringify(report, undefined, 2)}\n` : renderReport(report))
  } finally {
    loader.close()
    rmSync(join(dataDir, '..'), { recursive: true, force: true })
  }
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string' },
      repetitions: { type: 'string' },
      concurrency: { type: 'string' },
      only: { type: 'string' },
      quick: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      folder: { type: 'string', default: tmpdir() },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    process.exit()
  }
  const positive = (name: string, text: string): number => {
    const value = Number(text)
    if (!(value > 0)) throw new TypeError(`--${name} is not a positive number: ${text}`)
    return value
  }
  const list = values.concurrency ?? (values.quick ? '1,16' : '1,4,16')
  const kinds = values.only?.split(',') ?? KINDS
  return {
    seconds: positive('seconds', values.seconds ?? (values.quick ? '1' : '5')),
    repetitions: Math.ceil(positive('repetitions', values.repetitions ?? '3')),
    concurrency: list.split(',').map((text) => Math.ceil(positive('concurrency', text))),
    kinds: KINDS.filter((kind) => kinds.includes(kind)),
    json: values.json,
    folder: values.folder,
  }
}

const HELP = `scripts/bench [options]: how fast the whole stack is, beside how fast it could be here

  --quick               one second a run, concurrency 1 and 16
  --seconds N           length of a run (5)
  --repetitions N       runs of each; median and range are printed (3)
  --concurrency A,B     requests under way at once (1,4,16)
  --only A,B            of ${KINDS.join(', ')}
  --folder DIR          where the temporary installation goes; its disk is what is measured (${tmpdir()})
  --json                everything, as JSON
`

/** What was learnt from the running stack. */
interface StackMeasurement {
  readonly material: Material
  readonly issuer: IssuerDocuments
  readonly results: readonly RawResult[]
  readonly memory: Memory
}

/** A result without its limit, with one of its requests for the echo. */
type RawResult = Omit<Result, 'limit' | 'ratio' | 'cpuRatio'> & { readonly request: Uint8Array }

async function measureStack(
  stack: Stack,
  dataDir: string,
  loader: Loader,
  options: Options,
): Promise<StackMeasurement> {
  const fresh = { server: memory(stack.serverPid), agent: memory(stack.agentPid) }
  let material = await gather(stack, dataDir)
  const issuer = await issuerDocuments(stack.endpoints.oidc)
  const results: RawResult[] = []
  // Reads need something to read.
  await loader.prepare('rekorV1', material, WARM_UP)
  const uploaded = await loader.run(16, 60)
  refuseFailures('rekorV1', uploaded.failures)
  material = { ...material, entries: uploaded.latenciesMs.length }
  for (const kind of options.kinds) {
    results.push(...(await measureKind(kind, { stack, material, loader, options })))
  }
  const loaded = { server: memory(stack.serverPid), agent: memory(stack.agentPid) }
  return { material, issuer, results, memory: { fresh, loaded } }
}

async function measureKind(
  kind: Kind,
  at: { stack: Stack; material: Material; loader: Loader; options: Options },
): Promise<RawResult[]> {
  const { stack, material, loader, options } = at
  const { seconds, repetitions, concurrency } = options
  const { first, requestBytes } = await loader.prepare(kind, material, WARM_UP)
  const warmUp = await loader.run(Math.max(...concurrency), seconds)
  let perSecond = warmUp.latenciesMs.length / warmUp.seconds
  const results: RawResult[] = []
  for (const connections of concurrency) {
    const runs: Measured[] = []
    const latencies: number[] = []
    let [answers, answerBytes, checked] = [0, 0, 0]
    for (let i = 0; i < repetitions; i++) {
      progress(`${kind}, concurrency ${connections}, run ${i + 1} of ${repetitions}`)
      await loader.prepare(kind, material, Math.ceil(perSecond * SPARE * seconds) + WARM_UP)
      const before = cpuOf(stack)
      const run = await loader.run(connections, seconds)
      const after = cpuOf(stack)
      refuseFailures(kind, run.failures)
      checked += (await loader.verify()).checked
      const count = run.latenciesMs.length
      perSecond = Math.max(perSecond, count / run.seconds)
      answers += count
      answerBytes += run.answerBytes
      for (const latency of run.latenciesMs) latencies.push(latency)
      const each = (name: keyof typeof before) => ((after[name] - before[name]) * 1e6) / count
      runs.push({
        perSecond: count / run.seconds,
        serverCpu: each('server'),
        serverMainThread: each('serverMain'),
        agentCpu: each('agent'),
      })
    }
    const sorted = latencies.toSorted((a, b) => a - b)
    results.push({
      kind,
      concurrency: connections,
      perSecond: spread(runs.map((run) => run.perSecond)),
      p50Ms: quantile(sorted, 0.5),
      p99Ms: quantile(sorted, 0.99),
      serverCpu: spread(runs.map((run) => run.serverCpu)),
      serverMainThread: spread(runs.map((run) => run.serverMainThread)),
      agentCpu: spread(runs.map((run) => run.agentCpu)),
      requestBytes: Math.round(requestBytes),
      answerBytes: Math.round(answerBytes / answers),
      answers,
      checked,
      request: first,
    })
  }
  return results
}

function cpuOf({ serverPid, agentPid }: Stack) {
  return { server: cpuSeconds(serverPid), serverMain: mainThreadSeconds(serverPid), agent: cpuSeconds(agentPid) }
}

async function restart(dataDir: string, times: number): Promise<number[]> {
  const startMs: number[] = []
  for (let i = 0; i < times; i++) {
    progress('start-up')
    const stack = await serve(dataDir)
    startMs.push(stack.startMs)
    await stack.stop()
  }
  return startMs
}

/** Two processes that do nothing, as ours are two. */
function emptyNodeStarts(times: number): number[] {
  return Array.from({ length: times }, () => {
    const start = performance.now()
    for (let i = 0; i < 2; i++) execFileSync(process.execPath, ['-e', '0'])
    return performance.now() - start
  })
}

/** Each result with the limit of its primitives; HTTP is timed with a request and an answer of the same size. */
async function besideLimits(
  results: readonly RawResult[],
  primitives: Primitives,
  loader: Loader,
  logFile: string,
): Promise<Result[]> {
  const echo = await startEcho(logFile)
  try {
    const beside: Result[] = []
    for (const { request, ...result } of results) {
      const { kind, concurrency, answerBytes } = result
      const timing = await timeEcho(loader, { echo, request, answerBytes, concurrency })
      const limit = limitOf(kind, concurrency, primitives, timing)
      const cpu = result.serverCpu.median + result.agentCpu.median
      beside.push({ ...result, limit, ratio: result.perSecond.median / limit.perSecond, cpuRatio: limit.cpu / cpu })
    }
    return beside
  } finally {
    echo.close()
  }
}

const ECHO_SECONDS = 0.5
const ECHO_RUNS = 3
/** More than any listener answers in that time. */
const ECHO_REQUESTS = 20_000

async function timeEcho(
  loader: Loader,
  at: { echo: { url: string; pid: number }; request: Uint8Array; answerBytes: number; concurrency: number },
): Promise<Timing> {
  const { url, pid } = at.echo
  await loader.prepareEcho(url, withTarget(at.request, `/${at.answerBytes}`), ECHO_REQUESTS)
  const runs: { elapsed: number; cpu: number }[] = []
  for (let i = 0; i <= ECHO_RUNS; i++) {
    const before = cpuSeconds(pid)
    const { latenciesMs, seconds, failures } = await loader.run(at.concurrency, ECHO_SECONDS)
    const count = latenciesMs.length
    refuseFailures('echo', failures)
    // The first run warms up.
    if (i > 0) runs.push({ elapsed: (seconds * 1e6) / count, cpu: ((cpuSeconds(pid) - before) * 1e6) / count })
  }
  return { elapsed: spread(runs.map(({ elapsed }) => elapsed)), cpu: spread(runs.map(({ cpu }) => cpu)) }
}

/** The same request for another path. */
function withTarget(request: Uint8Array, target: string): Uint8Array {
  const bytes = Buffer.from(request)
  const from = bytes.indexOf(' ') + 1
  return Buffer.concat([bytes.subarray(0, from), Buffer.from(target), bytes.subarray(bytes.indexOf(' ', from))])
}

function progress(what: string): void {
  process.stderr.write(`bench: ${what}\n`)
}

await main()
