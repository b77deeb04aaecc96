/** The thread that checks a log: it hashes and verifies, and asks whoever started it for what is stored. */
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { fsck, type FsckOptions, type FsckReport, type FsckState, type FsckStep } from './fsck.ts'
import type { Inspection } from './log.ts'
import { StoreError, type StoreErrorCode } from './store.ts'

/** What the thread is started with. */
export interface FsckStart {
  readonly fsck: FsckOptions
  /** Kept while the check runs, so that a killed one can go on. */
  readonly progressFile?: string
}

export type FsckSays =
  | { readonly ask: number; readonly method: keyof Inspection; readonly args: readonly unknown[] }
  | { readonly step: FsckStep }
  | { readonly report: FsckReport }
  | { readonly failed: string }

export type FsckHears = { readonly ask: number } & (
  | { readonly value: unknown }
  | { readonly error: { readonly code: StoreErrorCode; readonly message: string } }
)

/** Often enough that little is done twice, seldom enough that nobody waits for the disk. */
const KEEP_EVERY_MS = 1000

const port = parentPort
const start = workerData as Partial<FsckStart> | null // only fsck-run.ts starts this thread
if (port !== null && start?.fsck !== undefined) {
  const say = (what: FsckSays): void => port.postMessage(what)
  const waiting = new Map<number, { resolve: (value: never) => void; reject: (error: StoreError) => void }>()
  port.on('message', (heard: FsckHears) => {
    const asked = waiting.get(heard.ask)
    waiting.delete(heard.ask)
    if ('error' in heard) asked?.reject(new StoreError(heard.error.code, heard.error.message))
    else asked?.resolve(heard.value as never) // each method's own answer
  })
  let count = 0
  const ask =
    <M extends keyof Inspection>(method: M) =>
    (...args: Parameters<Inspection[M]>): ReturnType<Inspection[M]> =>
      new Promise<never>((resolve, reject) => {
        waiting.set(++count, { resolve, reject })
        say({ ask: count, method, args })
      }) as ReturnType<Inspection[M]>
  const source: Inspection = {
    inspectHeads: ask('inspectHeads'),
    inspectEntries: ask('inspectEntries'),
    inspectKeys: ask('inspectKeys'),
  }
  const { progressFile } = start
  const from = kept(progressFile)
  let keptMs = performance.now()
  const onState = (state: FsckState, step: FsckStep): void => {
    say({ step })
    if (progressFile === undefined || performance.now() - keptMs < KEEP_EVERY_MS) return
    keptMs = performance.now()
    writeFileSync(`${progressFile}.part`, JSON.stringify(state), { mode: 0o600 })
    renameSync(`${progressFile}.part`, progressFile)
  }
  fsck(source, start.fsck, { onState, ...(from === undefined ? {} : { from }) })
    .then((report) => {
      if (progressFile !== undefined) rmSync(progressFile, { force: true })
      say({ report })
    })
    .catch((error: unknown) => say({ failed: error instanceof Error ? error.message : String(error) }))
    .finally(() => port.close())
}

function kept(file: string | undefined): FsckState | undefined {
  if (file === undefined || !existsSync(file)) return undefined
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as FsckState // written above
  } catch {
    return undefined
  }
}
