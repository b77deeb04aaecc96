/**
 * `chancery audit`: what an auditor checks with a URL and a trusted root, trusting nothing that the server says.
 * Exit status: 0 verified; 1 unreadable files; 2 not understood; 3 no answer; 6 no such entry; 8 the log contradicts
 * itself or its trust root.
 */

import { createHash } from 'node:crypto'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { EXIT } from '#alarms'
import {
  formatTransparencyLogEntry,
  fromHex,
  kindVersionOf,
  leafNamesDigest,
  type LogEntry,
  parseTransparencyLogEntry,
  readTrustedLogs,
  type RemoteLog,
  rekorV1,
  rekorV2,
  toHex,
  type TrustedLog,
  VerifierError,
  type VerifierErrorCode,
  verifyEntry,
  verifyGrowth,
  verifySignedCheckpoint,
} from '#verifier'
import type { ExportOptions, ReconcileOptions, VerifyAccountOptions } from './account.ts'
import { loadTrustedRoot, TrustedRootError, type TrustedRootSource } from './trusted-root-source.ts'

interface CommonOptions extends TrustedRootSource {
  readonly url?: string
  readonly log: string
  readonly json?: boolean
}

export function register(program: Command): void {
  const audit = program
    .command('audit')
    .summary('check a log from outside, trusting only a trusted root')
    .addHelpText('after', `${EXIT_STATUS}${AUDIT_EXAMPLES}`)
  ofLog(audit.command('proof <what>').summary('fetch an entry with its proof, verify and save it'))
    .description('<what> is a digest (sha256:HEX or HEX), an entry UUID, or a log index.')
    .option('-o, --output <file>', 'file to write: the proven entry (TransparencyLogEntry)')
    .addHelpText('after', `${EXIT_STATUS}${PROOF_EXAMPLES}`)
    .action(async (what: string, options: CommonOptions & { output?: string }) => {
      await judged(options, (given) => proof(what, given))
    })
  withTrust(audit.command('verify <file>').summary('verify a saved proof or an exported account, without any network'))
    .option('--head <note...>', 'account: signed heads that must lie on it, as anchors and the server keep them')
    .option('--public-key <file>', 'public key, PEM')
    .addHelpText('after', `${EXIT_STATUS}${ACCOUNT_EXAMPLES}`)
    .action(async (file: string, options: CommonOptions & VerifyAccountOptions) => {
      const { isAccount, runVerifyAccount } = await import('./account.ts')
      if (options.head !== undefined || isAccount(file)) return await runVerifyAccount(file, options)
      await judged<CommonOptions>(options, (given) => verifySaved(file, given))
    })
  audit
    .command('reconcile')
    .summary('operators: compare every use of a key with what was made')
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option('--accept <digest...>', 'uses that were looked into: their digests, or all that are unknown now')
    .option('--json', 'print JSON')
    .addHelpText('after', RECONCILE_EXAMPLES)
    .action(async (options: ReconcileOptions) => {
      const { runReconcile } = await import('./account.ts')
      await runReconcile(options)
    })
  audit
    .command('export')
    .summary("operators: write the agent's account of key uses with its signed head")
    .requiredOption('-o, --output <file>', 'file to write, JSON Lines; beside it FILE.note and FILE.pub')
    .option('--data <dir>', 'data folder', 'data')
    .option('--agent <agent>', 'name, agent.yaml or admin socket of the agent', 'online')
    .option('--head-key <name>', 'key that signs heads of the account', 'account')
    .option('--json', 'print JSON')
    .addHelpText('after', `\nExit status: 0 written, 2 no such agent, 5 the agent is away.\n${EXPORT_EXAMPLES}`)
    .action(async ({ headKey, ...options }: Omit<ExportOptions, 'key'> & { headKey: string }) => {
      const { runExport } = await import('./account.ts')
      await runExport({ ...options, key: headKey })
    })
  ofLog(audit.command('watch').summary('check that the log only ever grows, from one run to the next'))
    .requiredOption('--state <file>', 'where the last verified checkpoint is kept')
    .option('--once', 'check once and end, for cron')
    .option('--interval <seconds>', 'time between checks', '60')
    .addHelpText('after', `${EXIT_STATUS}${WATCH_EXAMPLES}`)
    .action(async (options: WatchOptions) => {
      await judged(options, watch)
    })
  ofLog(audit.command('recount').summary('read the whole log and recompute its root'))
    .addHelpText('after', `${EXIT_STATUS}${RECOUNT_EXAMPLES}`)
    .action(async (options: CommonOptions) => {
      await judged(options, recount)
    })
}

function withTrust(command: Command): Command {
  return command
    .option('--trusted-root <file>', 'trusted_root.json from a source that you trust')
    .option('--mirror <url>', 'TUF mirror of the stack, instead of --trusted-root; with --root')
    .option('--root <file>', 'root.json to start from, obtained out of band')
    .option('--json', 'print JSON')
}

function ofLog(command: Command): Command {
  return withTrust(
    command
      .requiredOption('--url <url>', 'base URL of the log, e.g. http://127.0.0.1:3000')
      .option('--log <version>', 'v1 (Rekor v1 interface) or v2 (Rekor v2: checkpoint and tiles)', 'v1'),
  )
}

const EXIT_STATUS = `
Exit status: 0 verified, 1 unreadable files or trust root, 2 not understood,
3 the log gives no answer, 6 no such entry, 8 the log contradicts itself or its
trust root, or an account does not hold: keep what you have.
`
const AUDIT_EXAMPLES = `
Examples:
  chancery audit proof 0 --url http://127.0.0.1:3000 \\
    --trusted-root trusted_root.json
  chancery audit recount --url http://127.0.0.1:3000 \\
    --trusted-root trusted_root.json
  chancery audit reconcile --data ./data
`
const EXPORT_EXAMPLES = `
Examples:
  chancery audit export --data ./data -o account.jsonl
  chancery audit verify account.jsonl --public-key account.jsonl.pub \\
    --head account.jsonl.note
`
const ACCOUNT_EXAMPLES = `
Examples:
  chancery audit verify proof.json --trusted-root trusted_root.json
  chancery audit verify account.jsonl --public-key account.pub \\
    --head /anchor/account.example.org.note
`
const RECONCILE_EXAMPLES = `
Asks the running server; without one it opens the installation for the moment.
Every use that is in no log and was never asked for by the server is named.

Exit status: 0 every use is known, 8 there is a gap.

Examples:
  chancery audit reconcile --data ./data
  chancery audit reconcile --data ./data --accept DIGEST
`
const PROOF_EXAMPLES = `
Examples:
  chancery audit proof sha256:$(sha256sum < artifact | cut -d' ' -f1) \\
    --url http://127.0.0.1:3000 --trusted-root trusted_root.json
  chancery audit proof 0 --log v2 --url http://127.0.0.1:3003 \\
    --mirror http://127.0.0.1:8080 --root 1.root.json -o proof.json
`
const WATCH_EXAMPLES = `
Example, from cron:
  chancery audit watch --once --state rekor-v1.state \\
    --url http://127.0.0.1:3000 --trusted-root trusted_root.json
`
const RECOUNT_EXAMPLES = `
Example:
  chancery audit recount --log v2 --url http://127.0.0.1:3003 \\
    --trusted-root trusted_root.json
`

/** What a check found, for people and for programs. */
interface Verdict {
  readonly lines: readonly string[]
  readonly json: Readonly<Record<string, unknown>>
}

/** Runs a check and turns its verdict or its error into output and exit status. */
async function judged<O extends CommonOptions>(options: O, check: (options: O) => Promise<Verdict>): Promise<void> {
  try {
    const { lines, json } = await check(options)
    print(options, lines, { verified: true, ...json })
  } catch (error) {
    if (error instanceof VerifierError) {
      process.exitCode = EXIT_OF[error.code]
      const headline = EXIT_OF[error.code] === EXIT_CONTRADICTED ? 'NOT VERIFIED' : 'not checked'
      print(options, [], { verified: false, code: error.code, message: error.message })
      process.stderr.write(`chancery: ${headline} (${error.code}): ${error.message}\n${NEXT[error.code] ?? ''}`)
    } else if (error instanceof TrustedRootError || error instanceof AuditUseError || error instanceof AuditFileError) {
      process.exitCode = error instanceof AuditUseError ? EXIT.usage : EXIT.failed
      print(options, [], { verified: false, code: 'use', message: error.message })
      process.stderr.write(`chancery: ${error.message}\n`)
    } else throw error
  }
}

/** Unlike any failure of the command itself, so that a cron job can shout for it alone. */
const EXIT_CONTRADICTED = EXIT.integrity

/** A code without a status does not compile. */
const EXIT_OF = {
  bad_signature: EXIT_CONTRADICTED,
  bad_proof: EXIT_CONTRADICTED,
  bad_promise: EXIT_CONTRADICTED,
  outside_window: EXIT_CONTRADICTED,
  wrong_entry: EXIT_CONTRADICTED,
  fork: EXIT_CONTRADICTED,
  rollback: EXIT_CONTRADICTED,
  unknown_log: EXIT_CONTRADICTED,
  malformed: EXIT_CONTRADICTED,
  not_found: EXIT.policy,
  unreachable: EXIT.locked,
} satisfies Record<VerifierErrorCode, number>

const NEXT: Partial<Record<VerifierErrorCode, string>> = {
  fork: 'Keep the evidence file and compare with other auditors: the log has shown two histories.\n',
  rollback: 'Keep the evidence file: the log, or what stands between, hides entries that it has signed for.\n',
  unknown_log: 'Is this the trusted root of this log? Fetch the present one with --mirror and --root.\n',
  not_found: 'A digest is only found if it was logged; check it with: sha256sum FILE\n',
  unreachable: 'Is --url right, and the log running? Try: curl -i URL/api/v1/log (v1) or URL/checkpoint (v2)\n',
}

/** The command line was not understood. */
class AuditUseError extends Error {}

/** A file of the auditor's own cannot be used. */
class AuditFileError extends Error {}

function print(options: CommonOptions, lines: readonly string[], json: Readonly<Record<string, unknown>>): void {
  if (options.json === true) process.stdout.write(`${JSON.stringify(json)}\n`)
  else if (lines.length > 0) process.stdout.write(`${lines.join('\n')}\n`)
}

async function open(options: CommonOptions): Promise<{ remote: RemoteLog; logs: TrustedLog[] }> {
  if (options.url === undefined) throw new AuditUseError('--url is missing: the base URL of the log')
  if (!URL.canParse(options.url)) throw new AuditUseError(`--url ${options.url} is not a URL`)
  if (options.log !== 'v1' && options.log !== 'v2') throw new AuditUseError(`--log ${options.log} is neither v1 nor v2`)
  const logs = readTrustedLogs(await loadTrustedRoot(options))
  const { url } = options
  return { remote: options.log === 'v1' ? rekorV1({ url, logs }) : rekorV2({ url, logs }), logs }
}

async function proof(what: string, options: CommonOptions & { output?: string }): Promise<Verdict> {
  const asked = parseAsked(what)
  const { remote, logs } = await open(options)
  const entries = await fetchEntries(remote, asked)
  const verified = entries.map((entry) => describe(entry, logs, asked.digest))
  if (options.output !== undefined) {
    const saved = entries.map(formatTransparencyLogEntry)
    await writeFile(options.output, `${JSON.stringify(saved.length === 1 ? saved[0] : saved, undefined, 2)}\n`)
  }
  const savedLine = options.output === undefined ? [] : [`saved to ${options.output}`]
  return {
    lines: [...verified.flatMap(({ lines }) => lines), ...savedLine],
    json: { entries: verified.map(({ json }) => json), ...(options.output ? { saved: options.output } : {}) },
  }
}

async function verifySaved(file: string, options: CommonOptions): Promise<Verdict> {
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    throw new AuditFileError(`${file} cannot be read`, { cause: error })
  })
  const logs = readTrustedLogs(await loadTrustedRoot(options))
  let saved: unknown
  try {
    saved = JSON.parse(text)
  } catch (error) {
    throw new VerifierError('malformed', `${file} is not JSON`, { cause: error })
  }
  const entries = Array.isArray(saved) ? saved.map(parseTransparencyLogEntry) : [parseTransparencyLogEntry(saved)]
  if (entries.length === 0) throw new VerifierError('malformed', `${file} holds no entry`)
  const verified = entries.map((entry) => describe(entry, logs))
  return { lines: verified.flatMap(({ lines }) => lines), json: { entries: verified.map(({ json }) => json) } }
}

/** The newest checkpoint, verified, and of the kind of log that was asked for: both kinds stand in one trust root. */
async function signedHead(remote: RemoteLog, logs: readonly TrustedLog[]) {
  const note = await remote.checkpoint()
  const { checkpoint } = verifySignedCheckpoint(note, logs)
  const isV1 = / - \d+$/.test(checkpoint.origin)
  if (isV1 !== (remote.version === 1)) {
    throw new VerifierError('unknown_log', `this is the log ${checkpoint.origin}, not a Rekor v${remote.version}`)
  }
  return { note, checkpoint }
}

interface Asked {
  readonly index?: number
  /** An 80-digit entry id or a 64-digit leaf hash. */
  readonly id?: string
  readonly digest?: Uint8Array
  readonly algorithm?: 'sha256' | 'sha384' | 'sha512'
}

const ALGORITHM_OF_HEX_LENGTH = { 64: 'sha256', 96: 'sha384', 128: 'sha512' } as const

/** 64 hex digits may be a digest or a leaf hash: both are kept, and the digest is tried first. */
function parseAsked(what: string): Asked {
  if (/^\d{1,15}$/.test(what)) return { index: Number(what) }
  const [, named, hex] = /^(?:(sha256|sha384|sha512):)?([0-9a-f]+)$/i.exec(what) ?? []
  if (hex?.length === 80 && named === undefined) return { id: hex.toLowerCase() }
  const algorithm = ALGORITHM_OF_HEX_LENGTH[(hex?.length ?? 0) as keyof typeof ALGORITHM_OF_HEX_LENGTH]
  if (hex === undefined || algorithm === undefined || (named !== undefined && named.toLowerCase() !== algorithm)) {
    throw new AuditUseError(
      `${what} is no digest (sha256:HEX), entry UUID or log index; a file's digest: sha256sum FILE`,
    )
  }
  const asked = { digest: fromHex(hex, 'the digest'), algorithm }
  return algorithm === 'sha256' && named === undefined ? { ...asked, id: hex.toLowerCase() } : asked
}

async function fetchEntries(remote: RemoteLog, asked: Asked): Promise<LogEntry[]> {
  if (asked.index !== undefined) return [await remote.entryAt(asked.index)]
  if (asked.digest && asked.algorithm) {
    const entries = await remote.entriesByDigest(asked.algorithm, asked.digest)
    if (entries.length > 0) return entries
    if (asked.id === undefined) throw new VerifierError('not_found', `the log's search knows no ${toHex(asked.digest)}`)
  }
  return [await remote.entryByLeaf(asked.id ?? '')]
}

/** Verifies one entry and says what is proven of it. */
function describe(entry: LogEntry, logs: readonly TrustedLog[], digest?: Uint8Array): Verdict {
  const { checkpoint, leafHash, promised } = verifyEntry(entry, logs)
  const { kind, version } = kindVersionOf(entry.body)
  const named = digest ? leafNamesDigest(entry.body, digest) || toHex(leafHash) === toHex(digest) : undefined
  // A hashedrekord always names its artifact; attestations name theirs inside a payload that is not in the leaf.
  if (named === false && kind === 'hashedrekord') {
    throw new VerifierError(
      'wrong_entry',
      `entry ${entry.logIndex} is about another digest than ${toHex(digest ?? leafHash)}`,
    )
  }
  const time = promised ? new Date(entry.integratedTimeSeconds * 1000).toISOString() : undefined
  return {
    lines: [
      `verified: ${kind} ${version} at index ${entry.inclusionProof.index} of ${checkpoint.size} in ${checkpoint.origin}`,
      `  leaf hash  ${toHex(leafHash)}`,
      `  root hash  ${toHex(checkpoint.rootHash)}`,
      time === undefined
        ? '  time       none of its own (Rekor v2); see the timestamp in the bundle'
        : `  time       ${time}`,
      ...(named === false ? ['  note       the digest is not in the leaf itself: an attestation about it'] : []),
    ],
    json: {
      origin: checkpoint.origin,
      index: entry.inclusionProof.index,
      logIndex: entry.logIndex,
      treeSize: checkpoint.size,
      rootHash: toHex(checkpoint.rootHash),
      leafHash: toHex(leafHash),
      kind,
      version,
      ...(time === undefined ? {} : { integratedTime: time }),
      ...(named === undefined ? {} : { digestInLeaf: named }),
    },
  }
}

interface WatchOptions extends CommonOptions {
  readonly state: string
  readonly once?: boolean
  readonly interval: string
}

async function watch(options: WatchOptions): Promise<Verdict> {
  const seconds = Number(options.interval)
  if (!Number.isFinite(seconds) || seconds < 1)
    throw new AuditUseError(`--interval ${options.interval} is not at least 1`)
  for (;;) {
    try {
      const verdict = await watchOnce(options)
      if (options.once === true) return verdict
      print(options, verdict.lines, { verified: true, ...verdict.json })
    } catch (error) {
      // A log that is away for a moment is not a log that lies.
      const isAway = error instanceof VerifierError && error.code === 'unreachable'
      if (options.once === true || !isAway) throw error
      process.stderr.write(`chancery: ${error.message}; trying again in ${seconds} s\n`)
    }
    await sleep(seconds * 1000)
  }
}

/** The state only ever moves to a checkpoint that was shown to continue the one before. */
async function watchOnce(options: WatchOptions): Promise<Verdict> {
  const { remote, logs } = await open(options)
  const olderNote = await readState(options.state)
  const { note: newerNote, checkpoint: newer } = await signedHead(remote, logs)
  if (olderNote !== undefined) {
    const older = verifySignedCheckpoint(olderNote, logs).checkpoint
    let proof: Uint8Array[] = []
    try {
      if (older.size > 0 && older.size < newer.size) proof = await remote.consistencyProof(older.size, newer.size)
      verifyGrowth(older, newer, proof)
    } catch (error) {
      if (!(error instanceof VerifierError) || EXIT_OF[error.code] !== EXIT_CONTRADICTED) throw error
      const evidence = `${options.state}.evidence-${new Date().toISOString().replaceAll(':', '')}.json`
      const found = { url: options.url, code: error.code, older: olderNote, newer: newerNote, proof: proof.map(toHex) }
      await writeFile(evidence, `${JSON.stringify(found, undefined, 2)}\n`)
      throw new VerifierError(
        error.code,
        `${error.message}; from ${older.size} to ${newer.size} entries; both signed checkpoints are in ${evidence}`,
        { cause: error },
      )
    }
  }
  await writeState(options.state, newerNote)
  const before = olderNote === undefined ? undefined : verifySignedCheckpoint(olderNote, logs).checkpoint.size
  const since = before === undefined ? 'first look' : `consistent since ${before}`
  return {
    lines: [`${newer.origin}: ${newer.size} entries, root ${toHex(newer.rootHash)}, ${since}`],
    json: {
      origin: newer.origin,
      treeSize: newer.size,
      rootHash: toHex(newer.rootHash),
      ...(before === undefined ? {} : { previousSize: before }),
    },
  }
}

async function readState(path: string): Promise<string | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw new AuditFileError(`${path} cannot be read`, { cause: error })
  }
  try {
    const state: unknown = JSON.parse(text)
    const note: unknown = typeof state === 'object' && state !== null ? Reflect.get(state, 'checkpoint') : undefined
    if (typeof note === 'string') return note
  } catch {
    // Falls through to the one message for every damaged state.
  }
  throw new AuditFileError(
    `${path} is not a state of audit watch; without it a fork cannot be seen, so it is not replaced`,
  )
}

async function writeState(path: string, checkpoint: string): Promise<void> {
  const state = { checkpoint, checkedAt: new Date().toISOString() }
  await writeFile(`${path}.part`, `${JSON.stringify(state, undefined, 2)}\n`)
  await rename(`${path}.part`, path)
}

/** Entries read between two lines of progress. */
const PROGRESS_EVERY = 65_536

/**
 * The whole log, by code that shares nothing with the one that keeps it: leaves from the entry bundles, hashed by
 * node:crypto, put together by merkletreejs.
 */
async function recount(options: CommonOptions): Promise<Verdict> {
  const { remote, logs } = await open(options)
  const { checkpoint } = await signedHead(remote, logs)
  const { size, origin } = checkpoint
  const leaves: Buffer[] = []
  for (let n = 0; leaves.length < size; n++) {
    for (const leaf of await remote.bundle(n, size)) leaves.push(hashed(0, leaf))
    if (leaves.length % PROGRESS_EVERY === 0) process.stderr.write(`${leaves.length} of ${size} entries\n`)
  }
  const root = toHex(await independentRoot(leaves))
  if (root !== toHex(checkpoint.rootHash)) {
    throw new VerifierError(
      'bad_proof',
      `the ${size} entries of ${origin} give the root ${root}, its checkpoint says ${toHex(checkpoint.rootHash)}`,
    )
  }
  return {
    lines: [`${origin}: recounted ${size} entries, root ${root} as signed`],
    json: { origin, treeSize: size, rootHash: root },
  }
}

/** RFC 6962 §2.1 by merkletreejs; it copies an odd node up unchanged, as the RFC's split does. */
async function independentRoot(leaves: readonly Buffer[]): Promise<Uint8Array> {
  if (leaves.length === 0) return createHash('sha256').digest()
  const { MerkleTree } = await import('merkletreejs')
  return new MerkleTree([...leaves], (pair: Buffer) => hashed(1, pair)).getRoot()
}

/** SHA-256(prefix ‖ bytes): 0 for a leaf, 1 for a node. */
function hashed(prefix: 0 | 1, bytes: Uint8Array): Buffer {
  return createHash('sha256').update(Uint8Array.of(prefix)).update(bytes).digest()
}
