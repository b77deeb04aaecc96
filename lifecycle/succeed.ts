/**
 * The successor of a log that cannot be used any more: a rotation of its kind that nobody waits for and that asks nothing
 * of the log itself. Its journal is beside that of rotations, since it cannot wait until one of them is finished; called
 * again after a kill it goes on.
 */
import { OperatorError } from '#alarms'
import { Journal, readRotations, type RotationKind, type RotationRecord } from './journal.ts'
import type { FormerLog } from './log-names.ts'
import { type Facts, factsSchema, known } from './rotation/facts.ts'
import { advance, type Installation, type Pause, type StepPhase, type Wishes } from './rotation/rotation.ts'
import { planShard } from './rotation/shard.ts'

export interface SucceedOptions {
  readonly installation: Installation
  readonly log: FormerLog
  /** Where the successor listens and is dialled; chosen unless told. Rekor v1 keeps the address of its service. */
  readonly wishes: Pick<Wishes, 'listen' | 'url'>
  /** Stop once the successor's key is published, so that clients learn it before it is used. */
  readonly publishOnly?: boolean
  readonly onStep?: (step: string, phase: StepPhase) => void
}

export interface Succeeded {
  readonly successor: string
  readonly origin: string
  readonly url: string
  /** Missing while only its key is published. */
  readonly former?: { readonly size: number; readonly frozen: boolean }
  /** What it stands still for; a publication may have to be signed by its custodians. */
  readonly pause?: Pause
}

const KINDS = { ct: 'ct-log', 'rekor-v1': 'rekor-v1', 'rekor-v2': 'rekor-v2' } as const satisfies Readonly<
  Record<FormerLog['kind'], RotationKind>
>

/** Of the journal's file. */
const JOURNAL = 'succession'

/** A canary needs a log that takes entries, and the former key may be asked for nothing more. */
const LEFT_OUT = ['prove', 'retire']

/** Makes the successor or goes on with it. Rejects with `OperatorError`, or what the server or agent refused. */
export async function succeed(options: SucceedOptions): Promise<Succeeded> {
  const { installation, log, wishes, publishOnly = false, onStep = () => undefined } = options
  const { dataDir } = installation
  const journal = new Journal(dataDir, () => new Date(), JOURNAL)
  try {
    const { current } = journal
    if (current === undefined) {
      refuseTwice(dataDir, log)
      onStep('plan', 'begun')
      journal.begin(KINDS[log.kind], await planShard(installation, log, { wishes, now: new Date() }))
    } else requireSameLog(current, log)
    const { record, pause } = await advance(journal, { installation, onStep }, { shorten: !publishOnly }, LEFT_OUT)
    return told(factsSchema.parse(record.facts), pause)
  } finally {
    journal.close()
  }
}

/** The log whose succession was begun and is not finished, by its name. */
export function succeedingLog(dataDir: string): string | undefined {
  const { current } = readRotations(dataDir, JOURNAL)
  return current && formerName(current)
}

function told(facts: Facts, pause: Pause | undefined): Succeeded {
  const { name: successor, origin, url } = known(facts.shard, 'shard')
  const { formerSize: size, formerFrozen: frozen } = facts
  return {
    successor,
    origin,
    url,
    ...(size === undefined || frozen === undefined ? {} : { former: { size, frozen } }),
    ...(pause === undefined || pause.state === 'waiting' ? {} : { pause }),
  }
}

/** A rotation of this very log has made its next shard already. */
function refuseTwice(dataDir: string, { name }: FormerLog): void {
  const { current } = readRotations(dataDir)
  if (current === undefined || formerName(current) !== name) return
  throw new OperatorError(
    'rotation_underway',
    `a rotation of log ${name} is under way: go on with chancery rotate resume --shorten, or undo it with chancery rotate abort`,
  )
}

function requireSameLog(current: RotationRecord, { name }: FormerLog): void {
  const begun = formerName(current)
  if (begun === name) return
  throw new OperatorError('rotation_underway', `the successor of ${begun} is half made: chancery log succeed ${begun}`)
}

function formerName({ facts }: RotationRecord): string {
  return factsSchema.safeParse(facts).data?.former.log?.name ?? ''
}
