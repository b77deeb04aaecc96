import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** A time source that is a command: it prints the offset of this machine's clock to true time, in milliseconds. */
export function timeSourceOf(command: readonly string[]): () => Promise<{ offsetMs: number }> {
  const [file = '', ...args] = command
  return async () => {
    const { stdout } = await run(file, args, {
      timeout: 5_000,
      maxBuffer: 4_096,
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    })
    const offsetMs = Number(stdout.trim())
    if (stdout.trim() === '' || !Number.isFinite(offsetMs)) throw new Error('the time source printed no number')
    return { offsetMs }
  }
}
