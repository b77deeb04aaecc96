/**
 * A witness (c2sp.org/tlog-witness) as an anchor: it is sent each checkpoint with a proof from the one that it saw last,
 * keeps the newest, and cosigns it.
 *
 * It is remembered which size it has, so that one request does; a 409 says another one, and the request is made again
 * from there. The size in a 409 is not signed. A larger one than ours is either the truth about a rollback or a lie that
 * stops the log; docs/decisions/0023-anchors.md says what is done about that.
 */
import {
  type NoteSignature,
  parseNote,
  parseSignatureLines,
  parseWitnessKey,
  TlogError,
  verifyCosignature,
} from '#tlog'
import { type Anchor, AnchorError, type Kept, type Statement } from './anchor.ts'

export interface WitnessOptions {
  readonly name: string
  /** Submission prefix, without a slash at its end. */
  readonly url: string
  /** `name+hint+base64(0x04 ‖ key)`, as the witness prints it. */
  readonly vkey: string
  /** For all requests of one `submit` together; 5000 unless told. */
  readonly timeoutMs?: number
}

/** A cosignature takes some 160 bytes, and a witness has a few keys at most. */
const MAX_ANSWER_BYTES = 16 * 1024

/** Each 409 tells a size; another process that submits for the same origin could make it change once or twice. */
const MAX_ATTEMPTS = 3

/** C2SP tlog-witness: a client sends no more, and a proof between trees below 2^63 leaves has no more. */
const MAX_PROOF_LINES = 63

/** Throws `TlogError` for a verifier key that is none. */
export function witnessAnchor({ name, url, vkey, timeoutMs = 5000 }: WitnessOptions): Anchor {
  const key = parseWitnessKey(vkey)
  const held = new Map<string, number>()
  const submit = async (statement: Statement): Promise<Kept> => {
    const { origin, size, consistencyProof } = statement
    if (consistencyProof === undefined) throw new AnchorError('refused', 'a witness takes checkpoints of trees only')
    // Before it was asked the best guess is that nothing has happened: after a restart that holds.
    let old = Math.min(held.get(origin) ?? size, size)
    const untilMs = performance.now() + timeoutMs
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const proof = old === 0 || old === size ? [] : await consistencyProof(old)
      const answer = await post(`${url}/add-checkpoint`, addCheckpointBody(old, proof, statement.note), untilMs)
      if (answer.status === 200) {
        const line = readCosignature(answer.body, key, parseNote(statement.note).text)
        held.set(origin, size)
        return { cosignatures: [line] }
      }
      if (answer.status !== 409) throw failureOf(answer, origin, old)
      const theirs = readConflict(answer)
      if (theirs > size) {
        const message = `it says that it holds size ${theirs} of ${origin}, and ours ends at ${size}`
        throw new AnchorError('ahead', message, { heldSize: theirs })
      }
      // The size that we named is the one that it has, and still it is a conflict: another root at our own size.
      if (theirs === old) throw disagreement(origin, old)
      held.set(origin, theirs)
      old = theirs
    }
    throw new AnchorError('away', 'it names another size with each request')
  }
  return { name, kind: 'witness', submit }
}

/** The body of an add-checkpoint request: old size, proof, empty line, checkpoint. */
export function addCheckpointBody(old: number, proof: readonly Uint8Array[], note: string): string {
  if (proof.length > MAX_PROOF_LINES) throw new AnchorError('refused', `a proof of ${proof.length} hashes is too long`)
  const lines = proof.map((hash) => `${Buffer.from(hash).toString('base64')}\n`)
  return `old ${old}\n${lines.join('')}\n${note}`
}

export interface WitnessAnswer {
  readonly status: number
  /** Without parameters, in lower case. */
  readonly contentType: string
  readonly body: string
}

/** The size in a 409; throws `distrusted` for one that says none. */
export function readConflict({ contentType, body }: WitnessAnswer): number {
  const size = /^(0|[1-9][0-9]{0,15})\n$/.exec(body)?.[1]
  if (contentType !== 'text/x.tlog.size' || size === undefined || !Number.isSafeInteger(Number(size))) {
    throw new AnchorError('distrusted', 'it answers 409 without a size')
  }
  return Number(size)
}

/** The witness's verified line of a 200; throws `distrusted`. */
export function readCosignature(
  body: string,
  key: ReturnType<typeof parseWitnessKey>,
  checkpointText: string,
): NoteSignature {
  try {
    return verifyCosignature(parseSignatureLines(body), key, checkpointText).line
  } catch (cause) {
    if (!(cause instanceof TlogError)) throw cause
    throw new AnchorError('distrusted', `it did not cosign: ${cause.message}`, { cause })
  }
}

function failureOf({ status }: WitnessAnswer, origin: string, old: number): AnchorError {
  switch (status) {
    case 422:
      // The proof was made from our own tree to our own head; what it does not fit is what the witness holds.
      return disagreement(origin, old)
    case 400:
    case 403:
    case 404: {
      const why = { 400: 'the request', 403: 'the key of', 404: 'the origin' }[status]
      return new AnchorError('refused', `it does not take ${why} ${origin} (HTTP ${status}); is the log known to it?`)
    }
    default:
      return new AnchorError('away', `it answers HTTP ${status}`)
  }
}

function disagreement(origin: string, old: number): AnchorError {
  const message = `it says that what it holds at size ${old} of ${origin} is no beginning of ours`
  return new AnchorError('disagrees', message, { heldSize: old })
}

/** The timeout is for all of it, so that a body that drips is bounded too. */
async function post(url: string, body: string, untilMs: number): Promise<WitnessAnswer> {
  try {
    const response = await fetch(url, {
      method: 'POST',
      body,
      headers: { 'content-type': 'text/plain; charset=utf-8' },
      // A witness is the one that was configured; one that sends us elsewhere is not.
      redirect: 'error',
      signal: AbortSignal.timeout(Math.max(1, Math.ceil(untilMs - performance.now()))),
    })
    const contentType = (response.headers.get('content-type') ?? '').split(';')[0]?.trim().toLowerCase() ?? ''
    return { status: response.status, contentType, body: await readBounded(response) }
  } catch (cause) {
    if (cause instanceof AnchorError) throw cause
    const why =
      cause instanceof Error && cause.name === 'TimeoutError' ? 'does not answer in time' : 'cannot be reached'
    throw new AnchorError('away', `${url} ${why}`, { cause })
  }
}

async function readBounded(response: Response): Promise<string> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of response.body ?? []) {
    length += chunk.length
    if (length > MAX_ANSWER_BYTES) throw new AnchorError('distrusted', `it answers with over ${MAX_ANSWER_BYTES} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
