/** The administrative verb `reconcile`, and the same done regularly by the server itself. */
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { Gauge } from 'prom-client'
import { z } from 'zod'
import { reconcile, type Reconciled, USES } from '#lifecycle'
import { decodePem } from '#x509'
import type { AdminRequest } from './admin.ts'
import type { Parts } from './main.ts'

const argument = z.strictObject({
  /** Digests that an operator has looked into, hex; `all` for every one that is unknown now. */
  accept: z.union([z.literal('all'), z.array(z.string().regex(/^[0-9a-f]{64}$/))]).optional(),
})

const gapOfKey = new Gauge({
  name: 'chancery_reconcile_gap',
  help: 'Uses of a key that nothing explains, and artefacts that the account has no use for, when it was last compared',
  labelNames: ['key'],
})

/** Compares the account with what was made; with `accept` the digests named are known from then on. */
export async function reconcileVerb(parts: Parts, request: AdminRequest): Promise<Reconciled> {
  const parsed = argument.safeParse(request.argument)
  if (!parsed.success) throw new TypeError('accept is `all` or a list of digests in hex')
  const { accept } = parsed.data
  const { progress, signal } = request
  const found = await compare(parts, { progress, signal })
  if (accept === undefined) return found
  const open = found.unknown.map(({ digest }) => digest)
  const accepted = accept === 'all' ? open : accept.filter((digest) => open.includes(digest))
  const folder = parts.loaded.resolve(USES)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  appendFileSync(join(folder, 'accepted.uses'), Buffer.from(accepted.join(''), 'hex'), { flush: true })
  return await compare(parts, { progress, signal })
}

/** Two at once would read the same logs twice as long. */
let underWay: Promise<unknown> = Promise.resolve()

async function compare(
  parts: Parts,
  { progress, signal }: { readonly progress?: AdminRequest['progress']; readonly signal?: AbortSignal },
): Promise<Reconciled> {
  const before = underWay
  const own = (async () => {
    await before.catch(() => undefined)
    const { config, resolve } = parts.loaded
    return await reconcile({
      agent: parts.agent,
      logs: parts.logs.map(({ config, log }) => ({
        kind: config.kind,
        key: config.key,
        indexOffset: config.kind === 'rekor-v1' ? config.indexOffset : 0,
        log,
      })),
      certificateKeys: config.ca === undefined ? [] : [config.ca.key],
      ceremony: [config.ca?.chain, config.timestamp?.chain]
        .filter((path) => path !== undefined && existsSync(resolve(path)))
        .flatMap((path) => decodePem(readFileSync(resolve(path ?? ''), 'utf8'), { labels: ['CERTIFICATE'] }))
        .map(({ der }) => der),
      journal: resolve(USES),
      ...(progress && { onStep: progress }),
      ...(signal && { signal }),
    })
  })()
  underWay = own
  const found = await own
  show(parts, found)
  return found
}

function show({ alarms }: Parts, { keys, unknown, unknownTotal, unaccounted, unaccountedTotal }: Reconciled): void {
  gapOfKey.reset()
  for (const { key } of keys) gapOfKey.set({ key }, 0)
  for (const one of keys) gapOfKey.inc({ key: one.key }, one.unknown)
  for (const { key } of unaccounted) gapOfKey.inc({ key }, 1)
  const [first] = unknown
  const parted = [
    ...(first === undefined
      ? []
      : [`${unknownTotal} uses of keys are unknown, the first ${first.act} of ${first.key} in line ${first.line}`]),
    ...(unaccountedTotal === 0 ? [] : [`${unaccountedTotal} signatures are in no account`]),
  ]
  alarms.set(
    'reconcile_gap',
    'account',
    parted.length === 0 ? undefined : `${parted.join('; ')}: chancery audit reconcile`,
  )
}

/** The first time a little after the start, so that a server that is started again and again compares at some time. */
const FIRST_MS = 10 * 60_000

/** Compares regularly; returns a function that stops. */
export function watchReconciled(parts: Parts, logger: Logger): () => void {
  const { reconcileHours } = parts.loaded.config.account
  const { agent } = parts.loaded.config
  if (reconcileHours === 0 || ('sockets' in agent && agent.sockets.audit === undefined)) return () => undefined
  const stop = new AbortController()
  const everyMs = reconcileHours * 3_600_000
  let timer: NodeJS.Timeout
  const next = (afterMs: number) => {
    timer = setTimeout(() => {
      compare(parts, { signal: stop.signal })
        .catch((error: unknown) => {
          if (!stop.signal.aborted) logger.warn({ err: error }, 'the account could not be compared; tried again')
        })
        .finally(() => {
          if (!stop.signal.aborted) next(everyMs)
        })
    }, afterMs).unref()
  }
  next(Math.min(FIRST_MS, everyMs))
  return () => {
    stop.abort()
    clearTimeout(timer)
  }
}
