/** Verifying a transcript: everything again, offline, from the file alone; then who witnessed it, and whether it is in the log. */
import { hash } from 'node:crypto'
import { OperatorError } from '#alarms'
import { checkStatement, type SignedStatement } from './approval.ts'
import { replay, type Replay } from './replay.ts'
import { readTranscript, type TranscriptLine } from './transcript.ts'

/** A transcript that holds. */
export interface VerifiedTranscript {
  readonly state: Replay
  readonly lines: readonly TranscriptLine[]
  readonly head: string
  /** SHA-256 of the file: what is logged. */
  readonly fileSha256: string
  /** Names of those who signed its head. */
  readonly witnesses: readonly string[]
}

/**
 * Throws `ceremony_transcript_damaged` or `ceremony_transcript_wrong` with the line that does not hold,
 * `ceremony_transcript_unfinished`, and `ceremony_witness_refused` for a witness of anything else. `unfinished`: one that
 * is still under way is good enough.
 */
export function verifyTranscript(
  text: string,
  { witnesses, unfinished = false }: { readonly witnesses: readonly SignedStatement[]; readonly unfinished?: boolean },
): VerifiedTranscript {
  const lines = readTranscript(text)
  const state = replay(lines)
  if (!state.ended && !unfinished) {
    const left = state.steps.filter(({ id }) => !state.done.has(id)).map(({ id }) => id)
    const what = left.length === 0 ? 'its end' : left.join(', ')
    throw new OperatorError(
      'ceremony_transcript_unfinished',
      `the transcript ends at line ${lines.length}; missing: ${what}`,
    )
  }
  const head = lines.at(-1)?.hash ?? ''
  const names = witnesses.map((witness) => checkWitness(state, witness, { lines: lines.length, head }))
  return { state, lines, head, fileSha256: hash('sha256', text), witnesses: [...new Set(names)] }
}

function checkWitness(
  { read }: Replay,
  signed: SignedStatement,
  { lines, head }: { readonly lines: number; readonly head: string },
): string {
  let said: ReturnType<typeof checkStatement<'witness'>>
  try {
    said = checkStatement(read, signed, 'witness')
  } catch (error) {
    if (!(error instanceof OperatorError) || error.code !== 'ceremony_approval_refused') throw error
    throw new OperatorError('ceremony_witness_refused', error.message, { cause: error })
  }
  if (said.lines === lines && said.head === head) return said.name
  throw new OperatorError(
    'ceremony_witness_refused',
    `${said.name} witnessed ${said.lines} lines with head ${said.head}; this transcript has ${lines} with head ${head}`,
  )
}
