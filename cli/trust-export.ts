/** `chancery trust export`: what one client needs, in files, with the lines that use them. */
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { OperatorError } from '#alarms'
import type { ClientExport, ExportClient } from '#trust-root/export'
import type { ServedKit } from '#server'
import { printJson } from './agent-options.ts'
import { askTrust, type TrustOptions, trustOptions } from './trust-options.ts'

/** As `EXPORT_CLIENTS`, which is loaded with the command. */
const CLIENTS = ['cosign', 'sigstore-python', 'sigstore-js', 'gitsign', 'policy-controller', 'kyverno']

interface ExportOptions extends TrustOptions {
  readonly for: ExportClient | 'air-gap'
  readonly output: string
  readonly from?: string
  readonly rootChecksum?: string
  readonly mirror?: string
  readonly identity?: string
  readonly issuer?: string
}

/** Adds the command. */
export function registerExport(trust: Command): void {
  trustOptions(trust.command('export').summary('write what one kind of client needs, and print how it is used'))
    .addOption(new Option('--for <client>', 'who is to use it').choices([...CLIENTS, 'air-gap']).makeOptionMandatory())
    .requiredOption('-o, --output <path>', 'folder for the files; for air-gap the file')
    .option('--from <kit>', 'an air-gap kit instead of a running server')
    .option('--root-checksum <sha256>', 'SHA-256 of the first root, from a source that you trust; for --from')
    .option('--mirror <url>', 'what TUF clients are to dial (default: as the server is configured)')
    .option('--identity <name>', 'who must have signed, in the lines and policies')
    .option('--issuer <url>', 'who vouches for it (default: the issuer of the signing configuration)')
    .addHelpText(
      'after',
      `
What is exported is what is published, verified once more. Files do not follow
a rotation: export again after it, or use TUF where the client can. Without
--identity a policy names nobody, and lets nothing in.

air-gap writes one file for machines without a way to the mirror; carry it and
its SHA-256 to them: chancery trust import. It ends with the timestamp, within
three days.

Exit status: 0 written, 3 no server runs, 6 refused, 8 a kit is damaged.

Examples:
  chancery trust export --for cosign -o ./for-cosign
  chancery trust export --for kyverno -o ./policies --identity dev@example.test
  chancery trust export --for air-gap -o chancery.kit
`,
    )
    .action(run)
}

async function run(options: ExportOptions): Promise<void> {
  if (options.for === 'air-gap') await exportKit(options)
  else await exportFiles(options, options.for)
}

async function exportKit(options: ExportOptions): Promise<void> {
  const { openKit } = await import('#trust-root/export')
  const { kit, rootSha256 } = await kitOf(options)
  const { versions, expires } = openKit(kit, rootSha256)
  const file = resolve(options.output)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, kit, { flush: true })
  const sha256 = createHash('sha256').update(kit).digest('hex')
  const ends = new Date(Math.min(...Object.values(expires).map((end) => end.getTime()))).toISOString()
  if (options.json === true) return printJson({ file, sha256, rootSha256, versions, ends })
  process.stdout.write(
    [
      `${file}: root ${versions.root}, targets ${versions.targets}, snapshot ${versions.snapshot}, timestamp ${versions.timestamp}; ends ${ends}`,
      `SHA-256 ${sha256}`,
      '',
      '# On the other side; the checksum of the root by another way than the kit, and only the first time',
      `chancery trust import ${shellWord(options.output)} -o ./trust --root-checksum ${rootSha256}`,
      '',
    ].join('\n'),
  )
}

async function exportFiles(options: ExportOptions, client: ExportClient): Promise<void> {
  const { materialOf, openKit, renderExport } = await import('#trust-root/export')
  const { kit, rootSha256, mirror } = await kitOf(options)
  const at = resolve(options.output)
  const place = { at, mirror: options.mirror ?? mirror, identity: options.identity, issuer: options.issuer }
  const rendered = renderExport(client, materialOf(openKit(kit, rootSha256)), place)
  writeFiles(at, rendered)
  if (options.json === true) return printJson({ folder: at, files: [...rendered.files.keys()], lines: rendered.lines })
  process.stderr.write([...rendered.files.keys()].map((name) => `  ${join(options.output, name)}\n`).join(''))
  process.stdout.write(`${rendered.lines.join('\n')}\n`)
}

function writeFiles(folder: string, { files }: ClientExport): void {
  for (const [name, bytes] of files) {
    const path = join(folder, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, bytes)
  }
}

interface ChosenKit {
  readonly kit: string
  readonly rootSha256: string
  readonly mirror: string | undefined
}

/** From a file, with its root pinned; or from our own server, whose word is taken for the root. */
async function kitOf(options: ExportOptions): Promise<ChosenKit> {
  if (options.from !== undefined) {
    if (options.rootChecksum === undefined) {
      throw new OperatorError('kit_other_root', '--from needs --root-checksum, from a source that you trust')
    }
    return { kit: await readKit(options.from), rootSha256: options.rootChecksum, mirror: undefined }
  }
  const { kit, mirror } = (await askTrust(options, 'trust-kit')) as ServedKit // our own server answers
  return { kit, rootSha256: firstRootOf(kit), mirror }
}

/** Reads the file of a kit; throws `kit_damaged` for one that is far too large to be read. */
export async function readKit(path: string): Promise<string> {
  const { MAX_KIT_BYTES } = await import('#trust-root/export')
  if (statSync(path).size > MAX_KIT_BYTES) throw new OperatorError('kit_damaged', `${path} is too large for a kit`)
  return readFileSync(path, 'utf8')
}

/** SHA-256, hex, of the first root in a kit of our own server. */
function firstRootOf(kit: string): string {
  const { files } = JSON.parse(kit) as { files: Readonly<Record<string, string>> } // our own server packed it
  return createHash('sha256')
    .update(Buffer.from(files['1.root.json'] ?? '', 'base64'))
    .digest('hex')
}

/** A word of a POSIX shell. */
function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}
