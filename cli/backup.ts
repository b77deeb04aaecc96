/** `chancery backup`: copies what cannot be made again out of a running server, and checks such copies. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import type { BackupStep, FinishedBackup } from '#lifecycle'

interface BackupOptions {
  readonly data: string
  readonly config?: string
  readonly since?: string
  readonly agent: string
  readonly json?: boolean
}

export function register(program: Command): void {
  const backup = program
    .command('backup')
    .summary('copy logs, trust root, account and configuration of a running server')
    .argument('[folder]', 'new folder for this backup')
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option('--since <folder>', 'an earlier backup; files that have not changed are linked, not copied')
    .option('--agent <agent>', 'name, agent.yaml or admin socket of the agent', 'online')
    .option('--json', 'print JSON')
    // What stands behind a subcommand is the subcommand's.
    .enablePositionalOptions()
    .addHelpText(
      'after',
      `
The server writes the folder (its user needs to be able to) and goes on serving.
The last file is manifest.json; a folder without it is no backup. Its SHA-256 is
printed: keep it elsewhere. Not in a backup: PINs, private keys that cannot
leave their HSM, TLS keys, and the agent's guard. More: docs/backup.md.

Exit status: 0 done, 3 no server runs or a backup is being made, 8 the earlier
backup is damaged.

Examples:
  chancery backup /backup/2026-08-02 --since /backup/2026-08-01 --data ./data
  chancery backup verify /backup/2026-08-02 --manifest SHA256
`,
    )
    .action(async (folder: string | undefined, options: BackupOptions, command: Command) => {
      if (folder === undefined) command.help({ error: true })
      else await take(folder, options)
    })
  backup
    .command('agent <folder>')
    .summary('copy the account of key uses and wrapped keys, from an agent alone')
    .option('--data <dir>', 'data folder', 'data')
    .option('--since <folder>', 'an earlier backup; files that have not changed are linked, not copied')
    .option('--agent <agent>', 'name, agent.yaml or admin socket of the agent', 'online')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
For an agent under another user, whose account no socket of the server tells of.
Run it as the agent's user. Its guards and latches are not copied: restored they
would guard nothing.

Exit status: 0 done, 2 no such agent, 5 the agent is away.

Example:
  chancery backup agent /backup/agent-2026-08-02 \\
    --agent /run/chancery-agent/admin.sock
`,
    )
    .action(async (folder: string, options: BackupOptions) => {
      await takeAgent(resolve(folder), options)
    })
  backup
    .command('verify <folder>')
    .summary('compare every file of a backup with its manifest and recount its logs')
    .option('--manifest <sha256>', 'SHA-256 that was printed when it was made')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nExit status: 0 whole, 8 incomplete or damaged.\n\nExample:\n  chancery backup verify /backup/2026-08-02\n',
    )
    .action(async (folder: string, options: { manifest?: string; json?: boolean }) => {
      await verify(resolve(folder), options)
    })
}

/** Silence of this long is a fault; each segment of a log is a step. */
const STEP_TIMEOUT_MS = 120_000

async function take(folder: string, options: BackupOptions): Promise<void> {
  const [{ askAdmin, loadConfig }, { showSteps }] = await Promise.all([import('#server'), import('./progress.ts')])
  const loaded = loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
  const steps = showSteps()
  const started = performance.now()
  const keyBackup = await wrapKeys(options)
  // Our own server answers: the shapes are its verb's.
  const finished = (await askAdmin(loaded.resolve(loaded.config.admin.socket), 'backup', {
    argument: {
      target: resolve(folder),
      ...(options.since === undefined ? {} : { since: resolve(options.since) }),
      ...(keyBackup && { keyBackup }),
    },
    timeoutMs: STEP_TIMEOUT_MS,
    onProgress: (step) => steps.show(step as BackupStep),
  })) as FinishedBackup
  steps.end()
  const seconds = (performance.now() - started) / 1000
  process.stdout.write(
    options.json === true ? `${JSON.stringify({ ...finished, seconds }, undefined, 2)}\n` : screen(finished, seconds),
  )
}

async function takeAgent(folder: string, options: BackupOptions): Promise<void> {
  const [{ backUp, backupKeys, formatKeyBackup, withAdminAgent }, { default: about }, { showSteps }] =
    await Promise.all([
      import('#lifecycle'),
      import('../package.json', { with: { type: 'json' } }),
      import('./progress.ts'),
    ])
  const steps = showSteps()
  const started = performance.now()
  const finished = await withAdminAgent({ dataDir: options.data, agent: options.agent }, async (agent) => {
    const made = await backupKeys(agent, { now: new Date() })
    const notWrapped = Object.fromEntries(made.notWrapped.map(({ label, message }) => [label, message]))
    const sources = {
      program: about.version,
      profile: '',
      domain: '',
      dataDir: resolve(options.data),
      files: [],
      logs: [],
      agent,
      keyBackup: { text: formatKeyBackup(made), notWrapped },
      notBackedUp: ['the state of the agent (guards, latches, counters)', 'PINs, and the tokens themselves'],
    }
    const since = options.since === undefined ? {} : { since: resolve(options.since) }
    return await backUp(sources, { target: folder, ...since, onStep: steps.show })
  })
  steps.end()
  const seconds = (performance.now() - started) / 1000
  process.stdout.write(
    options.json === true ? `${JSON.stringify({ ...finished, seconds }, undefined, 2)}\n` : screen(finished, seconds),
  )
}

/** Keys that their token lets be wrapped, from the agent's admin socket; without it there are none in the backup. */
async function wrapKeys({ agent, data }: BackupOptions) {
  const { backupKeys, formatKeyBackup, withAdminAgent } = await import('#lifecycle')
  try {
    const made = await withAdminAgent(
      { dataDir: data, agent },
      async (admin) => await backupKeys(admin, { now: new Date() }),
    )
    const notWrapped = Object.fromEntries(made.notWrapped.map(({ label, message }) => [label, message]))
    return { text: formatKeyBackup(made), notWrapped }
  } catch (error) {
    const why = error instanceof Error ? error.message : 'unknown'
    process.stderr.write(
      `chancery backup: no keys in this backup, the agent cannot be administered from here: ${why}\n`,
    )
    return undefined
  }
}

function screen(finished: FinishedBackup, seconds: number): string {
  const { target, logs, bytes, reusedFiles, manifestSha256, notBackedUp } = finished
  return [
    `${target}: ${(bytes / 1e6).toFixed(1)} MB in ${seconds.toFixed(1)} s${reusedFiles === 0 ? '' : `, ${reusedFiles} files linked from the earlier one`}`,
    ...logs.map(
      ({ name, size, rootHash }) =>
        `  ${name.padEnd(14)} ${String(size).padStart(9)} entries  root ${rootHash.slice(0, 16)}`,
    ),
    `manifest SHA-256 ${manifestSha256}`,
    '',
    'Not backed up:',
    ...notBackedUp.map((line) => `  - ${line}`),
    '',
  ].join('\n')
}

async function verify(folder: string, options: { manifest?: string; json?: boolean }): Promise<void> {
  const [{ verifyBackup }, { showSteps }] = await Promise.all([import('#lifecycle'), import('./progress.ts')])
  const steps = showSteps()
  const { manifest, sha256 } = await verifyBackup(folder, {
    onStep: steps.show,
    ...(options.manifest === undefined ? {} : { manifestSha256: options.manifest }),
  })
  steps.end()
  const logs = manifest.logs.map(({ name, size, rootHash }) => ({ name, size, rootHash }))
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ folder, manifestSha256: sha256, createdAt: manifest.createdAt, logs })}\n`)
    return
  }
  const sizes = logs.map(({ name, size }) => `${name} ${size}`).join(', ')
  process.stdout.write(
    `${folder}: whole, made ${manifest.createdAt}, ${manifest.files.length} files; recounted ${sizes}\n`,
  )
  if (!existsSync(join(folder, 'data', 'chancery.yaml'))) process.stdout.write('it holds no configuration\n')
}
