/** Metrics under the names of rekor (R pkg/api/metrics.go) and rekor-tiles, whose dashboards go on working. */
import { Counter, Histogram } from 'prom-client'

export const newEntries = new Counter({ name: 'rekor_new_entries', help: 'The total number of new log entries' })

const requestCount = new Counter({
  name: 'rekor_qps_by_api',
  help: 'Api QPS by path, method, and response code',
  labelNames: ['path', 'method', 'code'],
})

/** Ten buckets from 1 ms to 60 s, in nanoseconds: upstream's ExponentialBucketsRange. */
const NANOSECOND_BUCKETS = Array.from({ length: 10 }, (_, i) => 1e6 * 60_000 ** (i / 9))

const requestLatency = new Histogram({
  name: 'rekor_latency_by_api',
  help: 'Api Latency (in ns) by path and method',
  labelNames: ['path', 'method'],
  buckets: NANOSECOND_BUCKETS,
})

export const newHashedRekordEntries = new Counter({
  name: 'rekor_v2_new_hashedrekord_entries',
  help: 'The total number of new hashedrekord log entries',
})

export const newDsseEntries = new Counter({
  name: 'rekor_v2_new_dsse_entries',
  help: 'The total number of new dsse log entries',
})

const v2RequestCount = new Counter({
  name: 'rekor_v2_http_requests_total',
  help: 'Count all HTTP requests',
  labelNames: ['code', 'method'],
})

const v2Latency = new Histogram({
  name: 'rekor_v2_http_api_latency',
  help: 'API Latency on HTTP calls',
  labelNames: ['code', 'method'],
})

interface Done {
  readonly endpoint: string
  readonly method: string
  readonly status: number
  readonly seconds: number
}

/** `:name` parts are `{name}` in upstream's labels. */
export function observeV1({ endpoint, method, status, seconds }: Done): void {
  const path = endpoint.replaceAll(/[:*]([A-Za-z]+)/g, '{$1}')
  requestCount.inc({ path, method, code: String(status) })
  requestLatency.observe({ path, method }, seconds * 1e9)
}

export function observeV2({ method, status, seconds }: Done): void {
  const labels = { code: String(status), method: method.toLowerCase() }
  v2RequestCount.inc(labels)
  v2Latency.observe(labels, seconds)
}
