/**
 * A log ends and its successor takes its place while clients write: no request is refused.
 *
 *     check ─ open ─ trial ─ configured ─ in force ─ drained ─ frozen
 *
 * Rekor v1 keeps its address: who writes meanwhile waits, and is served by the successor. Rekor v2 and CT have addresses of
 * their own; what is sent to a former Rekor v2 address is passed on (`log-services.ts`), and the CA gets the new CT log, the
 * former one being frozen only when no certificate with its promise is under way. Asked again after a kill of either side it
 * does what is left to do.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { type Document, parseDocument } from 'yaml'
import { z } from 'zod'
import { replaceDurably } from '#lifecycle'
import type { Log } from '#transparency-log'
import type { AdminRequest } from './admin.ts'
import { ctLogForCa } from './authorities.ts'
import { issueTrial } from './ca-switch.ts'
import { type LogConfig, parseConfig } from './config.ts'
import { plannedConfiguration } from './configuration-change.ts'
import type { FirstEntries } from './first-entry.ts'
import type { Mount } from './listeners.ts'
import { type LogServices, shardOf } from './log-services.ts'
import { logNamed } from './log-verbs.ts'
import type { Parts } from './main.ts'
import { trying } from './signer-files.ts'
import { passing } from './switch-points.ts'
import { requireTrusted } from './trusted-signer.ts'

/** What the switch needs of the running server. */
export interface Succession {
  readonly parts: Parts
  readonly services: LogServices
  readonly open: (config: LogConfig) => Promise<Log>
  /** Serves it from now on. */
  readonly mount: (mount: Mount) => Promise<void>
  /** Called before clients reach the successor. */
  readonly begin: FirstEntries
  /** Called once the successor is in its place. */
  readonly changed: () => void
}

/** What the trust root calls each kind. */
const KIND_OF_ITEM = { ct: 'ct-log', 'rekor-v1': 'rekor-v1', 'rekor-v2': 'rekor-v2' } as const

/** Longer than any client keeps a signing configuration that names the former address: a week. */
const FORWARD_MS = 7 * 24 * 3_600_000

/** An agent whose token is gone answers within this; a lost key signs no last head, and nobody waits for it. */
const EMERGENCY_FREEZE_MS = 2_000

const switchArgument = z.strictObject({
  name: z.string(),
  successor: z.record(z.string(), z.unknown()),
  /** The former key is lost or stolen: nothing depends on it, and nothing is published, since clients know the successor. */
  emergency: z.boolean().default(false),
  /** Rekor v2: until when uploads to the former address are passed on. */
  forwardUntil: z.iso.datetime().optional(),
})

type Wish = z.infer<typeof switchArgument>

export interface Switched {
  /** Entries of the log that has ended. */
  readonly size: number
  /** Whether its last head was signed as such; not where it had been read-only before. */
  readonly frozen: boolean
}

type OpenLog = Parts['logs'][number]

/** Ends the log and puts its successor in its place; what clients are told of it is a publication of its own. */
export async function logSwitchVerb(succession: Succession, { argument }: AdminRequest): Promise<Switched> {
  const wish = switchArgument.parse(argument)
  const { parts } = succession
  const former = logNamed(parts, wish.name)
  // Before anything ends: what would keep the successor from starting.
  const { config } = await plannedConfiguration(parts, (document) => addSuccessor(document, wish, 0))
  const next = successorIn(config.logs, wish)
  await trying(`the successor cannot sign with ${next.key}`, async () => {
    const { spkiDer } = await parts.agent.key(next.key)
    await requireTrusted(parts.loaded, KIND_OF_ITEM[next.kind], [spkiDer])
  })
  const running = parts.logs.find((open) => open.config.name === next.name)
  if (running === undefined) {
    if (next.kind === 'rekor-v1') await switchShards(succession, former, wish)
    else await switchService(succession, former, { wish, next })
  }
  passing('drained', parts.loaded.config)
  const frozen = await ended(former.log, wish.emergency)
  succession.changed()
  return { size: former.log.head().size, frozen }
}

/** Rekor v1: who wants to write waits while the former tree is held at its last size, since the indexes run on from there. */
async function switchShards(succession: Succession, former: OpenLog, wish: Wish): Promise<void> {
  const { parts, services } = succession
  const { loaded } = parts
  const { name } = former.config
  const shards = services.shardsOf(name)
  if (shards === undefined || former.config.kind !== 'rekor-v1')
    throw new TypeError(`log ${name} is served by no shards`)
  const { indexOffset } = former.config
  await shards.succeed(async () => {
    const release = await held(former.log, wish.emergency)
    const opened = await named().catch((error: unknown) => {
      release()
      throw error
    })
    // From here on the former tree must not grow, whatever happens: indexes are counted from its size.
    passing('configured', loaded.config)
    await succession.begin([opened])
    await join(parts, opened)
    services.joined(name, opened.config.name)
    return shardOf(opened)
  })
  passing('in-force', loaded.config)

  async function named(): Promise<OpenLog> {
    const document = parseDocument(readFileSync(loaded.file, 'utf8'))
    addSuccessor(document, wish, indexOffset + (await promisedSize(parts, former)))
    const text = document.toString({ lineWidth: 120 })
    const next = successorIn(parseConfig(text, loaded.file).logs, wish)
    const opened = { config: next, log: await succession.open(next) }
    passing('files-written', loaded.config)
    try {
      replaceDurably(loaded.file, text)
    } catch (error) {
      await opened.log.close()
      throw error
    }
    return opened
  }
}

/** What was accepted is sealed and nothing more is taken; a lost key seals nothing, and nobody waits for it. */
async function held(log: Log, emergency: boolean): Promise<() => void> {
  const holding = log.hold()
  if (!emergency) return await holding
  holding.catch(() => undefined)
  const nothing = (): void => undefined
  return await Promise.race([holding.catch(() => nothing), delay(EMERGENCY_FREEZE_MS, nothing, { ref: false })])
}

/** Entries that were ever promised an index: of a log that lost some, more than it has. No index is given out twice. */
async function promisedSize({ agent }: Pick<Parts, 'agent'>, { config, log }: OpenLog): Promise<number> {
  const guard = await agent.guardedHead({ key: config.key, origin: log.origin })
  return Math.max(guard.size, log.head().size)
}

/** Rekor v2 and CT: the successor is there, and tried, before anything depends on it. */
async function switchService(
  succession: Succession,
  former: OpenLog,
  { wish, next }: { readonly wish: Wish; readonly next: LogConfig },
): Promise<void> {
  const { parts, services, mount } = succession
  const { loaded, authority } = parts
  const opened = { config: next, log: await succession.open(next) }
  const { write, config, changeover } = await prepared(succession, former, { wish, opened }).catch(
    async (error: unknown) => {
      await opened.log.close()
      throw error
    },
  )
  passing('files-written', loaded.config)
  write()
  passing('configured', loaded.config)
  await succession.begin([opened])
  await mount(services.mount(opened))
  // Before the successor is found, since uploads are passed on from that moment.
  if (former.config.kind === 'rekor-v2') former.config.forwardUntil = forwardUntil(wish)
  await join(parts, opened)
  const drained = changeover?.take()
  if (loaded.config.ca !== undefined && config.ca !== undefined && authority !== undefined)
    loaded.config.ca.ctLog = config.ca.ctLog
  passing('in-force', loaded.config)
  await drained
}

/** All that can fail before the configuration names the successor. */
async function prepared(
  { parts }: Succession,
  former: OpenLog,
  { wish, opened }: { readonly wish: Wish; readonly opened: OpenLog },
) {
  const { authority, loaded } = parts
  const change = await plannedConfiguration(parts, (document) => addSuccessor(document, wish, 0))
  if (authority === undefined || loaded.config.ca?.ctLog !== former.config.name)
    return { ...change, changeover: undefined }
  const changeover = await authority.prepare(ctLogForCa(parts, opened))
  // It is by the CA's key, whose emergency may be the next one.
  if (!wish.emergency) {
    await trying(`a trial certificate with an SCT of ${opened.config.name} was not issued`, async () => {
      await issueTrial(changeover)
    })
  }
  return { ...change, changeover }
}

/** One turn: from the moment that it is among the logs, everything that looks for the newest finds it. */
async function join(parts: Parts, opened: OpenLog): Promise<void> {
  await parts.anchors.cover(opened)
  parts.logs.push(opened)
  parts.loaded.config.logs.push(opened.config)
}

/** True once the last head is signed as such. A log that may not be written any more has ended before; a lost key signs none. */
async function ended(log: Log, emergency: boolean): Promise<boolean> {
  try {
    const frozen = log.freeze().then(() => true)
    // Nobody looks at it after the race: it takes no entry from the first moment on.
    frozen.catch(() => undefined)
    return await (emergency ? Promise.race([frozen, delay(EMERGENCY_FREEZE_MS, false, { ref: false })]) : frozen)
  } catch (error) {
    const fault = log.fault()
    if (!emergency && (fault === undefined || fault.code === 'unavailable')) throw error
    return false
  }
}

/** Names the successor in the configuration, with all that follows from it; asked again it changes nothing. */
function addSuccessor(document: Document, wish: Wish, indexOffset: number): void {
  const { name: former, successor } = wish
  const { logs } = document.toJS() as { logs: { name: string; kind: string }[] } // it was read at the start
  if (logs.some((log) => log.name === successor['name'])) return
  const at = logs.findIndex((log) => log.name === former)
  const kind = logs[at]?.kind
  document.addIn(
    ['logs'],
    document.createNode({ ...successor, succeeds: former, ...(kind === 'rekor-v1' ? { indexOffset } : {}) }),
  )
  if (kind === 'rekor-v2') document.setIn(['logs', at, 'forwardUntil'], forwardUntil(wish))
  if (document.getIn(['ca', 'ctLog']) === former) document.setIn(['ca', 'ctLog'], successor['name'])
}

function forwardUntil(wish: Wish): string {
  return wish.forwardUntil ?? new Date(Math.floor((Date.now() + FORWARD_MS) / 1000) * 1000).toISOString()
}

function successorIn(logs: readonly LogConfig[], { successor }: Wish): LogConfig {
  const next = logs.find(({ name }) => name === successor['name'])
  if (next === undefined) throw new TypeError(`no log ${String(successor['name'])} in the configuration`)
  return next
}
