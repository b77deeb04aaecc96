/**
 * What was done at a ceremony, line by line: JSON Lines, each with its number and a hash over itself and the hash of the
 * line before. A line is on the disk before the next thing is done. The last hash, the head, stands for all of it: it is
 * what witnesses sign.
 *
 * A line has exactly one text: whoever reads it parses it, writes it again and compares every byte. Everything in it is
 * public. Who can write the file can write it anew from the beginning, and every hash in it: that the approvals are in it
 * and verify, that certificates are signed by the keys that it tells of, and that witnesses signed its head is what
 * holds it to the truth.
 */
import { hash } from 'node:crypto'
import { closeSync, existsSync, fsyncSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { KEY_KINDS } from '#hsm'
import { syncFolder } from '../durable-file.ts'
import { signedStatementSchema } from './approval.ts'

const digest = z.string().regex(/^[0-9a-f]{64}$/)
const base64 = z.base64()

const software = z.strictObject({ chancery: z.string(), node: z.string(), openssl: z.string() })

/** As the token itself tells. */
const tokenFacts = z.strictObject({
  name: z.string(),
  label: z.string(),
  serial: z.string(),
  model: z.string(),
  manufacturer: z.string(),
  software: z.boolean(),
})
export type TokenFacts = z.infer<typeof tokenFacts>

const event = z.discriminatedUnion('event', [
  z.strictObject({ event: z.literal('begin'), planSha256: digest, plan: z.string(), software }),
  z.strictObject({ event: z.literal('approval'), name: z.string(), ...signedStatementSchema.shape }),
  /** A run on this machine, after the first; `dropped`: a line that a kill left unfinished. */
  z.strictObject({ event: z.literal('resumed'), software, dropped: z.string() }),
  /** Written before the key is made: what lies on the token under this id from now on is this step's. */
  z.strictObject({
    event: z.literal('intent'),
    step: z.string(),
    token: tokenFacts,
    idHex: z.string(),
    label: z.string(),
  }),
  /** Written before the certificate is signed: exactly these bytes will be. */
  z.strictObject({
    event: z.literal('prepared'),
    step: z.string(),
    input: digest,
    issuer: base64.optional(),
    tbs: base64,
    tbsSha256: digest,
  }),
  z.strictObject({
    event: z.literal('key'),
    step: z.string(),
    token: tokenFacts,
    key: z.strictObject({
      name: z.string(),
      idHex: z.string(),
      kind: z.enum(KEY_KINDS),
      uri: z.string(),
      spki: base64,
    }),
    /** CKA_…, as read back from the token: yes, no or unknown. */
    attributes: z.record(z.string(), z.enum(['yes', 'no', 'unknown'])),
    /** What the token does not show; `LOCAL` among them: that it was made there is not proven. */
    unproven: z.array(z.string()),
    /** Made by a run that did not live to say so, and found by its id. */
    found: z.boolean(),
    output: digest,
  }),
  z.strictObject({ event: z.literal('request'), step: z.string(), input: digest, csr: base64, output: digest }),
  z.strictObject({
    event: z.literal('certificate'),
    step: z.string(),
    token: tokenFacts,
    input: digest,
    /** DER, the new certificate first, the root last. */
    chain: z.array(base64).min(1),
    /** What OpenSSL said to it, or that it is not installed. */
    openssl: z.string(),
    output: digest,
  }),
  /** The certificate is where the key is, and the key has its purpose. */
  z.strictObject({ event: z.literal('accepted'), step: z.string(), input: digest }),
  z.strictObject({ event: z.literal('roles'), step: z.string(), roles: z.string(), output: digest }),
  z.strictObject({ event: z.literal('end'), planSha256: digest, steps: z.int() }),
])
export type TranscriptEvent = Readonly<z.infer<typeof event>>

/** A line: what happened, when, on which machine, and its place in the chain. */
export type TranscriptLine = TranscriptEvent & {
  readonly line: number
  readonly time: string
  readonly machine: string
  /** Of the line before; 64 zeros before the first. */
  readonly previous: string
  readonly hash: string
}

const place = z.object({
  line: z.int().min(1),
  time: z.iso.datetime(),
  machine: z.string(),
  previous: digest,
  hash: digest,
})

const BEFORE_THE_FIRST = '0'.repeat(64)

/** Name of the file in a ceremony's folder. */
export const TRANSCRIPT_FILE = 'transcript.jsonl'

/** Reads every line and its place in the chain. Throws `ceremony_transcript_damaged`, which names the line. */
export function readTranscript(text: string): TranscriptLine[] {
  if (text === '') throw damaged(1, 'it is empty')
  const texts = text.split('\n')
  if (texts.pop() !== '') throw damaged(texts.length + 1, 'it is cut off, or was added')
  const lines: TranscriptLine[] = []
  for (const [at, each] of texts.entries()) lines.push(readLine(each, at + 1, lines.at(-1)?.hash ?? BEFORE_THE_FIRST))
  return lines
}

function readLine(text: string, number: number, previous: string): TranscriptLine {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw damaged(number, 'it is not JSON', error)
  }
  const placed = place.safeParse(value)
  if (!placed.success) throw damaged(number, 'it has no place in the chain')
  const found = placed.data
  // First what tells best what was done to the file.
  if (found.line !== number)
    throw damaged(number, `it says that it is line ${found.line}: lines are missing, added or moved`)
  const rest = { ...(value as Readonly<Record<string, unknown>>) } // an object: it has the fields above
  delete rest['hash']
  if (found.hash !== hashOf(rest)) throw damaged(number, 'it was changed')
  if (found.previous !== previous) throw damaged(number, 'it does not follow from the line before it')
  for (const field of ['line', 'time', 'machine', 'previous'] as const) delete rest[field]
  const parsed = event.safeParse(rest)
  if (!parsed.success) throw damaged(number, `it is of no form that is known: ${z.prettifyError(parsed.error)}`)
  const line: TranscriptLine = { ...placed.data, ...parsed.data }
  if (formatLine(line) !== text) throw damaged(number, 'it is written in another way than this program writes')
  return line
}

/** In the one order of its members. */
function formatLine(line: TranscriptLine): string {
  const { line: number, time, machine, previous, hash: own, ...said } = line
  return JSON.stringify({ line: number, time, machine, previous, ...said, hash: own })
}

function hashOf(unhashed: object): string {
  return hash('sha256', JSON.stringify(unhashed))
}

/** The transcript of a ceremony that is under way; a line is durable when `append` returns. */
export class Transcript {
  readonly #folder: string
  readonly #machine: string
  readonly #now: () => Date
  readonly #lines: TranscriptLine[]
  /** Where the last whole line ends. */
  readonly #wholeBytes: number
  #file: number | undefined
  /** What a kill left of a line that was never finished, base64; it goes when the next line is written. */
  readonly dropped: string

  /** Reads it, if there is one; the file is written with the first line. Throws `ceremony_transcript_damaged`. */
  constructor(folder: string, { machine, now }: { readonly machine: string; readonly now: () => Date }) {
    const path = join(folder, TRANSCRIPT_FILE)
    const bytes = existsSync(path) ? readFileSync(path) : Buffer.alloc(0)
    this.#wholeBytes = bytes.lastIndexOf(0x0a) + 1
    this.dropped = bytes.subarray(this.#wholeBytes).toString('base64')
    this.#lines = this.#wholeBytes === 0 ? [] : readTranscript(bytes.subarray(0, this.#wholeBytes).toString('utf8'))
    this.#folder = folder
    this.#machine = machine
    this.#now = now
  }

  get lines(): readonly TranscriptLine[] {
    return this.#lines
  }

  /** Hash of the last line. */
  get head(): string {
    return this.#lines.at(-1)?.hash ?? BEFORE_THE_FIRST
  }

  append(said: TranscriptEvent): TranscriptLine {
    const unhashed = {
      line: this.#lines.length + 1,
      time: this.#now().toISOString(),
      machine: this.#machine,
      previous: this.head,
      // In the order of the schema, as it is read again.
      ...event.parse(said),
    }
    const line: TranscriptLine = { ...unhashed, hash: hashOf(unhashed) }
    const bytes = Buffer.from(`${formatLine(line)}\n`)
    const file = (this.#file ??= this.#open())
    // One write: what a kill leaves is at most the beginning of one line.
    if (writeSync(file, bytes) !== bytes.length) throw new Error('the transcript could not be written: disk full?')
    fsyncSync(file)
    this.#lines.push(line)
    return line
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file)
  }

  #open(): number {
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 })
    const file = openSync(join(this.#folder, TRANSCRIPT_FILE), 'a', 0o644)
    if (this.dropped !== '') ftruncateSync(file, this.#wholeBytes)
    fsyncSync(file)
    syncFolder(this.#folder)
    syncFolder(dirname(this.#folder))
    return file
  }
}

function damaged(line: number, how: string, cause?: unknown): OperatorError {
  return new OperatorError('ceremony_transcript_damaged', `line ${line} of the transcript is refused: ${how}`, {
    cause,
  })
}
