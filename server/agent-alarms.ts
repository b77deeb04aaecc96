/** Tells what is wrong with the agent, its tokens and its keys, within seconds of when the agent found it. */
import { Counter } from 'prom-client'
import type { Alarms, Code } from '#alarms'
import type { AgentStatus, SigningAgent } from '#hsm'

const LOOK_EVERY_MS = 1000

/** A spawned agent that died is back within a second; one that is silent for longer is away. */
const ANSWER_WITHIN_MS = 3000

/** Every code that is raised and cleared here. */
const CODES = [
  'agent_away',
  'state_replaced',
  'clock_stepped',
  'token_latched',
  'token_absent',
  'token_breaker_open',
  'key_unusable',
  'key_place_unusable',
  'agent_restarts',
] as const
type AgentCode = (typeof CODES)[number]

export interface AgentAlarm {
  readonly code: AgentCode & Code
  readonly subject: string
  readonly message: string
}

/** What an operator should know of this status; `undefined` is an agent that does not answer. Of keys that nobody needs any more nothing. */
export function alarmsOf(status: AgentStatus | undefined, unneeded: ReadonlySet<string> = new Set()): AgentAlarm[] {
  if (status === undefined) {
    return [{ code: 'agent_away', subject: 'agent', message: 'the HSM agent does not answer: nothing is signed' }]
  }
  if (status.reason.startsWith('state_replaced')) {
    return [{ code: 'state_replaced', subject: 'agent', message: `${status.reason}. Nothing is signed any more` }]
  }
  const keys = status.keys.filter(({ name }) => !unneeded.has(name))
  return [
    ...clockAlarms(status),
    ...status.tokens.flatMap((token) => tokenAlarms(token, keys)),
    ...keys.flatMap(keyAlarms),
  ]
}

/** The agent looks at its clock by itself and believes no service about it. */
function clockAlarms({ clock }: AgentStatus): AgentAlarm[] {
  return clock.fault === '' ? [] : [{ code: 'clock_stepped', subject: 'agent', message: clock.fault }]
}

function tokenAlarms(
  { name, latched, breaker, fault }: AgentStatus['tokens'][number],
  keys: AgentStatus['keys'],
): AgentAlarm[] {
  if (latched !== '') return [{ code: 'token_latched', subject: name, message: latched }]
  // Being connected to, and nothing has failed yet.
  if (breaker === 'closed' || fault === '') return []
  const stopped = keys.filter(
    ({ places }) => places.some(({ token }) => token === name) && !places.some(({ usable }) => usable),
  )
  if (stopped.length > 0) {
    const names = stopped.map((key) => key.name).join(', ')
    return [{ code: 'token_absent', subject: name, message: `${fault}; no token is left for ${names}` }]
  }
  return [{ code: 'token_breaker_open', subject: name, message: `${fault}; other tokens sign meanwhile` }]
}

function keyAlarms({ name, places }: AgentStatus['keys'][number]): AgentAlarm[] {
  const faults = places.filter(({ fault }) => fault !== '').map(({ token, fault }) => `on ${token}: ${fault}`)
  if (faults.length === 0) return []
  const code = places.some(({ usable }) => usable) ? 'key_place_unusable' : 'key_unusable'
  return [{ code, subject: name, message: faults.join('; ') }]
}

/** A driver that crashes now and then is sat out; more than this is told. */
const RESTARTS_MOST = 3
const RESTARTS_WITHIN_MS = 15 * 60_000

const agentRestarts = new Counter({
  name: 'chancery_agent_restarts_total',
  help: 'How often another process of the agent was found than the one before',
})

/** Looks until the returned function is called. `unneeded`: names of keys, asked for each time. */
export function watchAgent(
  agent: Pick<SigningAgent, 'status'>,
  alarms: Pick<Alarms, 'raise' | 'clear'>,
  unneeded: () => ReadonlySet<string> = () => new Set(),
): () => void {
  let raised: AgentAlarm[] = []
  let looking = false
  let startedAtMs: number | undefined
  let restartsMs: number[] = []
  const look = async (): Promise<void> => {
    if (looking) return
    looking = true
    const status = await statusWithin(agent)
    const found = alarmsOf(status, unneeded())
    looking = false
    if (status !== undefined) {
      if (startedAtMs !== undefined && status.startedAtMs !== startedAtMs) {
        agentRestarts.inc()
        restartsMs.push(performance.now())
      }
      startedAtMs = status.startedAtMs
    }
    restartsMs = restartsMs.filter((atMs) => performance.now() - atMs < RESTARTS_WITHIN_MS)
    if (restartsMs.length > RESTARTS_MOST) {
      const message = `the HSM agent was started ${restartsMs.length} times within a quarter of an hour; the server's log has what it said before it ended`
      found.push({ code: 'agent_restarts', subject: 'agent', message })
    }
    for (const { code, subject, message } of found) alarms.raise(code, subject, message)
    const isFound = (old: AgentAlarm) => found.some(({ code, subject }) => code === old.code && subject === old.subject)
    for (const old of raised) if (!isFound(old)) alarms.clear(old.code, old.subject)
    raised = found
  }
  const timer = setInterval(() => void look(), LOOK_EVERY_MS).unref()
  return () => clearInterval(timer)
}

async function statusWithin(agent: Pick<SigningAgent, 'status'>): Promise<AgentStatus | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, ANSWER_WITHIN_MS, undefined)
  })
  try {
    return await Promise.race([agent.status().catch(() => undefined), late])
  } finally {
    clearTimeout(timer)
  }
}
