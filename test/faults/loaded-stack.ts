/**
 * The whole stack under load from all services at once by clients that do not give up, and the check of everything that
 * they were given. The clients are another process (test/crash/loader.ts); the checks know HTTP and pinned keys alone.
 */
import { createPublicKey, verify, X509Certificate } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parse, stringify } from 'yaml'
import { joined, type Ledger, readLedger } from '../crash/ledger.ts'
import { type Ended, type RunningLoad, startLoad } from '../crash/load.ts'
import type { Outcome, Use } from '../crash/loader.ts'
import { pinnedKeys, pinnedLogs } from '../crash/pinned-logs.ts'
import { checkWholeLogs, type Found } from '../crash/whole-log-check.ts'
import { succeeded } from '../e2e/run.ts'
import { runChancery, type Stack } from '../e2e/stack.ts'
import { checkTimestamp } from './timestamp-check.ts'

export { LONG } from '../support/long.ts'

/** Every service that signs for whoever asks. */
export const USES = ['v1', 'v2', 'ca', 'tsa'] as const

const EMAIL = 'loader@example.test'
const LANES: Readonly<Record<Use, number>> = { v1: 4, v2: 3, ca: 3, tsa: 2, watch: 1 }
/** A dozen connections with a rest between two requests: some 200 signatures a second, on two slow cores. */
const PACE_MS = 25

/** Changes top-level settings of one of the installation's YAML files. */
export function configure(dataDir: string, file: string, changes: Readonly<Record<string, unknown>>): void {
  const path = join(dataDir, file)
  writeFileSync(path, stringify({ ...(parse(readFileSync(path, 'utf8')) as object), ...changes }))
}

export interface PatientLoad {
  readonly folder: string
  readonly running: RunningLoad
  /** Resolves when each of `uses` had `count` more requests taken than now; rejects after `withinMs`. */
  progress(count: number, options?: { uses?: readonly Use[]; withinMs?: number }): Promise<void>
  /** Stops the load, lets it finish what is left over, and reads what its clients know. */
  finish(): Promise<{ ledger: Ledger; outcomes: readonly Outcome[]; ended: Ended }>
}

/** A load that sends each request until it is taken. */
export async function startPatientLoad(
  stack: Stack,
  folder: string,
  lanes: Readonly<Partial<Record<Use, number>>> = LANES,
): Promise<PatientLoad> {
  const said = await runChancery(['dev', 'token', '--data', stack.dataDir, '--email', EMAIL])
  const token = succeeded(said).stdout.trim()
  const running = startLoad({
    folder,
    name: folder,
    endpoints: stack.endpoints,
    token,
    email: EMAIL,
    lanes,
    patient: true,
    paceMs: PACE_MS,
  })
  return {
    folder,
    running,
    progress: async (count, { uses = USES, withinMs = 30_000 } = {}) => {
      const before = await running.acknowledged()
      const untilMs = performance.now() + withinMs
      for (;;) {
        const now = await running.acknowledged()
        const late = uses.filter((use) => now[use] < before[use] + count)
        if (late.length === 0) return
        if (performance.now() > untilMs) throw new Error(`${late.join()}: no ${count} requests within ${withinMs} ms`)
        await delay(20)
      }
    },
    finish: async () => {
      running.stop()
      const ended = await running.ended
      return { ledger: readLedger(folder), outcomes: outcomesOf(folder), ended }
    },
  }
}

/** Each answer of a load, refusals included. */
function outcomesOf(folder: string): Outcome[] {
  const uses = Object.entries(LANES).flatMap(([use, lanes]) => Array.from({ length: lanes }, (_, n) => `${use}-${n}`))
  const names = uses.filter((name) => existsSync(join(folder, `${name}.jsonl`)))
  return names.flatMap((name) =>
    readFileSync(join(folder, `${name}.jsonl`), 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Outcome),
  )
}

/** Answers that a client can do nothing with: neither right nor 503 with a number of seconds in Retry-After. */
export function badAnswers(outcomes: readonly Outcome[]): string[] {
  return outcomes
    .filter(
      ({ status, retryAfter }) =>
        !(status === 200 || status === 201 || (status === 503 && /^[1-9]\d?$/.test(retryAfter ?? ''))),
    )
    .map(({ use, status, reply, retryAfter }) => `${use}: ${status}, Retry-After ${retryAfter}, ${reply.slice(0, 200)}`)
}

/** How long the slowest refusal took, in milliseconds. */
export function slowestRefusalMs(outcomes: readonly Outcome[]): number {
  return Math.max(0, ...outcomes.filter(({ status }) => status === 503).map((one) => one.endedMs - one.sentMs))
}

/** When an artefact says that it was made, and when its client knows that it was. */
export interface StatedTime {
  readonly use: Use
  /** Of the request. */
  readonly digest: string
  readonly statedMs: number
  /** Whole seconds in the artefact. */
  readonly wholeSeconds: boolean
  readonly sentMs: number
  readonly endedMs: number
}

export interface Checked {
  readonly found: Found
  readonly times: readonly StatedTime[]
}

/**
 * Verifies every signature that was released, under the pinned keys, and the whole logs; throws for the first one that
 * does not hold. Returns the times that they state.
 */
export async function checkEverything(
  stack: Stack,
  ledgers: readonly Ledger[],
  fresh: Ledger,
  sampleOf = 25,
): Promise<Checked> {
  const all = joined(ledgers)
  const keys = pinnedKeys(stack.dataDir)
  const spkiOf = (name: string) => keys[name]?.spkiDer ?? Buffer.alloc(0)
  const times: StatedTime[] = []
  const issuer = createPublicKey({ key: spkiOf('issuing-ca'), format: 'der', type: 'spki' })
  for (const { use, digest, reply, sentMs, endedMs } of all.acknowledged) {
    if (use === 'ca') {
      const certificate = leafOf(reply)
      if (!certificate.verify(issuer)) throw new Error(`certificate ${certificate.serialNumber} is not the issuer's`)
      times.push({ use, digest, statedMs: certificate.validFromDate.getTime(), wholeSeconds: true, sentMs, endedMs })
      times.push({ use, digest, statedMs: sctTimeMs(certificate), wholeSeconds: false, sentMs, endedMs })
    } else if (use === 'v1') {
      const [entry] = Object.values(JSON.parse(reply) as Record<string, { integratedTime: number }>)
      times.push({ use, digest, statedMs: (entry?.integratedTime ?? 0) * 1000, wholeSeconds: true, sentMs, endedMs })
    }
  }
  for (const { use, digest, reply, sentMs, endedMs } of all.timestamps) {
    const spkiDer = spkiOf('tsa')
    const { genTimeMs } = checkTimestamp(Buffer.from(reply, 'base64'), { digestHex: digest, spkiDer })
    times.push({ use, digest, statedMs: genTimeMs, wholeSeconds: true, sentMs, endedMs })
  }
  await checkTuf(stack, spkiOf('tuf-online'))
  // SETs, SCTs, checkpoints and tree heads are verified here.
  const found = await checkWholeLogs(pinnedLogs(stack.dataDir, stack.endpoints), { all, fresh, sampleOf })
  return { found, times }
}

/** The newest snapshot and timestamp, under the pinned online key. */
async function checkTuf(stack: Stack, spkiDer: Buffer): Promise<void> {
  const get = async (name: string) => {
    const response = await fetch(`${stack.endpoints.tuf}/${name}`)
    if (response.status !== 200) throw new Error(`${name} answered ${response.status}`)
    return (await response.json()) as { signed: unknown; signatures: { sig: string }[] }
  }
  const timestamp = await get('timestamp.json')
  const { meta } = timestamp.signed as { meta: Record<string, { version: number }> }
  for (const document of [timestamp, await get(`${meta['snapshot.json']?.version}.snapshot.json`)]) {
    const signed = Buffer.from(canonical(document.signed))
    const good = document.signatures.some(({ sig }) =>
      verify('sha256', signed, { key: spkiDer, format: 'der', type: 'spki' }, Buffer.from(sig, 'hex')),
    )
    if (!good) throw new Error('TUF metadata is not signed by the online key')
  }
}

/** OLPC canonical JSON for what TUF metadata has in it. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  const members = Object.entries(value).toSorted(([one], [other]) => (one < other ? -1 : 1))
  return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${canonical(member)}`).join(',')}}`
}

function leafOf(reply: string): X509Certificate {
  const { certificates } = (
    JSON.parse(reply) as { signedCertificateEmbeddedSct: { chain: { certificates: string[] } } }
  ).signedCertificateEmbeddedSct.chain
  return new X509Certificate(certificates[0] ?? '')
}

const SCT_LIST_OID = Buffer.from('060a2b06010401d679020402', 'hex')

/** Version, log id, then the time: the log id is found, since the check of the SCT itself is elsewhere. */
function sctTimeMs({ raw }: X509Certificate): number {
  const list = raw.subarray(raw.indexOf(SCT_LIST_OID) + SCT_LIST_OID.length)
  // OCTET STRING in OCTET STRING, each with one or two bytes of length, then two lengths of two bytes and the version.
  const skip = (der: Buffer) => der.subarray((der[1] ?? 0) < 0x80 ? 2 : 2 + ((der[1] ?? 0) & 0x7f))
  return Number(skip(skip(list)).readBigUInt64BE(2 + 2 + 1 + 32))
}

/** The lines that the server wrote, as far as they are JSON. */
export function logLines(dataDir: string): { time: number; msg: string; [field: string]: unknown }[] {
  return readFileSync(join(dataDir, 'serve.log'), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => {
      // The agent's own lines have a number there.
      const { time, ...rest } = JSON.parse(line) as { time: string | number; msg: string }
      return { ...rest, time: new Date(time).getTime() }
    })
}
