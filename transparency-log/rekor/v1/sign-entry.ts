import type { SigningAgent } from '#hsm'
import type { SignEntry } from '../../log.ts'
import { integratedTimeSeconds } from './log-entry.ts'

/**
 * The entry signature of a Rekor v1 log: the signed entry timestamp (SET), over RFC 8785 JSON of body, integratedTime,
 * logID and logIndex, which the agent writes itself. `key` is the agent's name of the log's key, `offset` the number of
 * entries in the shards before.
 */
export function rekorV1SignEntry(agent: Pick<SigningAgent, 'set'>, key: string, offset = 0): SignEntry {
  return (content, index, timestampMs) =>
    agent.set({
      key,
      body: content.leaf,
      integratedTimeSeconds: integratedTimeSeconds(timestampMs),
      logIndex: offset + index,
    })
}
