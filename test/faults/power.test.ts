/**
 * Loss of power, not only the end of a process: server, agents and clients run on a shim that records, in one order,
 * what each of them writes and syncs and what clients were told (disk-shim.c). From the record the disk is put together
 * as it may be after a cut at any moment (power-model.ts), and everything that was promised by then is looked for.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { askAdmin } from '#server'
import { type Head, verifyCheckpoint, verifyTreeHead } from '../crash/checker.ts'
import { type Ledger, readLedger } from '../crash/ledger.ts'
import { startLoad } from '../crash/load.ts'
import type { Outcome, Use } from '../crash/loader.ts'
import { pinnedLogs } from '../crash/pinned-logs.ts'
import { checkWholeLogs, type Found, type Logs, v1Entry, v2Entry } from '../crash/whole-log-check.ts'
import { succeeded } from '../e2e/run.ts'
import { initialise, runChancery, type Stack, serve } from '../e2e/stack.ts'
import { buildDiskShim, type DiskRecord, type DiskShim, readTrace } from '../support/disk-shim.ts'
import { keepPlaces } from '../support/moved-state.ts'
import { LONG } from './loaded-stack.ts'
import { checkAfterPowerLoss, type Told, type Truth } from './power-check.ts'
import { drawFrom } from '../support/on-shim.ts'
import { Disk, FATES } from '../support/power-model.ts'
import { mountMemory, unmount } from './volumes.ts'

const CUTS = LONG ? 2000 : 200
/** So many more start server and agents on what is left, with their HSM. */
const WHOLE_CUTS = LONG ? 60 : 20
const LOAD_MS = LONG ? 20_000 : 4_500
const LANES: Readonly<Record<Use, number>> = { v1: 3, v2: 2, ca: 2, tsa: 1, watch: 1 }
const PACE_MS = 25
const EMAIL = 'loader@example.test'
/** Of the agent on its token, as installations have them: so many signatures may be under way. */
const SESSIONS = 4
let mostUnknown = 0

const scratch = mkdtempSync(join(tmpdir(), 'chancery-power-'))
const dataDir = join(scratch, 'installation/data')
const toldDir = join(scratch, 'told')
const publications = join(toldDir, 'publications')
/** Before the first record. It goes forward with the cuts. */
let disk: Disk
let records: readonly DiskRecord[] = []
let logs: Logs
let truth: Truth
let ledger: Ledger
let found: Found

beforeAll(() => mountMemory(scratch))

afterAll(() => {
  unmount(scratch)
  rmSync(scratch, { recursive: true, force: true })
})

test('init: what it has finished is whole, and what it has not begins again', async () => {
  const parent = join(scratch, 'installation')
  mkdirSync(parent)
  const before = new Disk(parent)
  const recording = buildDiskShim(join(scratch, 'recorded-init'), { folders: [parent], trace: true, content: true })
  await initialise(dataDir, [], recording.environment)
  recording.close()
  const made = readTrace(recording.traceFile)
  const draw = drawFrom(Date.now())
  const cuts = new Set(Array.from({ length: 40 }, () => draw(made.length)))
  for (const [at, record] of made.entries()) {
    if (cuts.has(at)) {
      const cut = join(scratch, 'cut-init')
      before.materialise(cut, FATES[draw(FATES.length)] ?? 'nothing', draw)
      const names = existsSync(join(cut, 'data')) ? readdirSync(join(cut, 'data')) : []
      const begun = names.includes('.init-unfinished')
      expect(names.length === 0 || begun, `cut at ${at} of ${made.length} leaves ${names.join(', ')}`).toBe(true)
      rmSync(cut, { recursive: true })
    }
    before.apply(record)
  }
  // The power is lost the moment that it has ended. The next test goes on with what is left.
  renameSync(parent, join(scratch, 'installation-before'))
  before.materialise(parent, 'nothing', draw)
  keepPlaces(dataDir)
  expect(readdirSync(dataDir)).not.toContain('.init-unfinished')
})

test(`${CUTS + WHOLE_CUTS} cuts, of which ${WHOLE_CUTS} start everything: nothing promised is lost`, async () => {
  await record()
  const seed = Math.floor(Math.random() * 2 ** 32)
  const draw = drawFrom(seed)
  const cuts = Array.from({ length: CUTS + WHOLE_CUTS }, (_, number) => ({
    at: draw(records.length),
    whole: number < WHOLE_CUTS,
  })).toSorted((one, other) => one.at - other.at)
  const teller = new Teller()
  const startMs = Date.now()
  let applied = 0
  let wholeMs = 0
  for (const [number, { at, whole }] of cuts.entries()) {
    for (; applied < at; applied++) {
      const record = records[applied]
      if (record === undefined) break
      disk.apply(record)
      teller.hear(record)
    }
    const fate = FATES[number % FATES.length] ?? 'nothing'
    const where = `cut ${number} of seed ${seed}: after record ${at} of ${records.length}, unsynced: ${fate}`
    const folder = whole ? dataDir : join(scratch, `cut-${number}`)
    disk.materialise(folder, fate, draw)
    keepPlaces(folder)
    const beganMs = Date.now()
    try {
      if (whole) await checkWhole(teller, { publish: number % 4 === 0 })
      else await checkAfterPowerLoss(folder, truth, teller.told())
    } catch (cause) {
      throw new Error(`${where}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    }
    if (whole) wholeMs += Date.now() - beganMs
    rmSync(folder, { recursive: true })
  }
  console.log(
    `seed ${seed}: ${records.length} records, v1 ${found.v1.size}, v2 ${found.v2.size}, ct ${found.ct.size}; ` +
      `${CUTS} cuts and ${WHOLE_CUTS} whole ones checked in ${Date.now() - startMs} ms, the whole ones in ${wholeMs} ms; ` +
      `at most ${mostUnknown} uses of keys unknown`,
  )
  expect(teller.told().acknowledged.v1.length).toBeGreaterThan(20)
})

/** Runs the stack under load on the recording shim, and reads what came of it. */
async function record(): Promise<void> {
  disk = new Disk(dataDir, ['hsm/tokens'])
  mkdirSync(toldDir)
  const recording = buildDiskShim(join(scratch, 'recorded'), { folders: [dataDir, toldDir], trace: true })
  const stack = await serve(dataDir, recording.environment)
  logs = pinnedLogs(dataDir, stack.endpoints)
  await loadAndPublish(stack, recording)
  await stack.stop()
  recording.close()
  records = readTrace(recording.traceFile)
  ledger = readLedger(join(toldDir, 'load'))
  await readTruth()
  renameSync(dataDir, join(scratch, 'original'))
}

async function loadAndPublish(stack: Stack, shim: DiskShim): Promise<void> {
  const said = await runChancery(['dev', 'token', '--data', dataDir, '--email', EMAIL])
  const token = succeeded(said).stdout.trim()
  const { endpoints } = stack
  const folder = join(toldDir, 'load')
  const load = startLoad(
    { folder, name: 'power', endpoints, token, email: EMAIL, lanes: LANES, paceMs: PACE_MS },
    { ...shim.ownEnvironment },
  )
  const untilMs = Date.now() + LOAD_MS
  while (Date.now() < untilMs) {
    await delay(300)
    const answer = await askAdmin(join(dataDir, 'run/admin.sock'), 'publish-trust', { timeoutMs: 30_000 })
    const { versions } = answer as { versions: unknown } // development signs at once
    shim.mark(publications, JSON.stringify(versions))
  }
  load.stop()
  await load.ended
}

/** Everything as it became, checked whole: each earlier state must be a beginning of it. */
async function readTruth(): Promise<void> {
  const stack = await serve(dataDir)
  found = await checkWholeLogs(logs, { all: ledger, fresh: ledger, sampleOf: 1 })
  await stack.stop()
  const keysOf = (use: 'v1' | 'v2') => {
    const keys: string[] = []
    for (const [digest, index] of found.index[use]) keys[index] = `hash:sha256:${digest}`
    return keys
  }
  const log = (name: 'v1' | 'v2' | 'ct', kind: 'rekor-v1' | 'rekor-v2' | 'ct', searchKeys: readonly string[]) => ({
    name,
    kind,
    database: `logs/${kind}.db`,
    key: logs.keys[name],
    final: found[name],
    searchKeys,
  })
  truth = { logs: [log('v1', 'rekor-v1', keysOf('v1')), log('v2', 'rekor-v2', keysOf('v2')), log('ct', 'ct', [])] }
}

/** Server and agents with their HSM on what is left, and all that a client can ask. */
async function checkWhole(teller: Teller, { publish }: { publish: boolean }): Promise<void> {
  const stack = await serve(dataDir)
  try {
    const known = new Set(teller.outcomes)
    const all: Ledger = {
      acknowledged: ledger.acknowledged.filter((outcome) => known.has(nameOf(outcome))),
      // Sent, or to be sent.
      unanswered: [...ledger.unanswered, ...ledger.acknowledged.filter((outcome) => !known.has(nameOf(outcome)))],
      timestamps: [],
      heads: ledger.heads.filter((outcome) => known.has(nameOf(outcome))),
    }
    await checkWholeLogs(logs, { all, fresh: { ...all, acknowledged: [], unanswered: [], heads: [] }, sampleOf: 10 })
    for (const file of ['timestamp.json', 'root.json']) {
      const response = await fetch(`${stack.endpoints.tuf}/${file}`)
      if (response.status !== 200) throw new Error(`${file} answered ${response.status}`)
    }
    const admin = join(dataDir, 'run/admin.sock')
    const uses = z.object({ unknownTotal: z.int() }).parse(await askAdmin(admin, 'reconcile', { timeoutMs: 30_000 }))
    if (uses.unknownTotal > SESSIONS) throw new Error(`${uses.unknownTotal} uses of keys are unknown afterwards`)
    mostUnknown = Math.max(mostUnknown, uses.unknownTotal)
    if (publish) await askAdmin(admin, 'publish-trust', { timeoutMs: 30_000 })
  } finally {
    await stack.stop()
  }
}

function nameOf({ use, sentMs, digest, sent }: Outcome): string {
  return digest === '' ? `${use} ${sent} ${sentMs}` : `${use} ${digest}`
}

/** What clients have been told so far, from the lines that they wrote. */
class Teller {
  readonly outcomes: string[] = []
  readonly #acknowledged = { v1: [] as number[], v2: [] as number[], ct: [] as number[] }
  readonly #heads: { v1?: Head; v2?: Head; ct?: Head } = {}
  readonly #released = new Map<string, number>()
  #published: Told['published'] = {}

  hear({ type, path, bytes }: DiskRecord): void {
    if (type !== 'write' || bytes === undefined) return
    if (path === publications) this.#published = JSON.parse(bytes.toString()) as Told['published']
    else if (dirname(path) === join(toldDir, 'load') && basename(path).endsWith('.jsonl')) {
      this.#hearOutcome(JSON.parse(bytes.toString()) as Outcome)
    }
  }

  told(): Told {
    const { v1, v2, ct } = this.#heads
    return {
      acknowledged: this.#acknowledged,
      heads: { v1, v2, ct },
      released: this.#released,
      published: this.#published,
    }
  }

  #hearOutcome(outcome: Outcome): void {
    const { use, status, reply, digest, sent } = outcome
    if (status !== 200 && status !== 201) return
    this.outcomes.push(nameOf(outcome))
    if (use === 'v1' || use === 'v2') {
      const { head, index } = use === 'v1' ? v1Entry(reply, logs) : v2Entry(reply, logs)
      this.#acknowledged[use].push(index)
      this.#saw(use, head)
      if (use === 'v1') this.#used('rekor-v1')
    } else if (use === 'ca') {
      this.#acknowledged.ct.push(found.index.ca.get(digest) ?? Number.POSITIVE_INFINITY)
      this.#used('issuing-ca', 2)
      this.#used('ct')
    } else if (use === 'tsa') this.#used('tsa')
    else if (sent === 'ct') this.#saw('ct', verifyTreeHead(reply, logs.keys.ct.spkiDer))
    else if (sent === 'v2') this.#saw('v2', verifyCheckpoint(reply, logs.keys.v2))
    else {
      const { signedTreeHead } = JSON.parse(reply) as { signedTreeHead: string }
      this.#saw('v1', verifyCheckpoint(signedTreeHead, logs.keys.v1))
    }
  }

  #saw(log: 'v1' | 'v2' | 'ct', head: Head): void {
    if (head.size > (this.#heads[log]?.size ?? -1)) this.#heads[log] = head
  }

  #used(key: string, times = 1): void {
    this.#released.set(key, (this.#released.get(key) ?? 0) + times)
  }
}
