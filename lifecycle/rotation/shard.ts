/** What the rotations of logs share: the next shard, with key, origin and database of its own. */
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { witnessOrigin } from '#tlog'
import type { LogKind } from '#transparency-log'
import type { TrustItem, TrustItemKind } from '#trust-root'
import { type FormerLog, newTreeId, shardOrigin } from '../log-names.ts'
import { editAgentFile, keyIn, keysIn, putKey, reachOf, reload, withSide } from './agent-file.ts'
import { requireActive, startingNow } from './authority.ts'
import { type Facts, formerKey, known } from './facts.ts'
import { entryOf, nextFreeName, plannedLike, retireStep, signerOf, spkiOf } from './keys.ts'
import { itemOfDer } from './publication.ts'
import type { Installation, Rotation, Step, Wishes } from './rotation.ts'

/** The one log of a kind that takes entries. Throws `rotation_impossible`. */
export function activeLog({ logs }: Installation, kind: LogKind): FormerLog {
  const found = logs.filter((log) => log.kind === kind && !logs.some(({ succeeds }) => succeeds === log.name))
  const [log, second] = found
  if (log === undefined) throw new OperatorError('rotation_impossible', `this installation has no ${kind} log`)
  if (second !== undefined) {
    const names = found.map(({ name }) => name).join(', ')
    throw new OperatorError(
      'rotation_impossible',
      `several ${kind} logs take entries: ${names}; end the one that should not with: chancery log succeed NAME`,
    )
  }
  return log
}

/** Facts of the shard after the one that takes entries now. */
export async function planShard(
  installation: Installation,
  log: FormerLog,
  { wishes, now }: { readonly wishes: Wishes; readonly now: Date },
): Promise<Facts> {
  const reach = reachOf(installation, 'services')
  const former = keyIn(reach, log.key)
  const item = await publishedItem(installation, new Uint8Array(Buffer.from(former.spki, 'base64')))
  const name = await nextFreeName(installation, log.name)
  const signer = await plannedLike(installation, log.key, { name, side: 'services' })
  const side = { name: `${name}-witness`, side: 'services' } as const
  const keys =
    former.witnessKey === undefined
      ? { signer }
      : { signer, witness: await plannedLike(installation, former.witnessKey, side) }
  const treeId = newTreeId()
  const witnessKeys = former.witnessKey === undefined ? [] : [former.witnessKey]
  return {
    destroyOldKey: wishes.destroyOldKey ?? false,
    former: {
      keys: [log.key, ...witnessKeys].map((key) => ({ name: key, side: 'services' })),
      log,
      ...(item && { item: item.id }),
    },
    ...(item && { item: name }),
    start: startingNow(now),
    keys,
    shard: {
      name,
      origin: shardOrigin(log, name, treeId),
      ...(log.kind === 'rekor-v1' ? { treeId } : {}),
      ...(await addressOf(log, wishes, name)),
      database: join(dirname(log.database), `${name}.db`),
    },
  }
}

/** Undefined where nothing is published from here: a log may be succeeded nevertheless. */
async function publishedItem(installation: Installation, spkiDer: Uint8Array): Promise<TrustItem | undefined> {
  if (installation.trustRoot === undefined) return undefined
  const item = await itemOfDer(installation, spkiDer)
  requireActive(item)
  return item
}

/** Rekor v1 keeps the address of its service. Others: a name gets the shard's host at the same port, a bare address a free port. */
export async function addressOf(
  log: Pick<FormerLog, 'kind' | 'listen' | 'url'>,
  { listen, url }: Pick<Wishes, 'listen' | 'url'>,
  name: string,
): Promise<{ listen: string; url: string }> {
  if (log.kind === 'rekor-v1') return { listen: log.listen, url: log.url }
  const former = new URL(log.url)
  const isAddress = former.hostname === 'localhost' || /^[\d.]+$|^\[/.test(former.hostname)
  if (listen !== undefined || url !== undefined || !isAddress) {
    if (url !== undefined) return { listen: listen ?? log.listen, url }
    const [, ...rest] = former.hostname.split('.')
    former.hostname = [name, ...rest].join('.')
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

/** The keys of the shard beside those of the former one, whose options they take over. */
export const shardAgentStep: Step = {
  name: 'agent',
  run: async ({ installation, facts }) => {
    configureShard(installation, facts)
    const { signer, witness } = facts.keys
    const names = [signer, witness].flatMap((each) => each?.name ?? [])
    await withSide(installation, 'services', (admin) => reload(admin, names))
    return undefined
  },
}

function configureShard(installation: Installation, facts: Facts): void {
  const reach = reachOf(installation, 'services')
  const { origin } = known(facts.shard, 'shard')
  const { witness } = facts.keys
  const signer = signerOf(facts)
  const former = formerKey(facts)
  const {
    uris: _uris,
    uri: _uri,
    token: _token,
    spki: _spki,
    kind: _kind,
    curve: _curve,
    witnessKey: _witness,
    ...options
  } = keyIn(reach, former.name)
  const witnessed = witness === undefined ? {} : { witnessKey: witness.name }
  editAgentFile(reach, (document) => {
    putKey(document, signer.name, { ...entryOf(signer), ...options, origin, ...witnessed }, former.name)
    if (witness !== undefined) {
      const entry = { ...entryOf(witness), purposes: ['witnessHead'], origin: witnessOrigin(origin) }
      putKey(document, witness.name, entry, facts.former.keys[1]?.name)
    }
    // Certificates carry the promise of either CT log until the CA has gone over.
    for (const [name, { ctKey }] of Object.entries(keysIn(reach))) {
      const logs = [ctKey ?? []].flat()
      if (!logs.includes(former.name) || logs.includes(signer.name)) continue
      document.setIn(['keys', name, 'ctKey'], document.createNode([...logs, signer.name]))
    }
  })
}

const ITEM_KIND = { ct: 'ct-log', 'rekor-v1': 'rekor-v1', 'rekor-v2': 'rekor-v2' } as const satisfies Readonly<
  Record<LogKind, TrustItemKind>
>

/** What verifiers are told of the shard. */
export function shardItem(kind: LogKind): (rotation: Rotation) => TrustItem {
  return ({ facts }) => {
    const { origin, url } = known(facts.shard, 'shard')
    return {
      id: known(facts.item, 'item'),
      kind: ITEM_KIND[kind],
      der: [spkiOf(signerOf(facts))],
      origin,
      url,
      window: { start: new Date(facts.start) },
      state: 'trusted',
    }
  }
}

/** Fields of the shard as the server's configuration has them: those of the former one with its own. */
export function shardConfig(facts: Facts): Record<string, unknown> {
  const { succeeds: _succeeds, indexOffset: _offset, faultPoint: _fault, ...rest } = known(facts.former.log, 'log')
  return { ...rest, ...known(facts.shard, 'shard'), key: signerOf(facts).name }
}

/** Whether the former log has a successor in the configuration. */
export function isSucceeded({ installation, facts }: Pick<Rotation, 'installation' | 'facts'>): boolean {
  return installation.logs.some(({ name }) => name === known(facts.shard, 'shard').name)
}

const switched = z.object({ size: z.int(), frozen: z.boolean() })

/** Asks the server to end the former shard and to put the next in its place. */
export const shardSwitchStep: Step = {
  name: 'switch',
  run: async ({ installation, facts, keep, now }) => {
    const { name } = known(facts.former.log, 'log')
    const answer = await installation.ask('log-switch', { name, successor: shardConfig(facts) })
    const { size, frozen } = switched.parse(answer)
    keep({ formerSize: size, formerFrozen: frozen, switchedAt: facts.switchedAt ?? now().toISOString() })
    return undefined
  },
}

/** The second after the last entry. */
export function shardEnds({ facts }: Rotation): Date {
  return new Date(Date.parse(known(facts.switchedAt, 'time of the switch')) + 1000)
}

/** The server reads the former shard without its keys from now on; then they leave the agent. */
export const shardRetireStep: Step = {
  name: 'retire',
  run: async (rotation) => {
    const { name } = known(rotation.facts.former.log, 'log')
    await rotation.installation.ask('log-retire', { name })
    return await retireStep.run(rotation)
  },
}
