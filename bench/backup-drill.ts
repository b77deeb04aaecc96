/**
 * `scripts/backup-drill`: a whole loss, timed. An installation of its own gets a Rekor v2 log of many entries, every head
 * through the agent's guard; it is backed up while it serves, loses its disk, is restored, and serves again.
 *
 *   --entries N   100000 unless told
 *   --json        the numbers alone
 */
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { parse } from 'yaml'
import { spawnAgent } from '#hsm'
import { leafHash, MerkleTree } from '#tlog'
import { factsOfLeaf, type LogKind, openSqliteStore } from '#transparency-log'
import { requestOf } from '../test/crash/requests.ts'
import { run, succeeded } from '../test/e2e/run.ts'
import { initialise, ownEnvironment, projectFolder, type Stack, serve } from '../test/e2e/stack.ts'
import { describeMachine } from './machine.ts'

/** Entries of one commit, and so of one head: what a busy night gives, hurried. */
const BATCH = 4096
/** A drill of a million entries on a slow disk. */
const COMMAND_MS = 3_600_000

export interface DrillTimes {
  readonly entries: number
  readonly fillSeconds: number
  readonly databaseBytes: number
  readonly backupSeconds: number
  readonly backupBytes: number
  /** The next backup, some entries later, with what has not changed linked. */
  readonly nextBackupSeconds: number
  readonly nextBackupWrittenBytes: number
  readonly verifySeconds: number
  /** From the command to the end of the recount, the guard compared. */
  readonly restoreSeconds: number
  readonly startSeconds: number
  /** Of uploads one after the other, 99th percentile: without and during a backup. */
  readonly uploadP99Ms: { readonly before: number; readonly during: number }
}

/** Runs the drill in a folder of its own and removes it; throws when anything is not as it was before. */
export async function drill(entries: number, tell: (line: string) => void = () => undefined): Promise<DrillTimes> {
  const scratch = mkdtempSync(join(tmpdir(), 'chancery-drill-'))
  const dataDir = join(scratch, 'data')
  let stack: Stack | undefined
  try {
    await initialise(dataDir)
    const [fillSeconds] = await timed(async () => await fill(dataDir, entries))
    const databaseBytes = sizeOf(join(dataDir, 'logs'))
    tell(`${entries} entries in ${fillSeconds.toFixed(1)} s, ${megabytes(databaseBytes)} of databases`)

    stack = await serve(dataDir)
    const before = await uploadP99(stack, 40)
    const first = join(scratch, 'first')
    const backup = timed(async () => await chancery('backup', '--data', dataDir, first, '--json'))
    const during = await uploadsUntil(stack, backup)
    const [backupSeconds, said] = await backup
    const backupBytes = sizeOf(first)
    tell(
      `backup in ${backupSeconds.toFixed(1)} s, ${megabytes(backupBytes)}; uploads' p99 ${before.toFixed(0)} -> ${during.toFixed(0)} ms`,
    )
    const next = join(scratch, 'next')
    const [nextBackupSeconds] = await timed(
      async () => await chancery('backup', '--data', dataDir, next, '--since', first),
    )
    const nextBackupWrittenBytes = sizeOf(next, true)
    tell(`the next one in ${nextBackupSeconds.toFixed(1)} s, ${megabytes(nextBackupWrittenBytes)} written`)
    const [verifySeconds] = await timed(async () => await chancery('backup', 'verify', next))
    tell(`verified and recounted in ${verifySeconds.toFixed(1)} s (${JSON.parse(said).bytes} bytes in the first)`)

    const heads = await headsOf(stack)
    await stack.stop()
    const lost = join(scratch, 'lost')
    mkdirSync(lost)
    for (const name of readdirSync(dataDir)) {
      if (name !== 'agent' && name !== 'hsm') renameSync(join(dataDir, name), join(lost, name))
    }
    const [restoreSeconds] = await timed(async () => await chancery('restore', next, '--data', dataDir))
    tell(`restored, recounted and compared with the guard in ${restoreSeconds.toFixed(1)} s`)
    const restored = dataDir
    const [startSeconds, running] = await timed(async () => await serve(restored))
    stack = running
    if ((await headsOf(stack)) !== heads) throw new Error('the restored logs have other heads than the lost ones')
    await uploadP99(stack, 3)
    tell(`serving again after ${startSeconds.toFixed(1)} s`)
    return {
      entries,
      fillSeconds,
      databaseBytes,
      backupSeconds,
      backupBytes,
      nextBackupSeconds,
      nextBackupWrittenBytes,
      verifySeconds,
      restoreSeconds,
      startSeconds,
      uploadP99Ms: { before, during },
    }
  } finally {
    await stack?.stop().catch(() => undefined)
    rmSync(scratch, { recursive: true, force: true })
  }
}

/** Entries as the log makes them, straight into its store; each head is guarded and signed by the real agent. */
async function fill(dataDir: string, count: number): Promise<void> {
  const { agent } = await spawnAgent({ configPath: join(dataDir, 'agent/online.yaml') })
  const { logs } = parse(readFileSync(join(dataDir, 'chancery.yaml'), 'utf8')) as { logs: LogConfig[] }
  const log = logs.find(({ kind }) => kind === 'rekor-v2')
  if (log === undefined) throw new Error('no Rekor v2 log')
  const { key, origin, kind } = log
  const certificate = Buffer.from(pemBytes(readFileSync(join(dataDir, 'ca/issuing-ca.pem'), 'utf8')), 'base64')
  const { searchKeys } = factsOfLeaf(kind, makeLeaf(certificate, 0))
  const store = await openSqliteStore(join(dataDir, log.database), {
    kind,
    origin,
    spkiDer: (await agent.key(key)).spkiDer,
  })
  const tree = new MerkleTree()
  try {
    while (tree.size < count) {
      const { committed } = await store.head()
      const entries = Array.from({ length: Math.min(BATCH, count - tree.size) }, () => {
        const leaf = makeLeaf(certificate, DISTINCT_BYTES)
        const hash = leafHash(leaf)
        tree.append(hash)
        const own = `hash:sha256:${randomBytes(32).toString('hex')}`
        return { dedupeKey: hash, searchKeys: [own, ...searchKeys.slice(1)], leafHash: hash, leaf, tileData: leaf }
      })
      const head = { size: tree.size, rootHash: tree.root(), timestampMs: Date.now() }
      await store.commit({ head, entries }, committed)
      const consistencyProof = tree.consistencyProof(committed.size, tree.size)
      const signed = await agent.treeHead({ key, origin, ...head, consistencyProof })
      await store.seal({ ...head, note: signed.note, signature: signed.signature }, [])
    }
  } finally {
    await store.close()
    await agent.close()
  }
}

interface LogConfig {
  readonly kind: LogKind
  readonly key: string
  readonly origin: string
  readonly database: string
}

/** What differs between two certificates of one issuer, roughly: it decides how well a backup can be compressed. */
const DISTINCT_BYTES = 400

/** A hashedrekord with a certificate, of chance where they differ from one to the next: the store never looks. */
function makeLeaf(certificate: Uint8Array, distinctBytes: number): Uint8Array {
  const rawBytes = Buffer.concat([certificate, randomBytes(distinctBytes)]).toString('base64')
  const body = {
    apiVersion: '0.0.2',
    kind: 'hashedrekord',
    spec: {
      hashedRekordV002: {
        data: { algorithm: 'SHA2_256', digest: randomBytes(32).toString('base64') },
        signature: {
          content: randomBytes(71).toString('base64'),
          verifier: { keyDetails: 'PKIX_ECDSA_P256_SHA_256', x509Certificate: { rawBytes } },
        },
      },
    },
  }
  return new Uint8Array(Buffer.from(JSON.stringify(body)))
}

function pemBytes(pem: string): string {
  return pem.replaceAll(/-----[A-Z ]+-----|\s/g, '')
}

async function uploadsUntil(stack: Stack, work: Promise<unknown>): Promise<number> {
  const ended = new AbortController()
  const end = () => ended.abort()
  work.then(end, end)
  const times: number[] = []
  while (!ended.signal.aborted) times.push(await upload(stack))
  return percentile99(times)
}

async function uploadP99(stack: Stack, count: number): Promise<number> {
  const times: number[] = []
  while (times.length < count) times.push(await upload(stack))
  return percentile99(times)
}

async function upload({ endpoints }: Stack): Promise<number> {
  const { sent } = requestOf('v2', createHash('sha256').update(randomBytes(16)).digest('hex'))
  const started = performance.now()
  const response = await fetch(`${endpoints.rekorV2}/api/v2/log/entries`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: sent,
  })
  await response.arrayBuffer()
  if (response.status !== 201) throw new Error(`an upload was answered ${response.status}`)
  return performance.now() - started
}

function percentile99(times: readonly number[]): number {
  return times.toSorted((a, b) => a - b)[Math.floor(times.length * 0.99)] ?? 0
}

/** Sizes and roots of all logs, as clients see them. */
async function headsOf({ endpoints }: Stack): Promise<string> {
  const checkpoint = (await (await fetch(`${endpoints.rekorV2}/checkpoint`)).text()).split('\n').slice(0, 3)
  const v1 = (await (await fetch(`${endpoints.rekorV1}/api/v1/log`)).json()) as { rootHash: string; treeSize: number }
  const ct = (await (await fetch(`${endpoints.ct}/ct/v1/get-sth`)).json()) as { tree_size: number }
  return JSON.stringify([checkpoint, v1.rootHash, v1.treeSize, ct.tree_size])
}

async function chancery(...args: readonly string[]): Promise<string> {
  const command = join(projectFolder, 'scripts', 'chancery')
  return succeeded(await run(command, args, { env: ownEnvironment(), timeoutMs: COMMAND_MS })).stdout
}

async function timed<T>(work: () => Promise<T>): Promise<[number, T]> {
  const started = performance.now()
  const result = await work()
  return [(performance.now() - started) / 1000, result]
}

/** Bytes of all files; with `own`, without those that another folder has too. */
function sizeOf(folder: string, own = false): number {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => statSync(join(entry.parentPath, entry.name)))
    .filter(({ nlink }) => !own || nlink === 1)
    .reduce((sum, { size }) => sum + size, 0)
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { entries: { type: 'string', default: '100000' }, json: { type: 'boolean', default: false } },
  })
  const times = await drill(Number(values.entries), (line) => {
    if (!values.json) process.stdout.write(`${line}\n`)
  })
  if (values.json)
    process.stdout.write(`${JSON.stringify({ machine: describeMachine(tmpdir()), ...times }, undefined, 2)}\n`)
}
