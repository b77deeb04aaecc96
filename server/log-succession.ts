/**
 * The server's part in `chancery log succeed`: the successor's key is published, then the log is ended and its successor
 * put in its place. Each verb may be asked again after a kill of either side, and does what is left to do.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { parseDocument } from 'yaml'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import type { Log } from '#transparency-log'
import { BACKDATE_SECONDS, type Inventory, type TrustItem } from '#trust-root'
import type { AdminRequest } from './admin.ts'
import { type LogConfig, parseConfig } from './config.ts'
import type { Mount } from './listeners.ts'
import { type LogServices, shardOf } from './log-services.ts'
import { logNamed } from './log-verbs.ts'
import type { Parts } from './main.ts'

/** What the switch needs of the running server. */
export interface Succession {
  readonly parts: Parts
  readonly services: LogServices
  readonly open: (config: LogConfig) => Promise<Log>
  /** Serves it from now on. */
  readonly mount: (mount: Mount) => Promise<void>
  /** Called once the successor is in its place. */
  readonly changed: () => void
}

const KIND_OF_ITEM = { ct: 'ct-log', 'rekor-v1': 'rekor-v1', 'rekor-v2': 'rekor-v2' } as const

const stageArgument = z.strictObject({
  name: z.string(),
  id: z.string(),
  origin: z.string(),
  url: z.url(),
  spki: z.base64(),
})

/** Publishes the key of a successor as one that verifiers accept and signers do not use yet. */
export async function stageVerb({ parts }: Succession, { argument }: AdminRequest): Promise<unknown> {
  const { name, id, origin, url, spki } = stageArgument.parse(argument)
  const { config } = logNamed(parts, name)
  const der = new Uint8Array(Buffer.from(spki, 'base64'))
  const item: TrustItem = {
    id,
    kind: KIND_OF_ITEM[config.kind],
    der: [der],
    origin,
    url,
    window: { start: wholeSeconds(Date.now() - BACKDATE_SECONDS * 1000) },
    state: 'trusted',
  }
  return await parts.trustRoot?.update((inventory) => {
    const known = inventory.items.find((other) => other.id === id)
    if (known !== undefined && Buffer.compare(known.der[0] ?? new Uint8Array(0), der) !== 0) {
      throw new OperatorError('label_exists', `the trust root has another key under ${id}`)
    }
    return known === undefined ? { ...inventory, items: [...inventory.items, item] } : inventory
  })
}

const switchArgument = z.strictObject({
  name: z.string(),
  successor: z.record(z.string(), z.unknown()),
  /** The former key is lost or stolen: nothing is asked of it, and nothing is published, since clients know the successor. */
  emergency: z.boolean().default(false),
})

export interface Switched {
  /** Entries of the log that has ended. */
  readonly size: number
  /** Whether its last head was signed as such; not where it had been read-only before. */
  readonly frozen: boolean
  readonly restartNeeded: boolean
}

/** Ends the log and puts its successor in its place: configuration, service, signing configuration. */
export async function switchVerb(given: Succession, { argument }: AdminRequest): Promise<Switched> {
  const { name, successor, emergency } = switchArgument.parse(argument)
  const succession = { ...given, emergency }
  const { parts } = succession
  const former = logNamed(parts, name)
  const fields = { ...successor, succeeds: name }
  // Before anything ends: what would keep the successor from starting.
  const planned = configured(parts, fields, name, 0)
  await parts.agent.key(planned.next.key)
  const running = parts.logs.find(({ config }) => config.name === planned.next.name)
  if (running !== undefined) {
    await finish(succession, former, running)
    return { size: former.log.head().size, frozen: await ended(former.log, emergency), restartNeeded: false }
  }
  if (planned.next.kind === 'rekor-v1') return await switchShards(succession, former, fields)
  return await switchService(succession, former, fields)
}

type OpenLog = Parts['logs'][number]

type Switching = Succession & { readonly emergency: boolean }

/** Rekor v1: requests that arrive meanwhile wait, and go to the successor. */
async function switchShards(succession: Switching, former: OpenLog, fields: object): Promise<Switched> {
  const { parts, services, open } = succession
  const { name } = former.config
  const shards = services.shardsOf(name)
  if (shards === undefined || former.config.kind !== 'rekor-v1')
    throw new TypeError(`log ${name} is served by no shards`)
  const { indexOffset } = former.config
  let frozen = false
  let opened: OpenLog | undefined
  await shards.succeed(async () => {
    frozen = await ended(former.log, succession.emergency)
    const { next, text } = configured(parts, fields, name, indexOffset + (await promisedSize(parts, former)))
    replaceDurably(parts.loaded.file, text)
    opened = await taken(parts, next, open)
    services.joined(name, next.name)
    return shardOf(opened)
  })
  if (opened !== undefined) await finish(succession, former, opened)
  return { size: former.log.head().size, frozen, restartNeeded: false }
}

/** Entries that were ever promised an index: of a log that lost some, more than it has. No index is given out twice. */
async function promisedSize({ agent }: Pick<Parts, 'agent'>, { config, log }: OpenLog): Promise<number> {
  const guard = await agent.guardedHead({ key: config.key, origin: log.origin })
  return Math.max(guard.size, log.head().size)
}

/** Rekor v2 and CT: the successor is another service, at an address of its own, before the former one ends. */
async function switchService(succession: Switching, former: OpenLog, fields: object): Promise<Switched> {
  const { parts, services, open, mount } = succession
  const { next, text } = configured(parts, fields, former.config.name, 0)
  replaceDurably(parts.loaded.file, text)
  const opened = await taken(parts, next, open)
  await mount(services.mount(opened))
  await finish(succession, former, opened)
  const frozen = await ended(former.log, succession.emergency)
  // The CA holds on to the CT log that it was started with.
  return { size: former.log.head().size, frozen, restartNeeded: next.kind === 'ct' }
}

async function taken(parts: Parts, config: LogConfig, open: Succession['open']): Promise<OpenLog> {
  const opened = { config, log: await open(config) }
  parts.logs.push(opened)
  parts.loaded.config.logs.push(config)
  await parts.anchors.cover(opened)
  return opened
}

/** Signers are sent to the successor; verifiers keep the former key for what it signed. */
async function finish(
  { parts, changed, emergency }: Switching,
  former: OpenLog,
  successor: OpenLog,
): Promise<void> {
  if (!emergency) await parts.trustRoot?.update((inventory) => promoted(inventory, former.config.origin, successor.config.origin))
  changed()
}

function promoted(inventory: Inventory, formerOrigin: string, origin: string): Inventory {
  const end = wholeSeconds(Date.now() + 1000)
  const items = inventory.items.map((item): TrustItem => {
    if (item.origin === origin) return { ...item, state: 'active' }
    if (item.origin !== formerOrigin || item.state === 'retired') return item
    return { ...item, state: 'retired', window: { start: item.window.start, end } }
  })
  return { ...inventory, items }
}

/** True once the last head is signed as such. A log that may not be written any more has ended before; a lost key signs none. */
async function ended(log: Log, emergency: boolean): Promise<boolean> {
  try {
    await log.freeze()
    return true
  } catch (error) {
    if (emergency) return false
    const fault = log.fault()
    if (fault === undefined || fault.code === 'unavailable') throw error
    return false
  }
}

/** The configuration with the successor in it, as text and as it is read; what it says is checked whole. */
function configured(
  { loaded }: Pick<Parts, 'loaded'>,
  fields: object,
  former: string,
  indexOffset: number,
): { readonly next: LogConfig; readonly text: string } {
  const document = parseDocument(readFileSync(loaded.file, 'utf8'))
  const { logs } = document.toJS() as { logs: { name: string; kind: string }[] } // it was read at the start
  const name = (fields as { name?: string }).name ?? ''
  const isV1 = logs.find((log) => log.name === former)?.kind === 'rekor-v1'
  if (!logs.some((log) => log.name === name)) {
    document.addIn(['logs'], document.createNode({ ...fields, ...(isV1 ? { indexOffset } : {}) }))
    if (document.getIn(['ca', 'ctLog']) === former) document.setIn(['ca', 'ctLog'], name)
  }
  const text = document.toString({ lineWidth: 120 })
  const next = parseConfig(text, loaded.file).logs.find((log) => log.name === name)
  if (next === undefined) throw new TypeError(`no log ${name} in the configuration`)
  return { next, text }
}

function replaceDurably(path: string, text: string): void {
  const part = openSync(`${path}.part`, 'w', 0o600)
  writeSync(part, text)
  fsyncSync(part)
  closeSync(part)
  renameSync(`${path}.part`, path)
  const folder = openSync(dirname(path), 'r')
  fsyncSync(folder)
  closeSync(folder)
}

function wholeSeconds(ms: number): Date {
  return new Date(Math.floor(ms / 1000) * 1000)
}
