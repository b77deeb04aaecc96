/** A wall clock that a test can step under running processes (Debian's faketime); the monotonic clock is left alone. */
import { readdirSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface FakedClock {
  /** For the processes that shall see it. */
  readonly environment: Readonly<Record<string, string>>
  /** A command that prints how far the clock is off, in milliseconds, as a time source does. */
  readonly source: readonly string[]
  /** From now on the clock is off by so many seconds; a source may not know. */
  step(seconds: number, options?: { sourceKnows?: boolean }): void
}

/** Puts its two files into `folder`. */
export function fakeClock(folder: string, name: string): FakedClock {
  const [clock, offset] = [join(folder, `${name}.faketime`), join(folder, `${name}.offset`)]
  const write = (file: string, text: string) => {
    writeFileSync(`${file}.part`, text)
    renameSync(`${file}.part`, file)
  }
  const step = (seconds: number, { sourceKnows = true } = {}) => {
    // The source first: there is no moment at which the clock is wrong and the source does not know.
    if (seconds !== 0) write(offset, `${sourceKnows ? seconds * 1000 : 0}\n`)
    write(clock, `${seconds < 0 ? '' : '+'}${seconds}\n`)
    if (seconds === 0) write(offset, '0\n')
  }
  step(0)
  return {
    environment: {
      LD_PRELOAD: library(),
      FAKETIME_TIMESTAMP_FILE: clock,
      FAKETIME_NO_CACHE: '1',
      DONT_FAKE_MONOTONIC: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
      NO_FAKE_STAT: '1',
    },
    source: ['/bin/cat', offset],
    step,
  }
}

/** The variant for programs with threads. */
function library(): string {
  const found = readdirSync('/usr/lib')
    .map((name) => join('/usr/lib', name, 'faketime', 'libfaketimeMT.so.1'))
    .find((path) => {
      try {
        return readdirSync(join(path, '..')).includes('libfaketimeMT.so.1')
      } catch {
        return false
      }
    })
  if (found === undefined) throw new Error('libfaketime is missing; scripts/install brings it')
  return found
}
