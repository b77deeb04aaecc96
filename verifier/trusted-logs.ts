import { sha256 } from '#sha256'
import { count, equalBytes, fromBase64, list, member, optionalMember, text } from './encoding.ts'
import { VerifierError } from './errors.ts'

/** A log that a trusted root names. */
export interface TrustedLog {
  readonly baseUrl: string
  /** Host of `baseUrl`: the name on its signature lines; its origin, or what its origin begins with (Rekor v1). */
  readonly name: string
  /** SubjectPublicKeyInfo, DER. */
  readonly spkiDer: Uint8Array
  /** 32 bytes. */
  readonly logId: Uint8Array
  /** When its signatures count, both ends inclusive. */
  readonly window: { readonly start: Date; readonly end?: Date }
}

/** The `tlogs` of a trusted_root.json; throws `malformed`. A log id that is not that of its key is malformed too. */
export function readTrustedLogs(trustedRoot: unknown): TrustedLog[] {
  return list(member(trustedRoot, 'tlogs'), 'tlogs').map(readLog)
}

/** The log with this id (32 bytes); throws `unknown_log`. */
export function logById(logs: readonly TrustedLog[], logId: Uint8Array): TrustedLog {
  const log = logs.find((log) => equalBytes(log.logId, logId))
  if (!log) throw new VerifierError('unknown_log', 'the trusted root names no log with the id of this entry')
  return log
}

/** The logs that may sign a checkpoint of this origin: several if a Rekor v1 log has had several keys. */
export function logsByOrigin(logs: readonly TrustedLog[], origin: string): TrustedLog[] {
  const name = origin.replace(/ - \d+$/, '')
  const found = logs.filter((log) => log.name === name)
  if (found.length === 0) {
    throw new VerifierError('unknown_log', `the trusted root names no log for the origin ${JSON.stringify(origin)}`)
  }
  return found
}

function readLog(value: unknown, at: number): TrustedLog {
  const where = `tlogs[${at}]`
  const publicKey = member(value, 'publicKey')
  const spkiDer = fromBase64(text(member(publicKey, 'rawBytes'), `${where}.rawBytes`), `${where}.rawBytes`)
  const logId = fromBase64(text(member(member(value, 'logId'), 'keyId'), `${where}.keyId`), `${where}.keyId`)
  const details = optionalMember(publicKey, 'keyDetails')
  if (details === 'PKIX_ECDSA_P256_SHA_256' && !equalBytes(logId, sha256(spkiDer))) {
    throw new VerifierError('malformed', `${where}: the log id is not SHA-256 of the key`)
  }
  const baseUrl = text(member(value, 'baseUrl'), `${where}.baseUrl`)
  const validFor = member(publicKey, 'validFor')
  const end = optionalMember(validFor, 'end')
  return {
    baseUrl,
    name: hostOf(baseUrl, where),
    spkiDer,
    logId,
    window: {
      start: time(member(validFor, 'start'), `${where}.start`),
      ...(end === undefined ? {} : { end: time(end, `${where}.end`) }),
    },
  }
}

function hostOf(url: string, where: string): string {
  try {
    return new URL(url).hostname
  } catch (error) {
    throw new VerifierError('malformed', `${where}: ${JSON.stringify(url)} is not a URL`, { cause: error })
  }
}

function time(value: unknown, what: string): Date {
  return new Date(count(Date.parse(text(value, what)), what))
}
