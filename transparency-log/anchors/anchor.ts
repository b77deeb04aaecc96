/**
 * An anchor remembers, in another failure domain, the newest statement of each origin: a log's head, or the head of the
 * account of key uses. A machine that is rolled back whole, data and guard alike, looks complete to itself; the anchor
 * is what remembers better.
 *
 * **Kept.** When `submit` resolves, the anchor holds this statement durably, or a later `submit` of the same found that
 * it did. It never goes back: a smaller size, or another root for the same size, is refused and what it holds stays.
 *
 * **Not trusted with more than stopping.** An anchor signs nothing for us and can make us sign nothing. What a lying one
 * can do is stop a log: see `AnchorError.evidence`.
 *
 * Whoever has something else to be remembered (the account's head: origin `account.<domain>`, size = last line, root = its
 * chained hash, a note signed by a key of its own, no `consistencyProof`) submits it in the same way to anchors of kind
 * `file`; witnesses take checkpoints of trees only.
 */
import { type NoteSignature, TlogError, verifyConsistency } from '#tlog'

/** What a note says. */
export interface Stated {
  readonly size: number
  /** 32 bytes. */
  readonly rootHash: Uint8Array
}

/** A signed statement that the history of `origin` has come to `size`. */
export interface Statement extends Stated {
  readonly origin: string
  /** A C2SP signed note whose text begins with the origin. */
  readonly note: string
  /** 32-byte hashes from an earlier size to this one (RFC 6962 §2.1.2); missing where the history is no tree. */
  readonly consistencyProof?: (first: number) => Promise<readonly Uint8Array[]>
  /** What a note of this origin says; throws unless its own key signed it. */
  readonly verify: (note: string) => Stated
}

export interface Kept {
  /** Verified lines of the witness; empty for a file. */
  readonly cosignatures: readonly NoteSignature[]
}

export interface Anchor {
  readonly name: string
  readonly kind: 'witness' | 'file'
  /** See above. Rejects with `AnchorError`. */
  submit(statement: Statement): Promise<Kept>
}

export type AnchorErrorCode =
  /** It holds a larger size: we were rolled back, or somebody else signs for this origin. */
  | 'ahead'
  /** What it holds is no beginning of ours: there are two histories. */
  | 'disagrees'
  /** Its answer, or what lies in it, is not signed as it has to be. */
  | 'distrusted'
  /** It does not take statements of this origin or of our keys: to be set up. */
  | 'refused'
  /** It cannot be reached, or failed; may pass. */
  | 'away'

/** Why an anchor did not take a statement. */
export class AnchorError extends Error {
  readonly code: AnchorErrorCode
  /** The size that it holds, where it said so. */
  readonly heldSize: number | undefined
  /**
   * With `ahead` and `disagrees`: the note that it holds, signed by our own key, which nobody can make up. Without it
   * (a witness's bare number) the contradiction is a claim.
   */
  readonly evidence: string | undefined
  constructor(
    code: AnchorErrorCode,
    message: string,
    options: ErrorOptions & { heldSize?: number; evidence?: string } = {},
  ) {
    super(message, options)
    this.name = 'AnchorError'
    this.code = code
    this.heldSize = options.heldSize
    this.evidence = options.evidence
  }
}

/** Throws `ahead` or `disagrees` unless the statement continues what is held, or is the same. */
export async function checkContinues(held: Stated, statement: Statement, evidence: string): Promise<void> {
  const { origin, size, rootHash, consistencyProof } = statement
  const more = { heldSize: held.size, evidence }
  if (held.size > size) {
    throw new AnchorError('ahead', `it holds size ${held.size} of ${origin}, and ours ends at ${size}`, more)
  }
  if (held.size === size) {
    if (Buffer.compare(held.rootHash, rootHash) === 0) return
    const found = `root ${hex(held.rootHash)}, ours is ${hex(rootHash)}`
    throw new AnchorError('disagrees', `at size ${size} of ${origin} it holds ${found}`, more)
  }
  if (consistencyProof === undefined) return
  try {
    const proof = await consistencyProof(held.size)
    verifyConsistency({ first: held.size, firstRoot: held.rootHash, second: size, secondRoot: rootHash, proof })
  } catch (cause) {
    if (!(cause instanceof TlogError)) throw cause
    const found = `size ${held.size} of ${origin} with root ${hex(held.rootHash)}, which is no beginning of ours`
    throw new AnchorError('disagrees', `it holds ${found}`, { ...more, cause })
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
