/** A PKCS#11 module that goes wrong as it is told (`fault-shim.c`), around a real one. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** One thing that goes wrong. */
export interface Fault {
  /** `C_Sign`, `C_OpenSession`, …, or `any` for whatever the shim wraps. */
  readonly call: string
  /**
   * `error`: the call fails with the CK_RV `value`. `delay`: it takes `value` milliseconds more. `hang`: it never returns.
   * `flip`: bit `value` of the signature is turned over. `logout`, `drop`: the process is logged out, or all sessions
   * closed, behind the caller's back.
   */
  readonly action: 'error' | 'delay' | 'hang' | 'flip' | 'logout' | 'drop'
  /** So many times at most; 1 unless told. */
  readonly times?: number
  /** Only every so-manyth call that fits; each unless told. */
  readonly every?: number
  readonly value?: number
}

export interface FaultShim {
  readonly modulePath: string
  /** From now on this goes wrong, and nothing that was told before. */
  set(...faults: readonly Fault[]): void
  /** How often each fault of the last `set` has happened, by any process. */
  taken(): number[]
  /** The next `times` calls of C_Sign: fail with this CK_RV, give a wrong signature, or never return. */
  fail(what: 'sign' | 'corrupt' | 'hang', times: number, rv?: number): void
  /** `C_Login` and `C_Sign` for each call that reached the module, `C_Sign error` and the like for each fault, in order. */
  calls(): string[]
}

/** The shim counts in 32 bits. */
const FOR_EVER = 0xffff_ffff
/** As many as it has counters for. */
const FAULTS = 4096

/** Builds the shim around `realModule`, with its control file and its log in `folder`. */
export function buildFaultShimIn(folder: string, realModule: string): FaultShim {
  const file = (name: string) => join(folder, name)
  const [modulePath, control, spent, log] = ['fault-shim.so', 'fault', 'fault-spent', 'calls'].map(file) as [
    string,
    string,
    string,
    string,
  ]
  const define = (name: string, value: string) => `-D${name}="${value}"`
  execFileSync('cc', [
    '-shared',
    '-fPIC',
    '-pthread',
    '-o',
    modulePath,
    define('REAL_MODULE', realModule),
    define('CONTROL_FILE', control),
    define('SPENT_FILE', spent),
    define('CALL_LOG', log),
    fileURLToPath(new URL('./fault-shim.c', import.meta.url)),
    '-ldl',
  ])
  let first = 0
  let next = 0
  let limits: readonly number[] = []
  const set = (...faults: readonly Fault[]) => {
    if (next + faults.length > FAULTS) throw new RangeError('the shim knows 4096 faults')
    first = next
    next += faults.length
    limits = faults.map(({ times = 1 }) => times)
    const lines = faults.map(({ call, action, times = 1, every = 1, value = 0 }, at) =>
      [first + at, call, action, Math.min(times, FOR_EVER), every, value].join(' '),
    )
    // Renamed into place: the module reads it at every call.
    writeFileSync(`${control}.part`, lines.map((line) => `${line}\n`).join(''))
    renameSync(`${control}.part`, control)
  }
  return {
    modulePath,
    set,
    taken: () => {
      if (!existsSync(spent)) return []
      const counters = readFileSync(spent)
      // Also counted are calls that came when the last one was taken.
      return limits.map((limit, at) => Math.min(limit, counters.readUInt32LE((FAULTS + first + at) * 4)))
    },
    fail: (what, times, rv = 0) => {
      if (what === 'corrupt') set({ call: 'C_Sign', action: 'flip', times, value: 40 })
      else set({ call: 'C_Sign', action: what === 'sign' ? 'error' : 'hang', times, value: rv })
    },
    calls: () => (existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n').filter(Boolean) : []),
  }
}
