/**
 * One whole signature through the server's own parts, as a client makes it over the network: ephemeral key, certificate
 * with its SCT, timestamp, log entry, bundle. Whoever reads the logs knows it by its identity, which no token gets.
 */
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import type { Section } from '#http'
import type { TimestampAuthority } from '#timestamp'
import { type EntryChecks, rekorV1Section, type RekorV1Shards, rekorV2Section } from '#transparency-log'
import type { TrustItemKind } from '#trust-root'
import { formatTransparencyLogEntry, type LogEntry, parseRekorV1Entry, parseTransparencyLogEntry } from '#verifier'
import { decodeSctList, encodePem, OID, parseCertificate, parseSct, parseSpki } from '#x509'
import type { LogServices } from './log-services.ts'
import type { Parts } from './main.ts'

/** What every canary signs. */
export const CANARY_ARTIFACT: Uint8Array = Buffer.from('chancery canary\n')

/** Who signs it: subject alternative name and issuer of the certificate. */
export function canaryIdentity(domain: string): string {
  return `https://${domain}/chancery/canary`
}

export type SignedKind = Exclude<TrustItemKind, 'oidc-issuer'>

/** One signature in a bundle v0.3, with all that signed for it. */
export interface CanaryBundle {
  readonly log: 'rekor-v1' | 'rekor-v2'
  /** By kind: SHA-256, hex, of the first `der` of the trust item whose key signed. */
  readonly signedBy: Readonly<Partial<Record<SignedKind, string>>>
  /** JSON, media type `application/vnd.dev.sigstore.bundle.v0.3+json`. */
  readonly bundle: unknown
}

/** The running parts that a signature needs; the logs that take entries now, if there are any. */
export interface CanaryParts {
  readonly authority: NonNullable<Parts['authority']>
  readonly timestamp: TimestampAuthority | undefined
  readonly rekorV1: RekorV1Shards | undefined
  readonly rekorV2: Parts['logs'][number]['log'] | undefined
  readonly checks: EntryChecks
}

/** The parts that sign at this moment, or what is missing: in a layout of several servers some are elsewhere. */
export function canaryPartsOf(
  { authority, timestamp, logs }: Pick<Parts, 'authority' | 'timestamp' | 'logs'>,
  services: Pick<LogServices, 'shardsOf'>,
  checks: EntryChecks,
): CanaryParts | string {
  if (authority === undefined) return 'no CA runs here'
  /** One that was ended for ever, without a successor, is no part of a signature any more. */
  const newest = (kind: CanaryBundle['log']) =>
    logs
      .filter(({ config, log }) => config.kind === kind && log.head().frozenAtMs === undefined)
      .find(({ config }) => !logs.some((other) => other.config.succeeds === config.name))
  const [v1, v2] = [newest('rekor-v1'), newest('rekor-v2')]
  if (v1 === undefined && (v2 === undefined || timestamp === undefined)) return 'no log that it could enter runs here'
  const rekorV1 = v1 && services.shardsOf(v1.config.name)
  return { authority, timestamp, rekorV1, rekorV2: v2?.log, checks }
}

/**
 * One certificate, and one bundle with it for each log. Rejects with what the service said that did not do its part.
 * Nothing is verified here.
 */
export async function makeCanary(parts: CanaryParts): Promise<readonly CanaryBundle[]> {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const spki = publicKey.export({ type: 'spki', format: 'der' })
  const issued = await parts.authority.issueCanary(parseSpki(spki))
  const signature = sign('sha256', CANARY_ARTIFACT, privateKey)
  const timestamp = await parts.timestamp?.timestamp({ hash: 'sha256', digest: sha256(signature), certReq: false })
  const made: Made = {
    certificate: issued.certificate,
    signature,
    timestamp,
    signedBy: {
      'certificate-authority': hex(sha256(issued.chain[1] ?? new Uint8Array())),
      'ct-log': sctLog(issued.certificate),
      ...(parts.timestamp && { 'timestamp-authority': hex(sha256(parts.timestamp.chain[0] ?? new Uint8Array())) }),
    },
  }
  const bundles: CanaryBundle[] = []
  const { rekorV1: shards, rekorV2: log, checks } = parts
  if (shards !== undefined) {
    const answer = await submit(rekorV1Section({ shards, checks }), '/api/v1/log/entries', hashedRekord(made))
    bundles.push(bundleWith(made, 'rekor-v1', parseRekorV1Entry(answer).entry))
  }
  // An entry there has no time of its own: without a timestamp its bundle would prove nothing.
  if (log !== undefined && timestamp !== undefined) {
    const answer = await submit(rekorV2Section({ log, checks }), '/api/v2/log/entries', hashedRekordRequest(made))
    bundles.push(bundleWith(made, 'rekor-v2', parseTransparencyLogEntry(answer)))
  }
  return bundles
}

interface Made {
  readonly certificate: Uint8Array
  readonly signature: Uint8Array
  readonly timestamp: Uint8Array | undefined
  readonly signedBy: CanaryBundle['signedBy']
}

function bundleWith(
  { certificate, signature, timestamp, signedBy }: Made,
  log: CanaryBundle['log'],
  entry: LogEntry,
): CanaryBundle {
  return {
    log,
    signedBy: { ...signedBy, [log]: hex(entry.logId) },
    bundle: {
      mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json',
      verificationMaterial: {
        certificate: { rawBytes: base64(certificate) },
        tlogEntries: [formatTransparencyLogEntry(entry)],
        timestampVerificationData: {
          rfc3161Timestamps: timestamp === undefined ? [] : [{ signedTimestamp: base64(timestamp) }],
        },
      },
      messageSignature: {
        messageDigest: { algorithm: 'SHA2_256', digest: base64(sha256(CANARY_ARTIFACT)) },
        signature: base64(signature),
      },
    },
  }
}

function hashedRekord({ certificate, signature }: Made): unknown {
  const pem = Buffer.from(encodePem('CERTIFICATE', certificate))
  return {
    kind: 'hashedrekord',
    apiVersion: '0.0.1',
    spec: {
      data: { hash: { algorithm: 'sha256', value: hex(sha256(CANARY_ARTIFACT)) } },
      signature: { content: base64(signature), publicKey: { content: base64(pem) } },
    },
  }
}

function hashedRekordRequest({ certificate, signature }: Made): unknown {
  return {
    hashedRekordRequestV002: {
      digest: base64(sha256(CANARY_ARTIFACT)),
      signature: {
        content: base64(signature),
        verifier: { x509Certificate: { rawBytes: base64(certificate) }, keyDetails: 'PKIX_ECDSA_P256_SHA_256' },
      },
    },
  }
}

/** A group commit takes well under a second; an HSM's short absence is sat out. */
const LOG_TIMEOUT_MS = 20_000

/** Posts to a service as the listener would. */
async function submit(section: Section, path: string, body: unknown): Promise<unknown> {
  const endpoint = section.endpoints.find((one) => one.method === 'POST' && one.path === path)
  if (endpoint === undefined) throw new TypeError(`${section.name} has no ${path}`)
  const answer = await endpoint.answer({
    method: 'POST',
    path,
    params: {},
    query: new URLSearchParams(),
    headers: { 'content-type': 'application/json', accept: 'application/json' },
    body: Buffer.from(JSON.stringify(body)),
    requestId: 'canary',
    signal: AbortSignal.timeout(LOG_TIMEOUT_MS),
  })
  const text = Buffer.from(answer.body ?? '').toString('utf8')
  if (answer.status !== 201) throw new Error(`${section.name} answered ${answer.status}: ${text.trim()}`)
  answer.delivered?.()
  return JSON.parse(text) as unknown
}

/** The id of the log, hex, that the certificate's SCT is of: SHA-256 of its key. */
function sctLog(certificate: Uint8Array): string {
  const [sct] = decodeSctList(parseCertificate(certificate).extension(OID.sctList)?.value ?? new Uint8Array())
  return hex(parseSct(sct ?? new Uint8Array()).logId)
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest()
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
