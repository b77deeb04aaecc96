/**
 * The configuration of `chancery serve`: one strict schema; an unknown key is an error. Each field is told here.
 *
 * Three settings are kept apart everywhere: `listen` (where we bind), `url` (what clients dial) and `origin` (what is
 * signed). Paths are relative to the data folder, the folder that holds `chancery.yaml`. Secrets never stand here: the
 * agent alone knows PINs, by file.
 */

import { readFileSync } from 'node:fs'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { parse as parseYaml } from 'yaml'
import { z } from 'zod'
import { parseWitnessKey } from '#tlog'
import { decodePem } from '#x509'
import { FAULT_POINTS } from '#transparency-log'
import { parseLevel } from './disk.ts'
import { SWITCH_POINTS } from './switch-points.ts'

export class ConfigError extends Error {
  readonly code: 'unreadable' | 'invalid' | 'refused_in_production'
  constructor(code: ConfigError['code'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'ConfigError'
    this.code = code
  }
}

const listen = z
  .string()
  .regex(/^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}$/, 'host:port, for example 127.0.0.1:5555')
  .describe('host:port to bind')
const url = z
  .url({ protocol: /^https?$/ })
  .refine((value) => !value.endsWith('/'), 'no trailing slash: clients append their paths')
  .describe('what clients dial')
const path = z.string().min(1)
const tls = z
  .strictObject({ certFile: path, keyFile: path })
  .describe('PEM files; read again when they change')
  .optional()
const endpoint = { listen, url, tls }
const name = z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/)
const origin = z
  .string()
  .regex(/^[A-Za-z0-9.-]+( - [1-9][0-9]{0,18})?$/, 'a host name; for Rekor v1 followed by " - <treeID>"')

const level = z.string().transform((text, context) => {
  const parsed = parseLevel(text)
  if (parsed === undefined) context.addIssue('a size such as 512MiB or 2GiB, or a share up to 50%')
  return parsed ?? {}
})

const faultPoint = z.enum(FAULT_POINTS).optional().describe('development only: kill -9 at this point, for crash tests')

const succeeds = name
  .optional()
  .describe(
    'the log whose successor this is: that one is frozen, and stays readable; written by `chancery log succeed`',
  )

const spki = z
  .base64()
  .optional()
  .describe('public key of a log that has a successor and whose private key has left the agent: it is read only')

const log = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('ct'),
    name,
    ...endpoint,
    origin,
    key: name,
    database: path,
    roots: path.describe('PEM file: roots whose chains may be logged'),
    succeeds,
    spki,
    faultPoint,
  }),
  z.strictObject({
    kind: z.literal('rekor-v1'),
    name,
    ...endpoint,
    origin,
    treeId: z.string().regex(/^[1-9][0-9]{0,18}$/),
    key: name,
    database: path,
    succeeds,
    spki,
    indexOffset: z.int().nonnegative().default(0).describe('entries of the shards before it: virtual indexes go on'),
    faultPoint,
  }),
  z.strictObject({
    kind: z.literal('rekor-v2'),
    name,
    ...endpoint,
    origin,
    key: name,
    database: path,
    strict: z.boolean().default(false).describe('refuse dsse requests, as rekor-tiles from 2.3 on does'),
    forwardUntil: z.iso
      .datetime()
      .optional()
      .describe('where it has a successor: until when uploads to this address are passed on to it, then refused'),
    succeeds,
    spki,
    faultPoint,
  }),
])

const anchorOf = {
  name,
  logs: z.array(name).min(1).optional().describe('names of `logs`; all of them unless told'),
  required: z.boolean().default(false).describe('do not start while it cannot be asked'),
  everySeconds: z.int().min(1).max(60).default(5).describe('how often it is shown what is new'),
  staleSeconds: z.int().min(1).default(600).describe('alarm when it has taken no head for this long'),
}

const anchor = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('witness'),
    ...anchorOf,
    url: url.describe('submission prefix of a C2SP tlog-witness'),
    vkey: z.string().refine(isWitnessKey, "the witness's verifier key: name+hint+base64, cosignature/v1"),
    onClaim: z
      .enum(['freeze', 'alarm'])
      .default('freeze')
      .describe('what a larger size does that the witness names and cannot prove: a lying one stops the log'),
  }),
  z.strictObject({
    kind: z.literal('file'),
    ...anchorOf,
    path: path.describe('folder on another volume that holds a file .chancery-anchor'),
  }),
])

const schema = z.strictObject({
  profile: z
    .enum(['development', 'production'])
    .describe('must be stated; production refuses what development allows for convenience'),
  domain: z.string().regex(/^[a-z0-9.-]+$/),
  softwareTokenAccepted: z
    .string()
    .min(10)
    .optional()
    .describe('production only: why a software token is accepted here; shown in status and metrics'),
  agent: z
    .union([
      z.strictObject({ spawn: path.describe('agent configuration; crash isolation only, development') }),
      z.strictObject({ socket: path.describe('signing socket of an agent that runs on its own, under another user') }),
      z.strictObject({
        sockets: z
          .strictObject({
            ca: path.optional(),
            log: path.optional(),
            timestamp: path.optional(),
            trust: path.optional(),
            audit: path.optional().describe('the account of key uses: reconcile and its signed head need it'),
          })
          .describe('sockets of the roles of such an agent; those of the services that run here'),
      }),
    ])
    .describe('where the HSM agent is'),
  admin: z.strictObject({ socket: path.describe('unix socket, mode 0600, for `chancery status` and the like') }),
  disk: z
    .strictObject({
      refuseUploadsBelow: level
        .optional()
        .describe('free space below which Rekor takes no uploads; default: 5 % of the volume, at most 512 MiB'),
      refuseIssuanceBelow: level
        .optional()
        .describe('free space below which nothing is issued or logged; default: 2 % of the volume, at most 256 MiB'),
      slowSeconds: z.number().positive().optional().describe('a write that takes longer raises disk_slow; default: 2'),
    })
    .optional()
    .describe('when new work is refused for want of disk space'),
  metrics: z.strictObject({ listen, tls }).optional(),
  time: z
    .strictObject({
      sources: z
        .array(
          z.strictObject({
            command: z.array(z.string()).min(1).describe('prints the offset to true time in milliseconds'),
          }),
        )
        .default([])
        .describe('three of them outvote one that is wrong; timestamp.timeSource counts as one too'),
      steadySeconds: z
        .int()
        .min(1)
        .max(3600)
        .default(10)
        .describe('without sources: how long the clock must run evenly after a step before times are stated again'),
    })
    .prefault({})
    .describe('who is asked whether the clock is right; sources are required in production'),
  account: z
    .strictObject({
      key: name
        .optional()
        .describe('key of the agent (purpose accountHead) that signs where the account of key uses ends'),
      headMinutes: z
        .number()
        .positive()
        .default(10)
        .describe('how often it is signed and shown to the anchors of kind file'),
      reconcileHours: z
        .number()
        .nonnegative()
        .default(24)
        .describe('how often the account is compared with what was made; 0: only by `chancery audit reconcile`'),
    })
    .prefault({}),
  backup: z
    .strictObject({ maxAgeHours: z.number().positive().describe('an older last backup is the alarm backup_overdue') })
    .optional(),
  ca: z
    .strictObject({
      ...endpoint,
      key: name,
      chain: path.describe('PEM, issuing certificate first, root last'),
      ctLog: name.describe('the log (of `logs`) that every precertificate is entered in'),
      issuers: path.describe("identity configuration in Fulcio's own format, with our `allow` rules"),
    })
    .optional(),
  logs: z.array(log).default([]),
  anchors: z
    .array(anchor)
    .default([])
    .describe('what remembers the newest heads elsewhere: a whole machine rolled back is caught by nothing else'),
  timestamp: z
    .strictObject({
      ...endpoint,
      key: name,
      chain: path,
      timeSource: z
        .strictObject({
          command: z.array(z.string()).min(1).describe('prints the offset to true time in milliseconds'),
        })
        .optional()
        .describe('required in production'),
    })
    .optional(),
  trustRoot: z
    .strictObject({
      ...endpoint,
      folder: path,
      onlineKey: name,
      rootKey: name,
      rootAgent: path
        .optional()
        .describe('development only: agent configuration that opens the root token for re-signing'),
      defaultRekor: z.union([z.literal(1), z.literal(2)]).default(1),
      cosign: path
        .optional()
        .describe(
          'program that verifies before each publication, beside our own verifier; default: cosign in PATH, if any',
        ),
    })
    .optional(),
  developmentIssuer: z.strictObject({ listen, url }).optional().describe('development only'),
  switchFaultPoint: z
    .enum(SWITCH_POINTS)
    .optional()
    .describe('development only: kill -9 at this point of a change of keys, for crash tests'),
})

export type Config = z.infer<typeof schema>
export type LogConfig = Config['logs'][number]
export type AnchorConfig = Config['anchors'][number]

/** A configuration with the folder its relative paths start from. */
export interface LoadedConfig {
  readonly config: Config
  readonly dataDir: string
  readonly file: string
  /** An absolute path for one of the configuration's paths. */
  readonly resolve: (path: string) => string
}

/** Reads and checks a configuration file; throws `ConfigError` naming every fault at once. */
export function loadConfig(file: string): LoadedConfig {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    throw new ConfigError('unreadable', `cannot read the configuration ${file}; make one with: chancery init`, {
      cause,
    })
  }
  const dataDir = dirname(resolve(file))
  const config = parseConfig(text, file)
  return { config, dataDir, file: resolve(file), resolve: (path) => (isAbsolute(path) ? path : join(dataDir, path)) }
}

/** Parses configuration text; `file` only names it in errors. */
export function parseConfig(text: string, file: string): Config {
  let document: unknown
  try {
    document = parseYaml(text, { uniqueKeys: true, maxAliasCount: 0 })
  } catch (cause) {
    throw new ConfigError('invalid', `${file} is not valid YAML: ${cause instanceof Error ? cause.message : ''}`, {
      cause,
    })
  }
  const parsed = schema.safeParse(document)
  if (!parsed.success) {
    const faults = parsed.error.issues.map((issue) => `  ${issue.path.join('.') || '(top)'}: ${issue.message}`)
    throw new ConfigError('invalid', `${file} has ${faults.length} fault(s):\n${faults.join('\n')}`)
  }
  const config = parsed.data
  const faults = [...crossFaults(config)]
  if (faults.length > 0)
    throw new ConfigError('invalid', `${file} has ${faults.length} fault(s):\n  ${faults.join('\n  ')}`)
  return config
}

/** DER of the certificates in one of the configuration's PEM files. */
export function readCertificates({ resolve: at }: Pick<LoadedConfig, 'resolve'>, pemFile: string): Uint8Array[] {
  const text = readFileSync(at(pemFile), 'utf8')
  return decodePem(text, { labels: ['CERTIFICATE'], max: MOST_CERTIFICATES }).map(({ der }) => der)
}

/** Roots of a CT log: one more with each rotation of the CA's root, and none that certified anything ever goes. */
const MOST_CERTIFICATES = 1024

function isWitnessKey(vkey: string): boolean {
  try {
    parseWitnessKey(vkey)
    return true
  } catch {
    return false
  }
}

function* succeedsFaults(
  { name: own, kind, succeeds: before }: LogConfig,
  logs: readonly LogConfig[],
): Generator<string> {
  if (before === undefined) return
  const former = logs.find((log) => log.name === before)
  if (former?.kind !== kind || before === own) yield `logs.${own}.succeeds: there is no ${kind} log named ${before}`
  if (logs.some((log) => log.name !== own && log.succeeds === before))
    yield `logs.${own}.succeeds: ${before} has two successors`
}

/** Faults between fields that the schema cannot say. */
function* crossFaults(config: Config): Generator<string> {
  const seen = (what: string) => {
    const values = new Set<string>()
    return (value: string) => {
      if (values.has(value)) return `${what} ${value} is used twice`
      values.add(value)
      return undefined
    }
  }
  const [newName, newOrigin, newKey, newDatabase] = [
    seen('log name'),
    seen('origin'),
    seen('log key'),
    seen('database'),
  ]
  for (const log of config.logs) {
    // Clients key logs by the hash of their public key: a key shared by two logs makes one of them vanish.
    for (const fault of [newName(log.name), newOrigin(log.origin), newKey(log.key), newDatabase(log.database)])
      if (fault) yield fault
    if (log.kind === 'rekor-v1' && !log.origin.endsWith(` - ${log.treeId}`))
      yield `logs.${log.name}: the origin must end in " - ${log.treeId}"`
    if (log.kind !== 'rekor-v1' && log.origin.includes(' '))
      yield `logs.${log.name}: only a Rekor v1 origin carries a tree id`
    yield* succeedsFaults(log, config.logs)
    if (log.spki !== undefined && !config.logs.some(({ succeeds: before }) => before === log.name))
      yield `logs.${log.name}.spki: only a log that has a successor does without its private key`
  }
  const newAnchor = seen('anchor')
  for (const { name: anchorName, logs = [] } of config.anchors) {
    const fault = newAnchor(anchorName)
    if (fault) yield fault
    for (const covered of logs)
      if (!config.logs.some((log) => log.name === covered))
        yield `anchors.${anchorName}.logs: there is no log named ${covered}`
  }
  if (config.ca !== undefined) {
    const { ctLog } = config.ca
    if (!config.logs.some((log) => log.name === ctLog && log.kind === 'ct'))
      yield `ca.ctLog: there is no CT log named ${ctLog} in logs`
  }
  if ('sockets' in config.agent) {
    const { sockets } = config.agent
    for (const [role, section, present] of [
      ['ca', 'ca', config.ca !== undefined],
      ['log', 'logs', config.logs.length > 0],
      ['timestamp', 'timestamp', config.timestamp !== undefined],
      ['trust', 'trustRoot', config.trustRoot !== undefined],
    ] as const) {
      if (present && sockets[role] === undefined) yield `agent.sockets.${role}: needed, since ${section} runs here`
      if (!present && sockets[role] !== undefined) yield `agent.sockets.${role}: nothing here uses it (no ${section})`
    }
  }
  if (config.profile === 'development' && config.softwareTokenAccepted !== undefined)
    yield 'softwareTokenAccepted: only production knows it'
}
