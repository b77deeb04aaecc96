/**
 * What only the admin socket gives: making and destroying keys, signing the certificates of authorities, lifting
 * latches. The signing socket answers each of these with `refused`.
 */
import type { KeyKind, HeadAdoption, SigningAgent } from './signing.ts'

export interface GenerateKeyRequest {
  /** The token's name in the agent's configuration. */
  readonly token: string
  /** CKA_LABEL, 1 to 63 of `[a-zA-Z0-9_-]`; refused if the token has a key of that label. */
  readonly label: string
  readonly kind: KeyKind
  /** May be wrapped for a backup, under a key that the security officer trusts and no other; false unless told. */
  readonly backup?: boolean
  /**
   * CKA_ID, hex, of as many bytes as `TokenDetails.idBytes`: fixed by a caller that writes it down first, so that it finds
   * the key again after a lost reply. `refused` `id_exists` if a private key on the token has it. Random unless told.
   */
  readonly idHex?: string
}

/** A key pair whose attributes were read back from the token and found to be what the template asked for. */
export interface GeneratedKey {
  /** CKA_ID, hex: as asked for, or as many random bytes as the token takes. */
  readonly idHex: string
  /** SubjectPublicKeyInfo, DER. */
  readonly spkiDer: Uint8Array
  readonly kind: KeyKind
  readonly token: string
  /** RFC 7512 URI of the private key, for `keys.<name>.uri` of the agent's configuration. */
  readonly uri: string
  /** Attributes that the token cannot tell or does not support, for the ceremony's record; empty on a good token. */
  readonly unproven: readonly string[]
}

export interface CaCertificateRequest {
  readonly key: string
  /** TBSCertificate, DER: a CA certificate or a timestamping leaf. */
  readonly tbsDer: Uint8Array
}

export interface CertificateRequestRequest {
  /** A key with the purpose `certificateRequest`. */
  readonly key: string
  /** What the certificate is to be named; the authority decides. */
  readonly organization: string
  readonly commonName: string
}

/** An operator's approval of a plan, or a witness's statement about a transcript. */
export type CeremonyStatementRequest = {
  /** A key with the purpose `ceremonyStatement`. */
  readonly key: string
  readonly ceremony: string
  /** The operator's or witness's name in the plan. */
  readonly name: string
  /** 32 bytes. */
  readonly planSha256: Uint8Array
} & ({ readonly act: 'approve' } | { readonly act: 'witness'; readonly lines: number; readonly head: Uint8Array })

/** `statement` as the agent wrote it, with its clock, and the signature over its UTF-8. */
export interface SignedStatement {
  readonly statement: string
  readonly signature: Uint8Array
}

export interface UnlatchRequest {
  /** `token:<name>`, `key:<name>` or `origin:<origin>`. */
  readonly latch: string
}

export interface LatchedName {
  /** `token:<name>`, `key:<name>` or `origin:<origin>`. */
  readonly name: string
  readonly reason: string
  readonly atMs: number
}

/** A configured token as it is just now; -1 stands for what the token does not tell, and for "no limit". */
export interface TokenDetails {
  readonly name: string
  readonly label: string
  readonly serial: string
  readonly model: string
  readonly manufacturer: string
  readonly software: boolean
  readonly loggedIn: boolean
  /** Reason of its latch, or empty. */
  readonly latched: string
  /** Why nothing more is known of it, or empty. */
  readonly fault: string
  /** Warnings of the token about its PINs, in words. */
  readonly flags: readonly string[]
  /** Of this agent or of all applications, as the module counts. */
  readonly sessions: { readonly open: number; readonly max: number }
  readonly memory: { readonly publicFree: number; readonly privateFree: number; readonly privateTotal: number }
  readonly pinLength: { readonly min: number; readonly max: number }
  /** Bytes of a CKA_ID that it takes: 16, or what its kind is known for. */
  readonly idBytes: number
  /** How far an interrupted `rotatePin` came, or empty. */
  readonly pinRotation: '' | 'intent' | 'set'
}

/** A configured key at one of its places; a key that lies on several tokens has a record for each. */
export interface KeyRecord {
  readonly name: string
  readonly token: string
  readonly idHex: string
  readonly kind: KeyKind
  readonly spkiDer: Uint8Array
  readonly purposes: readonly string[]
  /** Of the log that it signs for, or empty. */
  readonly origin: string
  readonly uses: number
  /** Reason of its own latch or its log's, or empty. */
  readonly latched: string
  /** Why it cannot be used although its token is there, or empty. */
  readonly fault: string
}

/** `unknown`: the token does not tell. */
export type ObjectAttribute = 'yes' | 'no' | 'unknown'

/** Something that lies on a token, whether anybody configured it or not. */
export interface TokenObject {
  readonly class: 'private key' | 'public key' | 'secret key' | 'certificate' | 'data' | 'other'
  /** `EC`, `RSA`, `Edwards`, `AES`, another's number, or empty. */
  readonly keyType: string
  readonly label: string
  /** CKA_ID, or empty. */
  readonly idHex: string
  /** Of a public key of a kind that this project uses; empty otherwise. */
  readonly spkiDer: Uint8Array
  /** Boolean attributes by their name without `CKA_`. */
  readonly attributes: Readonly<Record<string, ObjectAttribute>>
}

/** A private key under a key-encryption key, with all that is needed to make it again elsewhere. No secret. */
export interface WrappedKey {
  readonly label: string
  /** CKA_ID, hex. */
  readonly idHex: string
  readonly kind: KeyKind
  /** SubjectPublicKeyInfo, DER: what the restored key must sign as. */
  readonly spkiDer: Uint8Array
  /** RFC 5649, whose integrity check covers `wrapped` alone. */
  readonly mechanism: 'AES-KWP'
  /** CKA_ID of the key-encryption key, the same on every token that has it. */
  readonly kekIdHex: string
  /** PKCS#8 under the key-encryption key. */
  readonly wrapped: Uint8Array
}

export interface RestoredKey extends GeneratedKey {
  /** It was there already, and signs. */
  readonly already: boolean
}

export interface RaiseCapRequest {
  readonly key: string
  /** Certificates a minute, not below the configured cap; that number ends a raise. */
  readonly perMinute: number
  /** 1 to 60. */
  readonly minutes: number
}

/** What another reading of the configuration changed, by name. */
export interface Reloaded {
  readonly keys: { readonly added: readonly string[]; readonly dropped: readonly string[] }
  readonly tokens: { readonly added: readonly string[]; readonly dropped: readonly string[] }
  /** Configured, and not usable just now: `key:<name>` or `token:<name>`. */
  readonly faults: readonly { readonly name: string; readonly message: string }[]
  /** Settings that differ from those that the agent was started with. */
  readonly needsRestart: readonly string[]
}

/** The agent as ceremonies and operators see it, on the admin socket. */
export interface AdminAgent extends SigningAgent {
  /**
   * Makes a key pair on the token; not retried by itself, since a lost reply would leave a second key. With `idHex` it may
   * be asked again: refused `id_exists` once the key is there.
   */
  generateKey(request: GenerateKeyRequest): Promise<GeneratedKey>
  /** Signature over a CA's or a timestamp authority's TBSCertificate. */
  caCertificate(request: CaCertificateRequest): Promise<Uint8Array>
  /** A PKCS#10 request, DER, by which a key asks another machine's authority for a certificate. */
  certificateRequest(request: CertificateRequestRequest): Promise<Uint8Array>
  /** An approval or a witness's statement for a ceremony. */
  ceremonyStatement(request: CeremonyStatementRequest): Promise<SignedStatement>
  /** Every configured token. Answers also while none is connected. */
  tokens(): Promise<readonly TokenDetails[]>
  latches(): Promise<readonly LatchedName[]>
  /** Every configured key, with its uses. */
  keyRecords(): Promise<readonly KeyRecord[]>
  /** Everything on a token, page by page: signing goes on in between. */
  listObjects(token: string): Promise<readonly TokenObject[]>
  /**
   * Gives the token another PIN and puts it into the PIN file, in an order that survives a kill at any point; called
   * again it completes what was interrupted (`resumed`: with the PIN of then). Without `newPin` a random one. Resolves
   * after a login with the new PIN.
   */
  rotatePin(request: { readonly token: string; readonly newPin?: string }): Promise<{ readonly resumed: boolean }>
  /** Wraps a key that was made with `backup` under the token's trusted key-encryption key. */
  wrapKey(request: { readonly token: string; readonly idHex: string }): Promise<WrappedKey>
  /** Puts a wrapped key on a token that has the same key-encryption key; it has signed and verified when this resolves. */
  unwrapKey(request: { readonly token: string; readonly key: WrappedKey }): Promise<RestoredKey>
  /** Destroys both halves of the key with this CKA_ID; refused for a key of the configuration. */
  destroyKey(request: { readonly token: string; readonly idHex: string }): Promise<void>
  /**
   * Gives a guard back what it forgot: a head that this key signed and that follows from what the guard still knows. Lifts
   * the origin's latch. Never lowers a guard; refused `guard_ahead` or `not_a_continuation` then, and `bad_signature` for
   * what this key never signed.
   */
  adoptHead(adoption: HeadAdoption): Promise<void>
  /** Lifts a latch after an operator has found its cause; a token's latch then allows one more login attempt. */
  unlatch(request: UnlatchRequest): Promise<void>
  /** Raises the cap on certificates of one key for a while; recorded in the account, kept over restarts. */
  raiseCap(request: RaiseCapRequest): Promise<{ readonly perMinute: number; readonly untilMs: number }>
  /**
   * Reads the configuration again while requests run. New keys and tokens are there when it resolves (`faults` names those
   * that cannot be used), each new token with one login; those that stay are not logged in to again. Requests under way
   * with a key that is gone are answered first; a token that is gone is logged out. Sockets, state folder and module stay
   * as they were (`needsRestart`); a token that could not be logged in to may be described anew. Rejects `refused`
   * (`bad_configuration`, `key_changed`, `token_changed`) and leaves the old configuration in force.
   */
  reload(): Promise<Reloaded>
}
