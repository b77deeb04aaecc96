/** `chancery status`: one screen, readable at 80 columns. */

import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import type { Status } from '#server'

export function register(program: Command): void {
  program
    .command('status')
    .summary('show what each service, key and log of a running server is doing')
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option('--json', 'the whole status as JSON')
    .addHelpText(
      'after',
      '\nExit status: 0 all ready, 1 something is degraded, 3 no server runs.\n\nExample:\n  chancery status --data ./data\n',
    )
    .action(async (options: { data: string; config?: string; json?: boolean }) => {
      const { AdminError, askAdmin, loadConfig } = await import('#server')
      const loaded = loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
      let status: Status
      try {
        // Our own server answers; its shape is `Status`.
        status = (await askAdmin(loaded.resolve(loaded.config.admin.socket), 'status')) as Status
      } catch (error) {
        if (!(error instanceof AdminError) || error.code !== 'not_running') throw error
        process.stderr.write(`chancery: ${error.message}\n`)
        process.exitCode = 3
        return
      }
      process.stdout.write(options.json === true ? `${JSON.stringify(status, undefined, 2)}\n` : statusScreen(status))
      if (status.services.some(({ state }) => state !== 'ready')) process.exitCode = 1
    })
}

/** The screen, at most 80 columns but for the prose of a fault. */
export function statusScreen(status: Status): string {
  const lines = [`${status.domain}  ${status.profile}  up since ${status.startedAt.slice(0, 19)}Z`]
  if (status.softwareTokenAccepted !== undefined) lines.push(`software token accepted: ${status.softwareTokenAccepted}`)
  lines.push('', 'SERVICE        STATE')
  for (const { service, state, reason } of status.services) {
    lines.push(`${service.padEnd(14)} ${state}`, ...(reason === '' ? [] : [`               ${reason}`]))
  }
  lines.push('', 'LOG            ENTRIES     GUARD       ROOT              SEALED')
  for (const { name, size, guardedSize, rootHashHex, sealedAt } of status.logs) {
    const guard = guardedSize === undefined ? '?' : String(guardedSize)
    lines.push(
      `${name.padEnd(14)} ${String(size).padEnd(11)} ${guard.padEnd(11)} ${rootHashHex.slice(0, 16)}  ${sealedAt.slice(0, 19)}Z`,
    )
  }
  lines.push('', 'KEY            CURVE  USES        PURPOSES')
  for (const { name, kind, uses, purposes, latched, cap } of status.agent.keys) {
    lines.push(
      `${name.padEnd(14)} ${kind}  ${String(uses).padEnd(11)} ${purposes.join(' ')}${latched === '' ? '' : `  LATCHED: ${latched}`}`,
    )
    if (cap?.untilMs !== undefined) {
      const until = new Date(cap.untilMs).toISOString().slice(0, 16)
      lines.push(`               cap raised to ${cap.perMinute} certificates a minute until ${until}Z`)
    }
  }
  lines.push('', 'TOKEN          MODEL             LOGGED IN')
  for (const { name, model, manufacturer, software, loggedIn } of status.agent.tokens) {
    lines.push(
      `${name.padEnd(14)} ${`${manufacturer} ${model}`.slice(0, 17).padEnd(17)} ${loggedIn ? 'yes' : 'NO'}${software ? '  (software)' : ''}`,
    )
  }
  lines.push('', 'EXPIRES')
  for (const { name, notAfter } of status.certificates) lines.push(`${name.padEnd(14)} ${notAfter.slice(0, 10)}`)
  for (const { role, expires } of rolesOf(status.trustRoot))
    lines.push(`${`TUF ${role}`.padEnd(14)} ${expires.slice(0, 10)}`)
  if (status.clock.lastStepMs !== 0) lines.push('', `the clock was stepped by ${status.clock.lastStepMs} ms`)
  return `${lines.join('\n')}\n`
}

function rolesOf(trustRoot: unknown): { role: string; expires: string }[] {
  if (typeof trustRoot !== 'object' || trustRoot === null || !('roles' in trustRoot) || !Array.isArray(trustRoot.roles))
    return []
  return trustRoot.roles.map((role: { role: unknown; expires: unknown }) => ({
    role: String(role.role),
    expires: String(role.expires),
  }))
}
