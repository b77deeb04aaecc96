/**
 * One rotation from its first step to its last, or back again. The journal knows each step before it is begun and what it
 * made before the next one is; a step that was interrupted is done again and finds what is there already.
 *
 *     plan ─ key ─ certify ─ agent ─ publish ─ wait ─ switch ─ prove ─ end ─ retire
 *                                                    │
 *            abort: all of it is undone              │ only forward from here
 *
 * Clients are told to trust the new key first, and given the time to notice; it signs only then. The former key is trusted
 * for what it signed, up to the end of its window.
 */
import { OperatorError } from '#alarms'
import type { PendingSummary } from '#trust-root'
import type { AgentReach } from '../agents.ts'
import { Journal, type RotationKind, type RotationRecord, underway } from '../journal.ts'
import type { FormerLog } from '../log-names.ts'
import { type Facts, factsSchema } from './facts.ts'
import { kindOf } from './kinds.ts'
import { inventoryOf } from './publication.ts'
import { undo } from './undo.ts'

/** What a rotation needs of the configuration that is in force. */
export interface Installation {
  readonly dataDir: string
  readonly domain: string
  /** Of the keys that services sign with. */
  readonly agent: AgentReach
  /** That agent was not started by the server: it may be another user's. */
  readonly agentApart?: boolean
  /** Of the root token, where it is at hand; elsewhere certificates are asked for by file. */
  readonly rootAgent?: AgentReach
  readonly ca?: { readonly key: string; readonly chain: string; readonly ctLog: string }
  readonly timestamp?: { readonly key: string; readonly chain: string }
  readonly logs: readonly FormerLog[]
  readonly trustRoot?: { readonly folder: string; readonly onlineKey: string; readonly rootKey: string }
  /** An absolute path for one of the configuration's. */
  readonly resolve: (path: string) => string
  /** Asks the running server. */
  readonly ask: (verb: string, argument: unknown) => Promise<unknown>
}

/** What the operator asked for, when the rotation was begun. */
export interface Wishes {
  /** The former key is destroyed in the last step; kept on its token otherwise. */
  readonly destroyOldKey?: boolean
  /** Where a log's successor listens and is dialled. */
  readonly listen?: string
  readonly url?: string
  /** Of TUF root and targets: whose key goes, where several have one, and the next one if it was made elsewhere (PEM). */
  readonly custodian?: string
  readonly publicKey?: string
}

/** What the operator says now. */
export interface Resuming {
  /** PEM of the certificate that was asked for, with or without its chain. */
  readonly certificate?: string
  /** Switches although cached clients may not know the new key yet. */
  readonly shorten?: boolean
}

/** Why a rotation stands still until somebody, or the clock, has done something. */
export type Pause =
  | { readonly state: 'awaiting-signatures'; readonly pending: PendingSummary }
  | { readonly state: 'awaiting-certificate'; readonly requestFile: string; readonly commonName: string }
  | { readonly state: 'waiting'; readonly until: string; readonly reasons: readonly WaitReason[] }

export interface WaitReason {
  readonly who: string
  readonly until: string
}

/** One step's surroundings: all that it knows, and the only way in which it may remember something. */
export interface Rotation {
  readonly kind: RotationKind
  readonly installation: Installation
  readonly facts: Facts
  readonly resuming: Resuming
  readonly now: () => Date
  /** Durable when it returns. */
  readonly keep: (changes: Partial<Facts>) => void
}

export interface Step {
  readonly name: string
  readonly run: (rotation: Rotation) => Promise<Pause | undefined>
}

/** How one kind is rotated. */
export interface RotationPlan {
  /** Looks at everything and changes nothing; throws `rotation_impossible` where this kind cannot be rotated here. */
  readonly plan: (installation: Installation, wishes: Wishes, now: Date) => Promise<Facts>
  readonly steps: readonly Step[]
  /** Whether the new key signs: by what is configured, not by what the journal says. */
  readonly isSwitched: (rotation: Pick<Rotation, 'installation' | 'facts'>) => boolean
}

/** `begun`: nothing of it is done. `acted`: done and not noted. `noted`: done and noted. */
export type StepPhase = 'begun' | 'acted' | 'noted'

export interface RotationOptions {
  readonly installation: Installation
  readonly now?: () => Date
  readonly onStep?: (step: string, phase: StepPhase) => void
}

/** How far it came. */
export interface Rotated {
  readonly record: RotationRecord
  /** Missing once it is done. */
  readonly pause?: Pause
}

/** What would be made, without making it. */
export async function planRotation(
  kind: RotationKind,
  { installation, now = () => new Date(), ...wishes }: RotationOptions & Wishes,
): Promise<Facts> {
  await inventoryOf(installation)
  return await kindOf(kind).plan(installation, wishes, now())
}

/** Begins a rotation and goes as far as it can. Throws `rotation_underway` while there is one. */
export async function rotate(
  kind: RotationKind,
  options: RotationOptions & { readonly wishes: Wishes; readonly resuming?: Resuming },
): Promise<Rotated> {
  const { installation, wishes, resuming = {}, now = () => new Date() } = options
  return await withJournal(options, async (journal) => {
    if (journal.current !== undefined) throw underway(journal.current)
    // Clients could not be told, and nothing proved.
    await inventoryOf(installation)
    journal.begin(kind, await kindOf(kind).plan(installation, wishes, now()))
    return await advance(journal, options, resuming)
  })
}

/** Goes on where the rotation was left; also with one that is being undone. Throws `rotation_none`. */
export async function resumeRotation(options: RotationOptions & { readonly resuming: Resuming }): Promise<Rotated> {
  return await withJournal(options, async (journal) => {
    const record = present(journal)
    if (record.aborting !== undefined) return await goBack(journal, options)
    return await advance(journal, options, options.resuming)
  })
}

/** Undoes a rotation whose new key does not sign yet. Throws `rotation_none`, or `rotation_switched`. */
export async function abortRotation(options: RotationOptions & { readonly keepKeys: boolean }): Promise<Rotated> {
  return await withJournal(options, async (journal) => {
    const { kind, facts } = present(journal)
    const { installation } = options
    if (kindOf(kind).isSwitched({ installation, facts: factsSchema.parse(facts) })) {
      throw new OperatorError(
        'rotation_switched',
        `the new key of ${kind} signs already: finish with chancery rotate resume; to be rid of it, rotate once more after that, or cut it with chancery distrust`,
      )
    }
    journal.abort(options)
    return await goBack(journal, options)
  })
}

async function withJournal<T>(
  { installation, now }: RotationOptions,
  use: (journal: Journal) => Promise<T>,
): Promise<T> {
  const journal = new Journal(installation.dataDir, now)
  try {
    return await use(journal)
  } finally {
    journal.close()
  }
}

function present({ current }: Journal): RotationRecord {
  if (current === undefined) {
    throw new OperatorError('rotation_none', 'no rotation is under way; see what was done: chancery rotate status')
  }
  return current
}

/** The steps that are not done, one after the other, until one has to wait; those that are left out are none. */
export async function advance(
  journal: Journal,
  options: RotationOptions,
  resuming: Resuming,
  leftOut: readonly string[] = [],
): Promise<Rotated> {
  const { onStep = () => undefined } = options
  for (const { name, run } of kindOf(present(journal).kind).steps) {
    if (leftOut.includes(name) || !journal.start(name)) continue
    onStep(name, 'begun')
    const pause = await run(rotationIn(journal, options, resuming))
    if (pause !== undefined) return { record: present(journal), pause }
    onStep(name, 'acted')
    journal.finish(name)
    onStep(name, 'noted')
  }
  return { record: journal.end('done') }
}

async function goBack(journal: Journal, options: RotationOptions): Promise<Rotated> {
  const { onStep = () => undefined } = options
  const keepKeys = present(journal).aborting?.keepKeys ?? false
  const pause = await undo(rotationIn(journal, options, {}), { keepKeys, onStep: (step) => onStep(step, 'begun') })
  if (pause !== undefined) return { record: present(journal), pause }
  return { record: journal.end('aborted') }
}

function rotationIn(journal: Journal, options: RotationOptions, resuming: Resuming): Rotation {
  const { installation, now = () => new Date() } = options
  return {
    kind: present(journal).kind,
    installation,
    resuming,
    now,
    get facts() {
      return factsSchema.parse(present(journal).facts)
    },
    keep: (changes) => void journal.keep(factsSchema.partial().parse(changes)),
  }
}
