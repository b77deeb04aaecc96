/** What the kernel says of a process: CPU time and resident memory (proc(5)). */
import { readFileSync } from 'node:fs'

/** USER_HZ: the unit of times in /proc, 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100

/** User and system time of all threads since the process began, seconds. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The name in parentheses may hold blanks and parentheses; utime and stime are the 12th and 13th fields behind it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}

/** Time on a CPU of the main thread alone, which is where the event loop is, seconds. */
export function mainThreadSeconds(pid: number): number {
  const [onCpuNs] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ')
  return Number(onCpuNs) / 1e9
}

/** Resident memory now and its peak, bytes. */
export function memory(pid: number): { readonly rss: number; readonly peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1] ?? Number.NaN)
  return { rss: kib('VmRSS') * 1024, peak: kib('VmHWM') * 1024 }
}

/** The first child that the main thread of `pid` started, if it lives. */
export function childOf(pid: number): number | undefined {
  const [first] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')
  return first === undefined || first === '' ? undefined : Number(first)
}
