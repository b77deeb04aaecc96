/** A process on the disk of `disk-shim.c` that is told lines and answers each with a line of JSON. */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { DiskShim } from './disk-shim.ts'

export interface OnShim {
  /** Sends lines, and resolves with as many answers. */
  ask(lines: readonly string[]): Promise<readonly Record<string, unknown>[]>
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>
}

/** Starts `node script ...args`. `heard` is called for each answer as it comes; the first, unasked, says that it is ready. */
export async function startOnShim(
  shim: DiskShim,
  script: string,
  args: readonly string[],
  heard: (answer: Record<string, unknown>) => void,
): Promise<OnShim> {
  const child = spawn(process.execPath, [script, ...args], {
    env: { ...shim.ownEnvironment },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const gone = new Promise<void>((resolve) => {
    child.once('close', () => resolve())
  })
  const answers: Record<string, unknown>[] = []
  let waiting: { readonly count: number; readonly done: () => void } | undefined
  createInterface({ input: child.stdout }).on('line', (line) => {
    const answer = JSON.parse(line) as Record<string, unknown>
    answers.push(answer)
    heard(answer)
    if (waiting !== undefined && answers.length >= waiting.count) waiting.done()
  })
  const take = async (count: number) => {
    await new Promise<void>((done, reject) => {
      if (answers.length >= count) done()
      else waiting = { count, done }
      void gone.then(() => reject(new Error(`the process ended before it had given ${count} answers`)))
    })
    return answers.splice(0)
  }
  await take(1)
  return {
    ask: async (lines) => {
      child.stdin.write(lines.map((line) => `${line}\n`).join(''))
      return await take(lines.length)
    },
    kill: async () => {
      child.kill('SIGKILL')
      await gone
    },
  }
}

/** Mulberry32: the same numbers for the same seed; each from 0 up to, and without, `below`. */
export function drawFrom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}
