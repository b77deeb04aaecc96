/**
 * The key of a log that has ended leaves the agent. What verifies the log is its public key, which the configuration keeps
 * from then on: the log is read from its database, under its own origin, for ever, and the agent is asked for nothing.
 */
import { z } from 'zod'
import { OperatorError } from '#alarms'
import type { AdminRequest } from './admin.ts'
import { plannedConfiguration } from './configuration-change.ts'
import { logNamed } from './log-verbs.ts'
import type { Parts } from './main.ts'
import { passing } from './switch-points.ts'

const argumentSchema = z.strictObject({ name: z.string() })

export interface LogRetired {
  readonly already: boolean
  /** The agent's name of the key that nothing here asks for any more. */
  readonly key: string
}

/** To be asked before the key leaves the agent's configuration. May be asked again. Throws `switch_refused` for a log that takes entries. */
export async function logRetireVerb(parts: Parts, { argument }: AdminRequest): Promise<LogRetired> {
  const { name } = argumentSchema.parse(argument)
  const { config, log } = logNamed(parts, name)
  const { key } = config
  if (config.spki !== undefined) return { already: true, key }
  if (!parts.logs.some((other) => other.config.succeeds === name)) {
    throw new OperatorError('switch_refused', `log ${name} has no successor: its key signs what is uploaded`)
  }
  if (parts.loaded.config.ca?.ctLog === name) {
    throw new OperatorError('switch_refused', `the CA enters its certificates in log ${name}`)
  }
  const spki = Buffer.from(log.spkiDer).toString('base64')
  const { write } = await plannedConfiguration(parts, (document) => {
    const { logs } = document.toJS() as { logs: { name: string }[] } // it was read at the start
    document.setIn(['logs', logs.findIndex((each) => each.name === name), 'spki'], spki)
  })
  write()
  passing('configured', parts.loaded.config)
  config.spki = spki
  log.retire()
  passing('in-force', parts.loaded.config)
  return { already: false, key }
}
