/** Tells the operator that the agent's cap on certificates was reached: the one who waits for them may not. */
import type { Alarms } from '#alarms'
import { HsmError, type SigningAgent } from '#hsm'

/** The cap is of a minute; after two without a refusal the burst is over. */
const OVER_AFTER_MS = 120_000

/** What the CA needs of an agent. */
export type IssuingAgent = Pick<SigningAgent, 'key' | 'certificate'>

/** The same agent; each time that it refuses for the cap, `rate_capped` is raised, and cleared two minutes after the last. */
export function tellOfCap(agent: IssuingAgent, alarms: Alarms): IssuingAgent {
  let over: NodeJS.Timeout | undefined
  return {
    key: async (name) => await agent.key(name),
    certificate: async (request) => {
      try {
        return await agent.certificate(request)
      } catch (error) {
        if (error instanceof HsmError && error.reason === 'rate_capped') {
          alarms.raise('rate_capped', request.key, error.message)
          clearTimeout(over)
          over = setTimeout(() => alarms.clear('rate_capped', request.key), OVER_AFTER_MS).unref()
        }
        throw error
      }
    },
  }
}
