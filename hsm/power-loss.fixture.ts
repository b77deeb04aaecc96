/**
 * The process of `power-loss.test.ts`: an agent's state in the folder that is its argument. For each line on standard
 * input it moves the guard one on, with a use of a key and a version, and says how far it came or why it did not.
 */
import { createInterface } from 'node:readline'
import { openAgentState } from './agent-state.ts'

const say = (message: object): void => void process.stdout.write(`${JSON.stringify(message)}\n`)
const [folder = ''] = process.argv.slice(2)
const state = await openAgentState(folder, {
  waitMs: 5000,
  onDiskFailure: ({ code }) => say({ diskFailure: code }),
})
const origin = 'log.test'
const digest = new Uint8Array(32)
say({ size: state.guard(origin)?.size ?? 0 })
createInterface({ input: process.stdin }).on('line', () => {
  const size = (state.guard(origin)?.size ?? 0) + 1
  try {
    state.transaction(() => {
      state.setGuard({ origin, keyId: digest, size, rootHash: digest, timestampMs: size })
      state.setTufVersion('tuf', 'timestamp', size, digest)
      state.account({ atMs: size, key: 'log', act: 'treeHead', count: 1, digest }, 1)
    })
    say({ size })
  } catch (error) {
    say({ refused: error instanceof Error && 'code' in error ? error.code : String(error) })
  }
})
