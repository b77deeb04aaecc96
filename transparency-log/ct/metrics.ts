/** Metrics under the names of certificate-transparency-go's personality, whose dashboards go on working. */
import { Counter, Histogram } from 'prom-client'

/** Chains that got an SCT, duplicates included. */
export const submissions = new Counter({
  name: 'ct_submissions_total',
  help: 'Accepted submissions by entry type',
  labelNames: ['type'] as const,
})

const responses = new Counter({
  name: 'http_rsps',
  help: 'Number of responses by endpoint and status',
  labelNames: ['ep', 'rc'] as const,
})

const latency = new Histogram({
  name: 'http_latency',
  help: 'Latency of responses in seconds',
  labelNames: ['ep', 'rc'] as const,
})

/** Counts one finished request. */
export function observe(done: { endpoint: string; status: number; seconds: number }): void {
  const labels = { ep: done.endpoint.slice(done.endpoint.lastIndexOf('/') + 1), rc: String(done.status) }
  responses.inc(labels)
  latency.observe(labels, done.seconds)
}
