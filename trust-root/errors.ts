/** Why trust material was not read, rendered, signed or published. */
export type TrustRootErrorCode =
  /** items.json is missing, malformed or contradicts itself. */
  | 'invalid_items'
  /** The linter refused what would have been published; `findings` name the rules. */
  | 'lint'
  /** A repository is there already, or none is there. */
  | 'exists'
  | 'missing'
  /** The repository on disk does not verify: it was altered, or half of it was restored. */
  | 'damaged_repository'
  /** The root signer is needed and was not given (production: a ceremony on the admin socket). */
  | 'root_signer_needed'
  /** A signature came back that does not verify, or a threshold is not met by the keys at hand. */
  | 'unsigned'
  /** A value that TUF's canonical JSON cannot hold. */
  | 'not_canonical'

/** The one error of this folder; anything else that rises is `HsmError` from the agent or a fault of the file system. */
export class TrustRootError extends Error {
  readonly code: TrustRootErrorCode
  constructor(code: TrustRootErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'TrustRootError'
    this.code = code
  }
}
