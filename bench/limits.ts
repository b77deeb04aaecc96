/** The most that a request's mandatory primitives allow, done one after the other: 1 / their sum. */
import type { AgentSignature, Primitives, Timing } from './primitives.ts'
import type { Kind } from './requests.ts'

export interface Term {
  readonly name: string
  /** How often a request needs it; a fraction where requests under way together share one. */
  readonly times: number
  /** Microseconds of one: the least of several, for a limit is what the machine can do undisturbed. */
  readonly elapsed: number
  /** Microseconds of CPU, the median: kernels count it in steps too coarse for the least. */
  readonly cpu: number
}

export interface Limit {
  readonly perSecond: number
  /** Microseconds of CPU a request, of server and agent together. */
  readonly cpu: number
  readonly terms: readonly Term[]
}

/**
 * With `concurrency` requests under way a log's batch holds all of them at best, so they share its tree head and its two
 * transactions (commit and seal), and the agent's accounting is shared as it was when the signatures were timed.
 * `echo` is a request with as many bytes over our own listener.
 */
export function limitOf(kind: Kind, concurrency: number, primitives: Primitives, echo: Timing): Limit {
  const term = (name: string, timing: Timing | undefined, times = 1): Term => ({
    name,
    times,
    elapsed: timing?.elapsed.least ?? Number.NaN,
    cpu: timing?.cpu.median ?? Number.NaN,
  })
  const signature = (name: string, kind: AgentSignature) =>
    term(`${name} [agent]`, primitives[`${kind}@${concurrency}`])
  const http = term('HTTP echo', echo)
  const batch = (head: Timing) => [
    term('fsync (commit, seal)', primitives.fsync, 2 / concurrency),
    term('tree head [agent]', head, 1 / concurrency),
  ]
  const upload = [term('certificate read', primitives.certificateRead), term('verify digest', primitives.digestVerify)]
  const terms: Readonly<Record<Kind, readonly Term[]>> = {
    certificate: [
      http,
      term('token', primitives.token),
      term('key import', primitives.keyImport),
      term('proof of possession', primitives.possession),
      signature('precertificate', 'precertificate'),
      ...batch(primitives.ctTreeHead),
      signature('SCT', 'sct'),
      signature('certificate', 'certificate'),
    ],
    rekorV1: [http, ...upload, ...batch(primitives.treeHead), signature('SET', 'set')],
    rekorV2: [http, ...upload, ...batch(primitives.treeHead)],
    timestamp: [http, signature('timestamp', 'timestamp')],
    proof: [http],
  }
  const sum = (of: 'elapsed' | 'cpu') => terms[kind].reduce((total, each) => total + each.times * each[of], 0)
  return { perSecond: 1e6 / sum('elapsed'), cpu: sum('cpu'), terms: terms[kind] }
}
