/**
 * What only the admin socket gives: making and destroying keys, signing the certificates of authorities, lifting
 * latches. The signing socket answers each of these with `refused`.
 */
import type { KeyKind, SigningAgent } from './signing.ts'

export interface GenerateKeyRequest {
  /** The token's name in the agent's configuration. */
  readonly token: string
  /** CKA_LABEL, 1 to 63 of `[a-zA-Z0-9_-]`; refused if the token has a key of that label. */
  readonly label: string
  readonly kind: KeyKind
}

/** A key pair whose attributes were read back from the token and found to be what the template asked for. */
export interface GeneratedKey {
  /** CKA_ID: 16 random bytes, hex. */
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

export interface UnlatchRequest {
  /** `token:<name>`, `key:<name>` or `origin:<origin>`. */
  readonly latch: string
}

export interface RaiseCapRequest {
  readonly key: string
  /** Certificates a minute, not below the configured cap; that number ends a raise. */
  readonly perMinute: number
  /** 1 to 60. */
  readonly minutes: number
}

/** The agent as ceremonies and operators see it, on the admin socket. */
export interface AdminAgent extends SigningAgent {
  /** Makes a key pair on the token; not retried by itself, since a lost reply would leave a second key. */
  generateKey(request: GenerateKeyRequest): Promise<GeneratedKey>
  /** Signature over a CA's or a timestamp authority's TBSCertificate. */
  caCertificate(request: CaCertificateRequest): Promise<Uint8Array>
  /** Destroys both halves of the key with this CKA_ID; refused for a key of the configuration. */
  destroyKey(request: { readonly token: string; readonly idHex: string }): Promise<void>
  /** Lifts a latch after an operator has found its cause; a token's latch then allows one more login attempt. */
  unlatch(request: UnlatchRequest): Promise<void>
  /** Raises the cap on certificates of one key for a while; recorded in the account, kept over restarts. */
  raiseCap(request: RaiseCapRequest): Promise<{ readonly perMinute: number; readonly untilMs: number }>
  /** Reads the configuration again: new keys appear. Tokens, sockets, state folder and module stay as they were. */
  reload(): Promise<void>
}
