/** `chancery ceremony verify` and `log`: whether a transcript holds, and whether its digest is in the log. */
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { Command } from 'commander'
import { OperatorError } from '#alarms'
import {
  formatTransparencyLogEntry,
  kindVersionOf,
  leafNamesDigest,
  type LogEntry,
  parseRekorV1Entry,
  parseTransparencyLogEntry,
  readTrustedLogs,
  VerifierError,
  verifyEntry,
} from '#verifier'
import { printJson } from './agent-options.ts'
import { bytesIn, statementsIn } from './ceremony-files.ts'
import { loadTrustedRoot, type TrustedRootSource } from './trusted-root-source.ts'

interface VerifyOptions extends TrustedRootSource {
  readonly witness?: readonly string[]
  readonly witnesses: string
  readonly plan?: string
  readonly logProof?: string
  readonly json?: boolean
}

export function registerVerify(ceremony: Command): void {
  trustOptions(ceremony.command('verify <transcript>').summary('check a transcript again, from the file alone'))
    .option('--plan <file>', 'the plan that it must be of')
    .option('--witness <file...>', "witnesses' signatures (default: those beside it)")
    .option('--witnesses <n>', 'how many witnesses must have signed', '0')
    .option('--log-proof <file>', 'proof that its digest is in the log; with a trusted root')
    .addHelpText(
      'after',
      `
Every hash, every approval against the plan, every request, certificate and
signature, and whether each step was planned, there and then. A changed,
missing, added or moved line is named. Needs no network: with --log-proof it
is checked with the trusted root that is given.

Exit status: 0 it holds, 7 the ceremony has not ended, 8 it does not hold.

Examples:
  chancery ceremony verify ceremony/transcript.jsonl --plan plan.yaml \\
    --witnesses 1
  chancery ceremony verify transcript.jsonl \\
    --log-proof transcript.log.json --trusted-root trusted_root.json
`,
    )
    .action(verify)
  trustOptions(ceremony.command('log <transcript>').summary("put a transcript's digest into a Rekor v1 log"))
    .requiredOption('--url <url>', 'base URL of the log, e.g. http://127.0.0.1:3000')
    .option('-o, --output <file>', 'file to write, JSON (default: beside the transcript)')
    .addHelpText(
      'after',
      `
A hashedrekord of the file's SHA-256. Its signature is by a key that is made for
it and forgotten: who was there is said by approvals and witnesses; the log says
that this very file existed, and when. The proof is verified before it is kept.

Example:
  chancery ceremony log ceremony/transcript.jsonl \\
    --url http://127.0.0.1:3000 --trusted-root trusted_root.json
`,
    )
    .action(log)
}

function trustOptions(command: Command): Command {
  return command
    .option('--trusted-root <file>', 'trusted_root.json from a source that you trust')
    .option('--mirror <url>', 'TUF mirror of the stack, instead of --trusted-root; with --root')
    .option('--root <file>', 'root.json to start from, obtained out of band')
    .option('--json', 'print JSON')
}

async function verify(file: string, options: VerifyOptions): Promise<void> {
  const { verifyTranscript } = await import('#lifecycle/ceremony')
  const text = bytesIn(file).toString('utf8')
  const witnesses = await statementsIn(options.witness ?? witnessesBeside(file))
  const verified = verifyTranscript(text, { witnesses })
  const { state, lines, head, fileSha256 } = verified
  if (options.plan !== undefined) {
    const found = sha256(bytesIn(options.plan)).toString('hex')
    if (found !== state.read.sha256) {
      throw new OperatorError(
        'ceremony_transcript_wrong',
        `the transcript is of a plan with sha256 ${state.read.sha256}; ${options.plan} has ${found}`,
      )
    }
  }
  const wanted = Number(options.witnesses)
  if (!(verified.witnesses.length >= wanted)) {
    throw new OperatorError(
      'ceremony_witness_refused',
      `signed by ${verified.witnesses.length} witnesses, not ${wanted}`,
    )
  }
  const logged = options.logProof === undefined ? undefined : await provenIn(options.logProof, text, options)
  const keys = [...state.keys.values()]
  const unproven = keys.filter((key) => key.unproven.includes('LOCAL')).map(({ name }) => name)
  if (options.json === true) {
    return printJson({
      verified: true,
      ceremony: state.read.plan.ceremony,
      planSha256: state.read.sha256,
      lines: lines.length,
      head,
      fileSha256,
      approvals: state.approvals,
      witnesses: verified.witnesses,
      keys: keys.map(({ name, kind, idHex, token, unproven: names, spkiDer }) => ({
        name,
        kind,
        idHex,
        token: token.serial,
        spkiSha256: sha256(spkiDer).toString('hex'),
        unproven: names,
      })),
      logged: logged ?? null,
    })
  }
  const said = [
    `verified: ${state.read.plan.ceremony}, ${lines.length} lines, head ${head}`,
    `  plan       sha256 ${state.read.sha256}`,
    `  approved   by ${state.approvals.join(', ')} (quorum ${state.read.plan.quorum})`,
    `  made       ${keys.length} keys, ${state.chains.size} certificates`,
    ...(unproven.length === 0 ? [] : [`  unproven   that they were made on their token: ${unproven.join(', ')}`]),
    `  witnessed  by ${verified.witnesses.length === 0 ? 'nobody' : verified.witnesses.join(', ')}`,
    logged === undefined
      ? '  logged     not shown: no --log-proof was given'
      : `  logged     index ${logged.index} of ${logged.origin}, ${logged.time}`,
    `  file       sha256 ${fileSha256}`,
  ]
  process.stdout.write(`${said.join('\n')}\n`)
}

/** Those that `witness` wrote beside the transcript. */
function witnessesBeside(file: string): string[] {
  const name = basename(file).replace(/\.jsonl$/, '')
  return readdirSync(dirname(file))
    .filter((each) => each.startsWith(`${name}.`) && each.endsWith('.witness'))
    .toSorted()
    .map((each) => join(dirname(file), each))
}

interface LogOptions extends TrustedRootSource {
  readonly url: string
  readonly output?: string
  readonly json?: boolean
}

/** An upload is answered once it is in the tree and the tree is signed. */
const UPLOAD_TIMEOUT_MS = 30_000

async function log(file: string, options: LogOptions): Promise<void> {
  const { verifyTranscript } = await import('#lifecycle/ceremony')
  const text = bytesIn(file).toString('utf8')
  verifyTranscript(text, { witnesses: [] })
  const trusted = readTrustedLogs(await loadTrustedRoot(options))
  const url = `${options.url.replace(/\/+$/, '')}/api/v1/log/entries`
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'application/json' },
    body: JSON.stringify(hashedrekord(Buffer.from(text))),
    signal: AbortSignal.timeout(UPLOAD_TIMEOUT_MS),
  }).catch((error: unknown) => {
    throw notLogged(`${url} does not answer: ${String(error)}`, error)
  })
  const reply = await response.text()
  if (response.status !== 201) throw notLogged(`${url} answered ${response.status}: ${reply.slice(0, 300)}`)
  const entry = reading(() => parseRekorV1Entry(JSON.parse(reply)).entry)
  const proven = check(entry, text, trusted)
  const out = options.output ?? file.replace(/(?:\.jsonl)?$/, '.log.json')
  writeFileSync(out, `${JSON.stringify(formatTransparencyLogEntry(entry), undefined, 2)}\n`, { flush: true })
  if (options.json === true) printJson({ file: out, ...proven })
  else process.stdout.write(`logged: index ${proven.index} of ${proven.origin}, ${proven.time}\nwritten: ${out}\n`)
}

/** Signed by a key of the moment: the entry is about the file alone. */
function hashedrekord(bytes: Buffer): object {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const pem = publicKey.export({ type: 'spki', format: 'pem' })
  return {
    apiVersion: '0.0.1',
    kind: 'hashedrekord',
    spec: {
      data: { hash: { algorithm: 'sha256', value: sha256(bytes).toString('hex') } },
      signature: {
        content: sign('sha256', bytes, privateKey).toString('base64'),
        publicKey: { content: Buffer.from(pem).toString('base64') },
      },
    },
  }
}

interface Proven {
  readonly origin: string
  readonly index: number
  /** When the log took it, ISO 8601. */
  readonly time: string
}

async function provenIn(proof: string, text: string, source: TrustedRootSource): Promise<Proven> {
  const trusted = readTrustedLogs(await loadTrustedRoot(source))
  const entry = reading(() => parseTransparencyLogEntry(JSON.parse(readFileSync(proof, 'utf8'))))
  return check(entry, text, trusted)
}

/** Throws `ceremony_not_logged`. */
function check(entry: LogEntry, text: string, trusted: ReturnType<typeof readTrustedLogs>): Proven {
  return reading(() => {
    const { checkpoint, promised } = verifyEntry(entry, trusted)
    const digest = sha256(Buffer.from(text))
    // A hashedrekord names its artifact by digest; other kinds could name it in passing.
    if (kindVersionOf(entry.body).kind !== 'hashedrekord' || !leafNamesDigest(entry.body, digest)) {
      throw notLogged('the proof is about another file')
    }
    const time = promised
      ? new Date(entry.integratedTimeSeconds * 1000).toISOString()
      : 'at a time that it does not prove'
    return { origin: checkpoint.origin, index: entry.inclusionProof.index, time }
  })
}

function reading<T>(work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (error instanceof OperatorError) throw error
    const said = error instanceof VerifierError ? `${error.code}: ${error.message}` : String(error)
    throw notLogged(`the proof is refused: ${said}`, error)
  }
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest()
}

function notLogged(how: string, cause?: unknown): OperatorError {
  return new OperatorError('ceremony_not_logged', how, { cause })
}
