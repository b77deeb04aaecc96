/** Why trust material was not read, rendered, signed or published. */
export type TrustRootErrorCode =
  /** roles.json is malformed or contradicts itself. */
  | 'invalid_roles'
  /** items.json is missing, malformed or contradicts itself. */
  | 'invalid_items'
  /** The linter refused what would have been published; `findings` name the rules. */
  | 'lint'
  /** A repository is there already, or none is there. */
  | 'exists'
  | 'missing'
  /** The repository on disk does not verify: it was altered, or half of it was restored. */
  | 'damaged_repository'
  /** Another publication waits for its custodians. */
  | 'publication_pending'
  /** None waits. */
  | 'no_pending_publication'
  /** A signature that somebody brings is not one of the pending publication, or does not verify. */
  | 'signature_refused'
  /** It is here already. */
  | 'signature_known'
  /** What waits for signatures would have expired by now. */
  | 'candidate_expired'
  /** A payload is not what it says. */
  | 'payload_refused'
  /** A root that somebody has signed cannot be unmade. */
  | 'root_signed'
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
