/** Who tells the agent that its clock is right: the kernel's time service, or a command. Never a service that signs through it. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { kernelClock } from '#native'
import type { ClockConfig } from './agent-clock.ts'
import { type Confirmation, STEP_TOLERANCE_MS } from './clock.ts'

const run = promisify(execFile)

const COMMAND_WITHIN_MS = 5000

/** Undefined for `steady`: the clock itself shows that it runs evenly. */
export function confirmationBy(confirmedBy: ClockConfig['confirmedBy']): Confirmation | undefined {
  if (confirmedBy === 'steady') return undefined
  return confirmedBy === 'kernel' ? confirmedByKernel : confirmedByCommand(confirmedBy)
}

/**
 * The kernel's own word: every step of the clock makes it say "unsynchronised" until the time service (chronyd with
 * `rtcsync`, systemd-timesyncd, ntpd) has measured again and says otherwise. Only root can say so.
 */
export const confirmedByKernel: Confirmation = async () => {
  try {
    const { synchronised, maxErrorMs } = kernelClock()
    if (!synchronised) return 'the kernel says that its clock is not synchronised'
    return maxErrorMs > STEP_TOLERANCE_MS ? `the kernel says that its clock may be off by ${maxErrorMs} ms` : undefined
  } catch {
    return 'the kernel may not be asked: the unit needs ProtectClock=no and SystemCallFilter=adjtimex clock_adjtime'
  }
}

/** A command that prints the offset of this machine's clock to true time, in milliseconds. */
export function confirmedByCommand(command: readonly string[]): Confirmation {
  const [file = '', ...args] = command
  return async () => {
    try {
      const options = { timeout: COMMAND_WITHIN_MS, maxBuffer: 4096, env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } }
      const text = (await run(file, args, options)).stdout.trim()
      const offsetMs = Number(text)
      if (text === '' || !Number.isFinite(offsetMs)) return `${file} printed no number`
      return Math.abs(offsetMs) <= STEP_TOLERANCE_MS
        ? undefined
        : `${file} says that the clock is off by ${offsetMs} ms`
    } catch (error) {
      return `${file} failed: ${error instanceof Error ? error.message : 'unknown'}`
    }
  }
}
