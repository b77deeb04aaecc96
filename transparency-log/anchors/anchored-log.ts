/**
 * One log at one anchor: sends it each new head, some seconds after it was sealed and never in anybody's way, and stops
 * the log if the anchor remembers better.
 *
 * The first check is made before the log takes its first new entry: a machine that was rolled back has signed nothing new
 * by then. An anchor that is away stops nothing; what it did not get is in the next head.
 */
import type { Alarms } from '#alarms'
import type { NoteSignature } from '#tlog'
import { withSignatures } from '#tlog'
import type { Logger } from 'pino'
import { type Log, LogError, type SealedHead } from '../log.ts'
import type { LogKind } from '../open.ts'
import { type Anchor, AnchorError } from './anchor.ts'
import type { CtTreeHead } from './ct-note.ts'
import { logStatement, readOwnNote } from './log-statement.ts'

export interface AnchoredLogOptions {
  readonly log: Pick<Log, 'name' | 'origin' | 'spkiDer' | 'logId' | 'head' | 'consistencyProof' | 'halt'>
  readonly logKind: LogKind
  readonly anchor: Anchor
  /** What a larger size or another root stops the log for that the anchor cannot prove; `alarm` only tells of it. */
  readonly onClaim: 'freeze' | 'alarm'
  readonly everyMs: number
  /** With no head taken for this long there is an alarm. */
  readonly staleMs: number
  readonly alarms: Pick<Alarms, 'raise' | 'clear'>
  /** Given a head that our own key signed and that we do not know of: the agent's guard should. */
  readonly report: (head: CtTreeHead) => Promise<void>
  /** Given each note that the anchor has taken, with its cosignatures; what goes wrong there is told and no more. */
  readonly onKept: (note: string) => Promise<void>
  readonly now: () => number
  readonly logger: Pick<Logger, 'info' | 'warn' | 'error'>
}

/** For status. */
export interface AnchorState {
  readonly anchor: string
  readonly kind: Anchor['kind']
  readonly log: string
  /** Newest head that it took from this process, and when. */
  readonly size?: number
  readonly at?: string
  /** Why the last attempt failed; empty if it did not. */
  readonly fault: string
}

/** An unchanged head is shown again after this long: the anchor may have heard of a larger one from elsewhere. */
const REPEAT_MS = 60_000
const BACKOFF_MOST_MS = 30_000

const ANCHOR_ALARMS = [
  'anchor_ahead',
  'anchor_disagrees',
  'anchor_stale',
  'anchor_distrusted',
  'anchor_refused',
] as const

export class AnchoredLog {
  readonly #options: AnchoredLogOptions
  readonly #subject: string
  #taken:
    | { readonly head: SealedHead; readonly cosignatures: readonly NoteSignature[]; readonly atMs: number }
    | undefined
  #lastTakenMs: number
  #fault = ''
  #asked = false
  #failures = 0
  #notBeforeMs = 0
  #timer: NodeJS.Timeout | undefined
  #checking: Promise<boolean> | undefined
  #stopped = false

  constructor(options: AnchoredLogOptions) {
    this.#options = options
    this.#subject = `${options.log.name} at ${options.anchor.name}`
    this.#lastTakenMs = options.now()
  }

  /** Makes the first check and goes on by itself. True if the anchor took the head. Never rejects. */
  async start(): Promise<boolean> {
    const taken = await this.check()
    if (!this.#stopped) this.#timer = setInterval(() => void this.#tick(), this.#options.everyMs).unref()
    return taken
  }

  /** True if the anchor has the newest head; false for ever once it stopped the log. Never rejects. */
  async check(): Promise<boolean> {
    if (this.#stopped) return false
    this.#checking ??= this.#check().finally(() => {
      this.#checking = undefined
    })
    return await this.#checking
  }

  /** True once the anchor has answered, whatever it said: it took a head, or it contradicts. */
  get asked(): boolean {
    return this.#asked
  }

  state(): AnchorState {
    const { anchor, log } = this.#options
    const taken = this.#taken && { size: this.#taken.head.size, at: new Date(this.#taken.atMs).toISOString() }
    return { anchor: anchor.name, kind: anchor.kind, log: log.name, ...taken, fault: this.#fault }
  }

  /** Of exactly this head, or none. */
  cosignatures(head: SealedHead): readonly NoteSignature[] {
    const taken = this.#taken
    if (taken === undefined || taken.head.size !== head.size) return []
    return Buffer.compare(taken.head.rootHash, head.rootHash) === 0 ? taken.cosignatures : []
  }

  async close(): Promise<void> {
    this.#stopped = true
    clearInterval(this.#timer)
    await this.#checking
  }

  async #tick(): Promise<void> {
    const nowMs = this.#options.now()
    if (this.#stopped || nowMs < this.#notBeforeMs) return
    const head = this.#options.log.head()
    const news = this.#fault !== '' || this.#taken?.head.size !== head.size
    if (news || nowMs - this.#lastTakenMs >= REPEAT_MS) await this.check()
  }

  async #check(): Promise<boolean> {
    const { anchor, log, logKind, onKept, logger } = this.#options
    try {
      const head = log.head()
      const statement = logStatement(log, logKind, anchor.kind, head)
      if (statement === undefined) {
        throw new AnchorError('refused', 'there is no line for witnesses: is witnessKey set in agent.yaml?')
      }
      const { cosignatures } = await anchor.submit(statement)
      this.#succeeded(head, cosignatures)
      await onKept(withSignatures(statement.note, cosignatures)).catch((err: unknown) =>
        logger.warn({ log: log.name, anchor: anchor.name, err }, 'the copy of an anchored note could not be kept'),
      )
      return true
    } catch (error) {
      await this.#failed(error)
      return false
    }
  }

  #succeeded(head: SealedHead, cosignatures: readonly NoteSignature[]): void {
    const { now, alarms, logger, anchor, log } = this.#options
    if (this.#fault !== '')
      logger.info({ log: log.name, anchor: anchor.name, size: head.size }, 'anchor takes heads again')
    this.#taken = { head, cosignatures, atMs: now() }
    this.#lastTakenMs = now()
    this.#asked = true
    this.#fault = ''
    this.#failures = 0
    this.#notBeforeMs = 0
    for (const code of ANCHOR_ALARMS) alarms.clear(code, this.#subject)
  }

  async #failed(error: unknown): Promise<void> {
    const { alarms, logger, log, anchor, now, everyMs, staleMs } = this.#options
    const known =
      error instanceof AnchorError ? error : new AnchorError('away', 'it could not be asked', { cause: error })
    const fault = `anchor ${anchor.name}: ${known.message}`
    if (fault !== this.#fault)
      logger.warn({ log: log.name, anchor: anchor.name, err: error }, 'an anchor did not take a head')
    this.#fault = fault
    this.#notBeforeMs = now() + Math.min(everyMs * 2 ** this.#failures++, BACKOFF_MOST_MS) - everyMs / 2
    if (known.code === 'ahead' || known.code === 'disagrees') await this.#contradicted(known)
    if (known.code === 'distrusted') alarms.raise('anchor_distrusted', this.#subject, `${fault}. It counts as away`)
    if (known.code === 'refused') alarms.raise('anchor_refused', this.#subject, fault)
    const silentMs = now() - this.#lastTakenMs
    if (silentMs >= staleMs) {
      alarms.raise('anchor_stale', this.#subject, `${fault}. It has taken no head for ${Math.round(silentMs / 1000)} s`)
    }
  }

  async #contradicted(error: AnchorError): Promise<void> {
    const { alarms, log, logKind, anchor, onClaim, report, logger } = this.#options
    // An answer to an older head of ours is overtaken by the next check.
    if (error.code === 'ahead' && (error.heldSize ?? 0) <= log.head().size) return
    const code = error.code === 'ahead' ? 'anchor_ahead' : 'anchor_disagrees'
    this.#asked = true
    const proven = error.evidence !== undefined
    const stops = proven || onClaim === 'freeze'
    const found =
      `anchor ${anchor.name}: ${error.message}${proven ? ', signed by our own key' : ''}. ` +
      (stops
        ? `The log ${log.name} takes no entries until this is understood`
        : 'The log goes on, as configured (onClaim)') +
      `: docs/runbook.md#${code}`
    alarms.raise(code, this.#subject, found)
    if (!stops) return
    log.halt(new LogError(code, found, { cause: error }))
    clearInterval(this.#timer)
    this.#stopped = true
    if (error.evidence === undefined) return
    try {
      await report(readOwnNote(log, logKind, error.evidence))
    } catch (err) {
      logger.warn({ log: log.name, anchor: anchor.name, err }, 'the agent did not latch on what the anchor holds')
    }
  }
}
