import { Counter, Histogram, type Metric, register } from 'prom-client'

/** Fulcio's names, so that its dashboards and alerts go on working. */
export const newCertificates = once(
  'fulcio_new_certs',
  () => new Counter({ name: 'fulcio_new_certs', help: 'Certificates issued' }),
)

export const apiLatency = once(
  'fulcio_api_latency',
  () =>
    new Histogram({
      name: 'fulcio_api_latency',
      help: 'Seconds from request to answer of the certificate authority',
      labelNames: ['code', 'method'],
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    }),
)

/** Several of the peers' servers have a metric of this name; in one process they share it. */
export const httpRequests = once(
  'http_requests_total',
  () => new Counter({ name: 'http_requests_total', help: 'Requests answered', labelNames: ['code', 'method'] }),
)

/** By what went wrong; Fulcio has nothing of the kind. */
export const refusals = once(
  'chancery_ca_refusals_total',
  () =>
    new Counter({
      name: 'chancery_ca_refusals_total',
      help: 'Certificates not issued, by reason',
      labelNames: ['reason'],
    }),
)

function once<M extends Metric>(name: string, create: () => M): M {
  return (register.getSingleMetric(name) as M | undefined) ?? create()
}
