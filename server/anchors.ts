/**
 * The anchors of the configuration, each with the logs that it covers. They are asked before the server takes its first
 * request, and then whenever there are new heads; nothing that a client waits for ever waits for them.
 */
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Logger } from 'pino'
import { type Alarms, OperatorError } from '#alarms'
import type { SigningAgent } from '#hsm'
import type { NoteSignature } from '#tlog'
import {
  type Anchor,
  AnchoredLog,
  anchorFile,
  type AnchorState,
  fileAnchor,
  type Log,
  type SealedHead,
  witnessAnchor,
} from '#transparency-log'
import type { AnchorConfig, LoadedConfig, LogConfig } from './config.ts'

export interface Anchors {
  /** One line for each log at each anchor. */
  states(): readonly AnchorState[]
  /** What witnesses have signed of exactly this head of this log. */
  cosignatures(logName: string, head: SealedHead): readonly NoteSignature[]
  /**
   * For what is no log: `submit` a signed statement under an origin of its own (the head of the account, as
   * `account.<domain>`) to those of kind `file`. See `Anchor`.
   */
  readonly anchors: readonly Anchor[]
  /** Also covers a log that was opened later. */
  cover(log: { readonly config: LogConfig; readonly log: Log }): Promise<void>
  close(): Promise<void>
}

export interface AnchorSurroundings {
  readonly loaded: LoadedConfig
  readonly logs: readonly { readonly config: LogConfig; readonly log: Log }[]
  readonly agent: SigningAgent
  readonly alarms: Alarms
  readonly logger: Logger
}

/**
 * Resolves when each anchor was asked once about each of its logs, or did not answer in time. A log that an anchor
 * contradicts takes no entries from then on. Throws `anchor_required` if a required one could not be asked.
 */
export async function startAnchors(surroundings: AnchorSurroundings): Promise<Anchors> {
  const { loaded } = surroundings
  const configured = loaded.config.anchors.map((config) => ({ config, anchor: anchorOf(config, loaded) }))
  const anchored = configured.flatMap(({ config, anchor }) =>
    surroundings.logs
      .filter(({ log }) => config.logs === undefined || config.logs.includes(log.name))
      .map((log) => ({ config, log: anchoredLog(config, anchor, log, surroundings) })),
  )
  const close = async () => {
    await Promise.all(anchored.map(async ({ log }) => await log.close()))
  }
  await Promise.all(anchored.map(async ({ log }) => await log.start()))
  const absent = anchored.filter(({ config, log }) => config.required && !log.asked)
  if (absent.length > 0) {
    await close()
    const faults = absent.map(({ log }) => `${log.state().log}: ${log.state().fault}`).join('; ')
    throw new OperatorError('anchor_required', `a required anchor could not be asked: ${faults}`)
  }
  return {
    states: () => anchored.map(({ log }) => log.state()),
    cosignatures: (logName, head) =>
      anchored.filter(({ log }) => log.state().log === logName).flatMap(({ log }) => log.cosignatures(head)),
    anchors: configured.map(({ anchor }) => anchor),
    cover: async (open) => {
      const added = configured
        .filter(({ config }) => config.logs === undefined || config.logs.includes(open.log.name))
        .map(({ config, anchor }) => ({ config, log: anchoredLog(config, anchor, open, surroundings) }))
      anchored.push(...added)
      await Promise.all(added.map(async ({ log }) => await log.start()))
    },
    close,
  }
}

/** Whether heads of this log have to be signed for witnesses: those of Rekor v2 are served with both lines. */
export function isWitnessed({ config }: LoadedConfig, { name, kind }: LogConfig): boolean {
  const covers = config.anchors.some(
    (anchor) => anchor.kind === 'witness' && (anchor.logs === undefined || anchor.logs.includes(name)),
  )
  return covers || kind === 'rekor-v2'
}

function anchorOf(config: AnchorConfig, { resolve }: LoadedConfig): Anchor {
  const { name } = config
  return config.kind === 'file' ? fileAnchor({ name, folder: resolve(config.path) }) : witnessAnchor(config)
}

function anchoredLog(
  config: AnchorConfig,
  anchor: Anchor,
  { config: { kind, key }, log }: { config: LogConfig; log: Log },
  { loaded, agent, alarms, logger }: AnchorSurroundings,
): AnchoredLog {
  const { origin } = log
  return new AnchoredLog({
    log,
    logKind: kind,
    anchor,
    onClaim: config.kind === 'witness' ? config.onClaim : 'freeze',
    everyMs: config.everySeconds * 1000,
    staleMs: config.staleSeconds * 1000,
    alarms,
    report: async (head) => await agent.reportHead({ key, origin, ...head }),
    onKept: async (note) => await storeNote(anchorFile(loaded.resolve(`anchors/${config.name}`), origin), note),
    now: Date.now,
    logger,
  })
}

/** A copy for whoever audits: the anchor's own is the one that counts, so nothing waits for the disk. */
async function storeNote(path: string, note: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  await writeFile(`${path}.part`, note)
  await rename(`${path}.part`, path)
}
