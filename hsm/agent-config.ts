/** `agent.yaml`: what an agent may do. Every field is told here; unknown ones are errors. */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'
import { witnessOrigin } from '#tlog'
import { decodePem, makeIssuer, type CertificateIssuer } from '#x509'
import { KEY_KINDS, KINDS_OF, kindOfSpki } from './key-kinds.ts'
import { MODULE_ENVIRONMENT, type ModuleSettings, type ModuleVariable } from './module-settings.ts'
import type { ClockConfig } from './agent-clock.ts'
import { parseKeyUri, parseTokenUri, type KeyUri, type TokenUri } from './pkcs11-uri.ts'
import { PURPOSES_OF_ROLE, ROLES, type Role } from './roles.ts'
import type { KeyKind, KeyPurpose, TufRole } from './signing.ts'

/** The configuration cannot be used; nothing was opened. */
export class AgentConfigError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'AgentConfigError'
  }
}

const DAY_SECONDS = 24 * 60 * 60
const name = z.string().regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'names are 1 to 63 of a-z 0-9 . _ -')
const seconds = z.int().positive()

const keySchema = z.strictObject({
  uri: z.string().optional().describe('RFC 7512 URI of the private key with its id'),
  token: name.optional().describe('name of its token below `tokens`'),
  uris: z
    .array(z.strictObject({ token: name, uri: z.string() }))
    .min(1)
    .max(8)
    .optional()
    .describe('instead of uri and token: the same key on several tokens; the first that works signs'),
  spki: z.base64().describe('SubjectPublicKeyInfo, base64: the key on the token must be this one'),
  kind: z.enum(KEY_KINDS).optional().describe('what the public key must be; which purposes take it: docs/hsm'),
  curve: z.enum(['P-256', 'P-384']).optional().describe('older name of `kind`'),
  purposes: z.array(z.enum(Object.keys(KINDS_OF) as KeyPurpose[])).min(1), // the record's own type
  origin: z
    .string()
    .regex(/^[A-Za-z][\x20-\x7e]{0,254}$/)
    .optional()
    .describe('treeHead: the one log of this key, first line of its checkpoints; accountHead: account.<domain>'),
  style: z
    .enum(['rekor-v1', 'tlog', 'ct'])
    .optional()
    .describe('treeHead: signed note of Rekor v1 or of C2SP tlog-checkpoint, or RFC 6962 tree head'),
  witnessKey: z
    .string()
    .optional()
    .describe('treeHead: name of the Ed25519 key here (purpose witnessHead) that signs the same heads for witnesses'),
  issuerCertificate: z
    .string()
    .optional()
    .describe('certificate, caCertificate: PEM file of the certificate of this key, whose name it signs under'),
  ctKey: z
    .union([z.string(), z.array(z.string()).min(1).max(4)])
    .optional()
    .describe(
      'certificate: the CT log whose SCT a final certificate must have; name of a key here or SPKI in base64. A list while the CA goes over to another log: the SCT of any of them',
    ),
  maxValiditySeconds: seconds.optional().describe('certificate: 3600 unless told; caCertificate: 10 years'),
  certificatesPerMinute: z.int().positive().default(60_000).describe('certificate: precertificates a minute at most'),
  maxEntryAgeSeconds: seconds
    .default(DAY_SECONDS)
    .describe('sct, set, treeHead of ct: how old a time may be; raise it to seal what an outage of days left unsealed'),
  tufRoles: z.array(z.enum(['root', 'targets', 'snapshot', 'timestamp'])).optional(),
  tufMaxValidityDays: z
    .partialRecord(z.enum(['root', 'targets', 'snapshot', 'timestamp']), z.int().positive())
    .optional()
    .describe('tuf: how far ahead `expires` may lie; root and targets 400, snapshot and timestamp 31 unless told'),
})

const account = z.union([z.int().nonnegative(), z.string().regex(/^[a-zA-Z_][a-zA-Z0-9_.-]{0,31}\$?$/)])

const roleSocketSchema = z
  .strictObject({
    path: z.string().describe('unix socket for the services of this role'),
    group: account
      .optional()
      .describe('group that owns the socket; a peer must be in it. Name (of /etc/group) or number'),
    users: z
      .array(account)
      .min(1)
      .optional()
      .describe(
        'users that a peer must be one of, by name (of /etc/passwd) or number; without both, our own user alone',
      ),
    keys: z.array(name).min(1).optional().describe('keys that this socket is for; all keys of the role unless told'),
  })
  .optional()

const schema = z.strictObject({
  state: z.string().describe("folder of the agent's own state; one agent only, in no backup of the data"),
  modulePath: z.string().describe('PKCS#11 library'),
  moduleParameters: z.string().min(1).optional().describe('initialisation parameters, as NSS wants them: configdir=…'),
  moduleEnvironment: z
    .partialRecord(z.enum(Object.keys(MODULE_ENVIRONMENT) as ModuleVariable[]), z.string().min(1)) // its own keys
    .default({})
    .describe('environment variables that the module reads; nothing else is in its environment'),
  tokens: z.record(
    name,
    z.strictObject({
      uri: z.string().describe('RFC 7512 URI; every attribute must match, and exactly one token'),
      pinFile: z
        .string()
        .describe('file with the user PIN, readable by its owner alone; `credential:NAME` is one of systemd'),
      softhsmConf: z.string().optional().describe('SOFTHSM2_CONF for a SoftHSM token; the same for all tokens'),
    }),
  ),
  keys: z.record(name, keySchema).default({}),
  sockets: z
    .strictObject({
      signing: z.string().optional().describe('unix socket for services'),
      admin: z.string().optional().describe('unix socket for operators'),
      roles: z
        .strictObject({
          ca: roleSocketSchema.describe('certificates'),
          log: roleSocketSchema.describe('tree heads, SCTs, SETs'),
          timestamp: roleSocketSchema.describe('timestamps'),
          trust: roleSocketSchema.describe('TUF metadata'),
          audit: roleSocketSchema.describe('the account of key uses, and its signed head'),
        })
        .default({})
        .describe('a socket for each role of services, so that none can speak for another'),
    })
    .default({ roles: {} }),
  allowedUids: z
    .array(z.int().nonnegative())
    .default([])
    .describe('users beside our own that may connect to the signing socket; the admin socket is for our own user'),
  adminWhenSpawned: z.boolean().default(false).describe('serve the admin channel to a process that spawned this agent'),
  sessions: z.int().min(1).max(64).default(4).describe('sessions for each token'),
  inFlight: z.int().min(1).max(65_536).default(2048).describe('requests under way at most; more are answered busy'),
  watchdogSeconds: z
    .int()
    .min(2)
    .max(600)
    .default(15)
    .describe('a call into the module that takes longer ends the agent'),
  clock: z
    .strictObject({
      confirmedBy: z
        .union([z.literal('kernel'), z.literal('steady'), z.array(z.string()).min(1)])
        .default('steady')
        .describe(
          "what ends the agent's distrust after a step of the clock: the kernel's time service; running evenly for a while (development); or a command that prints the offset to true time in milliseconds",
        ),
      steadySeconds: z.int().min(1).max(3600).default(30).describe('how long is a while'),
    })
    .prefault({}),
})

export interface TokenConfig {
  readonly name: string
  readonly uri: TokenUri
  readonly pinFile: string
}

export interface KeyConfig {
  readonly name: string
  /** Of the first place. */
  readonly uri: KeyUri
  readonly token: string
  /** Where the key lies, the preferred first. */
  readonly places: readonly { readonly token: string; readonly uri: KeyUri }[]
  readonly spkiDer: Uint8Array
  readonly kind: KeyKind
  readonly purposes: ReadonlySet<KeyPurpose>
  readonly origin: string | undefined
  readonly style: 'rekor-v1' | 'tlog' | 'ct' | undefined
  /** The key that signs the same heads for witnesses, and its 32 bytes. */
  readonly witness: { readonly key: string; readonly raw: Uint8Array } | undefined
  readonly issuer: CertificateIssuer | undefined
  /** Of the CT logs whose SCTs are taken; several while the CA goes over from one to another. */
  readonly ctSpkiDers: readonly Uint8Array[]
  readonly maxValiditySeconds: number | undefined
  readonly certificatesPerMinute: number
  readonly maxEntryAgeSeconds: number
  readonly tufRoles: ReadonlySet<TufRole>
  readonly tufMaxValiditySeconds: Readonly<Record<TufRole, number>>
}

/** A socket that offers one role's purposes alone. */
export interface RoleSocket {
  readonly role: Role
  readonly path: string
  readonly gid: number | undefined
  readonly uids: readonly number[] | undefined
  readonly keys: readonly string[] | undefined
}

export interface AgentConfig {
  readonly stateFolder: string
  readonly module: ModuleSettings
  readonly tokens: ReadonlyMap<string, TokenConfig>
  readonly keys: ReadonlyMap<string, KeyConfig>
  readonly signingSocket: string | undefined
  readonly adminSocket: string | undefined
  readonly roleSockets: readonly RoleSocket[]
  readonly allowedUids: readonly number[]
  readonly adminWhenSpawned: boolean
  readonly sessions: number
  readonly inFlight: number
  readonly watchdogSeconds: number
  readonly clock: ClockConfig
}

/** Reads `agent.yaml`; relative paths are relative to its folder. Throws `AgentConfigError`. */
export function loadAgentConfig(path: string): AgentConfig {
  const folder = dirname(resolve(path))
  return parseAgentConfig(readText(path), folder)
}

/** The configuration in `text`, with relative paths below `folder`; reads the certificates that it names. */
export function parseAgentConfig(text: string, folder: string): AgentConfig {
  let document: unknown
  try {
    document = parse(text)
  } catch (error) {
    throw new AgentConfigError('agent configuration is not YAML', { cause: error })
  }
  const result = schema.safeParse(document)
  if (!result.success) throw new AgentConfigError(`agent configuration: ${z.prettifyError(result.error)}`)
  const raw = result.data
  const at = (relative: string) => resolve(folder, relative)
  const tokens = new Map(
    Object.entries(raw.tokens).map(([token, value]) => [
      token,
      {
        name: token,
        uri: reading(`tokens.${token}.uri`, () => parseTokenUri(value.uri)),
        pinFile: reading(`tokens.${token}.pinFile`, () => credentialPath(value.pinFile)) ?? at(value.pinFile),
      },
    ]),
  )
  const confs = new Set(
    Object.values(raw.tokens)
      .map((token) => token.softhsmConf)
      .filter((conf) => conf !== undefined),
  )
  if (confs.size > 1) throw new AgentConfigError('tokens have different softhsmConf: the module reads one alone')
  const [softhsmConf] = confs
  if (softhsmConf !== undefined && raw.moduleEnvironment.SOFTHSM2_CONF !== undefined) {
    throw new AgentConfigError('softhsmConf and moduleEnvironment.SOFTHSM2_CONF are both given')
  }
  const keys = new Map(
    Object.entries(raw.keys).map(([key, value]) => [key, reading(`keys.${key}`, () => keyConfig(key, value, raw, at))]),
  )
  checkKeysTogether(keys)
  return {
    stateFolder: at(raw.state),
    module: {
      path: at(raw.modulePath),
      parameters: raw.moduleParameters,
      environment: {
        ...raw.moduleEnvironment,
        ...(softhsmConf === undefined ? {} : { SOFTHSM2_CONF: at(softhsmConf) }),
      },
    },
    tokens,
    keys,
    signingSocket: raw.sockets.signing === undefined ? undefined : socketPath(at(raw.sockets.signing)),
    adminSocket: raw.sockets.admin === undefined ? undefined : socketPath(at(raw.sockets.admin)),
    roleSockets: roleSocketsOf(raw.sockets.roles, keys, at),
    allowedUids: raw.allowedUids,
    adminWhenSpawned: raw.adminWhenSpawned,
    sessions: raw.sessions,
    inFlight: raw.inFlight,
    watchdogSeconds: raw.watchdogSeconds,
    clock: raw.clock,
  }
}

/**
 * The purposes that one key may have together. A log signs its heads and its promises; everything else has a key of its
 * own, so that a mistake in one structure never speaks for another service.
 */
const PURPOSE_SETS: readonly (readonly KeyPurpose[])[] = [
  ['certificate'],
  ['treeHead', 'sct'],
  ['treeHead', 'set'],
  ['treeHead'],
  ['witnessHead'],
  ['timestamp'],
  ['tuf'],
  ['caCertificate'],
  ['certificateRequest'],
  ['ceremonyStatement'],
  ['accountHead'],
]

function keyConfig(
  key: string,
  value: z.infer<typeof keySchema>,
  whole: z.infer<typeof schema>,
  at: (relative: string) => string,
): KeyConfig {
  const [first, ...others] = placesOf(value, whole)
  const { spkiDer, kind } = publicKey(value.spki, value.kind ?? value.curve)
  const purposes = new Set(value.purposes)
  if (!PURPOSE_SETS.some((set) => set.length === purposes.size && set.every((purpose) => purposes.has(purpose)))) {
    throw new AgentConfigError(`purposes ${[...purposes].join(', ')} may not share a key`)
  }
  const needs = (purpose: KeyPurpose, field: string, found: unknown) => {
    if (purposes.has(purpose) && found === undefined) throw new AgentConfigError(`purpose ${purpose} needs ${field}`)
  }
  needs('certificate', 'issuerCertificate', value.issuerCertificate)
  needs('certificate', 'ctKey', value.ctKey)
  needs('treeHead', 'origin', value.origin)
  needs('treeHead', 'style', value.style)
  needs('witnessHead', 'origin', value.origin)
  needs('tuf', 'tufRoles', value.tufRoles)
  needs('accountHead', 'origin', value.origin)
  if (value.witnessKey !== undefined && !purposes.has('treeHead')) throw new AgentConfigError('witnessKey is for logs')
  if (purposes.has('sct') && value.style !== 'ct') throw new AgentConfigError('purpose sct needs style ct')
  if (purposes.has('set') && value.style !== 'rekor-v1') throw new AgentConfigError('purpose set needs style rekor-v1')
  for (const purpose of purposes) {
    if (KINDS_OF[purpose].includes(kind)) continue
    throw new AgentConfigError(`purpose ${purpose} takes no key of kind ${kind}, only ${KINDS_OF[purpose].join(', ')}`)
  }
  const days = value.tufMaxValidityDays ?? {}
  return {
    name: key,
    uri: first.uri,
    token: first.token,
    places: [first, ...others],
    spkiDer,
    kind,
    purposes,
    origin: value.origin,
    style: value.style,
    witness: value.witnessKey === undefined ? undefined : witnessOf(value.witnessKey, value.origin ?? '', whole),
    issuer: value.issuerCertificate === undefined ? undefined : issuerOf(at(value.issuerCertificate), spkiDer),
    ctSpkiDers: [value.ctKey ?? []].flat().map((log) => publicKey(whole.keys[log]?.spki ?? log, 'P-256').spkiDer),
    maxValiditySeconds: value.maxValiditySeconds,
    certificatesPerMinute: value.certificatesPerMinute,
    maxEntryAgeSeconds: value.maxEntryAgeSeconds,
    tufRoles: new Set(value.tufRoles),
    tufMaxValiditySeconds: {
      root: (days.root ?? 400) * DAY_SECONDS,
      targets: (days.targets ?? 400) * DAY_SECONDS,
      snapshot: (days.snapshot ?? 31) * DAY_SECONDS,
      timestamp: (days.timestamp ?? 31) * DAY_SECONDS,
    },
  }
}

type Place = KeyConfig['places'][number]

function placesOf(value: z.infer<typeof keySchema>, whole: z.infer<typeof schema>): [Place, ...Place[]] {
  const { uri, token, uris } = value
  const single = uri === undefined && token === undefined ? undefined : { uri: uri ?? '', token: token ?? '' }
  if ((single === undefined) === (uris === undefined)) throw new AgentConfigError('give uri and token, or uris')
  const [first, ...others] = (uris ?? (single === undefined ? [] : [single])).map((place) => {
    if (whole.tokens[place.token] === undefined) throw new AgentConfigError(`token ${place.token} is not configured`)
    return { token: place.token, uri: parseKeyUri(place.uri) }
  })
  if (first === undefined) throw new AgentConfigError('give uri and token, or uris')
  const tokens = new Set([first, ...others].map((place) => place.token))
  if (tokens.size <= others.length) throw new AgentConfigError('uris name a token twice')
  return [first, ...others]
}

/** Two names for one key would let one service speak with the other's voice; two keys for one origin have two guards. */
function checkKeysTogether(keys: ReadonlyMap<string, KeyConfig>): void {
  const bySpki = new Map<string, string>()
  const byOrigin = new Map<string, string>()
  for (const key of keys.values()) {
    const spki = Buffer.from(key.spkiDer).toString('base64')
    const twin = bySpki.get(spki)
    if (twin !== undefined) throw new AgentConfigError(`keys ${twin} and ${key.name} are the same key`)
    bySpki.set(spki, key.name)
    // The second line of a checkpoint is checked by the guard of the first, and has its origin.
    if (key.origin === undefined || key.purposes.has('witnessHead')) continue
    const rival = byOrigin.get(key.origin)
    if (rival !== undefined) throw new AgentConfigError(`keys ${rival} and ${key.name} have the same origin`)
    byOrigin.set(key.origin, key.name)
  }
  // Its name says which log a checkpoint is of: another log's origin in a witness's form would make them one.
  for (const key of keys.values()) {
    const rival = key.witness && byOrigin.get(witnessOrigin(key.origin ?? ''))
    if (rival === undefined || rival === key.name) continue
    throw new AgentConfigError(`witnesses could not tell the logs of keys ${rival} and ${key.name} apart`)
  }
}

/** The second key of a log: under the log's own origin, in the form that witnesses take. */
function witnessOf(key: string, origin: string, whole: z.infer<typeof schema>): NonNullable<KeyConfig['witness']> {
  const found = whole.keys[key]
  if (found?.purposes.includes('witnessHead') !== true) {
    throw new AgentConfigError(`witnessKey ${key} is no key here with the purpose witnessHead`)
  }
  const wanted = witnessOrigin(origin)
  if (found.origin !== wanted)
    throw new AgentConfigError(`witnessKey ${key} needs the origin ${JSON.stringify(wanted)}`)
  const { spkiDer } = publicKey(found.spki, 'ed25519')
  return { key, raw: spkiDer.slice(-32) }
}

function issuerOf(path: string, spkiDer: Uint8Array): CertificateIssuer {
  const [block] = decodePem(readText(path), { labels: ['CERTIFICATE'] })
  if (block === undefined) throw new AgentConfigError(`${path} holds no certificate`)
  const issuer = makeIssuer(block.der)
  if (!Buffer.from(issuer.certificate.publicKey.spkiDer).equals(spkiDer)) {
    throw new AgentConfigError(`${path} is the certificate of another key`)
  }
  return issuer
}

function publicKey(base64: string, wanted: KeyKind | undefined): { spkiDer: Uint8Array; kind: KeyKind } {
  const spkiDer = Uint8Array.from(Buffer.from(base64, 'base64'))
  const kind = kindOfSpki(spkiDer)
  if (wanted !== undefined && kind !== wanted) throw new AgentConfigError(`public key is ${kind}, not ${wanted}`)
  return { spkiDer, kind }
}

/** Throws `AgentConfigError` for a key that the role does not have and for accounts that are not on this machine. */
function roleSocketsOf(
  sockets: z.infer<typeof schema>['sockets']['roles'],
  keys: ReadonlyMap<string, KeyConfig>,
  at: (relative: string) => string,
): RoleSocket[] {
  return ROLES.flatMap((role) => {
    const socket = sockets[role]
    if (socket === undefined) return []
    for (const key of socket.keys ?? []) {
      if (!PURPOSES_OF_ROLE[role].some((purpose) => keys.get(key)?.purposes.has(purpose) === true)) {
        throw new AgentConfigError(`sockets.roles.${role}: there is no key ${key} of this role`)
      }
    }
    return [
      {
        role,
        path: socketPath(at(socket.path)),
        gid: socket.group === undefined ? undefined : accountNumber('/etc/group', socket.group),
        uids: socket.users?.map((user) => accountNumber('/etc/passwd', user)),
        keys: socket.keys,
      },
    ]
  })
}

/** The number of an account, which is the third field of its line in both files. */
function accountNumber(file: '/etc/group' | '/etc/passwd', account: string | number): number {
  if (typeof account === 'number') return account
  for (const line of readText(file).split('\n')) {
    const [found, , number] = line.split(':')
    if (found === account && number !== undefined && /^\d{1,10}$/.test(number)) return Number(number)
  }
  throw new AgentConfigError(`${file} has no ${account}; accounts of other sources are told by number`)
}

/** `credential:NAME` as systemd gives it to the process (LoadCredential), or undefined for a path. */
function credentialPath(pinFile: string): string | undefined {
  const found = /^credential:([A-Za-z0-9._-]+)$/.exec(pinFile)?.[1]
  if (found === undefined) return undefined
  const folder = process.env['CREDENTIALS_DIRECTORY']
  if (folder === undefined) throw new AgentConfigError(`${pinFile}: systemd gave this process no credentials`)
  return resolve(folder, found)
}

/** sun_path holds 108 bytes with its NUL; a longer path would be cut by some and refused by others. */
function socketPath(path: string): string {
  if (Buffer.byteLength(path) > 107) throw new AgentConfigError(`socket path ${path} is longer than 107 bytes`)
  return path
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new AgentConfigError(`${path} cannot be read`, { cause: error })
  }
}

function reading<T>(field: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new AgentConfigError(`${field}: ${error instanceof Error ? error.message : 'invalid'}`, { cause: error })
  }
}
