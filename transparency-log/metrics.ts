import { Counter, Gauge, Histogram } from 'prom-client'

/** Leaves of the newest sealed head. */
export const treeSize = new Gauge({
  name: 'chancery_log_tree_size',
  help: 'Entries covered by the newest signed head',
  labelNames: ['log'] as const,
})

/** Entries of each commit, to see how far group commit reaches. */
export const batchEntries = new Histogram({
  name: 'chancery_log_batch_entries',
  help: 'Entries of one commit and seal',
  labelNames: ['log'] as const,
  buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256],
})

/** Seconds of `commit` (database) and `seal` (agent and database). */
export const stepSeconds = new Histogram({
  name: 'chancery_log_step_seconds',
  help: 'Time that a batch spends in each step',
  labelNames: ['log', 'step'] as const,
  buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
})

/** Failures of a batch's way, by code; the log retries by itself except after `fork_refused`. */
export const sequencerFailures = new Counter({
  name: 'chancery_log_failures_total',
  help: 'Failed commits and seals',
  labelNames: ['log', 'code'] as const,
})

/** 1 while writes are refused. */
export const logFault = new Gauge({
  name: 'chancery_log_fault',
  help: 'Whether the log refuses writes just now (1) or not (0)',
  labelNames: ['log'] as const,
})
