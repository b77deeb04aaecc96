import { collectDefaultMetrics, Counter, Gauge, Histogram, register } from 'prom-client'
import type { EndpointAnswer, Section } from './endpoint.ts'
import { plainFaults } from './faults.ts'

/** From a cached proof (1 ms) to a request that waits for a slow disk and HSM. */
const BUCKETS_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

const duration = new Histogram({
  name: 'chancery_http_request_duration_seconds',
  help: 'Time from the request line to the last byte of the answer, by service and endpoint pattern.',
  labelNames: ['service', 'endpoint', 'method', 'code'] as const,
  buckets: BUCKETS_SECONDS,
})

const inFlight = new Map<object, { readonly listener: string; readonly count: () => number }>()

/** Read when it is asked for: nothing to pay for each request. */
const requestsInFlight = new Gauge({
  name: 'chancery_http_requests_in_flight',
  help: 'Requests under way, by listener.',
  labelNames: ['listener'] as const,
  collect() {
    requestsInFlight.reset()
    for (const { listener, count } of inFlight.values()) requestsInFlight.inc({ listener }, count())
  },
})

/** Shows a listener's requests under way in the metrics, until the returned function is called. */
export function countInFlight(listener: string, count: () => number): () => void {
  const key = {}
  inFlight.set(key, { listener, count })
  return () => void inFlight.delete(key)
}

/** Connections that never became a request. */
export const connectionsRefused = new Counter({
  name: 'chancery_http_connections_refused_total',
  help: 'Connections refused before a request was read: over the cap, malformed, too slow.',
  labelNames: ['listener', 'reason'] as const,
})

const KNOWN_METHODS = new Set(['GET', 'HEAD', 'POST', 'OPTIONS'])
const timers = new Map<string, ReturnType<typeof duration.labels>>()

/** Counts one finished request. Labels are bounded: the endpoint's pattern, a known method, the status that was sent. */
export function countRequest(done: {
  readonly service: string
  readonly endpoint: string
  readonly method: string
  readonly status: number
  readonly seconds: number
}): void {
  const method = KNOWN_METHODS.has(done.method) ? done.method : 'other'
  const key = `${done.service} ${done.endpoint} ${method} ${done.status}`
  let timer = timers.get(key)
  if (!timer) {
    timer = duration.labels({ service: done.service, endpoint: done.endpoint, method, code: String(done.status) })
    timers.set(key, timer)
  }
  timer.observe(done.seconds)
}

/** One service's answer to "can you do your work now"; `reason` says what is missing, for a person. */
export interface ServiceReadiness {
  readonly ready: boolean
  readonly reason?: string
}

export interface Readiness {
  /** Whether this process should get traffic. */
  readonly ready: boolean
  readonly services: Readonly<Record<string, ServiceReadiness>>
}

/** A readiness that is not known after this is "not ready": a probe must not hang with what it probes. */
const READINESS_TIMEOUT_MS = 2_000

/** Adds the process metrics (`process_*`, `nodejs_*`) to the registry; call once. */
export function collectProcessMetrics(): void {
  collectDefaultMetrics()
}

/** `/metrics` in Prometheus text form, `/livez`, and `/readyz` with one line of JSON that names what is not ready. */
export function metricsSection(options: { readonly readiness: () => Readiness | Promise<Readiness> }): Section {
  return {
    name: 'metrics',
    faults: plainFaults,
    endpoints: [
      {
        method: 'GET',
        path: '/metrics',
        limitBytes: 0,
        answer: async () => ({
          status: 200,
          headers: { 'content-type': register.contentType, 'cache-control': 'no-store' },
          body: await register.metrics(),
        }),
      },
      { method: 'GET', path: '/livez', limitBytes: 0, answer: () => json(200, { live: true }) },
      {
        method: 'GET',
        path: '/readyz',
        limitBytes: 0,
        answer: async () => {
          const found = await bounded(options.readiness)
          return json(found.ready ? 200 : 503, found)
        },
      },
    ],
  }
}

async function bounded(readiness: () => Readiness | Promise<Readiness>): Promise<Readiness> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<Readiness>((resolve) => {
    const unknown = { ready: false, services: { readiness: { ready: false, reason: 'not known in time' } } }
    timer = setTimeout(resolve, READINESS_TIMEOUT_MS, unknown)
  })
  try {
    return await Promise.race([readiness(), late])
  } finally {
    clearTimeout(timer)
  }
}

function json(status: number, value: unknown): EndpointAnswer {
  return {
    status,
    headers: { 'content-type': 'application/json', 'cache-control': 'no-store' },
    body: `${JSON.stringify(value)}\n`,
  }
}
