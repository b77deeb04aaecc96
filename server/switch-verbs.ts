/** The verbs that change what signs while requests run: one after the other, since each rewrites the configuration. */
import type { AdminRequest, AdminVerbs } from './admin.ts'
import { caSwitchVerb } from './ca-switch.ts'
import { ctRootsVerb } from './ct-roots.ts'
import { logRetireVerb } from './log-retire.ts'
import { logSwitchVerb, type Succession } from './log-switch.ts'
import { tsaSwitchVerb } from './tsa-switch.ts'

/** The verbs by name. */
export function switchVerbs(succession: Succession): AdminVerbs {
  const { parts } = succession
  let last: Promise<unknown> = Promise.resolve()
  const inTurn =
    (verb: (request: AdminRequest) => Promise<unknown>) =>
    async (request: AdminRequest): Promise<unknown> => {
      const turn = last.then(async () => await verb(request))
      last = turn.catch(() => undefined)
      return await turn
    }
  return {
    'ca-switch': inTurn(async (request) => await caSwitchVerb(parts, request)),
    'tsa-switch': inTurn(async (request) => await tsaSwitchVerb(parts, request)),
    'ct-roots': inTurn(async (request) => await ctRootsVerb(parts, request)),
    'log-retire': inTurn(async (request) => await logRetireVerb(parts, request)),
    'log-switch': inTurn(async (request) => await logSwitchVerb(succession, request)),
  }
}
