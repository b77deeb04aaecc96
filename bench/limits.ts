/** The most that a request's mandatory primitives allow, done one after the other: 1 / their sum. */
import type { Primitives } from './primitives.ts'
import type { Kind } from './requests.ts'

export interface Term {
  readonly name: string
  /** How often a request needs it; a fraction where requests under way together share one. */
  readonly times: number
  /** Microseconds of one. */
  readonly each: number
}

export interface Limit {
  readonly perSecond: number
  readonly terms: readonly Term[]
}

/**
 * With `concurrency` requests under way a log's batch holds all of them at best, so they share its tree head and its two
 * transactions (commit and seal), and the agent's accounting is shared as it was when the signatures were timed.
 * `echo` is the time of a request with as many bytes over our own listener, microseconds.
 */
export function limitOf(kind: Kind, concurrency: number, primitives: Primitives, echo: number): Limit {
  const { agent } = primitives
  const at = (timings: Readonly<Record<number, { median: number }>>) => timings[concurrency]?.median ?? Number.NaN
  const http: Term = { name: 'HTTP echo', times: 1, each: echo }
  const once = (name: string, { median }: { median: number }): Term => ({ name, times: 1, each: median })
  const batch = (head: { median: number }): Term[] => [
    { name: 'fsync (commit, seal)', times: 2 / concurrency, each: primitives.fsync.median },
    { name: 'tree head [agent]', times: 1 / concurrency, each: head.median },
  ]
  const upload = [once('certificate read', primitives.certificateRead), once('verify digest', primitives.digestVerify)]
  const terms: Readonly<Record<Kind, readonly Term[]>> = {
    certificate: [
      http,
      once('token', primitives.token),
      once('key import', primitives.keyImport),
      once('proof of possession', primitives.possession),
      { name: 'precertificate [agent]', times: 1, each: at(agent.precertificate) },
      ...batch(agent.ctTreeHead),
      { name: 'SCT [agent]', times: 1, each: at(agent.sct) },
      { name: 'certificate [agent]', times: 1, each: at(agent.certificate) },
    ],
    rekorV1: [http, ...upload, ...batch(agent.treeHead), { name: 'SET [agent]', times: 1, each: at(agent.set) }],
    rekorV2: [http, ...upload, ...batch(agent.treeHead)],
    timestamp: [http, { name: 'timestamp [agent]', times: 1, each: at(agent.timestamp) }],
    proof: [http],
  }
  const sum = terms[kind].reduce((total, { times, each }) => total + times * each, 0)
  return { perSecond: 1e6 / sum, terms: terms[kind] }
}
