/** What a rotation stands still for, from its journal and a question to the server: nothing goes on by looking. */
import { join } from 'node:path'
import { z } from 'zod'
import type { PendingSummary } from '#trust-root'
import type { RotationRecord } from '../journal.ts'
import { factsSchema } from './facts.ts'
import { waitReasons } from './publication.ts'
import type { Installation, Pause } from './rotation.ts'

const pendingAnswer = z.object({ pending: z.custom<PendingSummary>().optional() })

/** Undefined where it can go on, or where that cannot be seen because no server answers. */
export async function pauseOf(
  record: RotationRecord,
  { dataDir, ask }: Pick<Installation, 'dataDir' | 'ask'>,
): Promise<Pause | undefined> {
  const facts = factsSchema.parse(record.facts)
  const { requestFile, chain, certificate, published, waitUntil, pendingId } = facts
  const step = record.steps.find(({ finishedAt }) => finishedAt === undefined)?.name
  if (record.aborting === undefined && step === 'certify' && requestFile !== undefined && chain === undefined) {
    const commonName = certificate?.commonName ?? ''
    return { state: 'awaiting-certificate', requestFile: join(dataDir, requestFile), commonName }
  }
  if (record.aborting === undefined && step === 'wait' && waitUntil !== undefined && published !== undefined) {
    return { state: 'waiting', until: waitUntil, reasons: waitReasons(published) }
  }
  if (pendingId === undefined) return undefined
  try {
    const { pending } = pendingAnswer.parse(await ask('trust-pending', {}))
    return pending?.id === pendingId ? { state: 'awaiting-signatures', pending } : undefined
  } catch {
    // Told by `chancery status`; what the journal says is worth a screen without it.
    return undefined
  }
}
