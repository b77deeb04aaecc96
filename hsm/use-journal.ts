/**
 * What a server asked an agent to sign, in its own hand: one digest for each message whose signature leaves no artefact
 * behind that could be found again (timestamps, tree heads, TUF metadata that is replaced), or may be given up half way
 * (certificates). Against it, and against the logs, the agent's own account is compared: a use that stands in neither
 * came by another way.
 *
 * A line is written before the agent is asked, so a process that is killed leaves no use of its own unknown. It is made
 * durable every second: a loss of power may take that long with it.
 */
import { hash } from 'node:crypto'
import {
  closeSync,
  fdatasync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { formatCheckpoint, parseNote, witnessOrigin } from '#tlog'
import { treeHeadSignatureInput } from '#x509'
import type { SignedTreeHead, SigningAgent, TreeHeadRequest } from './signing.ts'

/** Digests of one key are in one file, 32 bytes each. */
const SUFFIX = '.uses'

const SYNC_MS = 1000

export class UseJournal {
  readonly #folder: string
  readonly #onFault: (error: unknown) => void
  readonly #files = new Map<string, number>()
  readonly #unsynced = new Set<number>()
  #timer: NodeJS.Timeout | undefined

  /** `onFault`: a line could not be written; the use is signed for all the same, and will be found unknown. */
  constructor(folder: string, onFault: (error: unknown) => void = () => undefined) {
    this.#folder = folder
    this.#onFault = onFault
  }

  /** Notes that `key` is asked to sign this message. */
  note(key: string, message: Uint8Array): void {
    try {
      const file = this.#fileOf(key)
      writeSync(file, hash('sha256', message, 'buffer'))
      this.#unsynced.add(file)
      this.#timer ??= setTimeout(() => this.#sync(), SYNC_MS).unref()
    } catch (error) {
      this.#onFault(error)
    }
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const file of this.#files.values()) closeSync(file)
    this.#files.clear()
    this.#unsynced.clear()
  }

  #fileOf(key: string): number {
    let file = this.#files.get(key)
    if (file === undefined) {
      mkdirSync(this.#folder, { recursive: true, mode: 0o700 })
      file = openSync(join(this.#folder, `${key}${SUFFIX}`), 'a', 0o600)
      // A line that a loss of power cut would shift all that follow.
      const { size } = fstatSync(file)
      ftruncateSync(file, size - (size % 32))
      this.#files.set(key, file)
    }
    return file
  }

  #sync(): void {
    this.#timer = undefined
    for (const file of this.#unsynced) fdatasync(file, (error) => error && this.#onFault(error))
    this.#unsynced.clear()
  }
}

/** By key, the digests that a journal holds, 32 bytes each, joined; a line that was cut at the end is left out. */
export function readUseJournal(folder: string): ReadonlyMap<string, Uint8Array> {
  const found = new Map<string, Uint8Array>()
  let names: string[] = []
  try {
    names = readdirSync(folder)
  } catch {
    // Nothing was ever asked for.
  }
  for (const name of names.filter((each) => each.endsWith(SUFFIX))) {
    const bytes = readFileSync(join(folder, name))
    found.set(name.slice(0, -SUFFIX.length), bytes.subarray(0, bytes.length - (bytes.length % 32)))
  }
  return found
}

/** Keys of the second lines of checkpoints stand under the first one's name with this. */
export const WITNESS_SUFFIX = '+witness'

/** The same agent; what it is asked for is noted first. */
export function recordUses(agent: SigningAgent, journal: UseJournal): SigningAgent {
  const noting: Partial<SigningAgent> = {
    certificate: async (request) => {
      journal.note(request.key, request.tbsDer)
      return await agent.certificate(request)
    },
    timestamp: async (request) => {
      journal.note(request.key, request.signedAttributesDer)
      return await agent.timestamp(request)
    },
    tuf: async (request) => {
      journal.note(request.key, request.payload)
      return await agent.tuf(request)
    },
    treeHead: async (request) => {
      noteHead(journal, request)
      const signed = await agent.treeHead(request)
      if (request.freeze === true) noteFrozen(journal, request.key, signed)
      return signed
    },
  }
  return new Proxy(agent, {
    get: (target, name) => {
      const own = Reflect.get(noting, name) as unknown
      if (own !== undefined) return own
      const value = Reflect.get(target, name) as unknown
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

/** Which of the two forms is signed is the agent's configuration; noting a digest of the other one excuses nothing. */
function noteHead(journal: UseJournal, request: TreeHeadRequest): void {
  const { key, origin, size, rootHash, timestampMs, witnessed = false } = request
  const body = (name: string) =>
    new TextEncoder().encode(formatCheckpoint({ origin: name, size, rootHash, extensions: [] }))
  journal.note(key, body(origin))
  journal.note(key, treeHeadSignatureInput(size, timestampMs, rootHash))
  if (witnessed) journal.note(`${key}${WITNESS_SUFFIX}`, body(witnessOrigin(origin)))
}

/** The last head of a log says when it was frozen, which the agent decides. */
function noteFrozen(journal: UseJournal, key: string, { note, witnessNote = '' }: SignedTreeHead): void {
  if (note !== '') journal.note(key, new TextEncoder().encode(parseNote(note).text))
  if (witnessNote !== '') journal.note(`${key}${WITNESS_SUFFIX}`, new TextEncoder().encode(parseNote(witnessNote).text))
}
