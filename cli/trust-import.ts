/** `chancery trust import` and `serve-mirror`: trust where there is no way to the mirror. Needs no server, token or network. */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { KitVersions } from '#trust-root/export'
import { printJson } from './agent-options.ts'
import { readKit } from './trust-export.ts'

interface ImportOptions {
  readonly output: string
  readonly rootChecksum?: string
  readonly acceptExpired?: boolean
  readonly json?: boolean
}

/** Adds both commands. */
export function registerImport(trust: Command): void {
  trust
    .command('import <kit>')
    .summary('verify an air-gap kit and put it in the place of the one before')
    .requiredOption('-o, --output <dir>', 'folder of all imports; the same each time')
    .option('--root-checksum <sha256>', 'SHA-256 of the first root, from a source that you trust; the first time')
    .option('--accept-expired', 'take a kit that has ended, as the newest that there is')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Verified as a TUF client would, from the first root on; a byte that was changed
is found. A kit that is older than one imported before is refused, so keep the
folder. In it, of the newest kit and changed at once:
  repository/   the mirror, for any web server (a missing file must be a 404)
  clients/      files for cosign, sigstore-python, sigstore-js, gitsign, Kyverno
                and policy-controller

Exit status: 0 imported, 6 expired, 8 damaged, of another root, or older.

Examples:
  chancery trust import chancery.kit -o /srv/trust --root-checksum SHA256
  chancery trust import newer.kit -o /srv/trust
`,
    )
    .action(run)
  trust
    .command('serve-mirror <dir>')
    .summary('serve the mirror of an import folder to TUF clients')
    .option('--listen <host:port>', 'where to listen', '127.0.0.1:8080')
    .option('--tls-cert <file>', 'PEM certificate; without it plain HTTP')
    .option('--tls-key <file>', 'its private key, PEM')
    .addHelpText(
      'after',
      '\nUntil SIGTERM. What a later import puts there is served at once.\n\nExamples:\n  chancery trust serve-mirror /srv/trust\n  chancery trust serve-mirror /srv/trust --listen 0.0.0.0:8443 \\\n    --tls-cert tls.pem --tls-key tls.key\n',
    )
    .action(serveMirror)
}

async function run(kit: string, options: ImportOptions): Promise<void> {
  const { importKit } = await import('#trust-root/export')
  const folder = resolve(options.output)
  const done = await importKit(await readKit(kit), {
    folder,
    rootSha256: options.rootChecksum,
    now: new Date(),
    acceptExpired: options.acceptExpired === true,
  })
  if (options.json === true) return printJson({ folder, ...done })
  const { versions, before, changed, expired, expires } = done
  const line = changed ? `imported: ${named(versions)}` : `this kit was imported before: ${named(versions)}`
  process.stdout.write(`${line}${before === undefined || !changed ? '' : `; before: ${named(before)}`}\n`)
  if (expired.length > 0) {
    process.stdout.write(`ended: ${expired.join(', ')}. TUF clients refuse the mirror; use the files in clients/\n`)
  } else process.stdout.write(`the mirror is good until ${expires.toISOString()}\n`)
}

function named({ root, targets, snapshot, timestamp }: KitVersions): string {
  return `root ${root}, targets ${targets}, snapshot ${snapshot}, timestamp ${timestamp}`
}

interface MirrorOptions {
  readonly listen: string
  readonly tlsCert?: string
  readonly tlsKey?: string
}

async function serveMirror(dir: string, options: MirrorOptions, command: Command): Promise<void> {
  const { tlsCert, tlsKey } = options
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    command.error('error: --tls-cert FILE and --tls-key FILE belong together')
  }
  const [, host = '', port = ''] = /^(.+):(\d{1,5})$/.exec(options.listen) ?? []
  if (host === '' || Number(port) > 65_535) command.error('error: --listen takes host:port, for example 127.0.0.1:8080')
  const [{ listen }, { trustRootSection }] = await Promise.all([import('#http'), import('#trust-root')])
  const tls = tlsCert === undefined || tlsKey === undefined ? undefined : { certFile: tlsCert, keyFile: tlsKey }
  const listener = await listen({
    host: host.replace(/^\[|\]$/g, ''),
    port: Number(port),
    sections: [{ section: trustRootSection({ folder: resolve(dir) }) }],
    ...(tls && { tls }),
  })
  process.stderr.write(`serving ${resolve(dir)} at ${listener.url} until SIGTERM\n`)
  await new Promise<void>((stopped) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void listener.close().then(stopped))
  })
}
