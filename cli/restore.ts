/** `chancery restore`: an installation out of a backup, at exactly the heads that its agent remembers. */
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import type { Restored } from '#lifecycle'
import type { LoadedConfig } from '#server'

interface RestoreOptions {
  readonly data: string
  readonly manifest?: string
  readonly tiles: readonly string[]
  readonly behind: readonly string[]
  readonly withoutGuard: readonly string[]
  readonly mirror?: string
  readonly dryRun?: boolean
  readonly json?: boolean
}

export function register(program: Command): void {
  const collect = (value: string, before: readonly string[]) => [...before, value]
  program
    .command('restore')
    .summary('bring an installation back from a backup')
    .argument('<backup>', 'folder that chancery backup made')
    .option('--data <dir>', 'data folder: new, or the damaged one', 'data')
    .option('--manifest <sha256>', 'SHA-256 that was printed when it was made')
    .option('--tiles <log=place>', 'where entries newer than the backup are: see below (repeatable)', collect, [])
    .option('--mirror <url>', 'TUF mirror that shows what clients have seen last')
    .option('--behind <log>', 'put this log in place below its guard, to be read only (repeatable)', collect, [])
    .option(
      '--without-guard <log>',
      'put this log in place although the agent remembers no head of it (repeatable)',
      collect,
      [],
    )
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
The server must be stopped. Old files are moved into DATA/replaced-TIME, never
deleted. Each log is counted from its leaves and compared with the agent's
guard: a backup that ends below it is rolled forward from --tiles to exactly the
guarded head, or refused (restore_behind_guard). The agent's state is never
restored. --dry-run checks the backup, the guard and the sources.

--tiles takes, for a Rekor v2 log, a folder or URL with its tiles; for CT, the
URL before /ct/v1/get-entries; for Rekor v1, the URL before /api/v1/log/entries.

Exit status: 0 done, 3 a server runs, 5 the agent is away, 8 damaged, behind its
guard, or another history.

Examples:
  chancery restore /backup/2026-08-02 --data ./data --dry-run
  chancery restore /backup/2026-08-02 --data ./data \\
    --tiles rekor-v2=/mirror/rekor-v2 --mirror http://127.0.0.1:8080
`,
    )
    .action(async (backup: string, options: RestoreOptions) => {
      await run(resolve(backup), options)
    })
}

async function run(backup: string, options: RestoreOptions): Promise<void> {
  const [{ restore }, { loadConfig }, { showSteps }, { OperatorError }] = await Promise.all([
    import('#lifecycle'),
    import('#server'),
    import('./progress.ts'),
    import('#alarms'),
  ])
  const dataDir = resolve(options.data)
  const steps = showSteps()
  const loaded = await configurationOf(backup, dataDir, loadConfig)
  await refuseOverRunning(loaded)
  const started = performance.now()
  const restored = await restore({
    backup,
    dataDir,
    ...(options.manifest === undefined ? {} : { manifestSha256: options.manifest }),
    keys: new Map(loaded.config.logs.map(({ name, key }) => [name, key])),
    openAgent: async () => await openAgent(loaded, dataDir),
    tiles: new Map(
      options.tiles.map((given) => {
        const at = given.indexOf('=')
        const name = given.slice(0, at)
        if (at < 1 || !loaded.config.logs.some((log) => log.name === name)) {
          throw new OperatorError(
            'restore_behind_guard',
            `--tiles ${given}: LOG=PLACE with a log of the backup is needed`,
          )
        }
        return [name, given.slice(at + 1)] as const
      }),
    ),
    behind: new Set(options.behind),
    withoutGuard: new Set(options.withoutGuard),
    ...(options.mirror === undefined ? {} : { mirror: options.mirror }),
    dryRun: options.dryRun === true,
    now: new Date(),
    onStep: steps.show,
  })
  steps.end()
  const seconds = (performance.now() - started) / 1000
  const { manifest, ...rest } = restored
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ ...rest, backupCreatedAt: manifest.createdAt, seconds }, undefined, 2)}\n`)
  } else process.stdout.write(screen(restored, { seconds, data: options.data, dryRun: options.dryRun === true }))
}

/** The configuration in the backup, with its places in the data folder. Throws `backup_*`. */
async function configurationOf(
  backup: string,
  dataDir: string,
  loadConfig: (file: string) => LoadedConfig,
): Promise<LoadedConfig> {
  const { readManifest } = await import('#lifecycle')
  await readManifest(backup)
  const loaded = loadConfig(join(backup, 'data', 'chancery.yaml'))
  return { ...loaded, dataDir, resolve: (path) => resolve(dataDir, path) }
}

async function refuseOverRunning({ config, dataDir, resolve: at }: LoadedConfig): Promise<void> {
  const [{ AdminError, askAdmin }, { OperatorError }] = await Promise.all([import('#server'), import('#alarms')])
  try {
    await askAdmin(at(config.admin.socket), 'status', { timeoutMs: 5000 })
  } catch (error) {
    if (error instanceof AdminError && error.code === 'not_running') return
  }
  throw new OperatorError('restore_over_running', `a server runs on ${dataDir}: stop it before anything is restored`)
}

/** The agent of this installation, as the server would reach it. */
async function openAgent({ config, resolve: at }: LoadedConfig, dataDir: string) {
  const [{ connectAgent, spawnAgent, HsmError }, { OperatorError }] = await Promise.all([
    import('#hsm'),
    import('#alarms'),
  ])
  const { agent } = config
  try {
    if ('socket' in agent) return await connectAgent({ socketPath: at(agent.socket) })
    // A spawned agent has its admin socket there.
    mkdirSync(join(dataDir, 'run'), { recursive: true, mode: 0o700 })
    if ('spawn' in agent) return (await spawnAgent({ configPath: at(agent.spawn) })).agent
  } catch (error) {
    if (error instanceof HsmError && /another agent uses/.test(error.message)) {
      throw new OperatorError('restore_over_running', `${dataDir} is in use: ${error.message}`, { cause: error })
    }
    throw error
  }
  const { connectRoleAgents } = await import('#hsm')
  return await connectRoleAgents(
    Object.fromEntries(Object.entries(agent.sockets).map(([role, path]) => [role, path && at(path)])),
  )
}

function screen(
  { manifest, logs, trustRoot, movedAside }: Restored,
  { seconds, data, dryRun }: { seconds: number; data: string; dryRun: boolean },
): string {
  const lines = [
    `${dryRun ? 'Checked, nothing changed' : 'Restored'}: backup of ${manifest.createdAt} in ${seconds.toFixed(1)} s`,
    ...logs.map(({ name, size, backupSize, rootHash, state, guardedSize }) => {
      const forward = size > backupSize ? `, ${size - backupSize} of them from elsewhere` : ''
      const end = { whole: 'at its guard', behind: `BEHIND its guard (${guardedSize})`, unguarded: 'WITHOUT a guard' }
      return `  ${name.padEnd(14)} ${String(size).padStart(9)} entries${forward}  root ${rootHash.slice(0, 16)}  ${end[state]}`
    }),
  ]
  if (trustRoot !== undefined) {
    const { versions, changed, newerTargets } = trustRoot
    lines.push(
      `  trust root     root ${versions.root}, targets ${versions.targets}, snapshot ${versions.snapshot}, timestamp ${versions.timestamp}${changed ? ', from the mirror' : ''}`,
    )
    if (newerTargets.length > 0) {
      lines.push(
        `  The mirror publishes more than this inventory knows (${newerTargets.join(', ')}): bring trust-root/items.json up to it before anything is published.`,
      )
    }
  }
  if (movedAside !== undefined) lines.push(`Old files: ${movedAside}`)
  const behind = logs.filter(({ state }) => state === 'behind')
  for (const { name } of behind) lines.push(`Next, with the server running: chancery log succeed ${name}`)
  for (const { name } of logs.filter(({ state }) => state === 'unguarded'))
    lines.push(`Next: chancery log adopt ${name}`)
  if (!dryRun) lines.push(`Next: chancery serve --data ${data}`)
  return `${lines.join('\n')}\n`
}
