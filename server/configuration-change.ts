/** A change of `chancery.yaml` by the server itself: checked whole, as a start would check it, and durable at once. */
import { readFileSync } from 'node:fs'
import { type Document, parseDocument } from 'yaml'
import { OperatorError } from '#alarms'
import { replaceDurably } from '#lifecycle'
import { type Config, ConfigError, type LoadedConfig, parseConfig } from './config.ts'
import type { Parts } from './main.ts'
import { refuseInProduction, summaryOf } from './production.ts'

export interface PlannedConfiguration {
  /** As it will be read. */
  readonly config: Config
  /** Replaces the file; durable when it returns. The running server's own copy is the caller's to bring up to it. */
  readonly write: () => void
}

/** Throws `switch_refused` for a configuration that no start would take; nothing is written before `write`. */
export async function plannedConfiguration(
  { loaded, agent, authority }: Pick<Parts, 'loaded' | 'agent' | 'authority'>,
  edit: (document: Document) => void,
): Promise<PlannedConfiguration> {
  const document = parseDocument(readFileSync(loaded.file, 'utf8'))
  edit(document)
  const text = document.toString({ lineWidth: 120 })
  try {
    const config = parseConfig(text, loaded.file)
    const planned: LoadedConfig = { ...loaded, config }
    refuseInProduction(planned, await agent.status(), (authority?.issuers ?? []).map(summaryOf))
    return { config, write: () => replaceDurably(loaded.file, text) }
  } catch (cause) {
    if (!(cause instanceof ConfigError)) throw cause
    throw new OperatorError('switch_refused', cause.message, { cause })
  }
}
