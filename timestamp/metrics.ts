/** Metrics under the names of sigstore's timestamp-authority where it has them. */
import { Counter, Gauge, Histogram, register, type Metric } from 'prom-client'

export const requestCount = once(
  'timestamp_authority_http_requests_total',
  (name) => new Counter({ name, help: 'Requests by status, path and method', labelNames: ['code', 'path', 'method'] }),
)

export const apiLatency = once(
  'timestamp_authority_api_latency',
  (name) =>
    new Histogram({
      name,
      help: 'Seconds from request to answer of the timestamp authority',
      labelNames: ['path', 'code'],
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
    }),
)

/** `err_too_few`: the source gave no measurement; `err_inv_time`: the clock is off by more than the accuracy. */
export const clockErrors = once(
  'timestamp_authority_ntp_errors_total',
  (name) => new Counter({ name, help: 'Failed checks of the clock', labelNames: ['reason'] }),
)

export const validDaysRemaining = once(
  'timestamp_authority_certificate_valid_days_remaining',
  (name) =>
    new Gauge({ name, help: 'Days until the first certificate of the chain expires, as of the last start or token' }),
)

/** The registry outlives a second authority in one process (tests, several listeners). */
function once<M extends Metric>(name: string, create: (name: string) => M): M {
  return (register.getSingleMetric(name) as M | undefined) ?? create(name)
}
