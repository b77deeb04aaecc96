/** Starts the loader's process and gives it orders. */
import { fork } from 'node:child_process'
import { join } from 'node:path'
import type { Load, Order, Said, Use } from './loader.ts'

export type Ended = Extract<Said, { said: 'ended' }>

export interface RunningLoad {
  /** Has the loader kill `pid` when that many writes are acknowledged and that many under way; resolves with the latter. */
  kill(pid: number, least: { acknowledged: number; inFlight: number }): Promise<number>
  /** Writes that are acknowledged by now. */
  acknowledged(): Promise<Readonly<Record<Use, number>>>
  /** Lets every connection finish what it has sent. */
  stop(): void
  /** When all connections have ended: because of `stop`, or because the server is gone. */
  readonly ended: Promise<Ended>
}

/** `env` is the whole environment of the loader. */
export function startLoad(load: Load, env: Readonly<Record<string, string>> = {}): RunningLoad {
  const child = fork(join(import.meta.dirname, 'loader.ts'), { env, execArgv: [], stdio: ['ignore', 2, 2, 'ipc'] })
  // One listener for each thing that is waited for.
  child.setMaxListeners(0)
  const order = (message: Order): void => void child.send(message)
  const heard = <S extends Said['said']>(word: S): Promise<Extract<Said, { said: S }>> =>
    new Promise((resolve, reject) => {
      child.on('message', (said: Said) => {
        if (said.said === word) resolve(said as Extract<Said, { said: S }>)
      })
      child.once('exit', (status) => reject(new Error(`the loader ended with ${status} and did not say "${word}"`)))
    })
  const ended = heard('ended')
  // Looked at late by those who kill first.
  ended.catch(() => {})
  order({ do: 'load', load })
  return {
    kill: async (pid, least) => {
      const killed = heard('killed')
      order({ do: 'kill', pid, ...least })
      return (await killed).inFlight
    },
    acknowledged: async () => {
      const counted = heard('count')
      order({ do: 'count' })
      return (await counted).acknowledged
    },
    stop: () => order({ do: 'stop' }),
    ended,
  }
}
