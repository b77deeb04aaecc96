/**
 * `chancery audit reconcile`, `audit export`, and `audit verify` of an exported account: whether every use of a key is
 * known, and whether the account is the one that was signed.
 */
import { createHash, createPublicKey } from 'node:crypto'
import { createReadStream, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { open, rename } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { OperatorError } from '#alarms'
import type { Reconciled, ReconcileStep } from '#lifecycle'
import { parseNote, verifyCheckpoint } from '#tlog'

export interface ReconcileOptions {
  readonly data: string
  readonly config?: string
  readonly accept?: readonly string[]
  readonly json?: boolean
}

/** Silence of this long is a fault; each page of a log is a step. */
const STEP_TIMEOUT_MS = 120_000

/** Asks the running server, or opens the installation for the moment. Throws `OperatorError` `reconcile_gap`. */
export async function runReconcile(options: ReconcileOptions): Promise<void> {
  const [{ askAdmin, AdminError, loadConfig, reconcileOffline }, { showSteps }] = await Promise.all([
    import('#server'),
    import('./progress.ts'),
  ])
  const loaded = loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
  const steps = showSteps()
  const accept = options.accept?.includes('all') === true ? 'all' : options.accept
  let found: Reconciled
  try {
    // Our own server answers: the shape is its verb's.
    found = (await askAdmin(loaded.resolve(loaded.config.admin.socket), 'reconcile', {
      argument: accept === undefined ? {} : { accept },
      timeoutMs: STEP_TIMEOUT_MS,
      onProgress: (step) => steps.show(step as ReconcileStep),
    })) as Reconciled
  } catch (error) {
    if (!(error instanceof AdminError) || error.code !== 'not_running') throw error
    found = await reconcileOffline(loaded, { onStep: steps.show, ...(accept !== undefined && { accept }) })
  }
  steps.end()
  process.stdout.write(options.json === true ? `${JSON.stringify(found, undefined, 2)}\n` : screen(found))
  if (found.unknownTotal + found.unaccountedTotal === 0) return
  throw new OperatorError(
    'reconcile_gap',
    `${found.unknownTotal} uses of keys are unknown, and ${found.unaccountedTotal} signatures are in no account`,
  )
}

const WORDS: Readonly<Record<string, string>> = {
  certificate: 'certificates',
  precertificate: 'precertificates',
  sct: 'SCTs',
  set: 'SETs',
  ceremony: 'of ceremonies',
  selfTest: 'self-tests',
  accountHead: 'heads of the account',
  accepted: 'accepted',
  notItemised: 'from before each was kept',
}

/** What a note of the server alone stands for depends on what was signed. */
const NOTED: Readonly<Record<string, string>> = {
  certificate: 'given up',
  timestamp: 'timestamps',
  treeHead: 'tree heads',
  witnessHead: 'tree heads for witnesses',
  tuf: 'TUF metadata',
}

function screen({ keys, unknown, unknownTotal, unaccounted, account }: Reconciled): string {
  const lines = keys.map(({ key, act, uses, known, unknown: gap }) => {
    const parts = Object.entries(known).map(
      ([how, count]) => `${count} ${how === 'noted' ? (NOTED[act] ?? 'noted') : (WORDS[how] ?? how)}`,
    )
    return `${key.padEnd(18)} ${String(uses).padStart(8)} = ${[...parts, ...(gap === 0 ? [] : [`${gap} UNKNOWN`])].join(' + ')}`
  })
  const named = unknown.map(
    ({ line, atMs, key, act, digest }) =>
      `UNKNOWN  line ${line}, ${new Date(atMs).toISOString()}: ${act} of ${key}\n         ${digest}`,
  )
  const missing = unaccounted.map(({ key, what, digest }) => `IN NO ACCOUNT  ${what} of ${key}\n         ${digest}`)
  const more = unknownTotal > unknown.length ? [`and ${unknownTotal - unknown.length} more`] : []
  return `${[`account: ${account.lines} lines, head ${account.headHash}`, ...lines, ...named, ...more, ...missing].join('\n')}\n`
}

export interface ExportOptions {
  readonly output: string
  readonly data: string
  readonly agent: string
  readonly key: string
  readonly json?: boolean
}

/** Writes the account as JSON Lines, its signed head beside it (`.note`) and the key for that (`.pub`). */
export async function runExport({ output, data, agent: name, key, json }: ExportOptions): Promise<void> {
  const { withAdminAgent } = await import('#lifecycle')
  const file = resolve(output)
  const made = await withAdminAgent({ dataDir: data, agent: name }, async (agent) => {
    const known = (await agent.status()).keys.some((one) => one.name === key)
    // First the head, so that it lies on what is exported.
    const head = known ? await agent.accountHead({ key }) : undefined
    const part = await open(`${file}.part`, 'w', 0o600)
    let lines = 0
    try {
      for (;;) {
        const page = await agent.account({ from: lines + 1, limit: 1000 })
        if (page.length === 0) break
        await part.writeFile(page.map((line) => `${lineText(line)}\n`).join(''))
        lines += page.length
      }
      await part.sync()
    } finally {
      await part.close()
    }
    await rename(`${file}.part`, file)
    if (head === undefined) return { lines }
    writeFileSync(`${file}.note`, head.note, { flush: true })
    const der = Buffer.from((await agent.key(key)).spkiDer)
    const pem = createPublicKey({ key: der, format: 'der', type: 'spki' }).export({ type: 'spki', format: 'pem' })
    writeFileSync(`${file}.pub`, pem, { flush: true })
    return { lines, signedSize: head.size, origin: head.origin }
  })
  if (json === true) process.stdout.write(`${JSON.stringify({ file, ...made })}\n`)
  else {
    const signed =
      made.signedSize === undefined
        ? `no head: the agent has no key ${key} (docs/runbook.md#account_untold)`
        : `signed head of line ${made.signedSize} in ${file}.note, its key in ${file}.pub`
    process.stdout.write(`${file}: ${made.lines} lines\n${signed}\n`)
  }
}

function lineText({ digest, hash, ...line }: { digest: Uint8Array; hash: Uint8Array; sequence: number }): string {
  return JSON.stringify({
    ...line,
    digest: Buffer.from(digest).toString('hex'),
    hash: Buffer.from(hash).toString('hex'),
  })
}

export interface VerifyAccountOptions {
  readonly head?: readonly string[]
  readonly publicKey?: string
  readonly json?: boolean
}

/** Whether this is an exported account, or a folder with a backup of one; else a saved proof. */
export function isAccount(path: string): boolean {
  if (!existsSync(path)) return false
  if (statSync(path).isDirectory()) return true
  return readFileSync(path, 'utf8').slice(0, 200).startsWith('{"sequence":1,')
}

/**
 * Walks the chain from the first line, and looks for each signed head on it. Throws `account_damaged` with the first line
 * that does not hold, or the head that does not lie on it.
 */
export async function runVerifyAccount(path: string, options: VerifyAccountOptions): Promise<void> {
  const heads = signedHeads(path, options)
  const wanted = new Map<number, { file: string; rootHash: string; found: boolean }[]>()
  for (const { file, size, rootHash } of heads) {
    wanted.set(size, [...(wanted.get(size) ?? []), { file, rootHash, found: size === 0 }])
  }
  let [lines, head] = [0, '0'.repeat(64)]
  for await (const text of accountLines(path)) {
    lines += 1
    head = chained(head, text, lines)
    for (const one of wanted.get(lines) ?? []) {
      if (one.rootHash !== head) throw damaged(`${one.file} was signed over another line ${lines}`)
      one.found = true
    }
  }
  for (const [size, ones] of wanted) {
    for (const { file } of ones.filter(({ found }) => !found)) {
      throw damaged(`${file} was signed at line ${size}, and this account ends at line ${lines}: its end was cut off`)
    }
  }
  const signedUpTo = Math.max(0, ...wanted.keys())
  const result = { verified: true, lines, headHash: head, heads: heads.length, signedUpTo }
  const unsigned = lines - signedUpTo
  process.stdout.write(
    options.json === true
      ? `${JSON.stringify(result)}\n`
      : `verified: ${lines} lines chain, ${heads.length} signed heads lie on them\n` +
          (heads.length === 0
            ? 'no signed head was given: that nothing was cut off or written anew is not shown\n'
            : `lines after ${signedUpTo}: ${unsigned}, under no head that was given\n`),
  )
}

function chained(before: string, text: string, line: number): string {
  let row: Readonly<Record<string, unknown>>
  try {
    row = JSON.parse(text) as Readonly<Record<string, unknown>> // judged by its hash
  } catch (cause) {
    throw damaged(`line ${line} is not JSON`, cause)
  }
  const { sequence, atMs, key, act, count, digest, hash } = row
  const content = JSON.stringify([sequence, atMs, key, act, count, digest])
  const now = createHash('sha256').update(Buffer.from(before, 'hex')).update(content).digest('hex')
  if (sequence !== line) throw damaged(`line ${line} has the number ${String(sequence)}`)
  if (hash !== now) throw damaged(`line ${line} does not follow from the line before it: it was changed`)
  return now
}

async function* accountLines(path: string): AsyncGenerator<string> {
  if (!statSync(path).isDirectory()) {
    yield* createInterface({ input: createReadStream(path), crlfDelay: Number.POSITIVE_INFINITY })
    return
  }
  const { readManifest, readAccount } = await import('#lifecycle')
  yield* readAccount(path, (await readManifest(path)).manifest)
}

/** Beside an export lie its own; others are given. */
function signedHeads(path: string, { head = [], publicKey }: VerifyAccountOptions) {
  const beside = existsSync(`${path}.note`) ? [`${path}.note`] : []
  const files = [...new Set([...head, ...beside])]
  const keyFile = publicKey ?? (existsSync(`${path}.pub`) ? `${path}.pub` : undefined)
  if (files.length === 0) return []
  if (keyFile === undefined) throw damaged('--public-key is missing: the public key of the heads, PEM')
  const spkiDer = createPublicKey(readFileSync(keyFile)).export({ type: 'spki', format: 'der' })
  return files.map((file) => {
    try {
      const note = readFileSync(file, 'utf8')
      const [origin = ''] = parseNote(note).text.split('\n')
      if (!origin.startsWith('account.')) throw new Error(`its origin is ${origin}`)
      const { size, rootHash } = verifyCheckpoint(note, { origin, spkiDer })
      return { file, size, rootHash: Buffer.from(rootHash).toString('hex') }
    } catch (cause) {
      throw damaged(
        `${file} is no head of an account that this key signed (${cause instanceof Error ? cause.message : ''})`,
        cause,
      )
    }
  })
}

function damaged(message: string, cause?: unknown): OperatorError {
  return new OperatorError('account_damaged', message, { cause })
}
