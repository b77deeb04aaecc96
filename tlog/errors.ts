/** What was wrong with a proof, a tile, a note or a request for one. */
export type TlogErrorCode =
  /** An index or size outside the tree, or not a safe integer. */
  | 'out_of_range'
  /** The proof has the wrong number of hashes or leads to another root. */
  | 'invalid_proof'
  | 'malformed_note'
  | 'malformed_checkpoint'
  | 'malformed_tile'
  | 'malformed_key'
  /** No signature of the expected key, more than one, or one that does not verify. */
  | 'bad_signature'

/** The one error of this module; messages are safe to show. */
export class TlogError extends Error {
  readonly code: TlogErrorCode
  constructor(code: TlogErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'TlogError'
    this.code = code
  }
}
