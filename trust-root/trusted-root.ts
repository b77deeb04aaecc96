import { createHash, X509Certificate } from 'node:crypto'
import { formatTime, type Inventory, type TrustItem } from './items.ts'

/** The only media type that sigstore-go and sigstore-python read; the specification's newer v0.2 form is refused. */
export const TRUSTED_ROOT_MEDIA_TYPE = 'application/vnd.dev.sigstore.trustedroot+json;version=0.1'

/** RFC 3339 times, whole seconds, inclusive. */
export interface TimeRange {
  readonly start: string
  readonly end?: string
}

/** One log in proto3 JSON; `operator` and `checkpointKeyId` are left out on purpose (decision in `renderTrustedRoot`). */
export interface TransparencyLogInstance {
  readonly baseUrl: string
  readonly hashAlgorithm: 'SHA2_256'
  readonly publicKey: {
    /** SubjectPublicKeyInfo DER, base64. */
    readonly rawBytes: string
    readonly keyDetails: 'PKIX_ECDSA_P256_SHA_256'
    readonly validFor: TimeRange
  }
  /** SHA-256 of the SubjectPublicKeyInfo, base64: also the log id of Rekor v2, since its key is ECDSA. */
  readonly logId: { readonly keyId: string }
}

/** One chain, for CA and TSA alike. */
export interface CertificateAuthority {
  readonly subject: { readonly organization: string; readonly commonName: string }
  readonly uri: string
  /** Issuing CA or TSA leaf first, self-signed root last; DER, base64. */
  readonly certChain: { readonly certificates: readonly { readonly rawBytes: string }[] }
  readonly validFor: TimeRange
}

/** trusted_root.json; the four lists are always there, since sigstore-python needs their keys. */
export interface TrustedRootJson {
  readonly mediaType: typeof TRUSTED_ROOT_MEDIA_TYPE
  readonly tlogs: readonly TransparencyLogInstance[]
  readonly certificateAuthorities: readonly CertificateAuthority[]
  readonly ctlogs: readonly TransparencyLogInstance[]
  readonly timestampAuthorities: readonly CertificateAuthority[]
}

/**
 * What verifiers trust: every item that is trusted, standby, active or retired. Pure. In each list what signs now comes
 * first (clients that look at the first one only must find it), then by age, oldest first.
 *
 * `operator` is left out because clients on protobuf-specs before 0.4.2 (cosign ≤ 2.5.0) fail on it; `checkpointKeyId`
 * because sigstore-js would take its four bytes for the log id.
 */
export function renderTrustedRoot(inventory: Inventory): TrustedRootJson {
  const published = inventory.items
    .filter(isPublished)
    .toSorted((a, b) => rank(a) - rank(b) || a.window.start.getTime() - b.window.start.getTime())
  const of = (...kinds: readonly TrustItem['kind'][]) => published.filter((item) => kinds.includes(item.kind))
  return {
    mediaType: TRUSTED_ROOT_MEDIA_TYPE,
    // Rekor v1 before v2: clients that look at the first log only (old sigstore-python) know v1.
    tlogs: [...of('rekor-v1'), ...of('rekor-v2')]
      .toSorted((a, b) => rank(a) - rank(b))
      .map((item) => logInstance(item, tlogBaseUrl(item))),
    certificateAuthorities: of('certificate-authority').map(authority),
    // ct_monitor dials the CT log's baseUrl, while nothing compares it with a name.
    ctlogs: of('ct-log').map((item) => logInstance(item, item.url)),
    timestampAuthorities: of('timestamp-authority').map(authority),
  }
}

/** True for what verifiers shall accept. */
export function isPublished(item: TrustItem): boolean {
  return item.state !== 'staged' && item.state !== 'revoked'
}

function rank({ state }: TrustItem): number {
  return state === 'active' ? 0 : 1
}

/** `rekor-v1.example.org - 4711` → `rekor-v1.example.org`: the name on the signature line of its checkpoints. */
export function hostOfOrigin(origin: string): string {
  return origin.replace(/ - \d+$/, '')
}

/** Deterministic text of a published JSON file: fixed member order, two spaces, line feed at the end. */
export function formatJson(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}

/**
 * sigstore-go takes the *hostname* of baseUrl for the note's name and drops port and path; sigstore-js wants baseUrl to
 * contain the name; sigstore-java wants the exact host. Only scheme and origin host pleases all three; it is not dialled.
 */
function tlogBaseUrl(item: TrustItem): string {
  return `${new URL(item.url).protocol}//${hostOfOrigin(item.origin ?? '')}`
}

function logInstance(item: TrustItem, baseUrl: string): TransparencyLogInstance {
  const spkiDer = item.der[0] ?? new Uint8Array()
  return {
    baseUrl,
    hashAlgorithm: 'SHA2_256',
    publicKey: {
      rawBytes: base64(spkiDer),
      // The only kind of log key that every client verifies (design §5); the linter refuses any other key.
      keyDetails: 'PKIX_ECDSA_P256_SHA_256',
      validFor: timeRange(item),
    },
    logId: { keyId: createHash('sha256').update(spkiDer).digest('base64') },
  }
}

function authority(item: TrustItem): CertificateAuthority {
  return {
    subject: subjectOf(item.der[0]),
    uri: item.url,
    certChain: { certificates: item.der.map((der) => ({ rawBytes: base64(der) })) },
    validFor: timeRange(item),
  }
}

/** Organisation and common name of the first certificate; policy-controller and sigstore-python need both. */
function subjectOf(der: Uint8Array | undefined): CertificateAuthority['subject'] {
  const subject: Record<string, unknown> = der ? { ...new X509Certificate(der).toLegacyObject().subject } : {}
  const text = (value: unknown) => (Array.isArray(value) ? String(value[0]) : typeof value === 'string' ? value : '')
  return { organization: text(subject['O']), commonName: text(subject['CN']) }
}

function timeRange({ window }: TrustItem): TimeRange {
  return { start: formatTime(window.start), ...(window.end ? { end: formatTime(window.end) } : {}) }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
