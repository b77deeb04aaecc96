/** `chancery init`: makes tokens, keys, certificates, configuration and trust root under one data folder. */

import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { KeyKind } from '#hsm'
import type { Ports } from '#lifecycle'

export function register(program: Command): void {
  program
    .command('init')
    .summary('make a new installation: tokens, keys, certificates, trust root')
    .option('--data <dir>', 'data folder to make', 'data')
    .option('--domain <domain>', 'names the logs in what they sign: rekor-v1.<domain>, …', 'chancery.internal')
    .option('--host <address>', 'address or name that clients dial', '127.0.0.1')
    .option('--listen-host <address>', 'address that every service binds (default: that of --host)')
    .option('--ports <choice>', 'usual, or auto for free ones', 'usual')
    .option('--tls-cert <file>', 'serve by name over TLS at one port: https://fulcio.<domain>, tuf.<domain>, …')
    .option('--tls-key <file>', 'private key of --tls-cert, PEM')
    .option('--https-port <port>', 'the port of --tls-cert', parsePort, 443)
    .addOption(
      new Option('--kind <name=kind>', 'another kind for root-ca, issuing-ca (P-384, rsa-3072, …) or a TUF key')
        .argParser((value: string, before: readonly string[]) => [...before, value])
        .default([], 'usual kinds'),
    )
    .option('--tuf-quorum <k/n>', 'k of n custodians sign what clients trust: 2/3')
    .option('--from-ceremony <dir>', 'use the keys that a ceremony made (docs/ceremonies.md)')
    .option('--tuf-signatures <files...>', 'with --from-ceremony: what the holders of the TUF keys signed')
    .option('--if-missing', 'leave an installation that is there as it is, and end well')
    .addHelpText(
      'after',
      '\nMakes SoftHSM tokens and a development configuration. An interrupted init is\nstarted over by the next one. In a container: --listen-host 0.0.0.0, since\nwhat is bound inside is not what clients dial.\n\n--tuf-quorum 2/3 tries out custodians: three more tokens, each with a PIN and\nan agent file agent/custodian-N.yaml that no server opens. Every later change\nof what clients trust then waits for two of them (chancery trust pending):\n  chancery trust payload --data ./data -o payload.json\n  chancery trust sign payload.json --agent data/agent/custodian-1.yaml \\\n    --key custodian-1 -o 1.json\n  chancery trust merge 1.json 2.json --data ./data\n\nWith --tls-cert every service has a name of its own at one port, told apart by\nHost: fulcio, rekor-v1, rekor-v2, ct, tsa and tuf.<domain>. The certificate must\nbe for all of them (*.<domain>), and the DNS must know them. chancery trust join\nprints what other machines need then.\n\nExamples:\n  chancery init --data ./data --domain sig.example.test --listen-host 0.0.0.0 \\\n    --tls-cert wildcard.pem --tls-key wildcard.key\n  chancery init --data ./data --domain sig.example.test --tuf-quorum 2/3\n  chancery init --data ./data --domain sig.example.test\n',
    )
    .action(make)
}

interface InitOptions {
  readonly data: string
  readonly domain: string
  readonly host: string
  readonly listenHost?: string
  readonly ports: string
  readonly tlsCert?: string
  readonly tlsKey?: string
  readonly httpsPort: number
  readonly ifMissing?: boolean
  readonly kind: readonly string[]
  readonly tufQuorum?: string
  readonly fromCeremony?: string
  readonly tufSignatures?: readonly string[]
}

async function make(options: InitOptions): Promise<void> {
  const {
    CHOSEN_KINDS,
    createInstallation,
    defaultPorts,
    freePorts,
    InstallationError,
    isInstallation,
    newTreeId,
    parseTufQuorum,
    serviceNames,
    standbyServiceNames,
    takenPorts,
  } = await import('#lifecycle')
  const { domain, host, listenHost = host } = options
  if (options.ports !== 'usual' && options.ports !== 'auto')
    throw new InstallationError('bad_choice', '--ports takes usual or auto')
  if (!domainName.test(domain))
    throw new InstallationError('bad_choice', `--domain ${domain} is not a domain name in lower case`)
  for (const address of [host, listenHost]) {
    if (!hostOfUrl.test(address))
      throw new InstallationError('bad_choice', `${address} is neither an IPv4 address nor a host name`)
  }
  const keyKinds: Record<string, KeyKind> = {}
  for (const choice of options.kind) {
    const [name = '', wanted] = choice.split('=')
    const offered = Object.hasOwn(CHOSEN_KINDS, name) ? CHOSEN_KINDS[name] : undefined
    const kind = offered?.find((each) => each === wanted)
    if (kind === undefined) {
      const names = Object.keys(CHOSEN_KINDS).join(', ')
      throw new InstallationError('bad_choice', `--kind ${choice}: ${offered?.join(', ') ?? `names are ${names}`}`)
    }
    keyKinds[name] = kind
  }
  const tufQuorum = options.tufQuorum === undefined ? undefined : parseTufQuorum(options.tufQuorum)
  if (options.tufQuorum !== undefined && tufQuorum === undefined)
    throw new InstallationError('bad_choice', `--tuf-quorum ${options.tufQuorum} is not like 2/3, of 2 to 9`)
  const dataDir = resolve(options.data)
  if (options.ifMissing === true && isInstallation(dataDir)) {
    process.stderr.write(`${dataDir} holds an installation; it is left as it is\n`)
    return
  }
  const https = httpsOf(options)
  const treeId = newTreeId()
  if (https !== undefined) {
    requireNames(https.certFile, serviceNames({ domain, treeId }))
    const later = missingNames(https.certFile, standbyServiceNames({ domain }))
    if (later.length > 0)
      process.stderr.write(`  before an emergency, a certificate for these too: ${later.join(', ')}\n`)
  }
  const apart = options.ports === 'auto' ? await freePorts(listenHost) : defaultPorts
  const ports = https === undefined ? apart : atOnePort(apart, options.httpsPort)
  const taken = await takenPorts(listenHost, ports)
  if (taken.length > 0) {
    throw new InstallationError(
      'port_taken',
      `taken by another program: ${taken.map((name) => `port ${ports[name]} (${name})`).join(', ')}; stop it, or choose free ports with --ports auto`,
    )
  }
  if (options.fromCeremony !== undefined) {
    const { initFromCeremony } = await import('./init-ceremony.ts')
    return await initFromCeremony({
      dataDir,
      folder: options.fromCeremony,
      choices: { profile: 'development', host, listenHost, ports, https },
      signatureFiles: options.tufSignatures ?? [],
    })
  }
  const started = performance.now()
  await createInstallation(
    dataDir,
    { profile: 'development', domain, host, listenHost, ports, https, treeId, keyKinds, tufQuorum },
    (step) => process.stderr.write(`  ${step}\n`),
  )
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  process.stderr.write(`  made in ${seconds} s; serve it with: chancery serve --data ${options.data}\n`)
}

/** Services share the port and are told apart by name; the rest is for this machine. */
function atOnePort(apart: Ports, port: number): Ports {
  return { ...apart, ca: port, rekorV1: port, rekorV2: port, timestamp: port, ct: port, tuf: port }
}

function httpsOf({ tlsCert, tlsKey }: InitOptions): { certFile: string; keyFile: string } | undefined {
  if (tlsCert === undefined && tlsKey === undefined) return undefined
  if (tlsCert === undefined || tlsKey === undefined) {
    throw Object.assign(new Error('--tls-cert and --tls-key belong together'), { code: 'bad_choice' })
  }
  return { certFile: resolve(tlsCert), keyFile: resolve(tlsKey) }
}

/** A certificate for other names would be found out by the first client. */
function requireNames(certFile: string, names: readonly string[]): void {
  const missing = missingNames(certFile, names)
  if (missing.length > 0) {
    throw Object.assign(new Error(`${certFile} is not for ${missing.join(', ')}`), { code: 'bad_choice' })
  }
}

function missingNames(certFile: string, names: readonly string[]): string[] {
  const certificate = new X509Certificate(readFileSync(certFile))
  return names.filter((name) => certificate.checkHost(name) === undefined)
}

function parsePort(text: string): number {
  const port = Number(text)
  if (Number.isInteger(port) && port > 0 && port < 65_536) return port
  throw new InvalidArgumentError('it is a port number')
}

const domainName = /^(?=.{1,200}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/
const hostOfUrl = /^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$/
