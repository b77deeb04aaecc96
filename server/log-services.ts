/** Which logs are served where: one service for all shards of a Rekor v1 log, one each for every other log. */
import type { Section } from '#http'
import {
  ctSection,
  type EntryChecks,
  type Log,
  rekorV1Section,
  RekorV1Shards,
  rekorV2Section,
  type SealedHead,
} from '#transparency-log'
import type { LogConfig } from './config.ts'
import type { Mount } from './listeners.ts'
import type { Parts } from './main.ts'

type RekorV2Config = Extract<LogConfig, { kind: 'rekor-v2' }>

interface OpenLog {
  readonly config: LogConfig
  readonly log: Log
}

export class LogServices {
  readonly #parts: Pick<Parts, 'acceptedRoots' | 'anchors' | 'logs'>
  readonly #checks: EntryChecks
  /** By the name of each shard. */
  readonly #shards = new Map<string, RekorV1Shards>()

  constructor(parts: Pick<Parts, 'acceptedRoots' | 'anchors' | 'logs'>, checks: EntryChecks) {
    this.#parts = parts
    this.#checks = checks
  }

  /** All that is configured; called once. */
  mounts(): Mount[] {
    const { logs } = this.#parts
    // A Rekor v1 shard with a successor is served by that one's service.
    const served = logs.filter(
      ({ config }) => config.kind !== 'rekor-v1' || !logs.some((other) => other.config.succeeds === config.name),
    )
    return served.map((open) => this.mount(open))
  }

  mount({ config, log }: OpenLog): Mount {
    return { ...config, section: this.#section(config, log) }
  }

  /** The shards of the Rekor v1 service that this log is part of. */
  shardsOf(name: string): RekorV1Shards | undefined {
    return this.#shards.get(name)
  }

  /** A successor that has joined the shards of `name`. */
  joined(name: string, successor: string): void {
    const shards = this.#shards.get(name)
    if (shards !== undefined) this.#shards.set(successor, shards)
  }

  #section(config: LogConfig, log: Log): Section {
    const checks = this.#checks
    if (config.kind === 'ct') return ctSection({ log, roots: this.#parts.acceptedRoots.of(config) })
    if (config.kind === 'rekor-v1') {
      const chain = this.#chain({ config, log })
      const shards = new RekorV1Shards(chain.map((open) => shardOf(open)))
      for (const {
        config: { name },
      } of chain)
        this.#shards.set(name, shards)
      return rekorV1Section({ shards, checks })
    }
    const cosignatures = (head: SealedHead) => this.#parts.anchors.cosignatures(log.name, head)
    const uploadsTo = () => this.#uploadsTo(config, log)
    return rekorV2Section({ log, strict: config.strict, checks, cosignatures, uploadsTo })
  }

  /**
   * Who takes what is uploaded to this log's address: where it has successors the newest of them, as long as clients may
   * still have a signing configuration that names this address. The former log itself is asked for nothing.
   */
  #uploadsTo({ name, forwardUntil }: RekorV2Config, log: Log): Log | 'frozen' {
    const after = (before: string) => this.#parts.logs.find(({ config }) => config.succeeds === before)
    let newest = after(name)
    if (newest === undefined) return log
    if (forwardUntil === undefined || Date.parse(forwardUntil) <= Date.now()) return 'frozen'
    for (let next = after(newest.config.name); next !== undefined; next = after(next.config.name)) newest = next
    return newest.log
  }

  /** The log and those before it, oldest first. */
  #chain(newest: OpenLog): OpenLog[] {
    const chain = [newest]
    for (let { succeeds } = newest.config; succeeds !== undefined; ) {
      const before = this.#parts.logs.find(({ config }) => config.name === succeeds)
      if (before === undefined) break
      chain.unshift(before)
      succeeds = before.config.succeeds
    }
    return chain
  }
}

export function shardOf({ config, log }: OpenLog): ConstructorParameters<typeof RekorV1Shards>[0][number] {
  if (config.kind !== 'rekor-v1') throw new TypeError(`log ${config.name} is no Rekor v1 log`)
  return { log, treeId: config.treeId, ...(config.succeeds === undefined ? {} : { offset: config.indexOffset }) }
}
