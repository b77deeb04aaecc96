/**
 * The CT log: the next shard with a key of its own. The agent takes the promises of both until the CA has gone over, and a
 * certificate carries one of them. Clients look at the time in the promise, so the former window ends with the last one.
 */
import { editAgentFile, keysIn, reachOf, reload, withSide } from './agent-file.ts'
import { formerKey } from './facts.ts'
import { logShard } from './log-shard.ts'
import type { Step } from './rotation.ts'

/** No final certificate carries the former log's promise any more. */
const oneLogStep: Step = {
  name: 'sct',
  run: async ({ installation, facts }) => {
    const reach = reachOf(installation, 'services')
    const former = formerKey(facts).name
    editAgentFile(reach, (document) => {
      for (const [name, { ctKey }] of Object.entries(keysIn(reach))) {
        const logs = [ctKey ?? []].flat()
        const left = logs.filter((log) => log !== former)
        if (left.length === 0 || left.length === logs.length) continue
        document.setIn(['keys', name, 'ctKey'], left.length === 1 ? left[0] : document.createNode(left))
      }
    })
    await withSide(installation, 'services', (admin) => reload(admin, []))
    return undefined
  },
}

export const ctLog = logShard('ct', [oneLogStep])
