/** Signed entry timestamps of the Rekor v1 log: the agent writes the canonical JSON around the entry itself. */
import { signatureOver } from './certificate.ts'
import { advanceClock, checkLogTime, refuse, type Check } from './purpose.ts'

export const checkSet: Check = (request, context) => {
  const body = request.bytes('body')
  const integratedTime = request.count('integratedTimeSeconds')
  const logIndex = request.count('logIndex')
  request.end()
  checkEntry(body)
  const clock = `${context.key.name}/set`
  checkLogTime(context, clock, integratedTime * 1000)
  advanceClock(context, clock, integratedTime * 1000)
  const logID = Buffer.from(context.keyId).toString('hex')
  // RFC 8785 by construction: members in order, integers, and text that needs no escape.
  const payload = { body: Buffer.from(body).toString('base64'), integratedTime, logID, logIndex }
  return signatureOver(new TextEncoder().encode(JSON.stringify(payload)))
}

/** A canonical entry of any kind: an object with a version, a kind and a specification, and nothing else. */
function checkEntry(body: Uint8Array): void {
  let entry: unknown
  try {
    entry = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch {
    refuse('malformed_entry', 'entry is not JSON')
  }
  if (typeof entry !== 'object' || entry === null || Array.isArray(entry))
    refuse('malformed_entry', 'entry is no object')
  const { apiVersion, kind, spec, ...rest } = entry as Record<string, unknown> // an object that JSON.parse gave
  const whole = typeof apiVersion === 'string' && typeof kind === 'string' && typeof spec === 'object' && spec !== null
  if (!whole || Object.keys(rest).length > 0) refuse('malformed_entry', 'entry is not one of a Rekor log')
}
