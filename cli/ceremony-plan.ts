/** `chancery ceremony plan`: a plan to begin with, or what a plan comes to. */
import { existsSync, writeFileSync } from 'node:fs'
import { createHash, createPublicKey } from 'node:crypto'
import { basename } from 'node:path'
import { type Command, Option } from 'commander'
import { OperatorError } from '#alarms'
import type { Person, Template } from '#lifecycle/ceremony'
import { decodePem } from '#x509'
import { printJson } from './agent-options.ts'
import { bytesIn, planIn } from './ceremony-files.ts'

/** Told here too, so that help loads no part of the system. */
const TEMPLATE_NAMES: readonly Template[] = ['installation', 'root', 'standby', 'tuf-root', 'certificate']

interface PlanOptions {
  readonly template?: Template
  readonly domain?: string
  readonly organization?: string
  readonly operator: readonly string[]
  readonly quorum?: string
  readonly days: string
  readonly uri: readonly string[]
  readonly request?: string
  readonly profile: string
  readonly rootCertificate?: string
  readonly json?: boolean
}

const each = (value: string, before: readonly string[]) => [...before, value]

export function registerPlan(ceremony: Command): void {
  ceremony
    .command('plan <file>')
    .summary('check a plan and tell what it will do; or write one with --template')
    .addOption(new Option('--template <name>', 'write a new plan').choices(TEMPLATE_NAMES))
    .option('--domain <name>', 'for names and origins of the new plan')
    .option('--organization <name>', 'organisation in certificates (default: the domain)')
    .addOption(
      new Option('--operator <name=file>', 'who approves: public key of SSH, minisign, or PEM; may be repeated')
        .argParser(each)
        .default([], 'to be filled in'),
    )
    .option('--quorum <n>', 'how many must approve (default: more than half)')
    .option('--days <n>', 'after how many days the plan expires', '30')
    .addOption(
      new Option('--uri <token=uri>', 'URI of a token; may be repeated')
        .argParser(each)
        .default([], 'by the usual labels'),
    )
    .option('--request <file>', 'template certificate: the request, PEM')
    .addOption(
      new Option('--profile <name>', 'template certificate: what it is for')
        .choices(['issuing-ca', 'timestamp-authority'])
        .default('issuing-ca'),
    )
    .option(
      '--root-certificate <file>',
      'templates certificate and standby: certificate of the root that is there, PEM',
    )
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
What is approved is the SHA-256 of the file's bytes: sha256sum says the same.

Examples:
  chancery ceremony plan plan.yaml --template installation \\
    --domain sig.example.test --operator alice=alice.pub \\
    --operator bob=minisign.pub --operator carol=carol.pem
  chancery ceremony plan plan.yaml
  chancery ceremony plan next-ca.yaml --template certificate \\
    --request issuing-ca-2.csr.pem --root-certificate root.pem
`,
    )
    .action(plan)
}

async function plan(file: string, options: PlanOptions): Promise<void> {
  if (options.template !== undefined) return await write(file, options.template, options)
  const { accountOf, stepsOf } = await import('#lifecycle/ceremony')
  const read = await planIn(file)
  if (options.json === true) {
    const steps = stepsOf(read.plan).map((step) => ({ id: step.id, machine: 'machine' in step ? step.machine : 'any' }))
    printJson({ sha256: read.sha256, warnings: read.warnings, steps, plan: read.plan })
  } else process.stdout.write(accountOf(read))
}

async function write(file: string, template: Template, options: PlanOptions): Promise<void> {
  if (existsSync(file)) throw invalid(`${file} is there already; a plan is never written over`)
  const { readRequest, templateText } = await import('#lifecycle/ceremony')
  const { newTreeId } = await import('#lifecycle')
  const operators = options.operator.map(personOf)
  const request = options.request === undefined ? undefined : readRequest(bytesIn(options.request).toString('utf8'))
  const domain = options.domain ?? 'sig.example.test'
  const days = Number(options.days)
  const quorum = Number(options.quorum ?? Math.floor((operators.length || 3) / 2) + 1)
  if (!(Number.isInteger(days) && days > 0)) throw invalid('--days is a number of days')
  if (!(Number.isInteger(quorum) && quorum > 0)) throw invalid('--quorum is a number of people')
  const uris = Object.fromEntries(options.uri.map((given) => named(given, '--uri takes TOKEN=URI')))
  const text = templateText(template, {
    ceremony: basename(file)
      .replace(/\.ya?ml$/, '')
      .toLowerCase(),
    domain,
    organization: options.organization ?? request?.name.organization ?? domain,
    expires: new Date(Date.now() + days * 86_400_000),
    operators,
    quorum,
    uris,
    treeIds: [newTreeId(), newTreeId()],
    ...(request === undefined
      ? {}
      : {
          request: {
            key: basename(options.request ?? '').replace(/\.csr\.pem$|\.pem$/, ''),
            profile: options.profile,
            commonName: request.name.commonName,
            spkiSha256: sha256(request.spkiDer),
          },
        }),
    ...(options.rootCertificate === undefined ? {} : { rootSha256: sha256(rootIn(options.rootCertificate)) }),
  })
  writeFileSync(file, text, { flush: true })
  process.stdout.write(`written: ${file}\nRead and change it, then: chancery ceremony plan ${file}\n`)
}

function named(given: string, how: string): [string, string] {
  const at = given.indexOf('=')
  if (at < 1) throw invalid(how)
  return [given.slice(0, at), given.slice(at + 1)]
}

/** Somebody and the public key in a file, of whichever kind it is. */
function personOf(given: string): Person {
  const [name, file] = named(given, '--operator takes NAME=FILE')
  const text = bytesIn(file).toString('utf8')
  const [first = '', second = ''] = text.split('\n')
  if (first.startsWith('untrusted comment:')) return { name, minisign: second.trim() }
  const words = first.split(' ')
  if (/^(?:sk-)?(?:ssh-|ecdsa-)/.test(first)) return { name, ssh: words.slice(0, 2).join(' ') }
  if (text.includes('-----BEGIN PUBLIC KEY-----')) {
    const der = createPublicKey(text).export({ type: 'spki', format: 'der' })
    return { name, pkcs11: der.toString('base64') }
  }
  throw invalid(`${file} is no public key of SSH or minisign, and no PEM`)
}

/** The root of a chain, or the one certificate. */
function rootIn(file: string): Uint8Array {
  const root = decodePem(bytesIn(file).toString('utf8'), { labels: ['CERTIFICATE'] }).at(-1)
  if (root === undefined) throw invalid(`${file} has no certificate`)
  return root.der
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function invalid(how: string): OperatorError {
  return new OperatorError('ceremony_plan_invalid', how)
}
