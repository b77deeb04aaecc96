/**
 * What alert rules look at (deploy/prometheus/chancery.rules.yaml): the same picture as `chancery status`, as numbers.
 * Read when it is asked for, once a scrape. Sizes of trees, expiry of TUF roles and restarts of the agent are counted
 * beside the code that knows them.
 */
import { Gauge } from 'prom-client'
import type { Parts } from './main.ts'
import { type Status, statusOf } from './status.ts'

type Sample = readonly [labels: Readonly<Record<string, string>>, value: number]

interface Row {
  readonly name: string
  readonly help: string
  readonly labels: readonly string[]
  readonly samples: (status: Status, nowMs: number) => readonly Sample[]
}

const seconds = (iso: string): number => Date.parse(iso) / 1000
const flag = (holds: boolean): number => (holds ? 1 : 0)

const ROWS: readonly Row[] = [
  {
    name: 'chancery_alarm',
    help: '1 for each alarm that is on; code leads to docs/runbook.md',
    labels: ['code', 'subject', 'severity'],
    samples: ({ alarms }) => alarms.map(({ code, subject, severity }) => [{ code, subject, severity }, 1]),
  },
  {
    name: 'chancery_service_ready',
    help: '1 if the service does all of its work, 0 if it serves readers only',
    labels: ['service'],
    samples: ({ services }) => services.map(({ service, state }) => [{ service }, flag(state === 'ready')]),
  },
  {
    name: 'chancery_log_guard_size',
    help: "Entries of the newest head that the agent's guard remembers",
    labels: ['log'],
    samples: ({ logs }) =>
      logs.flatMap(({ name, guardedSize }) => (guardedSize === undefined ? [] : [[{ log: name }, guardedSize]])),
  },
  {
    name: 'chancery_log_guard_latched',
    help: '1 if the agent signs no head of this log any more',
    labels: ['log'],
    samples: ({ logs }) => logs.map(({ name, guardLatched }) => [{ log: name }, flag(guardLatched !== '')]),
  },
  {
    name: 'chancery_log_checkpoint_age_seconds',
    help: 'Time since the newest head was signed; without new entries only a CT log signs again',
    labels: ['log', 'kind'],
    samples: ({ logs }, nowMs) =>
      logs.map(({ name, kind, sealedAt }) => [{ log: name, kind }, nowMs / 1000 - seconds(sealedAt)]),
  },
  {
    name: 'chancery_log_pending',
    help: 'Callers that wait for their entry to be sealed',
    labels: ['log'],
    samples: ({ logs }) => logs.map(({ name, pending }) => [{ log: name }, pending]),
  },
  {
    name: 'chancery_anchor_lag_entries',
    help: 'Entries that the log has and the newest head at the anchor has not',
    labels: ['anchor', 'log'],
    samples: ({ anchors, logs }) =>
      anchors.map(({ anchor, log, size = 0 }) => {
        const head = logs.find(({ name }) => name === log)?.size ?? 0
        return [{ anchor, log }, Math.max(0, head - size)]
      }),
  },
  {
    name: 'chancery_certificate_expiry_timestamp_seconds',
    help: 'When a certificate ends, in Unix seconds',
    labels: ['name'],
    samples: ({ certificates }) => certificates.map(({ name, notAfter }) => [{ name }, seconds(notAfter)]),
  },
  {
    name: 'chancery_disk_free_bytes',
    help: 'Room on a volume that is written; 0 if it is gone',
    labels: ['path'],
    samples: ({ disk }) => disk.map(({ path, freeBytes }) => [{ path }, freeBytes]),
  },
  {
    name: 'chancery_disk_size_bytes',
    help: 'Size of a volume that is written',
    labels: ['path'],
    samples: ({ disk }) => disk.map(({ path, totalBytes }) => [{ path }, totalBytes]),
  },
  {
    name: 'chancery_disk_writable',
    help: '0 if a volume is read-only or gone',
    labels: ['path'],
    samples: ({ disk }) => disk.map(({ path, state }) => [{ path }, flag(state !== 'read_only')]),
  },
  {
    name: 'chancery_clock_step_seconds',
    help: 'Last step of the clock against the monotonic one; 0 if none was seen',
    labels: [],
    samples: ({ clock }) => [[{}, clock.lastStepMs / 1000]],
  },
  {
    name: 'chancery_clock_trusted',
    help: '0 while the clock is not believed and nothing that states a time is signed',
    labels: [],
    samples: ({ clock, agent }) => [[{}, flag(clock.fault === '' && agent.clock.fault === '')]],
  },
  {
    name: 'chancery_agent_ready',
    help: '1 if the HSM agent signs',
    labels: [],
    samples: ({ agent }) => [[{}, flag(agent.ready)]],
  },
  {
    name: 'chancery_agent_requests_under_way',
    help: 'Requests at the agent, waiting or being signed',
    labels: [],
    samples: ({ agent }) => [[{}, agent.queue.underWay]],
  },
  {
    name: 'chancery_agent_requests_most',
    help: 'Requests at the agent from which on it answers busy',
    labels: [],
    samples: ({ agent }) => [[{}, agent.queue.most]],
  },
  {
    name: 'chancery_token_latched',
    help: '1 if a token is latched and no login is tried',
    labels: ['token'],
    samples: ({ agent }) => agent.tokens.map(({ name, latched }) => [{ token: name }, flag(latched !== '')]),
  },
  {
    name: 'chancery_token_logged_in',
    help: '1 if the agent is logged in to a token',
    labels: ['token'],
    samples: ({ agent }) => agent.tokens.map(({ name, loggedIn }) => [{ token: name }, flag(loggedIn)]),
  },
  {
    name: 'chancery_key_latched',
    help: '1 if a key is latched',
    labels: ['key'],
    samples: ({ agent }) => agent.keys.map(({ name, latched }) => [{ key: name }, flag(latched !== '')]),
  },
  {
    name: 'chancery_key_uses',
    help: 'Signatures released since the key was first used',
    labels: ['key'],
    samples: ({ agent }) => agent.keys.map(({ name, uses }) => [{ key: name }, uses]),
  },
  {
    name: 'chancery_backup_age_seconds',
    help: 'Time since the last backup was finished; NaN if none is known',
    labels: [],
    samples: ({ lastBackup }, nowMs) => [
      [{}, lastBackup === undefined ? Number.NaN : nowMs / 1000 - seconds(lastBackup.finishedAt)],
    ],
  },
]

/** The gauges of one scrape share one look. */
const SAME_SCRAPE_MS = 250

const shown = new Set<Parts>()
let newest: { readonly atMs: number; readonly statuses: Promise<readonly Status[]> } | undefined

function look(): Promise<readonly Status[]> {
  const nowMs = performance.now()
  if (newest === undefined || nowMs - newest.atMs > SAME_SCRAPE_MS) {
    newest = { atMs: nowMs, statuses: Promise.all([...shown].map(statusOf)) }
  }
  return newest.statuses
}

for (const { name, help, labels, samples } of ROWS) {
  const gauge: Gauge = new Gauge({
    name,
    help,
    labelNames: [...labels],
    async collect() {
      const statuses = await look()
      gauge.reset()
      for (const [of, value] of statuses.flatMap((status) => samples(status, Date.now()))) gauge.set({ ...of }, value)
    },
  })
}

/** Every metric that is made here, for the test of the alert rules. */
export const GAUGES: readonly string[] = ROWS.map(({ name }) => name)

/** Shows this server in the metrics until the returned function is called. */
export function showInMetrics(parts: Parts): () => void {
  shown.add(parts)
  newest = undefined
  return () => {
    shown.delete(parts)
    newest = undefined
  }
}
