/** The benchmark's end of the processes that make load or echo: one order, one reply. */
import { type ChildProcess, fork } from 'node:child_process'
import type { Order, RunReport, VerifyReport } from './load-worker.ts'
import type { Kind, Material } from './requests.ts'

type Reply = { readonly value: unknown } | { readonly error: string }

/** A load generator in a process of its own, so that its CPU is not counted as anybody's. */
export class Loader {
  readonly #child: ChildProcess

  constructor() {
    this.#child = child('load-worker.ts')
  }

  async prepare(kind: Kind, material: Material, count: number): Promise<{ requestBytes: number; first: Uint8Array }> {
    const order = { do: 'prepare', kind, material, count } satisfies Order
    return (await this.#order(order)) as { requestBytes: number; first: Uint8Array }
  }

  async prepareEcho(url: string, bytes: Uint8Array, count: number): Promise<void> {
    await this.#order({ do: 'echo', url, bytes, count })
  }

  /** One closed loop; ends early when the prepared requests run out. */
  async run(connections: number, seconds: number): Promise<RunReport> {
    return (await this.#order({ do: 'run', connections, seconds })) as RunReport
  }

  /** Rejects if an answer in the sample is not what it should be. */
  async verify(): Promise<VerifyReport> {
    return (await this.#order({ do: 'verify' })) as VerifyReport
  }

  close(): void {
    this.#child.disconnect()
  }

  async #order(order: Order): Promise<unknown> {
    const reply = nextMessage(this.#child) as Promise<Reply>
    this.#child.send(order)
    const message = await reply
    if ('error' in message) throw new Error(`load generator: ${message.error}`)
    return message.value
  }
}

/** A listener of ours in its own process that answers with so many bytes and does nothing else. */
export async function startEcho(logFile: string): Promise<{ url: string; pid: number; close(): void }> {
  const server = child('echo-server.ts', [logFile])
  const { url } = (await nextMessage(server)) as { url: string }
  return { url, pid: server.pid ?? 0, close: () => server.disconnect() }
}

function child(file: string, args: readonly string[] = []): ChildProcess {
  // The structured clone keeps byte arrays as they are.
  return fork(new URL(file, import.meta.url), args, { serialization: 'advanced' })
}

function nextMessage(from: ChildProcess): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>()
  const ended = () => reject(new Error('a process of the benchmark ended'))
  from.once('exit', ended)
  from.once('message', (message) => {
    from.off('exit', ended)
    resolve(message)
  })
  return promise
}
