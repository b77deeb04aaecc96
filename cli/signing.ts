/** Signing with the @sigstore packages: ephemeral key, certificate, timestamps and log entry in one bundle. */
import { type Bundle, BUNDLE_V03_MEDIA_TYPE, bundleFromJSON, bundleToJSON } from '@sigstore/bundle'
import type { SigningConfig } from '@sigstore/protobuf-specs'
import { bundleBuilderFromSigningConfig, InternalError } from '@sigstore/sign'

export type SigningErrorCode = 'bad_token' | 'certificate' | 'log_entry' | 'timestamp' | 'signing_config'

/** A service did not do its part; the message says which and what it answered. */
export class SigningError extends Error {
  readonly code: SigningErrorCode
  constructor(code: SigningErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'SigningError'
    this.code = code
  }
}

const WHAT: Readonly<Record<InternalError['code'], readonly [SigningErrorCode, string]>> = {
  IDENTITY_TOKEN_READ_ERROR: ['bad_token', 'the identity token cannot be read'],
  IDENTITY_TOKEN_PARSE_ERROR: ['bad_token', 'the identity token cannot be used (chancery login gets one)'],
  CA_CREATE_SIGNING_CERTIFICATE_ERROR: ['certificate', 'the CA gave no certificate'],
  TLOG_CREATE_ENTRY_ERROR: ['log_entry', 'the log took no entry'],
  TLOG_FETCH_ENTRY_ERROR: ['log_entry', 'the log did not show its entry'],
  TSA_CREATE_TIMESTAMP_ERROR: ['timestamp', 'the timestamp authority gave no timestamp'],
}

export interface SigningRequest {
  readonly data: Buffer
  /** A payload type makes it a DSSE envelope; without one it is a plain signature. */
  readonly type?: string
  readonly token: string
  readonly signingConfig: SigningConfig
  readonly timeoutMs: number
}

/** The bundle; not yet verified. Throws `SigningError`. */
export async function signedBundle({ data, type, token, signingConfig, timeoutMs }: SigningRequest): Promise<Bundle> {
  try {
    const builder = bundleBuilderFromSigningConfig({
      signingConfig,
      identityProvider: { getToken: () => Promise.resolve(token) },
      bundleType: type === undefined ? 'messageSignature' : 'dsseEnvelope',
      fetchOptions: { timeout: timeoutMs, retry: { retries: 2 } },
    })
    return withLeafAlone(await builder.create(type === undefined ? { data } : { data, type }))
  } catch (cause) {
    if (!(cause instanceof InternalError)) {
      throw new SigningError('signing_config', cause instanceof Error ? cause.message : String(cause), { cause })
    }
    const [code, what] = WHAT[cause.code]
    const answered: unknown = cause.cause
    // What the library says of a token that is none is about its own decoding; the claims it finds wrong it calls JWT.
    const telling = answered instanceof Error && (code !== 'bad_token' || answered.message.startsWith('JWT'))
    const detail = telling ? `: ${answered.message}` : ''
    throw new SigningError(code, what + detail, { cause })
  }
}

/**
 * The library writes plain signatures in the bundle format 0.2, with a chain of which it fills in the leaf alone. 0.3
 * says the same with one certificate, and is what today's verifiers write themselves.
 */
function withLeafAlone(bundle: Bundle): Bundle {
  const json = bundleToJSON(bundle)
  const { x509CertificateChain: chain, ...material } = json.verificationMaterial
  const [leaf, ...others] = chain?.certificates ?? []
  if (leaf === undefined || others.length > 0) return bundle
  const verificationMaterial = { ...material, certificate: leaf }
  return bundleFromJSON({ ...json, mediaType: BUNDLE_V03_MEDIA_TYPE, verificationMaterial })
}
