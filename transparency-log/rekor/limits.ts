/** What one request may cost before any of its work is done (design §2.9). */
import { EntryError } from './errors.ts'

/** A tiled log frames each leaf with a 16-bit length (C2SP tlog-tiles). */
export const MAX_LEAF_BYTES = 65_535

/** Proposed entries of v1 carry their payload; rekor's own test configuration takes 32 MiB, real attestations stay below this. */
export const MAX_V1_REQUEST_BYTES = 8 * 1024 * 1024

/** rekor-tiles takes 4 MiB. */
export const MAX_V2_REQUEST_BYTES = 4 * 1024 * 1024

/** Searches and retrievals carry keys and identifiers; up to ten proposed entries may be among them. */
export const MAX_RETRIEVE_BYTES = 8 * 1024 * 1024
export const MAX_SEARCH_BYTES = 64 * 1024

export const MAX_SIGNATURES = 8
export const MAX_VERIFIERS = 8
/** Signature verifications in one request, those of certificate chains included. */
export const MAX_CHECKS = 16

/** rekor reads chains of up to ten certificates. */
export const MAX_CHAIN = 10

/** Deeper JSON than this has no use in any entry. */
export const MAX_JSON_DEPTH = 32

/** rekor's default bound for stored attestations. */
export const MAX_ATTESTATION_BYTES = 100 * 1024

/** What the store takes for one entry. */
export const MAX_SEARCH_KEYS = 128
/** A SAN of an issued certificate is at most 512 characters in rekor's search. */
export const MAX_SEARCH_KEY_CHARS = 1024

/** Counts down the signature verifications that one request may still cause. */
export class CheckBudget {
  #left = MAX_CHECKS
  /** Throws `too_many` once the request has caused `MAX_CHECKS` verifications. */
  spend(): void {
    if (this.#left === 0) throw new EntryError('too_many', `more than ${MAX_CHECKS} signature checks in one request`)
    this.#left -= 1
  }
}
