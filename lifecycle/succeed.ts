/**
 * The successor of a log, as a journal of steps: new keys, the agent's configuration, the key published, then the switch.
 * What a step made is in the journal before the next begins, and each may be done again, so that running the whole again
 * after a kill completes it: there is one active shard, or for a moment none.
 *
 *     plan ─ key ─ witness key ─ agent ─ publish ─ switch
 *
 * A key that was generated and did not get into the journal has signed nothing and is destroyed.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { parseDocument } from 'yaml'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { type AdminAgent, HsmError, type KeyKind } from '#hsm'
import { witnessOrigin } from '#tlog'
import type { LogKind } from '#transparency-log'
import { type AgentReach, readAgentFile, withAdminAgent } from './agents.ts'
import { newTreeId, shardOrigin } from './log-names.ts'
import { nextName } from './standby-plan.ts'

/** The log as it is configured now, with all of its fields. */
export interface FormerLog {
  readonly name: string
  readonly kind: LogKind
  readonly origin: string
  readonly listen: string
  readonly url: string
  readonly key: string
  readonly database: string
  readonly [field: string]: unknown
}

export interface SucceedOptions {
  readonly dataDir: string
  readonly log: FormerLog
  readonly agent: AgentReach
  /** Where the successor listens and is dialled; chosen unless told. Rekor v1 keeps the address of its service. */
  readonly listen?: string
  readonly url?: string
  /** Stop once the successor's key is published, so that clients learn it before it is used. */
  readonly publishOnly?: boolean
  /** Asks the running server. */
  readonly ask: (verb: string, argument: unknown) => Promise<unknown>
  readonly onStep?: (step: SucceedStep) => void
}

export type SucceedStep = 'plan' | 'key' | 'witness-key' | 'agent' | 'publish' | 'switch' | 'done'

export interface Succeeded {
  readonly successor: string
  readonly origin: string
  readonly url: string
  /** Missing while only its key is published. */
  readonly former?: { readonly size: number; readonly frozen: boolean }
}

const madeKey = z.object({ uri: z.string(), token: z.string(), spki: z.string(), kind: z.string() })
type MadeKey = z.infer<typeof madeKey>

const journal = z.object({
  former: z.string(),
  successor: z.string(),
  origin: z.string(),
  treeId: z.string().optional(),
  listen: z.string(),
  url: z.string(),
  database: z.string(),
  witnessed: z.boolean(),
  key: madeKey.optional(),
  witnessKey: madeKey.optional(),
})
type Journal = z.infer<typeof journal>

/** Makes the successor or goes on with it. Rejects with `OperatorError`, or what the server or agent refused. */
export async function succeed(options: SucceedOptions): Promise<Succeeded> {
  const { dataDir, log, agent, ask, publishOnly = false, onStep = () => {} } = options
  const path = join(dataDir, 'lifecycle', `succeed-${log.name}.json`)
  let state = kept(path) ?? (await planned(options))
  const keep = (changes: Partial<Journal>): void => {
    state = { ...state, ...changes }
    writeDurably(path, `${JSON.stringify(state, undefined, 2)}\n`)
  }
  onStep('plan')
  keep({})
  await withAdminAgent(agent, async (admin) => {
    onStep('key')
    if (state.key === undefined) keep({ key: await freshKey(admin, state.successor, await kindOf(admin, log.key)) })
    onStep('witness-key')
    if (state.witnessed && state.witnessKey === undefined) {
      keep({
        witnessKey: await freshKey(admin, `${state.successor}-witness`, { token: tokenOf(state), kind: 'ed25519' }),
      })
    }
    onStep('agent')
    configureAgent(agent, log, state)
    await admin.reload()
  })
  onStep('publish')
  const { successor, origin, url, key } = state
  if (key === undefined) throw new TypeError('the journal has no key')
  await ask('log-stage', { name: log.name, id: successor, origin, url, spki: key.spki })
  if (publishOnly) return { successor, origin, url }
  onStep('switch')
  const former = z
    .object({ size: z.int(), frozen: z.boolean() })
    .parse(await ask('log-switch', { name: log.name, successor: successorConfig(log, state), publish: true }))
  if (log.kind === 'ct')
    await withAdminAgent(agent, async (admin) => await repointCertificates(agent, log, state, admin))
  onStep('done')
  rmSync(path, { force: true })
  return { successor, origin, url, former }
}

async function planned(options: SucceedOptions): Promise<Journal> {
  const { dataDir, log, agent } = options
  const successor = nextName(dataDir, log.name)
  const treeId = newTreeId()
  const { keys } = parseDocument(readFileSync(readAgentFile(agent).path, 'utf8')).toJS() as {
    keys: Readonly<Record<string, { witnessKey?: string }>>
  }
  return {
    former: log.name,
    successor,
    origin: shardOrigin(log, successor, treeId),
    ...(log.kind === 'rekor-v1' ? { treeId } : {}),
    ...(await addressOf(options, successor)),
    database: join(dirname(log.database), `${successor}.db`),
    witnessed: keys[log.key]?.witnessKey !== undefined,
  }
}

/** Names get the successor's host at the same port; bare addresses get a free port. */
async function addressOf(
  { log, listen, url }: SucceedOptions,
  successor: string,
): Promise<{ listen: string; url: string }> {
  if (log.kind === 'rekor-v1') return { listen: log.listen, url: log.url }
  const former = new URL(log.url)
  const isAddress = former.hostname === 'localhost' || /^[\d.]+$|^\[/.test(former.hostname)
  if (listen !== undefined || url !== undefined || !isAddress) {
    if (url !== undefined) return { listen: listen ?? log.listen, url }
    const [, ...rest] = former.hostname.split('.')
    former.hostname = [successor, ...rest].join('.')
    return { listen: listen ?? log.listen, url: former.toString().replace(/\/$/, '') }
  }
  const host = log.listen.slice(0, log.listen.lastIndexOf(':'))
  const port = await freePort(host.replace(/^\[|\]$/g, ''))
  former.port = String(port)
  return { listen: `${host}:${port}`, url: former.toString().replace(/\/$/, '') }
}

async function freePort(host: string): Promise<number> {
  return await new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, host, () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}

async function kindOf(admin: AdminAgent, key: string): Promise<{ token: string; kind: KeyKind }> {
  const record = (await admin.keyRecords()).find(({ name }) => name === key)
  if (record === undefined)
    throw new OperatorError('no_such_agent', `the agent has no key ${key}: name another with --agent`)
  return { token: record.token, kind: record.kind }
}

function tokenOf({ key }: Journal): string {
  if (key === undefined) throw new TypeError('the journal has no key')
  return key.token
}

/** A label of the journal's that is on the token already belongs to a key that an interrupted run made and nobody used. */
async function freshKey(
  admin: AdminAgent,
  label: string,
  { token, kind }: { token: string; kind: KeyKind },
): Promise<MadeKey> {
  const make = () => admin.generateKey({ token, label, kind })
  const made = await make().catch(async (error: unknown) => {
    if (!(error instanceof HsmError) || error.reason !== 'label_exists') throw error
    const configured = new Set((await admin.keyRecords()).map(({ idHex }) => idHex))
    for (const { class: objectClass, label: found, idHex } of await admin.listObjects(token)) {
      if (objectClass !== 'private key' || found !== label) continue
      if (configured.has(idHex)) throw error
      await admin.destroyKey({ token, idHex })
    }
    return await make()
  })
  return { uri: made.uri, token: made.token, spki: Buffer.from(made.spkiDer).toString('base64'), kind: made.kind }
}

/** Adds the keys to `agent.yaml`, beside the former's, whose options they take over. */
function configureAgent(agent: AgentReach, log: FormerLog, state: Journal): void {
  const { path } = readAgentFile(agent)
  const document = parseDocument(readFileSync(path, 'utf8'))
  const { keys } = document.toJS() as { keys: Record<string, Record<string, unknown>> }
  const { successor, origin, key, witnessKey } = state
  if (keys[successor] !== undefined) return
  const former = keys[log.key]
  if (key === undefined || former === undefined) throw new TypeError(`${path} has no key ${log.key}`)
  const {
    uris: _uris,
    uri: _uri,
    token: _token,
    spki: _spki,
    kind: _kind,
    curve: _curve,
    witnessKey: _w,
    ...rest
  } = former
  const witness = `${successor}-witness`
  document.setIn(
    ['keys', successor],
    document.createNode({ ...key, ...rest, origin, ...(witnessKey === undefined ? {} : { witnessKey: witness }) }),
  )
  if (witnessKey !== undefined) {
    const entry = { ...witnessKey, purposes: ['witnessHead'], origin: witnessOrigin(origin) }
    document.setIn(['keys', witness], document.createNode(entry))
  }
  // Certificates carry the promise of either CT log until the CA has gone over.
  for (const [name, { ctKey }] of Object.entries(keys))
    if (ctKey === log.key) document.setIn(['keys', name, 'ctKey'], document.createNode([log.key, successor]))
  writeDurably(path, document.toString({ lineWidth: 120 }))
}

/** Certificates name the CT log whose promise they carry: from now on the successor alone. */
async function repointCertificates(
  agent: AgentReach,
  log: FormerLog,
  state: Journal,
  admin: AdminAgent,
): Promise<void> {
  const { path } = readAgentFile(agent)
  const document = parseDocument(readFileSync(path, 'utf8'))
  const { keys } = document.toJS() as { keys: Record<string, { ctKey?: string | readonly string[] }> }
  for (const [name, { ctKey }] of Object.entries(keys)) {
    if ([ctKey ?? []].flat().includes(log.key)) document.setIn(['keys', name, 'ctKey'], state.successor)
  }
  writeDurably(path, document.toString({ lineWidth: 120 }))
  await admin.reload()
}

function successorConfig(log: FormerLog, state: Journal): Record<string, unknown> {
  const { succeeds: _succeeds, indexOffset: _offset, faultPoint: _fault, ...rest } = log
  const { successor, origin, treeId, listen, url, database } = state
  const own = { name: successor, origin, listen, url, database, key: successor }
  return { ...rest, ...own, ...(treeId === undefined ? {} : { treeId }) }
}

function kept(path: string): Journal | undefined {
  if (!existsSync(path)) return undefined
  return journal.parse(JSON.parse(readFileSync(path, 'utf8')))
}

function writeDurably(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const part = openSync(`${path}.part`, 'w', 0o600)
  writeSync(part, text)
  fsyncSync(part)
  closeSync(part)
  renameSync(`${path}.part`, path)
  const folder = openSync(dirname(path), 'r')
  fsyncSync(folder)
  closeSync(folder)
}
