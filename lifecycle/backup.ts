/**
 * Copies what an installation cannot do without out of a *running* server: it keeps serving, and nothing else opens its
 * databases. Per log: its newest sealed head, then the entries below it, which never change again. So each log is
 * consistent in itself and never ahead of its guard. The manifest comes last.
 *
 * What stays out: PINs and tokens, private keys that cannot leave their HSM, TLS keys, and the agent's guard. A guard
 * restored with its database guards nothing.
 */
import { createHash } from 'node:crypto'
import { copyFile, mkdir, open, readdir, readlink, rm, stat } from 'node:fs/promises'
import { dirname, isAbsolute, join, normalize, relative } from 'node:path'
import { OperatorError } from '#alarms'
import { HsmError, type SigningAgent } from '#hsm'
import { verifyConsistency } from '#tlog'
import type { Log, LogKind } from '#transparency-log'
import type { TrustRoot } from '#trust-root'
import {
  BACKUP_FORMAT,
  type BackedUpFile,
  type BackedUpLog,
  type BackupManifest,
  describeFile,
  filesBelow,
  isThere,
  readManifest,
  syncPath,
  writeManifest,
} from './backup-manifest.ts'
import { parseKeyBackup } from './key-backup.ts'
import { writeSegments } from './segments.ts'

/** The parts of a running installation. */
export interface BackupSources {
  readonly program: string
  readonly profile: string
  readonly domain: string
  readonly dataDir: string
  /** Files of the configuration, as the configuration names them: relative to the data folder, or absolute. */
  readonly files: readonly string[]
  readonly logs: readonly {
    readonly name: string
    readonly kind: LogKind
    /** As the configuration has it. */
    readonly database: string
    readonly log: Pick<Log, 'origin' | 'spkiDer' | 'head' | 'backupRows' | 'consistencyProof'>
  }[]
  readonly trustRoot?: { readonly folder: string; readonly publisher: Pick<TrustRoot, 'status'> }
  readonly agent: Pick<SigningAgent, 'status' | 'key' | 'account'>
  /** What the caller knows to be left out. */
  readonly notBackedUp: readonly string[]
  /** What `key-backup.ts` wrote of the keys that could be wrapped, and why the others could not, by label. */
  readonly keyBackup?: { readonly text: string; readonly notWrapped: Readonly<Record<string, string>> }
}

export interface BackupOptions {
  /** Absolute; made, or empty. */
  readonly target: string
  /** Folder of an earlier backup, of which unchanged files are linked. */
  readonly since?: string
  readonly onStep?: (step: BackupStep) => void
  readonly signal?: AbortSignal
}

/** How far a backup has come. */
export interface BackupStep {
  readonly what: string
  readonly done: number
  readonly of: number
}

export interface FinishedBackup {
  readonly target: string
  /** SHA-256 of the manifest, hex: keep it apart from the backup. */
  readonly manifestSha256: string
  readonly createdAt: string
  readonly logs: readonly { readonly name: string; readonly size: number; readonly rootHash: string }[]
  readonly bytes: number
  /** Files that were taken over from the earlier backup. */
  readonly reusedFiles: number
  readonly notBackedUp: readonly string[]
}

/** Makes a backup. Throws `OperatorError`; what it left behind then has no manifest and is no backup. */
export async function backUp(sources: BackupSources, options: BackupOptions): Promise<FinishedBackup> {
  const { target, since, signal } = options
  const createdAt = new Date().toISOString()
  await makeTarget(target)
  const earlier = since === undefined ? undefined : { folder: since, ...(await readManifest(since)) }
  const backup = new Backup(sources, options, earlier)
  // Small things first: what takes time are the logs.
  const trustRoot = await backup.trustRoot()
  await backup.configuration()
  const logs: BackedUpLog[] = []
  for (const source of sources.logs) {
    signal?.throwIfAborted()
    logs.push(await backup.log(source))
  }
  const account = await backup.account()
  const keys = await backup.keys()
  const status = await sources.agent.status()
  const manifest: BackupManifest = {
    format: BACKUP_FORMAT,
    program: sources.program,
    createdAt,
    finishedAt: new Date().toISOString(),
    profile: sources.profile,
    domain: sources.domain,
    files: backup.files,
    logs,
    guards: status.guards.map(({ origin, size, rootHashHex }) => ({ origin, size, rootHash: rootHashHex })),
    ...(account && { account }),
    ...(trustRoot && { trustRoot }),
    keys,
    notBackedUp: [...sources.notBackedUp, ...backup.leftOut],
  }
  signal?.throwIfAborted()
  const manifestSha256 = await writeManifest(target, manifest)
  return {
    target,
    manifestSha256,
    createdAt,
    logs: logs.map(({ name, size, rootHash }) => ({ name, size, rootHash })),
    bytes: backup.files.reduce((sum, { size }) => sum + size, 0),
    reusedFiles: backup.reused,
    notBackedUp: manifest.notBackedUp,
  }
}

async function makeTarget(target: string): Promise<void> {
  if (!isAbsolute(target)) throw new OperatorError('backup_target_exists', `${target} is no absolute path`)
  await mkdir(target, { recursive: true, mode: 0o700 })
  const found = await readdir(target)
  if (found.length > 0) {
    throw new OperatorError(
      'backup_target_exists',
      `${target} is not empty: each backup has a folder of its own; one without manifest.json was never finished and may be removed`,
    )
  }
}

type Earlier = { readonly folder: string; readonly manifest: BackupManifest }

class Backup {
  readonly files: BackedUpFile[] = []
  readonly leftOut: string[] = []
  reused = 0
  readonly #sources: BackupSources
  readonly #options: BackupOptions
  readonly #earlier: Earlier | undefined

  constructor(sources: BackupSources, options: BackupOptions, earlier: Earlier | undefined) {
    this.#sources = sources
    this.#options = options
    this.#earlier = earlier
  }

  /** The published generation with inventory and version counters, as they were between two publications. */
  async trustRoot(): Promise<BackupManifest['trustRoot']> {
    const { trustRoot, dataDir } = this.#sources
    if (trustRoot === undefined) return undefined
    const from = isAbsolute(trustRoot.folder) ? trustRoot.folder : join(dataDir, trustRoot.folder)
    for (let attempt = 1; ; attempt += 1) {
      const generation = await readlink(join(from, 'repository'))
      const names = await trustRootFiles(from, generation)
      const copied: BackedUpFile[] = []
      for (const name of names) copied.push(await this.#copy(join(from, name), `trust-root/${name}`))
      const { roles } = await trustRoot.publisher.status()
      if ((await readlink(join(from, 'repository'))) === generation) {
        this.files.push(...copied)
        const version = (role: string) => roles.find((one) => one.role === role)?.version ?? 0
        const versions = {
          root: version('root'),
          targets: version('targets'),
          snapshot: version('snapshot'),
          timestamp: version('timestamp'),
        }
        return { folder: trustRoot.folder, generation, versions }
      }
      if (attempt === 3) throw new Error('the trust root was published again and again during the backup')
      await rm(join(this.#options.target, 'trust-root'), { recursive: true })
    }
  }

  /** Configuration and public certificates, below `data/` with their places in the data folder. */
  async configuration(): Promise<void> {
    const { files, dataDir } = this.#sources
    // The same file is named from several places, in their own ways.
    const places = new Set(files.map((name) => (isAbsolute(name) ? relative(dataDir, name) : normalize(name))))
    for (const place of places) {
      if (place.startsWith('..') || isAbsolute(place)) {
        this.leftOut.push(`${join(dataDir, place)}: it lies outside the data folder`)
      } else if (!(await isThere(join(dataDir, place)))) {
        this.leftOut.push(`${place}: it is not there`)
      } else {
        this.files.push(await this.#copy(join(dataDir, place), `data/${place}`))
      }
    }
  }

  async log({ name, kind, database, log }: BackupSources['logs'][number]): Promise<BackedUpLog> {
    const { target: folder, onStep, signal } = this.#options
    const head = log.head()
    const spki = Buffer.from(log.spkiDer).toString('base64')
    const before = this.#earlier?.manifest.logs.find((one) => one.origin === log.origin && one.spki === spki)
    const earlier =
      this.#earlier !== undefined && before !== undefined && (await isBeginning(before, log, head))
        ? { folder: this.#earlier.folder, segments: before.segments, files: this.#earlier.manifest.files }
        : undefined
    const { segments, files, reused } = await writeSegments({
      folder,
      prefix: `logs/${name}`,
      lines: (start, limit) => log.backupRows(start, Math.max(0, Math.min(limit, head.size - start))),
      ...(earlier && { earlier }),
      onLines: (done) => onStep?.({ what: `log ${name}`, done, of: head.size }),
      ...(signal && { signal }),
    })
    this.files.push(...files)
    this.reused += reused
    const held = segments.reduce((sum, { count }) => sum + count, 0)
    if (held !== head.size) throw new Error(`log ${name} gave ${held} entries of ${head.size}`)
    return {
      name,
      kind,
      origin: log.origin,
      spki,
      database,
      size: head.size,
      rootHash: hex(head.rootHash),
      timestampMs: head.timestampMs,
      note: head.note,
      signature: Buffer.from(head.signature).toString('base64'),
      segments,
    }
  }

  /** The account of key uses, as evidence: a restore gives it back to people, never to an agent. */
  async account(): Promise<BackupManifest['account']> {
    const { agent } = this.#sources
    try {
      await agent.account({ from: 1, limit: 1 })
    } catch (error) {
      if (!(error instanceof HsmError) || error.code !== 'refused') throw error
      this.leftOut.push('the account of key uses: no socket of this server tells of it; use: chancery backup agent')
      return undefined
    }
    const { target: folder, onStep, signal } = this.#options
    let [lines, headHash] = [0, '0'.repeat(64)]
    const before = this.#earlier?.manifest.account
    const earlier =
      this.#earlier !== undefined && before !== undefined && (await this.#isSameAccount(before))
        ? {
            folder: this.#earlier.folder,
            segments: this.#earlier.manifest.files.flatMap(({ path }) => accountSegment(path)),
            files: this.#earlier.manifest.files,
          }
        : undefined
    const { segments, files, reused } = await writeSegments({
      folder,
      prefix: 'account',
      lines: async (start, limit) => {
        const found = await agent.account({ from: start + 1, limit })
        return Buffer.from(
          found
            .map((line) => `${JSON.stringify({ ...line, digest: hex(line.digest), hash: hex(line.hash) })}\n`)
            .join(''),
        )
      },
      ...(earlier && { earlier }),
      onLines: (done) => onStep?.({ what: 'account of key uses', done, of: done }),
      ...(signal && { signal }),
    })
    this.files.push(...files)
    this.reused += reused
    lines = segments.reduce((sum, { count }) => sum + count, 0)
    const [last] = lines === 0 ? [] : await agent.account({ from: lines, limit: 1 })
    if (last !== undefined) headHash = hex(last.hash)
    return { lines, headHash }
  }

  /** Each key with its wrapped copy, or a line that says that there is none. */
  async keys(): Promise<BackupManifest['keys']> {
    const { agent, keyBackup } = this.#sources
    const path = 'keys/keys.json'
    const wrapped = new Set(
      keyBackup === undefined ? [] : parseKeyBackup(keyBackup.text).map(({ spkiDer }) => hex(spkiDer)),
    )
    if (keyBackup !== undefined && wrapped.size > 0)
      this.files.push(await this.#write(path, Buffer.from(keyBackup.text)))
    const { keys } = await agent.status()
    const described: BackupManifest['keys'] = []
    for (const { name } of keys) {
      const { spkiDer } = await agent.key(name)
      const held = wrapped.has(hex(spkiDer))
      if (!held) {
        const why = keyBackup?.notWrapped[name] ?? `key ${name} cannot leave its HSM from here`
        this.leftOut.push(`${why}; its copy is a second token or the HSM's own backup`)
      }
      const spkiSha256 = createHash('sha256').update(spkiDer).digest('hex')
      described.push({ name, spkiSha256, backup: held ? path : '' })
    }
    return described
  }

  async #isSameAccount(before: NonNullable<BackupManifest['account']>): Promise<boolean> {
    if (before.lines === 0) return false
    const [line] = await this.#sources.agent.account({ from: before.lines, limit: 1 })
    return line !== undefined && hex(line.hash) === before.headHash
  }

  async #copy(from: string, path: string): Promise<BackedUpFile> {
    const to = join(this.#options.target, path)
    await mkdir(dirname(to), { recursive: true, mode: 0o700 })
    await copyFile(from, to)
    await syncPath(to)
    await syncPath(dirname(to))
    const { size } = await stat(to)
    return { path, size, sha256: (await describeFile(to)).sha256 }
  }

  async #write(path: string, bytes: Uint8Array): Promise<BackedUpFile> {
    const to = join(this.#options.target, path)
    await mkdir(dirname(to), { recursive: true, mode: 0o700 })
    const handle = await open(to, 'wx', 0o600)
    try {
      await handle.writeFile(bytes)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await syncPath(dirname(to))
    return { path, size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') }
  }
}

/** Inventory, counters, staged roots and the generation that is served; without the link, which a restore makes anew. */
async function trustRootFiles(folder: string, generation: string): Promise<string[]> {
  const own = (await readdir(folder, { withFileTypes: true }))
    .filter((entry) => entry.isFile() && entry.name.endsWith('.json'))
    .map(({ name }) => name)
  const below = async (name: string) => (await filesBelow(join(folder, name))).map((file) => `${name}/${file}`)
  const canaries = (await isThere(join(folder, 'canaries'))) ? await below('canaries') : []
  return [...own, ...canaries, ...(await below(generation))]
}

/** Whether the earlier backup's log is a beginning of this one, proved as to any auditor. */
async function isBeginning(
  before: BackedUpLog,
  log: Pick<Log, 'consistencyProof'>,
  { size, rootHash }: { readonly size: number; readonly rootHash: Uint8Array },
): Promise<boolean> {
  if (before.size === 0 || before.size > size) return false
  try {
    verifyConsistency({
      first: before.size,
      firstRoot: Buffer.from(before.rootHash, 'hex'),
      second: size,
      secondRoot: rootHash,
      proof: await log.consistencyProof(before.size, size),
    })
    return true
  } catch {
    // Another history: everything is copied.
    return false
  }
}

function accountSegment(path: string): { path: string; start: number; count: number }[] {
  const match = /^account\/([0-9]{12})-([0-9]+)\.jsonl\.zst$/.exec(path)
  return match === null ? [] : [{ path, start: Number(match[1]), count: Number(match[2]) }]
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
