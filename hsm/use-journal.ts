/**
 * What a server asked an agent to sign, in its own hand: one digest for each message whose signature leaves no artefact
 * behind that could be found again (timestamps, tree heads, TUF metadata that is replaced), or may be given up half way
 * (certificates). Against it, and against the logs, the agent's own account is compared: a use that stands in neither
 * came by another way.
 *
 * A line is durable before the agent is asked, so neither a kill nor a loss of power leaves a use of its own unknown. All
 * lines that wait are made durable together, and the next ones meanwhile wait for the next time.
 */
import { hash } from 'node:crypto'
import {
  closeSync,
  fdatasync,
  fstatSync,
  fsyncSync,
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
import { frozenLine } from './frozen-line.ts'
import type { SignedTreeHead, SigningAgent, TreeHeadRequest } from './signing.ts'

/** Digests of one key are in one file, 32 bytes each. */
const SUFFIX = '.uses'

export class UseJournal {
  readonly #folder: string
  readonly #onFault: (error: unknown) => void
  readonly #files = new Map<string, number>()
  readonly #unsynced = new Set<number>()
  #waiting: (() => void)[] = []
  #syncing = false

  /** `onFault`: a line could not be written; the use is signed for all the same, and will be found unknown. */
  constructor(folder: string, onFault: (error: unknown) => void = () => undefined) {
    this.#folder = folder
    this.#onFault = onFault
  }

  /** Notes that `key` is asked to sign this message; resolves when the line is durable, or could not be made so. */
  async note(key: string, message: Uint8Array): Promise<void> {
    try {
      const file = this.#fileOf(key)
      writeSync(file, hash('sha256', message, 'buffer'))
      this.#unsynced.add(file)
    } catch (error) {
      return this.#onFault(error)
    }
    await new Promise<void>((resolve) => {
      this.#waiting.push(resolve)
      if (!this.#syncing) this.#sync()
    })
  }

  close(): void {
    for (const file of this.#files.values()) closeSync(file)
    this.#files.clear()
    this.#unsynced.clear()
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  #fileOf(key: string): number {
    let file = this.#files.get(key)
    if (file === undefined) {
      mkdirSync(this.#folder, { recursive: true, mode: 0o700 })
      file = openSync(join(this.#folder, `${key}${SUFFIX}`), 'a', 0o600)
      // A line that a loss of power cut would shift all that follow.
      const { size } = fstatSync(file)
      ftruncateSync(file, size - (size % 32))
      const folder = openSync(this.#folder, 'r')
      fsyncSync(folder)
      closeSync(folder)
      this.#files.set(key, file)
    }
    return file
  }

  #sync(): void {
    const files = [...this.#unsynced]
    const waiting = this.#waiting.splice(0)
    this.#unsynced.clear()
    this.#syncing = true
    let left = files.length
    for (const file of files) {
      fdatasync(file, (error) => {
        // Closed meanwhile: whoever waited has been let go.
        if (error && this.#files.size > 0) this.#onFault(error)
        if (--left > 0) return
        this.#syncing = false
        for (const resolve of waiting) resolve()
        if (this.#waiting.length > 0) this.#sync()
      })
    }
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
      await journal.note(request.key, request.tbsDer)
      return await agent.certificate(request)
    },
    timestamp: async (request) => {
      await journal.note(request.key, request.signedAttributesDer)
      return await agent.timestamp(request)
    },
    tuf: async (request) => {
      await journal.note(request.key, request.payload)
      return await agent.tuf(request)
    },
    treeHead: async (request) => {
      await noteHead(journal, request)
      try {
        const signed = await agent.treeHead(request)
        if (request.freeze === true) await noteFrozen(journal, request.key, signed)
        return signed
      } catch (error) {
        if (request.freeze === true) await noteUnsigned(journal, agent, request)
        throw error
      }
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
async function noteHead(journal: UseJournal, request: TreeHeadRequest): Promise<void> {
  const { key, size, rootHash, timestampMs } = request
  await Promise.all([
    noteCheckpoint(journal, request, []),
    journal.note(key, treeHeadSignatureInput(size, timestampMs, rootHash)),
  ])
}

async function noteCheckpoint(
  journal: UseJournal,
  { key, origin, size, rootHash, witnessed = false }: TreeHeadRequest,
  extensions: readonly string[],
): Promise<void> {
  const body = (name: string) =>
    new TextEncoder().encode(formatCheckpoint({ origin: name, size, rootHash, extensions }))
  await Promise.all([
    journal.note(key, body(origin)),
    ...(witnessed ? [journal.note(`${key}${WITNESS_SUFFIX}`, body(witnessOrigin(origin)))] : []),
  ])
}

/** Accounted for and never signed, as with a key that is lost: the agent's guard knows when the log was frozen. */
async function noteUnsigned(journal: UseJournal, agent: SigningAgent, request: TreeHeadRequest): Promise<void> {
  const { key, origin } = request
  // Whoever waits for the signature is told why there is none, not why this could not be asked.
  const { frozenAtMs } = await agent.guardedHead({ key, origin }).catch(() => ({ frozenAtMs: undefined }))
  if (frozenAtMs !== undefined) await noteCheckpoint(journal, request, [frozenLine(frozenAtMs)])
}

/** The last head of a log says when it was frozen, which the agent decides. */
async function noteFrozen(journal: UseJournal, key: string, { note, witnessNote = '' }: SignedTreeHead): Promise<void> {
  const text = (signed: string) => new TextEncoder().encode(parseNote(signed).text)
  await Promise.all([
    ...(note === '' ? [] : [journal.note(key, text(note))]),
    ...(witnessNote === '' ? [] : [journal.note(`${key}${WITNESS_SUFFIX}`, text(witnessNote))]),
  ])
}
