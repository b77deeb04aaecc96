import { hash, randomBytes } from 'node:crypto'
import { HsmError, type SigningAgent } from '#hsm'
import { createTokenVerifier, type FetchDocument, OidcError, type TokenVerifier, type VerifiedToken } from '#oidc'
import { type IssuerPolicy, PolicyError, type Principal, principalFor, requireAdmitted } from '#policy'
import {
  assembleCertificate,
  type CertificateProfile,
  decodeSctList,
  encodeFulcioExtensions,
  lintIssuedLeaf,
  OID,
  parseCertificate,
  parseSct,
  parseSpki,
  type PreparedCertificate,
  prepareCertificate,
  type PublicKey,
  sctSignatureInput,
  type SctEntry,
  withoutExtension,
  X509Error,
} from '#x509'
import type { CtLog } from './ct-log.ts'
import { CaError } from './error.ts'
import { checkIssuingChain, type IssuingChain } from './issuing-chain.ts'
import {
  parseRequestedKey,
  type RequestedKey,
  requirePermittedAlgorithm,
  requirePossession,
  verifies,
} from './possession.ts'

export interface AuthorityOptions {
  readonly agent: Pick<SigningAgent, 'key' | 'certificate'>
  /** The agent's name of the issuing key. */
  readonly key: string
  /** DER: the issuing certificate, intermediates, the root. */
  readonly chain: readonly Uint8Array[]
  readonly ctLog: CtLog
  /** SPKI of the log's key, ECDSA P-256: an SCT that does not verify under it never enters a certificate. */
  readonly ctLogSpkiDer: Uint8Array
  readonly issuers: readonly IssuerPolicy[]
  /** Milliseconds since 1970. */
  readonly clock?: () => number
  readonly randomBytes?: (length: number) => Uint8Array
  /** For the issuers' documents; HTTPS by default. */
  readonly fetch?: FetchDocument
  /** Requests at once; more are told to come back. */
  readonly maxInFlight?: number
  /** Why nothing is issued just now (retriable), or undefined: asked before each request. */
  readonly refusal?: () => string | undefined
  /** The URL that is identity and issuer of `issueCanary`; no identity token gets a certificate that says so. */
  readonly canaryIdentity?: string
}

export interface IssuanceRequest {
  /** The identity token, empty if none was sent. */
  readonly token: string
  readonly key: RequestedKey
  readonly signal?: AbortSignal
}

export interface Issued {
  /** DER. */
  readonly certificate: Uint8Array
  /** DER: the certificate and the CA's chain with the root. */
  readonly chain: readonly Uint8Array[]
  readonly serialHex: string
  readonly issuer: string
  readonly principal: Principal
}

export interface Authority {
  /** Rejects with `CaError`. When it resolves the certificate is in the log. */
  issue(request: IssuanceRequest): Promise<Issued>
  /**
   * A certificate for a key of our own, to try the whole way of a signature: nobody vouches for it, and its identity and
   * issuer are `canaryIdentity`, whatever is asked. Everything else is as with `issue`, the log and the caps included.
   */
  issueCanary(key: PublicKey): Promise<Issued>
  /**
   * Another key, chain or log, checked as at the start and not in force yet. Rejects like `createAuthority`, and with what
   * the agent said.
   */
  prepare(change: AuthorityChange): Promise<AuthorityChangeover>
  /** DER, the issuing certificate first, the root last. */
  readonly chain: readonly Uint8Array[]
  readonly issuers: readonly IssuerPolicy[]
  /** Fetches the issuers' keys ahead of the first request; returns those that failed, which are tried again when needed. */
  prefetch(): ReturnType<TokenVerifier['prefetch']>
  /** Why nothing can be issued just now, as far as is known without asking anybody; undefined if nothing is in the way. */
  fault(): string | undefined
}

/** What a running authority may go over to; what is left out stays. */
export type AuthorityChange = Partial<Pick<AuthorityOptions, 'key' | 'chain' | 'ctLog' | 'ctLogSpkiDer'>>

export interface AuthorityChangeover {
  /** As `Authority.issueCanary`, by what is not in force yet: the agent's configuration and the log prove that they fit. */
  issueCanary(key: PublicKey): Promise<Issued>
  /**
   * Puts it in force before it returns: a request that begins later is answered by it, one that began before by what it
   * began with. Resolves when the last of those is answered.
   */
  take(): Promise<void>
}

/** Fulcio's validity: long enough to sign, too short to be worth stealing. */
const VALIDITY_MS = 10 * 60_000
/** One certificate takes a few milliseconds; a queue of these is drained in under a second on one core. */
const MAX_IN_FLIGHT = 256
/** RFC 5280 §4.1.2.2 allows 20 octets; all are random but the sign bit. */
const SERIAL_BYTES = 20

/** Opens the certificate authority; rejects with `CaError` `internal` if chain, key and log do not fit together. */
export async function createAuthority(options: AuthorityOptions): Promise<Authority> {
  const { agent, issuers, clock = Date.now, maxInFlight = MAX_IN_FLIGHT } = options
  const verifier = createTokenVerifier({ issuers, clock, ...(options.fetch && { fetch: options.fetch }) })
  const officeOf = async (wanted: AuthorityOptions): Promise<Office> => ({
    ...wanted,
    clock,
    issuing: checkIssuingChain(wanted.chain, await agent.key(wanted.key), clock()),
    verifier,
    randomBytes: options.randomBytes ?? randomBytes,
    log: readLogKey(wanted),
  })
  let current: InForce = { options, office: await officeOf(options), underWay: 0, ended: () => undefined }
  let inFlight = 0
  const bounded = async (by: InForce, issuing: (office: Office) => Promise<Issued>): Promise<Issued> => {
    if (inFlight >= maxInFlight) throw new CaError('busy', 'too many requests are under way')
    // Before anything is signed: a precertificate that no log takes would be a use of the key for nothing.
    const refusal = options.refusal?.()
    if (refusal !== undefined) throw new CaError('log_unavailable', refusal)
    inFlight++
    by.underWay++
    try {
      return await issuing(by.office)
    } finally {
      inFlight--
      by.underWay--
      if (by.underWay === 0) by.ended()
    }
  }
  const issueCanary = async (by: InForce, key: PublicKey): Promise<Issued> =>
    await bounded(by, (office) => certify(office, canary(office, key)))

  return {
    issue: async (request) => await bounded(current, (office) => issue(office, request)),
    issueCanary: async (key) => await issueCanary(current, key),
    async prepare(change) {
      const wanted = { ...current.options, ...change }
      const next: InForce = { options: wanted, office: await officeOf(wanted), underWay: 0, ended: () => undefined }
      return {
        issueCanary: async (key) => await issueCanary(next, key),
        async take() {
          const former = current
          current = next
          if (former === next || former.underWay === 0) return
          await new Promise<void>((resolve) => {
            former.ended = resolve
          })
        },
      }
    },
    get chain() {
      return current.office.issuing.certificates
    },
    issuers,
    prefetch: () => verifier.prefetch(),
    fault: () => (expired(current.office) ? 'the certificate of the authority ends too soon' : undefined),
  }
}

/** What signs, or signed until a changeover and still answers what began before it. */
interface InForce {
  readonly options: AuthorityOptions
  readonly office: Office
  underWay: number
  /** Called each time when nothing of it is under way. */
  ended: () => void
}

/** What every issuance needs. */
interface Office {
  readonly agent: Pick<SigningAgent, 'key' | 'certificate'>
  readonly key: string
  readonly ctLog: CtLog
  readonly log: { readonly key: PublicKey; readonly id: Uint8Array }
  readonly issuing: IssuingChain
  readonly verifier: TokenVerifier<IssuerPolicy>
  readonly clock: () => number
  readonly randomBytes: (length: number) => Uint8Array
  readonly canaryIdentity?: string
}

/** One certificate, in the order of the protocol: nothing is asked of log or HSM before everything about the request holds. */
async function issue(office: Office, request: IssuanceRequest): Promise<Issued> {
  const token = await verifyToken(office, request.token)
  const principal = identify(office, token)
  const key = parseRequestedKey(request.key)
  await requirePossession(key, principal.challenge)
  requirePermittedAlgorithm(key)
  admit(token)
  return await certify(office, { issuer: token.issuer, principal, publicKey: key.publicKey, signal: request.signal })
}

/** What follows once it is known who gets a certificate for which key. */
interface Admitted {
  readonly issuer: string
  readonly principal: Principal
  readonly publicKey: PublicKey
  readonly signal?: AbortSignal | undefined
}

async function certify(office: Office, { issuer, principal, publicKey, signal }: Admitted): Promise<Issued> {
  const wanted = profile(office, publicKey, principal)
  const prepared = prepare(wanted)
  requirePresent(signal)
  const logged = await logPrecertificate(office, prepared)
  const certificate = await signTbs(office, prepared.certificateTbs([logged.sct]))
  checkOwnOutput(office, certificate, wanted, logged)
  return {
    certificate,
    chain: [certificate, ...office.issuing.certificates],
    serialHex: Buffer.from(wanted.serial).toString('hex'),
    issuer,
    principal,
  }
}

function canary({ canaryIdentity: identity }: Office, publicKey: PublicKey): Admitted {
  if (identity === undefined) throw new CaError('internal', 'the authority has no canary')
  const subjectAltName = { type: 'uri', value: identity } as const
  return { issuer: identity, principal: { subjectAltName, challenge: '', extensions: { issuer: identity } }, publicKey }
}

async function verifyToken({ verifier }: Office, token: string): Promise<VerifiedToken<IssuerPolicy>> {
  try {
    return await verifier.verify(token)
  } catch (cause) {
    if (!(cause instanceof OidcError)) throw cause
    throw new CaError('invalid_identity_token', cause.message, { cause })
  }
}

function identify({ canaryIdentity }: Office, token: VerifiedToken<IssuerPolicy>): Principal {
  try {
    const principal = principalFor(token.endpoint, token)
    if (canaryIdentity !== undefined && principal.extensions.issuer === canaryIdentity) {
      throw new CaError('invalid_identity_token', 'the token names the issuer of the canary')
    }
    return principal
  } catch (cause) {
    if (!(cause instanceof PolicyError)) throw cause
    throw new CaError('invalid_identity_token', cause.message, { cause })
  }
}

function admit(token: VerifiedToken<IssuerPolicy>): void {
  try {
    requireAdmitted(token.endpoint, token.claims)
  } catch (cause) {
    // Whatever goes wrong in a rule is a refusal.
    throw new CaError('not_admitted', cause instanceof PolicyError ? cause.message : 'a rule failed', { cause })
  }
}

function profile(office: Office, publicKey: PublicKey, principal: Principal): CertificateProfile {
  if (expired(office)) throw new CaError('authority_expired', 'the certificate of the authority ends too soon')
  // Certificates have whole seconds; rounded down, since a notBefore in the future is not yet valid.
  const notBefore = new Date(Math.floor(office.clock() / 1000) * 1000)
  const serial = Uint8Array.from(office.randomBytes(SERIAL_BYTES))
  serial[0] = (serial[0] ?? 0) & 0x7f
  return {
    issuer: office.issuing.issuer,
    serial,
    notBefore,
    notAfter: new Date(notBefore.getTime() + VALIDITY_MS),
    publicKey,
    subjectAltName: principal.subjectAltName,
    fulcioExtensions: encodeExtensions(principal),
  }
}

function expired({ issuing, clock }: Office): boolean {
  return clock() + VALIDITY_MS > issuing.notAfter.getTime()
}

function encodeExtensions(principal: Principal): Uint8Array {
  return identityFault(() => encodeFulcioExtensions(principal.extensions))
}

function prepare(wanted: CertificateProfile): PreparedCertificate {
  return identityFault(() => prepareCertificate(wanted))
}

/** Everything in a profile but the identity is ours: what the linter refuses is in the token's names. */
function identityFault<T>(build: () => T): T {
  try {
    return build()
  } catch (cause) {
    if (!(cause instanceof X509Error)) throw cause
    throw new CaError('invalid_identity', cause.message, { cause })
  }
}

/** An SCT that was verified over this entry. */
interface Logged {
  readonly sct: Uint8Array
  readonly entry: PrecertEntry
}

/** Signs the precertificate and has it logged; the SCT is verified before it goes anywhere. */
async function logPrecertificate(office: Office, prepared: PreparedCertificate): Promise<Logged> {
  const precertificate = await signTbs(office, prepared.precertificateTbs())
  const entry = prepared.sctInput()
  const sct = await addToLog(office, precertificate, entry)
  await requireValidSct(office, sct, entry)
  return { sct, entry }
}

async function addToLog(
  { ctLog, issuing }: Office,
  precertificate: Uint8Array,
  entry: PrecertEntry,
): Promise<Uint8Array> {
  try {
    return await ctLog.addPreCertificate({
      chain: [precertificate, ...issuing.certificates],
      issuerKeyHash: entry.issuerKeyHash,
      tbsDer: entry.tbsDer,
    })
  } catch (cause) {
    throw new CaError('log_unavailable', 'the certificate transparency log did not take the precertificate', { cause })
  }
}

type PrecertEntry = Extract<SctEntry, { type: 'precert' }>

async function requireValidSct({ log }: Office, sct: Uint8Array, entry: PrecertEntry): Promise<void> {
  try {
    const { logId, timestampMs, extensions, signatureDer } = parseSct(sct)
    if (Buffer.compare(logId, log.id) !== 0) throw new CaError('internal', 'the timestamp is of another log')
    if (!(await verifies('sha256', log.key, sctSignatureInput(entry, timestampMs, extensions), signatureDer))) {
      throw new CaError('internal', 'the timestamp of the certificate transparency log does not verify')
    }
  } catch (cause) {
    if (!(cause instanceof X509Error)) throw cause
    throw new CaError('internal', 'the timestamp of the certificate transparency log is malformed', { cause })
  }
}

async function signTbs({ agent, key, issuing }: Office, tbsDer: Uint8Array): Promise<Uint8Array> {
  try {
    return assembleCertificate(tbsDer, issuing.issuer.signatureAlgorithm, await agent.certificate({ key, tbsDer }))
  } catch (cause) {
    if (!(cause instanceof HsmError)) throw cause
    // `refused` and `unknown_key` do not pass with time: what we sent, or how we are set up, is wrong.
    const ours = cause.code === 'refused' || cause.code === 'unknown_key'
    throw new CaError(ours ? 'internal' : 'hsm_unavailable', `the HSM did not sign: ${cause.reason}`, { cause })
  }
}

/**
 * Reads back what is about to leave: profile, names and dates as asked, the CA's signature, and one SCT, which was
 * verified over exactly the bytes that this certificate has without it.
 */
function checkOwnOutput(
  { issuing }: Office,
  certificateDer: Uint8Array,
  wanted: CertificateProfile,
  logged: Logged,
): void {
  try {
    const certificate = parseCertificate(certificateDer)
    lintIssuedLeaf(certificate, issuing.issuer, wanted)
    const [sct, ...others] = decodeSctList(certificate.extension(OID.sctList)?.value ?? new Uint8Array())
    if (sct === undefined || others.length > 0 || Buffer.compare(sct, logged.sct) !== 0) {
      throw new CaError('internal', 'the certificate does not hold exactly the timestamp of its precertificate')
    }
    if (Buffer.compare(withoutExtension(certificate.tbsDer, OID.sctList), logged.entry.tbsDer) !== 0) {
      throw new CaError('internal', 'the certificate is not the one that was logged')
    }
  } catch (cause) {
    if (!(cause instanceof X509Error)) throw cause
    throw new CaError('internal', 'the certificate that was made is not the one that was asked for', { cause })
  }
}

function requirePresent(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new CaError('cancelled', 'the client went away')
}

function readLogKey({ ctLogSpkiDer }: AuthorityOptions): Office['log'] {
  const key = parseSpki(ctLogSpkiDer)
  // Go's verifier of SCTs knows P-256 and RSA only, and sigstore-js no RSA.
  if (key.kind !== 'ecdsa' || key.curve !== 'P-256')
    throw new CaError('internal', 'the key of the log is not ECDSA P-256')
  return { key, id: Uint8Array.from(hash('sha256', ctLogSpkiDer, 'buffer')) }
}
