/**
 * What services may ask of the HSM agent: one method per purpose, whose argument is data. There is no way to have
 * chosen bytes signed; the agent parses and checks each request before it signs (docs/security.md, "What each key can
 * do"). A signature's form follows from the key's kind: ECDSA in ASN.1 DER over the curve's hash (P-256: SHA-256, P-384:
 * SHA-384), RSA PKCS#1 v1.5 over SHA-256, Ed25519 of 64 bytes over the message itself.
 */

export type HsmErrorCode =
  /** Too much is in flight; retriable. */
  | 'busy'
  /** The token, its module or the agent cannot be reached just now; retriable. */
  | 'unavailable'
  /** The agent checked the request and will not sign it. */
  | 'refused'
  /** The key, token or log is latched until an operator acts (docs/runbook.md). */
  | 'latched'
  /** The agent has no key of that name. */
  | 'unknown_key'

/** A failure to sign; `retriable` ones become 503 with Retry-After at the edge. */
export class HsmError extends Error {
  readonly code: HsmErrorCode
  /** Which check refused, for logs and tests: lower-case words joined by `_`, e.g. `not_before_far`, `fork_refused`. */
  readonly reason: string
  constructor(code: HsmErrorCode, reason: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'HsmError'
    this.code = code
    this.reason = reason
  }
  get retriable(): boolean {
    return this.code === 'busy' || this.code === 'unavailable'
  }
}

/** What a key is; which purpose takes which kind is a table (`key-kinds.ts`, docs/hsm). */
export type KeyKind = 'P-256' | 'P-384' | 'rsa-2048' | 'rsa-3072' | 'rsa-4096' | 'ed25519'

/** What may be asked of a key. */
export type Purpose =
  | 'certificate'
  | 'treeHead'
  | 'sct'
  | 'set'
  | 'timestamp'
  | 'tuf'
  | 'caCertificate'
  | 'certificateRequest'
  | 'ceremonyStatement'

/** Whatever is signed on request; a head of the account is asked for without any data. */
export type SignedPurpose = Purpose | 'accountHead'

/** `witnessHead` is asked for by nobody: such a key gives the second signature line of a checkpoint, with its tree head. */
export type KeyPurpose = SignedPurpose | 'witnessHead'

export interface KeyDescription {
  readonly name: string
  readonly kind: KeyKind
  /** SubjectPublicKeyInfo, DER; pinned in the agent's configuration and compared with the token's. */
  readonly spkiDer: Uint8Array
  /** SHA-256 of `spkiDer`, 32 bytes: log id of RFC 6962 and Rekor v1. */
  readonly keyId: Uint8Array
  readonly purposes: readonly KeyPurpose[]
}

export interface CertificateRequest {
  readonly key: string
  /**
   * TBSCertificate, DER: with the critical poison extension (precertificate), or with the SCT list. For the latter the
   * agent verifies the SCT under its pinned CT key over exactly this TBS without the list, so the log has seen it.
   */
  readonly tbsDer: Uint8Array
}

export interface TreeHeadRequest {
  readonly key: string
  readonly origin: string
  readonly size: number
  /** 32 bytes. */
  readonly rootHash: Uint8Array
  readonly timestampMs: number
  /** From the guarded head (`guardedHead`) to `size`; 32-byte hashes, RFC 6962 §2.1.2; empty if the guard is at 0 or at `size`. */
  readonly consistencyProof: readonly Uint8Array[]
  /** Sign for witnesses too, if the key has a `witnessKey`: one more signature. */
  readonly witnessed?: boolean
  /** Who writes the log, a random text of one server's run: another writer at the same time is `origin_in_use`. */
  readonly writer?: string
  /** This is the log's last head. It may be asked for again; every other one is refused `frozen` from then on. */
  readonly freeze?: boolean
}

/** `note` for a checkpoint log: the signed note as served. `signature` for every log: DER, for CT over the RFC 6962 tree head. */
export interface SignedTreeHead {
  readonly note: string
  readonly signature: Uint8Array
  /**
   * What witnesses take: the checkpoint with the line of the log's Ed25519 key; for style tlog the same note, with that
   * line after the P-256 one. Missing or empty if it was not asked for, or that key could not sign just now.
   */
  readonly witnessNote?: string
  /** With `freeze`: when the log was frozen, as its last checkpoint says if it is of style tlog. */
  readonly frozenAtMs?: number
}

/** A head that this key signed, given back to an agent that has forgotten it. */
export interface HeadAdoption extends HeadReport {
  /** When the log was frozen, if this is its last head; else 0. */
  readonly frozenAtMs: number
  /** From the guarded head to this one. */
  readonly consistencyProof: readonly Uint8Array[]
}

/** A head that this key signed, brought back from outside (an anchor). */
export interface HeadReport {
  readonly key: string
  readonly origin: string
  readonly size: number
  /** 32 bytes. */
  readonly rootHash: Uint8Array
  /** Of a CT tree head; 0 for notes. */
  readonly timestampMs: number
  /** DER, as `SignedTreeHead` has it. */
  readonly signature: Uint8Array
}

export interface GuardedHead {
  readonly size: number
  readonly rootHash: Uint8Array
  /** Set once the origin's last head was signed. */
  readonly frozenAtMs?: number
}

export interface GuardedHeadRequest {
  readonly key: string
  readonly origin: string
  /** As in `TreeHeadRequest`; asking keeps the log for this writer. */
  readonly writer?: string
  /** The writer ends: the log is free for the next. */
  readonly release?: boolean
}

export interface SctRequest {
  readonly key: string
  readonly timestampMs: number
  readonly entry:
    | { readonly type: 'precert'; readonly issuerKeyHash: Uint8Array; readonly tbsDer: Uint8Array }
    | { readonly type: 'x509'; readonly certificateDer: Uint8Array }
}

export interface SetRequest {
  readonly key: string
  /** The canonical entry (the leaf's bytes, not base64). */
  readonly body: Uint8Array
  readonly integratedTimeSeconds: number
  /** The virtual log index. */
  readonly logIndex: number
}

export interface TimestampRequest {
  readonly key: string
  /** TSTInfo, DER: the agent compares genTime with its own clock. */
  readonly tstInfoDer: Uint8Array
  /** SignedAttributes as a SET OF, DER (tag 0x31): its messageDigest must be SHA-256 of `tstInfoDer`. */
  readonly signedAttributesDer: Uint8Array
}

export type TufRole = 'root' | 'targets' | 'snapshot' | 'timestamp'

export interface TufRequest {
  readonly key: string
  readonly role: TufRole
  /** Canonical JSON (OLPC) of the `signed` part. */
  readonly payload: Uint8Array
}

/** One line of the agent's account of key uses. `hash` covers the line before it. */
export interface AccountLine {
  readonly sequence: number
  readonly atMs: number
  readonly key: string
  readonly act: string
  readonly count: number
  /** 32 bytes. */
  readonly digest: Uint8Array
  /** 32 bytes. */
  readonly hash: Uint8Array
}

/** What the digest of a line for several uses is over. */
export interface UseDigests {
  readonly sequence: number
  readonly digests: Uint8Array
}

/** Where the account of key uses ends, as a C2SP signed note of its own key. */
export interface AccountHead {
  /** `account.<domain>`. */
  readonly origin: string
  /** The last line, before the one that this signature is accounted for with. */
  readonly size: number
  /** The hash that chains it, 32 bytes. */
  readonly rootHash: Uint8Array
  readonly note: string
}

/** The agent as the services see it. Every method rejects with `HsmError`. */
export interface SigningAgent {
  key(name: string): Promise<KeyDescription>
  certificate(request: CertificateRequest): Promise<Uint8Array>
  treeHead(request: TreeHeadRequest): Promise<SignedTreeHead>
  /** The last head that the agent made durable for this origin; size 0 (root: SHA-256 of nothing) before the first. */
  guardedHead(request: GuardedHeadRequest): Promise<GuardedHead>
  /**
   * Latches the origin if the report is truly a signature of this key over a head that the guard does not know of (a
   * larger size, or another root at its size): the agent's state was rolled back. Rejects `refused` for anything else,
   * so that nobody can stop a log with it but by the log's own signature.
   */
  reportHead(report: HeadReport): Promise<void>
  /** The last version that this key signed for each of its TUF roles; 0 before the first. No lower one is ever signed. */
  tufVersions(request: { readonly key: string }): Promise<Readonly<Partial<Record<TufRole, number>>>>
  /** At most `limit` (and 1000) lines of the account of key uses, from line `from` on; 1 is the first. */
  account(request: { readonly from: number; readonly limit: number }): Promise<readonly AccountLine[]>
  /**
   * Of lines from `from` on that stand for several uses: the digest of each, 32 bytes, joined. A page of them; empty after
   * the last. Lines of older agents have none.
   */
  useDigests(request: { readonly from: number }): Promise<readonly UseDigests[]>
  /** Signs where the account ends. */
  accountHead(request: { readonly key: string }): Promise<AccountHead>
  sct(request: SctRequest): Promise<Uint8Array>
  set(request: SetRequest): Promise<Uint8Array>
  timestamp(request: TimestampRequest): Promise<Uint8Array>
  tuf(request: TufRequest): Promise<Uint8Array>
  status(): Promise<AgentStatus>
  close(): Promise<void>
}

export interface AgentStatus {
  readonly ready: boolean
  /** Why not ready, or empty. */
  readonly reason: string
  /** When this agent process began: another value is a restart. Unix milliseconds. */
  readonly startedAtMs: number
  /** Requests under way, those that wait for a session among them, and how many may be before `busy`. */
  readonly queue: { readonly underWay: number; readonly most: number }
  /** What ends distrust after a step of the clock, and why no time may be signed just now, or empty. */
  readonly clock: { readonly confirmedBy: 'kernel' | 'steady' | 'command'; readonly fault: string }
  readonly tokens: readonly {
    readonly name: string
    readonly label: string
    readonly serial: string
    readonly model: string
    readonly manufacturer: string
    /** From C_GetTokenInfo, whatever module is in between. */
    readonly software: boolean
    readonly loggedIn: boolean
    /** What is known of its kind (docs/hsm), by the profile's name. */
    readonly profile: string
    /** `closed`: requests go there. `open`: it is left alone. `half_open`: it is being tried. */
    readonly breaker: 'closed' | 'open' | 'half_open'
    /** Why it is not in use, or empty. */
    readonly fault: string
    /** The same, if nothing but an operator's `unlatch` helps. */
    readonly latched: string
  }[]
  readonly keys: readonly {
    readonly name: string
    readonly kind: KeyKind
    readonly purposes: readonly KeyPurpose[]
    /** Signatures released since the key was first used. */
    readonly uses: number
    /** Certificates a minute at most, for a key that signs them; `untilMs` if an operator raised it. */
    readonly cap?: { readonly perMinute: number; readonly untilMs?: number }
    readonly latched: string
    /** Its tokens, the preferred first. `unproven`: attributes by which a token does not show that the key is its own. */
    readonly places: readonly {
      readonly token: string
      readonly usable: boolean
      readonly fault: string
      readonly unproven: readonly string[]
    }[]
  }[]
  readonly guards: readonly {
    readonly origin: string
    readonly size: number
    readonly rootHashHex: string
    readonly latched: string
  }[]
}
