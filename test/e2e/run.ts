import { spawn } from 'node:child_process'

/** What a command said. `text` is both streams in the order of arrival, for refusals that are looked for by name. */
export interface Outcome {
  readonly command: string
  /** The exit status; 128 for a command that was ended by a signal or by its time limit. */
  readonly status: number
  readonly stdout: string
  readonly stderr: string
  readonly text: string
}

export interface RunOptions {
  /** The whole environment: nothing is inherited, so that no setting of the developer's changes an outcome. */
  readonly env: Readonly<Record<string, string>>
  readonly cwd?: string
  readonly input?: string | Uint8Array
  /** By default 90 seconds. */
  readonly timeoutMs?: number
}

/** Runs a command to its end; never rejects for a refusal, only if it cannot be started. */
export async function run(file: string, args: readonly string[], options: RunOptions): Promise<Outcome> {
  const child = spawn(file, args, {
    env: options.env,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  const both: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => {
    stdout.push(chunk)
    both.push(chunk)
  })
  child.stderr.on('data', (chunk: Buffer) => {
    stderr.push(chunk)
    both.push(chunk)
  })
  // A command that ends before it has read its input is judged by its exit status.
  child.stdin.on('error', () => {})
  child.stdin.end(options.input ?? '')
  const limit = options.timeoutMs ?? 90_000
  const timer = setTimeout(() => {
    both.push(Buffer.from(`\n(ended by the test after ${limit} ms)\n`))
    child.kill('SIGKILL')
  }, limit)
  try {
    const status = await new Promise<number>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', (code) => resolve(code ?? 128))
    })
    return {
      command: [file, ...args.map((arg) => (arg.length > 200 ? `${arg.slice(0, 40)}…` : arg))].join(' '),
      status,
      stdout: Buffer.concat(stdout).toString('utf8'),
      stderr: Buffer.concat(stderr).toString('utf8'),
      text: Buffer.concat(both).toString('utf8'),
    }
  } finally {
    clearTimeout(timer)
  }
}

/** The same outcome; throws with all that was said unless the command ended well. */
export function succeeded(outcome: Outcome): Outcome {
  if (outcome.status !== 0) throw new Error(`${outcome.command}\nended with ${outcome.status}:\n${outcome.text}`)
  return outcome
}

/** What was said by a command that had to fail; throws if it ended well. */
export function refusal(outcome: Outcome): string {
  if (outcome.status === 0) throw new Error(`${outcome.command}\nshould have failed, but said:\n${outcome.text}`)
  return outcome.text
}
