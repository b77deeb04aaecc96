/** What the commands of `chancery trust` share: options, the way to the server, and a publication in words. */
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { OperatorError } from '#alarms'
import type { PendingSummary, Publication } from '#trust-root'
import { printJson, table } from './agent-options.ts'

export interface TrustOptions {
  readonly data: string
  readonly config?: string
  readonly json?: boolean
}

/** `--data`, `--config` and `--json`. */
export function trustOptions(command: Command): Command {
  return command
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option('--json', 'print JSON')
}

/** A publication asks two agents, a canary and four roles. */
const TIMEOUT_MS = 120_000

/** Asks the running server; its answers are those of server/trust-verbs.ts. */
export async function askTrust(options: TrustOptions, verb: string, argument: unknown = {}): Promise<unknown> {
  const { askAdmin, loadConfig } = await import('#server')
  const loaded = loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
  return await askAdmin(loaded.resolve(loaded.config.admin.socket), verb, { argument, timeoutMs: TIMEOUT_MS })
}

/** Tells what became of a publication; one that waits ends with status 7. */
export function tellPublication(publication: Publication, { json, data }: TrustOptions): void {
  const waits = new OperatorError('awaiting_signatures', '')
  if (publication.state === 'awaiting-signatures') process.exitCode = waits.exitStatus
  if (json === true) return printJson(publication)
  if (publication.state === 'published') {
    const { root, targets, snapshot, timestamp } = publication.versions
    process.stdout.write(`published: root ${root}, targets ${targets}, snapshot ${snapshot}, timestamp ${timestamp}\n`)
    return
  }
  process.stdout.write(pendingScreen(publication.pending, data))
  process.stderr.write(`More: ${waits.anchor}\n`)
}

/** What waits, by role; and the command that is next. */
export function pendingScreen({ id, roles }: PendingSummary, data: string): string {
  const rows = roles.map(({ role, version, sha256, have, need }) => [
    role,
    String(version),
    `${have}/${need}`,
    sha256.slice(0, 32),
  ])
  const who = roles.flatMap(({ role, version, missing }) =>
    missing.length === 0
      ? []
      : [
          `${role} ${version} may be signed by:`,
          ...missing.map(({ name, holder, keyid }) => named(name, holder, keyid)),
        ],
  )
  const next =
    who.length === 0
      ? 'Signed by all who must; it is published with the next: chancery trust publish'
      : `Next: chancery trust payload --data ${data} -o payload-${id}.json`
  return [
    `publication ${id} awaits signatures`,
    table(['ROLE', 'VERSION', 'SIGNED', 'SHA-256'], rows),
    ...who,
    '',
    next,
    '',
  ].join('\n')
}

function named(name: string, holder: string, keyid: string): string {
  return `  ${name}${holder === '' ? '' : `, ${holder}`}: key ${keyid.slice(0, 16)}`
}
